"""Benchmarks are read as they are published: nothing guessed, nothing dropped unsaid."""

import collections
import json
import subprocess
import sys

import pytest

from mellow_jax.data import records, scenes
from mellow_jax.data.records import Record
from mellow_jax.errors import DataError
from mellow_jax.evaluation.benchmarks import catalogue, rows
from mellow_jax.evaluation.commands import doctor

VERDICTS = (
  "a) It is definitely true b) It is definitely false c) It is plausible d) I cannot determine"
)
ENTAILED = f'Based on the audio, what can be said about the hypothesis - "a dog barks"? {VERDICTS}'


def record(**fields) -> Record:
  given = {"input": "what is heard?", "answer": "rain", "filepath1": "a.wav", "subtype": "X.json"}
  empty = dict.fromkeys(records.FIELDS, "")
  return Record(**(empty | {"row": 0} | given | fields))


# --- Rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("asked", "answer", "kind", "choices", "right"),
  [
    ("what? a) a dog b) rain", "b) rain", "choice", ("a dog", "rain"), "rain"),
    ("what? a) a dog b) rain", "B", "choice", ("a dog", "rain"), "rain"),
    ("what? a) a dog b) rain", "Rain.", "choice", ("a dog", "rain"), "rain"),
    ("what? A) a dog B) rain", "b) rain", "choice", ("a dog", "rain"), "rain"),
    ("what? a) x b) x", "b) x", "choice", ("x", "x"), "x"),
    # The letter counts, as in the reference, whatever the text.
    ("what? a) a dog b) rain", "a) rain", "choice", ("a dog", "rain"), "a dog"),
    # Not every ")" makes an option.
    ("is it a) dog?", "yes", "binary", (), "yes"),
    ("the sound (a) or c) other", "rain", "text", (), "rain"),
    ("say a) first, b) second", "they differ", "text", (), "they differ"),
    ("is there rain?", " Yes.", "binary", (), "yes"),
    ("is there rain?", "no", "binary", (), "no"),
    ("is there rain?", "no, a dog", "text", (), "no, a dog"),
    (ENTAILED, "c) It is plausible", "entailment", None, "It is plausible"),
  ],
)
def test_a_row_becomes_an_item(asked, answer, kind, choices, right):
  item = catalogue.from_record(record(input=asked, answer=answer))
  assert (item.kind, item.answer) == (kind, right)
  assert choices is None or item.choices == choices
  assert item.references == ((right,) if kind == "text" else ())
  if kind in ("binary", "text"):
    assert item.question == asked


def test_entailment_is_read_by_its_text_in_any_order():
  item = catalogue.from_record(record(input=ENTAILED, answer="b) It is definitely false"))
  assert item.question.endswith('hypothesis - "a dog barks"?')
  assert item.choices[1] == item.answer == "It is definitely false"
  assert item.groups == {"task": "entailment", "subtype": "X"}


@pytest.mark.parametrize("answer", ["e) snow", "c) snow"])
def test_an_answer_that_is_no_option_names_its_row(answer):
  with pytest.raises(DataError, match=r"row 7 .*is none of the options"):
    catalogue.from_record(record(input="what? a) a dog b) rain", answer=answer, row=7))
  with pytest.raises(DataError, match="row 0"):  # of a multiple choice free text is none, too
    catalogue.from_record(record(input="what? a) x b) y", answer="z", subtype="Clotho-MCQ.json"))


def test_captions_of_a_clip_are_one_item_with_five_references():
  captions = [
    record(filepath1=path, input="caption the audio", answer=f"{path} {i}", row=i)
    for i, path in enumerate(["a.wav"] * 6 + ["b.wav"] * 2)
  ]
  other = record(filepath1="a.wav", input="is there rain?", answer="yes")
  items, left_out = rows.from_records("x.json", [*captions, other])
  assert [item.kind for item in items] == ["text", "text", "binary"] and left_out == 0
  assert items[0].references == tuple(f"a.wav {i}" for i in range(5))
  assert items[1].references == ("b.wav 6", "b.wav 7")
  assert items[0].id == records.row_id(captions[0])


