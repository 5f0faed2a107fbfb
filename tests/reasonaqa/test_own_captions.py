"""One's own clips become rows of every kind; what is false of a clip is another's."""

import collections
import csv
import json
import re

import pytest

from mellow_jax.data import records
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.own import captions

SOUNDS = ("a dog is barking", "rain is falling", "a clock is ticking", "a baby is crying", "wind")


def write(tmp_path, rows, columns=("file", "caption")):
  path = tmp_path / "Mine.csv"
  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(rows)
  return path


def made(path, split="train", seed=0):
  """Rows by kind, and what was dropped."""
  found = captions.rows(path, captions.read(path), split, seed)
  for source in found:
    left_out = sum(dropped.rows for dropped in source.dropped)
    assert source.read * source.each == len(source.rows) + left_out
  return {source.dataset: source.rows for source in found}, [d for s in found for d in s.dropped]


@pytest.fixture
def table(tmp_path):
  return write(tmp_path, [(f"{i}.wav", SOUNDS[i % 5]) for i in range(40)])


def test_rows_of_every_kind_are_true(table):
  rows, dropped = made(table)
  assert not dropped
  assert {name: len(part) for name, part in rows.items()} == {
    "Mine": 40,
    "Mine-MCQ": 40,
    "Mine-Binary": 80,
    "Mine-Entailment": 40,
    "Mine-Difference": 40,
  }
  heard = {f"{i}.wav": SOUNDS[i % 5] for i in range(40)}
  for name, part in rows.items():
    for row in part:
      assert (row.taskname, row.subtype) == ("mine", f"{name}.json")
      assert row.caption1 == heard[row.filepath1]
  for row in rows["Mine"]:
    assert (row.input, row.answer) == ("caption the audio", f"{heard[row.filepath1]}.")
  for row in rows["Mine-MCQ"]:
    stem, *options = re.split(r" (?=[a-d]\) )", row.input)
    assert stem == "what is the primary sound event present in the clip?"
    texts = [option[3:] for option in options]
    assert len(set(texts)) == 4 and set(texts) <= set(SOUNDS)
    assert row.answer in options and row.answer[3:] == heard[row.filepath1]
  for row in rows["Mine-Binary"]:
    said = re.fullmatch(r"is this true of the clip: (.*)\? answer yes or no", row.input)[1]
    assert row.answer == ("yes" if said == heard[row.filepath1] else "no") and said in SOUNDS
  for row in rows["Mine-Entailment"]:
    said = re.search(r'hypothesis - "(.*)"', row.input)[1]
    verdict = "true" if said == heard[row.filepath1] else "false"
    assert row.answer[3:] == f"It is definitely {verdict}" and row.answer in row.input
  for row in rows["Mine-Difference"]:
    first, second = heard[row.filepath1], heard[row.filepath2]
    assert first != second and row.caption2 == second
    assert row.answer == f"audio 1: {first}, whereas audio 2: {second}."


def test_answers_and_distractors_are_spread(table):
  rows, _ = made(table)
  assert len(collections.Counter(row.answer[0] for row in rows["Mine-MCQ"])) == 4
  verdicts = collections.Counter(row.answer[3:] for row in rows["Mine-Entailment"])
  assert min(verdicts.values()) > 10
  assert len({row.filepath2 for row in rows["Mine-Difference"]}) > 15


def test_the_same_table_and_seed_give_the_same_rows(table, tmp_path):
  assert made(table) == made(table)
  assert made(table) != made(table, seed=1)
  # Other clips of another split change nothing.
  with table.open("a") as file:
    file.write("x.wav,a chainsaw is running\n")
  grown = table.read_text().replace("file,caption", "file,caption,split").splitlines()
  grown = [f"{line},{'val' if line.startswith('x') else 'train'}" for line in grown[1:]]
  table.write_text("\n".join(["file,caption,split", *grown]))
  rows, _ = made(table)
  val, dropped = made(table, "val")
  assert rows == made(write(tmp_path, [(f"{i}.wav", SOUNDS[i % 5]) for i in range(40)]))[0]
  assert len(val["Mine"]) == 1 and [d.what for d in dropped] == ["x.wav"] * 4


def test_captions_that_speak_of_the_same_are_not_told_apart(tmp_path):
  # "dogs bark" is what "a dog barking" is; nothing but rain is no option of both.
  path = write(tmp_path, [("1.wav", "a dog barking"), ("2.wav", "dogs bark"), ("3.wav", "rain")])
  rows, _ = made(path)
  for row in rows["Mine-MCQ"]:
    assert not ("barking" in row.input and "bark " in f"{row.input} ")
    assert len(re.findall(r"[a-d]\) ", row.input)) == 2


