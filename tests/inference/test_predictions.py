"""Predictions that several processes write are whole and in order, or can be continued."""

import fcntl
import itertools
import json

import numpy as np
import pytest

from mellow_jax.errors import PredictionsError
from mellow_jax.inference.predictions import ANSWERED, FAILED, NEW, Predictions, to_ask

SETTINGS = {"seed": 0, "missing_audio": []}


def shared(folder, part=0, keys="abcdef") -> Predictions:
  return Predictions(folder / "out [1].jsonl", list(keys), part)


def line(row):
  return {"row": row, "text": f"answer {row}"}


def failed(row):
  return {"row": row, "failure": "is empty"}


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(path):
  return [line["row"] for line in read(path)]


def test_parts_become_a_whole_in_order(tmp_path):
  one, two = shared(tmp_path), shared(tmp_path, 1)
  assert not one.begin(SETTINGS).any()
  one.append([line(5), line(0)])
  two.append([line(2), line(1)])
  two.append([line(4)])
  with pytest.raises(PredictionsError, match="1 of 6 rows have no prediction"):
    one.finish()
  assert not one.path.exists()
  one.append([line(3)])
  one.finish()
  assert rows_of(one.path) == list(range(6))
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"out [1].jsonl", "out [1].jsonl.settings.json"}


def test_a_rerun_takes_what_any_part_left_whatever_the_number_of_processes(tmp_path):
  first = shared(tmp_path, 2)
  first.begin(SETTINGS)
  first.append([line(1), line(4)])
  del first
  part = tmp_path / "out [1].jsonl.part-2"
  part.write_bytes(part.read_bytes()[:-5])  # killed within the last line
  again = shared(tmp_path)
  assert to_ask(again.begin(SETTINGS)) == [0, 2, 3, 4, 5]
  again.append([line(row) for row in (0, 2, 3, 4, 5)])
  again.finish()
  assert rows_of(again.path) == list(range(6))
  whole = again.path.read_bytes()
  assert not to_ask(shared(tmp_path).begin(SETTINGS))
  # Killed after the whole was written and before its parts were removed:
  part.write_text(json.dumps({**line(1), "key": "b"}) + "\n")
  assert not to_ask(shared(tmp_path).begin(SETTINGS))
  shared(tmp_path).finish()
  assert not part.exists() and again.path.read_bytes() == whole


@pytest.mark.parametrize("part", [0, None])
def test_wherever_it_is_killed_it_can_be_continued(tmp_path, part):
  """Cut at every byte of what a run writes, the rerun's file is the same."""
  found = ({**line(row), "key": "abcdef"[row]} for row in (3, 0, 5))
  text = "".join(json.dumps(row) + "\n" for row in found)
  for cut in range(len(text) + 1):
    output = shared(tmp_path / str(cut), part)
    output.begin(SETTINGS)
    output._mine.write_text(text[:cut])
    with shared(tmp_path / str(cut), part) as output:
      output.append(map(line, to_ask(output.begin(SETTINGS))))
      output.finish()
    assert [row["text"] for row in read(output.path)] == [f"answer {row}" for row in range(6)]
    assert rows_of(output.path) == list(range(6))


def test_rows_that_failed_are_tried_again_and_an_answer_is_never_lost(tmp_path):
  with shared(tmp_path, None) as output:
    output.begin(SETTINGS)
    output.append([line(0), failed(1), failed(2), *map(line, (3, 4, 5))])
    assert [row["row"] for row in output.finish()] == [1, 2]
  with shared(tmp_path, None) as output:
    assert to_ask(output.begin(SETTINGS)) == [1, 2]
    output.append([line(1), failed(2)])
    assert [row["row"] for row in output.finish()] == [2]
  assert rows_of(output.path) == list(range(6))
  assert to_ask(np.array([FAILED, NEW, ANSWERED, FAILED, NEW])) == [1, 4, 0, 3]
  assert read(output.path)[1]["text"] == "answer 1"
  with shared(tmp_path, None) as output:
    assert to_ask(output.begin(SETTINGS)) == [2]
    output.append([failed(1), line(2)])  # of a row that has its answer
    assert output.finish() == []


