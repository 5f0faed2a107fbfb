"""Rows and the audio they name in a few large files, for machines far from many small ones.

  python -m mellow_jax.data.cache --rows=train.json --audio_root=DIR --output=cache/train
  python -m mellow_jax.train ... --config.data.source=array_record --config.data.train=cache/train

A cache holds the audio files as they are, encoded: windows are drawn from all of a file, and what
is not decoded cannot be rounded. So it gives the examples that the files give, to the last bit.
Files of much more than ten seconds are better left as files, of which only the window is read.

  index.json                 names, sizes and counts of the others; the paths of the clips; which of
                             them cannot be used, and why
  rows-00000.array_record    a row is the JSON list of its fields
  clips-00000.array_record   a clip is the bytes of its file
"""

import argparse
import json
import operator
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float32

from mellow_jax.config import AudioConfig
from mellow_jax.data import audio, bad_records, records
from mellow_jax.data.audio import AudioError
from mellow_jax.data.bad_records import BadRecord, PipelineError
from mellow_jax.data.prompts import Preset
from mellow_jax.data.records import FIELDS, Record, RecordError

VERSION = 1
INDEX = "index.json"
SHARD_MIB = 1024


class Cache:
  """A cache folder, opened; its files are read when a row or a clip is asked for."""

  def __init__(self, folder: str | os.PathLike):
    """Raises RecordError where the folder is no whole cache."""
    self.path = os.fspath(folder)
    try:
      index = json.loads((Path(folder) / INDEX).read_text())
    except (OSError, ValueError) as error:
      raise RecordError(
        f"{self.path}: no readable {INDEX} ({error}): write it with python -m mellow_jax.data.cache"
      ) from None
    if index.get("version") != VERSION:
      raise RecordError(f"{self.path}: is not a cache of version {VERSION}: write it anew")
    for name, file in index["files"].items():
      path = Path(folder) / name
      size = path.stat().st_size if path.is_file() else 0
      if size != file["bytes"]:
        raise RecordError(f"{path}: has {size} of {file['bytes']} bytes: copy or write it again")
    self.bad: dict[str, list[str]] = index["bad"]
    self.digests: dict[str, int] = dict(index["clips"])
    self._places = {path: i for i, path in enumerate(self.digests)}
    self._rows, self._clips = (
      grain.sources.ArrayRecordDataSource(
        [str(Path(folder) / name) for name in index["files"] if name.startswith(kind)]
      )
      if any(name.startswith(kind) for name in index["files"])
      else []
      for kind in ("rows-", "clips-")
    )

  def __len__(self) -> int:
    return len(self._rows)

  def row(self, index: int) -> list[str]:
    """The fields of a row. Raises RecordError where the file is damaged."""
    try:
      return json.loads(self._rows[index])
    except RuntimeError as error:
      raise RecordError(f"{self.path}: row {index} is damaged ({error}): write it again") from None

  def audio_paths(self) -> list[str]:
    """Each audio path the rows name, once."""
    return [*self._places, *self.bad]

  def clip(self, path: str) -> bytes:
    """The bytes of an audio file. Raises AudioError for one that could not be used."""
    if path in self.bad:
      raise AudioError(*self.bad[path])
    try:
      return self._clips[self._places[path]]
    except RuntimeError as error:
      raise AudioError(
        f"{path}: is damaged in {self.path} ({error}): write the cache again", "damaged"
      ) from None


@dataclass(frozen=True)
class CacheRows(Sequence[Record]):
  """The records of a cache, in the order of the file they come from."""

  cache: Cache

  @property
  def path(self) -> str:
    """The cache's folder."""
    return self.cache.path

  def __len__(self) -> int:
    return len(self.cache)

  def __getitem__(self, index: SupportsIndex) -> Record:
    index = operator.index(index)
    if not -len(self) <= index < len(self):
      raise IndexError(f"row {index} of {len(self)}")
    index %= len(self)
    return Record(*self.cache.row(index), row=index)

  def audio_paths(self) -> list[str]:
    """Each audio path the rows name, once."""
    return self.cache.audio_paths()


@dataclass(frozen=True)
class CacheClips:
  """The clips of one or more caches."""

  caches: tuple[Cache, ...]
  cfg: AudioConfig
  preset: Preset

  def __post_init__(self):
    """Raises RecordError where a path is another clip in another cache."""
    first = self.caches[0]
    for other in self.caches[1:]:
      for path in first.digests.keys() & other.digests.keys():
        if first.digests[path] != other.digests[path]:
          raise RecordError(f"{path}: differs in {first.path} and {other.path}: write them anew")

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "S"]:
    """The waveform of a clip. Raises AudioError as audio.load does."""
    cache = next((c for c in self.caches if path in c.digests or path in c.bad), None)
    if cache is None:
      raise AudioError(f"{path}: is in none of {[c.path for c in self.caches]}", "missing")
    return audio.load(cache.clip(path), self.cfg, self.preset, rng=rng, name=path).wav


