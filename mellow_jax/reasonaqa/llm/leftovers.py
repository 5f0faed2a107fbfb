"""Finds what belongs to no question, option or answer, and was left in one by the model's layout.

Labels, counters, marks of right and wrong, corrections, several pairs in one, the caption. The
rules would rather reject a sound pair than keep one with such a rest: what they reject is listed.
"""

import re
import unicodedata
from collections.abc import Sequence

from mellow_jax.data import choices
from mellow_jax.data.text import fold, words
from mellow_jax.reasonaqa.llm.qa_pairs import QAPair

LABEL = "a label is left in it"
COUNTER = "a counter or a heading is left in it"
MARK = "a mark is left in it"
CORRECTED = "is corrected by the model"
SEVERAL = "holds more than one question"
REST = "text is left around it"
CAPTION = "speaks of the caption"


def _any(*patterns: str) -> re.Pattern:
  """Finds any of the patterns where no word goes on before it."""
  return re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})", re.IGNORECASE)


_LABEL = _any(
  r"(?:questions?|q|answers?|ans|a|options?|choices?|explanation|rationale|justification|note|hint|"
  r"caption|description|correction|edit|(?:in)?correct|category|difficulty|topic)\s*#?\d*\s*[:=]",
  r"(?:question|q|answer|ans)\s*#?\d",
  r"(?:options?|choices?|answers?) (?:(?-i:[A-H])|\d)(?!\w)",
  r"answer is\s*:",
)
_COUNTER = re.compile(
  r"(?:questions?|q|mcq|quiz)(?!\w)"  # "Question one", "Q - what"
  r"|(?:item|part|task|exercise|number|no|nr)\W{0,3}\d"
  r"|(?:[ivx]{1,4}|[a-z])\s*(?:[.)\]:–—]|-\s)"
  r"|(?:first|second|third|fourth|fifth|one|two|three|four|five|next|final|last)(?:ly)?\s*[,:.)–—-]"
  r"|(?:\S+\s+){0,3}\S+:\s"  # a heading
  r"|(?:\S+\s+){1,3}[–—-]\s"
  r"|\w+ #?\d{1,2}\W?\s+(?-i:[A-Z])",  # "Section 2 What"
  re.IGNORECASE,
)
_ANY_COUNTER = re.compile(
  r"[(]\s*#?[+-]?\d{1,3}\s*(?:%|pts?|points?|(?:/|of|out of)\s*\d{1,2})?\s*[)]"
  r"|\d\s*(?:/|of|out of)\s*(?:5|five)(?!\w)"
  r"|(?:first|second|third|fourth|fifth|next|last|final) question"
  r"|question (?:one|two|three|four|five)",
  re.IGNORECASE,
)
# A label that nobody thought of: "Evidence: ..." behind a sentence, or in brackets.
_HEADING = re.compile(r"(?:[.!…)\"”]\s+|[(])(?-i:[A-Z])\w*(?: \w+)?:\s")
# Quotation marks around all or a sentence of it, and brackets behind a sentence.
_ADDED = re.compile(
  r"^[\"“'‘«].*[\"”'’»]$|[\"“«](?:[^\s\"“”«»]+\s+){3,}[^\"“”«»]+[\"”»]|[.!?…][\"”]?\s*[(]"
)
_SIGNS = re.compile(
  r"[{}\[\]|\\`^_*=]|[<>~](?!\s?\d)|(?<!(?-i:[A-G]))#|^[+–—-](?!\s?\d)|\(\W*\)|\(\s*\w\s*\)|--|[:;]\)"
)
_ARROWS_AND_BULLETS = frozenset("√←→↔⇐⇒⟵⟶•‣†‡※")
_MARK_WORDS = _any(
  r"(?:in)?correct(?!\w)|wrong(?!\w)|distractors?(?!\w)",
  r"(?:right|best|true|false) (?:answer|option)",
  r"(?:answer|ans|key|solution)\W*(?:(?:is )?\W?[a-h]\W?)?$|(?:ok|x|v)$",
)
_VERDICT = (
  r"(?:right|true|false|yes|no|not|best|chosen|selected|key|this|heard|plausible|said|answer)(?!\w)"
)
_ASIDE = re.compile(
  rf"[(](?:[^)]*\W)?{_VERDICT}[^)]*[)]$|\s[–—-]\s*(?:[\w']+ ){{0,2}}{_VERDICT}"
  r"|,\s*(?:right|true|false)$|(?:right|true|false):|(?-i:RIGHT|TRUE|FALSE|YES|NO)$",
  re.IGNORECASE,
)
_CAPTION = _any(
  r"captions?(?!\w)",
  r"(?:audio|the|this|that|given|provided|above) (?:textual )?(?:description|text|sentence)(?!\w)",
  r"(?:is|are|as|was|were) (?:described|mentioned|stated) (?:in|as|by)(?!\w)",
  r"description (?:says|states|mentions|does)(?!\w)",
)
_INSET = re.compile(r"[\"“'‘«(]([^\"“”«»()]+?)[\"”'’»)]")
_JOINED = re.compile(r"(?:[:;,/&–—-]|\s(?:and|or))$", re.IGNORECASE)
_CORRECTION = _any(
  r"(?:wait|actually|hmm|oops|sorry)\s*[,.:!–—-]",
  r"no,? wait|(?<=[.!…] )no, (?:it|that|the (?:right|answer))",
  r"(?:scratch|strike) that",
  r"i mean(?:t)?(?!\w)",
  r"on second thou?ght",
  r"let me (?:correct|re|fix|change)|i take (?:that|it) back|or rather|ignore (?:that|the)",
  r"that(?:'s| is| was) (?:wrong|incorrect|not right|a mistake)",
  r"(?:updated|amended|better|second|final|alternative) answer",
  r"correction|corrected|revised|my mistake|rather:|not [a-h][,.;]",
)
_SAID_AROUND = _any(
  r"let me know|i hope (?:this|these|that)|feel free|would you like|as an ai(?!\w)|next question",
  r"these (?:five )?questions|here (?:are|is) (?:the|five|your|another)",
  r"the (?:correct |right )?answer is(?!\w)",
)
_GREETING = re.compile(
  r"(?:sure|certainly|of course|okay|absolutely|great)\s*[!,.:]", re.IGNORECASE
)
_DASHED_LABEL = re.compile(r"(?:[a-h]|\d)\s*(?:[–—]|-\s)", re.IGNORECASE)
_LISTED = re.compile(r"(?:^|\s)\(?(?:\d{1,2}|[ivx]{1,4})[.)]\s")
# What asks stands in no answer, with a question mark or without.
_ASKS = re.compile(
  r"\?|(?:^|[.!…]\s+)(?:describe|explain|identify|list|name|what|which|how|why|who)\s",
  re.IGNORECASE,
)
_LONGEST = 150  # words of an answer of one to three sentences


