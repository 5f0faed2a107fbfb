"""Compares two models on the same items, with a paired test. Needs no JAX.

  python -m mellow_jax.evaluate compare a.jsonl b.jsonl [--output=FILE.json]

Right and wrong by McNemar's exact test, free text by a permutation test; the interval of the
difference by a bootstrap over items. Files whose items differ are refused.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from mellow_jax import cli
from mellow_jax.errors import FlagsError, PredictionsError, UserError
from mellow_jax.evaluation.benchmarks import prediction_files
from mellow_jax.evaluation.benchmarks.prediction_files import Answers
from mellow_jax.evaluation.commands import score
from mellow_jax.evaluation.metrics import captions, free_text, intervals, rules
from mellow_jax.evaluation.report import grounding, sections
from mellow_jax.evaluation.report import text as reports
from mellow_jax.evaluation.report.sections import Section


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
  """One figure of both models on the same items."""

  section: str
  figure: str
  unit: str
  n: int
  first: float
  second: float
  low: float  # of the interval of first - second
  high: float
  p: float  # that the two differ no more than by chance
  test: str
  only_first: int | None  # items that one of the two alone has right; None of free text
  only_second: int | None


def check_same(a: Answers, b: Answers) -> None:
  """Raises PredictionsError unless both files answer the same items, shown and heard alike."""
  first, second = ({(p.item.id, p.order): p.item for p in run.predictions} for run in (a, b))
  for one, other, mine, theirs in ((a, b, first, second), (b, a, second, first)):
    names = {name for name, _ in theirs}
    if absent := [name for name, _ in mine if name not in names]:
      raise PredictionsError(
        f"{one.path}: answers {len(absent)} items that {other.path} does not, first {absent[0]!r}: "
        "compare two files that `evaluate predict` has finished on the same data"
      )
  if grounding.label(a) != grounding.label(b) or first.keys() != second.keys():
    raise PredictionsError(
      f"{b.path}: other clips or options in another order than in {a.path}: what that costs one "
      "model, `evaluate score --probe` says"
    )
  for key, item in first.items():
    if second[key] != item:
      raise PredictionsError(
        f"{b.path}: id {key[0]!r} is another item than in {a.path}: same data?"
      )


def _judged(a: Section, b: Section, seed: int) -> list[Difference]:
  found = []
  for rule in rules.of_kind(a.kind, (*a.predictions, *b.predictions)):
    first, second = (
      sections.by_item(s.predictions, rules.judge(rule, s.predictions)[0]) for s in (a, b)
    )
    found.append(
      _differ(
        a.name,
        rule.name,
        "%",
        dict(zip(*first, strict=True)),
        dict(zip(*second, strict=True)),
        seed,
      )
    )
  return found


def _texts(a: Section, b: Section, seed: int) -> list[Difference]:
  found = []
  for name, metric in (("CIDEr-D", captions.cider_d), ("ROUGE-L", captions.rouge_l)):
    if name == "CIDEr-D" and len(a.predictions) < 2:
      continue
    first, second = (
      dict(
        zip(
          (p.item.id for p in s.predictions),
          metric(*free_text.regex_words(s.predictions)),
          strict=True,
        )
      )
      for s in (a, b)
    )
    found.append(_differ(a.name, f"{name} [regex]", "", first, second, seed))
  return found


def _differ(
  section: str,
  figure: str,
  unit: str,
  first: dict[str, float],
  second: dict[str, float],
  seed: int,
) -> Difference:
  """A figure of both models from each item's value."""
  scale = 100 if unit == "%" else 1
  mine = np.array(list(first.values()), float)
  theirs = np.array([second[name] for name in first], float)
  measure = intervals.difference_interval if unit == "%" else intervals.interval
  low, high = measure(scale * (mine - theirs), seed)
  alone = exact = None
  if unit == "%" and np.isin([mine, theirs], (0, 1)).all():
    alone = int(np.sum(mine > theirs)), int(np.sum(theirs > mine))
    exact = intervals.mcnemar(*alone)
  return Difference(
    section=section,
    figure=figure,
    unit=unit,
    n=len(mine),
    first=scale * float(mine.mean()),
    second=scale * float(theirs.mean()),
    low=low,
    high=high,
    p=intervals.permutation(mine - theirs, seed) if exact is None else exact,
    test="permutation" if exact is None else "McNemar, exact",
    only_first=alone and alone[0],
    only_second=alone and alone[1],
  )


def compare(a: Answers, b: Answers, seed: int) -> list[Difference]:
  """The figures of both; raises PredictionsError where their items differ."""
  check_same(a, b)
  others = {(one.kind, one.name): one for one in sections.split(b.predictions)}
  found = []
  for one in sections.split(a.predictions):
    other = others[one.kind, one.name]
    found += (_texts if one.kind == "text" else _judged)(one, other, seed)
  return found


def _rows(found: Sequence[Difference]) -> list[list[str]]:
  head = ["", "figure", "items", "A", "B", "A - B", "95% interval", "only A", "only B", "p", "test"]
  rows = [head]
  for d in found:
    rows.append(
      [
        d.section,
        d.figure,
        str(d.n),
        reports.number(d.first, d.unit),
        reports.number(d.second, d.unit),
        reports.number(d.first - d.second, d.unit).rstrip("%"),
        reports.span(d.low, d.high, d.unit),
        *("" if n is None else str(n) for n in (d.only_first, d.only_second)),
        f"{d.p:.2g}",
        d.test,
      ]
    )
  return rows


def _sentence(d: Difference) -> str:
  """What the leading figure of a section comes to."""
  said = f"{reports.number(d.first, d.unit)} against {reports.number(d.second, d.unit)}"
  if d.p >= 1 - intervals.LEVEL:
    return f"{d.section}: no difference beyond chance, {said} (p = {d.p:.2g}, {d.n} items)."
  better = "A" if d.first > d.second else "B"
  return f"{d.section}: {better} is better, {said} (p = {d.p:.2g}, {d.n} items)."


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  flags.DEFINE_string("output", None, "JSON file for the figures.", flag_values=f)
  flags.DEFINE_integer("seed", 0, "Of bootstrap and permutations.", 0, flag_values=f)
  score.define_data(f)
  return f


def _run(f: flags.FlagValues, paths: Sequence[str]) -> None:
  items = score.items_of(f)
  a, b = (prediction_files.read(path, f.benchmark, items) for path in paths)
  found = compare(a, b, f.seed)
  print(f"A: {a.path}\nB: {b.path}\n\n{reports.markdown_table(_rows(found))}\n")
  leading = {d.section: d for d in reversed(found)}
  print("\n".join(map(_sentence, reversed(leading.values()))))
  if f.output:
    lines = [dataclasses.asdict(d) for d in found]
    files = {"A": a.sha256, "B": b.sha256}
    text = json.dumps({"sha256": files, "seed": f.seed, "differences": lines}, indent=1)
    score.write(Path(f.output).parent, {Path(f.output).name: text + "\n"})


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  f = _flags()
  try:
    paths = f(argv)[1:]
    if f.help:
      print(__doc__, f.get_help(), sep="\n")
      return 0
    if len(paths) != 2:
      raise FlagsError(f"{len(paths)} files are named: name two files of predictions")
    _run(f, paths)
  except (flags.Error, UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0
