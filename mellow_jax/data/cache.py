"""Rows and the audio they name in a few large files, for machines far from many small ones.

  python -m mellow_jax.data.cache --data=train.json --audio_root=DIR --output=cache/train
  mellow train ... --config.data.train=cache/train --config.data.val=cache/val

A cache holds the bytes of the audio files, still encoded, so that random windows of whole files are
possible and nothing is rounded: examples are those of the files, to the last bit.
Files of much more than ten seconds are better left as files, of which only the window is read.

  index.json                 names, sizes and counts of the others; digest of the rows; paths of the
                             clips; which of them cannot be used, and why
  rows-00000.array_record    a row is the JSON list of its fields
  clips-00000.array_record   a clip is the bytes of its file
"""

import contextlib
import functools
import hashlib
import json
import operator
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float32

from mellow_jax import cli, files
from mellow_jax.config import AudioConfig
from mellow_jax.data import audio, bad_records, records
from mellow_jax.data.bad_records import BadRecord
from mellow_jax.data.presets import Preset
from mellow_jax.data.records import Record, StoredRows
from mellow_jax.errors import AudioError, DataError, PipelineError, first_line

VERSION = 1
INDEX = "index.json"
SHARD_MIB = 1024
THREADS = 16  # that look at and read audio files while a cache is written


class Cache(StoredRows):
  """The rows of a cache folder, in the order of their file, and the bytes of its clips.

  Its files are read when a row or a clip is asked for.
  """

  def __init__(self, folder: str | os.PathLike):
    """Raises DataError where the folder is no whole cache."""
    self.path = os.fspath(folder)
    index = _read_index(Path(folder))
    for name, file in index["files"].items():
      path = Path(folder) / name
      size = path.stat().st_size if path.is_file() else 0
      if size != file["bytes"]:
        raise DataError(f"{path}: has {size} of {file['bytes']} bytes: copy or write it again")
    self.bad: dict[str, list[str]] = index["bad"]
    self.crc32: dict[str, int] = dict(index["clips"])
    self._digest: str = index.get("digest", "")  # of the rows; older caches have none
    self._places = {path: i for i, path in enumerate(self.crc32)}
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

  def between(self, start: int, stop: int) -> Iterator[Record]:
    """The rows from start up to stop; raises DataError where a file is damaged."""
    try:
      rows = self._rows.__getitems__(range(start, stop))
    except RuntimeError as error:
      raise DataError(
        f"{self.path}: one of the rows {start} to {stop - 1} is damaged ({error}): write it again"
      ) from None
    for i, fields in enumerate(rows, start):
      yield Record(*json.loads(fields), row=i)

  def audio_paths(self) -> list[str]:
    """Each audio path the rows name, once."""
    return [*self._places, *self.bad]

  @functools.cached_property
  def digest(self) -> str:
    """The digest of the rows that were written."""
    return self._digest or super().digest

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


def _read_index(folder: Path) -> dict[str, Any]:
  """The index of a cache's folder. Raises DataError where it is none, or damaged."""
  path = folder / INDEX
  index = files.read_json(path, "the index of a mellow_jax.data.cache")
  if not isinstance(index, dict) or index.get("version") != VERSION:
    raise DataError(f"{folder}: is not a cache of version {VERSION}: write it anew")
  try:
    _check_index(index)
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
    raise DataError(
      f"{path}: {what}: it is damaged or was changed: copy it again, or write the cache anew"
    ) from None
  return index


def _check_index(index: dict[str, Any]) -> None:
  """Raises one of several built-in errors for what is no index."""
  for name, kind in {"files": dict, "clips": list, "bad": dict}.items():
    if not isinstance(index[name], kind):
      raise TypeError(f"{name} is {index[name]!r:.40}")
  for file in index["files"].values():
    operator.index(file["bytes"])
  for path, crc32 in index["clips"]:
    if not isinstance(path, str):
      raise TypeError(f"the path of a clip is {path!r:.40}")
    operator.index(crc32)
  for path, fault in index["bad"].items():
    if not isinstance(fault, list) or len(fault) != 2:
      raise ValueError(f"{path}: its fault is {fault!r:.40}")


