"""Rows to batches: tokens and waveforms, in an order that depends on seed and step number alone.

The batch of a step is a pure function of the seed and the step, so a run resumes at any step with
any number of hosts, threads and workers, and no iterator's state is ever saved.
"""

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from mellow_jax.config import Config
from mellow_jax.data import (
  answer_lengths,
  bad_records,
  presets,
  prompts,
  scenes,
  selection,
  workers,
)
from mellow_jax.data.bad_records import BadRecord
from mellow_jax.data.clips import CachedClips, Clips
from mellow_jax.data.preprocessing import Preprocessor
from mellow_jax.data.presets import Preset
from mellow_jax.data.records import FIELDS, Record, Rows
from mellow_jax.data.selection import JoinedRows, SharedClips
from mellow_jax.data.sources import OpenSources
from mellow_jax.errors import ConfigError, DataError

_TEXTS = operator.itemgetter(*(FIELDS.index(name) for name in ("input", "answer", "caption2")))


def sources(
  cfg: Config, log: Callable[[str], None] = print
) -> tuple[Sequence[Record], Sequence[Record], Clips]:
  """Training rows, validation rows and their clips; `config.validate` has checked the config.

  Raises DataError, PipelineError or ConfigError naming what is absent or wrong.
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
  opened = OpenSources(cfg)
  train, val = (
    [opened.source(path, split) for path in paths.split(",") if path]
    for split, paths in (("train", data.train), ("val", data.val))
  )
  if data.quarantine:
    train, val = _leave_out(data.quarantine, opened.listed, train, val, log)
  for rows in (*train, *val):
    _check_captions(rows, presets.PRESETS[data.preset])
  found = opened.clips([*train, *val], log)
  if not data.val:
    train, val, held, count = selection.hold_out(train, data.val_share)
    rows = sum(len(part) for part in val)
    log(f"{data.train}: {held} of {count} clips, {rows} rows, are held out to validate")
  train = selection.join(selection.repeat(train, data.mix), data.weights)
  return train, selection.join(val, ()), CachedClips(found) if data.cache_clips else found


def _leave_out(
  path: str,
  listed: Mapping[str, tuple[str, ...]],
  train: Sequence[Rows],
  val: Sequence[Rows],
  log: Callable[[str], None],
) -> tuple[list[Rows], list[Rows]]:
  """The sources' rows without those that the quarantine file lists; logs how many they are."""
  met: set[str] = set()
  kept: list[list[Rows]] = []
  for parts in (train, val):
    kept.append([])
    for rows in parts:
      left, found = selection.leave_out(rows, listed)
      log(f"{path}: {len(rows) - len(left)} of {len(rows)} rows of {rows.path} are left out")
      kept[-1].append(left)
      met |= found
  if absent := listed.keys() - met:
    first = min(absent)
    log(f"{path}: {len(absent)} of its {len(listed)} rows are in none of these, first {first}")
  return kept[0], kept[1]


def _check_captions(rows: Rows, preset: Preset) -> None:
  """Raises DataError where the preset can make no answer of a row's captions.

  Of all rows at the start, or the first such one would end the run in the middle.
  """
  if not preset.caption_sentence:
    return
  faults = (prompts.caption_fault(*_TEXTS(fields), preset) for fields in rows.fields())
  found = [(number, fault) for number, fault in enumerate(faults) if fault]
  if found:
    number, fault = found[0]
    more = f" (and {len(found) - 1} more such rows)" if len(found) > 1 else ""
    raise DataError(f"{rows.path}, row {rows[number].row} (from 0){more}: {fault}")


