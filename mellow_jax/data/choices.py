"""Lettered options and verdicts: the only module that reads them out of texts, or writes them.

Three kinds of texts hold options, and each has its own reader:

  a dataset's question         "what? a) dog b) cat"       split_options, choose
  a model's answer             "**B.**", "it is (b) cat"   picked, said_yes_or_no
  a language model's question  "A: dog", "(a) dog"         split_label, split_styled, has_label
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np

from mellow_jax.data.text import bare, digits, plain, straight

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


def unlabelled(options: Sequence[str]) -> tuple[str, ...]:
  """The options without their labels, "A. dog", "B. cat", where each has its own; else as given."""
  labels = [split_label(option) for option in options]
  if all(labels) and "".join(letter for letter, _ in labels) == LETTERS[: len(labels)]:
    return tuple(text for _, text in labels)
  return tuple(options)


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
#
# Models answer in many styles: "B", "**(B) cat**", "Answer: B", "<answer>B</answer>", a chain of
# thought that ends in "\boxed{B}". What is not plain is not guessed:
#
#   1. thoughts and markup are taken out, and options that are repeated in full
#   2. each option's text becomes one sign, so that its words are not read as an answer's
#   3. the part that decides is found: what follows the last "the answer is", or else sentences that
#      are nothing but an option, or else all sentences
#   4. letters and signs there count, unless denied ("not B") or doubted ("maybe B")


def _any_case(pattern: str) -> re.Pattern[str]:
  return re.compile(pattern, re.IGNORECASE)


_THOUGHT = _any_case(
  r"[<◁\[](think\w*|reason\w*|thoughts?|scratchpad|analysis)[>▷\]](?s:.*?)(?:[<◁\[]/\1[>▷\]]|\Z)"
)
# All before these is thought as well: some templates open it within the prompt.
_THOUGHT_ENDS = _any_case(
  r"\A(?s:.*)(?:[<◁\[]/(?:think\w*|reason\w*|thoughts?)[>▷\]]|<\|channel\|>\s*final\s*<\|message\|>)"
)
# A model that was not stopped goes on with the next question.
_NEXT_TURN = re.compile(
  r"(?s:(?<=\S)(?:\s+(?:#+\s*)?(?:Human|User|USER|HUMAN)\s*:"
  r"|\s*<\|(?:im_start|start_header_id)?\|?>?\s*user\b).*)"
)
_TAG = r"(?:final[ _]?)?(?:answer|choice|option|response|output)|final"
_REWRITTEN = (
  (_any_case(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}"), r"\1"),
  (_any_case(r"\\(?:boxed|fbox)\s*\{([^{}]*)\}"), r"\nAnswer: \1\n"),
  (_any_case(rf"[<\[](?:{_TAG})[>\]]"), r"\nAnswer: "),
  (_any_case(rf"[<\[]/(?:{_TAG})[>\]]"), r"\n"),
  (_any_case(r"(?m:^)\s*####\s"), "\nAnswer: "),
  (_any_case(r"<\|[^|<>]*\|>|</?s>|\\[()\[\]]"), " "),
  (_any_case(r"\\([\"'])"), r"\1"),
  (_any_case(r"<(\w+)>([^<>]*)</\1>"), r"\2"),
  # The A of "Q: .. A: cat" and of "A: B" is no option.
  (_any_case(r"\bQ(?:uestion)?\s*:((?s:.*?))\bA\s*:"), r"\1\nAnswer:"),
  (_any_case(r"^\s*A\s*:\s*(?=\(?(?:[A-Z]|yes|no)\b\W*$|\([A-Z]\))"), "Answer: "),
)
_MARKUP = re.compile(r"\*\*|__|~~|[`$]|(?<!\w)[*_]+|[*_]+(?!\w)|^\s*(?:#+|>|[-•])\s", re.MULTILINE)

_AROUND = 500  # characters; without a limit, a word repeated 30,000 times took minutes
_SIGN = "[\ue000-\uf8ff]"  # stands for an option's text: the first of these and its place
_FIRST_SIGN = ord("\ue000")
_SENTENCE_ENDS = re.compile(
  rf"\n+|;\s+|(?<=[^\W_][^\W_][.!?])\s+|(?:(?<=[\ue000-\uf8ff)\]\"'][.!?])|(?<=\W[A-Za-z]\.))\s+"
  rf"(?!{_SIGN}\W*(?:\n|$|because\b|since\b|as\b)|[Oo]r\b)"
)
_ANSWER_IS = _any_case(
  r"\b(?:answer|ans|choice|option|selection|response|prediction|conclusion)\b[.\"']*"
  r"(?:\s+(?:to|for|from)\s[^.:\n]{0,60}?)?\s*"
  r"(?:(?:is|was|be|should be|would be|must be|will be|has to be)\b\s*:?|[:=]+|-+>?|→)"
)
_NO_ANSWER_IS = _any_case(
  r"(?:\b(?:wrong|incorrect|worst|least|opposite|or|nor|not|never|cannot|doubt|if|whether|unless"
  r"|sure|guess|maybe|perhaps|possibly|probably|might)|n't)(?:\s+\w+){0,4}\s*$"
)
_ONLY_OPTION = _any_case(
  rf"\W*?(?:(?:option|choice|letter)\s+)?(?:([A-Z])\b([^\w?\ue000-\uf8ff]*))?(?:({_SIGN})[^\w?]*)?"
)
_NAME = re.compile(
  rf"{_SIGN}|(?<![\w'#.-])([(\[<{{\"']\s*)?([A-Za-z])(\s*[)\]>}}\"'])?(?![\w'#♯♭])"
)
_NAMED = _any_case(r"\b(?:option|choice|letter|alternative)\s*(?:is|:)?\s*[(\"']*$")
_CHOSEN = _any_case(
  r"\b(?:answer|choose|chose|choosing|select(?:ed|ing)?|pick(?:ed|ing)?|go with|going with"
  r"|went with|opt for|settle on)[\s:(\"']*$"
)
_IS = _any_case(
  r"(?:\b(?:is|be|was|it's|that's|say|think|believe|so|but|therefore|thus|hence"
  r"|definitely|clearly|certainly|obviously)|[:=>→]),?\s*"
  r"(?:definitely |clearly |certainly )?[(\"']*$"
)
_LABELS = re.compile(rf"[.:)\]]*\s*(?:-\s*)?{_SIGN}")
_ANOTHER = _any_case(
  r"[)\]\"']*(?:\s*(?:[/&+,>]|-+>|,?\s*\b(?:and/or|or|and|nor|vs|versus|then)\b))+\s*(?:option\s+)?[(\"']*"
)
_NO_ARTICLE = _any_case(
  r"\s*(?:$|[^\w\s\ue000-\uf8ff]|(?:because|since|as|is|was|or|and|seems|fits|matches|best|rather|option)\b)"
)
_NO_LETTER = _any_case(r"\s*(?:major|minor|flat|sharp|maj|min|dim|chord|note)\b|[-/.]\w")
_CLOSES = _any_case(r"\W*$|\s*(?:fits|matches|(?:is|seems)\b.{0,12}\b(?:best|correct|right))\b")
_CHORD_CHOSEN = _any_case(
  r"\W*$|[.,:;)-]|\s*(?:because|since)\b"
  r"|\s*(?:is|would be|seems)\b.{0,20}\b(?:correct|right|best|answer)"
)
_CHORD = re.compile(r"[A-G](?:[#♯♭b]|m\b|maj|min|dim|sus|\d|[:/]|\s*(?:[Mm]ajor|[Mm]inor)|$)")

_MOST_MENTIONS = 500  # in a sentence
_DENIAL = (
  r"(?:\b(?:not|no|never|neither|nor|none|cannot|without|except|excluding|instead of|rather than"
  r"|other than|(?:anything|everything|all|any) but|wrong|incorrect|exclud\w+|eliminat\w+"
  r"|rul(?:e|es|ed|ing) out|reject\w*|unlikely|doubt\w*|absent|lacks?)\b|n't\b)"
)
_DENIED = _any_case(_DENIAL)
_DENIED_AFTER = _any_case(
  r"\W*(?:\w+n't\b|(?:is\s+)?(?:wrong|incorrect|unlikely|out|false|impossible)\b|(?:is|was|are|were|be|do|does|did|can|will|would"
  rf"|has|have|seems?|looks?|sounds?)\b.*?{_DENIAL})"
)
_CLAUSE = _any_case(
  r"(?<!anything )(?<!everything )(?<!all )(?<!any )\bbut\b|\brather\b(?! than)"
  r"|\binstead\b(?! of)|\bhowever\b|[,-]\s*(?:so|therefore|thus|hence|it is|it's|this is)\b"
)
_REASON = _any_case(
  r",\s*(?:not|rather|unlike|instead)\b|\b(?:and|but|because|since|as|while|whereas|which)\b|[.:;]\s"
)
_DOUBTED_BEFORE = _any_case(
  r"\b(?:might|may|maybe|perhaps|possibl[ey]|possibility|probabl[ey]|could (?:\w+ )?be|potentially"
  r"|presumably|(?<!most )(?<!more )likely|if|unless|whether|either|suspect\w*)\b"
  r"|\b(?:at (?:least|most)|(?:more|less|fewer) than|up to)\s*$"
)
_DOUBTED_AFTER = _any_case(
  r"[\s,.()\"']*(?:(?:is|seems)\s+)?(?:\?|(?:or|and/or|plausible|might|may|maybe|perhaps|possibl[ey]|probabl[ey]|could"
  r"|potentially|likely)\b)"
)
_DOUBT = _any_case(
  r"(?:\bnot|\bnever|n't)\s+(?:\w+\s+){0,2}(?:sure|certain|confident|clear)\b|\bunsure\b|\buncertain"
  r"|(?:\bnot|n't|\bcannot)\s+(?:\w+\s+)?(?:know|tell|say|determine|decide)\b|\bno idea\b"
  r"|\bguess\w*|\b(?:hard|difficult|impossible) to\b|\bunclear\b|\bambiguous\b"
  r"|\b(?:could|might|may) also\b"
)
_CORRECTION = _any_case(
  r"(?s:.*)(?:\bwait\b|\bscratch that\b|\bon second thought\b|\bcorrection\b|\bi mean\b"
  r"|[.!\n]\s*(?:no,|actually\b|sorry\b))"
)
# A verdict as answers word it, by its class.
_WORDED = {
  "entailment": r"definitely true|true|entail(?:s|ed|ment)",
  "contradiction": r"definitely false|false|contradict(?:s|ed|ion)",
  "neutral": r"plausible|neutral",
  "undetermined": r"(?:i )?(?:cannot|can't|can not)(?: be)? determined?|undetermined",
}
_YES_NO = _any_case(r"\b(?:(yes|yeah|yep|yup)|no(?!\s+(?:doubt|problem|question)\b)|nope)\b")
_VERDICT_WORDS = frozenset(("yes", "no", "true", "false", "correct", "incorrect", "right", "wrong"))
_JUDGED = _any_case(
  rf"(?:(?<!\w)(?=[A-Za-z])|(?={_SIGN}))([A-Z]|{_SIGN})\s*(?:(?:is|=|->)\s*|[):.–-]+\s*)?"
  r"(?:(yes|true|correct|right|✓|✔|☑|✅)|no|false|incorrect|wrong|✗|✘|❌|×)(?!\w)"
)
_BOTH = _any_case(r"\W*(?:and|or|/)\W*(?:yes|no)\b|\s+(?:idea|answer)\b")
_CONNECTED = _any_case(r"\s*(?:$|[^\w\s]|(?:because|since|as|there|it)\b)")


@dataclasses.dataclass(frozen=True)
class Mentioned:
  """Places of the options that the deciding part of an answer names, by letter and by text."""

  letters: frozenset[int] = frozenset()  # also of options that are not offered
  texts: frozenset[int] = frozenset()
  leads: bool = False  # whether a letter stands before all texts
  denied: bool = False  # whether an option is denied or doubted


@dataclasses.dataclass(frozen=True)
class _Mention:
  """A place where an answer names an option."""

  place: int
  is_text: bool  # not its letter
  denied: bool
  doubted: bool


def _only(places: frozenset[int], count: int) -> int | None:
  place = next(iter(places)) if len(places) == 1 else None
  return place if place is not None and place < count else None


def picked_letter(answer: str, options: Sequence[str]) -> int | None:
  """The place of the one option whose letter a model's answer gives; None for none or several.

  The letter of an option that was not offered is None.
  """
  return _only(mentioned(answer, tuple(options)).letters, len(options))


def picked_text(answer: str, options: Sequence[str]) -> int | None:
  """The place of the one option whose text a model's answer names; None for none or several.

  Of options with the same text it is the first. "dog" within the option "dog barking" is not named;
  an option of one letter, such as a chord, counts only as the whole answer.
  """
  return _only(mentioned(answer, tuple(options)).texts, len(options))


def picked(answer: str, options: Sequence[str]) -> int | None:
  """The place of the option that a model's answer picks: whose text it names, or else whose letter.

  None where it names none or several, denies or doubts the one it names, or gives a letter that may
  as well be the text of another option.
  """
  found = mentioned(answer, tuple(options))
  letter, named = (_only(places, len(options)) for places in (found.letters, found.texts))
  if named is not None and len(found.letters) < 2:
    is_letter = len(bare(options[named])) == 1 and not bare(options[named]).isdigit()
    return None if is_letter and letter not in (None, named) and not found.leads else named
  return letter if found.leads or not found.texts else None


def said_yes_or_no(answer: str) -> str | None:
  """ "yes" or "no" where a model's answer comes to one of them, else None.

  It is the first word, or follows "the answer is" or the like, or stands alone at the end of a
  sentence. "no" before a noun, as in "it is no dog", is neither.
  """
  answer = split_letter(_decisive(_plainly_written(answer)))[1]
  if _DOUBT.search(answer):
    return None
  said = []
  for sentence in _SENTENCE_ENDS.split(answer):
    for match in _YES_NO.finditer(sentence):
      before, after = _around(sentence, match)
      other = r"\W+no\W*$" if match[1] else r"\W+yes\W*$"
      if re.match(other, after, re.IGNORECASE):
        return None
      if _BOTH.match(after) or _DOUBTED_BEFORE.search(before) or _DOUBTED_AFTER.match(after):
        return None
      is_first = not said and not re.search(r"\w", before)
      is_chosen = _CHOSEN.search(before) or _IS.search(before) or before.rstrip()[-1:] in (",", "a")
      if is_first or (is_chosen and _CONNECTED.match(after) and not _DENIED.search(before)):
        said.append("yes" if match[1] else "no")
        break
  return said[0] if len(set(said)) == 1 else None


def vote(answers: Sequence[str], options: Sequence[str] = ()) -> tuple[int, int]:
  """The place of the answer that stands for several to one question, and how many agree with it.

  Each answer is read by `picked` or, where the question has no options, by `said_yes_or_no`; one
  that cannot be read has no vote. The reading with the most votes wins, of several the one that
  came first; its first answer stands for it. (0, 0) where none can be read.

  Source: Wang et al. 2022, self-consistency.
  """

  def read(answer: str) -> str | None:
    if not options:
      return said_yes_or_no(answer)
    place = picked(answer, options)
    return None if place is None else options[place]  # by text: some are offered twice

  readings = [read(answer) for answer in answers]
  counts = collections.Counter(reading for reading in readings if reading is not None)
  if not counts:
    return 0, 0
  winner = max(counts, key=counts.__getitem__)  # the first of them
  return readings.index(winner), counts[winner]


def _plainly_written(answer: str) -> str:
  """An answer without thoughts, tags and markup; what they mark as the answer follows "Answer:"."""
  answer = re.sub(r"(\W)\1{9,}", r"\1\1", straight(answer))  # no line of dashes takes seconds
  answer = _NEXT_TURN.sub("", _THOUGHT_ENDS.sub("", _THOUGHT.sub("\n", answer)))
  for pattern, by in _REWRITTEN:
    answer = pattern.sub(by, answer)
  return _MARKUP.sub("", answer)


def _decisive(answer: str) -> str:
  """What follows the last "the answer is" of an answer, and any correction; else all of it."""
  if found := _CORRECTION.match(answer):
    answer = answer[found.end() :]
  said = max((m.end() for m in re.finditer(r"\w|" + _SIGN, answer)), default=0)
  found = [m for m in _ANSWER_IS.finditer(answer) if m.end() < said]
  if not found:
    return answer
  last = found[-1]
  before = re.split(r"[.!?\n]\s", answer[: last.start()])[-1]
  if _NO_ANSWER_IS.search(before) or _DOUBT.search(before):
    return ""
  first = _ANSWER_IS.search(before)  # "the answer is A and the answer is B" has none
  return "" if first and re.search(r"\band\b", before[first.end() :]) else answer[last.end() :]


@functools.lru_cache(4096)  # several rules ask about each answer
def mentioned(answer: str, options: tuple[str, ...]) -> Mentioned:
  """The options that a model's answer comes to."""
  answer = _plainly_written(answer)
  offered = [bare(_MARKUP.sub("", straight(option))) for option in options]
  whole = bare(split_letter(answer)[1])
  if whole in offered and not (answer.rstrip().endswith("?") and "?" not in "".join(options)):
    letter = split_letter(answer)[0]
    letter = letter or (whole if len(whole) == 1 and whole.isalpha() else "")
    letters = frozenset([LETTERS.index(letter)] if letter else [])
    return Mentioned(letters, frozenset([offered.index(whole)]), leads=letter != whole)
  found = _read(answer, offered, options)
  if found.letters or found.texts or found.denied:
    return found
  counted = [digits(option) for option in offered]
  if counted == offered and digits(answer) == answer:
    return found
  return _read(digits(answer), counted, options)


