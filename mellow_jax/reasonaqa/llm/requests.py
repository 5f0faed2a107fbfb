"""Sends the requests about all captions to an endpoint, several at a time, and logs the replies."""

import concurrent.futures
import contextlib
import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mellow_jax.errors import EndpointError
from mellow_jax.reasonaqa.llm import json_reply, prompt
from mellow_jax.reasonaqa.llm.caption_files import Caption
from mellow_jax.reasonaqa.llm.endpoint import Endpoint, Reply, Stopped, Unanswered
from mellow_jax.reasonaqa.llm.prompt import Kind, ReplyForm
from mellow_jax.reasonaqa.llm.reply_log import ReplyLog

MOST_FAILURES = 20  # captions in a row without a reply, after which a run gives up


@dataclass(frozen=True, kw_only=True)
class RequestSettings:
  """All that a completion depends on, beside its caption; a run continues only with the same."""

  type: int
  kind: Kind
  prompt: str  # version
  model: str
  temperature: float
  max_tokens: int
  seed: int


class Requests:
  """The requests of one run, about captions without a reply."""

  def __init__(self, endpoint: Endpoint, log: ReplyLog, settings: RequestSettings, form: ReplyForm):
    self._form: ReplyForm = form  # settings.prompt, its version, tells it as well
    self._endpoint, self._log, self._settings = endpoint, log, settings
    self.failures: dict[str, str] = {}  # caption key -> why there is no reply
    self._failures_in_a_row = 0
    self._fatal: EndpointError | None = None

  def send(
    self, captions: Sequence[Caption], concurrency: int, progress: Callable[[bool], Any]
  ) -> None:
    """Sends requests until all have a reply or have failed, or the endpoint's `stop` is set.

    progress is called for each request, with whether it got a reply. Raises EndpointError where
    the server refuses every request, or fails too many in a row.
    """
    stop, waiting = self._endpoint.stop, iter(captions)
    running: dict[concurrent.futures.Future, Caption] = {}
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
      try:
        while True:
          while not stop.is_set() and len(running) < concurrency:
            if (caption := next(waiting, None)) is None:
              break
            self._log.asked(caption.key)
            running[pool.submit(self._request, caption)] = caption
          if not running:
            break
          done, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
          for future in done:
            progress(self._finish(running.pop(future), future))
      except BaseException:
        stop.set()
        raise
    if self._fatal:
      raise self._fatal

  def _request(self, caption: Caption) -> Reply:
    """In a thread of its own."""
    s = self._settings
    # The same for a caption whenever it is requested.
    digest = hashlib.sha256(f"{s.seed} {caption.key}".encode()).hexdigest()
    schema = {"response_format": json_reply.response_format(s.kind)}
    return self._endpoint.ask(
      prompt.build(caption.text, s.type, s.kind, self._form),
      temperature=s.temperature,
      max_tokens=s.max_tokens,
      seed=int(digest[:8], 16) >> 1,
      **(schema if self._form == "json" else {}),
    )

  def _finish(self, caption: Caption, future: concurrent.futures.Future) -> bool:
    """Logs the outcome of a request; whether it got a reply."""
    try:
      reply = future.result()
    except Stopped:
      self._log.failed(caption.key, "stopped")
    except EndpointError as error:
      self._log.failed(caption.key, str(error))
      self._give_up(error)
    except Unanswered as error:
      self._log.failed(caption.key, str(error))
      self.failures[caption.key] = str(error)
      self._failures_in_a_row += 1
      if self._failures_in_a_row == MOST_FAILURES:
        self._give_up(
          EndpointError(
            f"{MOST_FAILURES} captions in a row got no answer, the last: {error}: check "
            "--endpoint, --model and the server, and run again; --replies=text asks for no schema"
          )
        )
    else:
      self._log.answered(caption.key, reply)
      self._failures_in_a_row = 0
      return True
    return False

  def _give_up(self, error: EndpointError) -> None:
    self._fatal = self._fatal or error
    self._endpoint.stop.set()


@contextlib.contextmanager
def stopping_on_signals(endpoint: Endpoint) -> Iterator[None]:
  """SIGTERM and Ctrl-C let requests in flight finish; a second one ends the process at once."""
  signals = (signal.SIGINT, signal.SIGTERM)

  def stop(*_: object) -> None:
    endpoint.stop.set()
    for number in signals:
      signal.signal(number, signal.SIG_DFL)

  before = [signal.signal(number, stop) for number in signals]
  try:
    yield
  finally:
    for number, handler in zip(signals, before, strict=True):
      signal.signal(number, handler)
