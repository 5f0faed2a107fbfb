"""A predictions file in the parts that are scored alike, and the figure that leads each part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.evaluation.benchmarks.items import Kind, Prediction
from mellow_jax.evaluation.metrics import captions, free_text, rules

NAMES = {"choice": "multiple choice", "binary": "yes or no", "entailment": "entailment"}


@dataclass(frozen=True, kw_only=True)
class Section:
  """Predictions that one set of rules or metrics judges."""

  name: str
  kind: Kind
  predictions: tuple[Prediction, ...]


@dataclass(frozen=True, kw_only=True)
class Leading:
  """The figure that stands for a section where there is room for one."""

  name: str
  unit: str  # "%" of right answers, or ""
  ids: tuple[str, ...]  # of the items
  values: Float[np.ndarray, "N"]  # of each item, in this unit: their mean is the figure


def split(predictions: Sequence[Prediction]) -> list[Section]:
  """Sections by kind; of free text also by subtype, as captions and differences score apart."""
  found: dict[tuple[Kind, str], list[Prediction]] = {}
  for prediction in predictions:
    item, name = prediction.item, NAMES.get(prediction.item.kind, "")
    if item.kind == "text":
      name = item.groups.get("subtype") or item.groups.get("task") or "free text"
    found.setdefault((item.kind, name), []).append(prediction)
  return [
    Section(name=name, kind=kind, predictions=tuple(part)) for (kind, name), part in found.items()
  ]


def by_item(
  predictions: Sequence[Prediction], values: Float[np.ndarray, "N ..."]
) -> tuple[tuple[str, ...], Float[np.ndarray, "M ..."]]:
  """Ids of the items, and the mean over each one's predictions.

  An item may have several, with its options in another order each time: those are not as many
  independent trials.
  """
  places: dict[str, list[int]] = {}
  for place, prediction in enumerate(predictions):
    places.setdefault(prediction.item.id, []).append(place)
  return tuple(places), np.stack([values[rows].mean(axis=0) for rows in places.values()])


def leading(section: Section) -> Leading:
  """The leading figure: the first rule of its kind, or CIDEr-D, or ROUGE-L of a single text."""
  predictions = section.predictions
  if section.kind == "text":
    given, references = free_text.regex_words(predictions)
    name, metric = (
      ("CIDEr-D [regex]", captions.cider_d)
      if len(given) > 1
      else ("ROUGE-L [regex]", captions.rouge_l)
    )
    values, unit = metric(given, references), ""
  else:
    rule = rules.of_kind(section.kind, predictions)[0]
    values, unit, name = 100 * rules.judge(rule, predictions)[0], "%", rule.name
  ids, values = by_item(predictions, values)
  return Leading(name=name, unit=unit, ids=ids, values=values)
