"""Replies in plain text, in the layout of the paper, for servers that cannot keep to a schema.

  Question: What is heard? a) rain b) wind c) hail d) snow
  Answer: b) wind

Options may stand on lines of their own. Labels may be bold and numbered: "Question 2:", "Q2:",
"2.", "2. Question:". A reply is read whole or not at all: with a line of another kind, none of its
questions is safe, as it may continue or correct any of them. Only a greeting before the first
question and a closing after the last answer are passed over.

Source: paper, Tables 10, 11, 16 and 17.
"""

import re

from mellow_jax.data import choices
from mellow_jax.data.text import one_line
from mellow_jax.reasonaqa.llm.prompt import Kind
from mellow_jax.reasonaqa.llm.qa_pairs import Draft, Rejected

_PASSED_OVER = re.compile(r"\s*(?:([-*_=~])(?:\s*\1){2,}|```\w*)?\s*")  # blank, a rule, a fence
_LEAD = re.compile(r"[\s>#]*(?:[-*•]\s+)?")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_QUESTION = re.compile(
  r"(?:\(?(\d{1,2})[.)]\s*(?:question\s*:)?|(?:question|q)\s*#?(\d{1,2})?\s*(?:[:.)]|$))\s*(.*)",
  re.IGNORECASE,
)
_ANSWER = re.compile(
  r"(?:correct\s+)?(?:answer|ans)\s*(\d{1,2})?\s*(?:[:.]|$)\s*(.*)", re.IGNORECASE
)
_SHORT_ANSWER = re.compile(r"a\s*(\d{1,2})?\s*:\s*(.*)", re.IGNORECASE)
_INNER_ANSWER = re.compile(r"(?<!correct)\s+(?=(?:correct\s+)?answer\s*\d{0,2}\s*:)", re.IGNORECASE)
_OPTIONS = re.compile(r"\s*(?:answer\s+)?(?:options|choices)\s*:\s*$", re.IGNORECASE)
_END = re.compile(r"[.!…][\"'”’)]*$")
_SENTENCE = re.compile(r"(?:(?![?!.…:][\"'”’)]*\s).)+[?.…:][\"'”’]*")
_CLOSING = re.compile(
  r"(?:i hope|let me know|feel free|these (?:five )?questions)\b"
  r"(?!.*\b(?:answer|correct|actually|should|instead|mistake|wrong|sorry)|.*\d).*",
  re.IGNORECASE,
)


def drafts(text: str, kind: Kind) -> list[Draft]:
  """The drafts of a reply; raises Rejected where a line of it cannot be read."""
  reader = _Reader(kind)
  for raw in text.splitlines():
    if not _PASSED_OVER.fullmatch(raw):
      reader.bullet = _LEAD.match(raw)[0].strip()
      for line in filter(None, _INNER_ANSWER.split(_without_markup(raw))):
        reader.add(line)
  for draft in reader.drafts:
    reader.finish(draft)
  return reader.drafts


def _without_markup(raw: str) -> str:
  """The line without its bullet, and without bold type around its label or all of it.

  An option all in bold stays as it is, as that may mark it as the right one.
  """
  text = one_line(raw[_LEAD.match(raw).end() :]).strip(" |")
  bold = _BOLD.match(text)
  label = bold and choices.split_label(f"{bold[1]} ")
  return f"{bold[1]}{text[bold.end() :]}" if bold and not (label and label[1]) else text


class _Reader:
  """Collects the drafts of one reply, line by line."""

  def __init__(self, kind: Kind):
    self.mcq = kind == "mcq"
    self.drafts: list[Draft] = []
    self.part = "greeting"  # then "question", "answer" and in the end "closing"
    self.bullet = ""  # before the line, such as "-"
    self.bullets = set[str]()  # before the options of a question

  def add(self, line: str) -> None:
    """Adds a line; raises Rejected where it is none of the layout."""
    answer = _ANSWER.fullmatch(line) or (not self.mcq and _SHORT_ANSWER.fullmatch(line))
    question = _QUESTION.fullmatch(line)
    option = self.mcq and (choices.split_label(line) or _OPTIONS.fullmatch(line))
    last = self.drafts[-1] if self.drafts else Draft()
    if self.part == "closing":
      raise Rejected("a line is none of the layout")
    if answer and self.drafts:
      self._check_number(answer[1])
      if self.part == "answer":
        last.fault = "has two answers"
      last.answer, self.part = answer[2].strip("* "), "answer"
    elif question:
      self.drafts.append(Draft(question[3].strip("* ")))
      self._check_number(question[1] or question[2])
      self.part, self.bullets = "question", set()
    elif self.part == "question" and (option or not last.question):
      last.question = f"{last.question} {line if option else line.strip('* ')}".strip()
      self.bullets |= {self.bullet} if option else set()
      if len(self.bullets) > 1:
        last.fault = "a mark is left in it"
    elif self.part == "answer" and not last.answer:
      last.answer = line.strip("* ")
    elif self.part == "answer" and _CLOSING.fullmatch(line):
      self.part = "closing"
    elif self.part != "greeting" or option or answer or "?" in line:
      raise Rejected("a line is none of the layout")

  def _check_number(self, number: str | None) -> None:
    """Numbers count the questions: another one may be that of a correction, or of a list."""
    if number and int(number) != len(self.drafts):
      raise Rejected("a number is none of the layout")

  def finish(self, draft: Draft) -> None:
    """Parts a draft's question from its options."""
    if self.mcq:
      try:
        draft.question, draft.options = choices.split_styled(draft.question)
      except ValueError as error:
        draft.fault = draft.fault or str(error)
      draft.question = _OPTIONS.sub("", draft.question)
    if not draft.answer:
      draft.fault = draft.fault or "has no answer"
    elif not _SENTENCE.fullmatch(draft.question):
      draft.fault = draft.fault or "the question is no one sentence"
    elif not (self.mcq or _END.search(draft.answer)):
      draft.fault = draft.fault or "the answer has no end"
