"""All figures of a predictions file, each with its number of items, its interval and its rule."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.evaluation import (
  binary,
  entailment,
  options,
  published,
  rules,
  sections,
  statistics,
  texts,
)
from mellow_jax.evaluation.coco import Settings
from mellow_jax.evaluation.published import Published
from mellow_jax.evaluation.rules import Rule
from mellow_jax.evaluation.schema import Prediction
from mellow_jax.evaluation.sections import Section

MOST_GROUPS = 60  # values of a group that are still a table
EXAMPLES = 6


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


def _line(
  name: str, predictions: Sequence[Prediction], values: np.ndarray, seed: int, **fields
) -> Line:
  """A line of percentages from shares in [0, 1] of each prediction."""
  _, values = sections.by_item(predictions, 100 * values)
  low, high = statistics.interval(values, seed)
  return Line(name=name, n=len(values), value=float(values.mean()), low=low, high=high, **fields)


def _judged(rule: Rule, predictions: Sequence[Prediction], seed: int, name: str = "") -> Line:
  right, unread = rules.judge(rule, predictions)
  fields = {"unread": 100 * unread, "says": rule.says}
  return _line(name or rule.name, predictions, right, seed, **fields)


def _entailment_lines(predictions: Sequence[Prediction], seed: int) -> list[Line]:
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
    [swapped[options.letter_reference(p.prediction)] for p in predictions],
  )
  lines = []
  for rule, expected, given in (ours, theirs):
    lines.append(_judged(rule, predictions, seed, f"{rule.name}: accuracy"))
    classes = entailment.classes_of(expected, given, stray=rule is rules.REFERENCE)
    _, rows = sections.by_item(predictions, entailment.tally(expected, given, classes))
    figures = 100 * entailment.macro(rows.sum(axis=0))
    labels = "its own labels" if rule is rules.REFERENCE else "the options' texts"
    for i, name in enumerate(("macro precision", "macro recall", "macro F1")):
      low, high = statistics.interval_of(
        rows, lambda sums, i=i: 100 * entailment.macro(sums)[:, i], seed
      )
      lines.append(
        Line(
          name=f"{rule.name}: {name}",
          n=len(rows),
          value=float(figures[i]),
          low=low,
          high=high,
          says=f"mean over {len(classes)} classes, by {labels}",
        )
      )
    for one in dict.fromkeys(expected):
      which = [i for i, e in enumerate(expected) if e == one]
      hits = np.array([given[i] == one for i in which], float)
      says = f"accuracy of the class, by {labels}"
      part = [predictions[i] for i in which]
      lines.append(_line(f"{rule.name}: {one}", part, hits, seed, says=says))
  return lines


def _vote_lines(predictions: Sequence[Prediction], seed: int) -> list[Line]:
  """Yes/no lines over questions that several annotators answered, if there are any."""
  items = [p.item for p in predictions]
  asked = list(binary.votes(items).values())
  if all(len(places) == 1 for places in asked):
    return []
  right = {"majority": [], "unanimous": []}
  for places in asked:
    answers = [items[i].answer for i in places]
    if (label := binary.majority(answers)) is None:
      continue
    hits = [binary.first_word(predictions[i].prediction) == label for i in places]
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
      low, high = statistics.interval(percent, seed)
      value = float(percent.mean())
      fields = {"n": len(percent), "value": value, "low": low, "high": high, "says": says[name]}
      lines.append(Line(name=f"first_word [{name}]", **fields))
  return lines


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
    'always "a"': [100.0 * (shown[0] == p.item.answer) for p, shown in pairs],
    f'always "{most}", the most frequent letter': [100.0 * (one == most) for one in letters],
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
    lines = []
    for name, which in sorted(places.items()):
      _, means = sections.by_item([predictions[i] for i in which], values[which])
      low, high = statistics.interval(means, seed)
      lines.append(
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
    found.append(Groups(key=key, other=other[0], lines=tuple(lines)))
  return found


def _failures(section: Section) -> list[Failure]:
  found: dict[str, list[str]] = {}
  for p in section.predictions:
    if reason := options.failure(p.prediction, rules.shown(p)):
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
    for reason, says in options.REASONS.items()
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
      f"{letter}) {text}" for letter, text in zip(options.LETTERS, rules.shown(p), strict=False)
    )
    expected = " | ".join(p.item.references) or p.item.answer
    question = f"{p.item.question} {offered}".strip()
    said = {"expected": expected, "said": p.prediction, "score": float(values[i])}
    found.append(Example(question=question, **said))
  return found


def summarise(section: Section, settings: Settings, seed: int) -> Part:
  """Everything a report says about a section."""
  predictions, benchmark = section.predictions, section.predictions[0].benchmark
  ours: dict[tuple[str, str], float] = {}  # (figure, group) -> value
  if section.kind == "text":
    figures = texts.measure(predictions, settings, seed)
    lines = [
      Line(
        name=f.name,
        n=len(predictions),
        unit="",
        value=f.value,
        low=f.low,
        high=f.high,
        reason=f.reason,
      )
      for f in figures
    ]
    values, other = figures[0].values, (figures[1].name, figures[1].values)
    if values is None:  # of a single item
      values = other[1]
    if len(predictions) > 1:
      given, references = texts.regex_words(texts.dealt(predictions, seed))
      dealt = texts.core(given, references, "regex", seed)[0].values
      guesses = {"the same texts dealt to other items": dealt}
    else:
      guesses = {}
  else:
    used = rules.of_kind(section.kind, predictions)
    hits = {rule.name: 100 * rules.judge(rule, predictions)[0] for rule in used}
    if section.kind == "entailment":
      lines = _entailment_lines(predictions, seed)
      used_alone = [r for r in used if r not in (rules.PICKED, rules.REFERENCE)]
    else:
      lines, used_alone = [], used
    lines += [_judged(rule, predictions, seed) for rule in used_alone]
    if section.kind == "binary":
      lines += _vote_lines(predictions, seed)
    values = hits[used[0].name]
    other = next(
      (name, hits[name]) for name in hits if name.startswith(("letter_reference", "contains"))
    )
    guesses = blind(section)
    for p in published.FIGURES:
      if p.benchmark == benchmark and p.group and p.figure in hits:
        which = [i for i, one in enumerate(predictions) if p.group in one.item.groups.values()]
        if which:
          ours[p.figure, p.group] = float(hits[p.figure][which].mean())
  ours |= {(line.name, ""): line.value for line in lines if line.value is not None}
  names = {line.name for line in lines}
  return Part(
    name=section.name,
    kind=section.kind,
    items=len({p.item.id for p in predictions}),
    answers=len(predictions),
    lines=tuple(lines),
    baselines={name: float(v.mean()) for name, v in guesses.items()},
    groups=tuple(_groups(section, values, other, guesses, seed)),
    failures=tuple(_failures(section) if section.kind in ("choice", "entailment") else ()),
    confusion=_confusion(section) if section.kind == "entailment" else {},
    beside=tuple(
      (p, ours.get((p.figure, p.group)))
      for p in published.FIGURES
      if p.benchmark == benchmark and p.figure in names
    ),
    examples=tuple(_examples(section, values, seed)),
  )
