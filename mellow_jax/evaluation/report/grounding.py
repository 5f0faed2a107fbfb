"""Does a model use the audio? Its scores with the clips, and with other audio in their place.

Noise and silence are unlike all training audio, and may upset a model that ignores its input.
Another item's clips are as natural as its own: where a run with shuffled clips is given, it
decides. Options in another order show whether the model picks an option's text or its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.errors import PredictionsError
from mellow_jax.evaluation.benchmarks.items import Prediction
from mellow_jax.evaluation.benchmarks.prediction_files import PredictionSet
from mellow_jax.evaluation.metrics import captions, intervals, rules
from mellow_jax.evaluation.metrics.coco_java import Settings
from mellow_jax.evaluation.report import sections
from mellow_jax.evaluation.report.sections import ItemValues

# A model that loses nothing that can be seen, and surely less than this, does not listen: points of
# right answers, and CIDEr-D, which is 10 for a text that is its reference.
MARGIN = {"%": 10.0, "": 0.3}
# Less CIDEr-D than this is nothing, however sure: all answers may be wrong, and not quite alike.
LEAST = {"%": 0.0, "": 0.01}
FEW = 30  # items; with fewer, what is not decided is said to be so for that reason


@dataclass(frozen=True, kw_only=True)
class Loss:
  """What a probe costs in a figure of a section, or over all right-or-wrong sections together."""

  section: str
  pooled: bool  # over all right-or-wrong sections
  probe: str  # what was changed, in words
  figure: str
  unit: str
  n: int  # items that both runs answer
  clips: float
  probed: float
  low: float  # of the interval of clips - probed, paired by item
  high: float
  p: float  # of the paired test that it makes no difference
  same_text: float  # percentage of answers that are, word for word, those with the clips
  same_option: float | None  # percentage picking the same option as with the clips, by its text


@dataclass(frozen=True, kw_only=True)
class Grounding:
  """The losses by each probe of one run, and the conclusion.

  Of each probe the loss over all right-or-wrong sections comes first, where there are several; then
  each section's headline figures, the leading one first.
  """

  losses: tuple[Loss, ...]
  listens: bool | None  # None where the items are too few, or the probes disagree
  sentences: tuple[str, ...]


INSTEAD = {"shuffled": "other items' clips"}  # the name of a probe's audio where its word is none


def label(run: PredictionSet) -> str:
  """What a run changed of the input, "" for an item's own clips and options in their order."""
  changed = [] if run.heard == "clips" else [INSTEAD.get(run.heard, run.heard)]
  if run.permuted:
    changed.append("options in another order")
  if (second := run.settings.get("audio2", "same")) != "same":
    changed.append(f"the second clip {second}")
  return ", ".join(changed)


def _paired(
  plain: Sequence[Prediction], probed: Sequence[Prediction]
) -> tuple[Sequence[Prediction], Sequence[Prediction]]:
  """The predictions of both runs about items that both answer, in the same order of items."""
  ids = {p.item.id for p in plain} & {p.item.id for p in probed}
  places = {p.item.id: i for i, p in enumerate(plain)}
  kept = sorted((p for p in probed if p.item.id in ids), key=lambda p: places[p.item.id])
  return [p for p in plain if p.item.id in ids], kept


def _texts_picked(predictions: Sequence[Prediction]) -> dict[str, list[str]]:
  """The text of the option picked in each prediction of an item, "" for none."""
  found: dict[str, list[str]] = {}
  for p in predictions:
    place = rules.picked(p)
    text = "" if place is None else rules.shown(p)[place]
    found.setdefault(p.item.id, []).append(text)
  return found


def _same_option(plain: Sequence[Prediction], probed: Sequence[Prediction]) -> float:
  """Percentage of the probe's answers that pick the option picked with the clips."""
  first = {name: texts[0] for name, texts in _texts_picked(plain).items()}
  pairs = [(first[name], text) for name, texts in _texts_picked(probed).items() for text in texts]
  return 100 * float(np.mean([bool(a) and a == b for a, b in pairs]))


