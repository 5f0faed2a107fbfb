"""Audio entailment: does a hypothesis follow from what is heard? Scored by the option's text.

The published prompt offers "a) It is definitely true b) It is definitely false c) It is plausible
d) I cannot determine". Classes go by these texts, in whatever order they are shown.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mellow_jax.data import choices

JUDGED = ("entailment", "neutral", "contradiction")
# The reference numbers letters and calls the second neutral and the third contradiction, where the
# published prompt has "definitely false" second and "plausible" third: its labels are swapped.
SWAPPED = {"a": "entailment", "b": "neutral", "c": "contradiction", "d": "undetermined"}


def classify(text: str, shown: Sequence[str]) -> str | None:
  """The class an answer picks: of the option it names, or else whose letter it gives."""
  place = choices.picked(text, shown)
  return None if place is None else choices.verdict(shown[place])


def classes_of(
  expected: Sequence[str], given: Sequence[str | None], *, stray: bool = False
) -> tuple[str, ...]:
  """The classes that means are taken over: those expected.

  With stray also those that only answers hold, which enter the means with zeros as they do in the
  reference, through scikit-learn: one stray "d" then lowers recall by a quarter.
  """
  held = set(expected) | ({one for one in given if one} if stray else set())
  return tuple(one for one in (*JUDGED, "undetermined") if one in held)


def tally(
  expected: Sequence[str], given: Sequence[str | None], classes: Sequence[str]
) -> Float[np.ndarray, "N K"]:
  """What each answer adds to a class' hits, to the answers that claim it, to those that are it.

  K is three times the number of classes: hits of each, then claims, then members.

  An answer that picks nothing, None, is a miss and claims nothing.
  """
  rows = [
    [float(e == g == one) for one in classes]
    + [float(g == one) for one in classes]
    + [float(e == one) for one in classes]
    for e, g in zip(expected, given, strict=True)
  ]
  return np.array(rows, float)


def macro(sums: Float[np.ndarray, "*M K"]) -> Float[np.ndarray, "*M 3"]:
  """Precision, recall and F1, each the mean over classes, of summed tallies."""
  hits, claimed, there = np.split(sums, 3, axis=-1)
  parts = [(hits, claimed), (hits, there), (2 * hits, claimed + there)]
  return np.stack(
    [np.divide(a, b, out=np.zeros_like(a), where=b > 0).mean(axis=-1) for a, b in parts], axis=-1
  )
