"""OpenAI's chat completions: a request's JSON to what is asked of the model, and answers to JSON.

One turn is answered: the last user message, with the system message before its text. Source of the
forms: OpenAI's API reference, and what the clients named in docs/serving.md send.
"""

import json
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from mellow_jax.errors import RequestError
from mellow_jax.inference.engine import SAMPLES, TOP, Token
from mellow_jax.serving import limits
from mellow_jax.serving.limits import Limits

MOST_ANSWERS, MOST_STOPS = SAMPLES, 4
WINDOWS = ("first", "center")
# Fields whose named values ask for nothing; any other value asks for what this model does not do.
NOT_DONE = {
  "tools": ([], None),
  "functions": ([], None),
  "response_format": ({"type": "text"}, None),
  "modalities": (["text"], None),
  "frequency_penalty": (0, None),
  "presence_penalty": (0, None),
  "logit_bias": ({}, None),
}


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
  """A chat completion that is wanted."""

  audio: tuple[bytes, ...]  # one file or two
  text: str
  model: str
  max_tokens: int
  temperature: float
  top_p: float
  n: int
  seed: int
  stop: tuple[str, ...]
  top: int  # most probable tokens beside each; -1: no log-probabilities at all
  stream: bool
  include_usage: bool
  window: str


# --- Reading -------------------------------------------------------------------------------------


def parse(body: Any, limit: Limits, max_new_tokens: int) -> ChatRequest:
  """A request's JSON value, its audio decoded from base64. Raises RequestError."""
  if not isinstance(body, dict):
    raise RequestError(400, "the body is no JSON object")
  for name, allowed in NOT_DONE.items():
    if body.get(name) not in allowed:
      raise RequestError(400, f"{name}: not supported by this model: leave it out", name)
  audio, text = _messages(body.get("messages"), limit)
  extra = body.get("mellow") or {}
  # Fields of other servers are left alone, those of this one's own are not mistyped in silence.
  if isinstance(extra, dict) and (unknown := sorted(extra.keys() - {"window"})):
    raise RequestError(400, f"mellow.{unknown[0]:.60}: there is only mellow.window", "mellow")
  window = extra.get("window") if isinstance(extra, dict) else ""
  window = "first" if window is None else window  # clients send null for what they leave open
  if window not in WINDOWS:
    raise RequestError(400, f"mellow.window: one of {', '.join(WINDOWS)}", "mellow")
  # A client asks for room, not for length: what is more than there is becomes what there is.
  name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
  most = _number(body, name, max_new_tokens, 1, math.inf, whole=True)
  options = body.get("stream_options") or {}
  if not isinstance(options, dict):
    raise RequestError(400, "stream_options: give an object", "stream_options")
  top = -1
  if _flag(body, "logprobs"):
    top = _number(body, "top_logprobs", 0, 0, TOP, whole=True)
  elif body.get("top_logprobs"):
    raise RequestError(400, "top_logprobs: set logprobs to true as well", "top_logprobs")
  seed = _number(body, "seed", secrets.randbelow(2**31), -(2**63), 2**63, whole=True)
  return ChatRequest(
    audio=audio,
    text=text,
    model=_model(body),
    max_tokens=min(most, max_new_tokens),
    temperature=_number(body, "temperature", 0.0, 0, 2),
    top_p=_number(body, "top_p", 1.0, 0, 1, above=True),
    n=_number(body, "n", 1, 1, MOST_ANSWERS, whole=True),
    seed=seed % 2**31,
    stop=_stop(body.get("stop")),
    top=top,
    stream=_flag(body, "stream"),
    include_usage=_flag(options, "include_usage"),
    window=window,
  )


def _model(body: dict) -> str:
  model = body.get("model")
  if not isinstance(model, str):
    raise RequestError(400, "model: give its name; GET /v1/models lists it", "model")
  return model


def _flag(body: dict, name: str) -> bool:
  value = body.get(name)
  if value is not None and not isinstance(value, bool):  # 1 == True
    raise RequestError(400, f"{name}: true or false", name)
  return bool(value)


def _number(
  body: dict,
  name: str,
  default: float | int,
  least: float | int,
  most: float | int,
  *,
  whole: bool = False,
  above: bool = False,
) -> Any:
  """A number of the body within bounds, or the default. Raises RequestError."""
  value = body.get(name)
  if value is None:
    return default
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if not is_number or (whole and value != int(value)) or not math.isfinite(value):
    raise RequestError(400, f"{name}: give a {'whole ' if whole else ''}number", name)
  if not least <= value <= most or (above and value == least):
    bound = f"above {least:g}" if above else f"from {least:g}"
    upto = f" to {most:g}" if math.isfinite(most) else " on"
    raise RequestError(400, f"{name} {value:g}: give a number {bound}{upto}", name)
  return int(value) if whole else float(value)


def _stop(value: Any) -> tuple[str, ...]:
  stops = [] if value is None else [value] if isinstance(value, str) else value
  if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
    raise RequestError(400, "stop: give a string or a list of strings", "stop")
  if len(stops) > MOST_STOPS:
    raise RequestError(400, f"stop: at most {MOST_STOPS} strings", "stop")
  return tuple(stops)


