"""The outline of a completion in plain text: where each question, option and answer stands.

Lines are told apart by their labels, in whatever style: "1.", "Q2:", "### Question 3", "**A)**",
"(b)", "Correct answer - C". Markup around the words is taken off, and nothing else is changed. What
has no label is only taken where it can mean one thing; the rest is a fault of its draft.
"""

import re
from dataclasses import dataclass, field

from mellow_jax.reasonaqa.llm.instructions import Kind

_RULE = re.compile(r"\s*([-*_=~])(\s*\1){2,}\s*")
_LEAD = re.compile(r"[\s>]*(?:#{1,6}\s+)?")
_BULLET = re.compile(r"[-*+•◦▪●‣]\s+(?!$)")
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
# "The answer is ...": in a detailed answer these may be its first words.
ANSWER_IS = re.compile(
  r"(?:the\s+)?(?:correct|right|best)?\s*(?:answer|option|choice)\s*(?:here\s+)?is\s*:?\s+",
  re.IGNORECASE,
)
_A = re.compile(r"a\s*:\s*", re.IGNORECASE)
_ASIDE = re.compile(
  r"\(?(?:explanation|rationale|reason|reasoning|justification|why|note|hint|difficulty|category|"
  r"type|topic|skill|focus|aspect|caption|description)\b[^:?.]{0,30}:",
  re.IGNORECASE,
)
_KEY = re.compile(r"(?:the\s+)?(?:correct\s+)?answers?(?:\s+key)?\s*:?", re.IGNORECASE)
_KEYS = re.compile(r"answers|key", re.IGNORECASE)
_KEYED = re.compile(r"(?:question|q)?\s*(\d{1,2})\s*[.):\-–—]*\s*(\S.*)", re.IGNORECASE)
_OPTION = re.compile(
  r"(?:option\s+)?(?:([(\[]?)([A-Ha-h])([)\]][.:]?|[.:](?=\s))|()([A-H])(\s+[-–—](?=\s)))\s*",
  re.IGNORECASE,
)
_LETTERED = re.compile(r"[(\[]?[A-Da-d][)\]]\s|[A-D]\.\s")
_MARKER = re.compile(r"(?:(?<=\s)|^)([(\[]?)([A-Ha-h])([)\]]|[.:](?=\s))\s*")
_MARKED = re.compile(
  r"\s*(?:[(\[](?:correct|correct answer|answer)[)\]]|[✓✔✅]\ufe0f?)\s*", re.IGNORECASE
)
_INLINE_ANSWER = re.compile(
  r"(?:(?<=[?.!):])\s+(?:answer|ans)|(?<=\?)\s+a)\s*\d{0,2}\s*:\s*", re.IGNORECASE
)
_TITLE = re.compile(r"(?:[\w&/-]+ ){0,4}[\w&/-]+")
_BEHIND_OPTIONS = re.compile(r"\s+(?:correct\s+)?answer\s*[:=]\s*(\S.*)", re.IGNORECASE)
_CLOSING = re.compile(
  r"(?:please |i |we )?(?:let me know|hope|feel free|would you like|these (?:five |5 )?questions|"
  r"(?:all )?(?:the )?(?:above )?questions (?:above )?(?:are|cover|aim)|is there anything|if you)",
  re.IGNORECASE,
)


@dataclass
class Draft:
  """A question as it was found, not yet judged."""

  question: str = ""
  options: list[str] = field(default_factory=list)  # in the order of their letters
  answer: str | None = None  # None: none is given
  marked: set[int] = field(default_factory=set)  # options that are ticked off as right
  number: int | None = None
  fault: str = ""  # the first thing that can mean more than one thing


def plain(text: str) -> str:
  """The text without emphasis, escapes and surplus white space."""
  text = _STAR.sub(r"\1", _EMPHASIS.sub(" " if "<" in text else "", text))
  return " ".join(_ESCAPE.sub(r"\1", text).split())


def split_options(text: str, first: str = "a") -> tuple[str, list[str], str]:
  """(what stands before, the texts of options first, first + 1 and so on, a fault) of one line."""
  found = list(_MARKER.finditer(text))
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