def _read(answer: str, offered: list[str], options: tuple[str, ...]) -> Mentioned:
  """What an answer names among options, given bare and as they are."""
  if said := _said_as_option(answer, offered):
    return said
  answer = _with_signs(answer, offered, options)
  if judged := _judged(answer, offered):
    return judged
  tail = _decisive(answer)
  sentences = [s.strip() for s in _SENTENCE_ENDS.split(tail) if re.search(r"\w|" + _SIGN, s)]
  only = [s for s in sentences if _ONLY_OPTION.fullmatch(s)]
  if len(tail) < len(answer) and sentences:
    chosen = sentences[:1] if _mentions(sentences[0], offered) else only or sentences
  else:
    chosen = only or sentences
  found = [one for sentence in chosen for one in _mentions(sentence, offered)]
  doubted = _DOUBT.search(tail) or any(one.doubted for one in found)
  kept = [one for one in found if not one.denied]
  if doubted and len({one.place for one in kept if not one.is_text}) < 2:
    kept = []
  return Mentioned(
    letters=frozenset(one.place for one in kept if not one.is_text),
    texts=frozenset(one.place for one in kept if one.is_text),
    leads=bool(kept) and not kept[0].is_text,
    denied=bool(found) and not kept,
  )


def _said_as_option(answer: str, offered: list[str]) -> Mentioned | None:
  """An answer to a question whose options are yes and no."""
  if not {"yes", "no"} <= set(offered) or not (said := said_yes_or_no(answer)):
    return None
  return Mentioned(texts=frozenset([offered.index(said)]))


