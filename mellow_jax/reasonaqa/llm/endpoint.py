"""An OpenAI-compatible server (vLLM, llama.cpp, any other) that is asked until it answers.

Whatever may pass is tried again after a pause: too many requests, errors of the server, time-outs,
dropped connections, answers cut off on the way. The pause doubles each time, and is never shorter
than the server's Retry-After, which holds for all threads.
"""

import collections
import email.utils
import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from mellow_jax.errors import EndpointError, UserError

LONGEST_PAUSE_S = 60.0  # of our own; the server may ask for longer ones
LONGEST_WAIT_S = 900.0  # a server that asks for more is left for a later run
_MOST_BYTES = 8 << 20  # of one answer
_TRY_AGAIN = {408, 409, 425, 429}
_HOPELESS = {401, 403, 404, 405}


class Unanswered(UserError):
  """A request that got no answer; the message says why."""


class Stopped(RuntimeError):
  """The run was told to stop while a request waited for its next try."""


@dataclass(frozen=True, slots=True)
class Answer:
  """One completion, and what it took."""

  completion: str  # "" where the model wrote nothing
  finish_reason: str  # "stop", "length" (cut off) or the server's own; "" where it says none
  prompt_tokens: int | None  # None where the server counts none
  completion_tokens: int | None
  attempts: int
  seconds: float  # of the attempt that was answered


class _Passing(Exception):
  """A fault that may pass; pause_s is what the server asks for."""

  def __init__(self, cause: str, pause_s: float = 0.0):
    super().__init__(cause)
    self.pause_s = pause_s


class _NoRedirects(urllib.request.HTTPRedirectHandler):
  """The key goes to no other server than the one that was named."""

  def redirect_request(self, *args: Any, **kwargs: Any) -> None:
    """Makes every redirect an error."""
    return None


def _retry_after(value: str | None) -> float:
  """Seconds to wait by a Retry-After header: a number, or a date."""
  if not value:
    return 0.0
  try:
    return max(0.0, float(value))
  except ValueError:
    pass
  try:
    return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
  except ValueError:
    return 0.0


def _said(body: bytes) -> str:
  """What a server says about an error, in one short line."""
  text = body.decode(errors="replace")
  try:
    found = json.loads(text)
  except (ValueError, RecursionError):
    found = None
  for name in ("error", "message", "detail"):
    if isinstance(found, dict) and name in found:
      found = found[name]
  if found is not None:
    text = found if isinstance(found, str) else json.dumps(found)
  return " ".join(text.split())[:200]


def _count(usage: Any, name: str) -> int | None:
  value = usage.get(name) if isinstance(usage, dict) else None
  return value if isinstance(value, int) and value >= 0 else None


def _content(message: Any) -> str:
  """The text of a message, whole or in parts; "" for none."""
  content = message.get("content") if isinstance(message, dict) else None
  if isinstance(content, list):
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    content = "".join(part for part in parts if isinstance(part, str))
  return content if isinstance(content, str) else ""


def chat_url(endpoint: str) -> str:
  """The address of chat completions under the address of a server; raises EndpointError."""
  try:
    parts = urllib.parse.urlsplit(endpoint)
    valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
  except ValueError:
    valid = False
  if not valid or not endpoint.isascii() or any(c.isspace() for c in endpoint):
    raise EndpointError(f"--endpoint={endpoint}: is no address such as http://localhost:8000/v1")
  if "@" in parts.netloc:
    raise EndpointError("--endpoint: holds a password: give it in the environment instead")
  path = parts.path.rstrip("/")
  if not path.endswith("/chat/completions"):
    path += "/chat/completions"
  return urllib.parse.urlunsplit(parts._replace(path=path, fragment=""))


