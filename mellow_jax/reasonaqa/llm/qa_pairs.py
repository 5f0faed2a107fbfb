"""Question-answer pairs: drafts as parsed, and the checks that make a draft a pair."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mellow_jax.data import choices, prompts
from mellow_jax.data.text import fold
from mellow_jax.reasonaqa.llm import markup
from mellow_jax.reasonaqa.llm.prompt import OPTIONS, Kind

_ANSWER_LABEL = re.compile(
  rf"^(?:{markup.ANSWER.pattern}|{markup.ANSWER_IS.pattern})", re.IGNORECASE
)


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
  text: str  # what was parsed of it


@dataclass
class Draft:
  """A question as parsed, not yet checked."""

  question: str = ""
  options: list[str] = field(default_factory=list)  # in the order of their letters
  answer: str | None = None  # None where there is none
  ticked: set[int] = field(default_factory=set)  # options marked as right, as by (correct)
  number: int | None = None
  reason: str = ""  # the first ambiguity found, for which it is rejected
  source: str = ""  # its text in the completion; "" for its parts

  def reject(self, reason: str) -> None:
    """Notes the reason, unless there is one already."""
    self.reason = self.reason or reason


class Rejected(Exception):
  """Why a draft gives no pair."""


def chosen_option(answer: str, options: Sequence[str]) -> int:
  """The option that an answer names, after its label; raises Rejected unless it is one."""
  try:
    return choices.named_option(options, _ANSWER_LABEL.sub("", answer).strip())
  except ValueError as error:
    raise Rejected(str(error)) from None


def _without_quotes(text: str) -> str:
  for left, right in ('""', "''", "“”"):
    if len(text) > 2 and text[0] == left and text[-1] == right and left not in text[1:-1]:
      return text[1:-1].strip()
  return text


def _field(text: str, name: str) -> str:
  text = _without_quotes(markup.strip_markup(text))
  if not re.search(r"\w", text):
    raise Rejected(f"the {name} is empty")
  if len(text) > prompts.MAX_CHARACTERS:
    raise Rejected(f"the {name} is too long")
  if not text.isprintable():
    raise Rejected(f"the {name} holds control characters")
  return text


def check(draft: Draft, kind: Kind) -> QAPair | Reject:
  """The pair of a draft, or why it is incomplete or ambiguous."""
  try:
    if draft.reason:
      raise Rejected(draft.reason)
    question = _field(draft.question, "question")
    return (_check_detail if kind == "detail" else _check_mcq)(draft, question)
  except Rejected as error:
    parts = " | ".join(filter(None, [draft.question, *draft.options, draft.answer]))
    return Reject(str(error), draft.source or parts)


def _check_detail(draft: Draft, question: str) -> QAPair:
  if draft.options or len(choices.split_styled(question)[1]) > 1:
    raise Rejected("has options where a detailed answer was asked for")
  if draft.answer is None:
    raise Rejected("has no answer")
  answer = _field(draft.answer, "answer")
  if answer.endswith("?"):
    raise Rejected("the answer is a question")
  return QAPair(question, (), answer)


def _check_mcq(draft: Draft, question: str) -> QAPair:
  if len(draft.options) != OPTIONS:
    raise Rejected(f"has {len(draft.options) or 'no'} options, not {OPTIONS}")
  options = tuple(_field(text, "option").rstrip(",;") for text in draft.options)
  if len(set(map(fold, options))) < OPTIONS:
    raise Rejected("options repeat")
  named = set(draft.ticked)
  if draft.answer is not None:
    named.add(chosen_option(_field(draft.answer, "answer"), options))
  elif not named:
    raise Rejected("has no answer")
  if len(named) != 1:
    raise Rejected("the answer names no one option")
  return QAPair(question, options, options[named.pop()])
