"""Replies in JSON: the schema that a server is asked to keep to, and its strict reader."""

import json
from typing import Any

from mellow_jax.data import choices
from mellow_jax.reasonaqa.llm.prompt import OPTIONS, QUESTIONS, Kind
from mellow_jax.reasonaqa.llm.qa_pairs import Draft, Rejected


def response_format(kind: Kind) -> dict[str, Any]:
  """The field `response_format` of a request, as OpenAI defined it; vLLM and llama.cpp take it."""
  text = {"type": "string"}
  fields: dict[str, Any] = {"question": text, "answer": text}
  if kind == "mcq":
    options = {"type": "array", "items": text, "minItems": OPTIONS, "maxItems": OPTIONS}
    letters = {"type": "string", "enum": [*choices.LETTERS[:OPTIONS]]}
    fields = {"question": text, "options": options, "answer": letters}
  items = _object(fields)
  questions = {"type": "array", "items": items, "minItems": QUESTIONS, "maxItems": QUESTIONS}
  schema = {"name": "questions", "strict": True, "schema": _object({"questions": questions})}
  return {"type": "json_schema", "json_schema": schema}


def _object(fields: dict[str, Any]) -> dict[str, Any]:
  """The schema of an object with these fields and no others."""
  required = {"required": [*fields], "additionalProperties": False}
  return {"type": "object", "properties": fields, **required}


def drafts(text: str, kind: Kind) -> list[Draft]:
  """The drafts of a reply; raises Rejected unless the whole of it is JSON of the schema."""
  try:
    reply = json.loads(text, object_pairs_hook=_fields)
  except (ValueError, RecursionError):
    raise Rejected("the reply is not JSON") from None
  questions = reply.get("questions") if isinstance(reply, dict) and len(reply) == 1 else reply
  if not isinstance(questions, list):
    raise Rejected("the reply is JSON of another schema")
  return [_draft(item, kind) for item in questions]


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  if len(fields := dict(pairs)) < len(pairs):
    raise ValueError("a field occurs twice")
  return fields


def _draft(item: Any, kind: Kind) -> Draft:
  names = {"question", "answer"} | ({"options"} if kind == "mcq" else set())
  options = item.get("options", []) if isinstance(item, dict) else ()
  texts = [item.get("question"), *options, item.get("answer")] if isinstance(options, list) else [0]
  if not all(isinstance(text, str) for text in texts) or set(item) != names:
    return Draft(str(item), fault="a question is JSON of another schema")
  labels = [choices.split_label(text) for text in options]
  if options and all(labels):  # ["a) dog", "b) cat", ...]
    if "".join(letter for letter, _ in labels) != choices.LETTERS[: len(labels)]:
      return Draft(str(item), fault="options are out of order")
    options = [text for _, text in labels]
  return Draft(item["question"], options, item["answer"])
