"""MMAU's own rule for right and wrong, which compares sets of words."""

from collections.abc import Sequence

from mellow_jax.data.text import words


def is_right(text: str, answer: str, choices: Sequence[str]) -> bool:
  """Whether an answer holds every word of the right choice and none that only a wrong one has.

  Order and number of words do not count; words of no choice do no harm. A leading "b) " is for the
  caller to keep or to strip: kept, its letter is a word like any other, and where a wrong choice
  holds the article "a" it makes a right answer wrong.

  Source: evaluation.py of MMAU, v05.15.25, the same rule since 2024.
  """
  said, right = set(words(text)), set(words(answer))
  others = (set(words(choice)) for choice in choices)
  wrong = set().union(*(other - right for other in others if other != right))
  return bool(said) and right <= said and not said & wrong
