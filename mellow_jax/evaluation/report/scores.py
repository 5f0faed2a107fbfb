"""The scores of a section: every figure with its interval, number of items and rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.data import choices
from mellow_jax.evaluation.benchmarks.items import Prediction
from mellow_jax.evaluation.metrics import entailment, intervals, multiple_choice, rules, yes_no
from mellow_jax.evaluation.metrics.rules import ScoringRule
from mellow_jax.evaluation.report import sections


@dataclass(frozen=True, kw_only=True)
class Score:
  """One figure of one set of items."""

  name: str
  n: int  # items
  unit: str = "%"
  value: float | None = None
  low: float | None = None  # of the interval at intervals.LEVEL
  high: float | None = None
  unread: float | None = None  # percentage of answers that the rule cannot read: they are wrong
  says: str = ""  # the rule in words
  reason: str = ""  # why there is no value


def percent(
  name: str, predictions: Sequence[Prediction], values: Float[np.ndarray, "N"], seed: int, **fields
) -> Score:
  """A percentage from each prediction's share in [0, 1]; fields are those of Score."""
  _, values = sections.by_item(predictions, 100 * values)
  low, high = intervals.percent_interval(values, seed)
  return Score(name=name, n=len(values), value=float(values.mean()), low=low, high=high, **fields)


def judged(
  rule: ScoringRule, predictions: Sequence[Prediction], seed: int, name: str = ""
) -> Score:
  """Right answers by a rule in percent, and how many it cannot read."""
  right, unread = rules.judge(rule, predictions)
  fields = {"unread": 100 * unread if rule.can_fail else None, "says": rule.says}
  return percent(name or rule.name, predictions, right, seed, **fields)


def of_entailment(predictions: Sequence[Prediction], seed: int) -> list[Score]:
  """Accuracy, macro precision, recall and F1 and accuracy by class: ours, then the reference's."""
  swapped = entailment.SWAPPED
  ours = [str(choices.verdict(p.item.answer)) for p in predictions]
  theirs = [str(swapped.get(rules.gold_letter(p))) for p in predictions]
  # No class where the question could not be asked: the reference would read "a" into it.
  given = [
    None if p.failure else entailment.classify(p.prediction, rules.shown(p)) for p in predictions
  ]
  letters = [
    None if p.failure else swapped[multiple_choice.letter_reference(p.prediction)]
    for p in predictions
  ]
  return [
    *_by_class(rules.PICKED, "the options' texts", predictions, ours, given, seed),
    *_by_class(rules.REFERENCE, "its own labels", predictions, theirs, letters, seed),
  ]


def _by_class(
  rule: ScoringRule,
  labels: str,
  predictions: Sequence[Prediction],
  expected: Sequence[str],
  given: Sequence[str | None],
  seed: int,
) -> list[Score]:
  """The scores of entailment by one rule, from the class expected and the class given."""
  found = [judged(rule, predictions, seed, f"{rule.name} accuracy")]
  classes = entailment.classes_of(expected, given, stray=rule is rules.REFERENCE)
  _, rows = sections.by_item(predictions, entailment.tally(expected, given, classes))
  figures = 100 * entailment.macro(rows.sum(axis=0))
  says = f"mean over {len(classes)} classes, by {labels}"
  for i, name in enumerate(("macro precision", "macro recall", "macro F1")):
    low, high = intervals.interval_of(
      rows, lambda sums, i=i: 100 * entailment.macro(sums)[:, i], seed
    )
    fields = {"n": len(rows), "value": float(figures[i]), "low": low, "high": high, "says": says}
    found.append(Score(name=f"{rule.name} {name}", **fields))
  for one in (one for one in classes if one in expected):
    which = [i for i, e in enumerate(expected) if e == one]
    hits = np.array([given[i] == one for i in which], float)
    says = f"accuracy of the class, by {labels}"
    own = [predictions[i] for i in which]
    found.append(percent(f"{rule.name} {one}", own, hits, seed, says=says))
  return found


def of_votes(predictions: Sequence[Prediction], seed: int) -> list[Score]:
  """Yes/no scores over questions that several annotators answered, if there are any."""
  asked = list(yes_no.votes([p.item for p in predictions]).values())
  if all(len(places) == 1 for places in asked):
    return []
  right: dict[str, list[float]] = {"majority": [], "unanimous": []}
  for places in asked:
    answers = [predictions[i].item.answer for i in places]
    if (label := yes_no.majority(answers)) is None:
      continue
    hits = [choices.said_yes_or_no(predictions[i].prediction) == label for i in places]
    right["majority"].append(float(np.mean(hits)))
    if len(set(answers)) == 1:
      right["unanimous"].append(right["majority"][-1])
  says = {
    "majority": "yes_or_no against what most annotators said, once a question; ties are left out",
    "unanimous": "yes_or_no on questions whose annotators agree",
  }
  found = []
  for name, values in right.items():
    if values:
      shares = 100 * np.array(values)
      low, high = intervals.percent_interval(shares, seed)
      fields = {"n": len(shares), "value": float(shares.mean()), "says": says[name]}
      found.append(Score(name=f"yes_or_no [{name}]", **fields, low=low, high=high))
  return found