def test_rows_that_repeat_keep_ids_of_their_own():
  """ClothoAQA has one row for each of three annotators, and most agree."""
  same = record(input="is there rain?", answer="yes")
  items, _ = rows.from_records("x.json", [same] * 3)
  own = records.row_id(same)
  assert [item.id for item in items] == [own, f"{own}-2", f"{own}-3"]


def test_every_task_of_the_scenes_is_read():
  everything = scenes.Scenes("val", 0, 200, dict.fromkeys(scenes.QUESTIONS, 1.0))
  items = [catalogue.from_record(row) for row in everything]
  kinds = collections.defaultdict(set)
  for row, item in zip(everything, items, strict=True):
    kinds[row.subtype.removesuffix(".json").partition("-")[2]].add((item.kind, item.groups["task"]))
    if item.kind in ("choice", "entailment"):
      assert row.answer.partition(") ")[2] == item.answer
  assert kinds == {
    "Caption": {("text", "caption")},
    "Presence": {("choice", "multiple choice")},
    "Order": {("choice", "multiple choice")},
    "Detail": {("text", "detail")},
    "Count": {("choice", "multiple choice")},
    "Pitch": {("choice", "multiple choice")},
    "Loudness": {("choice", "multiple choice")},
    "Overlap": {("binary", "yes/no")},
    "Binary": {("binary", "yes/no")},
    "Entailment": {("entailment", "entailment")},
    "Difference": {("text", "difference")},
  }


# --- Files ---------------------------------------------------------------------------------------


def test_mmau_as_published(reference_data):
  items = catalogue.read("mmau", reference_data / "meta/mmau")
  assert len(items) == len({item.id for item in items}) == 1000
  count = collections.Counter
  assert count(item.groups["task"] for item in items) == {"sound": 333, "music": 334, "speech": 333}
  assert count(item.groups["difficulty"] for item in items) == {
    "easy": 224,
    "medium": 540,
    "hard": 236,
  }
  assert len({item.groups["sub-category"] for item in items}) == 27
  # 13 rows have their category in a list.
  assert {item.groups["category"] for item in items} == {"Reasoning", "Information Extraction"}
  assert count(len(item.choices) for item in items) == {4: 948, 2: 27, 5: 24, 8: 1}
  assert all(item.answer in item.choices for item in items)
  first = [item.choices.index(item.answer) for item in items]
  assert [first.count(i) for i in range(4)] == [395, 271, 208, 126]
  assert all(item.audio1 == f"test-mini-audios/{item.id}.wav" for item in items)


def reasonaqa(path, subtypes=("CLE", "ACD-2", "AudioCaps", "ClothoAQA")):
  asked = {"CLE": (ENTAILED, "a) It is definitely true"), "ClothoAQA": ("rain?", "YES")}
  other = ("explain the difference in a sentence", "one rains")
  rows = [
    {
      **dict.fromkeys(records.FIELDS, ""),
      "filepath1": f"clips\\{i}.wav",
      "input": asked.get(subtype, other)[0],
      "answer": asked.get(subtype, other)[1],
      "subtype": f"{subtype}.json",
    }
    for i, subtype in enumerate(subtypes)
  ]
  path.write_text(json.dumps(rows))
  return path


def test_parts_of_reasonaqa_are_chosen_by_subtype(tmp_path):
  reasonaqa(tmp_path / "test.json")
  kinds = {
    name: [item.kind for item in catalogue.read(name, tmp_path)]
    for name in ("cle", "acd-2", "audiocaps", "clothoaqa", "reasonaqa")
  }
  assert kinds == {
    "cle": ["entailment"],
    "acd-2": ["text"],
    "audiocaps": ["text"],
    "clothoaqa": ["binary"],
    "reasonaqa": ["entailment", "text", "text", "binary"],
  }
  assert catalogue.read("cle", tmp_path / "test.json")[0].audio1 == "clips/0.wav"
  with pytest.raises(DataError, match=r"no row has the subtype ACE\.json"):
    catalogue.read("ace", tmp_path)


