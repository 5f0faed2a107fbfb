"""How sure a figure is: bootstrap intervals and paired tests, all seeded."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

LEVEL = 0.95  # of every interval
RESAMPLES = 2000  # of every bootstrap and permutation test
BLOCK = 2**22  # draws held at a time


def resamples(count: int, seed: int) -> list[np.ndarray]:
  """RESAMPLES draws of as many items as there are, with replacement, in blocks of rows."""
  rng, size = np.random.default_rng(seed), max(1, BLOCK // max(count, 1))
  sizes = [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
  return [rng.integers(count, size=(rows, count)) for rows in sizes]


Interval = tuple[float, float] | tuple[None, None]  # None: nothing says how far it would move


def interval(values: Float[np.ndarray, "N"], seed: int) -> Interval:
  """The percentile bootstrap interval of the values' mean.

  None where all are alike: so are then all resamples, and an interval of no width would claim that
  nothing is uncertain.
  """
  if np.ptp(values) == 0:
    return None, None
  return _middle(_means(values, seed))


def percent_interval(values: Float[np.ndarray, "N"], seed: int) -> tuple[float, float]:
  """The interval of the mean of scores from 0 to 100; of a few that are all alike, too."""
  return _bounded_interval(values, seed, 0.0, 100.0)


def difference_interval(
  values: Float[np.ndarray, "N"], seed: int, most: float = 100.0
) -> tuple[float, float]:
  """The interval of the mean of paired differences of scores from 0 to `most`."""
  return _bounded_interval(values, seed, -most, most)


def _bounded_interval(
  values: Float[np.ndarray, "N"], seed: int, least: float, most: float
) -> tuple[float, float]:
  """By bootstrap, but where all values are alike: then by how many of other items could differ.

  Their share is at most the exact binomial bound (Clopper and Pearson 1934), and they differ by as
  much as `least` and `most` allow. Of scores that are all right or all wrong that is the exact
  binomial interval.
  """
  if np.ptp(values):
    return _middle(_means(values, seed))
  share = 1 - ((1 - LEVEL) / 2) ** (1 / len(values))
  same = (1 - share) * float(values[0])
  return same + share * least, same + share * most


def _means(values: Float[np.ndarray, "N"], seed: int) -> Float[np.ndarray, "M"]:
  return np.concatenate([values[rows].mean(axis=1) for rows in resamples(len(values), seed)])


def interval_of(
  rows: Float[np.ndarray, "N K"],
  figure: Callable[[Float[np.ndarray, "M K"]], Float[np.ndarray, "M"]],
  seed: int,
) -> Interval:
  """The percentile bootstrap interval of a figure that is computed from sums over items.

  None where it is the same in all resamples, as in `interval`.
  """
  sums = []
  for places in resamples(len(rows), seed):
    times = np.stack([np.bincount(row, minlength=len(rows)) for row in places])
    sums.append(times @ rows)
  draws = figure(np.concatenate(sums))
  return _middle(draws) if np.ptp(draws) else (None, None)


def _middle(draws: Float[np.ndarray, "M"]) -> tuple[float, float]:
  low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
  return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
  """Two-sided exact p that the items one of two models alone gets right split by chance.

  Source: McNemar's test by the binomial distribution.
  """
  total, most = only_first + only_second, max(only_first, only_second)
  logs = [
    math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
    for k in range(most, total + 1)
  ]
  return min(1.0, 2 * sum(map(math.exp, logs)))


def permutation(differences: Float[np.ndarray, "N"], seed: int) -> float:
  """Two-sided p of paired differences' mean, were the two models of each pair swapped at random."""
  rng, count = np.random.default_rng(seed), len(differences)
  seen = abs(differences.mean())
  size, extreme = max(1, BLOCK // max(count, 1)), 0
  for start in range(0, RESAMPLES, size):
    signs = rng.choice([-1.0, 1.0], size=(min(size, RESAMPLES - start), count))
    extreme += int(np.sum(np.abs(signs @ differences) / count >= seen - 1e-12))
  return (extreme + 1) / (RESAMPLES + 1)  # the pairing seen is one of those possible
