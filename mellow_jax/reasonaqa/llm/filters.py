"""Which questions are not worth keeping: explicit rules for four ways in which they fail, and one.

The four are those that the paper found in an older dataset: a question that general knowledge
answers, an answer that refuses, a question that gets the same answer for clip after clip, a
question or an answer that is vague. The one more is a question about the caption, which no listener
has seen. The rules look for words and know nothing of sounds: what they reject is listed, so that
one can look.

Source: paper, appendix D. The rules are our own.
"""

import collections
import re

from mellow_jax.reasonaqa.llm.completions import Question, fold

KNOWLEDGE = "answerable without the audio"
REFUSED = "refuses to answer"
VAGUE = "vague"
CAPTION = "speaks of the caption"
REPEATED = "repeated across clips"
REASONS = (KNOWLEDGE, REFUSED, REPEATED, VAGUE, CAPTION)


def _any(*patterns: str) -> re.Pattern:
  """Finds any of the patterns, as whole words."""
  return re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", re.IGNORECASE)


_CAPTION = _any(
  r"captions?",
  r"(?:audio|the|this|that|given|provided|above) (?:textual )?(?:description|text|sentence)",
  r"(?:is|are|as|was|were) (?:described|mentioned|stated) (?:in|as|by)",
  r"description (?:says|states|mentions|does)",
)
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
# An option that stands for not knowing.
_NO_ANSWER = re.compile(
  r"(?:it is |it's )?(?:unknown|unclear|unspecified|undetermined|impossible to (?:tell|say|know)"
  r"|not (?:known|clear|sure|specified|mentioned|applicable|given))|n/?a|none|i don't know"
  r"|(?:it )?can(?:not|'t) (?:be )?(?:tell|say|told|determined?)"
)
# What ties a question to one clip: a word for it or its parts, what is heard in it and when, or
# something that "the", "this" or "her" points at.
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
# A difference of two kinds of sound, and not of two sounds of the clip.
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
# Of no weight when two answers are compared.
_SMALL = frozenset(
  re.findall(
    r"\w+",
    "a an the of in on at to from by with and or as is are was were be been it its this that these "
    "those there which what who how for into likely sound sounds clip audio",
  )
)


def fault(question: Question) -> str:
  """Why a question is not kept, by itself; "" if it is."""
  text, answer = question.text, question.answer
  if _CAPTION.search(text) or _CAPTION.search(answer):
    return CAPTION
  if _REFUSAL.search(answer) or (question.options and _NO_ANSWER.fullmatch(fold(answer))):
    return REFUSED
  if _IF.search(text) or _DEPENDS.search(answer) or _is_vague(question):
    return VAGUE
  general = _GENERAL.search(text) or _COMPARES.search(text) or _DEFINES.match(answer)
  return KNOWLEDGE if general or not _ANCHOR.search(text) else ""


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

  Two answers are the same if they agree in their first three words that say something and are not
  in the question. The same question is kept with the same answer for `most` clips: the first ones.
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
