"""Rows, tables, questions and predictions are read alike in every form; damage is one line."""

import dataclasses
import json
import os
import random
import re
from pathlib import Path

import pytest
from timing import cpu_time

from mellow_jax.data import records, tables
from mellow_jax.errors import UserError
from mellow_jax.evaluation.benchmarks import catalogue, prediction_files
from mellow_jax.reasonaqa.own import captions

# Mutated files that are read; 5000 of them were once, by MELLOW_FUZZ=5000.
MUTATED = int(os.environ.get("MELLOW_FUZZ", "300"))

NONE = {"file2": None, "caption": None}
LINE = "\u2028 and \u0085"  # separators of lines that are text here
ROWS = [
  {"file": "a.wav", "question": f"what{LINE}?", "answer": "a dog, a cat"},
  {"file": "b/c.wav", "question": 'is "it" loud; or not?', "answer": "yes"},
]
QUESTIONS = [
  {"file": "a.wav", "question": f"what{LINE}?", "answer": "cat", "choices": "dog|cat", "id": "0"},
  {"file": "b.wav", "question": "is it\tloud?", "answer": "yes", "choices": "", "id": "1"},
]
PREDICTIONS = [{"id": "0", "prediction": f"b) cat{LINE}"}, {"id": "1", "prediction": "yes, it is"}]
CAPTIONS = [{"file": "a.wav", "caption": "a dog barks"}, {"file": "b.wav", "caption": "rain; wind"}]


def cells(rows, sign, end="\n"):
  quoted = lambda text: '"' + text.replace('"', '""') + '"'  # noqa: E731
  lines = [sign.join(rows[0]), *(sign.join(map(quoted, row.values())) for row in rows)]
  return end.join([*lines, ""])


def dumps(content, **how):
  return json.dumps(content, ensure_ascii=False, **how)


FORMS = {
  "x.csv": lambda rows: cells(rows, ","),
  "crlf.csv": lambda rows: cells(rows, ",", "\r\n"),
  "mark.csv": lambda rows: "\ufeff" + cells(rows, ","),
  "semicolons.csv": lambda rows: cells(rows, ";"),
  "empty_columns.csv": lambda rows: cells([{**row, "": "", " ": ""} for row in rows], ",") + ",,\n",
  "x.tsv": lambda rows: cells(rows, "\t"),
  "commas.tsv": lambda rows: cells(rows, ","),
  "table.json": lambda rows: cells(rows, ","),
  "list.json": lambda rows: dumps(rows),
  "mark.json": lambda rows: "\ufeff" + dumps(rows, indent=1),
  "list.csv": lambda rows: dumps(rows),
  "lines.jsonl": lambda rows: "\n".join(map(dumps, rows)),
  "crlf.jsonl": lambda rows: "\r\n\r\n".join(map(dumps, rows)) + "\r\n",
  "mark.jsonl": lambda rows: "\ufeff" + "\n".join(map(dumps, rows)),
  "lines.json": lambda rows: "\n".join(map(dumps, rows)),
  "around.json": lambda rows: dumps({"version": 1, "data": rows}),
  "around_pretty.jsonl": lambda rows: dumps({"version": 1, "data": rows}, indent=2),
  "by_id.json": lambda rows: dumps(
    {str(i): {k: v for k, v in row.items() if k != "id"} for i, row in enumerate(rows)}
  ),
  "null.json": lambda rows: dumps(
    [{**row, **({} if {"id", "caption"} & {*row} else NONE)} for row in rows]
  ),
}


def write(folder: Path, name: str, rows) -> Path:
  path = folder / name
  path.write_bytes(FORMS[name](rows).encode())
  return path


@pytest.mark.parametrize("name", FORMS)
def test_rows_are_read_in_every_form(tmp_path, name):
  found = records.read(write(tmp_path, name, ROWS))
  assert [(r.filepath1, r.input, r.answer) for r in found] == [(*row.values(),) for row in ROWS]


