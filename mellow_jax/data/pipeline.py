"""Rows to batches: tokens and waveforms, in an order that depends on seed and step number alone.

The batch of a step is a pure function of the seed and the step, so a run resumes at any step with
any number of hosts and threads, and no iterator's state is ever saved.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
import tokenizers
from jaxtyping import Float32

from mellow_jax.config import Config, ConfigError, DataConfig, ModelConfig
from mellow_jax.data import audio, augment, prompts, records, scenes
from mellow_jax.data.records import Record

MIXED_SHARE = 0.5  # of augmented clips that sound together with another of their caption


@runtime_checkable
class Clips(Protocol):
  """Where waveforms come from."""

  def load(self, path: str, rng: np.random.Generator | None) -> Float32[np.ndarray, "S"]:
    """The clip of a row's path; rng draws the window where the preset crops at random."""
    ...


class PipelineError(ValueError):
  """A row that cannot become an example; the message names it."""


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Makes an example of a row: a random one with rng (training), always the same without."""

  rows: Sequence[Record]
  clips: Clips
  tokenizer: tokenizers.Tokenizer
  model: ModelConfig
  data: DataConfig

  def __call__(self, row: Record, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    """The arrays of one example, by the names of a step's batch.

    Raises PipelineError naming the row.
    """
    try:
      return self._encode(row, rng)
    except ValueError as error:
      raise PipelineError(f"row {row.row} ({row.subtype}): {error}") from error

  def _encode(self, row: Record, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    preset, model = prompts.PRESETS[self.data.preset], self.model
    augmented = rng is not None and self.data.augment
    if augmented:
      # Another caption of the row's own clips would be right as well.
      own = {row.filepath1, row.filepath2}
      captions = [c for c, paths in self.clips_by_caption.items() if own.isdisjoint(paths)]
      row = augment.redraw_options(row, captions, rng)
    wav1 = self._clip(row.filepath1, row.caption1, rng)
    if row.filepath2:
      wav2 = self._clip(row.filepath2, row.caption2, rng)
    elif rng is not None and rng.random() < self.data.another_clip_share:
      # The reference lets one-clip questions hear any clip of the dataset second.
      other = self.rows[int(rng.integers(len(self.rows)))]
      wav2 = self._clip(other.filepath1, other.caption1, rng)
    else:
      wav2 = wav1
    task = prompts.task_of(row.input)
    question = prompts.question(row.input, preset, rng=rng)
    answer = prompts.answer(
      row.answer, preset, task=task, training=rng is not None, second=row.caption2 or None
    )
    ids = (model.pad_id, model.end_id)
    text_ids, text_length = prompts.encode_question(
      self.tokenizer, question, preset, model.text_tokens, *ids
    )
    answer_ids, answer_length = prompts.encode_answer(
      self.tokenizer, answer, preset, model.answer_tokens, *ids
    )
    if preset.answer_end == "string":
      # The reference leaves out the loss of every pad token, also of a genuine "!".
      loss_mask = answer_ids != model.pad_id
    else:
      loss_mask = np.arange(model.answer_tokens) < answer_length
    return {
      "wav1": wav1,
      "wav2": wav2,
      "text_ids": text_ids,
      "text_lengths": np.int32(text_length),
      "answer_ids": answer_ids,
      "loss_mask": loss_mask,
    }

  def _clip(
    self, path: str, caption: str, rng: np.random.Generator | None
  ) -> Float32[np.ndarray, "S"]:
    wav = self.clips.load(path, rng)
    if rng is None or not self.data.augment:
      return wav
    wav = augment.distort(wav, rng)
    paths = self.clips_by_caption.get(caption, [path])
    if rng.random() < MIXED_SHARE:
      other = self.clips.load(paths[int(rng.integers(len(paths)))], rng)
      wav = augment.mix(wav, augment.distort(other, rng), rng)
    return wav

  @functools.cached_property
  def clips_by_caption(self) -> dict[str, list[str]]:
    """Each caption of the rows' first clips, and the paths of those, once each."""
    found: dict[str, dict[str, None]] = {}
    for row in self.rows:
      found.setdefault(row.caption1, {})[row.filepath1] = None
    return {caption: list(paths) for caption, paths in found.items()}


@dataclasses.dataclass(frozen=True)
class CachedClips:
  """Clips that are decoded once and kept; for readers that crop nothing at random."""

  clips: Clips
  kept: dict[str, Float32[np.ndarray, "S"]] = dataclasses.field(default_factory=dict)

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "S"]:
    """The clip of a path."""
    if path not in self.kept:
      self.kept[path] = self.clips.load(path, None)
    return self.kept[path]


