"""Parses a completion in plain text: lines of questions, options and answers, in whatever style.

Lines are told apart by their labels: "1.", "Q2:", "### Question 3", "**A)**", "(b)", "Correct
answer - C". Markup is removed and nothing else is changed. A line without a label is used only
where it can mean one thing; otherwise its draft is rejected.
"""

import re
from typing import Literal

from mellow_jax.data import choices
from mellow_jax.reasonaqa.llm.markup import (
  ANSWER,
  ANSWER_IS,
  NUMBER,
  QUESTION,
  strip_markup,
)
from mellow_jax.reasonaqa.llm.prompt import Kind
from mellow_jax.reasonaqa.llm.qa_pairs import Draft

_RULE = re.compile(r"\s*([-*_=~])(\s*\1){2,}\s*")
_LEAD = re.compile(r"[\s>]*(?:#{1,6}\s+)?")
_BULLET = re.compile(r"[-*+•◦▪●‣]\s+(?!$)")
_TICK = r"\s*(?:[(\[](?:correct|correct answer|answer)[)\]]|[✓✔✅]\ufe0f?)\s*"
_TICKED = re.compile(f"^{_TICK}|{_TICK}$", re.IGNORECASE)
_A = re.compile(r"a\s*:\s*", re.IGNORECASE)
_ANSWER_AFTER_QUESTION = re.compile(
  r"(?:(?<=[?.!):])\s+(?:answer|ans)|(?<=\?)\s+a)\s*\d{0,2}\s*:\s*", re.IGNORECASE
)
_ANSWER_AFTER_OPTIONS = re.compile(r"\s+(?:correct\s+)?answer\s*[:=]\s*(\S.*)", re.IGNORECASE)
_KEY_HEADING = re.compile(r"(?:the\s+)?(?:correct\s+)?answers?(?:\s+key)?\s*:?", re.IGNORECASE)
_KEY_WORD = re.compile(r"answers|key", re.IGNORECASE)
_KEY_LINE = re.compile(r"(?:question|q)?\s*(\d{1,2})\s*[.):\-–—]*\s*(\S.*)", re.IGNORECASE)
_ASIDE = re.compile(
  r"\(?(?:explanation|rationale|reason|reasoning|justification|why|note|hint|difficulty|category|"
  r"type|topic|skill|focus|aspect|caption|description)\b[^:?.]{0,30}:",
  re.IGNORECASE,
)
_TITLE = re.compile(r"(?:[\w&/-]+ ){0,4}[\w&/-]+")
_CLOSING = re.compile(
  r"(?:please |i |we )?(?:let me know|hope|feel free|would you like|these (?:five |5 )?questions|"
  r"(?:all )?(?:the )?(?:above )?questions (?:above )?(?:are|cover|aim)|is there anything|if you)",
  re.IGNORECASE,
)


def drafts(text: str, kind: Kind) -> list[Draft]:
  """The drafts in a completion of plain text, in its order; never raises."""
  lines = text.splitlines()
  starts = [strip_markup(_BULLET.sub("", _LEAD.sub("", line, count=1), count=1)) for line in lines]
  labelled = any(QUESTION.match(s) or NUMBER.match(s) or ANSWER.match(s) for s in starts)
  parser = _Parser(kind, labelled)
  for line in lines:
    parser.add_line(line)
  return parser.drafts


def _ends(text: str, signs: str) -> bool:
  """Whether the last sign is one of those, whatever quotes stand around the text."""
  return text.rstrip("\"'”’)").endswith(tuple(signs))