@pytest.mark.parametrize("name", FORMS)
def test_questions_and_predictions_are_read_in_every_form(tmp_path, name):
  items = catalogue.read("table", write(tmp_path, name, QUESTIONS))
  assert [(i.id, i.question, i.choices) for i in items] == [
    ("0", QUESTIONS[0]["question"], ("dog", "cat")),
    ("1", QUESTIONS[1]["question"], ()),
  ]
  path = write(tmp_path, name, PREDICTIONS)
  found = prediction_files.read(path, "table", items).predictions
  assert [(p.item, p.prediction) for p in found] == [
    (item, row["prediction"]) for item, row in zip(items, PREDICTIONS, strict=True)
  ]


@pytest.mark.parametrize("name", FORMS)
def test_captions_are_read_in_every_form(tmp_path, name):
  found = captions.read(write(tmp_path, name, CAPTIONS))
  assert [(c.path, *c.captions) for c in found] == [(*row.values(),) for row in CAPTIONS]


def test_answers_may_be_held_by_their_ids_and_null_is_none(tmp_path):
  items = catalogue.read("table", write(tmp_path, "x.csv", QUESTIONS))
  path = tmp_path / "p.json"
  path.write_text(dumps({"0": "b) cat", "1": None}))
  first, second = prediction_files.read(path, "table", items).predictions
  assert (first.prediction, first.failure) == ("b) cat", "")
  assert second.prediction == "" and "null" in second.failure
  path.write_text(dumps([{"id": 1, "prediction": "yes"}, {"id": 0, "prediction": "cat"}]))
  found = prediction_files.read(path, "table", items).predictions
  assert [p.item.id for p in found] == ["1", "0"]


def test_an_id_of_zero_is_an_id(tmp_path):
  path = tmp_path / "q.json"
  path.write_text(dumps([{"file": "a.wav", "question": "what?", "id": i} for i in range(2)]))
  assert [item.id for item in catalogue.read("table", path)] == ["0", "1"]


def test_the_faults_of_several_rows_are_told_together(tmp_path):
  path = tmp_path / "q.csv"
  path.write_text("file,question,answer\na.wav,what?,cat\n/b.wav,what?,cat\n\nc.wav,,dog\n")
  for read in (records.read, lambda path: catalogue.read("table", path)):
    with pytest.raises(UserError) as error:
      read(path)
    assert re.fullmatch(r".*q\.csv, line 3: .*'/b\.wav'.*; line 5: .*", str(error.value))
  path.write_text("file,question,answer\n" + "a.wav,what?,\n" * 11)
  with pytest.raises(UserError) as error:
    records.read(path)
  places = ", ".join(f"line {line}" for line in range(3, 12))
  fault = "line 2: column 'answer' is empty: fill it in or drop the row"
  assert str(error.value) == f"{path}, {fault} (also {places}); more rows may follow"


@pytest.mark.parametrize("choices", ["dog|cat", '["dog", "cat"]', "['dog', 'cat']"])
def test_choices_stand_in_a_cell_as_tables_are_written(tmp_path, choices):
  path = tmp_path / "q.csv"
  path.write_text(cells([{"file": "a.wav", "question": "?", "choices": choices}], ","))
  assert catalogue.read("table", path)[0].choices == ("dog", "cat")


def test_a_manifest_needs_no_answers(tmp_path):
  for name, text in {
    "a.csv": "file,question\nc0.wav,caption the audio",
    "b.csv": "file,question,answer\nc0.wav,caption the audio,",
    "c.json": '[{"file": "c0.wav", "question": "caption the audio", "answer": null}]',
    "d.jsonl": '{"file": "c0.wav", "question": "caption the audio"}',
  }.items():
    (tmp_path / name).write_text(text)
    (row,) = records.read(tmp_path / name, answers=False)
    assert (row.filepath1, row.input, row.answer) == ("c0.wav", "caption the audio", "")
    with pytest.raises(UserError, match="answer"):
      records.read(tmp_path / name)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ('[{"file": "a.wav"}]', "row 0 (from 0): column 'question' is missing: add it"),
    ('{"file": "a.wav", "question": 3}', "line 1: column 'question' is int, not text: write it"),
    ("file;question\na.wav;what?;now\n", "line 2: has 3 cells where the header has 2: put"),
    ("wav,question\na.wav,what?\n", "line 1: column 'wav' is unknown: use file, question"),
  ],
)
def test_a_wrong_form_is_named_with_line_field_and_remedy(tmp_path, text, message):
  path = tmp_path / "rows"
  path.write_text(text)
  with pytest.raises(UserError) as error:
    records.read(path, answers=False)
  assert message in str(error.value) and "\n" not in str(error.value)


