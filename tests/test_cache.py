"""A cache gives the examples that the files give, to the last bit, or says what is wrong."""

import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest
import soundfile
import tiny

from mellow_jax.config import ConfigError, DataConfig
from mellow_jax.data import cache, pipeline, records, words
from mellow_jax.data.bad_records import PipelineError
from mellow_jax.data.records import FIELDS, RecordError

TOKENIZER = words.build_tokenizer(["what is heard ?", *map(str, range(24))])
FORMATS = ("wav", "flac", "ogg", "mp3")


@pytest.fixture
def dataset(tmp_path):
  """A folder of 24 rows over 16 clips in four formats, of other rates than heard; 3 are bad."""
  rng = np.random.default_rng(0)
  rows = []
  for i in range(24):
    names = [f"{j}.{FORMATS[j % 4]}" for j in (i % 16, (i + 5) % 16)]
    path = tmp_path / names[0]
    if not path.exists():
      soundfile.write(path, 0.1 * rng.standard_normal((22_050 * (1 + i % 3), 1 + i % 2)), 22_050)
    rows.append(dict.fromkeys(FIELDS, "") | {"filepath1": names[0], "answer": str(i)})
    rows[-1] |= {"filepath2": names[1] if i % 4 == 3 else "", "input": "what is heard?"}
  (tmp_path / "3.mp3").write_bytes(b"<html>")
  (tmp_path / "6.ogg").unlink()
  half = (tmp_path / "1.flac").read_bytes()
  (tmp_path / "1.flac").write_bytes(half[: len(half) // 2])
  for name, part in (("train", rows), ("val", rows[:4])):
    (tmp_path / f"{name}.json").write_text(json.dumps(part))
  return tmp_path


def write(dataset, name="train", **options):
  rows = records.read(dataset / f"{name}.json")
  return cache.write(rows, dataset, dataset / name, **{"max_bad_fraction": 0.5, **options})


def config(source, dataset, **fields):
  suffix = ".json" if source == "json" else ""
  paths = {name: str(dataset / f"{name}{suffix}") for name in ("train", "val")}
  fields = {"preset": "training", "max_bad_fraction": 0.5, **paths, **fields}
  return tiny.run(model=tiny.config(), data=DataConfig(source=source, **fields))


def batches(cfg, count=12):
  rows, val, clips = pipeline.sources(cfg, lambda line: None)
  made_by = pipeline.Encoder(rows, clips, TOKENIZER, cfg.model, cfg.data)
  made_by = pickle.loads(pickle.dumps(made_by))  # as it travels to workers
  found = pipeline.train_batches(made_by, seed=1, batch_size=4, start_step=0, shuffle=True)
  found, left_out = list(itertools.islice(found, count)), []
  made_by = dataclasses.replace(made_by, rows=val)
  found += pipeline.eval_batches(made_by, batch_size=2, count=9, left_out=left_out)
  return found, [(record.path, record.reason) for record in left_out]


@pytest.mark.parametrize("preset", ["training", "clean"])
def test_a_cache_gives_what_the_files_give(dataset, preset):
  write(dataset, shard_bytes=100_000)
  write(dataset, "val")
  assert len(list((dataset / "train").glob("clips-*"))) > 3
  (files, left_out), (cached, also) = (
    batches(config(source, dataset, preset=preset)) for source in ("json", "array_record")
  )
  assert left_out == also and ("3.mp3", "undecodable") in left_out
  assert sum(batch["bad"].sum() for batch in files[:12]) > 2
  assert len(files) == len(cached) == 14
  for one, other in zip(files, cached, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_held_out_clips_are_those_of_the_files(dataset):
  write(dataset)
  found = []
  for source in ("json", "array_record"):
    cfg = config(source, dataset, val="", val_share=0.2)
    found.append([list(part) for part in pipeline.sources(cfg, lambda line: None)[:2]])
  assert found[0] == found[1] and all(found[0])


def test_bad_files_are_listed_or_refuse_the_cache(dataset):
  with pytest.raises(PipelineError, match=r"2 of 16 audio files cannot be used, \d of 24 rows"):
    write(dataset, max_bad_fraction=0.01)
  assert not list(dataset.glob("train*/"))
  bad = write(dataset)
  # Half a flac is one as long as its first half is heard.
  assert {record.path: (record.reason, record.row) for record in bad} == {
    "3.mp3": ("undecodable", 3),
    "6.ogg": ("missing", 6),
  }
  listed = (dataset / "train/bad_records.jsonl").read_text().splitlines()
  assert [json.loads(line)["path"] for line in listed] == [record.path for record in bad]


def test_a_cache_appears_whole_and_is_not_written_over(dataset):
  (dataset / "train.part").mkdir()
  (dataset / "train.part/rows-00007.array_record").write_bytes(b"of a writer that was killed")
  write(dataset)
  assert not (dataset / "train.part").exists() and not list(dataset.glob("train/*7*"))
  with pytest.raises(PipelineError, match="train: is there already"):
    write(dataset)


@pytest.mark.parametrize("damage", ["cut", "gone", "index", "version"])
def test_a_cache_that_is_not_whole_is_refused(dataset, damage):
  write(dataset)
  write(dataset, "val")
  file, index = dataset / "train/clips-00000.array_record", dataset / "train/index.json"
  if damage == "cut":
    file.write_bytes(file.read_bytes()[:-1])
  elif damage == "gone":
    file.unlink()
  elif damage == "index":
    index.unlink()
  else:
    index.write_text(index.read_text().replace('"version": 1', '"version": 9'))
  message = {
    "cut": "clips-00000.array_record: has .* bytes",
    "gone": "clips-00000.array_record: has 0 of",
    "index": "train: no readable index.json",
    "version": "train: is not a cache of version 1",
  }
  with pytest.raises(RecordError, match=message[damage]):
    pipeline.sources(config("array_record", dataset))


def test_a_flipped_bit_is_never_heard(dataset):
  write(dataset)
  path = dataset / "train/clips-00000.array_record"
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 1
  path.write_bytes(raw)
  opened, damaged = cache.Cache(dataset / "train"), []
  for name in opened.digests:
    try:
      assert opened.clip(name) == (dataset / name).read_bytes()
    except cache.AudioError as error:
      assert error.reason == "damaged"
      damaged.append(name)
  assert len(damaged) == 1


def test_another_clip_under_the_same_path_is_refused(dataset):
  write(dataset)
  soundfile.write(dataset / "0.wav", np.zeros(9000), 22_050)
  write(dataset, "val")
  with pytest.raises(RecordError, match=r"0\.wav: differs in .*train and .*val"):
    pipeline.sources(config("array_record", dataset))
  with pytest.raises(ConfigError, match=r"config.data.train is empty"):
    pipeline.sources(config("array_record", dataset, train=""))


def test_the_command_writes_a_cache_or_says_why_not(dataset, capsys):
  flags = [f"--rows={dataset / 'train.json'}", f"--audio_root={dataset}"]
  flags += [f"--output={dataset / 'made'}"]
  with pytest.raises(SystemExit) as stopped:
    cache.main(flags)
  assert stopped.value.code == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("mellow_jax.data.cache: 2 of 16 audio files cannot be used")
  cache.main([*flags, "--max_bad_fraction=0.5"])
  said = capsys.readouterr().out
  assert "made: 24 rows" in said and "2 audio files cannot be used (undecodable 1, missing" in said