def test_official_files_do_where_reasonaqa_is_not_at_hand(reference_data):
  """AudioCaps has its captions in no order: each clip's five are found."""
  said = []
  captions = catalogue.read("audiocaps", reference_data / "meta", say=said.append)
  assert len(captions) == 975 and {len(item.references) for item in captions} == {5}
  assert captions[0].audio1 == "AudioCapsLarger/test/Y7fmOlUlwoNg.wav"
  assert said == []


@pytest.mark.slow
def test_entailment_from_its_official_file(reference_data):
  entailed = catalogue.read("ace", reference_data / "meta")
  assert {item.kind for item in entailed} == {"entailment"}
  verdicts = ("It is definitely true", "It is definitely false", "It is plausible")
  assert collections.Counter(item.answer for item in entailed) == dict.fromkeys(verdicts, 4875)


def test_rows_in_quarantine_are_left_out_and_said(tmp_path):
  path, said = reasonaqa(tmp_path / "test.json"), []
  bad = records.row_id(records.read(path)[1])
  items = catalogue.read("reasonaqa", tmp_path, quarantined={bad}, say=said.append)
  assert len(items) == 3 and bad not in {item.id for item in items}
  assert said == [f"{path}: 1 of 4 rows are in quarantine and left out"]


@pytest.mark.parametrize("name", ["own.csv", "own.jsonl"])
def test_rows_of_ones_own_table_in_quarantine_are_left_out(tmp_path, name):
  """Faulty ones, too: a check lists them so that the rest can be used."""
  path, said = tmp_path / name, []
  own = [{"file": f"{c}.wav", "question": "rain?", "answer": "yes", "file2": ""} for c in "abcd"]
  own[1]["file"], own[2]["file2"] = "../b.wav", "x\\c.wav"
  if name.endswith("csv"):
    lines = [",".join(own[0]), *(",".join(row.values()) for row in own)]
    path.write_text("\n".join(lines))
  else:
    path.write_text("\n".join(map(json.dumps, own)))
  ids = [records.row_id(Record(*row.fields, row=0)) for row in records.scan(path)]
  items = catalogue.read("table", path, quarantined=set(ids[1:3]), say=said.append)
  assert [item.audio1 for item in items] == ["a.wav", "d.wav"]
  assert said == [f"{path}: 2 of 4 rows are in quarantine and left out"]
  with pytest.raises(DataError, match=r"'\.\./b\.wav'"):
    catalogue.read("table", path, quarantined=set(ids[2:]))
  own[1]["file"] = "b.wav"
  path.write_text("\n".join(map(json.dumps, own)))
  assert len(catalogue.read("table", path, quarantined=(), say=said.append)) == 4
  assert said[1:] == [f"{path}: 0 of 4 rows are in quarantine and left out"]


@pytest.mark.parametrize("benchmark", ["mmau", "mmau-test", "mmar", "scenes"])
def test_a_quarantine_is_refused_where_none_can_list_the_questions(tmp_path, benchmark):
  with pytest.raises(DataError, match=f"benchmark {benchmark}: .*: drop --quarantine"):
    catalogue.read(benchmark, tmp_path, quarantined={"0" * 16: ("silent",)})


def test_rows_whose_answer_is_no_option_are_counted_and_the_remedy_named(tmp_path):
  path = reasonaqa(tmp_path / "test.json", ["CLE"] * 3)
  content = json.loads(path.read_text())
  for row in content[1:]:
    row["answer"] = "f) none"
  path.write_text(json.dumps(content))
  with pytest.raises(DataError, match=r"in 2 rows, first row 1 .*--quarantine=FILE"):
    catalogue.read("cle", tmp_path)
  left = {records.row_id(row) for row in records.read(path)} - {
    records.row_id(records.read(path)[0])
  }
  assert len(catalogue.read("cle", tmp_path, quarantined=left)) == 1


