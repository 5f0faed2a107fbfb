"""Which rows of its sources a run uses, and how often.

Rows that are not to be used stand in a quarantine file, which `mellow_jax.reasonaqa check` writes:

  {"version": 1, "rows": {"0123456789abcdef": ["answer is empty", ...], ...}}

A row's id is that of `records.row_id`, so that the list holds for whatever file the row stands in.
"""

import functools
import hashlib
import itertools
import operator
import os
import re
from collections.abc import Container, Mapping, Sequence
from typing import SupportsIndex

import numpy as np

from mellow_jax import files
from mellow_jax.data import records
from mellow_jax.data.records import Record, Rows
from mellow_jax.errors import ConfigError, DataError

QUARANTINE_VERSION = 1


class SelectedRows(Rows):
  """The rows at some indices, in their order; an index may come several times."""

  def __init__(self, rows: Rows, indices: Sequence[int] | np.ndarray):
    self.path = rows.path
    self._rows, self._indices = rows, np.asarray(indices, np.int64)

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: SupportsIndex) -> Record:
    return self._rows[int(self._indices[operator.index(index)])]

  @functools.cached_property
  def digest(self) -> str:
    """Hash of the digest of all the rows and of the indices."""
    return hashlib.sha256(self._rows.digest.encode() + self._indices.tobytes()).hexdigest()[:16]


class JoinedRows(Rows):
  """The rows of several sources, concatenated.

  weights, one a source, are their sampling weights in training; without them every row is as likely
  as any other.
  """

  def __init__(self, parts: Sequence[Rows], weights: Sequence[float] = ()):
    self.parts, self.weights = tuple(parts), tuple(weights)
    self.path = ", ".join(part.path for part in parts)
    self._ends = np.cumsum([len(part) for part in parts])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: SupportsIndex) -> Record:
    index = self.position(index)
    part = int(np.searchsorted(self._ends, index, side="right"))
    return self.parts[part][index - int(self._ends[part])]  # from the end, which is the same

  @functools.cached_property
  def digest(self) -> str:
    """Hash of the digests of the sources."""
    return hashlib.sha256("".join(part.digest for part in self.parts).encode()).hexdigest()[:16]


def read_quarantine(path: str | os.PathLike) -> dict[str, tuple[str, ...]]:
  """The ids of the rows that a quarantine file lists, and the reasons for each.

  Raises DataError where the file cannot be read or is not of this form.
  """
  name, found = os.fspath(path), files.read_json(path, "a quarantine file")
  if not isinstance(found, dict) or not isinstance(found.get("rows"), dict):
    raise DataError(f"{name}: is no quarantine file: expected an object with 'rows' by id")
  if (version := found.get("version")) != QUARANTINE_VERSION:
    raise DataError(
      f"{name}: has version {version!r}, expected {QUARANTINE_VERSION}: write it anew"
    )
  for row, reasons in found["rows"].items():
    if not re.fullmatch(r"[0-9a-f]{16}", row):
      raise DataError(f"{name}: {row!r} is no id of a row, which has 16 hex digits")
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
      raise DataError(f"{name}: row {row}: expected a list of reasons, each a text")
  return {row: tuple(reasons) for row, reasons in found["rows"].items()}


def leave_out(rows: Rows, listed: Container[str]) -> tuple[Rows, set[str]]:
  """The rows without those whose ids are listed, and which of the listed were there.

  Raises ConfigError where no row is left.
  """
  ids = [records.row_id(row) for row in rows]
  kept = [i for i, row_id in enumerate(ids) if row_id not in listed]
  if not kept:
    raise ConfigError(f"config.data.quarantine: leaves no row of {rows.path}")
  return SelectedRows(rows, kept), {row_id for row_id in ids if row_id in listed}


def hold_out(parts: Sequence[Rows], share: float) -> tuple[list[Rows], list[Rows], int, int]:
  """Of each source the rows without and those with some of the clips; how many clips, of how many.

  They are the same clips whatever the order of the rows. Raises ConfigError where no row is left.
  """
  paths = {path for part in parts for path in part.audio_paths()}
  in_order = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).digest())
  held = set(in_order[: max(round(share * len(paths)), 1)])
  train, val = [], []
  for rows in parts:
    is_held = np.array([not held.isdisjoint(paths) for paths in rows.clip_paths()])
    if is_held.all():
      raise ConfigError(
        f"config.data.val_share {share:g}: leaves no row of {rows.path} to train on"
      )
    train.append(SelectedRows(rows, np.flatnonzero(~is_held)))
    val.append(SelectedRows(rows, np.flatnonzero(is_held)))
  return train, val, len(held), len(paths)


def repeat(parts: Sequence[Rows], mix: Mapping[str, float]) -> list[Rows]:
  """The rows of each source, with those of each subtype of the mix as many times as it says.

  Raises ConfigError where that cannot be done.
  """
  if not mix:
    return list(parts)
  subtypes = [[row.subtype for row in rows] for rows in parts]
  found = set(itertools.chain(*subtypes))
  for subtype, times in mix.items():
    if subtype not in found:
      raise ConfigError(f"config.data.mix: no row has subtype {subtype!r}, but {sorted(found)}")
    if times < 0 or times != int(times):
      raise ConfigError(f"config.data.mix: {subtype} {times} must be a whole number of times")
  repeated = [np.repeat(np.arange(len(of)), [int(mix.get(s, 1)) for s in of]) for of in subtypes]
  for rows, indices in zip(parts, repeated, strict=True):
    if not len(indices):
      raise ConfigError(f"config.data.mix: {mix} leaves no row of {rows.path}")
  return [SelectedRows(rows, indices) for rows, indices in zip(parts, repeated, strict=True)]


def join(parts: Sequence[Rows], weights: Sequence[float]) -> Rows:
  """One sequence of all the sources' rows."""
  return parts[0] if len(parts) == 1 else JoinedRows(parts, weights)


class SharedClips(Sequence[tuple[Record, ...]]):
  """Rows in groups of at most `most` on the same clips, put together at random."""

  def __init__(self, rows: Sequence[Record], most: int, seed: int):
    self._rows, groups = rows, {}
    for i, row in enumerate(rows):
      groups.setdefault((row.filepath1, row.filepath2), []).append(i)
    rng = np.random.default_rng(seed)
    of_each = (rng.permutation(indices) for indices in groups.values())
    self._groups = [part for i in of_each for part in np.split(i, range(most, len(i), most))]

  def __len__(self) -> int:
    return len(self._groups)

  def __getitem__(self, index: SupportsIndex) -> tuple[Record, ...]:
    return tuple(self._rows[int(i)] for i in self._groups[operator.index(index)])
