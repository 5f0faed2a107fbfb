"""One reader of users' rows, whatever form they come in."""

import json

import pytest

from mellow_jax.data import tables
from mellow_jax.errors import DataError

ROWS = [{"file": "a.wav", "text": "rain, ü"}, {"file": "b.wav", "text": 'a "dog"'}]


def cells(sign):
  quoted = (f'{row["file"]}{sign}"{row["text"].replace(chr(34), chr(34) * 2)}"' for row in ROWS)
  return "\r\n".join([f"file{sign}text", *quoted])


FORMS = {
  "x.csv": (cells(","), ["line 2", "line 3"]),
  "x.tsv": (cells("\t"), ["line 2", "line 3"]),
  "tabs.csv": (cells("\t"), ["line 2", "line 3"]),
  "x.txt": (cells(","), ["line 2", "line 3"]),
  "list.json": (json.dumps(ROWS, indent=1), ["row 0 (from 0)", "row 1 (from 0)"]),
  "lines.json": ("\n".join(map(json.dumps, ROWS)), ["line 1", "line 2"]),
  "lines.jsonl": (" \n" + "\n\n".join(map(json.dumps, ROWS)) + "\n", ["line 2", "line 4"]),
  "around.json": (json.dumps({"count": 2, "data": ROWS}), ["row 0 (from 0)", "row 1 (from 0)"]),
  "pretty.json": (json.dumps({"data": ROWS}, indent=2), ["row 0 (from 0)", "row 1 (from 0)"]),
  "x.LIST": (json.dumps(ROWS, ensure_ascii=False), ["row 0 (from 0)", "row 1 (from 0)"]),
}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", FORMS)
def test_the_same_rows_come_from_every_form(tmp_path, name, mark):
  content, places = FORMS[name]
  (tmp_path / name).write_bytes((mark + content).encode())
  found = list(tables.read(tmp_path / name, columns=("text",)))
  assert [row.fields for row in found] == ROWS
  assert [row.place for row in found] == places


def test_an_object_on_one_line_is_a_row_unless_it_holds_one_list_of_objects(tmp_path):
  path = tmp_path / "x.jsonl"
  for content in ({"id": 1, "order": [1, 0], "options": [[0.5, 3]]}, {"a": [{}], "b": [{}]}):
    path.write_text(json.dumps(content))
    (row,) = tables.read(path)
    assert row == (content, 1, False)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("x.csv", "file,text\na,b\n\nc", "line 4: has 1 cells where the header has 2: get it again"),
    ("x.csv", 'file,text\na,"b', "line 2: is not CSV (unexpected end of data): get it again"),
    ("x.csv", "file,file\na,b", "line 1: column 'file' occurs twice: keep one"),
    ("x.csv", "file,other\na,b", "line 1: column 'text' is missing: get it again"),
    ("x.csv", "file,text\n", "holds no rows"),
    ("x.csv", "file,text\na,\udcff", "is not UTF-8 at byte 12: get it again"),
    ("x.json", "", "holds no rows"),
    ("x.json", "hello", "is not JSON: it begins with neither '[' nor '{': get it again"),
    ("x.json", "<html>", "is a web page; download the file itself"),
    ("x.csv", "PAR1\0\0", "is a Parquet file; save its rows as JSON lines or CSV"),
    ("x.csv", "PK\3\4\0\0", "is a zip archive, or a workbook"),
    ("x.json", "[{}, {}", "is not JSON (it ends before its ']', after item 2): get it again"),
    ("x.json", "[1]", "row 0 (from 0): is int, not an object"),
    ("x.json", '[{"a": 1, "a": 2}]', "row 0 (from 0): field 'a' occurs twice: keep one"),
    ("x.json", '["\udcff"]', "is not UTF-8 at byte 2: get it again"),
    ("x.jsonl", '{"a": 1}\n{"a": ', "line 2: is not JSON (Expecting value: line 1 column 7"),
    ("x.jsonl", '{"a": 1\n', "line 1: is not JSON (Expecting ',' delimiter"),
    ("x.jsonl", '{"a": 1}\n3', "line 2: is int, not an object"),
    ("x.jsonl", '{"a": 1}\n{"a": "\udcff"}', "is not UTF-8 at byte 16: get it again"),
  ],
)
def test_what_is_wrong_is_said_with_its_place_and_its_remedy(tmp_path, name, content, message):
  path = tmp_path / name
  path.write_bytes(content.encode(errors="surrogateescape"))
  with pytest.raises(DataError) as error:
    list(tables.read(path, columns=("text",), remedy="get it again"))
  assert str(error.value).startswith(str(path)) and message in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["absent.json", "absent.csv", "a\0b", "."])
def test_what_cannot_be_read_is_said_at_once(tmp_path, name):
  with pytest.raises(DataError, match="cannot be read"):
    tables.read(tmp_path / name)


def test_an_index_column_of_pandas_is_a_note(tmp_path):
  path = tmp_path / "x.csv"
  path.write_text(",id,text\n0,7,a\n")
  assert [row.fields for row in tables.read(path)] == [{"_index": "0", "id": "7", "text": "a"}]
