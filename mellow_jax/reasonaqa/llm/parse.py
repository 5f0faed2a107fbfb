"""Reads the question-answer pairs of a completion, strictly: what is not read whole is rejected.

A pair is kept only if it is complete, can mean one thing and holds nothing else; everything else
becomes a Reject with its reason. Nothing is made up: each question, option and answer stands in the
completion word for word, but for white space and markup.
"""

import collections
import re

from mellow_jax.data import choices, prompts
from mellow_jax.data.text import fold, one_line
from mellow_jax.reasonaqa.llm import json_reply, leftovers, text_reply
from mellow_jax.reasonaqa.llm.prompt import OPTIONS, QUESTIONS, Kind
from mellow_jax.reasonaqa.llm.qa_pairs import Draft, QAPair, Reject, Rejected

LONGEST = 50_000  # characters of a completion; five questions have about 2,000

_REFUSAL = re.compile(
  r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i apologi[sz]e|as an ai\b"
  r"|as a (?:large )?language model|i (?:cannot|can't|can not|won't|do not have|don't have))",
  re.IGNORECASE,
)
_THINK = re.compile(r"\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
_THINK_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_FENCED = re.compile(r"```(?:json)?\s*([\[{].*[\]}])\s*```", re.DOTALL)


def parse(
  completion: str, kind: Kind, cut_off: bool = False, caption: str = ""
) -> list[QAPair | Reject]:
  """The pairs and rejects of a completion, in its order; there is always at least one.

  cut_off says that the model was stopped at its token limit, so that the last question may be
  incomplete. A pair that repeats the caption is rejected. Never raises.
  """
  text = _without_reasoning(completion)
  if not text:
    return [Reject("the completion is empty", completion[:200])]
  if len(text) > LONGEST:
    return [Reject("the completion is too long", text[:200])]
  if fenced := _FENCED.fullmatch(text):
    text = fenced[1]
  try:
    drafts = (json_reply if text[0] in "[{" else text_reply).drafts(text, kind)
    unread = "" if drafts else "no question was found"
  except Rejected as error:
    drafts, unread = [], str(error)
  if cut_off and drafts:
    drafts[-1].fault = "is cut off"
  items = [_checked(draft, kind, caption) for draft in drafts]
  if not any(isinstance(item, QAPair) for item in items) and _REFUSAL.search(text[:300]):
    unread = "the model refused"
  if unread:
    return [Reject("is cut off" if cut_off and not drafts else unread, text[:500])]
  return _limited(items)


def _without_reasoning(completion: str) -> str:
  """The completion after the model's reasoning, whose opening tag may stand in the request."""
  if ends := list(_THINK_END.finditer(completion)):
    return completion[ends[-1].end() :].strip()
  return "" if _THINK.match(completion) else completion.strip()


def _checked(draft: Draft, kind: Kind, caption: str) -> QAPair | Reject:
  """The pair of a draft, or why it gives none."""
  try:
    if draft.fault:
      raise Rejected(draft.fault)
    pair = _pair(draft, kind)
    if fault := leftovers.fault(pair, caption):
      raise Rejected(fault)
    return pair
  except Rejected as error:
    parts = (draft.question, *draft.options, draft.answer)
    return Reject(str(error), " | ".join(filter(None, parts)))


def _pair(draft: Draft, kind: Kind) -> QAPair:
  question, answer = _field(draft.question, "question"), _field(draft.answer, "answer")
  if kind == "detail":
    return QAPair(question, (), answer)
  if len(draft.options) != OPTIONS:
    raise Rejected(f"has {len(draft.options) or 'no'} options, not {OPTIONS}")
  options = tuple(_field(text, "option").rstrip(",;") for text in draft.options)
  if len(set(map(fold, options))) < OPTIONS:
    raise Rejected("options repeat")
  return QAPair(question, options, options[_right(options, answer)])


def _field(text: str, name: str) -> str:
  lines, text = len(text.strip().splitlines()), one_line(text)
  if not re.search(r"\w", text):
    raise Rejected(f"the {name} is empty")
  if len(text) > prompts.MAX_CHARACTERS:
    raise Rejected(f"the {name} is too long")
  if not text.isprintable():
    raise Rejected(f"the {name} holds control characters")
  if lines > 1:
    raise Rejected(f"the {name} has more than one line")
  return text


def _right(options: tuple[str, ...], answer: str) -> int:
  """The place of the one option that an answer names: by letter, by text, or by both."""
  if label := choices.split_label(f"{answer} "):
    answer = f"{label[0]}) {label[1]}"
  place = choices.choose(options, answer, agree=True)
  by_text = {i for i, option in enumerate(options) if fold(option) == fold(answer)}
  if place is None or by_text - {place}:
    raise Rejected("the answer names no one option")
  return place


def _limited(items: list[QAPair | Reject]) -> list[QAPair | Reject]:
  """Rejects questions that repeat, and those beyond the number asked for."""
  answers, limited = collections.defaultdict(set), []
  for item in items:
    if isinstance(item, QAPair):
      answers[fold(item.question)].add(fold(item.answer))
  seen = set()
  for item in items:
    if isinstance(item, QAPair):
      question, reason = fold(item.question), ""
      if len(answers[question]) > 1:
        reason = "has two answers"
      elif question in seen:
        reason = "is asked twice of one caption"
      elif len(seen) >= QUESTIONS:
        reason = "is one too many"
      seen.add(question)
      item = Reject(reason, " | ".join(item.fields())) if reason else item
    limited.append(item)
  return limited
