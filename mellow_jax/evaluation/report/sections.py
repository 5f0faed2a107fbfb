"""A predictions file divided into sections scored alike, and the headline figures of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.evaluation.benchmarks import option_sets
from mellow_jax.evaluation.benchmarks.items import Kind, Prediction
from mellow_jax.evaluation.benchmarks.rows import TASKS
from mellow_jax.evaluation.metrics import captions, free_text, rules
from mellow_jax.evaluation.metrics.coco_java import Settings


@dataclass(frozen=True, kw_only=True)
class Section:
  """Predictions that one set of rules or metrics judges."""

  name: str
  kind: Kind
  predictions: tuple[Prediction, ...]


@dataclass(frozen=True, kw_only=True)
class ItemValues:
  """A figure by item: the figure of the section is the mean."""

  name: str
  unit: str  # "%" of right answers, or ""
  ids: tuple[str, ...]  # of the questions, by `option_sets.question_of`
  values: Float[np.ndarray, "N"]  # of each item, in this unit


def split(predictions: Sequence[Prediction]) -> list[Section]:
  """Sections by kind, named by their task.

  Free text is divided by subtype as well, as captions and differences score apart; and so is
  entailment, whose CLE and ACE are two benchmarks.
  """
  found: dict[tuple[Kind, str], list[Prediction]] = {}
  for prediction in predictions:
    item, subtype = prediction.item, prediction.item.groups.get("subtype", "")
    name = TASKS.get(item.kind, "")
    if item.kind == "text":
      name = subtype or item.groups.get("task") or "free text"
    elif subtype in ("CLE", "ACE"):
      name = f"{name}, {subtype}"
    found.setdefault((item.kind, name), []).append(prediction)
  return [
    Section(name=name, kind=kind, predictions=tuple(part)) for (kind, name), part in found.items()
  ]


def by_item(
  predictions: Sequence[Prediction], values: Float[np.ndarray, "N ..."]
) -> tuple[tuple[str, ...], Float[np.ndarray, "M ..."]]:
  """What tells the questions apart, and the mean over each one's predictions.

  A question may have several, with its options in another order or with another set of them each
  time: those are not as many independent trials.
  """
  places: dict[str, list[int]] = {}
  for place, prediction in enumerate(predictions):
    places.setdefault(option_sets.question_of(prediction.item), []).append(place)
  return tuple(places), np.stack([values[rows].mean(axis=0) for rows in places.values()])


def headline(section: Section, settings: Settings | None = None) -> list[ItemValues]:
  """The figures that stand for a section: the leading one first, word-for-word accuracy last.

  Leading is the first rule of the kind; of free text CIDEr-D, or ROUGE-L of a single text, but of
  short answers word-for-word accuracy. Options are also scored by their text alone. Of yes and no
  the word is all that is compared. Without settings no program of Java is run.
  """
  predictions = section.predictions

  def figure(name: str, unit: str, values: Float[np.ndarray, "N"]) -> ItemValues:
    ids, values = by_item(predictions, values)
    return ItemValues(name=name, unit=unit, ids=ids, values=values)

  if section.kind == "text":
    words = free_text.regex_words(predictions)
    exact = figure(free_text.WORD_FOR_WORD, "%", free_text.word_for_word(*words))
    if free_text.is_closed(predictions):
      return [exact]
    tokenizer, words = free_text.leading_words(predictions, settings)
    several = len(predictions) > 1
    name, metric = ("CIDEr-D", captions.cider_d) if several else ("ROUGE-L", captions.rouge_l)
    return [figure(f"{name} [{tokenizer}]", "", metric(*words)), exact]
  leading = rules.of_kind(section.kind, predictions)[0]
  beside = [] if section.kind == "binary" else [rules.OPTION_TEXT, rules.WORD_FOR_WORD]
  return [
    figure(rule.name, "%", 100 * rules.judge(rule, predictions)[0]) for rule in (leading, *beside)
  ]
