"""What a frozen encoder makes of clips, kept: training then reads features and no audio.

`mellow cache-features` writes the folder:

  index.json       which encoder, preset and code made it; places of the clips; faults of bad ones
  features.bin     a row for each window of each clip, of the type that the index names

A clip that is cropped at random has several windows: the first is that of evaluation, of the others
training takes one at random.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mellow_jax import files
from mellow_jax.data.clips import EncodedClips
from mellow_jax.errors import AudioError, DataError

INDEX, ROWS = "index.json", "features.bin"
TYPES = {"float32": np.float32, "bfloat16": np.uint16}  # as they stand in the file
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


def check_made_by(folder: str | os.PathLike, made_by: Mapping[str, Any]) -> dict[str, Any]:
  """The index of a folder. Raises DataError where something else than this has made it."""
  index = files.read_json(Path(folder) / INDEX, "the index of `mellow cache-features`")
  found = index.get("made_by", {})
  for name, value in made_by.items():
    if found.get(name) != value:
      raise DataError(
        f"{folder}: is stale: its {name} is {found.get(name)}, that of the run {value}: {REMEDY}"
      )
  return index


def open_folder(
  folder: str | os.PathLike, made_by: Mapping[str, Any], store: EncodedClips
) -> FeatureClips:
  """The features of a folder. made_by says what must have made them, store has the clips.

  Raises DataError where the folder is not whole, or where preset, code or a clip has changed since
  it was written.
  """
  index, folder = check_made_by(folder, made_by), Path(folder)
  for path, stamp in index["clips"].items():
    if path == SILENCE or (stamp["file"] and stamp["file"] == store.stamp(path)):
      continue
    if stamp["crc32"] != store.crc32(path):
      raise DataError(f"{folder}: is stale: {path} has changed: {REMEDY}")
  width, dtype = index["width"], np.dtype(TYPES[index["dtype"]])
  path = folder / ROWS
  size = path.stat().st_size if path.is_file() else 0
  expected = index["rows"] * width * dtype.itemsize
  if size != expected:
    raise DataError(f"{path}: has {size} of {expected} bytes: copy or write it again")
  rows = np.memmap(path, dtype, mode="r", shape=(index["rows"], width))
  places = {path: (clip["first"], clip["windows"]) for path, clip in index["clips"].items()}
  bad = {path: (message, reason) for path, (message, reason) in index["bad"].items()}
  return FeatureClips(os.fspath(folder), rows, places, bad)


def write_index(
  folder: Path,
  made_by: Mapping[str, Any],
  clips: Mapping[str, Mapping[str, Any]],
  bad: Mapping[str, tuple[str, str]],
  *,
  rows: int,
  width: int,
  dtype: str,
) -> None:
  """Writes the index of a folder, after its features."""
  sizes = {"rows": rows, "width": width, "dtype": dtype}
  content = {"made_by": made_by, **sizes, "clips": clips, "bad": bad}
  files.write_text(folder / INDEX, json.dumps(content))
