"""Labels and markup in text that a language model wrote: "Q2:", "**A)**", "Correct answer - C"."""

import re

_EMPHASIS = re.compile(r"\*\*|__|~~|`+|<br\s*/?>|</?(?:b|i|u|em|strong)>", re.IGNORECASE)
_STAR = re.compile(r"(?<![\w*])\*(?=\S)([^*]*\S)\*(?![\w*])")
_ESCAPE = re.compile(r"\\([.()\[\]*_#>-])")

QUESTION = re.compile(
  r"(?:(?:multiple[- ]choice |mcq )?(?:question|ques|q)\s*(?:#|no\.?\s?|number\s)?\s*"
  r"(?:(\d{1,2})(?!\w)\s*(?:\([^)]*\))?(?:\s*[:.)\-–—|]+)?|[:.\-–—]+)|mcq\s*(\d{1,2})\s*[:.)\-–—]+)\s*",
  re.IGNORECASE,
)
NUMBER = re.compile(r"(?:\(?(\d{1,2})\s?[.):](?!\d)\)?|\[(\d{1,2})\]:?)\s*")
_SEPARATOR = r"\s*(?:[:=]|[.\-–—]+(?=\s|$)|->|→)+\s*"
ANSWER = re.compile(
  r"(?:the\s+)?(?:(?:correct|right|best|model|suggested)\s+)?(?:answer|ans)"
  rf"(?:\s+(?:option|choice|letter))?\s*#?(?:\d{{1,2}})?\s*(?:\([^)]{{0,20}}\))?{_SEPARATOR}"
  rf"|(?:correct|right)(?:\s+(?:option|choice|letter))?{_SEPARATOR}"
  r"|a\s?\d{1,2}\s*[:.)]+\s*|(?:correct\s+)?answer\s*#?(?:\d{1,2})?$",
  re.IGNORECASE,
)
# "The answer is ...": a detailed answer may begin with these words.
ANSWER_IS = re.compile(
  r"(?:the\s+)?(?:correct|right|best)?\s*(?:answer|option|choice)\s*(?:here\s+)?is\s*:?\s+",
  re.IGNORECASE,
)


def strip_markup(text: str) -> str:
  """The text without emphasis, escapes and surplus white space."""
  text = _STAR.sub(r"\1", _EMPHASIS.sub(" " if "<" in text else "", text))
  return " ".join(_ESCAPE.sub(r"\1", text).split())
