"""Question-answer pairs, and what a reader of replies makes them of."""

from collections.abc import Sequence
from dataclasses import dataclass

from mellow_jax.data import choices


@dataclass(frozen=True, slots=True)
class QAPair:
  """One question with its answer."""

  question: str
  options: tuple[str, ...]  # without letters; () where the answer is free text
  answer: str  # one of the options, or free text

  def fields(self) -> tuple[str, str]:
    """(input, answer) as ReasonAQA writes them: "what? a) x b) y c) z d) w" and "b) y"."""
    if not self.options:
      return self.question, self.answer
    lettered = choices.lettered(self.options)
    return " ".join([self.question, *lettered]), lettered[self.options.index(self.answer)]


@dataclass(frozen=True, slots=True)
class Reject:
  """A part of a completion that gives no row."""

  reason: str  # one of a few, to be counted
  text: str  # what was read of it


@dataclass
class Draft:
  """A question as read, not yet checked."""

  question: str = ""
  options: Sequence[str] = ()  # in the order of their letters, without them
  answer: str = ""
  fault: str = ""  # why it gives no pair


class Rejected(Exception):
  """Why a completion, or a draft, gives no pair."""
