"""Requests sent to a language model and their replies: one JSON object a line, append-only.

  {"asked": KEY}
  {"answered": KEY, "completion": "...", "finish_reason": "stop", "prompt_tokens": 310, ...}
  {"failed": KEY, "reason": "..."}

A request is logged before it is sent, and a reply is on disk before it counts. So after a kill a
logged reply is never requested again, and the requests that were in flight are known: those asked,
but neither answered nor failed.
"""

import dataclasses
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from mellow_jax import files
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.llm.endpoint import Reply


class ReplyLog:
  """The log of one run, locked by one process at a time."""

  def __init__(self, path: str | os.PathLike):
    """Opens or creates the log, and cuts off a last line that a kill left incomplete.

    Raises DataError if another process holds it, it is damaged, or cannot be written.
    """
    self.path = Path(path)
    self._offsets: dict[str, int] = {}  # key -> byte offset of its reply
    self._open_requests = 0
    self.prompt_tokens = self.completion_tokens = 0  # of all replies
    self.uncounted = 0  # replies without token counts
    try:
      self._file = self.path.open("ab+")
    except OSError as error:
      raise self._unwritable(error) from None
    try:
      self._lock()
      self._load()
    except BaseException:
      self._file.close()
      raise
    self.lost = self._open_requests  # in flight when earlier runs were killed

  def __enter__(self) -> "ReplyLog":
    return self

  def __exit__(self, *exception: object) -> None:
    self._file.close()

  def __contains__(self, key: str) -> bool:
    """Whether the request has its reply."""
    return key in self._offsets

  def __len__(self) -> int:
    """How many requests have their reply."""
    return len(self._offsets)

  def _lock(self) -> None:
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise DataError(
        f"{self.path}: another run writes to it: wait for it, or name another --output"
      ) from None

  def _load(self) -> None:
    files.cut_partial_line(self.path)
    self._file.seek(0)
    offset = 0
    for number, line in enumerate(self._file, 1):
      try:
        self._count(json.loads(line), offset)
      except (ValueError, LookupError, TypeError, StopIteration):
        raise DataError(
          f"{self.path}, line {number}: was changed: remove the line, or name another --output"
        ) from None
      offset += len(line)

  def _count(self, event: dict[str, Any], offset: int) -> None:
    match next(iter(event)):
      case "asked":
        self._open_requests += 1
      case "answered":
        self._open_requests -= 1
        self._offsets[event["answered"]] = offset
        self.uncounted += event["prompt_tokens"] is None or event["completion_tokens"] is None
        self.prompt_tokens += event["prompt_tokens"] or 0
        self.completion_tokens += event["completion_tokens"] or 0
      case "failed":
        self._open_requests -= 1
      case unknown:
        raise ValueError(unknown)

  def _append(self, event: dict[str, Any], *, sync: bool = True) -> None:
    offset = self._file.seek(0, os.SEEK_END)
    try:
      files.append_lines(self.path, [event], sync=sync)
    except OSError as error:
      raise self._unwritable(error) from None
    self._count(event, offset)

  def asked(self, key: str) -> None:
    """Logs that a request is about to be sent."""
    # Not synced: a line that was written survives a kill of the process.
    self._append({"asked": key}, sync=False)

  def answered(self, key: str, reply: Reply) -> None:
    """Logs a reply, and returns once it is on disk."""
    self._append({"answered": key, **dataclasses.asdict(reply)})

  def failed(self, key: str, reason: str) -> None:
    """Logs that a request got no reply."""
    self._append({"failed": key, "reason": reason})

  def read(self, key: str) -> Reply:
    """The logged reply; raises KeyError if there is none."""
    self._file.seek(self._offsets[key])
    event = json.loads(self._file.readline())
    del event["answered"]
    return Reply(**event)

  def _unwritable(self, error: OSError) -> DataError:
    return DataError(
      f"{self.path}: cannot be written ({error.strerror}): name another --output or make room"
    )