def _judged(answer: str, offered: list[str]) -> Mentioned | None:
  """An answer that judges options one by one: "A: no, B: yes"; None for any other."""
  found = [(name.lower(), bool(yes)) for name, yes in _JUDGED.findall(answer)]
  if len({name for name, _ in found}) < 2 or not _VERDICT_WORDS.isdisjoint(offered):
    return None
  right = {name for name, is_right in found if is_right} - {name for name, yes in found if not yes}
  texts = frozenset(ord(name) - _FIRST_SIGN for name in right if name not in LETTERS)
  letters = frozenset(LETTERS.index(name) for name in right if name in LETTERS)
  return Mentioned(letters, texts, denied=not right)


def _with_signs(answer: str, offered: list[str], options: tuple[str, ...]) -> str:
  """An answer with a sign in place of each option's text, and without the list of all of them."""
  texts = [re.escape(option).replace(r"\ ", r"\s+") for option in offered]
  label, between = r"\W*(?:(?:option\s+)?\(?[a-z1-9][).:\]]\)?\s*)?", r"\W*(?:\b(?:and|or)\b)?"
  listed = between.join(label + text for text in texts)
  answer = re.sub(rf"(?<!\w){listed}(?!\w)[^\w\n(\[<\"']*", "\n", answer, flags=re.IGNORECASE)
  spans: dict[tuple[int, int], int] = {}
  for option, text, original in zip(offered, texts, options, strict=True):
    if option in ("yes", "no", "none", "maybe"):
      continue  # words of any sentence
    if (name := verdict(original)) is not None:
      text = f"(?:{text}|{_WORDED[name]})"
    if original.rstrip()[-1:] in ".!?":
      text += "[.!?]?"
    begins, ends = r"(?<!\w)", r"(?!\w)"
    if option.isdigit():
      begins, ends = r"(?<![\w.,:/-])", r"(?![\w%]|[.,:/-]\w)"
    elif len(option) == 1:  # a letter, of which only a label tells that it is a text
      begins, ends = r"(?:(?<=\b[A-Za-z][.):]\s)|(?<=\b[A-Za-z]\s-\s))", r"(?![\w#♯♭'])"
    for match in re.finditer(begins + text + ends, answer, re.IGNORECASE):
      spans.setdefault(match.span(), offered.index(option))
  parts, end = [], 0
  for a, b in sorted(spans, key=lambda span: (span[0], -span[1])):
    if b > end:  # else it is within another
      parts += [answer[end:a], chr(_FIRST_SIGN + spans[a, b])]
      end = b
  return "".join(parts) + answer[end:]


