"""What a frozen encoder makes of clips, kept: training then reads features and no audio.

`mellow cache-features` writes the folder:

  index.json       which encoder, preset and code made it; places of the clips; faults of bad ones
  features.bin     a row for each window of each clip, of the type that the index names

A clip that is cropped at random has several windows: the first is that of evaluation, of the others
training takes one at random.
"""

import itertools
import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mellow_jax import files
from mellow_jax.data.clips import EncodedClips
from mellow_jax.data.records import Rows
from mellow_jax.errors import AudioError, DataError, first_line

INDEX, ROWS = "index.json", "features.bin"
TYPES = {"float32": np.float32, "bfloat16": np.uint16}  # as they stand in the file
KINDS = {"made_by": dict, "rows": int, "width": int, "dtype": str, "clips": dict, "bad": dict}
STAMP = {"file", "crc32"}  # of a clip
FAULT = {"message", "reason", *STAMP}  # of a bad one
REMEDY = "write it anew with `mellow cache-features`"
SILENCE = ""  # the path of the silent clip


@dataclass(frozen=True)
class FeatureClips:
  """The features of clips, in the place of their waveforms."""

  folder: str
  rows: np.ndarray  # of all windows, on disk
  places: Mapping[str, tuple[int, int]]  # the first row of each path, and how many
  bad: Mapping[str, tuple[str, str]]  # the fault of each clip without features, and its reason

  @property
  def silence(self) -> Float32[np.ndarray, "F"]:
    """The features of silence."""
    return self.load(SILENCE)

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "F"]:
    """The features of a clip; with rng, of one of its windows. Raises AudioError for a bad one."""
    if path in self.bad:
      raise AudioError(*self.bad[path])
    first, windows = self.places[path]
    if rng is not None and windows > 1:
      first += 1 + int(rng.integers(windows - 1))
    row = self.rows[first]
    # Of a bfloat16 the bits are the upper half of a float32's.
    return row.copy() if row.dtype == np.float32 else (row.astype(np.uint32) << 16).view(np.float32)


def named(*rows: Rows) -> dict[str, None]:
  """The clips that rows name, each once: those that a folder must have."""
  return dict.fromkeys(itertools.chain.from_iterable(part.audio_paths() for part in rows))


def _read_index(folder: str | os.PathLike) -> dict[str, Any]:
  """The index of a folder. Raises DataError where it is none, or damaged."""
  path = Path(folder) / INDEX
  index = files.read_json(path, "the index of `mellow cache-features`")
  try:
    _check_index(index)
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
    raise DataError(f"{path}: {what}: it is damaged or was changed: {REMEDY}") from None
  return index


def _check_index(index: Any) -> None:
  """Raises one of several built-in errors for what is no index."""
  if not isinstance(index, dict):
    raise TypeError(f"holds {index!r:.40}, expected an object")
  for name, kind in KINDS.items():
    if not isinstance(index[name], kind):
      raise TypeError(f"{name} is {index[name]!r:.40}")
  if index["dtype"] not in TYPES:
    raise ValueError(f"dtype is {index['dtype']!r:.40}, expected {' or '.join(TYPES)}")
  if index["width"] < 1 or SILENCE not in index["clips"]:
    raise ValueError("the features of silence are missing")
  for path, clip in index["clips"].items():
    first, windows = (operator.index(clip[name]) for name in ("first", "windows"))
    if first < 0 or windows < 1 or first + windows > index["rows"]:
      raise ValueError(f"{path}: rows {first} to {first + windows - 1} of {index['rows']}")
    if path != SILENCE and not clip.keys() >= STAMP:
      raise ValueError(f"{path}: its stamp is missing")
  for path, fault in index["bad"].items():
    is_whole = fault.keys() == FAULT if isinstance(fault, dict) else len(fault) == 2
    if not is_whole:
      raise ValueError(f"{path}: its fault is {fault!r:.40}")


def check_made_by(folder: str | os.PathLike, made_by: Mapping[str, Any]) -> dict[str, Any]:
  """The index of a folder. Raises DataError where something else than this has made it."""
  index = _read_index(folder)
  found = index["made_by"]
  for name, value in made_by.items():
    if found.get(name) != value:
      raise DataError(
        f"{folder}: is stale: its {name} is {found.get(name)}, that of the run {value}: {REMEDY}"
      )
  return index


def open_folder(
  folder: str | os.PathLike,
  made_by: Mapping[str, Any],
  store: EncodedClips,
  paths: Iterable[str],
) -> FeatureClips:
  """The features of a folder. made_by says what must have made them, store has the clips.

  paths are those that rows name. Raises DataError where the folder is not whole or lacks one of
  them, or where preset, code or one of their clips has changed since it was written.
  """
  index, folder = check_made_by(folder, made_by), Path(folder)
  # A folder that an older version wrote has two texts for a bad clip, and no stamp.
  bad = {
    path: fault if isinstance(fault, dict) else {"message": fault[0], "reason": fault[1]}
    for path, fault in index["bad"].items()
  }
  _check_clips(folder, {**bad, **index["clips"]}, store, [*paths])
  width, dtype = index["width"], np.dtype(TYPES[index["dtype"]])
  path = folder / ROWS
  size = path.stat().st_size if path.is_file() else 0
  expected = index["rows"] * width * dtype.itemsize
  if size != expected:
    raise DataError(f"{path}: has {size} of {expected} bytes: copy or write it again")
  rows = np.memmap(path, dtype, mode="r", shape=(index["rows"], width))
  places = {path: (clip["first"], clip["windows"]) for path, clip in index["clips"].items()}
  faults = {path: (fault["message"], fault["reason"]) for path, fault in bad.items()}
  return FeatureClips(os.fspath(folder), rows, places, faults)


def _check_clips(
  folder: Path, known: Mapping[str, Mapping[str, Any]], store: EncodedClips, paths: Sequence[str]
) -> None:
  """Raises DataError where a clip of the rows is not among those known, or has changed since."""
  if absent := [path for path in paths if path not in known]:
    raise DataError(
      f"{folder}: {len(absent)} of the {len(paths)} clips that rows name are not in it, first "
      f"{absent[0]}: {REMEDY}"
    )
  for path in paths:
    stamp = known[path]
    if not stamp.keys() >= STAMP:
      continue  # a bad clip of an older folder
    # A file that could not be opened has the same time once its permissions are mended.
    was_read = stamp["crc32"] is not None
    if was_read and stamp["file"] and stamp["file"] == store.stamp(path):
      continue
    if stamp["crc32"] != store.crc32(path):
      raise DataError(f"{folder}: is stale: {path} has changed: {REMEDY}")


def write_index(
  folder: Path,
  made_by: Mapping[str, Any],
  clips: Mapping[str, Mapping[str, Any]],
  bad: Mapping[str, Mapping[str, Any]],
  *,
  rows: int,
  width: int,
  dtype: str,
) -> None:
  """Writes the index of a folder, after its features."""
  sizes = {"rows": rows, "width": width, "dtype": dtype}
  content = {"made_by": made_by, **sizes, "clips": clips, "bad": bad}
  files.write_text(folder / INDEX, json.dumps(content))