class _Outliner:
  """Goes through the lines of one completion and collects its drafts."""

  def __init__(self, kind: Kind, labelled: bool):
    self.mcq, self.labelled = kind == "mcq", labelled
    self.drafts: list[Draft] = []
    self.state = "before"  # or question, options, answer, over, key
    self.gap = True  # a blank line, or a ruled one, stands before
    self.loose = ""  # unlabelled line that may be the next question
    self.loose_is_one = True  # and no part of a sentence that began above it

  @property
  def draft(self) -> Draft:
    return self.drafts[-1]

  def blame(self, fault: str) -> None:
    if self.drafts and not self.draft.fault:
      self.draft.fault = fault

  def line(self, raw: str) -> None:
    """Takes the next line."""
    if not raw.strip() or _RULE.fullmatch(raw) or raw.lstrip().startswith("```"):
      self.gap = True
      return
    text = raw[_LEAD.match(raw).end() :]
    heading = "#" in raw[: len(raw) - len(text)]
    bullet = _BULLET.match(text)
    text = plain(text[bullet.end() :] if bullet else text)
    if text:
      self.labelled_line(text, bool(bullet), heading)
    self.gap = False

  def labelled_line(self, text: str, bullet: bool, heading: bool) -> None:
    if self.state == "key":
      self.key(text)
    elif self.mcq and self.option(text):
      pass
    elif not self.mcq and self.drafts and _LETTERED.match(text):
      self.blame("has options where a detailed answer was asked for")
    elif self.drafts and _KEY.fullmatch(text) and (_KEYS.search(text) or self.draft.answer):
      self.state = "key"
    elif found := self.answer_label(text):
      self.answer(text[found.end() :])
    elif _ASIDE.match(text) and self.state != "question":
      self.state = "over"
    elif self.question_label(text):
      pass
    else:
      self.unlabelled(text, bullet, heading)

  def key(self, text: str) -> None:
    """One line of the answers that stand together at the end."""
    found = _KEYED.fullmatch(text)
    for draft in self.drafts if found else ():
      if draft.number == int(found[1]):
        if draft.answer is not None:
          draft.fault = draft.fault or "has two answers"
        draft.answer = found[2]

  def answer_label(self, text: str) -> re.Match | None:
    if found := ANSWER.match(text):
      return found
    ready = len(self.draft.options) >= 2 if self.mcq and self.drafts else not self.mcq
    if ready and (found := _A.match(text)):
      return found
    return ANSWER_IS.match(text) if self.mcq else None

  def answer(self, text: str) -> None:
    if self.drafts:
      if self.draft.answer is not None:
        self.blame("has two answers")
      self.draft.answer, self.state = text, "answer"

  def option(self, text: str) -> bool:
    """Whether the line begins with an option's letter, which is then taken."""
    found = _OPTION.match(text)
    if not found:
      return False
    letter = (found[2] or found[5]).lower()
    if letter == "a" and self.state in ("answer", "over", "before") and self.loose:
      clear = self.loose_is_one and "?" in self.loose
      self.begin(self.loose, None)
      if not clear:
        self.blame("the question cannot be told from what stands around it")
    if self.state not in ("question", "options"):
      return False
    done = len(self.draft.options)
    if _A.match(text) and done >= 2:
      return False  # "A: b", an answer
    if ord(letter) - ord("a") != done or not self.draft.question:
      self.blame("options are out of order" if done else "options stand before the question")
      return True
    self.state, rest = "options", text[found.end() :]
    # More of them may follow on the same line.
    _, more, fault = split_options(rest, chr(ord(letter) + 1))
    if more:
      rest = rest[: _first_marker(rest, chr(ord(letter) + 1))].strip()
    self.options([rest, *more], fault)
    return True

  def options(self, texts: list[str], fault: str) -> None:
    """Adds options, of which the last may have the answer behind it."""
    if said := _BEHIND_OPTIONS.search(texts[-1]):
      texts[-1] = texts[-1][: said.start()]
    for text in texts:
      if _MARKED.match(text) or re.search(_MARKED.pattern + "$", text, re.IGNORECASE):
        self.draft.marked.add(len(self.draft.options))
        text = re.sub(f"^{_MARKED.pattern}|{_MARKED.pattern}$", "", text, flags=re.IGNORECASE)
      self.draft.options.append(text.strip())
    if fault:
      self.blame(fault)
    self.state = "options"
    if said:
      self.answer(said[1])

  def question_label(self, text: str) -> bool:
    """Whether the line begins with the label of a question, which then begins a draft."""
    number, rest, found = None, text, NUMBER.match(text)
    if found:
      number, rest = int(found[1] or found[2]), text[found.end() :]
    named = QUESTION.match(rest)
    if not (found or named):
      return False
    if named:
      rest = rest[named.end() :]
      number = number if number is not None else _integer(named[1] or named[2])
    elif self.state == "question" and not self.draft.question:
      pass  # the number stands below a heading
    elif not self.mcq and self.state == "answer" and "?" not in rest and not self.follows(number):
      self.blame("the answer is a list")
      return True
    elif self.state == "question" and not _ends(rest, "?") and not self.mcq:
      self.blame("the question is a list")
      return True
    if self.state == "question" and not self.draft.question:
      self.draft.number = self.draft.number if number is None else number
      self.question(rest)
    else:
      self.begin(rest, number)
    return True

  def follows(self, number: int) -> bool:
    """Whether a number behind a blank line counts on from the question before."""
    return self.gap and self.draft.number == number - 1

  def begin(self, text: str, number: int | None) -> None:
    """Begins the next draft."""
    self.drafts.append(Draft(number=number))
    self.state, self.loose = "question", ""
    self.question(text)

  def question(self, text: str) -> None:
    """Adds to the question of the draft; its options or its answer may stand on the same line."""
    head, options, fault = split_options(text) if self.mcq else (text, [], "")
    found = None if self.mcq else _INLINE_ANSWER.search(text)
    if found:
      head = text[: found.start()]
    elif len(options) < 2 or not head:
      head, options = text, []
    self.draft.question = f"{self.draft.question} {head}".strip()
    if found:
      self.answer(text[found.end() :])
    elif options:
      self.options(options, fault)

  def unlabelled(self, text: str, bullet: bool, heading: bool) -> None:
    """Takes a line without a label by what stands before it."""
    if self.state == "question":
      if _TITLE.fullmatch(self.draft.question) and not text[0].islower():
        self.draft.question = ""  # "Question 3: Loudness", and the question below it
      done = _ends(self.draft.question, "?.:!…") and not _ends(text, "?")
      if self.mcq or not done:
        self.question(text)
      else:
        self.draft.answer, self.state = text, "answer"
    elif self.state == "options" and not self.gap:
      self.draft.options[-1] += f" {text}"
      if not text[0].islower():  # no option goes on so
        self.blame("text stands among the options")
    elif self.state == "answer" and not self.draft.answer:
      self.draft.answer = text
    elif self.state == "answer" and not self.mcq:
      self.after_answer(text, bullet, heading)
    else:
      self.free(text)

  def after_answer(self, text: str, bullet: bool, heading: bool) -> None:
    """A further line behind a detailed answer: more of it, or something else."""
    is_heading = heading or (len(text.split()) <= 6 and not text.endswith((".", "!", "?", ",")))
    if not self.gap and bullet:
      self.blame("the answer is a list")
    elif not self.gap and not heading:
      self.draft.answer += f" {text}"
    elif not self.labelled and _ends(text, "?"):
      self.begin(text, None)
    elif _CLOSING.match(text) or is_heading or text.startswith("("):
      self.state = "over"
    else:
      self.blame("the answer has more than one paragraph")

  def free(self, text: str) -> None:
    """Text between questions: a remark, or an unlabelled question."""
    if self.state in ("answer", "options"):
      self.state = "over"
    head, options, _ = split_options(text)
    if self.mcq:
      asks = len(options) >= 2 and _ends(head, "?")
    else:
      asks = not self.labelled and _ends(text, "?")
    if asks:
      self.begin(text, None)
    else:
      self.loose_is_one = self.gap or not self.loose or _ends(self.loose, ".!:")
      self.loose = text


def _ends(text: str, signs: str) -> bool:
  """Whether the last sign is one of those, whatever quotes stand around the text."""
  return text.rstrip("\"'”’)").endswith(tuple(signs))


def _integer(text: str | None) -> int | None:
  return int(text) if text else None


def _first_marker(text: str, letter: str) -> int:
  return next(m.start() for m in _MARKER.finditer(text) if m[2].lower() == letter)


def outline(text: str, kind: Kind) -> list[Draft]:
  """The drafts in a completion of plain text, in its order; never raises."""
  lines = text.splitlines()
  labels = (_LEAD.sub("", line, count=1) for line in lines)
  plains = [plain(_BULLET.sub("", line, count=1)) for line in labels]
  labelled = any(QUESTION.match(p) or NUMBER.match(p) or ANSWER.match(p) for p in plains)
  outliner = _Outliner(kind, labelled)
  for line in lines:
    outliner.line(line)
  return outliner.drafts