def _around(sentence: str, match: re.Match[str]) -> tuple[str, str]:
  """What stands before and after a match, as far as it can matter."""
  start, end = match.span()
  return sentence[max(start - _AROUND, 0) : start], sentence[end : end + _AROUND]


def _mentions(sentence: str, offered: list[str]) -> list[_Mention]:
  """The options that a sentence names, in its order."""
  found, end, matches = [], None, list(_NAME.finditer(sentence))
  if len(matches) > _MOST_MENTIONS:
    return []  # a model that repeats itself without end chooses nothing
  for match in matches:
    opened, letter, closed = match.groups()
    before, after = _around(sentence, match)
    how = _is_denied(before, after), _is_doubted(before, after)
    if not letter:
      found.append(_Mention(ord(match[0]) - _FIRST_SIGN, True, *how))
      end = None
      continue
    closed, opened = (closed or "").strip(), (opened or "").strip()
    marked = closed == ")" or (opened + closed in ("[]", "<>", "{}")) or _NAMED.search(before)
    follows = end is not None and _ANOTHER.fullmatch(sentence[end : match.start()])
    if not (marked or follows or _is_letter(letter, before, after, offered)):
      continue
    letter, end = letter.lower(), match.end()
    if letter in offered and not marked and not _LABELS.match(after):
      found.append(_Mention(offered.index(letter), True, *how))  # which of the two is not said
    found.append(_Mention(LETTERS.index(letter), False, *how))
  return found