class Endpoint:
  """One model of one server; `ask` may be called from many threads."""

  def __init__(
    self,
    endpoint: str,
    model: str,
    *,
    api_key: str = "",
    attempts: int = 8,
    timeout_s: float = 300.0,
    pause_s: float = 1.0,
  ):
    """Raises EndpointError for an address or a key that cannot be used."""
    self._url, self._model, self._key = chat_url(endpoint), model, api_key
    if not (api_key.isascii() and api_key.isprintable()):
      raise EndpointError("the key in the environment holds characters that no key has")
    self._attempts, self._timeout_s, self._pause_s = attempts, timeout_s, pause_s
    self._opener = urllib.request.build_opener(_NoRedirects)
    self._lock = threading.Lock()
    self._not_before = 0.0  # of time.monotonic, for all threads
    self.retries = collections.Counter()  # by cause
    self.stop = threading.Event()  # set: what waits for its next try gives up

  def ask(self, prompt: str, **sampling: Any) -> Answer:
    """The model's answer to a prompt.

    Raises Unanswered when every attempt failed or the server refuses this one request,
    EndpointError when it would refuse any, and Stopped when `stop` is set during a pause.
    """
    message = {"role": "user", "content": prompt}
    body = json.dumps({"model": self._model, "messages": [message], **sampling}).encode()
    for attempt in range(1, self._attempts + 1):
      while (wait := self._not_before - time.monotonic()) > 0:
        if self.stop.wait(wait + random.uniform(0, self._pause_s)):
          raise Stopped
      begin = time.monotonic()
      try:
        return self._answer(self._post(body), attempt, begin)
      except _Passing as error:
        cause, asked_for = str(error), error.pause_s
      with self._lock:
        self.retries[cause] += attempt < self._attempts
        self._not_before = max(self._not_before, time.monotonic() + asked_for if asked_for else 0)
      if asked_for > LONGEST_WAIT_S:
        raise EndpointError(f"the server asks to wait {asked_for:.0f} s: run again after that")
      pause = min(LONGEST_PAUSE_S, self._pause_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
      if attempt < self._attempts and self.stop.wait(pause):
        raise Stopped
    raise Unanswered(f"{self._attempts} attempts failed, the last: {cause}")

  def _post(self, body: bytes) -> bytes:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if self._key:
      headers["Authorization"] = f"Bearer {self._key}"
    request = urllib.request.Request(self._url, body, headers)
    deadline = time.monotonic() + self._timeout_s
    try:
      with self._opener.open(request, timeout=self._timeout_s) as response:
        parts, size = [], 0
        while part := response.read1(1 << 16):
          parts.append(part)
          size += len(part)
          if time.monotonic() > deadline:
            raise TimeoutError
          if size > _MOST_BYTES:
            raise Unanswered(f"the answer has more than {_MOST_BYTES} bytes")
        return b"".join(parts)
    except urllib.error.HTTPError as error:
      with error:
        self._refused(error)
    except TimeoutError:
      raise _Passing("timed out") from None
    except urllib.error.URLError as error:
      timed_out = isinstance(error.reason, TimeoutError)
      raise _Passing("timed out" if timed_out else f"no connection ({error.reason})") from None
    except (http.client.HTTPException, OSError):
      raise _Passing("connection dropped") from None

  def _refused(self, error: urllib.error.HTTPError) -> None:
    """Raises what a status other than success stands for."""
    if error.code in _TRY_AGAIN or error.code >= 500:
      raise _Passing(f"status {error.code}", _retry_after(error.headers.get("Retry-After")))
    try:
      said = _said(error.read(1 << 16))
    except (http.client.HTTPException, OSError):
      said = ""
    if self._key:  # some servers repeat what they were sent
      said = said.replace(self._key, "[key]")
    said = f"status {error.code}: {said}" if said else f"status {error.code}"
    if error.code in _HOPELESS or error.code < 400:
      raise EndpointError(f"{self._url}: {said}: check --endpoint, --model and the key")
    raise Unanswered(f"the server refused it: {said}")

  def _answer(self, body: bytes, attempt: int, begin: float) -> Answer:
    try:
      found = json.loads(body)
      choice = found["choices"][0]
      message = choice["message"]
    except (ValueError, RecursionError):
      raise _Passing("answer is not JSON") from None
    except (LookupError, TypeError):
      raise _Passing("answer holds no choices") from None
    usage = found.get("usage")
    return Answer(
      completion=_content(message),
      finish_reason=str(choice.get("finish_reason") or ""),
      prompt_tokens=_count(usage, "prompt_tokens"),
      completion_tokens=_count(usage, "completion_tokens"),
      attempts=attempt,
      seconds=round(time.monotonic() - begin, 3),
    )