def sources(cfg: Config) -> tuple[Sequence[Record], Sequence[Record], Clips]:
  """Training rows, validation rows and their clips, as the config says.

  Raises RecordError, PipelineError or ConfigError naming what is absent or wrong.
  """
  data, model_audio = cfg.data, cfg.model.audio
  if data.source == "scenes":
    size = cfg.steps * cfg.batch_size
    try:
      train = scenes.Scenes(
        "train", cfg.seed, size, data.mix, data.warmup_mix, round(size * data.warmup_share)
      )
      val = scenes.Scenes("val", cfg.seed, max(cfg.eval_batches * cfg.batch_size, 1), data.mix)
      return train, val, scenes.SceneClips(model_audio.sample_rate, model_audio.clip_samples)
    except ValueError as error:
      raise ConfigError(f"config: {error}") from error
  if data.source != "json":
    raise ConfigError(f"config.data.source {data.source!r}: use json or scenes")
  for name in ("train", "val", "audio_root"):
    if not getattr(data, name):
      raise ConfigError(f"config.data.{name} is empty: give --config.data.{name}=PATH")
  rows = [records.read(path) for path in (data.train, data.val)]
  for path, split in zip((data.train, data.val), rows, strict=True):
    missing = records.missing_audio(split, data.audio_root)
    if missing:
      raise PipelineError(
        f"{path}: {len(missing)} of its audio files are not below {data.audio_root}, first "
        f"{missing[0]}: check --config.data.audio_root or remove their rows"
      )
  train, val = _repeat(rows[0], data.mix), rows[1]
  preset = prompts.PRESETS[data.preset]
  clips = audio.FileClips(data.audio_root, model_audio, preset)
  if not data.cache_clips:
    return train, val, clips
  if preset.long == "random":
    raise ConfigError(f"config.data.cache_clips: preset {data.preset!r} hears random windows")
  return train, val, CachedClips(clips)


def _repeat(rows: Sequence[Record], mix: dict[str, float]) -> Sequence[Record]:
  """The rows with those of each subtype of the mix as many times as it says."""
  if not mix:
    return rows
  found = {row.subtype for row in rows}
  for subtype, times in mix.items():
    if subtype not in found:
      raise ConfigError(f"config.data.mix: no row has subtype {subtype!r}, but {sorted(found)}")
    if times < 0 or times != int(times):
      raise ConfigError(f"config.data.mix: {subtype} {times} must be a whole number of times")
  repeated = [row for row in rows for _ in range(int(mix.get(row.subtype, 1)))]
  if not repeated:
    raise ConfigError(f"config.data.mix: {mix} leaves no row")
  return repeated


def train_batches(
  encoder: Encoder,
  *,
  seed: int,
  batch_size: int,
  start_step: int,
  shuffle: bool,
  shard: int = 0,
  shards: int = 1,
) -> Iterator[dict[str, Any]]:
  """This host's part of the global batch of start_step, of the step after it, and so on.

  The parts of all hosts, one after the other, are the batch that a single one would have. Each
  epoch is shuffled anew; without shuffle rows come in their own order. Seeds are named at each
  operation, since Grain otherwise derives them from an operation's place in the chain.
  """
  ds = grain.MapDataset.source(encoder.rows)
  if shuffle:
    ds = ds.shuffle(seed=seed)
  ds = ds.repeat().random_map(encoder, seed=seed + 1)
  ds = ds.batch(batch_size // shards, drop_remainder=True)  # repeated for ever, it has none
  ds = ds[start_step * shards + shard :: shards]
  threads = encoder.data.threads
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  return iter(ds.to_iter_dataset(options))


def eval_batches(
  encoder: Encoder, *, batch_size: int, count: int, shard: int = 0, shards: int = 1
) -> Iterator[dict[str, Any]]:
  """This host's part of the first `count` batches of the rows, in order, nothing random.

  The last one is filled up with copies of the last row, which carry no loss.
  """
  part, rows = batch_size // shards, len(encoder.rows)
  for step in range(min(count, -(-rows // batch_size))):
    first = step * batch_size + shard * part
    examples = [encoder(encoder.rows[min(i, rows - 1)]) for i in range(first, first + part)]
    batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
    batch["loss_mask"] &= np.arange(first, first + part)[:, None] < rows
    yield batch
