"""Compares two models on the same items, with a paired test. Needs no JAX.

  mellow evaluate compare a.jsonl b.jsonl [--output=FILE.json]

Right and wrong by McNemar's exact test, free text by a permutation test; the interval of the
difference by a bootstrap over items. Files whose items differ are refused.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import flags

from mellow_jax import cli, files
from mellow_jax.errors import FlagsError, PredictionsError
from mellow_jax.evaluation.benchmarks import prediction_files
from mellow_jax.evaluation.benchmarks.items import Prediction
from mellow_jax.evaluation.benchmarks.prediction_files import PredictionSet
from mellow_jax.evaluation.commands import score
from mellow_jax.evaluation.metrics import captions, free_text, intervals, rules
from mellow_jax.evaluation.report import content, grounding, sections
from mellow_jax.evaluation.report.sections import ItemValues, Section


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


def check_same(a: PredictionSet, b: PredictionSet) -> None:
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


def _values(section: Section, predictions: Sequence[Prediction]) -> list[ItemValues]:
  """Every figure compared, by item: all rules of a kind; of text CIDEr-D and ROUGE-L.

  The rules are those that both models' predictions allow.
  """
  own = section.predictions
  if section.kind != "text":
    found = [
      (rule.name, "%", rules.judge(rule, own)[0])
      for rule in rules.of_kind(section.kind, predictions)
    ]
  else:
    words = free_text.regex_words(own)
    found = [("ROUGE-L [regex]", "", captions.rouge_l(*words))]
    if len(own) > 1:
      found.insert(0, ("CIDEr-D [regex]", "", captions.cider_d(*words)))
  by_item = [(name, unit, *sections.by_item(own, values)) for name, unit, values in found]
  return [ItemValues(name=n, unit=u, ids=ids, values=values) for n, u, ids, values in by_item]


def _differ(section: str, first: ItemValues, second: ItemValues, seed: int) -> Difference:
  """A figure of both models; of right or wrong the values are shares in [0, 1]."""
  is_share = first.unit == "%"
  scale, by_id = 100 if is_share else 1, dict(zip(second.ids, second.values, strict=True))
  mine, theirs = first.values, np.array([by_id[name] for name in first.ids])
  most = 100.0 if is_share else captions.MOST
  low, high = intervals.difference_interval(scale * (mine - theirs), seed, most)
  alone = exact = None
  if is_share and np.isin([mine, theirs], (0, 1)).all():
    alone = int(np.sum(mine > theirs)), int(np.sum(theirs > mine))
    exact = intervals.mcnemar(*alone)
  return Difference(
    section=section,
    figure=first.name,
    unit=first.unit,
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


def compare(a: PredictionSet, b: PredictionSet, seed: int) -> list[Difference]:
  """The figures of both; raises PredictionsError where their items differ."""
  check_same(a, b)
  others = {(one.kind, one.name): one for one in sections.split(b.predictions)}
  found = []
  for one in sections.split(a.predictions):
    other = others[one.kind, one.name]
    both = (*one.predictions, *other.predictions)
    pairs = zip(_values(one, both), _values(other, both), strict=True)
    found += [_differ(one.name, first, second, seed) for first, second in pairs]
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
        content.number(d.first, d.unit),
        content.number(d.second, d.unit),
        content.number(d.first - d.second, d.unit).rstrip("%"),
        content.span(d.low, d.high, d.unit),
        *("" if n is None else str(n) for n in (d.only_first, d.only_second)),
        f"{d.p:.2g}",
        d.test,
      ]
    )
  return rows


def _sentence(d: Difference) -> str:
  """What the leading figure of a section comes to."""
  said = f"{content.number(d.first, d.unit)} against {content.number(d.second, d.unit)}"
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


def _compare(f: flags.FlagValues, *paths: str) -> None:
  if len(paths) != 2:
    raise FlagsError(f"{len(paths)} files are named: name two files of predictions")
  items = score.items_of(f)
  a, b = (prediction_files.read(path, f.benchmark, items) for path in paths)
  found = compare(a, b, f.seed)
  print(f"A: {a.path}\nB: {b.path}\n\n{content.markdown_table(_rows(found))}\n")
  leading = {d.section: d for d in reversed(found)}
  print("\n".join(map(_sentence, reversed(leading.values()))))
  if f.output:
    differences = [dataclasses.asdict(d) for d in found]
    digests = {"A": a.sha256, "B": b.sha256}
    files.write_json(f.output, {"sha256": digests, "seed": f.seed, "differences": differences})


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _compare, example=None, waits_for="comparing")
