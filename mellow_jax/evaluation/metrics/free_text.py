"""Metrics of free text over a set of predictions: every figure named with the words it counts."""

import contextlib
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
CLOSED = 3  # words of the longest answer that is right or wrong, and no description
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


Words = tuple[list[Tokens], list[list[Tokens]]]  # of each prediction, and of its references


def compared(prediction: Prediction) -> tuple[str, tuple[str, ...]]:
  """A prediction's text and those it is compared with.

  Captions alone lose their leading "The audio 1 is ", as in the reference.
  """
  item = prediction.item
  texts = prediction.prediction, *(item.references or (item.answer,))
  if item.groups.get("task", "caption") == "caption":
    texts = tuple(map(captions.strip_lead, texts))
  return texts[0], texts[1:]


def is_closed(predictions: Sequence[Prediction]) -> bool:
  """Whether all answers are so short that only word for word they are right."""
  given = (compared(p)[1] for p in predictions)
  return all(len(captions.words(text)) <= CLOSED for texts in given for text in texts)


def regex_words(predictions: Sequence[Prediction]) -> Words:
  """Words of each prediction and of its references, by regex."""
  both = [compared(p) for p in predictions]
  return (
    [captions.words(text) for text, _ in both],
    [[captions.words(text) for text in others] for _, others in both],
  )


def leading_words(
  predictions: Sequence[Prediction], settings: Settings | None
) -> tuple[str, Words]:
  """The tokenizer that the leading figure counts by, and the words.

  Of differences it is [ptb] where Java is found: their detailed answers hold hyphens, brackets and
  figures, which the two tokenizers take apart differently.
  """
  if settings and all(p.item.groups.get("task") == "difference" for p in predictions):
    with contextlib.suppress(MetricUnavailable):
      return "ptb", _ptb_words(predictions, settings)
  return "regex", regex_words(predictions)


def word_for_word(
  given: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> Float[np.ndarray, "N"]:
  """100 where a text has the words of one of its references, all and in order, else 0."""
  same = [text in others for text, others in zip(given, references, strict=True)]
  return 100.0 * np.array(same)


def _ptb_words(predictions: Sequence[Prediction], settings: Settings) -> Words:
  both = [compared(p) for p in predictions]
  references = [others for _, others in both]
  flat = [text for text, _ in both] + [text for others in references for text in others]
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
  """Every metric of free text, the leading one first, those that cannot run with the reason.

  SPIDEr is absent where SPICE is.
  """
  figures = _measure(predictions, settings, seed)
  is_difference = all(p.item.groups.get("task") == "difference" for p in predictions)
  ptb = is_difference and any(f.name == "CIDEr-D [ptb]" and f.value is not None for f in figures)
  leading = WORD_FOR_WORD if is_closed(predictions) else f"CIDEr-D [{'ptb' if ptb else 'regex'}]"
  return sorted(figures, key=lambda figure: figure.name != leading)


def _measure(predictions: Sequence[Prediction], settings: Settings, seed: int) -> list[Figure]:
  given, references = regex_words(predictions)
  figures = core(given, references, "regex", seed)
  same = word_for_word(given, references)
  low, high = intervals.percent_interval(same, seed)
  ends = {"low": low, "high": high, "unit": "%", "values": same}
  figures.append(Figure(name=WORD_FOR_WORD, value=float(same.mean()), **ends))
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
    ends = (None if end is None else end + by for end in (figure.low, figure.high))
    moved = dict(zip(("value", "low", "high"), (found.corpus, *ends), strict=True))
    figures.append(replace(figure, **moved))
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
