"""Normalisation of text: how texts are made comparable, and how they are split into words.

Every comparison of two texts in the package calls one of these, so that each difference between
them is stated here.
"""

import re
import unicodedata

_WORD = re.compile(r"\w+")
_WHOLE_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_TOKEN = re.compile(r"\w+(?:[-/]\w+)*|'\w+|[^\w\s]")
_QUOTES = str.maketrans("‘’“”‐‑‒–—", "''\"\"-----")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]")

_ONES = [
  *(
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
  ),
  *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER = re.compile(
  rf"\b(?:({'|'.join(_TENS)})(?:[-\s]({'|'.join(_ONES[1:10])}))?"
  # "the right one" is no number.
  rf"|(?<!\bthe\s)(?<!\bth[ia][st]\s)(?<!\bwhich\s)(?<!\b\w\w\wct\s)(?<!right\s)({'|'.join(_ONES)}))\b",
  re.IGNORECASE,
)


def one_line(text: str) -> str:
  """The text with each run of white space replaced by one space, and none at its ends."""
  return " ".join(text.split())


def composed(text: str) -> str:
  """The text with one code for each character: full-width letters are plain ones (Unicode's NFKC).

  Accents are part of their letters, and invisible characters go.
  """
  return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))


def straight(text: str) -> str:
  """The text composed, with curly quotes and long dashes as a keyboard has them."""
  return composed(text).translate(_QUOTES)


def digits(text: str) -> str:
  """The text with number words up to ninety-nine as digits, and without commas in thousands."""

  def number(match: re.Match[str]) -> str:
    tens, unit, single = (found.lower() if found else "" for found in match.groups())
    if single:
      return str(_ONES.index(single))
    return str(10 * (_TENS.index(tens) + 2) + (_ONES.index(unit) if unit else 0))

  return re.sub(r"(?<=\d),(?=\d{3}\b)", "", _NUMBER.sub(number, text))


def plain(text: str) -> str:
  """For texts of a dataset, such as options and answers: case, spaces and final full stops go."""
  return one_line(composed(text)).rstrip(" .").casefold()


def bare(text: str) -> str:
  """For a model's answer: lower case, without punctuation, quotes and emphasis at its ends.

  Other signs, such as # and %, stay. Scores depend on it.
  """
  return one_line(composed(text).lower()).strip(" .,;:!?\"'*`")


def fold(text: str) -> str:
  """For what a language model wrote: as `bare`, but a question mark stays.

  Whole questions are compared.
  """
  return one_line(straight(text).casefold()).strip(" .,;:!\"'`*")


def words(text: str) -> list[str]:
  r"""Runs of letters, digits and underscores in lower case.

  Source: evaluation.py of MMAU, v05.15.25, which compares sets of `\b\w+\b`.
  """
  return _WORD.findall(text.lower())


def whole_words(text: str) -> list[str]:
  """Words in lower case as a reader counts them: "dog's" and "high-pitched" are one each."""
  return _WHOLE_WORD.findall(text.lower())


def tokens(text: str) -> list[str]:
  """Words in lower case, joined as in "high-pitched", and punctuation signs, in their order.

  Close to the Penn Treebank tokenizer, which needs Java: of AudioCaps' 4875 test captions, without
  their punctuation, 5 differ.
  """
  return _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())
