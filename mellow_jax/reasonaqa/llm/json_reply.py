"""Parses a completion that holds JSON: an object for each question, under the usual field names."""

import json
import re
from collections.abc import Iterator
from typing import Any

from mellow_jax.data import choices
from mellow_jax.data.text import one_line
from mellow_jax.reasonaqa.llm import markup
from mellow_jax.reasonaqa.llm.prompt import Kind
from mellow_jax.reasonaqa.llm.qa_pairs import Draft, Rejected, chosen_option

_MOST_ERRORS = 200  # places that look like JSON and are not
_QUESTION_FIELD = re.compile(r"[\"'](?:question|q|query)(?:_?text)?[\"']\s*:", re.IGNORECASE)
_BRACKET = re.compile(r"[\[{]")
_LETTER = re.compile(r"(?:option\s+)?[(\[]?([A-Ha-h])(?:[)\]][.:]?|[.:]|\s+[-–—])\s+(?=\S)")
# Field names without case and punctuation, by what they hold.
_NAMES = {
  "question": ("question", "q", "questiontext", "query"),
  "options": ("options", "choices", "answers", "optionslist", "answerchoices", "answeroptions"),
  "answer": (
    *("answer", "correctanswer", "correctoption", "correctchoice", "correct", "correctletter"),
    *("response", "answerletter", "answertext", "rightanswer"),
  ),
  # Of an option that is an object itself.
  "text": ("text", "option", "value", "content", "answer"),
  "letter": ("letter", "label", "id", "key", "option"),
}


class _RepeatedField:
  """Stands for a JSON object in which a field occurs twice."""


def is_json(text: str) -> bool:
  """Whether a completion has a JSON field for a question."""
  return bool(_QUESTION_FIELD.search(text))


def drafts(text: str, kind: Kind) -> list[Draft]:
  """The drafts in a completion with JSON, in its order; never raises."""
  found = []
  for item in (item for value in _values(text) for item in _items(value)):
    try:
      draft = _draft(item, kind)
    except Rejected as error:
      draft = Draft(reason=str(error))
    draft.source = json.dumps(item) if isinstance(item, dict) else text[-200:]
    found.append(draft)
  return found


def _fields(pairs: list[tuple[str, Any]]) -> Any:
  fields = {re.sub(r"[\W_]", "", key).lower(): value for key, value in pairs}
  return fields if len(fields) == len(pairs) else _RepeatedField()


def _values(text: str) -> Iterator[Any]:
  """JSON values in a text, with the whole ones inside truncated ones; then None if one was cut."""
  decoder = json.JSONDecoder(object_pairs_hook=_fields)
  place, errors, truncated = 0, 0, False
  while (found := _BRACKET.search(text, place)) and errors < _MOST_ERRORS:
    try:
      value, place = decoder.raw_decode(text, found.start())
      yield value
    except (ValueError, RecursionError):
      place, errors, truncated = found.start() + 1, errors + 1, truncated or found[0] == "{"
  if truncated:
    yield None


def _items(value: Any) -> Iterator[Any]:
  """The objects with a question, wherever they stand in a JSON value."""
  if isinstance(value, list):
    for item in value:
      yield from _items(item)
  elif value is None or isinstance(value, _RepeatedField):
    yield value
  elif isinstance(value, dict):
    if any(isinstance(value.get(name), str) for name in _NAMES["question"]):
      yield value
    else:
      for inner in value.values():
        if isinstance(inner, dict | list):
          yield from _items(inner)


def _get(item: dict[str, Any], what: str) -> list[Any]:
  """The values of all fields that go by one of the names."""
  return [item[name] for name in _NAMES[what] if name in item]


def _draft(item: Any, kind: Kind) -> Draft:
  if item is None:
    raise Rejected("JSON is cut off or damaged")
  if isinstance(item, _RepeatedField):
    raise Rejected("JSON has a field twice")
  options = next(iter(_get(item, "options")), None)
  if options is None and "a" in item and "b" in item:
    options = {letter: item[letter] for letter in "abcdefgh" if letter in item}
  answers = _get(item, "answer")
  if not answers and options is None and "a" in item:
    answers = [item["a"]]  # {"q": ..., "a": ...}
  if not all(isinstance(answer, str) for answer in answers):
    raise Rejected("the answer is not text")
  question = next(text for text in _get(item, "question") if isinstance(text, str))
  draft = Draft(question=question, answer=answers[0] if answers else None)
  if options is not None:
    draft.options = _options(options)
  elif kind == "mcq":
    stem, texts, reason = choices.split_styled(one_line(draft.question))
    if len(texts) > 1:
      draft.question, draft.options, draft.reason = stem, texts, reason
  if len(answers) > 1 and not _agree(answers, draft.options):  # such as a letter and its text
    draft.reject("has two answers")
  label = markup.QUESTION.match(draft.question) or markup.NUMBER.match(draft.question)
  draft.question = draft.question[label.end() :] if label else draft.question
  return draft


def _agree(answers: list[str], options: list[str]) -> bool:
  try:
    return len({chosen_option(answer, options) for answer in answers}) == 1
  except Rejected:
    return False


def _options(value: Any) -> list[str]:
  """The options of a JSON object in the order of their letters."""
  if isinstance(value, str):
    _, texts, reason = choices.split_styled(one_line(value))
    if reason or not texts:
      raise Rejected(reason or "the options cannot be read")
    return texts
  if isinstance(value, dict):
    value = [{"letter": letter, "text": text} for letter, text in value.items()]
  pairs = [_letter_and_text(option) for option in (value if isinstance(value, list) else ())]
  letters = [letter for letter, _ in pairs]
  if any(letters) and letters != [chr(ord("a") + i) for i in range(len(letters))]:
    raise Rejected("options are out of order")
  return [text for _, text in pairs]


def _letter_and_text(option: Any) -> tuple[str, str]:
  """An option's letter in lower case, "" for none, and its text."""
  letter, text = "", option
  if isinstance(option, dict):
    text = next(iter(_get(option, "text")), None)
    letter = next(iter(_get(option, "letter")), "")
    letter = "" if letter is text else letter
  if not isinstance(text, str) or not isinstance(letter, str):
    raise Rejected("the options cannot be read")
  if prefix := _LETTER.match(text.strip()):
    letter, text = prefix[1], text.strip()[prefix.end() :]
  return letter.lower().removeprefix("option").strip(" )(.:"), text