def _text_fault(text: str) -> str:
  """The fault of any text: a label, a sign that no sentence has, or a correction."""
  if _LABEL.search(text) or _HEADING.search(text) or choices.has_label(f"{text} "):
    return LABEL
  if _SIGNS.search(text) or any(map(_is_mark, text)):
    return MARK
  if _CORRECTION.search(text):
    return CORRECTED
  return REST if _ADDED.search(text) else ""


def _is_mark(sign: str) -> bool:
  """Whether a sign is a tick, an arrow, a bullet, an emoji or the like; "°" is none."""
  return sign in _ARROWS_AND_BULLETS or (sign != "°" and unicodedata.category(sign) in ("So", "Me"))


def _question_fault(text: str) -> str:
  begins = text.lstrip("\"“'‘¿")[:1].isalpha()
  if not begins or _COUNTER.match(text) or _ANY_COUNTER.search(text):
    return COUNTER
  if text.count("?") > 1:
    return SEVERAL
  rest = text.partition("?")[2].strip("\"'”’) ")
  # A sentence may follow: "Is it near? Choose the best option."
  sentence = len(rest.split()) >= 3 and rest.endswith(".") and rest[0].isupper()
  return REST if rest and not sentence else ""


def _option_fault(text: str) -> str:
  if _MARK_WORDS.search(text) or _ASIDE.search(text):
    return MARK
  if _DASHED_LABEL.match(text):
    return LABEL
  if _JOINED.search(text) or "?" in text or text[0] in "([":
    return REST
  return COUNTER if _ANY_COUNTER.search(text) or _LISTED.match(text) else ""


def _answer_fault(text: str) -> str:
  if _ASKS.search(text) or len(text.split()) > _LONGEST:
    return SEVERAL
  if _SAID_AROUND.search(text) or _GREETING.match(text) or re.match(r"\w+(?: \w+)?:\s", text):
    return REST
  return "the answer is a list" if _LISTED.search(text) else ""


def _quotes(text: str, caption: str) -> bool:
  """Whether a text holds the caption, or part of it between quotation marks or brackets."""
  whole = " ".join(words(caption))
  if len(whole.split()) >= 4 and whole in " ".join(words(text)):
    return True
  parts = [" ".join(words(part)) for part in _INSET.findall(text)]
  return any(" " in part and part in whole for part in parts)


def _one_stands_out(options: Sequence[str]) -> bool:
  """Whether one option alone is in capitals, or ends as a sentence does; or all are but letters."""
  capitals = [option.isupper() and len(option) > 4 for option in options]
  ends = [option.endswith((".", "!")) for option in options]
  letters = [option.strip(" .)(").lower() for option in options] == [
    *choices.LETTERS[: len(options)]
  ]
  return bool(options) and (1 in (sum(capitals), sum(ends)) or letters)


def fault(pair: QAPair, caption: str = "") -> str:
  """What is left in a pair that does not belong there; "" for a sound one."""
  texts = [pair.question, *(pair.options or [pair.answer])]
  found = [*map(_text_fault, texts), _question_fault(pair.question)]
  found += map(_option_fault, pair.options) if pair.options else [_answer_fault(pair.answer)]
  if _one_stands_out(pair.options):
    found.append(MARK)
  # An option may be what the caption says; a question or an answer that repeats it was copied.
  heard = [text for text in texts if text not in pair.options or fold(text) != fold(caption)]
  if any(map(_CAPTION.search, texts)) or any(_quotes(text, caption) for text in heard):
    found.append(CAPTION)
  return next(filter(None, found), "")
