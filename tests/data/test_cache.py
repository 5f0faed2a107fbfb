"""A cache gives the rows and clips that the files give, or says what is wrong."""

import json

import audio_rows
import numpy as np
import pytest
import soundfile
import tiny
from audio_rows import write_cache as write
from damage import files_of_at_most, one_line

from mellow_jax.config import DataConfig
from mellow_jax.data import cache, pipeline, records
from mellow_jax.errors import AudioError, DataError, PipelineError


@pytest.fixture
def dataset(tmp_path):
  return audio_rows.write(tmp_path)


def config(dataset, **fields):
  train, val = audio_rows.paths(dataset, "array_record")
  fields = {"preset": "training", "max_bad_fraction": 0.5, "train": train, "val": val, **fields}
  return tiny.run(model=tiny.config(), data=DataConfig(**fields))


def test_large_caches_are_written_in_several_files(dataset):
  write(dataset, shard_bytes=100_000)
  assert len(list((dataset / "train").glob("clips-*"))) > 3
  opened = cache.Cache(dataset / "train")
  for name in opened.crc32:
    assert opened.clip(name) == (dataset / name).read_bytes()
  assert list(opened) == list(records.read(dataset / "train.json"))


def test_a_cache_without_a_digest_of_its_rows_has_the_same(dataset):
  write(dataset)
  digest, index = (
    cache.Cache(dataset / "train").digest,
    dataset / "train/index.json",
  )
  found = json.loads(index.read_text())
  assert found.pop("digest") == digest
  index.write_text(json.dumps(found))
  assert cache.Cache(dataset / "train").digest == digest


def test_bad_files_are_listed_or_refuse_the_cache(dataset):
  with pytest.raises(PipelineError, match=r"3 of 16 audio files cannot be used, \d of 24 rows"):
    write(dataset, max_bad_fraction=0.01)
  assert not list(dataset.glob("train*/"))
  bad = write(dataset)
  assert {record.path: (record.reason, record.row) for record in bad} == {
    "1.flac": ("cut_short", 1),
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
    "index": "train/index.json: is not the index of a",
    "version": "train: is not a cache of version 1",
  }
  with pytest.raises(DataError, match=message[damage]):
    pipeline.sources(config(dataset))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda index: [], r"train: is not a cache of version 1"),
    (lambda index: index | {"files": []}, r"index\.json: files is \[\]: it is damaged"),
    (lambda index: index | {"files": {"rows": {}}}, r"index\.json: 'bytes' is missing: it is"),
    (lambda index: index | {"files": {"rows": 3}}, r"index\.json: .*int.*: it is damaged"),
    (lambda index: index | {"clips": ["0.wav"]}, r"index\.json: .*: it is damaged"),
    (lambda index: index | {"clips": [[["0.wav"], 3]]}, r"index\.json: the path of a clip is \["),
    (lambda index: index | {"bad": {"0.wav": "x"}}, r"index\.json: 0\.wav: its fault is 'x'"),
    (
      lambda index: {name: x for name, x in index.items() if name != "clips"},
      r"index\.json: 'clips' is missing: it is damaged or was changed: copy it again, or write",
    ),
  ],
)
def test_a_damaged_index_is_told_in_one_line(dataset, damage, message):
  write(dataset)
  path = dataset / "train/index.json"
  path.write_text(json.dumps(damage(json.loads(path.read_text()))))
  with pytest.raises(DataError, match=message) as caught:
    cache.Cache(dataset / "train")
  one_line(caught)


def test_a_flipped_bit_is_never_heard(dataset):
  write(dataset)
  path = dataset / "train/clips-00000.array_record"
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 1
  path.write_bytes(raw)
  opened, damaged = cache.Cache(dataset / "train"), []
  for name in opened.crc32:
    try:
      assert opened.clip(name) == (dataset / name).read_bytes()
    except AudioError as error:
      assert error.reason == "damaged"
      damaged.append(name)
  assert len(damaged) == 1


def test_another_clip_under_the_same_path_is_refused(dataset):
  write(dataset)
  soundfile.write(dataset / "0.wav", np.zeros(9000), 22_050)
  write(dataset, "val")
  with pytest.raises(DataError, match=r"0\.wav: differs in .*train and .*val"):
    pipeline.sources(config(dataset))


@pytest.mark.parametrize(("size", "name"), [(100, "rows"), (200_000, "clips")])
def test_a_full_disk_is_one_line_and_leaves_nothing(dataset, size, name):
  with files_of_at_most(size), pytest.raises(PipelineError) as caught:
    write(dataset, shard_bytes=10**6)
  text = one_line(caught)
  assert f"train.part/{name}-00000.array_record: cannot be written (write() failed: File" in text
  assert text.endswith("make room, or name another --output")
  assert not list(dataset.glob("train*/*"))


def test_the_command_writes_a_cache_or_says_why_not(dataset, capsys):
  flags = [f"--rows={dataset / 'train.json'}", f"--audio_root={dataset}"]
  flags += [f"--output={dataset / 'made'}"]
  assert cache.main(["cache", *flags]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: 3 of 16 audio files cannot be used")
  assert not cache.main(["cache", *flags, "--max_bad_fraction=0.5"])
  said = capsys.readouterr().out
  assert "made: 24 rows" in said
  assert "3 audio files cannot be used (cut_short 1, undecodable 1, missing" in said
