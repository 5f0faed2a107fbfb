"""Answers to yes-or-no questions, and what several annotators' labels make of them."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from mellow_jax.evaluation.benchmarks.items import Item


def contains(text: str, answer: str) -> bool:
  """Whether the right answer's letters are anywhere in the text: "no" is in "another".

  Source: evaluate_metric_binary of the reference.
  """
  return answer.lower() in text.lower()


def votes(items: Sequence[Item]) -> dict[tuple[str, str, str], list[int]]:
  """Places of the items that ask the same question about the same clips, by (clips, question)."""
  found = defaultdict(list)
  for place, item in enumerate(items):
    found[item.audio1, item.audio2, item.question].append(place)
  return dict(found)


def majority(answers: Sequence[str]) -> str | None:
  """The answer that most annotators gave; None if as many gave another."""
  (first, count), *rest = Counter(answers).most_common()
  return None if rest and rest[0][1] == count else first
