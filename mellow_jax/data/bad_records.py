"""Records whose audio cannot be used: listed, counted by reason, limited to a share."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from mellow_jax import files
from mellow_jax.data.audio import REASONS
from mellow_jax.errors import PipelineError

# The share of bad records is not judged before so many examples, or one epoch.
LEAST_EXAMPLES = 1000
# Replacements tried for a bad record before the run ends: that all are bad by chance is unlikely
# unless nearly every record is.
MOST_TRIES = 100

_EXAMPLES = "examples_drawn"
_KEYS = (_EXAMPLES, *(f"bad_{reason}" for reason in REASONS))


class BadRecord(NamedTuple):
  """An audio file that a row names and that cannot be used."""

  path: str
  reason: str
  message: str
  row: int  # number of the row in its file, from 0


def count(found: Iterable[BadRecord]) -> Integer[np.ndarray, "reasons"]:
  """The number of records for each of REASONS."""
  counts = np.zeros(len(REASONS), np.int32)
  for record in found:
    counts[REASONS.index(record.reason)] += 1
  return counts


class Tally:
  """Counts the bad records of a run by reason, over all processes and restarts.

  A bad record counts each time it is sampled, since its share of the samples is limited.
  """

  def __init__(
    self,
    most: float,
    epoch: int,
    counters: Mapping[str, int] | None = None,
    total: Callable[[np.ndarray], np.ndarray] = np.asarray,
  ):
    """most is the share allowed, epoch the number of rows, counters what `counters` gave before.

    total sums an array over the processes of the run.
    """
    self._most, self._least, self._total = most, min(LEAST_EXAMPLES, epoch), total
    self._before = np.array([(counters or {}).get(key, 0) for key in _KEYS], np.int64)
    self._since = np.zeros_like(self._before)

  def add(self, counts: Integer[np.ndarray, "reasons"], examples: int) -> None:
    """Counts this process's part of a batch, and how many examples it holds."""
    self._since += np.array([examples, *counts])

  def counters(self) -> dict[str, int]:
    """The counts to save in a checkpoint. Collective: every process must call it."""
    counts = self._before + self._total(self._since)
    return {key: int(n) for key, n in zip(_KEYS, counts, strict=True) if n}

  def check(self) -> dict[str, int]:
    """The counters, if the run may go on. Collective: every process must call it.

    Raises PipelineError where more than the allowed share of the sampled records were bad.
    """
    counters = self.counters()
    bad = sum(by_reason(counters).values())
    sampled = counters.get(_EXAMPLES, 0) + bad
    if sampled >= self._least and bad > self._most * sampled:
      raise PipelineError(
        f"{describe(counters)}, more than config.data.max_bad_fraction {self._most:g} allows: mend "
        "or remove what bad_records.jsonl in the run's folder lists, or allow more"
      )
    return counters


def by_reason(counters: Mapping[str, int]) -> dict[str, int]:
  """The counters of bad records alone."""
  return {key: counters[key] for key in _KEYS[1:] if counters.get(key)}


def describe(counters: Mapping[str, int]) -> str:
  """The counters as text, such as "3 of 400 records drawn were bad (missing 2, damaged 1)"."""
  found = by_reason(counters)
  listed = ", ".join(f"{key.removeprefix('bad_')} {n}" for key, n in found.items())
  bad = sum(found.values())
  return f"{bad} of {counters.get(_EXAMPLES, 0) + bad} records drawn were bad ({listed or 'none'})"


class BadRecords:
  """bad_records.jsonl: a line for each path that could not be used, the first time it is met."""

  def __init__(self, path: str | os.PathLike):
    """Goes on with a file that is there; a line that a kill cut off is dropped."""
    self._path = Path(path)
    files.cut_partial_line(path)
    self._listed = {line["path"] for line in files.read_lines(path)}

  def add(self, found: Iterable[BadRecord]) -> None:
    """Appends the records whose paths are not listed yet."""
    for record in found:
      if record.path not in self._listed:
        self._listed.add(record.path)
        files.append_lines(self._path, [record._asdict()], sync=False)
