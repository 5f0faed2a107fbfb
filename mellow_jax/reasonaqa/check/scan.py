"""Checks all rows of a dataset's files, and decodes all clips that they name."""

import collections
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

from mellow_jax import progress
from mellow_jax.data import records
from mellow_jax.data.presets import Preset
from mellow_jax.data.records import FIELDS, Record
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.check import faults
from mellow_jax.reasonaqa.check.dataset_faults import DatasetFaults

_CLIPS = 32  # that a process decodes at a time
_BATCH = 4096  # texts encoded at a time
_INPUT, _ANSWER = FIELDS.index("input"), FIELDS.index("answer")


def scan(
  paths: Sequence[Path],
  root: str,
  preset: Preset,
  limits: faults.TokenLimits | None,
  min_seconds: float,
  processes: int,
) -> DatasetFaults:
  """All faults of the rows of files and of their clips.

  Processes of their own decode audio while rows are read. Raises DataError for a file that is no
  list of rows, and where one of the processes was killed.
  """
  found = DatasetFaults()
  # Not forked: a fork of a process whose tokenizer has threads may hang.
  context = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
    pending = collections.deque()
    try:
      for path in paths:
        for _ in _read_rows(path, found, preset, limits):
          names = found.new_clips()
          for i in range(0, len(names), _CLIPS):
            part = names[i : i + _CLIPS]
            pending.append((part, pool.submit(faults.of_clips, root, part, min_seconds)))
      count = sum(len(part) for part, _ in pending)
      with progress.Bar(total=count, desc="clips", unit=" clips") as bar:
        while pending:
          part, result = pending.popleft()
          for name, (own, digest) in zip(part, result.result(), strict=True):
            found.add_clip(name, own, digest)
          bar.update(len(part))
    except futures.process.BrokenProcessPool:
      raise DataError("a process that decodes audio was killed: give fewer --workers") from None
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  found.find_duplicates()
  return found


def _read_rows(
  path: Path, found: DatasetFaults, preset: Preset, limits: faults.TokenLimits | None
) -> Iterator[None]:
  """Adds a file's rows and the faults of their texts; yields after every few thousand."""
  found.begin_file(path)
  rows = progress.Bar(records.scan(path), desc=path.name, unit=" rows")
  for number, checked in enumerate(rows):
    if number % _BATCH == 0:
      yield
    row = found.add_row(Record(*checked.fields, row=0) if checked.fields else None)
    for fault in faults.of_schema(checked.faults):
      found.add_row_fault(row, checked.place, fault)
    if checked.faults:
      continue
    for fault in faults.of_options(checked.fields[_INPUT], checked.fields[_ANSWER]):
      found.add_row_fault(row, checked.place, fault)
    if unwritten := [*faults.of_captions(checked.fields, preset)]:
      found.add_row_fault(row, checked.place, unwritten[0])
    elif limits:
      limits.add((row, checked.place), checked.fields)
      if len(limits.waiting) >= _BATCH:
        _add_over_tokens(limits, found)
  if limits:
    _add_over_tokens(limits, found)
  yield


def _add_over_tokens(limits: faults.TokenLimits, found: DatasetFaults) -> None:
  for (row, place), fault in limits.faults():
    found.add_row_fault(row, place, fault)