def test_the_scenes_of_a_run_are_those_it_is_judged_by(tmp_path):
  run = {"seed": 3, "data": {"source": "scenes", "mix": {"caption": 1.0, "binary": 2.0}}}
  (tmp_path / "run.json").write_text(json.dumps(run))
  items = catalogue.read("scenes", tmp_path)
  expected = scenes.Scenes("val", 3, catalogue.SCENES, run["data"]["mix"])
  assert [item.id for item in items] == [records.row_id(row) for row in expected]
  (tmp_path / "run.json").write_text(json.dumps({**run, "data": {"source": "json", "mix": {}}}))
  with pytest.raises(DataError, match=r"data\.source 'json': use --benchmark=reasonaqa"):
    catalogue.read("scenes", tmp_path)


OWN = [
  {"file": "a.wav", "question": "rain?", "answer": "yes", "by_room": "kitchen"},
  {"file": "b.wav", "question": "what?", "choices": ["a dog", "rain"], "answer": "rain"},
  {"file": "b.wav", "question": "what? a) a dog b) rain", "answer": "a) a dog"},
  {"file": "a.wav", "file2": "b.wav", "question": "compare", "references": ["x is y", "y is x"]},
  {"file": "a.wav", "question": "which?", "choices": ["a", "b", "c"]},
]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_table_of_ones_own(tmp_path, suffix):
  path = tmp_path / f"own.{suffix}"
  if suffix == "json":
    path.write_text(json.dumps(OWN))
  elif suffix == "jsonl":
    path.write_text("\n".join(map(json.dumps, OWN)))
  else:
    columns = ("file", "file2", "question", "choices", "answer", "references", "by_room")
    lines = [",".join(columns)]
    for row in OWN:
      cells = (row.get(c, "") for c in columns)
      lines.append(",".join(" | ".join(c) if isinstance(c, list) else c for c in cells))
    path.write_text("\n".join(lines))
  items = catalogue.read("table", path)
  assert [item.kind for item in items] == ["binary", "choice", "choice", "text", "choice"]
  assert items[0].groups["room"] == "kitchen"
  assert [item.answer for item in items] == ["yes", "rain", "a dog", "", ""]
  assert items[2].question == "what?" and items[1].choices == items[2].choices
  assert items[3].references == ("x is y", "y is x") and items[3].audio2 == "b.wav"
  assert len({item.id for item in items}) == 5


@pytest.mark.parametrize(
  ("question", "answer", "references", "kind"),
  [
    ("which? a) dog b) cat", "Cat.", [], "choice"),
    ("which? a) dog b) cat", "", [], "choice"),
    ("is any there: a) dog b) cat?", "no", [], "binary"),
    # What looks like options is none.
    ("how differ a) the dog b) the cat?", "b is louder", ["b is louder"], "text"),
    ("how loud is it (a) or so?", "very", [], "text"),
  ],
)
def test_what_looks_like_options_may_be_none(tmp_path, question, answer, references, kind):
  row = {"file": "a.wav", "question": question, "answer": answer, "references": references}
  (tmp_path / "own.json").write_text(json.dumps([row]))
  (item,) = catalogue.read("table", tmp_path / "own.json")
  assert item.kind == kind and bool(item.choices) == (kind == "choice")


MMAR = {
  "id": "x1",
  "audio_path": "./audio/x1.wav",
  "question": "Who?",
  "choices": ["A", "B"],
  "answer": "B",
  "modality": "speech",
  "category": "Signal Layer",
  "url": "https://example.org",
}


def test_mmar_as_a_list_or_as_lines(tmp_path):
  other = {**MMAR, "id": "x2", "answer": "a"}
  (tmp_path / "MMAR-meta.jsonl").write_text("\n".join(map(json.dumps, (MMAR, other))))
  lines = catalogue.read("mmar", tmp_path)
  (tmp_path / "MMAR-meta.json").write_text(json.dumps([MMAR, other]))
  assert catalogue.read("mmar", tmp_path) == lines
  assert lines[0].audio1 == "audio/x1.wav" and [item.answer for item in lines] == ["B", "A"]
  assert lines[0].groups == {"modality": "speech", "category": "Signal Layer"}


