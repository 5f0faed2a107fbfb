"""Which questions are not worth keeping: explicit rules for four ways in which they fail, and one.

The four are those the paper found in an older dataset: a question that general knowledge answers, an
answer that refuses, a question with the same answer for clip after clip, a question or an answer
that is vague. The one more is a question about the caption, which no listener has seen. The rules
look for words; they know nothing of sounds, and what they reject is listed so that one can look.

Source: paper, appendix D. The rules are our own.
"""

import collections
import re

from mellow_jax.reasonaqa.completions import Question, fold

KNOWLEDGE = "answerable without the audio"
REFUSED = "refuses to answer"
VAGUE = "vague"
CAPTION = "speaks of the caption"
REPEATED = "repeated across clips"

_CAPTION = re.compile(
  r"\b(?:caption|audio description|(?:the|this|given|provided) (?:textual )?(?:description|text|"
  r"sentence)|(?:is|are|as|was|were) (?:described|mentioned|stated)|description (?:says|states|"
  r"mentions|does))\b",
  re.IGNORECASE,
)
_REFUSAL = re.compile(
  r"\b(?:(?:is|are|was|were|remains?) (?:unknown|unclear|uncertain|unspecified|undetermined)"
  r"|(?:it is|it's|is|are) (?:impossible|difficult|hard|not possible) to (?:determine|tell|say|know|"
  r"identify|infer|conclude|judge|assess|estimate)"
  r"|(?:can ?not|can't|could ?not|couldn't) (?:be )?(?:\w+ly )?(?:determined?|inferred|infer|told|tell"
  r"|known?|identif(?:y|ied)|said|say|concluded?|specified|specify|answered|answer)"
  r"|not (?:specified|provided|mentioned|stated|given|enough information|possible to)"
  r"|(?:no|insufficient|without (?:more|further|additional)|lack of) (?:\w+ )?"
  r"(?:information|context|details?|indication)|i'm sorry|i am sorry|as an ai|not sure|unable to)\b",
  re.IGNORECASE,
)
# An option that stands for not knowing.
_NO_ANSWER = re.compile(
  r"(?:it is |it's )?(?:unknown|unclear|unspecified|undetermined|not (?:known|clear|sure|specified|"
  r"mentioned|applicable|given)|n/?a|none|(?:it )?can(?:not|'t) (?:be )?(?:tell|say|told|determined?)|"
  r"impossible to (?:tell|say|determine)|i don't know)",
  re.IGNORECASE,
)
# What ties a question to one clip: a word for it, or something in it that "the" or "this" points at.
_ANCHOR = re.compile(
  r"\b(?:clip|audio|recording|soundscape|scene|track|sounds? (?:present|heard)|hear|heard|hearing|"
  r"listen\w*|background|foreground|environment|setting|(?:the|this|that|these|those|their|his|her|"
  r"its|it|they|he|she|you)|[\w-]+'s|[\w-]+’s|there)\b",
  re.IGNORECASE,
)
_GENERAL = re.compile(
  r"\bin general\b|\b(?:typically|usually|generally|normally|commonly)\b.*\?"
  r"|^(?:define|what does the (?:word|term)|what is meant by|what is (?:a|an) [\w -]+\?)"
  r"|^what (?:kind|type|sort) of (?:a )?(?:sound|noise) (?:is|does) (?:a |an )?[\w-]+(?: make)?\?"
  r"|^what (?:is|are) the (?:definition|meaning|history|origin|significance|importance) of\b"
  r"|^what (?:is|are) (?:the )?(?:acoustic )?differences? between\b(?!.*\b(?:clip|audio|recording|"
  r"first|second|heard|here)\b)"
  r"|^why (?:do|does|are|is) (?:a |an )?(?!the\b|this\b|these\b|there\b|it\b|someone\b)[\w-]+ "
  r"(?!in the (?:clip|audio|recording))"
  r"|\bused for\?",
  re.IGNORECASE,
)
_DEFINES = re.compile(
  r"^(?:an? |the )?(?:[\w-]+ ){1,3}(?:refers? to|is defined as|are defined as|is a term|means)\b",
  re.IGNORECASE,
)
_IF = re.compile(
  r"\b(?:what if|suppose|imagine)\b|\bif\b.*\b(?:were|was|had|added|removed|replaced|different|"
  r"changed|instead|without)\b|\bwould\b.*\bchange\b|\b(?:hypothetical|theoretically)",
  re.IGNORECASE,
)
_DEPENDS = re.compile(
  r"\b(?:depend(?:s|ing)? (?:up)?on|it depends|(?:could|can|may|might) (?:be|mean) (?:anything|many|"
  r"various|several|different)|(?:can|may|might|could|will) vary|var(?:y|ies) (?:from|depending|greatly|"
  r"widely)|subjective|various factors|from person to person|individual's perception|anything from)\b",
  re.IGNORECASE,
)
_HEDGE = re.compile(r"\b(?:might|may|could|possibly|perhaps|maybe|potentially)\b", re.IGNORECASE)
_NOT_SAID = re.compile(
  r"(?:something else|others?|any of (?:these|the above|them)|it depends|anything|various|some sound|"
  r"a sound|(?:a )?noise|sounds?)",
  re.IGNORECASE,
)
_SMALL = frozenset(
  "a an the of in on at to from by with and or as is are was were be been it its this that these "
  "those there which what who how for into likely sound sounds clip audio".split()
)


def fault(question: Question) -> str:
  """Why a question is not kept, by itself; "" if it is."""
  text, answer = question.text, question.answer
  options = question.options
  if _CAPTION.search(text) or _CAPTION.search(answer):
    return CAPTION
  if _REFUSAL.search(answer) or (options and _NO_ANSWER.fullmatch(fold(answer))):
    return REFUSED
  if _IF.search(text) or _DEPENDS.search(answer) or _is_vague(question):
    return VAGUE
  if not _ANCHOR.search(text) or _GENERAL.search(text) or _DEFINES.search(answer):
    return KNOWLEDGE
  return ""


def _is_vague(question: Question) -> bool:
  if len(question.text.split()) < 3:
    return True
  if question.options:
    return bool(_NOT_SAID.fullmatch(fold(question.answer)))
  words = len(question.answer.split())
  hedges = len(_HEDGE.findall(question.answer))
  # A sentence may be careful; one in ten words is no answer any more.
  return words < 3 or (hedges >= 3 and hedges * 10 >= words)


class Repetition:
  """Finds questions that get the same answer for clip after clip, in the order of the clips.

  Two answers are the same if they agree in the first three words that are not in the question and
  say something. Of the same question with the same answer, `most` are kept: the first ones.
  """

  def __init__(self, most: int):
    self._most = most
    self._clips = collections.defaultdict(set)  # (question, answer) -> clips it was kept for

  def fault(self, question: Question, clip: str) -> str:
    """REPEATED, or "" if the question is kept, and then counted."""
    asked = fold(question.text)
    known = _SMALL | set(re.findall(r"\w+", asked))
    said = [word for word in re.findall(r"\w+", fold(question.answer)) if word not in known][:3]
    kept = self._clips[asked, *said]
    if clip not in kept and len(kept) >= self._most:
      return REPEATED
    kept.add(clip)
    return ""
