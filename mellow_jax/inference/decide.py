"""Decisions: typed questions about clips, answered by the probabilities of their options.

An answer's probability is exp(log-likelihood / temperature), over the sum of all options'. The
temperature is that of the model folder, which `mellow calibrate` fits, or 1. Each question is asked
alone: neither its name nor the other questions change its answer.

Confidence is 0 where all options are equally probable and 1 where one has all the probability; of a
rating, whose levels have an order, it is 1 less the mean distance from the most probable level, in
units of that of equally probable levels. Source of both: SPEC 4.5 of jevcompat 0.1.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mellow_jax.data import choices
from mellow_jax.errors import QuestionError
from mellow_jax.inference.notes import Note

MOST_OPTIONS, MOST_LEVELS = 255, 10


@dataclass(frozen=True)
class YesNo:
  """A question whose answer is yes or no; criteria say what each would mean, if need be.

  Raises QuestionError for what is no text.
  """

  question: str
  yes: str = ""
  no: str = ""

  def __post_init__(self):
    for name in ("question", "yes", "no"):
      _check_text(name, getattr(self, name))

  @property
  def options(self) -> tuple[str, ...]:
    """The answers to choose from."""
    return ("yes", "no")


@dataclass(frozen=True)
class Choice:
  """A question with 1 to 255 distinct options; descriptions explain some of them.

  Raises QuestionError for other numbers, for what is no text, for options that are empty or given
  twice, and for the description of what is no option.
  """

  question: str
  options: tuple[str, ...]
  descriptions: Mapping[str, str] = field(default_factory=dict)

  def __post_init__(self):
    _check_text("question", self.question)
    _check(self.options, MOST_OPTIONS, "options")
    if not isinstance(self.descriptions, Mapping):
      raise QuestionError(f"descriptions {self.descriptions!r:.60}: give a dict of options")
    for option, text in self.descriptions.items():
      if option not in self.options:
        raise QuestionError(f"the description of {option!r:.60} is of no option: drop it")
      _check_text(f"description of {option!r:.60}", text)


@dataclass(frozen=True)
class Rating:
  """A question about a degree: 1 to 10 levels in ascending order. Raises as `Choice` does."""

  question: str
  levels: tuple[str, ...]

  def __post_init__(self):
    _check_text("question", self.question)
    _check(self.levels, MOST_LEVELS, "levels")

  @property
  def options(self) -> tuple[str, ...]:
    """The answers to choose from."""
    return self.levels


Question = YesNo | Choice | Rating


def _check_text(name: str, text: Any) -> None:
  if not isinstance(text, str):
    raise QuestionError(f"{name} {text!r:.60} is {type(text).__name__}: give a str")


def _check(texts: Any, most: int, name: str) -> None:
  is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
  if not is_list or not all(isinstance(text, str) for text in texts):
    raise QuestionError(f"{name} {texts!r:.60}: give a tuple of texts")
  if not 1 <= len(texts) <= most:
    raise QuestionError(f"{len(texts)} {name}: give 1 to {most}")
  if any(not text.strip() for text in texts):
    raise QuestionError(f"one of the {name} is empty: give each a text")
  # A level given twice would halve its probability, and JSON has one number for both.
  counts = collections.Counter(" ".join(text.split()) for text in texts)
  if twice := [text for text, count in counts.items() if count > 1]:
    raise QuestionError(f"{name}: {twice[0]!r:.60} is given twice: each must be another")


@dataclass(frozen=True)
class Decision:
  """The answer to a typed question."""

  options: tuple[str, ...]  # of yes and no, in this order; of a rating, its levels
  probabilities: tuple[float, ...]
  confidence: float  # 0 to 1
  notes: tuple[Note, ...] = ()  # on the clips, the question and its options

  @property
  def best(self) -> str:
    """The most probable option."""
    return self.options[int(np.argmax(self.probabilities))]

  @property
  def expected(self) -> float:
    """The mean place of the options, from 0: the degree that a rating gives."""
    return float(np.dot(self.probabilities, np.arange(len(self.options))))

  def __str__(self) -> str:
    return self.best


class Asked(NamedTuple):
  """A typed question in the words that a model is asked."""

  text: str
  answers: list[str]  # whose log-likelihoods decide it
  notes: tuple[Note, ...] = ()  # on what is lost of the options and their descriptions


def phrase(question: Question, fits: Callable[[str], bool]) -> Asked:
  """A question in words, and the answers whose log-likelihoods decide it.

  Options are listed in the question, as in the multiple choice that models are trained on, where
  the whole text fits the model's question; otherwise they are answers to the question alone.
  """
  if isinstance(question, YesNo):
    meanings = [f"{o}: {text}" for o, text in (("yes", question.yes), ("no", question.no)) if text]
    text = ". ".join([question.question, *meanings]).strip(". ") or "is it so?"
    return Asked(text, list(question.options))
  described = getattr(question, "descriptions", {})
  options = list(question.options)
  full = [f"{o} ({described[o]})" if described.get(o) else o for o in options]
  dropped = sum(shown != option for shown, option in zip(full, options, strict=True))
  lost = (Note("descriptions_dropped", f"of {dropped} options"),) if dropped else ()
  if len(full) <= len(choices.LETTERS):
    for shown, notes in ((full, ()), (options, lost)):
      text = " ".join([question.question, *choices.lettered(shown)]).strip()
      if fits(text):
        return Asked(text, choices.lettered(options), notes)
  return Asked(question.question or "what is heard?", options, lost)


def decision(
  question: Question,
  log_likelihoods: Sequence[float] | np.ndarray,
  temperature: float = 1.0,
  notes: tuple[Note, ...] = (),
) -> Decision:
  """The decision of options' natural log-likelihoods."""
  found = probabilities(log_likelihoods, temperature)
  is_rating = isinstance(question, Rating)
  return Decision(
    options=question.options,
    probabilities=tuple(found.tolist()),
    confidence=_rating_confidence(found) if is_rating else _confidence(found),
    notes=notes,
  )


def probabilities(
  log_likelihoods: Sequence[float] | np.ndarray, temperature: float = 1.0
) -> np.ndarray:
  """The probability of each option, of their natural log-likelihoods."""
  scaled = np.asarray(log_likelihoods, np.float64) / temperature
  weights = np.exp(scaled - scaled.max())
  return weights / weights.sum()


def _confidence(probabilities: np.ndarray) -> float:
  n = len(probabilities)
  return float((probabilities.max() - 1 / n) / (1 - 1 / n)) if n > 1 else 1.0


def _rating_confidence(probabilities: np.ndarray) -> float:
  n = len(probabilities)
  if n == 1:
    return 1.0
  places = np.arange(n)
  spread = float(np.dot(probabilities, np.abs(places - probabilities.argmax())))
  return max(0.0, 1 - spread / float(np.abs(places - (n - 1) / 2).mean()))
