"""Normalisation of text: how texts are made comparable, and how they are split into words.

Every comparison of two texts in the package calls one of these, so that each difference between
them is stated here.
"""

import re

_WORD = re.compile(r"\w+")
_WHOLE_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_TOKEN = re.compile(r"\w+(?:[-/]\w+)*|'\w+|[^\w\s]")
_QUOTES = str.maketrans("’“”", '\'""')


def one_line(text: str) -> str:
  """The text with each run of white space replaced by one space, and none at its ends."""
  return " ".join(text.split())


def plain(text: str) -> str:
  """For texts of a dataset, such as options and answers: case, spaces and final full stops go."""
  return one_line(text).rstrip(" .").casefold()


def bare(text: str) -> str:
  """For a model's answer: lower case, without punctuation, quotes and emphasis at its ends.

  Other signs, such as # and %, stay. Scores depend on it.
  """
  return one_line(text.lower()).strip(" .,;:!?\"'*`")


def fold(text: str) -> str:
  """For what a language model wrote: as `bare`, with curly quotes made straight.

  A question mark stays, since whole questions are compared.
  """
  return one_line(text.casefold().translate(_QUOTES)).strip(" .,;:!\"'`*")


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
  return _TOKEN.findall(text.lower())