class _Parser:
  """Collects the drafts of one completion, line by line."""

  def __init__(self, kind: Kind, labelled: bool):
    self.mcq, self.labelled = kind == "mcq", labelled
    self.drafts: list[Draft] = []
    self.part: Literal["before", "question", "options", "answer", "over", "key"] = "before"
    self.gap = True  # the line before is blank or a rule
    self.unclaimed = ""  # an unlabelled line that may be the next question
    self.unclaimed_is_whole = True  # and not the end of a sentence that began above it

  @property
  def draft(self) -> Draft:
    return self.drafts[-1]

  def reject(self, reason: str) -> None:
    if self.drafts:
      self.draft.reject(reason)

  def add_line(self, raw: str) -> None:
    if not raw.strip() or _RULE.fullmatch(raw) or raw.lstrip().startswith("```"):
      self.gap = True
      return
    text = raw[_LEAD.match(raw).end() :]
    heading = "#" in raw[: len(raw) - len(text)]
    bullet = _BULLET.match(text)
    if text := strip_markup(text[bullet.end() :] if bullet else text):
      self.add(text, bool(bullet), heading)
    self.gap = False

  def add(self, text: str, bullet: bool, heading: bool) -> None:
    if self.part == "key":
      self.add_key_line(text)
    elif self.mcq and self.add_option(text):
      pass
    elif not self.mcq and self.drafts and choices.split_label(text, sure=True):
      self.reject("has options where a detailed answer was asked for")
    elif self.is_key_heading(text):
      self.part = "key"
    elif label := self.answer_label(text):
      self.add_answer(text[label.end() :])
    elif _ASIDE.match(text) and self.part != "question":
      self.part = "over"
    elif not self.add_labelled_question(text):
      self.add_unlabelled(text, bullet, heading)

  # --- Answers -----------------------------------------------------------------------------------

  def is_key_heading(self, text: str) -> bool:
    """Whether the answers of all questions follow, by number."""
    if not self.drafts or not _KEY_HEADING.fullmatch(text):
      return False
    return bool(_KEY_WORD.search(text) or self.draft.answer)

  def add_key_line(self, text: str) -> None:
    found = _KEY_LINE.fullmatch(text)
    for draft in self.drafts if found else ():
      if draft.number == int(found[1]):
        if draft.answer is not None:
          draft.reject("has two answers")
        draft.answer = found[2]

  def answer_label(self, text: str) -> re.Match | None:
    if label := ANSWER.match(text):
      return label
    # After two options "A:" is no third one.
    ready = len(self.draft.options) >= 2 if self.mcq and self.drafts else not self.mcq
    if ready and (label := _A.match(text)):
      return label
    return ANSWER_IS.match(text) if self.mcq else None

  def add_answer(self, text: str) -> None:
    if self.drafts:
      if self.draft.answer is not None:
        self.reject("has two answers")
      self.draft.answer, self.part = text, "answer"

  def add_after_answer(self, text: str, bullet: bool, heading: bool) -> None:
    """A further line after a detailed answer: more of it, or something else."""
    title = heading or (len(text.split()) <= 6 and not text.endswith((".", "!", "?", ",")))
    if not self.gap and bullet:
      self.reject("the answer is a list")
    elif not self.gap and not heading:
      self.draft.answer += f" {text}"
    elif not self.labelled and _ends(text, "?"):
      self.begin_question(text, None)
    elif _CLOSING.match(text) or title or text.startswith("("):
      self.part = "over"
    else:
      self.reject("the answer has more than one paragraph")

  # --- Options -----------------------------------------------------------------------------------

  def add_option(self, text: str) -> bool:
    """Whether the line begins with an option's letter and was used."""
    found = choices.split_label(text)
    if not found:
      return False
    letter, rest = found
    if letter == "a" and self.part in ("answer", "over", "before") and self.unclaimed:
      clear = self.unclaimed_is_whole and "?" in self.unclaimed
      self.begin_question(self.unclaimed, None)
      if not clear:
        self.reject("the question cannot be told from what stands around it")
    if self.part not in ("question", "options"):
      return False
    count = len(self.draft.options)
    if _A.match(text) and count >= 2:
      return False  # "A: b", an answer
    if ord(letter) - ord("a") != count or not self.draft.question:
      self.reject("options are out of order" if count else "options stand before the question")
      return True
    # More of them may follow on the same line.
    rest, more, reason = choices.split_styled(rest, chr(ord(letter) + 1))
    self.add_options([rest, *more], reason)
    return True

  def add_options(self, texts: list[str], reason: str) -> None:
    """Adds options, of which the last may have the answer after it."""
    self.part = "options"
    answer = _ANSWER_AFTER_OPTIONS.search(texts[-1])
    if answer:
      texts[-1] = texts[-1][: answer.start()]
    for text in texts:
      if _TICKED.search(text):
        self.draft.ticked.add(len(self.draft.options))
      self.draft.options.append(_TICKED.sub("", text).strip())
    if reason:
      self.reject(reason)
    if answer:
      self.add_answer(answer[1])

  # --- Questions ---------------------------------------------------------------------------------

  def add_labelled_question(self, text: str) -> bool:
    """Whether the line begins with the label of a question and was used."""
    number, rest, numbered = None, text, NUMBER.match(text)
    if numbered:
      number, rest = int(numbered[1] or numbered[2]), text[numbered.end() :]
    named = QUESTION.match(rest)
    if not (numbered or named):
      return False
    waiting = self.part == "question" and not self.draft.question  # its heading stands above
    if named:
      rest = rest[named.end() :]
      if number is None and (digits := named[1] or named[2]):
        number = int(digits)
    elif not waiting and (reason := self.is_list_item(rest, number)):
      self.reject(reason)
      return True
    if waiting:
      self.draft.number = self.draft.number if number is None else number
      self.add_question(rest)
    else:
      self.begin_question(rest, number)
    return True

  def is_list_item(self, text: str, number: int) -> str:
    """Why a numbered line belongs to the question or answer above; "" if it is a question."""
    if self.mcq:
      return ""
    # Numbered on from the question before, after a blank line.
    follows = self.gap and self.drafts and self.draft.number == number - 1
    if self.part == "answer" and "?" not in text and not follows:
      return "the answer is a list"
    if self.part == "question" and not _ends(text, "?"):
      return "the question is a list"
    return ""

  def begin_question(self, text: str, number: int | None) -> None:
    self.drafts.append(Draft(number=number))
    self.part, self.unclaimed = "question", ""
    self.add_question(text)

  def add_question(self, text: str) -> None:
    """Adds to the question; its options or its answer may stand on the same line."""
    stem, options, reason = choices.split_styled(text) if self.mcq else (text, [], "")
    answer = None if self.mcq else _ANSWER_AFTER_QUESTION.search(text)
    if answer:
      stem = text[: answer.start()]
    elif len(options) < 2 or not stem:
      stem, options = text, []
    self.draft.question = f"{self.draft.question} {stem}".strip()
    if answer:
      self.add_answer(text[answer.end() :])
    elif options:
      self.add_options(options, reason)

  # --- Lines without a label ---------------------------------------------------------------------

  def add_unlabelled(self, text: str, bullet: bool, heading: bool) -> None:
    if self.part == "question":
      if _TITLE.fullmatch(self.draft.question) and not text[0].islower():
        self.draft.question = ""  # "Question 3: Loudness", with the question below it
      complete = _ends(self.draft.question, "?.:!…") and not _ends(text, "?")
      if self.mcq or not complete:
        self.add_question(text)
      else:
        self.draft.answer, self.part = text, "answer"
    elif self.part == "options" and not self.gap:
      self.draft.options[-1] += f" {text}"
      if not text[0].islower():  # no option continues so
        self.reject("text stands among the options")
    elif self.part == "answer" and not self.draft.answer:
      self.draft.answer = text
    elif self.part == "answer" and not self.mcq:
      self.add_after_answer(text, bullet, heading)
    else:
      self.add_between(text)

  def add_between(self, text: str) -> None:
    """Text between questions: a remark, or an unlabelled question."""
    if self.part in ("answer", "options"):
      self.part = "over"
    stem, options, _ = choices.split_styled(text)
    if self.mcq:
      asks = len(options) >= 2 and _ends(stem, "?")
    else:
      asks = not self.labelled and _ends(text, "?")
    if asks:
      self.begin_question(text, None)
    else:
      self.unclaimed_is_whole = self.gap or not self.unclaimed or _ends(self.unclaimed, ".!:")
      self.unclaimed = text
