import hashlib
import json
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timing import cpu_time

from mellow_jax.data import records
from mellow_jax.errors import DataError

ROW = {
  "taskname": "audiocaps",
  "filepath1": "AudioCapsLarger\\test\\a.wav",
  "filepath2": "AudioCapsLarger/test/b.wav",
  "caption1": "a rocket flies by",
  "caption2": "water trickles",
  "input": "explain the difference in few words",
  "answer": "Audio 1 is a rocket, audio 2 is water.",
  "subtype": "ACD-1.json",
}


@pytest.fixture
def write(tmp_path):
  def write(rows):
    path = tmp_path / "rows.json"
    if isinstance(rows, bytes):
      path.write_bytes(rows)
    else:
      path.write_text(json.dumps(rows))
    return path

  return write


def test_reads_rows_in_order(write):
  found = records.read(write([ROW, ROW | {"filepath2": "", "_note": 1, "input": "was ist das? ü"}]))
  assert len(found) == 2
  assert found[0].filepath1 == "AudioCapsLarger/test/a.wav"
  assert (found[0].row, found[1].row, found[-1].row) == (0, 1, 1)
  assert found[1].input == "was ist das? ü" and found[1].filepath2 == ""
  assert [record.taskname for record in found] == ["audiocaps"] * 2
  with pytest.raises(IndexError):
    found[2]
  assert pickle.loads(pickle.dumps(found))[0] == found[0]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"answer": None}, "field 'answer' is null, not text"),
    ({"caption2": 3}, "field 'caption2' is int, not text"),
    ({"caption1": ["a"]}, "field 'caption1' is a list, not text"),
    ({"input": float("nan")}, "field 'input' is NaN, not text"),
    ({"_note": float("inf")}, "field '_note' is Infinity, not plain text or a number"),
    ({"input": ""}, "field 'input' is empty"),
    ({"answer": " \n"}, "field 'answer' is empty"),
    ({"filepath1": ""}, "field 'filepath1' is empty"),
    ({"extra": "x"}, "field 'extra' is unknown"),
    ({"filepath1": "/etc/passwd"}, "field 'filepath1' is absolute"),
    ({"filepath2": "\\\\host\\a.wav"}, "field 'filepath2' is absolute"),
    ({"filepath2": "C:\\a.wav"}, "field 'filepath2' is absolute"),
    ({"filepath1": "a/../../b.wav"}, "field 'filepath1' leaves the audio root"),
    ({"filepath1": "a\0.wav"}, "field 'filepath1' holds a NUL"),
    ({"caption1": "\ud800"}, "field 'caption1' holds half a surrogate pair"),
    ({"answer": "a" * 10_001}, "field 'answer' has more than 10000 characters"),
  ],
)
def test_bad_field_is_named_with_file_and_row(write, change, message):
  with pytest.raises(DataError) as error:
    records.read(write([ROW, ROW | change]))
  assert message in str(error.value)
  assert "rows.json, row 1 (from 0): " in str(error.value)


@pytest.mark.parametrize("field", records.FIELDS)
def test_missing_field_is_named(write, field):
  with pytest.raises(DataError, match=f"row 0 .*field '{field}' is missing"):
    records.read(write([{k: v for k, v in ROW.items() if k != field}]))


@pytest.mark.parametrize(
  ("raw", "message"),
  [
    (b"", "holds no rows"),
    (b"[", "is not JSON"),
    (b"{}", "line 1: field 'taskname' is missing"),
    (b"NaN", "is not JSON: it begins with neither"),
    (b"[]", "holds no rows"),
    (b"[3]", "row 0 .*is int, not an object"),
    (b"[NaN]", "row 0 .*is NaN, not an object"),
    (b"\xef\xbb\xbf[]", "holds no rows"),
    (b"\xff\xfe[\0]\0", "not UTF-8 at byte 0"),
    (b"[" * 100_000, "nested too deep"),
    (b"[" + b"9" * 5000 + b"]", "is not JSON"),
    (b'[{"input": "a", "answer": "b", "input": "c"}]', "row 0 .*field 'input' occurs twice"),
    (b'[{"_x": {"a": 1, "a": 2}}]', "row 0"),
  ],
)
def test_bad_file_is_named(write, raw, message):
  with pytest.raises(DataError, match=f"rows.json.*{message}"):
    records.read(write(raw))