def test_the_empty_choice_that_some_rows_of_mmar_end_with_is_none(tmp_path):
  row = {**MMAR, "choices": [*MMAR["choices"], ""]}
  (tmp_path / "MMAR-meta.json").write_text(json.dumps([row]))
  assert catalogue.read("mmar", tmp_path)[0].choices == tuple(MMAR["choices"])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"choices": ["A"]}, "field 'choices' has 1: 2 to 26"),
    ({"choices": "A or B", "answer": ""}, "field 'choices' has 1"),
    ({"choices": ["A", 2]}, "field 'choices' is no list of texts"),
    ({"answer": "C"}, "'C' is none of the choices"),
    ({"question": " "}, "field 'question' is ' '"),
    ({"id": None}, "field 'id' is None"),
    ({"audio_path": "/etc/passwd"}, "field 'audio_path' is absolute"),
    ({"audio_path": "../x.wav"}, "field 'audio_path' leaves the audio root"),
    ({"id": "x0"}, "id 'x0' occurs twice"),
  ],
)
def test_a_bad_row_is_named(tmp_path, change, message):
  path = tmp_path / "MMAR-meta.json"
  path.write_text(json.dumps([{**MMAR, "id": "x0"}, {**MMAR, **change}]))
  with pytest.raises(DataError) as error:
    catalogue.read("mmar", tmp_path)
  assert message in str(error.value) and str(path) in str(error.value)
  assert "twice" in message or "row 1 (from 0)" in str(error.value)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("x.jsonl", '{"file": "a.wav"\n', "line 1: is not JSON"),
    ("x.jsonl", '{"file": "a.wav", "question": "x"}\n[]', "line 2: is a list, not an object"),
    ("x.jsonl", "", "holds no rows"),
    ("x.json", "[", "is not JSON"),
    ("x.csv", "file,question,answer\na.wav,what", "line 2: has 2 cells where the header has 3"),
    ("x.csv", "file,question,anwser\na.wav,what,x", "column 'anwser' is unknown"),
    ("x.csv", "file,question\n,what", "field 'file' is ''"),
    ("x.csv", "file,question,answer\na.wav,what? a) x b) y,c) z", "is none of the options"),
    (
      "x.csv",
      "file,question,answer\na.wav,is it?,yes\na.wav,which? a) dog b) cat,dgo",
      "line 3: field 'answer' 'dgo' is none of the options in its question: write one of them",
    ),
  ],
)
def test_a_bad_table_is_named(tmp_path, name, content, message):
  (tmp_path / name).write_text(content)
  with pytest.raises(DataError) as error:
    catalogue.read("table", tmp_path / name)
  assert message in str(error.value) and name in str(error.value)


def test_what_is_not_there_is_said_with_its_source(tmp_path):
  neither = r"neither test\.json of ReasonAQA, zenodo\S+, nor clotho_entailment_evaluation\.csv of "
  with pytest.raises(DataError, match=neither + "github.com/microsoft/AudioEntailment"):
    catalogue.read("cle", tmp_path)
  with pytest.raises(DataError, match=r"holds no mmau-test\.json; to be had: MMAU: github"):
    catalogue.read("mmau-test", tmp_path)
  with pytest.raises(DataError, match="takes the table itself"):
    catalogue.read("table", tmp_path)
  with pytest.raises(DataError, match="'nosuch' is unknown: one of mmau, "):
    catalogue.read("nosuch", tmp_path)


def test_reading_and_prompts_need_no_jax():
  program = (
    "import sys; from mellow_jax.evaluation.benchmarks import catalogue, probes, prompt_styles; "
    "assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


def test_the_doctor_looks_below_the_folder_as_building_does(tmp_path):
  folder = tmp_path / "downloads/mmar"
  folder.mkdir(parents=True)
  (folder / "MMAR-meta.json").write_text(json.dumps([MMAR]))
  (tmp_path / "downloads/other").mkdir()
  (tmp_path / "downloads/other/test.json").write_text("[1, 2]")  # another dataset's
  found = {name: (there, said) for name, there, said in doctor.data(str(tmp_path))}
  path = folder / "MMAR-meta.json"
  assert found["mmar"] == (True, f"{path}, 1 items: give --data={folder}")
  assert not any(there for name, (there, _) in found.items() if name != "mmar")
