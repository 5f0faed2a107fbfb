"""Rejects questions that are not worth keeping, by explicit rules.

The reasons are the four for which the paper rejects an older dataset: answerable by general
knowledge, an answer that refuses, the same answer for clip after clip, a vague question or answer.
The rules look for words alone: what they reject is listed, to be looked at.

Source: paper, appendix D. The rules are our own.
"""

import collections
import re

from mellow_jax.data.text import fold
from mellow_jax.reasonaqa.llm.qa_pairs import QAPair

KNOWLEDGE = "answerable without the audio"
REFUSED = "refuses to answer"
VAGUE = "vague"
REPEATED = "repeated across clips"
LEAST_REPEATS = 5  # clips that may share a question and its answer, however few clips there are
REASONS = (KNOWLEDGE, REFUSED, REPEATED, VAGUE)


def _any(*patterns: str) -> re.Pattern:
  """Finds any of the patterns, as whole words."""
  return re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", re.IGNORECASE)


_REFUSAL = _any(
  r"(?:is|are|was|were|remains?) (?:unknown|unclear|uncertain|unspecified|undetermined)",
  r"(?:it is|it's|is|are) (?:impossible|difficult|hard|not possible) to (?:determine|tell|say|know|"
  r"identify|infer|conclude|judge|assess|estimate)",
  r"(?:can ?not|can't|could ?not|couldn't) (?:be )?(?:\w+ly )?(?:determined?|inferr?(?:ed)?|tell|"
  r"told|know|known|identify|identified|say|said|concluded?|specify|specified|answer|answered)",
  r"not (?:specified|provided|mentioned|stated|given|enough information|possible to)",
  r"(?:no|insufficient|without (?:more|further|additional)|lack of) (?:\w+ )?(?:information|"
  r"context|details?|indication)",
  r"i'm sorry|i am sorry|as an ai|not sure|unable to (?:determine|tell|say|know|identify|answer)",
)
# An option that means not knowing.
_NO_ANSWER = re.compile(
  r"(?:it is |it's )?(?:unknown|unclear|unspecified|undetermined|impossible to (?:tell|say|know)"
  r"|not (?:known|clear|sure|specified|mentioned|applicable|given))|n/?a|none|i don't know"
  r"|(?:it )?can(?:not|'t) (?:be )?(?:tell|say|told|determined?)"
)
# Words that tie a question to one clip: for the clip or its parts, for hearing and for order in
# time, and words that point, such as "the", "this" or "her".
_ANCHOR = _any(
  r"clips?|audio|recording|recorded|soundscape|scene|track|background|foreground|environment",
  r"hear|heard|hearing|listen\w*|present|audible",
  r"first|last|before|after|next|follows?|comes?|overlap|loudest|closest|during|how (?:many|often)",
  r"the|this|that|these|those|their|his|her|its|it|they|he|she|you|there|someone|somebody",
  r"[\w-]+['’]s",
)
_GENERAL = _any(
  r"in general|typically|usually|generally|normally|commonly|known for",
  r"^define|^what does the (?:word|term)|^what is meant by|^what is an? [\w -]+\?",
  r"^what (?:kind|type|sort) of (?:a )?(?:sound|noise) (?:is|does) (?:an? )?[\w-]+(?: make)?\?",
  r"^what (?:is|are) the (?:definition|meaning|history|origin|significance|importance) of",
  r"^why (?:do|does|are|is) (?:an? )?(?!the|this|these|there|it|someone|somebody|that)[\w-]+ "
  r"(?!heard|present|audible|in the)\w+",
  r"used for\?",
)
# A difference between kinds of sound, not between two sounds of the clip.
_COMPARES = _any(
  r"^what (?:is|are) the (?:acoustic )?differences? between (?!(?:the|these|his|her|its)\b)\w+"
)
_DEFINES = re.compile(
  r"(?:an? |the )?(?:[\w-]+ ){1,3}(?:refers? to|(?:is|are) defined as|is a term)\b", re.IGNORECASE
)
_IF = _any(
  r"what if|suppose|imagine|hypothetical(?:ly)?|theoretically|would .*change",
  r"if .*(?:were|was|had|added|removed|replaced|different|changed|instead|without)",
)
_DEPENDS = _any(
  r"depend(?:s|ing)? (?:up)?on|it depends|subjective|various factors|from person to person",
  r"(?:could|can|may|might) (?:be|mean) (?:anything|many|various|several|different)",
  r"(?:can|may|might|could|will) vary|var(?:y|ies) (?:from|depending|greatly|widely)",
  r"individual['’]s perception|anything from",
)
_HEDGE = _any("might|may|could|possibly|perhaps|maybe|potentially")
_NOT_SAID = re.compile(
  r"something else|others?|any of (?:these|the above|them)|it depends|anything|various"
  r"|(?:a |some )?(?:sound|noise)s?"
)
# Ignored when two answers are compared.
_SMALL = frozenset(
  re.findall(
    r"\w+",
    "a an the of in on at to from by with and or as is are was were be been it its this that these "
    "those there which what who how for into likely sound sounds clip audio",
  )
)


def reject_reason(pair: QAPair) -> str:
  """Why a pair is not kept, judged by itself; "" if it is."""
  question, answer = pair.question, pair.answer
  if _REFUSAL.search(answer) or (pair.options and _NO_ANSWER.fullmatch(fold(answer))):
    return REFUSED
  if _IF.search(question) or _DEPENDS.search(answer) or _is_vague(pair):
    return VAGUE
  general = _GENERAL.search(question) or _COMPARES.search(question) or _DEFINES.match(answer)
  return KNOWLEDGE if general or not _ANCHOR.search(question) else ""


def _is_vague(pair: QAPair) -> bool:
  if len(pair.question.split()) < 3:
    return True
  if pair.options:
    return bool(_NOT_SAID.fullmatch(fold(pair.answer)))
  words = len(pair.answer.split())
  hedges = len(_HEDGE.findall(pair.answer))
  # One hedge in a sentence is careful; three, and one in ten words, are no answer.
  return words < 3 or (hedges >= 3 and hedges * 10 >= words)


class RepetitionFilter:
  """Rejects pairs whose question gets the same answer for many clips; sees them in order.

  Two answers are the same if their first three words that carry meaning, and are not in the
  question, agree. A question is kept with the same answer for the first clips up to a share of all.
  """

  def __init__(self, share: float, clips: int):
    self._most = max(LEAST_REPEATS, int(share * clips))
    self._clips = collections.defaultdict(set)  # (question, answer words) -> clips it was kept for

  def reject_reason(self, pair: QAPair, clip: str) -> str:
    """REPEATED, or "" if the pair is kept, which is then counted."""
    question = fold(pair.question)
    known = _SMALL | set(re.findall(r"\w+", question))
    words = [word for word in re.findall(r"\w+", fold(pair.answer)) if word not in known][:3]
    kept = self._clips[question, *words]
    if clip not in kept and len(kept) >= self._most:
      return REPEATED
    kept.add(clip)
    return ""