def test_rows_are_the_same_in_a_list_and_on_lines_with_a_byte_order_mark_or_without(write):
  rows = [ROW, ROW | {"input": "was ist das? ü"}]
  listed = json.dumps(rows, ensure_ascii=False).encode()
  lines = "\n\n".join(json.dumps(row) for row in rows).encode()
  found = [list(records.read(write(raw))) for raw in (listed, b"\xef\xbb\xbf" + listed, lines)]
  assert found[0] == found[1] == found[2] and len(found[0]) == 2


def test_absent_file_is_named(tmp_path):
  for path in (tmp_path / "absent.json", tmp_path, "a\0b"):
    with pytest.raises(DataError, match="cannot be read"):
      records.read(path)


anything = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
  max_leaves=3,
)
paths = st.sampled_from(["a.wav", "a\\b.wav", "../a", "/a", "C:/a", "a\0", ""]) | st.text()
changes = st.one_of(
  st.dictionaries(st.sampled_from([*records.FIELDS, "_note"]), st.text(min_size=1), max_size=2),
  st.dictionaries(st.sampled_from(["filepath1", "filepath2"]), paths),
  st.dictionaries(st.sampled_from([*records.FIELDS, "_note", "extra"]), anything, max_size=2),
)
rows = st.lists(st.builds(lambda change: ROW | change, changes), max_size=2)


@settings(
  max_examples=2000,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
  raw=st.binary(max_size=40) | st.builds(lambda value: json.dumps(value).encode(), anything | rows)
)
def test_validator_raises_record_error_only(write, raw):
  try:
    found = records.read(write(raw))
  except DataError as error:
    assert "\n" not in str(error)
    return
  for record in found:
    assert record.input.strip() and record.answer.strip()
    assert records.relative_path(record.filepath1) == record.filepath1


def test_missing_audio_lists_each_absent_file_once(write, tmp_path):
  (tmp_path / "there.wav").touch()
  changes = [
    {"filepath1": "there.wav", "filepath2": "gone\\a.wav"},
    {"filepath1": "gone/a.wav", "filepath2": ""},
    {"filepath1": "b.wav", "filepath2": "there.wav"},
  ]
  found = records.read(write([ROW | change for change in changes]))
  assert records.missing_audio(found, tmp_path) == ["gone/a.wav", "b.wav"]


# --- Tables --------------------------------------------------------------------------------------


def test_a_table_of_clips_gives_records(tmp_path):
  path = tmp_path / "clips.csv"
  text = 'file,question,answer,_who,file2,caption\r\na.wav,"what, and\nwhen?",rain,me,,it rains\r\n'
  path.write_bytes(f"\ufeff{text}\r\ndogs\\b.wav,is it loud?,no,,c.wav,\r\n".encode())
  first, second = records.read(path)
  assert first == records.Record(
    taskname="",
    filepath1="a.wav",
    filepath2="",
    caption1="it rains",
    caption2="",
    input="what, and\nwhen?",
    answer="rain",
    subtype="clips.csv",
    row=0,
  )
  assert (second.filepath1, second.filepath2, second.row) == ("dogs/b.wav", "c.wav", 1)


