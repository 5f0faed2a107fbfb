"""Answers by their length: which lengths steps are compiled for, and batches of one length.

Positions behind an answer's last token neither change what stands before them nor count in the
loss, so a batch may be cut behind its longest answer, and the update is the same to rounding.
"""

import bisect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool, Int

from mellow_jax.data.records import Record

MULTIPLE = 8  # of which lengths are: rows of a TPU's tile
SAMPLE = 4096  # rows whose answers choose the lengths
WINDOW = 32  # batches whose rows are put together by length
SLACK = 2.0  # standard deviations by which the rows of a part may be longer than most


def sample(rows: Sequence[Record]) -> list[Record]:
  """Rows spread evenly over all."""
  return [rows[i * len(rows) // SAMPLE] for i in range(SAMPLE)] if len(rows) > SAMPLE else [*rows]


def choose(lengths: Int[np.ndarray, "rows"], count: int, most: int) -> tuple[int, ...]:
  """At most `count` lengths that hold these answers in the fewest slots, and `most` for all others.

  Rising multiples of MULTIPLE, none above most.
  """
  tops = sorted({min(-(-max(n, 1) // MULTIPLE) * MULTIPLE, most) for n in lengths.tolist()})
  below = np.searchsorted(np.sort(lengths), tops, side="right")  # answers that each top holds
  # The least slots for the answers up to each top, by the tops in use.
  best = {i: (int(below[i]) * top, (top,)) for i, top in enumerate(tops)}
  for _ in range(count - 1):
    best = {
      i: min(
        [best[i]]
        + [(best[j][0] + int(below[i] - below[j]) * top, (*best[j][1], top)) for j in range(i)]
      )
      for i, top in enumerate(tops)
    }
  return tuple(sorted({*best[len(tops) - 1][1], most}))


def shapes(
  lengths: Int[np.ndarray, "rows"], allowed: Sequence[int], parts: int, rows: int
) -> list[tuple[int, ...]]:
  """Slots of each part of a batch of so many rows, ordered by length, the cheapest first.

  For each length two: all parts have it, or those before the last what most batches need.
  """
  shares = np.arange(1, parts) / parts
  shares = np.minimum(shares + SLACK * np.sqrt(shares * (1 - shares) / rows), 1)
  usual = [least(int(np.quantile(lengths, share)), allowed) for share in shares]
  found = {(size,) * parts for size in allowed}
  found |= {(*(min(u, size) for u in usual), size) for size in allowed}
  return sorted(found, key=lambda shape: (sum(shape), shape))


def least(length: int, allowed: Sequence[int]) -> int:
  """The least of the allowed lengths, which rise, that holds an answer."""
  return allowed[min(bisect.bisect_left(allowed, length), len(allowed) - 1)]


def needed(loss_mask: Bool[np.ndarray, "B *K R"]) -> Int[np.ndarray, "B"]:
  """Slots that each example, or group of them, needs: up to the last token that counts."""
  slots = loss_mask.shape[-1]
  loss_mask = loss_mask.reshape(len(loss_mask), -1, slots).any(axis=1)
  return np.where(loss_mask.any(axis=1), slots - np.argmax(loss_mask[:, ::-1], axis=1), 0)


def in_parts(
  arrays: dict[str, np.ndarray], parts: int, first: int = 0
) -> list[dict[str, np.ndarray]]:
  """A batch in parts of as many rows by rising need.

  "rows" has the place that each example had, the first of all being `first`.
  """
  order = np.argsort(needed(arrays["loss_mask"]), kind="stable")
  return [
    {**{name: x[part] for name, x in arrays.items()}, "rows": (first + part).astype(np.int32)}
    for part in np.split(order, parts)
  ]


def cut(arrays: dict[str, np.ndarray], slots: int) -> dict[str, np.ndarray]:
  """The batch with so many slots for answers."""
  return {**arrays, **{name: arrays[name][..., :slots] for name in ("answer_ids", "loss_mask")}}


class Grouped(Sequence[Any]):
  """The examples of an endless dataset, in batches of answers of about one length.

  The rows of WINDOW batches are put together by length, and what does not fill a batch joins the
  next length; the batches then stand in random order. So the same rows come, and each within
  WINDOW batches of its own place; the order follows from the seed.
  """

  def __init__(
    self,
    examples: grain.MapDataset,
    records: grain.MapDataset,
    length: Callable[[Record], int],
    *,
    allowed: Sequence[int],
    batch_size: int,
    seed: int,
  ):
    """records are those of the examples, length tells about how long the answer of one is."""
    self._examples, self._records, self._length = examples, records, length
    self._allowed, self._batch_size, self._seed = allowed, batch_size, seed
    self._windows: dict[int, np.ndarray] = {}

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> Any:
    window, place = divmod(index, WINDOW * self._batch_size)
    order = self._windows.get(window)
    if order is None:
      order = self._order(window)
      # Threads that read ahead are in two windows at most.
      self._windows = {w: o for w, o in self._windows.items() if w == window - 1} | {window: order}
    return self._examples[int(order[place])]

  def _order(self, window: int) -> Int[np.ndarray, "rows"]:
    """Where the examples of a window stand in the dataset."""
    size = WINDOW * self._batch_size
    indices = np.arange(window * size, (window + 1) * size)
    of = np.array([least(self._length(self._records[int(i)]), self._allowed) for i in indices])
    batches, left = [], indices[:0]
    for length in self._allowed:
      left = np.concatenate([left, indices[of == length]])
      full = len(left) - len(left) % self._batch_size
      batches += np.split(left[:full], full // self._batch_size) if full else []
      left = left[full:]
    order = np.random.default_rng([self._seed, window]).permutation(len(batches))
    return np.concatenate([batches[i] for i in order])
