"""Audio entailment: does a hypothesis follow from what is heard? Scored by the option's text.

The published prompt offers "a) It is definitely true b) It is definitely false c) It is plausible
d) I cannot determine". Classes go by these texts, in whatever order they are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mellow_jax.evaluation import options

# Text of an option to its class.
CLASSES = {
  "it is definitely true": "entailment",
  "it is plausible": "neutral",
  "it is definitely false": "contradiction",
  "i cannot determine": "undetermined",
}
JUDGED = ("entailment", "neutral", "contradiction")
# The reference numbers letters and calls the second neutral and the third contradiction, where the
# published prompt has "definitely false" second and "plausible" third: its labels are swapped.
SWAPPED = {"a": "entailment", "b": "neutral", "c": "contradiction", "d": "undetermined"}


@dataclass(frozen=True, kw_only=True)
class Scores:
  """Shares in [0, 1]; precision, recall and F1 are means over classes, each counting the same."""

  accuracy: float
  precision: float
  recall: float
  f1: float
  by_class: dict[str, float]  # accuracy (recall) of each class that occurs


def class_of(choice: str) -> str | None:
  """The class of an option's text, None if it is none of entailment's."""
  return CLASSES.get(" ".join(choice.lower().split()).strip(" ."))


def classify(text: str, shown: Sequence[str]) -> str | None:
  """The class an answer picks: of the option it names, or else whose letter it gives."""
  place = options.option_text(text, shown)
  if place is None:
    place = options.letter_strict(text, len(shown))
  return None if place is None else class_of(shown[place])


def scores(
  expected: Sequence[str], given: Sequence[str | None], *, stray_classes: bool = False
) -> Scores:
  """Accuracy, macro precision, recall and F1 over the classes expected, and accuracy by class.

  An answer that picks nothing is a miss and nothing else. With stray_classes a class that only
  answers hold takes part in the means with zeros, as the reference has it through scikit-learn: one
  stray "d" lowers recall by a quarter.
  """
  held = set(expected) | ({one for one in given if one} if stray_classes else set())
  classes = [one for one in (*JUDGED, "undetermined") if one in held]
  pairs = list(zip(expected, given, strict=True))
  precision, recall, f1 = [], [], []
  for one in classes:
    hits = sum(e == g == one for e, g in pairs)
    claimed, there = sum(g == one for _, g in pairs), sum(e == one for e, _ in pairs)
    precision.append(hits / claimed if claimed else 0.0)
    recall.append(hits / there if there else 0.0)
    f1.append(2 * hits / (claimed + there) if claimed + there else 0.0)
  return Scores(
    accuracy=float(np.mean([e == g for e, g in pairs])),
    precision=float(np.mean(precision)),
    recall=float(np.mean(recall)),
    f1=float(np.mean(f1)),
    by_class={one: r for one, r in zip(classes, recall, strict=True) if one in set(expected)},
  )