# --- Damage --------------------------------------------------------------------------------------

PIECES = [
  *('"', "'", ",", ";", "\t", "|", "\n", "\r", "\0", "[", "]", "{", "}", ":", "\\", "\\ud800"),
  *("null", "NaN", "-Infinity", "1e999", "9" * 5000, "true", "\u2028", "\ufeff", "a" * 11_000),
  *('"id"', '"item"', '"a":1,"a":2,', "../", "/", "C:\\", "a) x b) y", "yes", "[" * 5000),
]


def mutate(content: bytes, rng: random.Random) -> bytes:
  """The content with up to four changes: bytes changed, cut out, repeated or put in."""
  for _ in range(rng.randint(1, 4)):
    at, to = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    piece = rng.choice(PIECES).encode(errors="surrogatepass")
    content = rng.choice(
      [
        content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
        content[:at] + content[to:],
        content[:to] + content[at:],
        content[:at] + piece + content[at:],
        content[:at] + piece + content[to:],
        content[:at],
      ]
    )
  return content


def our_predictions(items) -> bytes:
  rows = [
    {
      "row": i,
      **dataclasses.asdict(
        prediction_files.Prediction(
          item=item,
          benchmark="table",
          prompt=item.question,
          prediction="cat",
          order=tuple(range(len(item.choices))),
          option_log_probs=tuple((-1.5, 2) for _ in item.choices),
        )
      ),
    }
    for i, item in enumerate(items)
  ]
  return "\n".join(map(json.dumps, rows)).encode()


def test_mutated_files_are_read_or_refused_in_a_line_within_a_second(tmp_path):
  rng = random.Random(MUTATED)
  items = catalogue.read("table", write(tmp_path, "x.csv", QUESTIONS))
  full = [dict.fromkeys(records.FIELDS, "") | {"filepath1": "a", "input": "b", "answer": "c"}] * 2
  mmau = [{"id": "0", "audio_id": "a.wav", "question": "?", "choices": "x|y", "answer": "x"}]
  readers = [
    (full, [records.read, lambda path: list(records.scan(path))]),
    (ROWS, [records.read, lambda path: records.read(path, answers=False)]),
    (QUESTIONS, [lambda path: catalogue.read("table", path)]),
    (mmau, [lambda path: catalogue.read("mmau", path)]),
    (PREDICTIONS, [lambda path: prediction_files.read(path, "table", items)]),
    (None, [prediction_files.read]),
    (CAPTIONS, [captions.read, lambda path: list(tables.read(path))]),
  ]
  refused = 0
  for _ in range(MUTATED):
    rows, read_by = rng.choice(readers)
    name = rng.choice([*FORMS])
    content = our_predictions(items) if rows is None else FORMS[name](rows).encode()
    path = tmp_path / f"mutated_{name}"
    path.write_bytes(mutate(content, rng))
    for read in read_by:
      with cpu_time() as taken:
        try:
          read(path)
        except UserError as error:
          refused += 1
          assert "\n" not in str(error) and str(path) in str(error), str(error)
      assert taken.seconds < 1, path.read_bytes()[:300]
  assert refused > MUTATED / 4  # or the mutations do nothing


@pytest.mark.parametrize("options", [["A. dog", "B. cat"], {"A": "dog", "B": "cat"}])
@pytest.mark.parametrize("answer", ["B. cat", "cat", "B", "b) cat"])
def test_choices_with_their_letters_lose_them(tmp_path, options, answer):
  if isinstance(options, dict) and answer == "B. cat":
    pytest.skip("no choice reads so")
  row = {"file": "a.wav", "question": "what is heard?", "choices": options, "answer": answer}
  (tmp_path / "q.json").write_text(json.dumps([row]))
  (item,) = catalogue.read("table", tmp_path / "q.json")
  assert (item.choices, item.answer) == (("dog", "cat"), "cat")
