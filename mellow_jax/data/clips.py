"""The clips of rows by their audio paths: read from files, joined from several stores, cached."""

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from mellow_jax.config import AudioConfig
from mellow_jax.data import audio, records
from mellow_jax.data.audio import Reason
from mellow_jax.data.presets import Preset
from mellow_jax.errors import AudioError, DataError


@runtime_checkable
class Clips(Protocol):
  """Waveforms by audio path."""

  def load(self, path: str, rng: np.random.Generator | None) -> Float32[np.ndarray, "S"]:
    """The clip of a row's path; rng chooses the window where the preset crops at random."""
    ...


@runtime_checkable
class EncodedClips(Clips, Protocol):
  """Clips of encoded files, with what tells whether a file is still the same."""

  def crc32(self, path: str) -> int | None:
    """CRC-32 of the encoded file, or None where it cannot be used."""
    ...

  def stamp(self, path: str) -> list[int]:
    """What tells at a glance that the encoded file is the same."""
    ...


@runtime_checkable
class Store(EncodedClips, Protocol):
  """The clips of one source of rows."""

  name: str  # for messages


@dataclass(frozen=True)
class FileClips:
  """Clips of the audio files below a root folder, by the paths that records give.

  Symbolic links are followed, wherever they lead: datasets are put together with them, and the root
  is trusted. The paths of records are not.
  """

  root: str | os.PathLike
  cfg: AudioConfig
  preset: Preset
  # Files that are bad for a lasting reason: they are not read again and again.
  known_bad: dict[str, tuple[str, Reason]] = field(default_factory=dict)

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "S"]:
    """The waveform of a file below the root.

    Raises AudioError as audio.load does, and for a path that is absolute, has a drive letter, a
    ".." or a NUL.
    """
    if path in self.known_bad:
      raise AudioError(*self.known_bad[path])
    try:
      return audio.load(Path(self.root) / _relative(path), self.cfg, self.preset, rng=rng).wav
    except AudioError as error:
      if error.reason in audio.LASTING:
        self.known_bad[path] = error.args
      raise

  @property
  def name(self) -> str:
    """The root folder."""
    return os.fspath(self.root)

  def crc32(self, path: str) -> int | None:
    """CRC-32 of the encoded file, or None where it cannot be read."""
    try:
      return zlib.crc32((Path(self.root) / _relative(path)).read_bytes())
    except (AudioError, OSError):
      return None

  def stamp(self, path: str) -> list[int]:
    """Size in bytes and time of change in ns, or nothing where it cannot be read."""
    try:
      found = (Path(self.root) / _relative(path)).stat()
      return [found.st_size, found.st_mtime_ns]
    except (AudioError, OSError):
      return []


def _relative(path: str) -> str:
  try:
    return records.relative_path(path)
  except ValueError as error:
    raise AudioError(f"audio path {error}", "path") from None


@dataclass(frozen=True)
class JoinedClips:
  """The clips of several stores: each path's in the first store whose rows name it."""

  stores: tuple[Store, ...]
  place: dict[str, int]  # of each path: which store

  @classmethod
  def of(cls, paths: Iterable[tuple[Store, Iterable[str]]]) -> "JoinedClips":
    """The clips of stores and of the paths that the rows of each name.

    Raises DataError where a path is one clip in one store, and another in another.
    """
    stores: list[Store] = []
    place: dict[str, int] = {}
    for store, named in paths:
      if store not in stores:
        stores.append(store)
      number = stores.index(store)
      for path in named:
        first = place.setdefault(path, number)
        if first == number:
          continue
        found = {stores[first].crc32(path), store.crc32(path)} - {None}
        if len(found) > 1:
          raise DataError(
            f"{path}: differs in {stores[first].name} and {store.name}: write what is out of date "
            "anew, or give one of them another name"
          )
    return cls(tuple(stores), place)

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "S"]:
    """The clip of a path. Raises AudioError as its store does."""
    return self.stores[self.place[path]].load(path, rng)

  def crc32(self, path: str) -> int | None:
    """CRC-32 of the encoded file, or None where it cannot be used."""
    return self.stores[self.place[path]].crc32(path)

  def stamp(self, path: str) -> list[int]:
    """What tells at a glance that the encoded file is the same."""
    return self.stores[self.place[path]].stamp(path)


@dataclass(frozen=True)
class CachedClips:
  """Clips that are decoded once and kept in memory, for presets that crop nothing at random."""

  clips: EncodedClips
  kept: dict[str, Float32[np.ndarray, "S"]] = field(default_factory=dict)

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "S"]:
    """The clip of a path. Raises AudioError as the reader behind it does."""
    if path not in self.kept:
      self.kept[path] = self.clips.load(path, None)
    return self.kept[path]

  def crc32(self, path: str) -> int | None:
    """CRC-32 of the encoded file, or None where it cannot be used."""
    return self.clips.crc32(path)

  def stamp(self, path: str) -> list[int]:
    """What tells at a glance that the encoded file is the same."""
    return self.clips.stamp(path)