def _same_text(plain: Sequence[Prediction], probed: Sequence[Prediction]) -> float:
  """Percentage of the probe's answers that are word for word those with the clips.

  A question that could not be asked has none, and so none that is the same.
  """
  first = {p.item.id: p.prediction.split() for p in reversed(plain)}
  same = [not p.failure and first[p.item.id] == p.prediction.split() for p in probed]
  return 100 * float(np.mean(same))


def _loss(
  section: str,
  probe: PredictionSet,
  clips: ItemValues,
  probed: Float[np.ndarray, "N"],
  same: tuple[float, float | None],
  seed: int,
  *,
  pooled: bool = False,
) -> Loss:
  """What a probe costs in a figure, from its values with the clips and, item by item, probed."""
  differences = clips.values - probed
  most = 100.0 if clips.unit == "%" else captions.MOST
  low, high = intervals.difference_interval(differences, seed, most)
  return Loss(
    section=section,
    pooled=pooled,
    probe=label(probe),
    figure=clips.name,
    unit=clips.unit,
    n=len(differences),
    clips=float(clips.values.mean()),
    probed=float(probed.mean()),
    low=low,
    high=high,
    p=intervals.permutation(differences, seed),
    same_text=same[0],
    same_option=same[1],
  )


def _check_model(plain: PredictionSet, probe: PredictionSet) -> None:
  """Raises PredictionsError if both files say how they were made, and say so differently."""
  for name in ("checkpoint_sha256", "preset", "prompt_style", "window", "max_new_tokens"):
    mine, theirs = (run.settings.get(name) for run in (plain, probe))
    if mine is not None and theirs is not None and mine != theirs:
      raise PredictionsError(
        f"{probe.path}: was made with {name} {theirs}, {plain.path} with {mine}: probe the same "
        "model in the same way"
      )


def _losses(
  plain: PredictionSet, probe: PredictionSet, settings: Settings, seed: int
) -> list[Loss]:
  probed = probe.predictions
  if probe.permuted and probe.heard == "clips":  # the own order, of several, changes nothing
    probed = [p for p in probed if list(p.order) != sorted(p.order)]
  mine, theirs = _paired(plain.predictions, probed)
  if not mine:
    raise PredictionsError(f"{probe.path}: answers no item that {plain.path} answers")
  items = {p.item.id: p.item for p in mine}
  for p in theirs:
    if items[p.item.id] != p.item:
      raise PredictionsError(
        f"{probe.path}: id {p.item.id!r} is another item than in {plain.path}: probe the same data"
      )
  found: list[Loss] = []
  right: list[tuple[Loss, ItemValues, Float[np.ndarray, "_"]]] = []  # the leading figures in %
  others = {(s.kind, s.name): s for s in sections.split(theirs)}
  for section in sections.split(mine):
    other = others[section.kind, section.name]
    pair, chosen = (
      (section.predictions, other.predictions),
      section.kind in ("choice", "entailment"),
    )
    same = _same_text(*pair), _same_option(*pair) if chosen else None
    figures = zip(*(sections.headline(one, settings) for one in (section, other)), strict=True)
    for place, (clips, changed) in enumerate(figures):
      by_id = dict(zip(changed.ids, changed.values, strict=True))
      values = np.array([by_id[one] for one in clips.ids])
      found.append(_loss(section.name, probe, clips, values, same, seed))
      if place == 0 and clips.unit == "%":
        right.append((found[-1], clips, values))
  if len(right) > 1:
    found.insert(0, _pooled(probe, right, seed))
  return found


def _pooled(
  probe: PredictionSet, right: Sequence[tuple[Loss, ItemValues, Float[np.ndarray, "_"]]], seed: int
) -> Loss:
  """The loss over the leading figures of all right-or-wrong sections together."""
  losses, clips, probed = zip(*right, strict=True)
  weights, options = [one.n for one in losses], [one.same_option for one in losses]
  same = (
    float(np.average([one.same_text for one in losses], weights=weights)),
    None if None in options else float(np.average(options, weights=weights)),
  )
  together = ItemValues(
    name="right answers",
    unit="%",
    ids=tuple(one for figure in clips for one in figure.ids),
    values=np.concatenate([figure.values for figure in clips]),
  )
  name = "all of " + ", ".join(one.section for one in losses)
  return _loss(name, probe, together, np.concatenate(probed), same, seed, pooled=True)


