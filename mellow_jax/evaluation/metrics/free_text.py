"""Metrics of free text over a set of predictions: every figure named with the words it counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from mellow_jax.errors import MetricUnavailable
from mellow_jax.evaluation.benchmarks.items import Prediction
from mellow_jax.evaluation.metrics import captions, coco_java, intervals
from mellow_jax.evaluation.metrics.captions import Tokens
from mellow_jax.evaluation.metrics.coco_java import Settings

WORD_FOR_WORD = "word-for-word accuracy [regex]"
FEW = "of one item CIDEr-D is 0 whatever it says: its weights come from the items' references"


@dataclass(frozen=True, kw_only=True)
class Figure:
  """One metric of one set of items, or the reason why there is none."""

  name: str
  value: float | None = None
  low: float | None = None  # of the bootstrap interval
  high: float | None = None
  unit: str = ""  # or "%"
  values: Float[np.ndarray, "N"] | None = None  # of each text, where the metric has one
  reason: str = ""  # why it is n/a: what is missing and what to do


def references_of(prediction: Prediction) -> tuple[str, ...]:
  """The texts a prediction is compared with, without the caption's "The audio 1 is "."""
  item = prediction.item
  return tuple(captions.strip_lead(text) for text in item.references or (item.answer,))


def regex_words(
  predictions: Sequence[Prediction],
) -> tuple[list[Tokens], list[list[Tokens]]]:
  """Words of each prediction and of its references, by regex."""
  given = [captions.words(captions.strip_lead(p.prediction)) for p in predictions]
  return given, [[captions.words(text) for text in references_of(p)] for p in predictions]


def word_for_word(
  given: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> Float[np.ndarray, "N"]:
  """100 where a text has the words of one of its references, all and in order, else 0."""
  same = [text in others for text, others in zip(given, references, strict=True)]
  return 100.0 * np.array(same)


def _ptb_words(
  predictions: Sequence[Prediction], settings: Settings
) -> tuple[list[Tokens], list[list[Tokens]]]:
  references = [references_of(p) for p in predictions]
  flat = [captions.strip_lead(p.prediction) for p in predictions]
  flat += [text for others in references for text in others]
  words = iter(coco_java.ptb_words(flat, settings))
  given = [next(words) for _ in predictions]
  return given, [[next(words) for _ in others] for others in references]


def _mean(name: str, values: Float[np.ndarray, "N"], seed: int) -> Figure:
  low, high = intervals.interval(values, seed)
  return Figure(name=name, value=float(values.mean()), low=low, high=high, values=values)


def core(
  given: Sequence[Tokens], references: Sequence[Sequence[Tokens]], tokenizer: str, seed: int
) -> list[Figure]:
  """CIDEr-D, ROUGE-L and BLEU-1 to 4: what needs nothing beside Python."""
  if len(given) > 1:
    cider = _mean("CIDEr-D", captions.cider_d(given, references), seed)
  else:
    cider = Figure(name="CIDEr-D", reason=FEW)
  figures = [cider, _mean("ROUGE-L", captions.rouge_l(given, references), seed)]
  counts = captions.bleu_counts(given, references)
  scores = captions.bleu(counts.sum(axis=0))
  for n in range(captions.ORDERS):
    low, high = intervals.interval_of(counts, lambda sums, n=n: captions.bleu(sums)[:, n], seed)
    figures.append(Figure(name=f"BLEU-{n + 1}", value=float(scores[n]), low=low, high=high))
  return [replace(figure, name=f"{figure.name} [{tokenizer}]") for figure in figures]


def measure(predictions: Sequence[Prediction], settings: Settings, seed: int) -> list[Figure]:
  """Every metric of free text, those that cannot run here with the reason.

  SPIDEr is absent where SPICE is.
  """
  given, references = regex_words(predictions)
  figures = core(given, references, "regex", seed)
  same = word_for_word(given, references)
  low, high = intervals.percent_interval(same, seed)
  figures.append(Figure(name=WORD_FOR_WORD, value=float(same.mean()), low=low, high=high, unit="%"))
  try:
    given, references = _ptb_words(predictions, settings)
  except MetricUnavailable as error:
    names = [figure.name.replace("regex", "ptb") for figure in figures if not figure.unit]
    names += ["METEOR [ptb]", "SPICE [ptb]", "SPIDEr [ptb]"]
    return figures + [Figure(name=name, reason=_why(error)) for name in names]
  exact = core(given, references, "ptb", seed)
  figures += exact
  try:
    found = coco_java.meteor(given, references, settings)
    figure = _mean("METEOR [ptb]", found.texts, seed)
    # The corpus' figure is not the texts' mean, by a little: the interval moves along.
    by = found.corpus - figure.value
    figures.append(replace(figure, value=found.corpus, low=figure.low + by, high=figure.high + by))
  except MetricUnavailable as error:
    figures.append(Figure(name="METEOR [ptb]", reason=_why(error)))
  try:
    spice = _mean("SPICE [ptb]", coco_java.spice(given, references, settings), seed)
    figures.append(spice)
    if exact[0].values is None:
      figures.append(Figure(name="SPIDEr [ptb]", reason=FEW))
    else:
      figures.append(_mean("SPIDEr [ptb]", (exact[0].values + spice.values) / 2, seed))
  except MetricUnavailable as error:
    for name in ("SPICE [ptb]", "SPIDEr [ptb]"):
      figures.append(Figure(name=name, reason=_why(error)))
  return figures


def _why(error: MetricUnavailable) -> str:
  return f"{error.missing}: {error.fix}"


def dealt(predictions: Sequence[Prediction], seed: int) -> list[Prediction]:
  """The same predictions, each given to another item: what texts score that fit no clip.

  An item never keeps its own; its references stay.
  """
  order = np.random.default_rng(seed).permutation(len(predictions))
  moved = list(predictions)
  for place, other in zip(order, np.roll(order, 1), strict=True):
    moved[place] = replace(predictions[place], prediction=predictions[other].prediction)
  return moved
