"""The same rows give the same batches, whether from files, from a cache or from a TFDS dataset."""

import dataclasses
import itertools
import json
import pickle
import shutil
import sys

import audio_rows
import numpy as np
import pytest
import soundfile
import tiny

from mellow_jax.config import OLD_SOURCES, DataConfig
from mellow_jax.data import pipeline, records, selection, tokenizer
from mellow_jax.data.records import Record
from mellow_jax.errors import AudioError, ConfigError, DataError, PipelineError
from mellow_jax.training import checkpoints

TOKENIZER = tokenizer.build_tokenizer(["what is heard ?", *map(str, range(24))])
NUMBER = {TOKENIZER.token_to_id(str(i)): i for i in range(24)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The rows and clips of audio_rows.py, as each of its kinds."""
  return audio_rows.write_all(tmp_path_factory.mktemp("heard"))


def config(folder, *kinds, **fields):
  found = [audio_rows.paths(folder, kind) for kind in kinds]
  train, val = (",".join(dict.fromkeys(part)) for part in zip(*found, strict=True))
  fields = {"preset": "training", "max_bad_fraction": 0.5, "train": train, "val": val, **fields}
  return tiny.run(model=tiny.config(), data=DataConfig(**fields))


def encoders(cfg, say=lambda line: None):
  """Of the training rows and of the validation rows, as they travel to workers."""
  rows, val, clips = pipeline.sources(cfg, say)
  made_by = pipeline.Preprocessor(rows, clips, TOKENIZER, cfg.model, cfg.data)
  return pickle.loads(pickle.dumps((made_by, dataclasses.replace(made_by, rows=val))))


def batches(made_by, count, start_step=0, **part):
  options = {"seed": 1, "batch_size": 4, "shuffle": True, **part}
  return [
    *itertools.islice(pipeline.train_batches(made_by, start_step=start_step, **options), count)
  ]


def assert_equal(found, expected):
  assert len(found) == len(expected)
  for one, other in zip(found, expected, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def numbers(found):
  return [NUMBER[int(ids[0])] for batch in found for ids in batch["answer_ids"]]


@pytest.mark.parametrize("preset", ["training", "clean"])
def test_every_kind_gives_the_same_examples_in_the_same_order(made, preset):
  expected = expected_left_out = None
  for kind in audio_rows.KINDS:
    train, val = encoders(config(made, kind, preset=preset))
    found, met = batches(train, 8), []
    found += pipeline.eval_batches(val, batch_size=2, count=9, left_out=met)
    left_out = [(record.path, record.reason, record.row) for record in met]
    if expected is None:
      expected, expected_left_out = found, left_out
      assert sum(batch["bad"].sum() for batch in found[:8]) > 2
      assert ("3.mp3", "undecodable", 3) in left_out
    assert left_out == expected_left_out
    assert_equal(found, expected)
  assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("kind", audio_rows.KINDS)
def test_two_hosts_read_every_row_once_an_epoch_and_go_on_from_any_step(made, kind):
  train, _ = encoders(config(made, kind))
  good = [row.row for row in train.rows if not audio_rows.is_bad(row)][:16]  # four batches
  train = dataclasses.replace(train, rows=selection.SelectedRows(train.rows, good))
  parts = [batches(train, 8, shard=i, shards=2) for i in range(2)]
  for epoch in (slice(4), slice(4, 8)):
    read = [numbers(part[epoch]) for part in parts]
    assert sorted(read[0] + read[1]) == good and len(read[0]) == len(read[1]) == 8
  assert_equal(batches(train, 5, 3, shard=1, shards=2), parts[1][3:])


def test_kinds_that_are_mixed_give_what_one_kind_gives(made):
  """Each of three sources is the same rows, so that nothing else can differ."""
  weights = {"weights": (2.0, 1.0, 3.0)}
  mixed, _ = encoders(config(made, *audio_rows.KINDS, **weights))
  train, _ = audio_rows.paths(made, "json")
  cfg = config(made, "json", **weights)
  cfg.data.train = ",".join([train] * 3)
  files, _ = encoders(cfg)
  assert len(mixed.rows) == len(files.rows) == 72
  expected = batches(files, 9)
  assert_equal(batches(mixed, 9), expected)
  (part,) = batches(mixed, 1, 7, shard=1, shards=2)
  np.testing.assert_array_equal(part["wav1"], expected[7]["wav1"][2:])


def test_the_digest_tells_other_rows_and_no_other_place(made, tmp_path):
  digests = [encoders(config(made, kind))[0].rows.digest for kind in audio_rows.KINDS]
  assert len(set(digests)) == 1
  chosen = {"val": "", "val_share": 0.2, "mix": {"A": 2.0}}
  held = [encoders(config(made, kind, **chosen))[0].rows.digest for kind in audio_rows.KINDS]
  assert len(set(held)) == 1 and held != digests
  rows = json.loads((made / "train.json").read_text())
  rows[7]["answer"] = "8"
  (tmp_path / "train.json").write_text(json.dumps(rows))
  assert records.read(tmp_path / "train.json").digest not in digests


def test_a_run_goes_on_with_the_same_rows_from_another_place_and_with_no_others(made, tmp_path):
  def settings(cfg):
    rows, _, _ = pipeline.sources(cfg, lambda line: None)
    return checkpoints.run_settings(cfg, len(rows), {checkpoints.DIGEST: rows.digest})

  files, *others = (settings(config(made, kind)) for kind in audio_rows.KINDS)
  assert others == [files, files]
  rows = json.loads((made / "train.json").read_text())
  (tmp_path / "train.json").write_text(json.dumps(rows[::-1]))
  cfg = config(made, "json", train=str(tmp_path / "train.json"), audio_root=str(made))
  found = settings(cfg)
  assert {key for key in files if files[key] != found[key]} == {"the digest of its rows"}


def test_runs_of_older_versions_are_read(made):
  for name in OLD_SOURCES:
    train, _ = encoders(config(made, name, source=name))
    assert len(train.rows) == 24


@pytest.mark.parametrize("kind", audio_rows.KINDS)
def test_held_out_clips_are_the_same_of_every_kind(made, kind):
  expected = encoders(config(made, "json", val="", val_share=0.2))
  found = encoders(config(made, kind, val="", val_share=0.2))
  for one, other in zip(found, expected, strict=True):
    assert list(one.rows) == list(other.rows) and len(one.rows)


@pytest.mark.parametrize("kind", audio_rows.KINDS)
def test_rows_in_quarantine_are_left_out_before_anything_else(made, kind, tmp_path):
  rows = records.read(made / "train.json")
  listed = {records.row_id(rows[i]): ["wrong"] for i in (1, 2, 20)}
  path = tmp_path / "quarantine.json"
  path.write_text(json.dumps({"version": 1, "rows": listed | {"0" * 16: ["elsewhere"]}}))
  said = []
  train, val = encoders(config(made, kind, quarantine=str(path)), said.append)
  assert [row.row for row in train.rows] == [i for i in range(24) if i not in (1, 2, 20)]
  assert [row.row for row in val.rows] == [0, 3]
  places = audio_rows.paths(made, kind)
  assert said[:3] == [
    f"{path}: 3 of 24 rows of {places[0]} are left out",
    f"{path}: 2 of 4 rows of {places[1]} are left out",
    f"{path}: 1 of its 4 rows are in none of these, first {'0' * 16}",
  ]
  listed = {records.row_id(row): ["bad"] for row in rows if audio_rows.is_bad(row)}
  path.write_text(json.dumps({"version": 1, "rows": listed}))
  encoders(config(made, kind, quarantine=str(path), max_bad_fraction=0.0))
  path.write_text(json.dumps({"version": 1, "rows": {records.row_id(row): [] for row in rows}}))
  with pytest.raises(ConfigError, match=r"config.data.quarantine: leaves no row of "):
    encoders(config(made, kind, quarantine=str(path)))


def test_a_faulty_row_in_quarantine_does_not_keep_its_file_from_being_read(made, tmp_path):
  rows = json.loads((made / "train.json").read_text())
  rows[3]["answer"] = ""
  faulty, path = tmp_path / "train.json", tmp_path / "quarantine.json"
  faulty.write_text(json.dumps(rows))
  chosen = {"train": str(faulty), "audio_root": str(made), "quarantine": str(path)}
  fields = {name: rows[3][name] for name in records.FIELDS}
  bad = records.row_id(Record(**fields, row=3))
  path.write_text(json.dumps({"version": 1, "rows": {"0" * 16: []}}))
  with pytest.raises(DataError, match=r"row 3 .*'answer' is empty"):
    encoders(config(made, "json", **chosen))
  path.write_text(json.dumps({"version": 1, "rows": {bad: ["answer is empty"]}}))
  train, _ = encoders(config(made, "json", **chosen))
  assert [row.row for row in train.rows] == [i for i in range(24) if i != 3]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"input": "Caption both audios"},
      "'Caption both audios' needs the caption of the second clip",
    ),
    ({"input": "caption the audio", "answer": "a" * 9990}, "has 10006 characters as a sentence"),
  ],
)
def test_captions_of_which_no_answer_can_be_made_are_told_before_the_first_step(
  made, tmp_path, changes, message
):
  rows, path = json.loads((made / "train.json").read_text()), tmp_path / "train.json"
  fine = [{**row, "caption2": "rain", "input": "caption both audios"} for row in rows]
  rows[5] |= changes
  rows[9] |= changes
  chosen = {"train": str(path), "audio_root": str(made)}
  path.write_text(json.dumps(rows))
  with pytest.raises(
    DataError, match=rf"train\.json, row 5 \(from 0\) \(and 1 more .*: .*{message}"
  ):
    encoders(config(made, "json", **chosen))
  encoders(config(made, "json", preset="clean", **chosen))  # makes no sentences
  bad = {records.row_id(records.read(path)[i]): [] for i in (5, 9)}
  (tmp_path / "bad.json").write_text(json.dumps({"version": 1, "rows": bad}))
  train, _ = encoders(config(made, "json", quarantine=str(tmp_path / "bad.json"), **chosen))
  assert len(train.rows) == 22
  path.write_text(json.dumps(fine))
  encoders(config(made, "json", **chosen))


def test_a_table_has_no_second_caption(made, tmp_path):
  path = tmp_path / "t.csv"
  path.write_text("file,question,answer,file2\n0.wav,caption both audios,rain,4.wav\n")
  with pytest.raises(DataError, match=r"t\.csv, row 0 \(from 0\): .* with caption2, or ask"):
    encoders(config(made, "json", train=str(path), audio_root=str(made)))


def test_files_of_two_folders_may_share_paths_only_of_the_same_clips(made, tmp_path):
  for i in range(16):
    name = f"{i}.{audio_rows.FORMATS[i % 4]}"
    if (made / name).exists():
      shutil.copy(made / name, tmp_path / name)
  shutil.copy(made / "train.json", tmp_path / "train.json")
  cfg = config(made, "json")
  cfg.data.train += f",{tmp_path / 'train.json'}"
  one, _ = encoders(config(made, "json"))
  both, _ = encoders(cfg)
  assert [both.rows[i] for i in (-1, 23, 24)] == [one.rows[i] for i in (23, 23, 0)]
  soundfile.write(tmp_path / "4.wav", np.zeros(9000), 22_050)
  with pytest.raises(DataError, match=rf"4\.wav: differs in {made} and {tmp_path}: "):
    encoders(cfg)
  cfg.data.audio_root = str(made)
  encoders(cfg)


def test_a_tfds_folder_that_is_no_such_dataset_is_refused(made, tmp_path):
  def refused(path, match):
    with pytest.raises(DataError, match=match) as caught:
      encoders(config(made, "tfds", train=str(path)))
    assert "\n" not in str(caught.value)

  rows, audio = made / "tfds/reasonaqa/rows/1.0.0", made / "tfds/reasonaqa/audio/1.0.0"
  refused(audio, "audio/1.0.0: cannot be read as split 'train' of a TFDS dataset")
  alone = shutil.copytree(rows, tmp_path / "reasonaqa/rows/1.0.0")
  refused(alone, "audio/1.0.0: cannot be read as split 'clips'")
  shutil.copytree(audio, tmp_path / "reasonaqa/audio/1.0.0")
  (shard,) = alone.glob("*train*")
  shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
  refused(alone, r"rows/1\.0\.0: split 'train' has \d+ of \d+ bytes")


def test_a_clip_that_is_damaged_in_tfds_is_a_bad_record(made, tmp_path):
  shutil.copytree(made / "tfds/reasonaqa", tmp_path / "reasonaqa")
  (shard,) = (tmp_path / "reasonaqa/audio/1.0.0").glob("*clips*")
  raw = bytearray(shard.read_bytes())
  raw[len(raw) // 2] ^= 1
  shard.write_bytes(raw)
  places = (str(made / "train.json"), str(tmp_path / "reasonaqa/rows/1.0.0"))
  reasons = []
  for place in places:
    _, _, clips = pipeline.sources(config(made, "json", train=place, val="", val_share=0.2), list)
    reasons.append({})
    for path in records.read(made / "train.json").audio_paths():
      try:
        clips.load(path)
      except AudioError as error:
        reasons[-1][path] = error.reason
  (damaged,) = reasons[1].keys() - reasons[0].keys()
  assert reasons[1] == {**reasons[0], damaged: "damaged"} and len(reasons[0]) > 1


def test_files_that_are_not_there_are_told_before_training_of_all_sources(made):
  with pytest.raises(PipelineError, match=r"train\.json: 1 of its audio files are not below"):
    encoders(config(made, "array_record", "json", max_bad_fraction=0.01))
