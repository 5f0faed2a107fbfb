"""All that a report says of one section: scores, blind guesses, groups, failures, examples."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.data import choices
from mellow_jax.evaluation.benchmarks import option_sets
from mellow_jax.evaluation.benchmarks.items import Prediction
from mellow_jax.evaluation.metrics import (
  calibration,
  captions,
  entailment,
  free_text,
  intervals,
  multiple_choice,
  rules,
)
from mellow_jax.evaluation.metrics.calibration import Bin
from mellow_jax.evaluation.metrics.coco_java import Settings
from mellow_jax.evaluation.report import published, scores, sections
from mellow_jax.evaluation.report.published import Published
from mellow_jax.evaluation.report.scores import Score
from mellow_jax.evaluation.report.sections import Section

MOST_GROUPS = 60  # values of a group that are still a table
EXAMPLES = 6
BINS = 25


@dataclass(frozen=True, kw_only=True)
class GroupScore:
  """The leading figure of the items of one group, and what blind guesses score there."""

  name: str
  n: int
  value: float
  low: float | None  # of the interval; None where a metric of texts is the same for all
  high: float | None
  other: float  # the figure named by `Groups.other`
  baselines: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Groups:
  """A section by one of its items' groups, such as their difficulty."""

  key: str
  other: str
  lines: tuple[GroupScore, ...]


@dataclass(frozen=True, kw_only=True)
class Failure:
  """Answers that do not plainly pick an option, by reason."""

  reason: str
  says: str
  count: int
  share: float  # percentage of answers
  example: str


@dataclass(frozen=True, kw_only=True)
class Example:
  """One question, the expected answer and the model's."""

  question: str
  expected: str
  said: str
  score: float  # of the leading figure


@dataclass(frozen=True, kw_only=True)
class Spread:
  """Histogram of the leading figure by text, and the same with the texts dealt to other items."""

  edges: tuple[float, ...]
  texts: tuple[int, ...]
  dealt: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SectionReport:
  """All that a report says of a section; the leading score is the first."""

  name: str
  kind: str
  items: int
  answers: int  # more than items where options came in several orders or sets
  lines: tuple[Score, ...]
  baselines: dict[str, float]  # of the leading figure
  groups: tuple[Groups, ...]
  failures: tuple[Failure, ...]
  confusion: dict[str, dict[str, int]]  # expected class -> class given -> answers
  beside: tuple[tuple[Published, float | None], ...]  # others' figures, and ours
  examples: tuple[Example, ...]
  spread: Spread | None  # of free text
  calibration: tuple[Bin, ...]  # of options' log-likelihoods, where they were computed


def blind(section: Section) -> dict[str, Float[np.ndarray, "N"]]:
  """Scores, in %, of guesses made without audio on each prediction of a right-or-wrong section."""
  predictions = section.predictions
  answers = [p.item.answer for p in predictions]
  if section.kind == "binary":
    ((most, _),) = Counter(answers).most_common(1)
    return {
      "random": np.full(len(answers), 50.0),
      f'always "{most}", the most frequent': np.array([100.0 * (a == most) for a in answers]),
    }
  offered = [rules.shown(p) for p in predictions]
  letters = [rules.gold_letter(p) for p in predictions]
  ((letter, _),) = Counter(letters).most_common(1)
  pairs = list(zip(answers, offered, strict=True))
  found = {
    "random": [100 * shown.count(a) / len(shown) for a, shown in pairs],
    'always the first option, "a"': [100.0 * (shown[0] == a) for a, shown in pairs],
    f'always option "{letter}", where most often the right one is': [
      100.0 * (one == letter) for one in letters
    ],
  }
  if section.kind == "entailment":
    answers = [a.lower() for a in answers]
    ((most, _),) = Counter(answers).most_common(1)
    found[f'always "{most}", the most frequent'] = [100.0 * (a == most) for a in answers]
  return {name: np.array(values, float) for name, values in found.items()}


@dataclass(frozen=True, kw_only=True)
class _Scored:
  """What kinds of questions are scored differently for, and reported alike."""

  lines: list[Score]
  values: Float[np.ndarray, "N"]  # of the leading figure
  other: tuple[str, Float[np.ndarray, "N"]]  # a second figure for the groups
  guesses: dict[str, Float[np.ndarray, "N"]]
  hits: dict[str, Float[np.ndarray, "N"]]  # of every rule


