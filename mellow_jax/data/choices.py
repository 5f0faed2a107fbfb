"""Lettered options and verdicts: the only module that reads them out of texts, or writes them.

Three kinds of texts hold options, and each has its own reader:

  a dataset's question         "what? a) dog b) cat"       split_options, choose
  a model's answer             "**B.**", "it is (b) cat"   letters_in, split_letter
  a language model's question  "Option A: dog", "(a) dog"  split_label, split_styled, named_option
"""

import re
from collections.abc import Sequence

import numpy as np

from mellow_jax.data.text import fold, plain

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

# Labels of options as language models write them.
_LABEL = re.compile(
  r"(?:option\s+)?(?:([(\[]?)([A-Ha-h])([)\]][.:]?|[.:](?=\s))|()([A-H])(\s+[-–—](?=\s)))\s*",
  re.IGNORECASE,
)
_SURE_LABEL = re.compile(r"[(\[]?[A-Da-d][)\]]\s|[A-D]\.\s")
_STYLED = re.compile(r"(?:(?<=\s)|^)([(\[]?)([A-Ha-h])([)\]]|[.:](?=\s))\s*")
_LETTER = re.compile(
  r"(?:(?:option|choice|letter)\s*)?[(\[\"']?([A-Za-z])[)\]\"'.:,]*", re.IGNORECASE
)
_LETTER_TEXT = re.compile(
  r"(?:(?:option|choice|letter)\s*)?[(\[]?([A-Za-z])(?:[)\].:,]+\s*|\s+[-–—]+\s+|\s+(?=\())(\S.*)",
  re.IGNORECASE,
)
_SEVERAL = re.compile(
  r"(?:both\s+)?[(\[]?[A-H][)\].]?\s*(?:,|and|&|or|/|\+)\s*[(\[]?[A-H][)\].]?(?!\w).*",
  re.IGNORECASE,
)
_AFTERWARDS = re.compile(r"\s*(?:[.,;:(–—-]|because\b|since\b|as\b).*", re.IGNORECASE | re.DOTALL)


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


def split_label(text: str, *, sure: bool = False) -> tuple[str, str] | None:
  """The letter of the option that a line begins with, in lower case, and its text.

  In any usual style: "A) dog", "(a) dog", "Option A: dog", "A - dog". With sure, only styles in
  which no sentence begins. None where there is no label.
  """
  found = _LABEL.match(text)
  if not found or (sure and not _SURE_LABEL.match(text)):
    return None
  return (found[2] or found[5]).lower(), text[found.end() :]


def split_styled(text: str, first: str = "a") -> tuple[str, list[str], str]:
  """(what stands before, the texts of options first, first + 1 and so on, a fault) of one line.

  All options are written in the style of the first: "a) .. b) ..", "(A) .. (B) ..", "A. .. B. ..".
  The fault is "" where there is none.
  """
  found = list(_STYLED.finditer(text))
  start = next((i for i, m in enumerate(found) if m[2].lower() == first), None)
  if start is None:
    return text, [], ""
  style = found[start][1], found[start][3], found[start][2].isupper()
  found = [m for m in found[start:] if (m[1], m[3], m[2].isupper()) == style]
  letters = [ord(m[2].lower()) - ord(first) for m in found]
  count = next((i for i, n in enumerate(letters) if n != i), len(letters))
  # A later letter of the same style belongs to the last option ("both a) and b)") or to nobody.
  ordered = count == len(letters) or (count >= 4 and all(n < count for n in letters[count:]))
  ends = [m.start() for m in found[1:count]] + [len(text)]
  options = [text[m.end() : end].strip() for m, end in zip(found, ends, strict=False)]
  return text[: found[0].start()].strip(), options, "" if ordered else "options are out of order"


def named_option(options: Sequence[str], answer: str) -> int:
  """The place of the option that an answer names by letter, by text or by both, which must agree.

  An explanation may follow the option's text. Raises ValueError, saying why, if the answer names
  none or more than one.
  """
  folded, given = [fold(option) for option in options], fold(answer)
  by_text = {i for i, option in enumerate(folded) if option == given}
  if found := _LETTER.fullmatch(answer):
    place = ord(found[1].lower()) - ord("a")
    if by_text - {place}:
      raise ValueError("the answer names no one option")
  elif by_text:
    place = min(by_text)
  elif found := _LETTER_TEXT.fullmatch(answer):
    place, given = ord(found[1].lower()) - ord("a"), fold(_unbracketed(found[2]))
    if place < len(options) and given != folded[place] and _explained(given, folded) != place:
      raise ValueError("the answer's letter and text disagree")
  elif _SEVERAL.fullmatch(answer):
    raise ValueError("the answer names no one option")
  else:
    found = _explained(given, folded)
    place = len(options) if found is None else found
  if place >= len(options):
    raise ValueError("the answer names no option")
  return place


def _explained(answer: str, options: Sequence[str]) -> int | None:
  """The longest option that an answer begins with, if only an explanation follows."""
  found = [i for i, option in enumerate(options) if option and answer.startswith(option)]
  if not found:
    return None
  best = max(found, key=lambda i: len(options[i]))
  return best if _AFTERWARDS.fullmatch(answer[len(options[best]) :]) else None


def _unbracketed(text: str) -> str:
  """The text in round brackets, if it stands in one pair of them."""
  return text[1:-1] if re.fullmatch(r"\([^()]*\)", text) else text