def _messages(messages: Any, limit: Limits) -> tuple[tuple[bytes, ...], str]:
  """The audio and the text of a conversation of one turn."""
  if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
    raise RequestError(400, "messages: give a list of objects with role and content", "messages")
  roles = [message.get("role") for message in messages]
  if any(role not in ("system", "developer", "user") for role in roles):
    raise RequestError(
      400, "messages: roles are system and user: the model answers a single turn", "messages"
    )
  if roles.count("user") != 1:
    raise RequestError(400, "messages: give exactly one user message", "messages")
  audio, texts = [], []
  for message in sorted(messages, key=lambda m: m["role"] == "user"):  # system first
    found, text = read_parts(message.get("content"), limit)
    audio += found
    texts += text
  if not 1 <= len(audio) <= 2:
    raise RequestError(400, f"messages: {len(audio)} clips: give one or two", "messages")
  text = " ".join(text.strip() for text in texts if text.strip())
  if not text:
    raise RequestError(400, "messages: the question is empty: ask something", "messages")
  return tuple(audio), text


def read_parts(content: Any, limit: Limits) -> tuple[list[bytes], list[str]]:
  """Files and texts of a message's content, a string or a list of parts. Raises RequestError."""
  if isinstance(content, str):
    return [], [content]
  if not isinstance(content, list):
    raise RequestError(400, "content: give a string or a list of parts", "messages")
  audio, texts = [], []
  for part in content:
    match part:
      case {"type": "text", "text": str(text)} | str(text):
        texts.append(text)
      case {"type": "input_audio", "input_audio": {"data": data}}:
        audio.append(limits.decode_base64(data, "input_audio", limit))
      case {"type": "audio_url", "audio_url": {"url": str(url)}}:
        if not url.startswith("data:"):
          raise RequestError(400, "audio_url: no URL is fetched: send data:audio/wav;base64,...")
        audio.append(limits.decode_base64(url, "audio_url", limit))
      case _:
        kind = part.get("type") if isinstance(part, dict) else part
        raise RequestError(
          400, f"part {str(kind)[:40]!r}: give text, input_audio or audio_url parts", "messages"
        )
    if len(audio) > 2:
      raise RequestError(400, "messages: more than two clips: give one or two", "messages")
  return audio, texts


# --- Writing -------------------------------------------------------------------------------------


class Writer:
  """The JSON of one completion's answer, whole or in chunks."""

  def __init__(self, request: ChatRequest, tokenizer: tokenizers.Tokenizer, prompt_tokens: int):
    self._request, self._tokenizer = request, tokenizer
    self._prompt_tokens = prompt_tokens
    self._started, self._tokens = set(), 0  # of a stream
    self._id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())

  def _head(self, kind: str) -> dict[str, Any]:
    return {
      "id": self._id,
      "object": kind,
      "created": self._created,
      "model": self._request.model,
      "system_fingerprint": None,
    }

  def usage(self, tokens: int) -> dict[str, int]:
    """Counts of tokens; the prompt has one length, whatever it holds."""
    total = self._prompt_tokens + tokens
    return {
      "prompt_tokens": self._prompt_tokens,
      "completion_tokens": tokens,
      "total_tokens": total,
    }

  def log_probs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
    """Log-probabilities of an answer's tokens, where they are wanted."""
    if self._request.top < 0:
      return None
    return {"content": [self._token(t) for t in tokens], "refusal": None}

  def _token(self, token: Token) -> dict[str, Any]:
    def one(number: int, log_prob: float) -> dict[str, Any]:
      text = self._tokenizer.decode([number], skip_special_tokens=False)
      return {
        "token": text,
        "logprob": max(log_prob, -9999.0),
        "bytes": list(text.encode()),
      }

    top = [one(*pair) for pair in token.top[: self._request.top]]
    return {**one(token.id, token.log_prob), "top_logprobs": top}

  def whole(
    self,
    answers: Sequence[tuple[str, Sequence[Token], str]],
    clips: Sequence[str],
    warnings: Sequence[str],
  ) -> dict[str, Any]:
    """The response of answers: text, tokens and why each ended."""
    choices = [
      {
        "index": i,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": self.log_probs(tokens),
        "finish_reason": reason,
      }
      for i, (text, tokens, reason) in enumerate(answers)
    ]
    return {
      **self._head("chat.completion"),
      "choices": choices,
      "usage": self.usage(sum(len(tokens) for _, tokens, _ in answers)),
      "mellow": {"clips": list(clips), "warnings": list(warnings)},
    }

  def events(
    self, index: int, text: str, tokens: Sequence[Token], reason: str | None, **more: Any
  ) -> str:
    """The server-sent events of one piece of an answer."""
    found = []
    if index not in self._started:
      self._started.add(index)
      found.append(self._chunk(index, {"role": "assistant", "content": ""}, **more))
    if text or tokens:
      self._tokens += len(tokens)
      found.append(self._chunk(index, {"content": text}, log_probs=self.log_probs(tokens)))
    if reason:
      found.append(self._chunk(index, {}, reason))
    return "".join(found)

  def _chunk(
    self,
    index: int,
    delta: dict[str, Any],
    reason: str | None = None,
    log_probs: dict[str, Any] | None = None,
    **more: Any,
  ) -> str:
    choice = {"index": index, "delta": delta, "logprobs": log_probs, "finish_reason": reason}
    return event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

  def last(self) -> str:
    """The event of a stream's usage, where it is wanted, and its end."""
    done = "data: [DONE]\n\n"
    if not self._request.include_usage:
      return done
    head = self._head("chat.completion.chunk")
    return event({**head, "choices": [], "usage": self.usage(self._tokens)}) + done


def event(value: dict[str, Any]) -> str:
  """A server-sent event of JSON."""
  return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
