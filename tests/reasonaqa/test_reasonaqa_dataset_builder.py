"""The TFDS datasets hold the rows in their order, and each clip once, as its file is."""

import json
import sys

import audio_rows
import pytest
import tensorflow_datasets as tfds

from mellow_jax.data import records
from mellow_jax.data.records import FIELDS
from mellow_jax.reasonaqa import reasonaqa_dataset_builder as builder_module
from mellow_jax.reasonaqa import tfds as command


@pytest.fixture
def folder(tmp_path):
  return audio_rows.write(tmp_path)


def read(folder, config, split):
  """As the builder's documentation says."""
  return tfds.data_source(f"reasonaqa/{config}", split=split, data_dir=folder / "tfds")


def test_rows_name_the_places_of_their_clips(folder, monkeypatch):
  monkeypatch.setattr(builder_module, "SHARD_ROWS", 7)
  monkeypatch.setattr(builder_module, "SHARD_BYTES", 100_000)
  assert audio_rows.write_tfds(folder) == 0
  assert len(list((folder / "tfds/reasonaqa/audio/1.0.0").glob("*clips*"))) > 3
  clips = read(folder, "audio", "clips")
  assert len(clips) == 16
  for split, count in (("train", 24), ("val", 4)):
    rows, expected = read(folder, "rows", split), records.read(folder / f"{split}.json")
    assert len(rows) == count
    for row, record in zip(rows, expected, strict=True):
      assert [row[field].decode() for field in FIELDS] == [getattr(record, f) for f in FIELDS]
      assert clips[row["clip1"]]["path"].decode() == record.filepath1
      if record.filepath2:
        assert clips[row["clip2"]]["path"].decode() == record.filepath2
      else:
        assert row["clip2"] == builder_module.NO_CLIP
  for clip in clips:
    path = folder / clip["path"].decode()
    reasons = {"1.flac": b"cut_short", "3.mp3": b"undecodable", "6.ogg": b"missing"}
    reason = reasons.get(path.name, b"")
    assert clip["reason"] == reason and bool(clip["fault"]) == bool(reason)
    assert clip["audio"] == (b"" if reason else path.read_bytes())
  assert "tensorflow" not in sys.modules


def test_what_cannot_be_built_is_told_in_a_line_and_leaves_nothing(folder, capsys):
  flags = ["tfds", f"--manual_dir={folder}", f"--data_dir={folder / 'tfds'}"]
  (folder / "audio").symlink_to(folder)

  def fails(message):
    assert command.main(flags) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line

  fails("train.json: 2 of 24 rows name audio that is empty or not below")
  assert not [*folder.glob("tfds/reasonaqa/*/1.0.0")]
  (folder / "val.json").write_text(json.dumps([{}]))
  builder_module.read.cache_clear()  # of a process that goes on while files change
  fails("val.json, row 0 (from 0): field 'taskname' is missing")
  (folder / "train.json").unlink()
  builder_module.read.cache_clear()
  fails("holds no train.json: name the folder that does")


def test_a_dataset_of_other_rows_is_not_taken_for_these(folder, capsys):
  assert audio_rows.write_tfds(folder) == audio_rows.write_tfds(folder) == 0
  rows = json.loads((folder / "val.json").read_text())
  (folder / "val.json").write_text(json.dumps(rows[::-1]))
  builder_module.read.cache_clear()
  capsys.readouterr()
  assert audio_rows.write_tfds(folder) == 1
  assert "rows/1.0.0: is there already, of other rows" in capsys.readouterr().err
