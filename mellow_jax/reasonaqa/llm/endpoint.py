"""Client of an OpenAI-compatible server (vLLM, llama.cpp, any other), with retries.

Transient errors are retried after a pause: too many requests, server errors, time-outs, dropped
connections, truncated responses. The pause doubles each time and is never shorter than the server's
Retry-After, which holds for all threads.
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
from typing import Any, NoReturn

from mellow_jax.errors import EndpointError, UserError

LONGEST_PAUSE_S = 60.0  # of our own; the server may ask for longer ones
LONGEST_WAIT_S = 900.0  # a server that asks for more is left for a later run
_MOST_BYTES = 8 << 20  # of one response
_TRANSIENT = {408, 409, 425, 429}  # HTTP statuses; those from 500 on are too
_PERMANENT = {401, 403, 404, 405}  # for any request, not this one alone


class Unanswered(UserError):
  """A request without a reply; the message says why."""


class Stopped(RuntimeError):
  """The run was told to stop while a request waited for its next attempt."""


@dataclass(frozen=True, slots=True)
class Reply:
  """One completion, with its token counts."""

  completion: str  # "" where the model wrote nothing
  finish_reason: str  # "stop", "length" (cut off) or the server's own; "" where it gives none
  prompt_tokens: int | None  # None where the server does not count
  completion_tokens: int | None
  attempts: int
  seconds: float  # of the last attempt


class _TransientError(Exception):
  """An error worth a retry; pause_s is the server's Retry-After."""

  def __init__(self, cause: str, pause_s: float = 0.0):
    super().__init__(cause)
    self.pause_s = pause_s


class _NoRedirects(urllib.request.HTTPRedirectHandler):
  """Makes every redirect an error: the API key goes to no other server than the one named."""

  def redirect_request(self, *args: Any, **kwargs: Any) -> None:
    """Follows nothing."""
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


def _error_text(error: urllib.error.HTTPError, key: str) -> str:
  """The status and the server's error message, in one short line without the key."""
  try:
    text = error.read(1 << 16).decode(errors="replace")
  except (http.client.HTTPException, OSError):
    text = ""
  try:
    content = json.loads(text)
  except (ValueError, RecursionError):
    content = None
  for name in ("error", "message", "detail"):
    if isinstance(content, dict) and name in content:
      content = content[name]
  if content is not None:
    text = content if isinstance(content, str) else json.dumps(content)
  text = " ".join(text.split())[:200]
  if key:  # some servers repeat what they were sent
    text = text.replace(key, "[key]")
  return f"status {error.code}: {text}" if text else f"status {error.code}"


def _raise_for_status(error: urllib.error.HTTPError, url: str, key: str) -> NoReturn:
  if error.code in _TRANSIENT or error.code >= 500:
    raise _TransientError(f"status {error.code}", _retry_after(error.headers.get("Retry-After")))
  text = _error_text(error, key)
  if error.code in _PERMANENT or error.code < 400:
    raise EndpointError(f"{url}: {text}: check --endpoint, --model and the key")
  raise Unanswered(f"the server refused it: {text}")


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


def _reply(body: bytes, attempts: int, begin: float) -> Reply:
  try:
    content = json.loads(body)
    choice = content["choices"][0]
    message = choice["message"]
  except (ValueError, RecursionError):
    raise _TransientError("answer is not JSON") from None
  except (LookupError, TypeError):
    raise _TransientError("answer holds no choices") from None
  usage = content.get("usage")
  return Reply(
    completion=_content(message),
    finish_reason=str(choice.get("finish_reason") or ""),
    prompt_tokens=_count(usage, "prompt_tokens"),
    completion_tokens=_count(usage, "completion_tokens"),
    attempts=attempts,
    seconds=round(time.monotonic() - begin, 3),
  )


def chat_url(endpoint: str) -> str:
  """The URL of chat completions for the URL of a server; raises EndpointError."""
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
    """Raises EndpointError for a URL or a key that cannot be used."""
    self._url, self._model, self._key = chat_url(endpoint), model, api_key
    if not (api_key.isascii() and api_key.isprintable()):
      raise EndpointError("the key in the environment holds characters that no key has")
    self._attempts, self._timeout_s, self._pause_s = attempts, timeout_s, pause_s
    self._opener = urllib.request.build_opener(_NoRedirects)
    self._lock = threading.Lock()
    self._not_before = 0.0  # of time.monotonic, for all threads
    self.retries = collections.Counter()  # failed attempts, by cause
    self.stop = threading.Event()  # set: requests that wait for their next attempt give up

  def ask(self, prompt: str, **sampling: Any) -> Reply:
    """The model's reply to a prompt.

    Raises Unanswered when every attempt failed or the server refuses this one request,
    EndpointError when it would refuse any, and Stopped when `stop` is set during a pause.
    """
    message = {"role": "user", "content": prompt}
    body = json.dumps({"model": self._model, "messages": [message], **sampling}).encode()
    for attempt in range(1, self._attempts + 1):
      while (wait := self._not_before - time.monotonic()) > 0:
        self._sleep(wait + random.uniform(0, self._pause_s))
      begin = time.monotonic()
      try:
        return _reply(self._post(body), attempt, begin)
      except _TransientError as error:
        last = error
      with self._lock:
        self.retries[str(last)] += 1
        if last.pause_s:
          self._not_before = max(self._not_before, time.monotonic() + last.pause_s)
      if last.pause_s > LONGEST_WAIT_S:
        raise EndpointError(f"the server asks to wait {last.pause_s:.0f} s: run again after that")
      if attempt < self._attempts:
        pause = min(LONGEST_PAUSE_S, self._pause_s * 2 ** (attempt - 1))
        self._sleep(pause * random.uniform(0.5, 1))
    raise Unanswered(f"{self._attempts} attempts failed, the last: {last}")

  def _sleep(self, seconds: float) -> None:
    if self.stop.wait(seconds):
      raise Stopped

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
        _raise_for_status(error, self._url, self._key)
    except TimeoutError:
      raise _TransientError("timed out") from None
    except urllib.error.URLError as error:
      timed_out = isinstance(error.reason, TimeoutError)
      cause = "timed out" if timed_out else f"no connection ({error.reason})"
      raise _TransientError(cause) from None
    except (http.client.HTTPException, OSError):
      raise _TransientError("connection dropped") from None