@dataclass(frozen=True)
class CacheClips:
  """The clips of a cache."""

  cache: Cache
  cfg: AudioConfig
  preset: Preset

  @property
  def name(self) -> str:
    """The cache's folder."""
    return self.cache.path

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "S"]:
    """The waveform of a clip. Raises AudioError as audio.load does."""
    return audio.load(self.cache.clip(path), self.cfg, self.preset, rng=rng, name=path).wav

  def crc32(self, path: str) -> int | None:
    """CRC-32 of the encoded file, or None where it could not be used."""
    return self.cache.crc32.get(path)

  def stamp(self, path: str) -> list[int]:
    """The same: a cache knows it."""
    return [self.cache.crc32.get(path, -1)]


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

  The folder appears when all is written. Raises PipelineError where it is there already or cannot
  be written, and where more than the allowed share of the rows name a file that cannot be used.
  """
  output = Path(output)
  if output.exists():
    raise PipelineError(f"{output}: is there already: remove it, or give another --output")
  named = _first_rows(rows)
  bad = _unusable(named, Path(audio_root))
  affected = sum(row.filepath1 in bad or row.filepath2 in bad for row in rows)
  if affected > max_bad_fraction * len(rows):
    raise PipelineError(
      f"{len(bad)} of {len(named)} audio files cannot be used, {affected} of {len(rows)} rows name "
      f"them, first: {next(iter(bad.values())).message}; mend them, check --audio_root, or allow "
      "more by --max_bad_fraction"
    )
  digest, clips = hashlib.sha256(), []  # of the rows; path and CRC-32 of each audio file

  def encoded_rows() -> Iterator[bytes]:
    for row in rows:
      digest.update(fields := records.content(row))
      yield fields

  def encoded_clips() -> Iterator[bytes]:
    usable = [path for path in named if path not in bad]
    for path, raw in zip(usable, _contents(Path(audio_root), usable), strict=True):
      clips.append((path, zlib.crc32(raw)))
      yield raw

  with files.replacing_folder(output) as folder:
    shards = _write_shards(folder, "rows", encoded_rows(), shard_bytes)
    shards |= _write_shards(folder, "clips", encoded_clips(), shard_bytes)
    index = {
      "version": VERSION,
      "files": shards,
      "digest": digest.hexdigest()[:16],
      "clips": clips,
      "bad": {path: (record.message, record.reason) for path, record in bad.items()},
    }
    files.write_text(folder / INDEX, json.dumps(index))  # in one line: there may be a million clips
    bad_records.BadRecords(folder / "bad_records.jsonl").add(bad.values())
  return [*bad.values()]


def _first_rows(rows: Iterable[Record]) -> dict[str, int]:
  """Each audio path that the rows name, and the number of the first row that does."""
  found: dict[str, int] = {}
  for row in rows:
    for path in filter(None, (row.filepath1, row.filepath2)):
      found.setdefault(path, row.row)
  return found


def _unusable(named: dict[str, int], root: Path) -> dict[str, BadRecord]:
  """The audio files that cannot be used, by path."""
  with ThreadPoolExecutor(THREADS) as pool:  # where files are far away, most of it is waiting
    faults = pool.map(lambda path: _fault(root / path), named)
    return {
      path: BadRecord(path, fault.reason, str(fault), number)
      for (path, number), fault in zip(named.items(), faults, strict=True)
      if fault
    }


def _contents(root: Path, paths: Sequence[str]) -> Iterator[bytes]:
  """The bytes of files, of which no more than THREADS are in memory."""
  with ThreadPoolExecutor(THREADS) as pool:
    for begin in range(0, len(paths), THREADS):
      yield from pool.map(lambda path: (root / path).read_bytes(), paths[begin : begin + THREADS])


def _fault(path: Path) -> AudioError | None:
  """Why a file cannot be used, as far as its header tells."""
  try:
    audio.check(path)
  except AudioError as error:
    return error
  return None


def _write_shards(
  folder: Path, kind: str, items: Iterable[bytes], shard_bytes: int
) -> dict[str, dict[str, Any]]:
  """Writes the items to files of about shard_bytes; their sizes and numbers of records by name."""
  found: dict[str, dict[str, Any]] = {}
  writer, name, held, count = None, "", 0, 0

  def close() -> None:
    with _writing(folder / name):
      writer.close()
    found[name] = {"bytes": (folder / name).stat().st_size, "records": count}

  for item in items:
    if writer and held + len(item) > shard_bytes:
      close()
      writer = None
    if not writer:
      name, held, count = f"{kind}-{len(found):05d}.array_record", 0, 0
      # Records are read one at a time, in random order; audio is compressed as far as it goes.
      with _writing(folder / name):
        writer = ArrayRecordWriter(str(folder / name), "group_size:1,uncompressed")
    with _writing(folder / name):
      writer.write(item)
    held, count = held + len(item), count + 1
  if writer:
    close()
  return found


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
  """Raises PipelineError where the block cannot write path; array_record says so in many words."""
  try:
    yield
  except RuntimeError as error:
    reason = first_line(error).split(";")[0]
    raise PipelineError(
      f"{path}: cannot be written ({reason}): make room, or name another --output"
    ) from None


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("data", help="Rows in JSON or CSV.")
  cli.define_old_name(f, "rows", "data")
  text("audio_root", help="Folder that the rows' audio paths start from.")
  text("output", help="Folder to write.")
  share = "Share of the rows whose audio may be bad."
  flags.DEFINE_float("max_bad_fraction", 0.01, share, 0.0, 1.0, flag_values=f)
  flags.DEFINE_integer("shard_mib", SHARD_MIB, "Size of a file in MiB.", 1, flag_values=f)
  return f


def _cache(f: flags.FlagValues) -> None:
  cli.require(f, "data", "audio_root", "output")
  rows, folder = records.read(f.data), Path(f.output)
  how = {"max_bad_fraction": f.max_bad_fraction, "shard_bytes": f.shard_mib * 2**20}
  bad = write(rows, Path(f.audio_root), folder, **how)
  print(f"{folder}: {len(rows)} rows")
  if bad:
    reasons = ", ".join(f"{r} {n}" for r, n in Counter(b.reason for b in bad).items())
    print(f"{len(bad)} audio files cannot be used ({reasons}): see {folder}/bad_records.jsonl")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(
    argv,
    _flags(),
    __doc__,
    _cache,
    example="--data=FILE --output=DIR",
    waits_for="writing the cache",
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