def _sentence(loss: Loss) -> str:
  """A loss in words."""
  unit, digits = (" points", 1) if loss.unit else ("", 3)
  sign = "%" if loss.unit else ""
  return (
    f"{loss.clips:.{digits}f}{sign} with the clips, {loss.probed:.{digits}f}{sign} with "
    f"{loss.probe}: a difference of {loss.clips - loss.probed:.{digits}f}{unit} "
    f"({100 * intervals.LEVEL:.0f}% interval {loss.low:.{digits}f} to {loss.high:.{digits}f}, "
    f"{loss.n} items, p {shown_p(loss.p)})"
  )


def shown_p(p: float) -> str:
  """A p as it is printed."""
  return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _is_seen(loss: Loss) -> bool:
  """Whether the interval is of a cost that is something."""
  return loss.low > 0 and loss.clips - loss.probed >= LEAST[loss.unit]


def _costs(loss: Loss) -> bool:
  """Whether the probe surely costs something: by the interval, and by the paired test as well.

  The bootstrap's interval alone is too narrow with few items.
  """
  return _is_seen(loss) and loss.p < 1 - intervals.LEVEL


def _costs_nothing(loss: Loss) -> bool:
  """Whether no cost can be seen, and a large one is ruled out."""
  return not _is_seen(loss) and loss.high < MARGIN[loss.unit]


def _verdict(losses: Sequence[Loss]) -> tuple[bool | None, list[str]]:
  """Whether the model listens, from each audio probe's first loss."""
  shuffled = [loss for loss in losses if loss.probe.startswith(INSTEAD["shuffled"])]
  deciding = shuffled or losses
  told = "; ".join(_sentence(loss) for loss in deciding)
  if all(map(_costs, deciding)):
    listens, verdict = True, f"The model listens: {told}."
    if not shuffled:
      verdict += " Unless such sounds merely upset it: a run with --audio=shuffled would tell."
  elif all(map(_costs_nothing, deciding)):
    listens, verdict = False, f"The model answers without listening: {told}."
  else:
    fewest = min(loss.n for loss in deciding)
    why = f", {fewest} items are too few to say" if fewest < FEW else ""
    listens, verdict = None, f"Whether the model listens is not decided here{why}: {told}."
  sentences = [verdict]
  if shuffled and (rest := [loss for loss in losses if loss not in shuffled]):
    lead = "With other sounds" if listens is None else "Beside that"
    if listens is False:
      lead = "These sounds, unlike any it was trained on, only upset it"
    if not listens and not any(map(_costs, rest)):
      lead = "Nor does it lose by other sounds"
    sentences.append(f"{lead}: {'; '.join(_sentence(loss) for loss in rest)}.")
  if not listens:
    shares = ", ".join(f"{loss.same_text:.1f}% with {loss.probe}" for loss in losses)
    sentences.append(f"Answers that stay the same, word for word: {shares}.")
  return listens, sentences


def measure(
  plain: PredictionSet, probes: Sequence[PredictionSet], settings: Settings, seed: int
) -> Grounding:
  """What each probe costs, and whether the model listens.

  Raises PredictionsError if the first run is itself a probe, a probe changes nothing, or the runs'
  items differ.
  """
  if label(plain):
    raise PredictionsError(
      f"{plain.path}: was made with {label(plain)}: give it as --probe, and the run with the clips "
      "as --predictions"
    )
  losses, audio, orders = [], [], []
  for probe in probes:
    if not label(probe):
      raise PredictionsError(
        f"{probe.path}: heard the clips, with options in order: it probes nothing"
      )
    _check_model(plain, probe)
    found = _losses(plain, probe, settings, seed)
    losses += found
    (audio if probe.heard != "clips" else orders).append(found[0])
  listens, sentences = _verdict(audio) if audio else (None, [])
  for loss in orders:
    told = _sentence(loss)
    if loss.same_option is not None:
      told += f"; {loss.same_option:.1f}% of answers pick the option picked before"
    sentences.append(f"{told[0].upper()}{told[1:]}.")
  return Grounding(losses=tuple(losses), listens=listens, sentences=tuple(sentences))