# --- Writing -------------------------------------------------------------------------------------


def write(
  rows: Sequence[Record],
  audio_root: str | os.PathLike,
  output: str | os.PathLike,
  *,
  max_bad_fraction: float = 0.01,
  shard_bytes: int = SHARD_MIB * 2**20,
) -> list[BadRecord]:
  """Writes a cache, and returns the audio files that cannot be used, by the first row naming each.

  The folder appears when all is written. Raises PipelineError where it is there already, and where
  more than the allowed share of the rows name a file that cannot be used.
  """
  output = Path(output)
  if output.exists():
    raise PipelineError(f"{output}: is there already: remove it, or give another --output")
  first: dict[str, int] = {}
  for row in rows:
    for path in filter(None, (row.filepath1, row.filepath2)):
      first.setdefault(path, row.row)
  bad: dict[str, BadRecord] = {}
  for path, number in first.items():
    try:
      audio.check(Path(audio_root) / path)
    except AudioError as error:
      bad[path] = BadRecord(path, error.reason, str(error), number)
  named = sum(row.filepath1 in bad or row.filepath2 in bad for row in rows)
  if named > max_bad_fraction * len(rows):
    raise PipelineError(
      f"{len(bad)} of {len(first)} audio files cannot be used, {named} of {len(rows)} rows name "
      f"them, first: {next(iter(bad.values())).message}; mend them, check --audio_root, or allow "
      "more by --max_bad_fraction"
    )

  unfinished = output.with_name(f"{output.name}.part")
  shutil.rmtree(unfinished, ignore_errors=True)  # of a writer that was killed
  unfinished.mkdir(parents=True)
  fields = (json.dumps([getattr(row, field) for field in FIELDS]).encode() for row in rows)
  clips: list[tuple[str, int]] = []

  def encoded() -> Iterator[bytes]:
    for path in first:
      if path not in bad:
        raw = (Path(audio_root) / path).read_bytes()
        clips.append((path, zlib.crc32(raw)))
        yield raw

  files = _write_shards(unfinished, "rows", fields, shard_bytes)
  files |= _write_shards(unfinished, "clips", encoded(), shard_bytes)
  index = {
    "version": VERSION,
    "files": files,
    "clips": clips,
    "bad": {path: (record.message, record.reason) for path, record in bad.items()},
  }
  (unfinished / INDEX).write_text(json.dumps(index))
  bad_records.Report(unfinished / "bad_records.jsonl").add(bad.values())
  unfinished.rename(output)
  return [*bad.values()]


def _write_shards(
  folder: Path, kind: str, items: Iterable[bytes], shard_bytes: int
) -> dict[str, dict[str, Any]]:
  """Writes the items to files of about shard_bytes; their sizes and numbers of records by name."""
  found: dict[str, dict[str, Any]] = {}
  writer, name, held, count = None, "", 0, 0

  def close() -> None:
    writer.close()
    found[name] = {"bytes": (folder / name).stat().st_size, "records": count}

  for item in items:
    if writer and held + len(item) > shard_bytes:
      close()
      writer = None
    if not writer:
      name, held, count = f"{kind}-{len(found):05d}.array_record", 0, 0
      # Records are read one at a time, in random order; audio is compressed as far as it goes.
      writer = ArrayRecordWriter(str(folder / name), "group_size:1,uncompressed")
    writer.write(item)
    held, count = held + len(item), count + 1
  if writer:
    close()
  return found


def main(argv: Sequence[str] | None = None) -> None:
  """The command: writes a cache of a file of rows."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--rows", type=Path, required=True, help="JSON or CSV of rows")
  parser.add_argument("--audio_root", type=Path, required=True, help="folder of the rows' paths")
  parser.add_argument("--output", type=Path, required=True, help="folder to write")
  parser.add_argument("--max_bad_fraction", type=float, default=0.01, help="of rows (default 0.01)")
  parser.add_argument("--shard_mib", type=int, default=SHARD_MIB, help="size of a file")
  args = parser.parse_args(argv)
  try:
    rows = records.read(args.rows)
    bad = write(
      rows,
      args.audio_root,
      args.output,
      max_bad_fraction=args.max_bad_fraction,
      shard_bytes=args.shard_mib * 2**20,
    )
  except (PipelineError, RecordError, OSError) as error:
    parser.exit(1, f"mellow_jax.data.cache: {error}\n")
  print(f"{args.output}: {len(rows)} rows")
  if bad:
    reasons = ", ".join(f"{r} {n}" for r, n in Counter(b.reason for b in bad).items())
    print(f"{len(bad)} audio files cannot be used ({reasons}): see {args.output}/bad_records.jsonl")


if __name__ == "__main__":
  main()
