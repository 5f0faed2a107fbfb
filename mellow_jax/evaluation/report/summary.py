"""All figures of a predictions file, each with its number of items, its interval and its rule."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.evaluation.metrics import (
  captions,
  entailment,
  free_text,
  intervals,
  multiple_choice,
  rules,
)
from mellow_jax.evaluation.metrics.coco_java import Settings
from mellow_jax.evaluation.report import figures as figures_lib
from mellow_jax.evaluation.report import published, sections
from mellow_jax.evaluation.report.figures import Line
from mellow_jax.evaluation.report.published import Published
from mellow_jax.evaluation.report.sections import Section

MOST_GROUPS = 60  # values of a group that are still a table
EXAMPLES = 6
BINS = 25


@dataclass(frozen=True, kw_only=True)
class GroupLine:
  """The leading figure of the items of one group, and what blind guesses score there."""

  name: str
  n: int
  value: float
  low: float
  high: float
  other: float  # the figure named by `Groups.other`
  baselines: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Groups:
  """A section by one of its items' groups, such as their difficulty."""

  key: str
  other: str
  lines: tuple[GroupLine, ...]


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
  """One question, what was expected and what was said."""

  question: str
  expected: str
  said: str
  score: float  # of the leading figure


@dataclass(frozen=True, kw_only=True)
class Spread:
  """How many texts have which value of the leading figure, and were they dealt to other items."""

  edges: tuple[float, ...]
  texts: tuple[int, ...]
  dealt: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
  """A section with everything a report says about it; the leading line is the first."""

  name: str
  kind: str
  items: int
  answers: int  # more than items where options were shown in several orders
  lines: tuple[Line, ...]
  baselines: dict[str, float]  # of the leading figure
  groups: tuple[Groups, ...]
  failures: tuple[Failure, ...]
  confusion: dict[str, dict[str, int]]  # expected class -> class given -> answers
  beside: tuple[tuple[Published, float | None], ...]  # others' figures, and ours
  examples: tuple[Example, ...]
  spread: Spread | None  # of free text


def blind(section: Section) -> dict[str, Float[np.ndarray, "N"]]:
  """What guesses that hear nothing score on each prediction of a right-or-wrong section, in %."""
  predictions = section.predictions
  if section.kind == "binary":
    answers = [p.item.answer for p in predictions]
    ((most, _),) = Counter(answers).most_common(1)
    return {
      "random": np.full(len(answers), 50.0),
      f'always "{most}", the most frequent': np.array([100.0 * (a == most) for a in answers]),
    }
  offered = [rules.shown(p) for p in predictions]
  letters = [rules.gold_letter(p) for p in predictions]
  ((most, _),) = Counter(letters).most_common(1)
  pairs = list(zip(predictions, offered, strict=True))
  found = {
    "random": [100 * shown.count(p.item.answer) / len(shown) for p, shown in pairs],
    'always the first option, "a"': [100.0 * (shown[0] == p.item.answer) for p, shown in pairs],
    f'always option "{most}", where most often the right one is': [
      100.0 * (one == most) for one in letters
    ],
  }
  if section.kind == "entailment":
    answers = [p.item.answer.lower() for p in predictions]
    ((most, _),) = Counter(answers).most_common(1)
    found[f'always "{most}", the most frequent'] = [100.0 * (a == most) for a in answers]
  return {name: np.array(values, float) for name, values in found.items()}


def _groups(
  section: Section,
  values: Float[np.ndarray, "N"],
  other: tuple[str, Float[np.ndarray, "N"]],
  guesses: dict[str, Float[np.ndarray, "N"]],
  seed: int,
) -> list[Groups]:
  predictions, found = section.predictions, []
  for key in dict.fromkeys(key for p in predictions for key in p.item.groups):
    places: dict[str, list[int]] = {}
    for i, p in enumerate(predictions):
      places.setdefault(p.item.groups.get(key, "(none)"), []).append(i)
    if not 1 < len(places) <= MOST_GROUPS:
      continue
    rows = []
    for name, which in sorted(places.items()):
      _, means = sections.by_item([predictions[i] for i in which], values[which])
      measure = intervals.interval if section.kind == "text" else intervals.percent_interval
      low, high = measure(means, seed)
      rows.append(
        GroupLine(
          name=name,
          n=len(means),
          value=float(means.mean()),
          low=low,
          high=high,
          other=float(other[1][which].mean()),
          baselines={guess: float(v[which].mean()) for guess, v in guesses.items()},
        )
      )
    found.append(Groups(key=key, other=other[0], lines=tuple(rows)))
  return found


def _failures(section: Section) -> list[Failure]:
  found: dict[str, list[str]] = {}
  for p in section.predictions:
    if reason := multiple_choice.failure(p.prediction, rules.shown(p)):
      found.setdefault(reason, []).append(p.prediction)
  total = len(section.predictions)
  return [
    Failure(
      reason=reason,
      says=says,
      count=len(found[reason]),
      share=100 * len(found[reason]) / total,
      example=found[reason][0],
    )
    for reason, says in multiple_choice.REASONS.items()
    if reason in found
  ]