def _score_text(section: Section, settings: Settings, seed: int) -> _Scored:
  predictions = section.predictions
  figures = free_text.measure(predictions, settings, seed)
  names = ("name", "unit", "value", "low", "high", "reason")
  leading, rouge = figures[0], next(f for f in figures if f.name.startswith("ROUGE-L"))
  guesses = {}
  if leading.values is not None and len(predictions) > 1:
    dealt = free_text.dealt(predictions, seed)
    if leading.unit == "%":
      values = free_text.word_for_word(*free_text.regex_words(dealt))
    else:
      values = captions.cider_d(*free_text.leading_words(dealt, settings)[1])
    guesses["the same texts dealt to other items"] = values
  says = {free_text.WORD_FOR_WORD: "the words of a reference, all of them and in order"}
  fields = [{k: getattr(f, k) for k in names} for f in figures]
  return _Scored(
    lines=[Score(n=len(predictions), says=says.get(f["name"], ""), **f) for f in fields],
    values=rouge.values if leading.values is None else leading.values,
    other=(rouge.name, rouge.values),
    guesses=guesses,
    hits={},
  )


def _score_judged(section: Section, seed: int) -> _Scored:
  predictions = section.predictions
  used = rules.of_kind(section.kind, predictions)
  hits = {rule.name: 100 * rules.judge(rule, predictions)[0] for rule in used}
  lines = []
  if section.kind == "entailment":
    lines = scores.of_entailment(predictions, seed)
    used = [rule for rule in used if rule not in (rules.PICKED, rules.REFERENCE)]
  lines += [scores.judged(rule, predictions, seed) for rule in used]
  if section.kind == "binary":
    lines += scores.of_votes(predictions, seed)
  return _Scored(
    lines=lines,
    values=next(iter(hits.values())),
    other=next(pair for pair in hits.items() if pair[0].startswith(("letter_ref", "contains"))),
    guesses=blind(section),
    hits=hits,
  )


def _groups(section: Section, scored: _Scored, seed: int) -> list[Groups]:
  predictions, found = section.predictions, []
  is_percent = scored.lines[0].unit == "%"
  interval = intervals.percent_interval if is_percent else intervals.interval
  for key in dict.fromkeys(key for p in predictions for key in p.item.groups):
    places: dict[str, list[int]] = {}
    for i, p in enumerate(predictions):
      places.setdefault(p.item.groups.get(key, "(none)"), []).append(i)
    if not 1 < len(places) <= MOST_GROUPS:
      continue
    lines = []
    for name, which in sorted(places.items()):
      _, means = sections.by_item([predictions[i] for i in which], scored.values[which])
      low, high = interval(means, seed)
      lines.append(
        GroupScore(
          name=name,
          n=len(means),
          value=float(means.mean()),
          low=low,
          high=high,
          other=float(scored.other[1][which].mean()),
          baselines={guess: float(v[which].mean()) for guess, v in scored.guesses.items()},
        )
      )
    found.append(Groups(key=key, other=scored.other[0], lines=tuple(lines)))
  return found


def _failures(section: Section) -> list[Failure]:
  found: dict[str, list[str]] = {}
  for p in (p for p in section.predictions if not p.failure):
    if reason := multiple_choice.failure(p.prediction, rules.shown(p)):
      found.setdefault(reason, []).append(p.prediction)
  return [
    Failure(
      reason=reason,
      says=says,
      count=len(found[reason]),
      share=100 * len(found[reason]) / len(section.predictions),
      example=found[reason][0],
    )
    for reason, says in multiple_choice.REASONS.items()
    if reason in found
  ]


def _confusion(section: Section) -> dict[str, dict[str, int]]:
  table: dict[str, Counter[str]] = {}
  for p in section.predictions:
    given = entailment.classify(p.prediction, rules.shown(p)) or "no option"
    table.setdefault(str(choices.verdict(p.item.answer)), Counter())[given] += 1
  return {one: dict(table[one]) for one in (*entailment.JUDGED, "undetermined") if one in table}