def test_answers_are_found_again_by_their_keys(tmp_path):
  with shared(tmp_path, None) as output:
    output.begin(SETTINGS)
    output.append(map(line, range(6)))
    output.finish()
  with shared(tmp_path, None, "fxbaa") as output:
    assert to_ask(output.begin(SETTINGS)) == [1, 4]
    assert output.dropped == 3
    output.append([{"row": 1, "text": "new"}, {"row": 4, "text": "again"}])
    output.finish([{"name": name} for name in "fxbaa"])
  texts = [(row["row"], row["name"], row["text"]) for row in read(output.path)]
  assert texts == [
    *((0, "f", "answer 5"), (1, "x", "new"), (2, "b", "answer 1")),
    *((3, "a", "answer 0"), (4, "a", "again")),
  ]
  with pytest.raises(PredictionsError, match="5 answers to other questions"):
    shared(tmp_path, None, "yz").begin(SETTINGS)


def test_other_settings_are_refused(tmp_path):
  output = shared(tmp_path)
  output.begin(SETTINGS)
  output.append([line(0)])
  with pytest.raises(PredictionsError, match="was made with seed = 0, this run has 1"):
    shared(tmp_path).begin({**SETTINGS, "seed": 1})
  many = {**SETTINGS, "missing_audio": [f"{i}.wav" for i in range(1000)]}
  with pytest.raises(PredictionsError) as error:
    shared(tmp_path).begin(many)
  assert len(str(error.value)) < 500
  (tmp_path / "out [1].jsonl.settings.json").write_text("[]")
  with pytest.raises(PredictionsError, match=r"does not say how it was made .*holds no object"):
    shared(tmp_path).begin(SETTINGS)
  (tmp_path / "out [1].jsonl.settings.json").unlink()
  with pytest.raises(PredictionsError, match="does not say how it was made"):
    shared(tmp_path).begin(SETTINGS)


def test_what_a_run_says_of_itself_may_change(tmp_path):
  with shared(tmp_path) as output:
    output.begin({"seed": 0}, {"items": 6})
    output.append([line(0)])
  assert shared(tmp_path).begin({"seed": 0}, {"items": 7})[0]
  settings = json.loads((tmp_path / "out [1].jsonl.settings.json").read_text())
  assert settings == {"items": 7, "seed": 0}


@pytest.mark.parametrize("part", [0, None])
def test_a_run_that_goes_on_keeps_others_out(tmp_path, part):
  one, two = shared(tmp_path, part), shared(tmp_path, part)
  one.begin(SETTINGS)
  one.append([line(0)])
  for attempt in (lambda: two.begin(SETTINGS), lambda: two.append([line(1)])):
    with pytest.raises(PredictionsError, match="another run is writing it"):
      attempt()
  fcntl.flock(one._held, fcntl.LOCK_UN)
  assert two.begin(SETTINGS)[0] == ANSWERED


def test_the_lock_is_given_back_at_the_end_of_the_block(tmp_path):
  with pytest.raises(KeyError), shared(tmp_path) as one:
    one.begin(SETTINGS)
    one.append([line(0)])
    raise KeyError
  assert shared(tmp_path).begin(SETTINGS)[0]


@pytest.mark.parametrize(
  "content", ["[]\n", '{"row": 6}\n', '{"row": 1, "key": 1}\n', "x\n", '{"text": ""}\n']
)
@pytest.mark.parametrize("part", [0, None])
def test_a_file_that_was_changed_is_refused(tmp_path, content, part):
  output = shared(tmp_path, part)
  output.begin(SETTINGS)
  output._mine.write_text(json.dumps({**line(0), "key": "a"}) + "\n" + content)
  with pytest.raises(PredictionsError, match="line 2: is no line of a prediction"):
    shared(tmp_path, part).begin(SETTINGS)


def test_what_cannot_be_written_is_said(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(PredictionsError, match="cannot be written"):
    shared(tmp_path / "file").begin(SETTINGS)


def test_every_split_of_the_rows_gives_the_same_whole(tmp_path):
  for number, owners in enumerate(itertools.product(range(2), repeat=4)):
    folder = tmp_path / str(number)
    outputs = [shared(folder, part, "abcd") for part in range(2)]
    outputs[0].begin(SETTINGS)
    for row, owner in enumerate(owners):
      outputs[owner].append([line(row)])
    outputs[0].finish()
    assert rows_of(outputs[0].path) == [0, 1, 2, 3]
