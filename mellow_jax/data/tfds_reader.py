"""Rows and clips of the TFDS datasets reasonaqa/rows and reasonaqa/audio, read for training.

The builder is mellow_jax.reasonaqa.reasonaqa_dataset_builder. TensorFlow is not needed.
"""

import functools
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32

from mellow_jax.config import AudioConfig
from mellow_jax.data import audio
from mellow_jax.data.presets import Preset
from mellow_jax.data.records import FIELDS, Record, StoredRows
from mellow_jax.errors import AudioError, DataError


class _Dataset:
  """A split of a folder that TFDS wrote; opened again where it is sent to another process."""

  def __init__(self, folder: str | os.PathLike, split: str):
    """Raises DataError where there is no such dataset or split."""
    self.folder, self.split = os.fspath(folder), split
    try:
      builder = tfds.builder_from_directory(folder)
      self._source = builder.as_data_source(split)
      self.metadata = dict(builder.info.metadata.items())
    except (OSError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
      raise DataError(
        f"{self.folder}: cannot be read as split {split!r} of a TFDS dataset in ArrayRecord "
        f"({str(error).splitlines()[0]}): build it anew"
      ) from None
    # A file that was cut off would give examples without features.
    about = builder.info.splits[split]
    size = sum(path.stat().length for path in about.filepaths)
    if size != int(about.num_bytes):
      raise DataError(
        f"{self.folder}: split {split!r} has {size} of {int(about.num_bytes)} bytes: build it anew"
      )

  def __reduce__(self) -> tuple:
    return type(self), (self.folder, self.split)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The features of an example. Raises RuntimeError where its file is damaged."""
    return self._source[index]

  def between(self, start: int, stop: int) -> Sequence[dict[str, Any]]:
    """The features of the examples from start up to stop."""
    return self._source.__getitems__(range(start, stop))


def audio_of(folder: Path) -> Path:
  """The folder of the clips of a folder of rows."""
  return folder.parent.parent / "audio" / folder.name


class TfdsRows(StoredRows):
  """The records of a split, in the order of the file they come from."""

  def __init__(self, folder: str | os.PathLike, split: str):
    """Raises DataError where there is no such dataset or split."""
    self.path = os.fspath(folder)
    self._dataset = _Dataset(folder, split)
    if split not in self._dataset.metadata:
      raise DataError(f"{self.path}: is no dataset reasonaqa/rows: give the folder of that")
    self._about = self._dataset.metadata[split]

  def __len__(self) -> int:
    return len(self._dataset)

  def between(self, start: int, stop: int) -> Iterator[Record]:
    """The rows from start up to stop; raises DataError where a file is damaged."""
    try:
      examples = self._dataset.between(start, stop)
    except RuntimeError as error:
      raise DataError(
        f"{self.path}: one of the rows {start} to {stop - 1} is damaged ({error}): build it anew"
      ) from None
    for i, example in enumerate(examples, start):
      yield Record(*(example[field].decode() for field in FIELDS), row=i)

  def audio_paths(self) -> list[str]:
    """Each audio path the rows name, once, in order of appearance."""
    return self._about["audio_paths"]

  @functools.cached_property
  def digest(self) -> str:
    """The digest of the file that the dataset was built from."""
    return self._about["digest"]


@dataclass(frozen=True)
class TfdsClips:
  """The clips of a dataset reasonaqa/audio."""

  folder: Path
  cfg: AudioConfig
  preset: Preset

  def __post_init__(self):
    """Raises DataError where there is no such dataset."""
    _ = self._places

  @property
  def name(self) -> str:
    """The dataset's folder."""
    return os.fspath(self.folder)

  @functools.cached_property
  def _dataset(self) -> _Dataset:
    return _Dataset(self.folder, "clips")

  @functools.cached_property
  def _places(self) -> dict[str, int]:
    if "paths" not in self._dataset.metadata:
      raise DataError(f"{self.folder}: is no dataset reasonaqa/audio: build it anew")
    return {path: place for place, path in enumerate(self._dataset.metadata["paths"])}

  def _bytes(self, path: str) -> bytes:
    """The bytes of an audio file. Raises AudioError for one that cannot be used."""
    if path not in self._places:
      raise AudioError(f"{path}: is not in {self.folder}: build it anew", "missing")
    try:
      example = self._dataset[self._places[path]]
    except RuntimeError as error:
      raise AudioError(
        f"{path}: is damaged in {self.folder} ({error}): build it anew", "damaged"
      ) from None
    if example["path"].decode() != path:
      raise AudioError(f"{path}: is another clip in {self.folder}: build it anew", "damaged")
    if example["reason"]:
      raise AudioError(example["fault"].decode(), example["reason"].decode())
    return example["audio"]

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "S"]:
    """The waveform of a clip. Raises AudioError as audio.load does."""
    return audio.load(self._bytes(path), self.cfg, self.preset, rng=rng, name=path).wav

  def crc32(self, path: str) -> int | None:
    """CRC-32 of the encoded file, or None where it cannot be used."""
    try:
      return zlib.crc32(self._bytes(path))
    except AudioError:
      return None

  def stamp(self, path: str) -> list[int]:
    """Nothing: what the bytes are, only reading them tells."""
    del path
    return []
