"""Predictions that several processes write are whole and in order, or can be continued."""

import fcntl
import itertools
import json

import numpy as np
import pytest

from mellow_jax.errors import PredictionsError
from mellow_jax.inference.predictions import SharedPredictions

SETTINGS = {"seed": 0, "missing_audio": []}


def shared(folder, part=0, rows=6) -> SharedPredictions:
  return SharedPredictions(folder / "out [1].jsonl", rows, part)


def line(row):
  return {"row": row, "text": f"answer {row}"}


def rows_of(path):
  return [json.loads(line)["row"] for line in path.read_text().splitlines()]


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
  assert np.flatnonzero(again.begin(SETTINGS)).tolist() == [1]
  again.append([line(row) for row in (0, 2, 3, 4, 5)])
  again.finish()
  assert rows_of(again.path) == list(range(6))
  whole = again.path.read_bytes()
  assert shared(tmp_path).begin(SETTINGS).all()
  # Killed after the whole was written and before its parts were removed:
  part.write_text(json.dumps(line(1)) + "\n")
  assert shared(tmp_path).begin(SETTINGS).all()
  assert not part.exists() and again.path.read_bytes() == whole


def test_wherever_it_is_killed_it_can_be_continued(tmp_path):
  """Cut at every byte of what a run writes, the rerun's file is the same."""
  text = "".join(json.dumps({"row": row}) + "\n" for row in (3, 0, 5))
  for cut in range(len(text) + 1):
    output = shared(tmp_path / str(cut))
    output.begin(SETTINGS)
    (tmp_path / str(cut) / "out [1].jsonl.part-0").write_text(text[:cut])
    output = shared(tmp_path / str(cut))
    done = output.begin(SETTINGS)
    output.append([{"row": row} for row in np.flatnonzero(~done).tolist()])
    output.finish()
    assert output.path.read_text() == "".join(json.dumps({"row": r}) + "\n" for r in range(6))


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
  (tmp_path / "out [1].jsonl.settings.json").unlink()
  with pytest.raises(PredictionsError, match="does not say how it was made"):
    shared(tmp_path).begin(SETTINGS)


def test_a_run_that_goes_on_keeps_others_out(tmp_path):
  one, two = shared(tmp_path), shared(tmp_path)
  one.begin(SETTINGS)
  one.append([line(0)])
  for attempt in (lambda: two.begin(SETTINGS), lambda: two.append([line(1)])):
    with pytest.raises(PredictionsError, match="another run is writing it"):
      attempt()
  fcntl.flock(one._held, fcntl.LOCK_UN)
  assert two.begin(SETTINGS)[0]


def test_the_lock_is_given_back_at_the_end_of_the_block(tmp_path):
  with pytest.raises(KeyError), shared(tmp_path) as one:
    one.begin(SETTINGS)
    one.append([line(0)])
    raise KeyError
  assert shared(tmp_path).begin(SETTINGS)[0] and one.rows == 6


@pytest.mark.parametrize(
  "content", ["[]\n", '{"row": 6}\n', '{"row": -1}\n', '{"row": "1"}\n', "x\n", '{"text": ""}\n']
)
def test_a_part_that_was_changed_is_refused(tmp_path, content):
  shared(tmp_path).begin(SETTINGS)
  (tmp_path / "out [1].jsonl.part-0").write_text(json.dumps(line(0)) + "\n" + content)
  with pytest.raises(PredictionsError, match=r"part-0, line 2: is not the prediction of one of 6"):
    shared(tmp_path).begin(SETTINGS)


@pytest.mark.parametrize("rows", [(0, 2), (0, 1, 2), (0, 1, 2, 3, 4, 5, 6), (1, 0)])
def test_a_whole_that_was_changed_is_refused(tmp_path, rows):
  output = shared(tmp_path)
  output.begin(SETTINGS)
  output.path.write_text("".join(json.dumps(line(row)) + "\n" for row in rows))
  with pytest.raises(PredictionsError, match=r"is not the prediction of row|predictions, not 6"):
    output.begin(SETTINGS)


def test_what_cannot_be_written_is_said(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(PredictionsError, match="cannot be written"):
    shared(tmp_path / "file").begin(SETTINGS)


def test_every_split_of_the_rows_gives_the_same_whole(tmp_path):
  for number, owners in enumerate(itertools.product(range(2), repeat=4)):
    folder = tmp_path / str(number)
    outputs = [shared(folder, part, rows=4) for part in range(2)]
    outputs[0].begin(SETTINGS)
    for row, owner in enumerate(owners):
      outputs[owner].append([line(row)])
    outputs[0].finish()
    assert rows_of(outputs[0].path) == [0, 1, 2, 3]