def _examples(section: Section, values: Float[np.ndarray, "N"], seed: int) -> list[Example]:
  """Some answers drawn at random, the worst half and the best half of them in this order."""
  drawn = np.random.default_rng(seed).permutation(len(values))
  order = drawn[np.argsort(values[drawn], kind="stable")]
  half = EXAMPLES // 2
  chosen = order if len(order) <= EXAMPLES else [*order[:half], *order[-half:]]
  found = []
  for i in chosen:
    p = section.predictions[i]
    options = " ".join(choices.lettered(rules.shown(p)))
    found.append(
      Example(
        question=f"{p.item.question} {options}".strip(),
        expected=" | ".join(p.item.references) or p.item.answer,
        said=p.prediction,
        score=float(values[i]),
      )
    )
  return found


def _spread(scored: _Scored) -> Spread | None:
  if not scored.guesses or scored.lines[0].unit == "%":  # of a single text; of right or wrong
    return None
  (dealt,) = scored.guesses.values()
  edges = np.linspace(0, max(scored.values.max(), dealt.max(), 1e-9), BINS + 1)
  own, other = (np.histogram(v, edges)[0].tolist() for v in (scored.values, dealt))
  return Spread(edges=tuple(edges.tolist()), texts=tuple(own), dealt=tuple(other))


def _beside(section: Section, scored: _Scored) -> list[tuple[Published, float | None]]:
  """Published figures of the same rules, each with ours, None where it is n/a.

  Parts of ReasonAQA are benchmarks of their own, known by their subtypes.
  """
  ours = {line.name: line.value for line in scored.lines}
  groups = [p.item.groups.values() for p in section.predictions]
  benchmark = section.predictions[0].benchmark
  subtypes = {p.item.groups.get("subtype", "").lower() for p in section.predictions}
  if benchmark == "reasonaqa" and len(subtypes) == 1:
    (benchmark,) = subtypes
  found: list[tuple[Published, float | None]] = []
  for p in published.FIGURES:
    if p.benchmark != benchmark or p.figure not in ours:
      continue
    value = ours[p.figure]
    if p.group:
      which = [i for i, values in enumerate(groups) if p.group in values]
      value = float(scored.hits[p.figure][which].mean()) if which else None
    found.append((p, value))
  return found


def summarise(section: Section, settings: Settings, seed: int) -> SectionReport:
  """All that a report says of a section."""
  is_text = section.kind == "text"
  scored = _score_text(section, settings, seed) if is_text else _score_judged(section, seed)
  return SectionReport(
    name=section.name,
    kind=section.kind,
    items=len({option_sets.question_of(p.item) for p in section.predictions}),
    answers=len(section.predictions),
    lines=tuple(scored.lines),
    baselines={name: float(values.mean()) for name, values in scored.guesses.items()},
    groups=tuple(_groups(section, scored, seed)),
    failures=tuple(_failures(section)) if section.kind in ("choice", "entailment") else (),
    confusion=_confusion(section) if section.kind == "entailment" else {},
    beside=tuple(_beside(section, scored)),
    examples=tuple(_examples(section, scored.values, seed)),
    spread=_spread(scored) if is_text else None,
    calibration=tuple(_calibration(section.predictions)),
  )


def _calibration(predictions: Sequence[Prediction]) -> list[Bin]:
  """Confidence beside accuracy, where every answer has its options' log-likelihoods.

  Questions that could not be asked are left out: no probability was given that could be wrong.
  """
  asked = [p for p in predictions if not p.failure]
  if not all(p.option_log_probs and p.item.answer in p.item.choices for p in asked):
    return []
  found = [[total for total, _ in p.option_log_probs] for p in asked]
  return calibration.bins(found, [p.item.choices.index(p.item.answer) for p in asked])


def headline_scores(section: SectionReport) -> Sequence[Score]:
  """The scores of `sections.headline`, in its order; the leading one may have no value."""
  names = (rules.OPTION_TEXT.name, rules.WORD_FOR_WORD.name, free_text.WORD_FOR_WORD)
  leading, *others = section.lines
  return [leading, *(score for score in others if score.name in names)]