def _confusion(section: Section) -> dict[str, dict[str, int]]:
  table: dict[str, Counter[str]] = {}
  for p in section.predictions:
    given = entailment.classify(p.prediction, rules.shown(p)) or "no option"
    table.setdefault(str(entailment.class_of(p.item.answer)), Counter())[given] += 1
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
    offered = " ".join(
      f"{letter}) {text}"
      for letter, text in zip(multiple_choice.LETTERS, rules.shown(p), strict=False)
    )
    expected = " | ".join(p.item.references) or p.item.answer
    question = f"{p.item.question} {offered}".strip()
    said = {"expected": expected, "said": p.prediction, "score": float(values[i])}
    found.append(Example(question=question, **said))
  return found


@dataclass(frozen=True, kw_only=True)
class _Scored:
  """What kinds of questions are scored differently for, and reported alike."""

  lines: list[Line]
  values: Float[np.ndarray, "N"]  # of the leading figure
  other: tuple[str, Float[np.ndarray, "N"]]  # a second figure for the groups
  guesses: dict[str, Float[np.ndarray, "N"]]
  hits: dict[str, Float[np.ndarray, "N"]]  # of every rule


def _score_text(section: Section, settings: Settings, seed: int) -> _Scored:
  figures = free_text.measure(section.predictions, settings, seed)
  cider, rouge = figures[:2]
  guesses = {}
  if cider.values is not None:
    given, references = free_text.regex_words(free_text.dealt(section.predictions, seed))
    guesses["the same texts dealt to other items"] = captions.cider_d(given, references)
  return _Scored(
    lines=[figures_lib.of_text(figure, len(section.predictions)) for figure in figures],
    values=rouge.values if cider.values is None else cider.values,
    other=(rouge.name, rouge.values),
    guesses=guesses,
    hits={},
  )


def _score_judged(section: Section, seed: int) -> _Scored:
  predictions = section.predictions
  used = rules.of_kind(section.kind, predictions)
  hits = {rule.name: 100 * rules.judge(rule, predictions)[0] for rule in used}
  found = []
  if section.kind == "entailment":
    found = figures_lib.of_entailment(predictions, seed)
    used = [rule for rule in used if rule not in (rules.PICKED, rules.REFERENCE)]
  found += [figures_lib.judged(rule, predictions, seed) for rule in used]
  if section.kind == "binary":
    found += figures_lib.of_votes(predictions, seed)
  return _Scored(
    lines=found,
    values=next(iter(hits.values())),
    other=next(pair for pair in hits.items() if pair[0].startswith(("letter_ref", "contains"))),
    guesses=blind(section),
    hits=hits,
  )


def _spread(scored: _Scored) -> Spread | None:
  if not scored.guesses:  # of a single text
    return None
  (dealt,) = scored.guesses.values()
  edges = np.linspace(0, max(scored.values.max(), dealt.max(), 1e-9), BINS + 1)
  own, other = (np.histogram(v, edges)[0].tolist() for v in (scored.values, dealt))
  return Spread(edges=tuple(edges.tolist()), texts=tuple(own), dealt=tuple(other))


def _beside(section: Section, scored: _Scored) -> list[tuple[Published, float | None]]:
  """What others printed under the protocols of our lines, each with ours, None where it is n/a."""
  ours = {line.name: line.value for line in scored.lines}
  found = []
  for p in published.FIGURES:
    if p.benchmark != section.predictions[0].benchmark or p.figure not in ours:
      continue
    value = ours[p.figure]
    if p.group:
      groups = [one.item.groups.values() for one in section.predictions]
      which = [i for i, values in enumerate(groups) if p.group in values]
      value = float(scored.hits[p.figure][which].mean()) if which else None
    found.append((p, value))
  return found


def summarise(section: Section, settings: Settings, seed: int) -> Part:
  """Everything a report says about a section."""
  chosen = section.kind in ("choice", "entailment")
  if section.kind == "text":
    scored = _score_text(section, settings, seed)
  else:
    scored = _score_judged(section, seed)
  return Part(
    name=section.name,
    kind=section.kind,
    items=len({p.item.id for p in section.predictions}),
    answers=len(section.predictions),
    lines=tuple(scored.lines),
    baselines={name: float(values.mean()) for name, values in scored.guesses.items()},
    groups=tuple(_groups(section, scored.values, scored.other, scored.guesses, seed)),
    failures=tuple(_failures(section)) if chosen else (),
    confusion=_confusion(section) if section.kind == "entailment" else {},
    beside=tuple(_beside(section, scored)),
    examples=tuple(_examples(section, scored.values, seed)),
    spread=_spread(scored) if section.kind == "text" else None,
  )