def test_labels_say_what_is_the_same(tmp_path):
  columns = ("file", "caption", "label")
  table = [("1.wav", "woof", "dog"), ("1.wav", "it barks", "dog"), ("2.wav", "arf", "dog")]
  table.append(("3.wav", "a dog hears drops", "rain"))
  path = write(tmp_path, table, columns)
  rows, dropped = made(path)
  assert not dropped
  assert {row.answer[3:] for row in rows["Mine-MCQ"]} == {"dog", "rain"}
  assert all(sorted(re.findall(r"\) (\w+)", r.input)) == ["dog", "rain"] for r in rows["Mine-MCQ"])
  assert len(rows["Mine"]) == 4
  assert {r.filepath2 for r in rows["Mine-Difference"] if r.filepath1 != "3.wav"} == {"3.wav"}


def test_questions_of_ones_own_are_rows(tmp_path):
  columns = ("file", "caption", "question", "answer", "_source")
  path = write(tmp_path, [("a\\1.wav", "", "is it loud?", "no", "me")], columns)
  rows, dropped = made(path)
  (row,) = rows["Mine-Detail"]
  assert (row.filepath1, row.input, row.answer) == ("a/1.wav", "is it loud?", "no")
  assert list(rows) == ["Mine-Detail"] and not dropped


@pytest.mark.parametrize(
  ("rows", "columns", "message"),
  [
    ([("1.wav", "x", "y")], ("file", "caption", "sound"), "line 1: column 'sound' is unknown"),
    ([("1.wav",)], ("file",), "line 1: column 'caption' is missing"),
    ([], ("file", "caption"), "holds no rows"),
    ([("", "x")], ("file", "caption"), "line 2: column 'file' is empty"),
    ([("../1.wav", "x")], ("file", "caption"), "line 2: column 'file' leaves the audio root"),
    ([("1.wav", " ")], ("file", "caption"), "line 2: has neither a caption nor a question"),
    ([("1.wav", "x", "dev")], ("file", "caption", "split"), "column 'split' is 'dev'"),
    (
      [("1.wav", "x", "train"), ("1.wav", "y", "val")],
      ("file", "caption", "split"),
      r"line 3: 1\.wav has another split or label than in line 2",
    ),
    (
      [("1.wav", "x", "a"), ("2.wav", "y", "")],
      ("file", "caption", "label"),
      r"line 3: 2\.wav has no label, and others have one",
    ),
    (
      [("1.wav", "x", "q?")],
      ("file", "caption", "question"),
      "line 2: has a question or an answer",
    ),
  ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, rows, columns, message):
  path = write(tmp_path, rows, columns)
  with pytest.raises(DataError, match=message) as error:
    captions.read(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    (
      [{"file": "a.wav", "caption": "x"}, {"file": "a.wav", "caption": "y", "split": "val"}],
      r"row 1 \(from 0\): a\.wav has another split or label than in row 0 \(from 0\)",
    ),
    (
      [{"file": "a.wav", "caption": "x"}, {"file": "b.wav", "caption": "y", "label": "dog"}],
      r"row 0 \(from 0\): a\.wav has no label",
    ),
    ([{"file": "a.wav", "caption": 3}], r"row 0 \(from 0\): column 'caption' is int"),
    ([["a.wav"]], r"row 0 \(from 0\): is a list"),
  ],
)
def test_rows_of_a_json_list_are_named_as_such(tmp_path, rows, message):
  path = tmp_path / "own.json"
  path.write_text(json.dumps(rows))
  with pytest.raises(DataError, match=rf"own\.json, {message}"):
    captions.read(path)


def test_esc10_gives_rows_of_the_kinds_that_its_own_are_of(reference_data, tmp_path):
  own = records.read(reference_data / "esc10/train.json")
  heard = {row.filepath1: row.caption1 for row in own}
  rows, dropped = made(write(tmp_path, heard.items()))
  assert not dropped
  for kind, each in (("", 1), ("-MCQ", 1), ("-Binary", 2), ("-Entailment", 1), ("-Difference", 1)):
    theirs = [row for row in own if row.subtype == f"ESC10{kind}.json"]
    assert len(rows[f"Mine{kind}"]) == len(theirs) == 318 * each
    # The same question, but for the caption it is about.
    stems = [
      {re.split(r"[:?\"]", row.input)[0].lower() for row in part}
      for part in (rows[f"Mine{kind}"], theirs)
    ]
    assert stems[0] == stems[1]
    if kind == "":
      assert {row.answer for row in rows["Mine"]} == {row.answer for row in theirs}
