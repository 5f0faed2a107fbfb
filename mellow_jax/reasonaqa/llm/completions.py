"""Reads the questions in what a language model wrote, strictly: what it cannot read, it rejects.

A question is taken only if it is whole and can mean one thing; every other is returned as a reject
that says why. Nothing is ever made up: each question, option and answer stands in the completion
word for word, but for white space and markup.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mellow_jax.data import prompts
from mellow_jax.reasonaqa.llm import outline
from mellow_jax.reasonaqa.llm.instructions import OPTIONS, QUESTIONS, Kind
from mellow_jax.reasonaqa.llm.outline import Draft
from mellow_jax.reasonaqa.official import sources

LONGEST = 50_000  # characters of a completion; five questions have about 2,000
_MOST_FAULTS = 200  # places that look like JSON and are not

REFUSAL = re.compile(
  r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i apologi[sz]e|as an ai\b"
  r"|as a (?:large )?language model|i (?:cannot|can't|can not|won't|do not have|don't have))",
  re.IGNORECASE,
)
_THOUGHT = re.compile(r"\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
_THOUGHT_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_JSON = re.compile(r"[\"'](?:question|q|query)(?:_?text)?[\"']\s*:", re.IGNORECASE)
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
_PREFIX = re.compile(r"(?:option\s+)?[(\[]?([A-Ha-h])(?:[)\]][.:]?|[.:]|\s+[-–—])\s+(?=\S)")
_KEYS = {
  "question": ("question", "q", "questiontext", "query"),
  "options": ("options", "choices", "answers", "optionslist", "answerchoices", "answeroptions"),
  "answer": (
    *("answer", "correctanswer", "correctoption", "correctchoice", "correct", "correctletter"),
    *("response", "answerletter", "answertext", "rightanswer"),
  ),
  "text": ("text", "option", "value", "content", "answer"),
  "letter": ("letter", "label", "id", "key", "option"),
}


@dataclass(frozen=True, slots=True)
class Question:
  """One question with its answer."""

  text: str
  options: tuple[str, ...]  # without letters; () where the answer is free
  answer: str  # one of the options, or a text

  def fields(self) -> tuple[str, str]:
    """(input, answer) as ReasonAQA writes them: "what? a) x b) y c) z d) w" and "b) y"."""
    if not self.options:
      return self.text, self.answer
    lettered = sources.lettered(self.options)
    return " ".join([self.text, *lettered]), lettered[self.options.index(self.answer)]


@dataclass(frozen=True, slots=True)
class Reject:
  """Something that is no row, and why not."""

  reason: str  # one of a few, to be counted
  text: str  # what was read of it


class _Fault(Exception):
  """Why a draft is no question."""


def fold(text: str) -> str:
  """The text as two of the same meaning agree on: no case, no quotes, no final full stop."""
  text = text.casefold().replace("’", "'").replace("“", '"').replace("”", '"')
  return " ".join(text.split()).strip(" .,;:!\"'`*")


def _longest_option(said: str, options: Sequence[str]) -> int | None:
  """The option that an answer begins with and then goes on to explain, if any."""
  found = [i for i, o in enumerate(options) if o and said.startswith(o)]
  if not found:
    return None
  best = max(found, key=lambda i: len(options[i]))
  return best if _AFTERWARDS.fullmatch(said[len(options[best]) :]) else None


def choose(answer: str, options: Sequence[str]) -> int:
  """The option that an answer names by its letter, by its text or by both, which then must agree.

  Raises ValueError, saying why, if it names none or more than one.
  """
  answer = re.sub(
    rf"^(?:{outline.ANSWER.pattern}|{outline.ANSWER_IS.pattern})", "", answer, flags=re.IGNORECASE
  ).strip()
  folded, said = [fold(option) for option in options], fold(answer)
  by_text = {i for i, option in enumerate(folded) if option == said}
  if found := _LETTER.fullmatch(answer):
    index = ord(found[1].lower()) - ord("a")
    if by_text - {index}:
      raise ValueError("the answer names no one option")
  elif by_text:
    (index,) = by_text  # options never repeat
  elif found := _LETTER_TEXT.fullmatch(answer):
    index, said = ord(found[1].lower()) - ord("a"), fold(_unbracketed(found[2]))
    if index < len(options) and said != folded[index] and _longest_option(said, folded) != index:
      raise ValueError("the answer's letter and text disagree")
  elif _SEVERAL.fullmatch(answer):
    raise ValueError("the answer names no one option")
  else:
    found = _longest_option(said, folded)
    index = len(options) if found is None else found
  if index >= len(options):
    raise ValueError("the answer names no option")
  return index


def _unbracketed(text: str) -> str:
  """The text in round brackets, if it stands in one pair of them."""
  return text[1:-1] if re.fullmatch(r"\([^()]*\)", text) else text


def _unquoted(text: str) -> str:
  for left, right in ('""', "''", "“”"):
    if len(text) > 2 and text[0] == left and text[-1] == right and left not in text[1:-1]:
      return text[1:-1].strip()
  return text


def _field(text: str, name: str) -> str:
  text = _unquoted(outline.plain(text))
  if not re.search(r"\w", text):
    raise _Fault(f"the {name} is empty")
  if len(text) > prompts.MAX_CHARACTERS:
    raise _Fault(f"the {name} is too long")
  if not text.isprintable():
    raise _Fault(f"the {name} holds control characters")
  return text


def _judge(draft: Draft, kind: Kind) -> Question:
  """The question of a draft; raises _Fault for one that is not whole or not clear."""
  if draft.fault:
    raise _Fault(draft.fault)
  question = _field(draft.question, "question")
  if kind == "detail":
    if draft.options or len(outline.split_options(question)[1]) > 1:
      raise _Fault("has options where a detailed answer was asked for")
    if draft.answer is None:
      raise _Fault("has no answer")
    answer = _field(draft.answer, "answer")
    if answer.endswith("?"):
      raise _Fault("the answer is a question")
    return Question(question, (), answer)
  if len(draft.options) != OPTIONS:
    raise _Fault(f"has {len(draft.options) or 'no'} options, not {OPTIONS}")
  options = tuple(_field(text, "option").rstrip(",;") for text in draft.options)
  if len(set(map(fold, options))) < OPTIONS:
    raise _Fault("options repeat")
  if draft.answer is None and len(draft.marked) != 1:
    raise _Fault("has no answer" if not draft.marked else "the answer names no one option")
  named = set(draft.marked)
  if draft.answer is not None:
    try:
      named.add(choose(_field(draft.answer, "answer"), options))
    except ValueError as error:
      raise _Fault(str(error)) from None
  if len(named) != 1:
    raise _Fault("the answer names no one option")
  return Question(question, options, options[named.pop()])


class _Twice:
  """Stands for a JSON object in which a key occurs twice."""


def _unique(pairs: list[tuple[str, Any]]) -> Any:
  fields = {re.sub(r"[\W_]", "", key).lower(): value for key, value in pairs}
  return fields if len(fields) == len(pairs) else _Twice()


def _values(text: str) -> Iterator[Any]:
  """The JSON values in a text, and the whole ones inside those that are cut off; None for a cut."""
  decoder = json.JSONDecoder(object_pairs_hook=_unique)
  place, faults, damaged = 0, 0, False
  while (found := re.compile(r"[\[{]").search(text, place)) and faults < _MOST_FAULTS:
    try:
      value, place = decoder.raw_decode(text, found.start())
      yield value
    except (ValueError, RecursionError):
      place, faults, damaged = found.start() + 1, faults + 1, damaged or found[0] == "{"
  if damaged:
    yield None


def _get(item: dict[str, Any], name: str) -> Any:
  """The first field that goes by one of the names."""
  return next((item[key] for key in _KEYS[name] if key in item), None)


def _items(value: Any) -> Iterator[Any]:
  """The objects about one question each, wherever they stand in a JSON value."""
  if isinstance(value, list):
    for item in value:
      yield from _items(item)
  elif value is None or isinstance(value, _Twice):
    yield value
  elif isinstance(value, dict):
    if any(isinstance(value.get(key), str) for key in _KEYS["question"]):
      yield value
    else:
      for inner in value.values():
        if isinstance(inner, dict | list):
          yield from _items(inner)


def _option_texts(found: Any) -> list[str]:
  """The options of a JSON object in the order of their letters; raises _Fault."""
  if isinstance(found, str):
    _, texts, fault = outline.split_options(" ".join(found.split()))
    if fault or not texts:
      raise _Fault(fault or "the options cannot be read")
    return texts
  if isinstance(found, dict):
    found = [{"letter": letter, "text": text} for letter, text in found.items()]
  texts, letters = [], []
  for option in found if isinstance(found, list) else ():
    letter = ""
    if isinstance(option, dict):
      text = next((option[key] for key in _KEYS["text"] if key in option), None)
      letter = next((option[key] for key in _KEYS["letter"] if key in option), "")
      letter = "" if letter is text else letter
    else:
      text = option
    if not isinstance(text, str) or not isinstance(letter, str):
      raise _Fault("the options cannot be read")
    if prefix := _PREFIX.match(text.strip()):
      letter, text = prefix[1], text.strip()[prefix.end() :]
    texts.append(text)
    letters.append(letter.lower().removeprefix("option").strip(" )(.:") if letter else "")
  if any(letters) and letters != [chr(ord("a") + i) for i in range(len(letters))]:
    raise _Fault("options are out of order")
  return texts


def _draft(item: Any, kind: Kind) -> Draft:
  """The draft in a JSON object; raises _Fault."""
  if item is None or isinstance(item, _Twice):
    raise _Fault("JSON is cut off or damaged" if item is None else "JSON has a field twice")
  options = _get(item, "options")
  if options is None and "a" in item and "b" in item:
    options = {key: item[key] for key in "abcdefgh" if key in item}
  answers = [item[key] for key in _KEYS["answer"] if key in item]
  if not answers and options is None and "a" in item:
    answers = [item["a"]]  # {"q": ..., "a": ...}
  if not all(isinstance(answer, str) for answer in answers):
    raise _Fault("the answer is not text")
  draft = Draft(question=_get(item, "question"), answer=answers[0] if answers else None)
  if options is not None:
    draft.options = _option_texts(options)
  elif kind == "mcq":
    head, texts, fault = outline.split_options(" ".join(draft.question.split()))
    if len(texts) > 1:
      draft.question, draft.options, draft.fault = head, texts, fault
  if len(answers) > 1:  # a letter and its text
    try:
      agree = len({choose(answer, draft.options) for answer in answers}) == 1
    except ValueError:
      agree = False
    draft.fault = draft.fault or ("" if agree else "has two answers")
  named = outline.QUESTION.match(draft.question) or outline.NUMBER.match(draft.question)
  draft.question = draft.question[named.end() :] if named else draft.question
  return draft


def _shown(draft: Draft) -> str:
  return " | ".join(filter(None, [draft.question, *draft.options, draft.answer]))


def _said(completion: str) -> str:
  """What a model says once it has thought: some begin their thoughts in the request already."""
  if ends := list(_THOUGHT_END.finditer(completion)):
    return completion[ends[-1].end() :].strip()
  return "" if _THOUGHT.match(completion) else completion.strip()


def parse(completion: str, kind: Kind, cut_off: bool = False) -> list[Question | Reject]:
  """The questions and the rejects of a completion, in its order; there is always at least one.

  cut_off says that the model was stopped at its limit, so that the last question may not be whole.
  Never raises.
  """
  text = _said(completion)
  if not text:
    return [Reject("the completion is empty", completion[:200])]
  if len(text) > LONGEST:
    return [Reject("the completion is too long", text[:200])]
  found: list[Question | Reject] = []
  if _JSON.search(text):
    for item in (item for value in _values(text) for item in _items(value)):
      shown = json.dumps(item) if isinstance(item, dict) else text[-200:]
      try:
        found.append(_judge(_draft(item, kind), kind))
      except _Fault as fault:
        found.append(Reject(str(fault), shown))
  else:
    drafts = outline.outline(text, kind)
    for i, draft in enumerate(drafts):
      try:
        if cut_off and i == len(drafts) - 1:
          raise _Fault("is cut off")
        found.append(_judge(draft, kind))
      except _Fault as fault:
        found.append(Reject(str(fault), _shown(draft)))
  if not any(isinstance(item, Question) for item in found) and REFUSAL.search(text[:300]):
    return [Reject("the model refused", text[:500])]
  return _limit(found) or [Reject("no question was found", text[:500])]


def _limit(found: list[Question | Reject]) -> list[Question | Reject]:
  """Rejects what is asked twice, and what goes beyond the number of questions asked for."""
  seen, limited = set(), []
  for item in found:
    if isinstance(item, Question):
      said = fold(item.text)
      reason = "is asked twice of one caption" if said in seen else ""
      reason = reason or ("is one too many" if len(seen) >= QUESTIONS else "")
      seen.add(said)
      item = Reject(reason, " | ".join(item.fields())) if reason else item
    limited.append(item)
  return limited