HEADER = "file,question,answer\n"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "holds no rows"),
    ("file,question\n", "line 1: column 'answer' is missing"),
    ("file;question;answer;when\n", "line 1: column 'when' is unknown: .*commas, tabs or semico"),
    ("file|question|answer\n", "line 1: column 'file|question|answer' is unknown: .*by commas"),
    ("file,question,answer,file\n", "line 1: column 'file' occurs twice"),
    (HEADER, "holds no rows"),
    (HEADER + "a.wav,what,yes\n\na.wav,what, and why,no", "line 4: has 4 cells where .* 3: put"),
    (HEADER + "a.wav,what\n", "line 2: has 2 cells where the header has 3"),
    (HEADER + 'a.wav,"what\nis",yes\n,what,yes\n', "line 4: column 'file' is empty"),
    (HEADER + "a.wav, ,yes", "line 2: column 'question' is empty"),
    (HEADER + "../a.wav,what,yes", "line 2: column 'file' leaves the audio root"),
    (HEADER + 'a.wav,"what" ,yes', "line 2: is not CSV"),
    (HEADER + 'a.wav,"what,yes', "line 2: is not CSV"),
    (HEADER + "a.wav,what," + "x" * 200_000, "line 2: is not CSV .*field larger"),
    (HEADER + "a.wav,what," + "x" * 10_001, "line 2: column 'answer' has more than 10000"),
    (HEADER + "a.wav,what,\udcff", "is not UTF-8 at byte 32"),
  ],
)
def test_what_is_wrong_with_a_table_is_named_with_its_line(tmp_path, text, message):
  path = tmp_path / "clips.csv"
  path.write_bytes(text.encode(errors="surrogateescape"))
  with pytest.raises(DataError, match=f"clips.csv.*{message}") as error:
    records.read(path)
  assert "\n" not in str(error.value)


def test_thousands_of_rows_read_in_well_under_a_second(write):
  path = write([ROW | {"input": f"question {i}"} for i in range(5000)])
  with cpu_time() as taken:
    records.read(path)
  assert taken.seconds < 1.0


def test_real_files(reference_data):
  found = records.read(reference_data / "meta/readme_sample.json")
  assert found[0].subtype == "ACD-1.json"
  for name, count in (("train", 2226), ("val", 560)):
    found = records.read(reference_data / f"esc10/{name}.json")
    assert len(found) == count
    assert records.missing_audio(found, reference_data / "esc10") == []


def test_a_row_is_known_by_what_it_says_wherever_it_stands(write):
  first, other, again = records.read(write([ROW, ROW | {"answer": "No."}, ROW]))
  assert records.row_id(first) == records.row_id(again) != records.row_id(other)
  # Written down in files that other programs keep: it may not change.
  assert records.row_id(first) == "64e6425225427c2d"


def test_hashes_are_those_of_the_fields_as_json_lists(write):
  odd = ROW | {"input": 'an "ü", a \\, a \t and \u2028?', "caption2": "", "taskname": "\x7f 🎧"}
  found = records.read(write([ROW, odd]))
  contents = [json.dumps([getattr(row, f) for f in records.FIELDS]).encode() for row in found]
  assert [records.row_id(row) for row in found] == [
    hashlib.sha256(content).hexdigest()[:16] for content in contents
  ]
  assert found.digest == hashlib.sha256(b"".join(contents)).hexdigest()[:16]
  assert [*found.fields()] == [tuple(getattr(row, f) for f in records.FIELDS) for row in found]
  assert [*found.clip_paths()] == [(row.filepath1, row.filepath2) for row in found]


@pytest.mark.parametrize("spaces", ["", " ", "\n", "\r\n\t"])
def test_white_space_between_rows_is_none_of_theirs(tmp_path, spaces):
  path, rows = tmp_path / "rows.json", [json.dumps(ROW | {"input": f"{i}, ],["}) for i in range(3)]
  path.write_text(spaces + "[" + spaces + f"{spaces},{spaces}".join(rows) + spaces + "]" + spaces)
  assert [row.input for row in records.read(path)] == ["0, ],[", "1, ],[", "2, ],["]
  path.write_text(path.read_text().replace("}", "} x", 1))
  with pytest.raises(DataError, match="no ',' or ']' follows it, after item 1"):
    records.read(path)
