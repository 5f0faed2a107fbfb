"""Does a model listen? What it hears and reads in place of an item's own clips and options.

Source: noise, the paper's Figure 3; the others are our own.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32

from mellow_jax.evaluation.benchmarks.items import Item

NOISE_RMS = 0.1  # of the Gaussian noise, full scale being 1

Heard = Literal["clips", "noise", "silence", "shuffled"]
Second = Literal["none", "same", "random"]


def generator(seed: int, *names: str) -> np.random.Generator:
  """Random numbers that follow from a seed and names, and from nothing else."""
  digest = hashlib.sha256("\0".join(names).encode()).digest()
  return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def orders(item: Item, count: int, seed: int) -> list[tuple[int, ...]]:
  """The orders in which an item's choices are shown: their own, then others drawn at random.

  None comes twice before all have come. An item without choices has one order, ().
  """
  own = tuple(range(len(item.choices)))
  found = [own]
  if not own:
    return found
  rng, all_orders = generator(seed, "order", item.id), math.factorial(len(own))
  while len(found) < count:
    drawn = tuple(rng.permutation(len(own)).tolist())
    since = len(found) // all_orders * all_orders  # of this round through all orders
    if drawn not in found[since:]:
      found.append(drawn)
  return found


def shuffled(paths: Sequence[str], seed: int) -> dict[str, str]:
  """Each path and the one that takes its place: never itself, and each takes one place."""
  names = sorted(set(paths))
  names = [names[i] for i in generator(seed, "shuffled").permutation(len(names))]
  return dict(zip(names, [*names[1:], *names[:1]], strict=True))


def noise(path: str, samples: int, seed: int) -> Float32[np.ndarray, "S"]:
  """Gaussian noise, another for each path."""
  drawn = generator(seed, "noise", path).standard_normal(samples, np.float32)
  return np.float32(NOISE_RMS) * drawn


class Slots:
  """Which clips stand in the model's two slots."""

  def __init__(self, items: Sequence[Item], heard: Heard, second: Second, seed: int):
    """heard is what takes the place of clips; second, what an item of one clip hears beside it.

    Raises ValueError where the items name too few clips to choose from.
    """
    self.heard, self.second, self.seed = heard, second, seed
    self.paths = sorted({path for item in items for path in (item.audio1, item.audio2) if path})
    least = 1 + (heard == "shuffled") + (second == "random")
    if len(self.paths) < least:
      raise ValueError(f"{len(self.paths)} clips are too few: {least} are needed")
    self._instead = shuffled(self.paths, seed) if heard == "shuffled" else {}

  def __call__(self, item: Item) -> tuple[str | None, str | None]:
    """The paths of both; None for silence."""
    if self.heard == "silence":
      return None, None
    first = self._instead.get(item.audio1, item.audio1)
    if item.audio2:
      return first, self._instead.get(item.audio2, item.audio2)
    if self.second != "random":
      return first, first if self.second == "same" else None
    rng = generator(self.seed, "second", item.id)
    while (drawn := self.paths[int(rng.integers(len(self.paths)))]) in (first, item.audio1):
      pass
    return first, drawn
