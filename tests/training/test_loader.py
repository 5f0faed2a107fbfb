"""What a run reads: content by which a later one may go on, whatever its paths."""

import json

import numpy as np
import pytest
import soundfile
import tiny

from mellow_jax import parallel
from mellow_jax.config import DataConfig
from mellow_jax.data import tokenizer as tokenizers
from mellow_jax.training import loop
from mellow_jax.training.checkpoints import TOKENIZER, WINDOWS
from mellow_jax.training.loader import Loader

ROWS = [("a.wav", "what is heard ?", "a dog"), ("b.wav", "what is heard ?", "rain")]


def write_rows(path, rows):
  path.write_text("\n".join(map(",".join, [("file", "question", "answer"), *rows])) + "\n")


@pytest.fixture
def load(tmp_path):
  """Loads the rows of val.csv and train.csv with some fields of the config."""
  for name in ("a.wav", "b.wav"):
    soundfile.write(tmp_path / name, 0.1 * np.ones(16_000), 16_000)
  for split in ("train", "val"):
    write_rows(tmp_path / f"{split}.csv", ROWS)
  paths = {split: str(tmp_path / f"{split}.csv") for split in ("train", "val")}

  def load(eval_batches=1, **data):
    data = DataConfig(**{"preset": "clean", "tokenizer": "words", **paths, **data})
    cfg = tiny.run(data=data, batch_size=2, eval_batches=eval_batches)
    return Loader(cfg, parallel.make_mesh((1, 1)), tmp_path)

  return load


def test_a_tokenizer_is_known_by_its_tokens_and_not_by_its_path(load, tmp_path):
  texts = [text for row in ROWS for text in row[1:]]
  found = {}
  for name, words in (("one", ""), ("moved", ""), ("retrained", "a new word")):
    path = tmp_path / f"{name}.json"
    tokenizers.build_tokenizer([*texts, words]).save(str(path))
    found[name] = load(tokenizer=str(path)).content[TOKENIZER]
  assert found["one"] == found["moved"] == load().content[TOKENIZER] != found["retrained"]
  # As many tokens, two of them in each other's place.
  state = json.loads((tmp_path / "one.json").read_text())
  vocab = state["model"]["vocab"]
  vocab["dog"], vocab["rain"] = vocab["rain"], vocab["dog"]
  (tmp_path / "moved.json").write_text(json.dumps(state))
  swapped = load(tokenizer=str(tmp_path / "moved.json"))
  assert swapped.cfg.model.decoder.vocab == load().cfg.model.decoder.vocab
  assert swapped.content[TOKENIZER] != found["one"]


def test_where_clips_are_cropped_at_random_their_windows_are_told(load):
  assert WINDOWS not in load().content
  assert load(preset="training").content[WINDOWS] == "none"


def test_validation_is_known_by_the_rows_that_it_scores(load, tmp_path):
  same = load().scored
  assert load(eval_batches=9).scored == same  # there are no more rows
  (tmp_path / "moved").mkdir()
  write_rows(tmp_path / "moved/val.csv", ROWS)
  moved = load(val=str(tmp_path / "moved/val.csv"), audio_root=str(tmp_path))
  assert moved.scored == same
  for rows in (ROWS[:1], ROWS[::-1], [*ROWS, ROWS[0]], [ROWS[0], (*ROWS[1][:2], "wind")]):
    write_rows(tmp_path / "other.csv", rows)
    assert load(eval_batches=9, val=str(tmp_path / "other.csv")).scored != same


def test_the_lowest_loss_is_that_of_the_rows_that_are_validated(capsys):
  before = {"scored": 7, "best_val_loss": 0.1, "best_step": 2, "bad_missing": 1}
  assert loop.comparable(before, 7) == before
  assert not capsys.readouterr().out
  assert loop.comparable(before, 8) == {"scored": 8, "bad_missing": 1}
  assert "the lowest loss is found anew" in capsys.readouterr().out
  older = {name: x for name, x in before.items() if name != "scored"}  # of a version without it
  assert loop.comparable(older, 8) == {**older, "scored": 8}
