"""Parses the question-answer pairs of a completion, strictly: what is ambiguous is rejected.

A pair is kept only if it is complete and can mean one thing; everything else becomes a Reject with
its reason. Nothing is made up: each question, option and answer stands in the completion word for
word, but for white space and markup.
"""

import re

from mellow_jax.data.text import fold
from mellow_jax.reasonaqa.llm import json_reply, qa_pairs, text_reply
from mellow_jax.reasonaqa.llm.prompt import QUESTIONS, Kind
from mellow_jax.reasonaqa.llm.qa_pairs import QAPair, Reject

LONGEST = 50_000  # characters of a completion; five questions have about 2,000

_REFUSAL = re.compile(
  r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i apologi[sz]e|as an ai\b"
  r"|as a (?:large )?language model|i (?:cannot|can't|can not|won't|do not have|don't have))",
  re.IGNORECASE,
)
_THINK = re.compile(r"\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
_THINK_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)


def parse(completion: str, kind: Kind, cut_off: bool = False) -> list[QAPair | Reject]:
  """The pairs and rejects of a completion, in its order; there is always at least one.

  cut_off says that the model was stopped at its token limit, so that the last question may be
  incomplete. Never raises.
  """
  text = _without_reasoning(completion)
  if not text:
    return [Reject("the completion is empty", completion[:200])]
  if len(text) > LONGEST:
    return [Reject("the completion is too long", text[:200])]
  if json_reply.is_json(text):
    drafts = json_reply.drafts(text, kind)  # a whole object was not cut off
  else:
    drafts = text_reply.drafts(text, kind)
    if cut_off and drafts:
      drafts[-1].reason = "is cut off"
  items = [qa_pairs.check(draft, kind) for draft in drafts]
  if not any(isinstance(item, QAPair) for item in items) and _REFUSAL.search(text[:300]):
    return [Reject("the model refused", text[:500])]
  return _limited(items) or [Reject("no question was found", text[:500])]


def _without_reasoning(completion: str) -> str:
  """The completion after the model's reasoning, whose opening tag may stand in the request."""
  if ends := list(_THINK_END.finditer(completion)):
    return completion[ends[-1].end() :].strip()
  return "" if _THINK.match(completion) else completion.strip()


def _limited(items: list[QAPair | Reject]) -> list[QAPair | Reject]:
  """Rejects questions that repeat, and those beyond the number asked for."""
  seen, limited = set(), []
  for item in items:
    if isinstance(item, QAPair):
      question, reason = fold(item.question), ""
      if question in seen:
        reason = "is asked twice of one caption"
      elif len(seen) >= QUESTIONS:
        reason = "is one too many"
      seen.add(question)
      item = Reject(reason, " | ".join(item.fields())) if reason else item
    limited.append(item)
  return limited