def _is_letter(letter: str, before: str, after: str, offered: list[str]) -> bool:
  """Whether a single letter without brackets names an option, as no word and no chord does."""
  if _NO_LETTER.match(after) or LETTERS.index(letter.lower()) >= max(len(offered), 8):
    return False
  if re.match(rf"[.:)\]]+\s*{_SIGN}", after):
    return True
  if letter in "aA" and not _NO_ARTICLE.match(after):
    return False
  if not re.search(r"\w", before):
    may_be_chord = any(_CHORD.match(one.capitalize()) for one in offered)
    follows = _CHORD_CHOSEN if may_be_chord else _NO_ARTICLE
    return bool(follows.match(after) or _LABELS.match(after))
  closes = before.rstrip()[-1:] == "," and letter.isupper() and _CLOSES.match(after)
  if _CHOSEN.search(before) or closes:
    return True
  may_be_chord = any(
    _CHORD.match(one.capitalize()) and one.startswith(letter.lower()) for one in offered
  )
  return bool(_IS.search(before)) and (letter.lower() in offered or not may_be_chord)


def _is_denied(before: str, after: str) -> bool:
  """Whether what stands around an option in its sentence denies it."""
  after = _REASON.split(after)[0]
  return bool(_DENIED.search(_CLAUSE.split(before)[-1]) or _DENIED_AFTER.match(after))


def _is_doubted(before: str, after: str) -> bool:
  """Whether what stands around an option in its sentence doubts it, or asks about it."""
  asked = after.rstrip().endswith("?")
  return asked or bool(_DOUBTED_BEFORE.search(before) or _DOUBTED_AFTER.match(after))


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
