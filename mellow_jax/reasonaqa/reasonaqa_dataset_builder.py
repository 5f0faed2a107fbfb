"""ReasonAQA as a dataset of TensorFlow Datasets (TFDS): its rows, and the clips that they name.

A clip is named by many rows: audio is stored once, in a dataset of its own, of which a row's clip1
and clip2 are indices.

  rows = tfds.data_source("reasonaqa/rows", split="train", data_dir=DIR)
  clips = tfds.data_source("reasonaqa/audio", split="clips", data_dir=DIR)
  ds = grain.MapDataset.source(rows).map(lambda row: {**row, "audio": clips[row["clip1"]]["audio"]})

Rows keep the order of their file, and audio is the encoded bytes of its file, so training on the
dataset gives the same examples as training on the files. Shards are written one after the other, or
by the workers of a Beam pipeline where its options or runner are given, without a shuffle. Neither
needs TensorFlow; the command `tfds` does, and `python -m mellow_jax.reasonaqa.tfds` does not.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mellow_jax.config import DataConfig
from mellow_jax.data import audio, records
from mellow_jax.data.records import FIELDS, Records
from mellow_jax.errors import AudioError, PipelineError
from mellow_jax.reasonaqa.splits import SPLITS

AUDIO = "audio"  # the folder beside the rows' files
NO_CLIP = -1
SHARD_ROWS = 100_000
SHARD_BYTES = 2**28  # of audio; a worker holds a shard in memory


@dataclass(frozen=True)
class Folder:
  """A folder's rows by split, and the index of each clip among all of them."""

  rows: Mapping[str, Records]
  clips: Mapping[str, int]  # path -> index


@functools.lru_cache(maxsize=1)  # a worker writes many shards of the same folder
def read(folder: Path) -> Folder:
  """The files of a folder. Raises DataError as records.read does, PipelineError without any."""
  found = {split: folder / f"{split}.json" for split in SPLITS}
  if not found["train"].exists():
    raise PipelineError(f"{folder}: holds no train.json: name the folder that does")
  rows = {split: records.read(path) for split, path in found.items() if path.exists()}
  paths = dict.fromkeys(path for part in rows.values() for path in part.audio_paths())
  return Folder(rows, {path: i for i, path in enumerate(paths)})


def metadata(source: Folder, name: str) -> dict[str, Any]:
  """Metadata of a dataset: digest and audio paths of the rows, or the paths of the clips."""
  if name == "audio":
    return {"paths": list(source.clips)}
  return {
    split: {"digest": rows.digest, "audio_paths": rows.audio_paths()}
    for split, rows in source.rows.items()
  }


@dataclass(frozen=True)
class RowShard:
  """Rows of one file, from start to stop."""

  folder: Path
  split: str
  start: int
  stop: int

  def __call__(self) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, features) of each row."""
    source = read(self.folder)
    for i in range(self.start, self.stop):
      row = source.rows[self.split][i]
      clips = {
        "clip1": source.clips[row.filepath1],
        "clip2": source.clips[row.filepath2] if row.filepath2 else NO_CLIP,
      }
      yield i, {field: getattr(row, field) for field in FIELDS} | clips


@dataclass(frozen=True)
class ClipShard:
  """Some of the clips; the first has the index start."""

  root: Path
  start: int
  paths: tuple[str, ...]

  def __call__(self) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, features) of each clip: the bytes of its file, or why it cannot be used."""
    for i, path in enumerate(self.paths, self.start):
      example = {"path": path, "audio": b"", "fault": "", "reason": ""}
      try:
        audio.check(self.root / path)
        example["audio"] = (self.root / path).read_bytes()
      except AudioError as error:
        example |= {"fault": str(error), "reason": error.reason}
      yield i, example


class Builder(tfds.core.ShardBasedBuilder):
  """The datasets reasonaqa/rows and reasonaqa/audio."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  TFDS has it so
  BUILDER_CONFIGS = [  # noqa: RUF012
    tfds.core.BuilderConfig(name="rows", description="Questions and answers."),
    tfds.core.BuilderConfig(name="audio", description="The clips, as their files are."),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "A folder with train.json and, if wanted, val.json and test.json, rows as ReasonAQA's or as "
    "`mellow reasonaqa build` writes them, and the folder audio/ (or a link of that "
    "name) that the rows' paths start from."
  )

  max_bad_fraction = DataConfig().max_bad_fraction  # of a split's rows whose audio is missing

  def _info(self) -> tfds.core.DatasetInfo:
    text = {field: tfds.features.Text() for field in FIELDS}
    features = {
      "rows": {**text, "clip1": np.int64, "clip2": np.int64},
      # tfds.features.Audio would decode, and needs TensorFlow.
      "audio": {
        "path": tfds.features.Text(),
        "audio": tfds.features.Tensor(shape=(), dtype=np.object_),
        "fault": tfds.features.Text(),  # "" for a usable clip
        "reason": tfds.features.Text(),
      },
    }
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features[self.builder_config.name]),
      homepage="https://arxiv.org/abs/2503.08540",
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _download_and_prepare(
    self,
    dl_manager: tfds.download.DownloadManager,
    download_config: tfds.download.DownloadConfig | None = None,
  ) -> None:
    """Builds; on Beam where its options or a runner are given.

    TFDS leaves the runner that the options name to Beam, and writes shards alone if it has none.
    """
    config = download_config or tfds.download.DownloadConfig()
    if config.beam_options and not config.beam_runner:
      runner = config.beam_options.get_all_options()["runner"] or "DirectRunner"
      config = config.replace(beam_runner=runner)
    super()._download_and_prepare(dl_manager, config)

  def _shard_iterators_per_split(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Mapping[str, Sequence[RowShard | ClipShard]]:
    folder = Path(os.fspath(dl_manager.manual_dir))
    source = read(folder)
    self.info.metadata.update(metadata(source, self.builder_config.name))
    if self.builder_config.name == "rows":
      return {
        split: [
          RowShard(folder, split, start, min(start + SHARD_ROWS, len(rows)))
          for start in range(0, len(rows), SHARD_ROWS)
        ]
        for split, rows in source.rows.items()
      }
    return {"clips": _clip_shards(folder / AUDIO, source, self.max_bad_fraction)}


def _clip_shards(root: Path, source: Folder, most: float) -> list[ClipShard]:
  """The clips in shards of about SHARD_BYTES.

  Raises PipelineError where more of a split's rows than allowed name a file that is not there.
  """
  sizes = {path: _size(root / path) for path in source.clips}
  for rows in source.rows.values():
    named = sum(0 in (sizes[r.filepath1], sizes.get(r.filepath2, 1)) for r in rows)
    if named > most * len(rows):
      absent = next(path for path in rows.audio_paths() if not sizes[path])
      raise PipelineError(
        f"{rows.path}: {named} of {len(rows)} rows name audio that is empty or not below {root}, "
        f"first {absent}: add the files, remove the rows, or allow more by --max_bad_fraction"
      )
  shards, some, held = [], [], 0
  for path, size in sizes.items():
    if some and held + size > SHARD_BYTES:
      shards.append(some)
      some, held = [], 0
    some.append(path)
    held += size
  starts = [source.clips[paths[0]] for paths in [*shards, some]]
  return [
    ClipShard(root, start, tuple(paths))
    for start, paths in zip(starts, [*shards, some], strict=True)
  ]


def _size(path: Path) -> int:
  return path.stat().st_size if path.is_file() else 0
