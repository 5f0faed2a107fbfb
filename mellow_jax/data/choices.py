"""Lettered options and verdicts: the only module that reads them out of texts, or writes them.

Three kinds of texts hold options, and each has its own reader:

  a dataset's question         "what? a) dog b) cat"       split_options, choose
  a model's answer             "**B.**", "it is (b) cat"   letters_in, split_letter
  a language model's question  "A: dog", "(a) dog"         split_label, split_styled, has_label
"""

import re
from collections.abc import Sequence

import numpy as np

from mellow_jax.data.text import plain

LETTERS = "abcdefghijklmnopqrstuvwxyz"

# The options of audio entailment, as its dataset writes them, and their classes.
TRUE, FALSE, PLAUSIBLE = "It is definitely true", "It is definitely false", "It is plausible"
UNDETERMINED = "I cannot determine"
VERDICTS = {
  TRUE: "entailment",
  FALSE: "contradiction",
  PLAUSIBLE: "neutral",
  UNDETERMINED: "undetermined",
}
_CLASSES = {plain(text): name for text, name in VERDICTS.items()}

_OPTION = re.compile(r"(?<!\S)([A-Za-z])\)\s*")  # within a question
_LEAD = re.compile(r"\s*\(?([a-z])\)\s*", re.IGNORECASE)  # before an answer
_MARK = re.compile(r"(?<!\w)([a-z])\)")  # "b)" and "(b)", also within a sentence
_ALONE = re.compile(r"\W*([a-z])(?:\s*[.:](?!\w)|\W*$)")  # "b", "b.", "**b**"
_LINE = re.compile(r"\s*\(?([A-Z])[.):]\s+(\S.*)")  # "A. dog", a line of its own

# A label of an option as language models write it: "A) ", "(a) ", "[B] ", "C. ", "D: ".
_LABEL = re.compile(r"(?<!\S)([(\[]?)([A-Ha-h])([)\]]|[.:](?=\s))\s*")
_BRACKETED = re.compile(r"(?<!\w)[A-Ha-h][)\]]")


# --- A dataset's questions and answers -----------------------------------------------------------


def lettered(options: Sequence[str]) -> list[str]:
  """The options as questions list them and answers name them: "a) dog", "b) cat"."""
  return [f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]


def multiple_choice(stem: str, options: Sequence[str], rng: np.random.Generator) -> tuple[str, str]:
  """(question, answer): the stem with its options in random order, of which the first is right."""
  order = rng.permutation(len(options)).tolist()
  listed = lettered([options[i] for i in order])
  return " ".join([stem, *listed]), listed[order.index(0)]


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
  """What stands before the options "a) .. b) .." of a question, and their texts.

  The question is returned as it stands, with white space before its options. Without at least two
  options in the order of the alphabet, they are () and the question is the whole text.
  """
  found = list(_OPTION.finditer(text))
  starts = [i for i, match in enumerate(found) if match[1] in "aA"]
  if not starts:
    return text, ()
  options = found[starts[-1] :]  # an "a)" may stand in the question as well
  letters = "".join(match[1] for match in options).lower()
  if len(options) < 2 or letters != LETTERS[: len(options)]:
    return text, ()
  ends = [match.start() for match in options[1:]] + [len(text)]
  parts = [text[match.end() : end].strip() for match, end in zip(options, ends, strict=True)]
  return text[: options[0].start()], tuple(parts)


def without_letters(text: str) -> str:
  """The text without the letters of its options, each replaced by a space."""
  return _OPTION.sub(" ", text)


def split_letter(answer: str) -> tuple[str, str]:
  """The letter that an answer begins with, "b) .." or "(B) ..", in lower case, and the rest.

  ("", answer) where there is none.
  """
  found = _LEAD.match(answer)
  return (found[1].lower(), answer[found.end() :]) if found else ("", answer)


def choose(options: Sequence[str], answer: str, *, agree: bool = False) -> int | None:
  """The place of the option that a dataset's answer names: by "b) ..", by "b" or by its text.

  With agree, a text behind the letter must be the option's, as a check of a dataset demands; else
  the letter counts before the text, as the reference scores it. None if no option is named.
  """
  letter, rest = split_letter(answer)
  if len(alone := answer.strip()) == 1:
    letter, rest = alone.lower(), ""
  place = LETTERS.find(letter) if letter else -1
  if 0 <= place < len(options) and (not agree or plain(rest) in ("", plain(options[place]))):
    return place
  texts = [plain(option) for option in options]
  return texts.index(plain(answer)) if plain(answer) in texts else None


def verdict(text: str) -> str | None:
  """The class of a verdict on a hypothesis, one of VERDICTS' values; None for any other text."""
  return _CLASSES.get(plain(text))


def yes_or_no(answer: str) -> str | None:
  """ "yes" or "no" where a dataset's answer is that word alone, else None."""
  return plain(answer) if plain(answer) in ("yes", "no") else None


def split_lines(text: str) -> tuple[str, tuple[str, ...]]:
  """The question of an evaluation harness's prompt and its options, lines "A. text", "B. text" ...

  What follows the last option tells other models how to answer, and is left out. A prompt without
  two options is kept whole, with ().
  """
  lines, first, found = text.split("\n"), 0, []
  for number, line in enumerate(lines):
    match = _LINE.fullmatch(line)
    if match and match[1] == LETTERS[len(found)].upper():
      first = first if found else number
      found.append(match[2].strip())
  if len(found) < 2:
    return text.strip(), ()
  return "\n".join(lines[:first]).strip(), tuple(found)


# --- A model's answers ---------------------------------------------------------------------------


def letters_in(answer: str, *, marked: bool = False) -> set[str]:
  """The letters that an answer gives: "b) dog", "(B) dog", "the answer is b) dog".

  Without marked also one that the answer begins with and no ")" follows: "b. dog", "b", "**b**".
  """
  answer = answer.lower()
  found = set(_MARK.findall(answer))
  if not found and not marked and (alone := _ALONE.match(answer)):
    return {alone[1]}
  return found


def first_yes_or_no(answer: str) -> str | None:
  """ "yes" or "no" where a model's answer begins with it as a word, else None."""
  word = re.match(r"\W*(\w+)", answer.lower())
  return word[1] if word and word[1] in ("yes", "no") else None


# --- What a language model wrote -----------------------------------------------------------------


def split_label(text: str) -> tuple[str, str] | None:
  """The letter of the option that a text begins with, in lower case, and the rest; None for none.

  In the usual styles: "A) dog", "(a) dog", "[a] dog", "A. dog", "A: dog".
  """
  found = _LABEL.match(text)
  return (found[2].lower(), text[found.end() :]) if found else None


def has_label(text: str) -> bool:
  """Whether a text begins with the label of an option, or holds one with a bracket: "b)", "(b)"."""
  return bool(_LABEL.match(text) or _BRACKETED.search(text))


def split_styled(text: str) -> tuple[str, list[str]]:
  """What stands before the lettered options of a question, and their texts; [] for none.

  Raises ValueError where its labels are not those of the alphabet, in order and of one style.
  """
  found = list(_LABEL.finditer(text))
  letters = "".join(match[2] for match in found).lower()
  styles = {(match[1], match[3], match[2].isupper()) for match in found}
  if letters != LETTERS[: len(letters)] or len(styles) > 1:
    raise ValueError("options are out of order")
  ends = [match.start() for match in found] + [len(text)]
  parts = [text[match.end() : end].strip() for match, end in zip(found, ends[1:], strict=True)]
  return text[: ends[0]].strip(), parts
