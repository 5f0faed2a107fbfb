"""Rows to batches: tokens and waveforms, in an order that depends on seed and step number alone.

The batch of a step is a pure function of the seed and the step, so a run resumes at any step with
any number of hosts, threads and workers, and no iterator's state is ever saved.
"""

import hashlib
import operator
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np

from mellow_jax.config import Config, ConfigError
from mellow_jax.data import bad_records, cache, examples, prompts, records, scenes, workers
from mellow_jax.data.bad_records import BadRecord, PipelineError
from mellow_jax.data.clips import CachedClips, Clips, FileClips
from mellow_jax.data.examples import Encoder
from mellow_jax.data.records import Record


class _Chosen(Sequence[Record]):
  """Some of the rows, in an order and as often as chosen."""

  def __init__(self, rows: Sequence[Record], indices: Sequence[int] | np.ndarray):
    self._rows, self._indices = rows, np.asarray(indices, np.int64)

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: SupportsIndex) -> Record:
    return self._rows[int(self._indices[operator.index(index)])]


def sources(
  cfg: Config, say: Callable[[str], None] = print
) -> tuple[Sequence[Record], Sequence[Record], Clips]:
  """Training rows, validation rows and their clips, as the config says.

  Raises RecordError, PipelineError or ConfigError naming what is absent or wrong.
  """
  data, model_audio = cfg.data, cfg.model.audio
  if data.second_clip not in examples.SECOND_CLIPS:
    known = ", ".join(examples.SECOND_CLIPS)
    raise ConfigError(f"config.data.second_clip {data.second_clip!r}: use {known}")
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
  if data.source not in ("json", "array_record"):
    raise ConfigError(f"config.data.source {data.source!r}: use json, array_record or scenes")
  if not data.train:
    raise ConfigError("config.data.train is empty: give --config.data.train=PATH")
  if not data.val and not 0 < data.val_share < 1:
    raise ConfigError(
      "config.data.val is empty: give --config.data.val=PATH, or --config.data.val_share=0.1 to "
      "hold out that share of the training clips"
    )
  preset = prompts.PRESETS[data.preset]
  paths = [data.train, data.val] if data.val else [data.train]
  if data.source == "json":
    root = data.audio_root or pathlib.Path(data.train).parent
    found = [records.read(path) for path in paths]
    for rows in found:
      _check_audio(rows, root, data.max_bad_fraction, say)
    clips = FileClips(root, model_audio, preset)
  else:
    caches = tuple(cache.Cache(path) for path in paths)
    found = [cache.CacheRows(opened) for opened in caches]
    clips = cache.CacheClips(caches, model_audio, preset)
  train, val = found if data.val else _hold_out(found[0], data.val_share, say)
  train = _repeat(train, data.mix)
  if not data.cache_clips:
    return train, val, clips
  if preset.long == "random":
    raise ConfigError(f"config.data.cache_clips: preset {data.preset!r} hears random windows")
  return train, val, CachedClips(clips)


def _hold_out(
  rows: records.Records | cache.CacheRows, share: float, say: Callable[[str], None]
) -> tuple[Sequence[Record], Sequence[Record]]:
  """Rows without and with some of the clips: the same clips whatever the order of the rows."""
  paths = sorted(rows.audio_paths(), key=lambda path: hashlib.sha256(path.encode()).digest())
  held = set(paths[: max(round(share * len(paths)), 1)])
  is_held = np.array([row.filepath1 in held or row.filepath2 in held for row in rows])
  if is_held.all():
    raise ConfigError(f"config.data.val_share {share:g}: leaves no row of {rows.path} to train on")
  train, val = (_Chosen(rows, np.flatnonzero(part)) for part in (~is_held, is_held))
  say(f"{rows.path}: {len(held)} of {len(paths)} clips, {len(val)} rows, are held out to validate")
  return train, val


def _check_audio(
  rows: records.Records, root: str | os.PathLike, most: float, say: Callable[[str], None]
) -> None:
  """Says how many rows name a file that is not there. Raises PipelineError if they are too many."""
  absent = set(missing := records.missing_audio(rows, root))
  if not absent:
    return
  named = sum(row.filepath1 in absent or row.filepath2 in absent for row in rows)
  found = (
    f"{rows.path}: {len(missing)} of its audio files are not below {root}, first {missing[0]}; "
    f"{named} of {len(rows)} rows name them"
  )
  if named > most * len(rows):
    raise PipelineError(
      f"{found}, more than config.data.max_bad_fraction {most:g} allows: check "
      "--config.data.audio_root, remove the rows, or allow more"
    )
  say(f"{found}: they count as bad records")


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
  repeated = [i for i, row in enumerate(rows) for _ in range(int(mix.get(row.subtype, 1)))]
  if not repeated:
    raise ConfigError(f"config.data.mix: {mix} leaves no row")
  return _Chosen(rows, repeated)


def train_batches(
  encoder: Encoder,
  *,
  seed: int,
  batch_size: int,
  start_step: int,
  shuffle: bool,
  shard: int = 0,
  shards: int = 1,
  note: Callable[[list[BadRecord]], None] | None = None,
) -> Iterator[dict[str, Any]]:
  """This host's part of the global batch of start_step, of the step after it, and so on.

  The parts of all hosts, one after the other, are the batch that a single one would have. Each
  epoch is shuffled anew; without shuffle rows come in their own order. Seeds are named at each
  operation, since Grain otherwise derives them from an operation's place in the chain.

  Beside the arrays of examples, "bad" counts the bad records met by audio.REASONS; note is given
  them. Raises PipelineError where a row cannot be used, or no batch comes in time.
  """
  ds = grain.MapDataset.source(encoder.rows)
  if shuffle:
    ds = ds.shuffle(seed=seed)
  ds = ds.repeat().random_map(encoder.draw, seed=seed + 1)
  # Repeated for ever, there is no remainder.
  ds = ds.batch(batch_size // shards, drop_remainder=True, batch_fn=_stack)
  ds = ds[start_step * shards + shard :: shards]
  data = encoder.data
  with workers.batches(
    ds, threads=data.threads, workers=data.workers, timeout_seconds=data.timeout_seconds
  ) as batches:
    for batch in batches:
      if note and batch["bad"]:
        note(batch["bad"])
      yield {**batch, "bad": bad_records.count(batch["bad"])}


def _stack(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """A batch of examples: their arrays stacked, their bad records one after the other."""
  batch = {k: np.stack([e[k] for e in examples]) for k in examples[0] if k != "bad"}
  return {**batch, "bad": [record for e in examples for record in e["bad"]]}


def eval_batches(
  encoder: Encoder,
  *,
  batch_size: int,
  count: int,
  shard: int = 0,
  shards: int = 1,
  left_out: list[BadRecord] | None = None,
) -> Iterator[dict[str, Any]]:
  """This host's part of the first `count` batches of the rows, in order, nothing random.

  The last one is filled up with copies of the last row, which carry no loss. Rows whose audio
  cannot be used carry none either and are added to left_out; without that list they raise
  PipelineError.
  """
  part, rows = batch_size // shards, len(encoder.rows)

  def example(i: int) -> dict[str, np.ndarray]:
    row = encoder.rows[min(i, rows - 1)]
    if left_out is None:
      return encoder(row)
    return encoder.heard_or_left_out(row, left_out if i < rows else [])

  for step in range(min(count, -(-rows // batch_size))):
    first = step * batch_size + shard * part
    made = [example(i) for i in range(first, first + part)]
    batch = {name: np.stack([e[name] for e in made]) for name in made[0]}
    batch["loss_mask"] &= np.arange(first, first + part)[:, None] < rows
    yield batch
