"""The System One interface: typed questions in, probabilities out.

A request's state holds the clips and what is known beside them. Clips stand under "audio" and
"audio2" of an object, as data:audio/wav;base64,..., or in a list, as the parts of a chat message.
All else is text before each question. Source: SPEC of jevcompat 0.1.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mellow_jax.errors import QuestionError, RequestError
from mellow_jax.inference.decide import Choice, Decision, Question, Rating, YesNo
from mellow_jax.serving import chat, limits
from mellow_jax.serving.limits import Limits

ALIASES = ("jev-latest", "jev-preview")


class ValidationError(RequestError):
  """A body of the wrong form; the path leads to the fault."""

  def __init__(self, path: Sequence[str | int], message: str, kind: str):
    super().__init__(422, message)
    self.path, self.kind = ("body", *path), kind


@dataclass(frozen=True)
class DecisionRequest:
  """Decisions that are wanted about clips."""

  audio: tuple[bytes, ...]  # up to two files
  state: str  # what else is known
  model: str
  questions: Mapping[str, Question]


def parse(body: Any, limit: Limits) -> DecisionRequest:
  """A request's JSON value. Raises ValidationError, and RequestError for audio."""
  if not isinstance(body, dict):
    raise ValidationError((), "give a JSON object", "dict_type")
  for name, kind in {"state": (str, dict, list), "model": str, "questions": dict}.items():
    if name not in body:
      raise ValidationError((name,), "this field is missing", "missing")
    if not isinstance(body[name], kind):
      raise ValidationError((name,), "is of another type", "type_error")
  questions = body["questions"]
  if not 1 <= len(questions) <= limit.questions:
    raise ValidationError(("questions",), f"give 1 to {limit.questions} questions", "too_short")
  found = {name: _question(name, value) for name, value in questions.items()}
  audio, state = _state(body["state"], limit)
  return DecisionRequest(tuple(audio), state, body["model"], found)


def _state(state: Any, limit: Limits) -> tuple[list[bytes], str]:
  audio: list[bytes] = []
  if isinstance(state, dict):
    rest = dict(state)
    for name in ("audio", "audio2"):
      if (data := rest.pop(name, None)) is not None:
        audio.append(limits.decode_base64(data, name, limit))
    return audio, _text(rest) if rest else ""
  if isinstance(state, list):
    kinds = [part.get("type") if isinstance(part, dict) else None for part in state]
    is_audio = [kind in ("input_audio", "audio_url") for kind in kinds]
    audio, _ = chat.read_parts([p for p, yes in zip(state, is_audio, strict=True) if yes], limit)
    rest = [
      part["text"] if kind == "text" and isinstance(part.get("text"), str) else part
      for part, kind, yes in zip(state, kinds, is_audio, strict=True)
      if not yes
    ]
    return audio, " ".join(map(_text, rest))
  return [], state


def _text(value: Any) -> str:
  """Structured text in words: strings as they are, other values as JSON."""
  if value is None:
    return ""
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _question(name: str, value: Any) -> Question:
  path: tuple[str | int, ...] = ("questions", name)
  if not isinstance(value, dict):
    raise ValidationError(path, "give an object", "dict_type")
  if "type" not in value:
    raise ValidationError(path, "the field type is missing", "union_tag_not_found")
  kind = value["type"]
  if kind not in ("noul", "choice", "score"):
    raise ValidationError(path, "type is noul, choice or score", "union_tag_invalid")
  path = (*path, kind)
  asked, criteria = value.get("instructions"), value.get("criteria")
  if not isinstance(asked, str | dict | list | None):
    raise ValidationError((*path, "instructions"), "give text", "string_type")
  path = (*path, "criteria")
  try:
    match kind:
      case "noul":
        return _yes_no(_text(asked), criteria, path)
      case "choice":
        return _choice(_text(asked), criteria, path)
    return _rating(_text(asked), criteria, path)
  except QuestionError as error:
    raise ValidationError(path, str(error), "value_error") from None


def _check_texts(texts: Mapping[Any, Any], path: Sequence[str | int], *, null: bool) -> None:
  for name, text in texts.items():
    if not isinstance(text, str | dict | list) and not (null and text is None):
      raise ValidationError((*path, name), "give text", "string_type")


def _yes_no(asked: str, criteria: Any, path: tuple[str | int, ...]) -> YesNo:
  if criteria is not None and (not isinstance(criteria, dict) or set(criteria) - {"true", "false"}):
    raise ValidationError(path, "give an object of true and false, or either", "model_type")
  criteria = criteria or {}
  _check_texts(criteria, path, null=True)
  return YesNo(asked, yes=_text(criteria.get("true")), no=_text(criteria.get("false")))


def _choice(asked: str, criteria: Any, path: tuple[str | int, ...]) -> Choice:
  if not isinstance(criteria, dict):
    raise ValidationError(path, "give an object of options and descriptions", "dict_type")
  _check_texts(criteria, path, null=True)
  described = {name: _text(text) for name, text in criteria.items() if text}
  return Choice(asked, tuple(criteria), described)


def _rating(asked: str, criteria: Any, path: tuple[str | int, ...]) -> Rating:
  if not isinstance(criteria, list):
    raise ValidationError(path, "give a list of levels", "list_type")
  _check_texts(dict(enumerate(criteria)), path, null=False)
  return Rating(asked, tuple(map(_text, criteria)))


def answer(question: Question, found: Decision) -> dict[str, Any]:
  """The JSON of a decision."""
  numbers = [str(i) for i in range(len(found.options))]
  match question:
    case YesNo():
      return {"type": "noul", "noul": found.probabilities[0]}
    case Choice():
      return {
        "type": "choice",
        "choice": found.best,
        "probabilities": dict(zip(found.options, found.probabilities, strict=True)),
        "confidence": found.confidence,
      }
    case Rating():
      return {
        "type": "score",
        "score": found.expected,
        "legend": dict(zip(numbers, found.options, strict=True)),
        "probabilities": dict(zip(numbers, found.probabilities, strict=True)),
        "confidence": found.confidence,
      }


def error_json(error: Exception, status: int) -> dict[str, Any]:
  """The JSON of a refusal."""
  if isinstance(error, ValidationError):
    return {"detail": [{"loc": list(error.path), "msg": str(error), "type": error.kind}]}
  kinds = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
  kinds |= {429: "rate_limit_error", 503: "overloaded_error"}
  kind = kinds.get(status, "invalid_request_error")
  return {"detail": {"error_type": kind, "message": str(error)}}
