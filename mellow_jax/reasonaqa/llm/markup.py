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
# An option's letter anywhere in a line.
_LETTER = re.compile(r"(?:(?<=\s)|^)([(\[]?)([A-Ha-h])([)\]]|[.:](?=\s))\s*")


def strip_markup(text: str) -> str:
  """The text without emphasis, escapes and surplus white space."""
  text = _STAR.sub(r"\1", _EMPHASIS.sub(" " if "<" in text else "", text))
  return " ".join(_ESCAPE.sub(r"\1", text).split())


def first_letter(text: str, letter: str) -> int:
  """Where the option of a letter begins; the text must have it."""
  return next(m.start() for m in _LETTER.finditer(text) if m[2].lower() == letter)


def split_options(text: str, first: str = "a") -> tuple[str, list[str], str]:
  """Options on one line, from the letter `first` on.

  Returns the text before them, their texts, and what is wrong with their order ("" for nothing).
  """
  found = list(_LETTER.finditer(text))
  start = next((i for i, m in enumerate(found) if m[2].lower() == first), None)
  if start is None:
    return text, [], ""
  style = found[start][1], found[start][3], found[start][2].isupper()
  found = [m for m in found[start:] if (m[1], m[3], m[2].isupper()) == style]
  letters = [ord(m[2].lower()) - ord(first) for m in found]
  count = next((i for i, n in enumerate(letters) if n != i), len(letters))
  # A later letter of the same style belongs to the last option ("both a) and b)") or to none.
  ordered = count == len(letters) or (count >= 4 and all(n < count for n in letters[count:]))
  ends = [m.start() for m in found[1:count]] + [len(text)]
  options = [text[m.end() : end].strip() for m, end in zip(found, ends, strict=False)]
  return text[: found[0].start()].strip(), options, "" if ordered else "options are out of order"