def train_batches(
  preprocessor: Preprocessor,
  *,
  seed: int,
  batch_size: int,
  start_step: int,
  shuffle: bool,
  shard: int = 0,
  shards: int = 1,
  groups: Sequence[int] = (),
  note: Callable[[list[BadRecord]], None] | None = None,
) -> Iterator[dict[str, Any]]:
  """This host's part of the global batch of start_step, of the step after it, and so on.

  The parts of all hosts, one after the other, are the batch that a single one would have. Each
  epoch is shuffled anew; without shuffle rows come in their own order. groups are the lengths of
  answers by which rows are put into batches; none: batches follow the rows' order. Seeds are named
  at each operation, since Grain otherwise derives them from an operation's place in the chain.

  Beside the arrays of examples, "bad" has the number of bad records for each of audio.REASONS; note
  is called with the records. Raises PipelineError where a row cannot be used, or no batch comes in
  time.
  """
  data = preprocessor.data
  rows = _in_order(preprocessor.rows, seed if shuffle else None, data.share_prefix)
  batch_size //= data.share_prefix
  ds = rows.random_map(preprocessor.training_example, seed=seed + 1)
  if groups:
    length, settings = preprocessor.answer_length, {"batch_size": batch_size, "seed": seed}
    grouped = answer_lengths.Grouped(ds, rows, length, allowed=groups, **settings)
    ds = grain.MapDataset.source(grouped)
  # The dataset repeats without end, so no remainder is dropped.
  ds = ds.batch(batch_size // shards, drop_remainder=True, batch_fn=_stack)
  ds = ds[start_step * shards + shard :: shards]
  with workers.batches(
    ds, threads=data.threads, workers=data.workers, timeout_seconds=data.timeout_seconds
  ) as batches:
    for batch in batches:
      if note and batch["bad"]:
        note(batch["bad"])
      yield {**batch, "bad": bad_records.count(batch["bad"])}


def _in_order(rows: Sequence[Record], seed: int | None, share: int = 1) -> grain.MapDataset:
  """Rows without end, each epoch shuffled anew unless seed is None; groups of rows with share > 1.

  Sources with weights are interleaved: of any stretch of the order each has its share, to a row and
  to a hundredth of the least weight, and each begins its next epoch where its own ends.
  """
  if not (isinstance(rows, JoinedRows) and rows.weights):
    ds = grain.MapDataset.source(SharedClips(rows, share, seed or 0) if share > 1 else rows)
    return (ds if seed is None else ds.shuffle(seed=seed)).repeat()
  # Grain shuffles an epoch by seed + epoch: seeds far apart keep the sources' epochs distinct.
  seeds = [None if seed is None else (seed + i * 2**27) % 2**32 for i in range(len(rows.parts))]
  parts = map(_in_order, rows.parts, seeds, itertools.repeat(share))
  return grain.MapDataset.mix([*parts], rows.weights)


def _stack(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """A batch of examples: their arrays stacked, their bad records one after the other."""
  batch = {k: np.stack([e[k] for e in examples]) for k in examples[0] if k != "bad"}
  return {**batch, "bad": [record for e in examples for record in e["bad"]]}


def eval_batches(
  preprocessor: Preprocessor,
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
  PipelineError. Threads of this process decode ahead, without the workers, which would have to
  start each time. Raises StalledError where no batch comes in time.
  """
  data, rows = preprocessor.data, preprocessor.rows
  steps = min(count, -(-len(rows) // batch_size))
  if not steps:
    return

  def example(number: int) -> dict[str, Any]:
    bad: list[BadRecord] = []
    row = rows[min(number, len(rows) - 1)]
    made = preprocessor(row) if left_out is None else preprocessor.validation_example(row, bad)
    if number < len(rows):
      return {**made, "bad": bad}
    return {**made, "loss_mask": np.zeros_like(made["loss_mask"]), "bad": []}

  ds = grain.MapDataset.range(steps * batch_size).map(example)
  ds = ds.batch(batch_size // shards, drop_remainder=True, batch_fn=_stack)[shard::shards]
  with workers.batches(
    ds, threads=data.threads, workers=0, timeout_seconds=data.timeout_seconds
  ) as batches:
    for batch in batches:
      bad = batch.pop("bad")
      if left_out is not None:
        left_out.extend(bad)
      yield batch
