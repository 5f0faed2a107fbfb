"""The figures of a section as lines of a report: value, interval, items, rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.evaluation.benchmarks.items import Prediction
from mellow_jax.evaluation.metrics import entailment, intervals, multiple_choice, rules, yes_no
from mellow_jax.evaluation.metrics.free_text import Figure
from mellow_jax.evaluation.metrics.rules import Rule
from mellow_jax.evaluation.report import sections


@dataclass(frozen=True, kw_only=True)
class Line:
  """One figure of one set of items."""

  name: str
  n: int  # items
  unit: str = "%"
  value: float | None = None
  low: float | None = None  # of the interval at statistics.LEVEL
  high: float | None = None
  unread: float | None = None  # percentage of answers that the rule cannot read: they are wrong
  says: str = ""  # the rule in words
  reason: str = ""  # why there is no value


def _percent(
  name: str, predictions: Sequence[Prediction], values: Float[np.ndarray, "N"], seed: int, **fields
) -> Line:
  """A line of percentages from shares in [0, 1] of each prediction."""
  _, values = sections.by_item(predictions, 100 * values)
  low, high = intervals.percent_interval(values, seed)
  return Line(name=name, n=len(values), value=float(values.mean()), low=low, high=high, **fields)


def judged(rule: Rule, predictions: Sequence[Prediction], seed: int, name: str = "") -> Line:
  """The line of a rule: right answers in percent, and how many it cannot read."""
  right, unread = rules.judge(rule, predictions)
  fields = {"unread": 100 * unread if rule.can_fail else None, "says": rule.says}
  return _percent(name or rule.name, predictions, right, seed, **fields)


def of_entailment(predictions: Sequence[Prediction], seed: int) -> list[Line]:
  """Accuracy, macro precision, recall and F1 and accuracy by class: ours, then the reference's."""
  ours = (
    rules.PICKED,
    [str(entailment.class_of(p.item.answer)) for p in predictions],
    [entailment.classify(p.prediction, rules.shown(p)) for p in predictions],
  )
  swapped = entailment.SWAPPED
  theirs = (
    rules.REFERENCE,
    [str(swapped.get(rules.gold_letter(p))) for p in predictions],
    [swapped[multiple_choice.letter_reference(p.prediction)] for p in predictions],
  )
  lines = []
  for rule, expected, given in (ours, theirs):
    lines.append(judged(rule, predictions, seed, f"{rule.name} accuracy"))
    classes = entailment.classes_of(expected, given, stray=rule is rules.REFERENCE)
    _, rows = sections.by_item(predictions, entailment.tally(expected, given, classes))
    figures = 100 * entailment.macro(rows.sum(axis=0))
    labels = "its own labels" if rule is rules.REFERENCE else "the options' texts"
    for i, name in enumerate(("macro precision", "macro recall", "macro F1")):
      low, high = intervals.interval_of(
        rows, lambda sums, i=i: 100 * entailment.macro(sums)[:, i], seed
      )
      lines.append(
        Line(
          name=f"{rule.name} {name}",
          n=len(rows),
          value=float(figures[i]),
          low=low,
          high=high,
          says=f"mean over {len(classes)} classes, by {labels}",
        )
      )
    for one in (one for one in classes if one in expected):
      which = [i for i, e in enumerate(expected) if e == one]
      hits = np.array([given[i] == one for i in which], float)
      says = f"accuracy of the class, by {labels}"
      part = [predictions[i] for i in which]
      lines.append(_percent(f"{rule.name} {one}", part, hits, seed, says=says))
  return lines


def of_votes(predictions: Sequence[Prediction], seed: int) -> list[Line]:
  """Yes/no lines over questions that several annotators answered, if there are any."""
  items = [p.item for p in predictions]
  asked = list(yes_no.votes(items).values())
  if all(len(places) == 1 for places in asked):
    return []
  right = {"majority": [], "unanimous": []}
  for places in asked:
    answers = [items[i].answer for i in places]
    if (label := yes_no.majority(answers)) is None:
      continue
    hits = [yes_no.first_word(predictions[i].prediction) == label for i in places]
    right["majority"].append(float(np.mean(hits)))
    if len(set(answers)) == 1:
      right["unanimous"].append(right["majority"][-1])
  says = {
    "majority": "first_word against what most annotators said, once a question; ties are left out",
    "unanimous": "first_word on questions whose annotators agree",
  }
  lines = []
  for name, values in right.items():
    if values:
      percent = 100 * np.array(values)
      low, high = intervals.percent_interval(percent, seed)
      value = float(percent.mean())
      fields = {"n": len(percent), "value": value, "low": low, "high": high, "says": says[name]}
      lines.append(Line(name=f"first_word [{name}]", **fields))
  return lines


def of_text(figure: Figure, count: int) -> Line:
  """The line of a metric of free text over a number of items."""
  return Line(
    name=figure.name,
    n=count,
    unit=figure.unit,
    value=figure.value,
    low=figure.low,
    high=figure.high,
    reason=figure.reason,
  )
