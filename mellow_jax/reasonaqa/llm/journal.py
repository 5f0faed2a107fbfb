"""What was asked of a model and what came back: one JSON object a line, appended, never changed.

  {"asked": KEY}
  {"answered": KEY, "completion": "...", "finish_reason": "stop", "prompt_tokens": 310, ...}
  {"failed": KEY, "reason": "..."}

A request stands here before it is sent, and its answer is on disk before it counts. So whatever a
kill interrupts, an answer that was written down is never asked for again, and what was under way
is known: asked, and neither answered nor failed.
"""

import dataclasses
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.llm.endpoint import Answer


class Journal:
  """The journal of one run, held by one process at a time."""

  def __init__(self, path: str | os.PathLike):
    """Opens it or begins it, and cuts off a last line that a kill left without its end.

    Raises DataError if another process holds it, it is damaged, or cannot be written.
    """
    self.path = Path(path)
    self._offsets = {}  # key -> where its answer stands
    self._asked = self._closed = 0
    self.prompt_tokens = self.completion_tokens = 0  # of all answers
    self.uncounted = 0  # answers whose tokens the server did not count
    try:
      self._file = self.path.open("ab+")
    except OSError as error:
      raise self._unwritable(error) from None
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      self._file.close()
      raise DataError(
        f"{self.path}: another run writes to it: wait for it, or name another --output"
      ) from None
    try:
      self._load()
    except BaseException:
      self._file.close()
      raise
    # Asked for by runs that were killed before the answer was written down.
    self.lost = self._asked - self._closed

  def __enter__(self) -> "Journal":
    return self

  def __exit__(self, *exception: object) -> None:
    self._file.close()

  def __contains__(self, key: str) -> bool:
    """Whether the request has its answer."""
    return key in self._offsets

  def _load(self) -> None:
    self._file.seek(0)
    offset = 0
    for number, line in enumerate(self._file, 1):
      if not line.endswith(b"\n"):
        self._file.truncate(offset)
        break
      try:
        event = json.loads(line)
        kind = next(iter(event))
        self._note(kind, event, offset)
      except (ValueError, LookupError, TypeError, StopIteration):
        raise DataError(
          f"{self.path}, line {number}: was changed: remove the line, or name another --output"
        ) from None
      offset += len(line)
    self._end = offset

  def _note(self, kind: str, event: dict[str, Any], offset: int) -> None:
    if kind == "asked":
      self._asked += 1
    elif kind == "answered":
      self._closed += 1
      self._offsets[event[kind]] = offset
      self.uncounted += event["prompt_tokens"] is None or event["completion_tokens"] is None
      self.prompt_tokens += event["prompt_tokens"] or 0
      self.completion_tokens += event["completion_tokens"] or 0
    elif kind == "failed":
      self._closed += 1
    else:
      raise ValueError(kind)

  def _append(self, event: dict[str, Any]) -> None:
    line = json.dumps(event).encode() + b"\n"
    try:
      self._file.write(line)
      self._file.flush()
      if "asked" not in event:  # the kernel keeps a written line when the process is killed
        os.fsync(self._file.fileno())
    except OSError as error:
      raise self._unwritable(error) from None
    kind = next(iter(event))
    self._note(kind, event, self._end)
    self._end += len(line)

  def ask(self, key: str) -> None:
    """Notes that the request is about to be sent."""
    self._append({"asked": key})

  def answer(self, key: str, answer: Answer) -> None:
    """Keeps an answer, and returns once it is on disk."""
    self._append({"answered": key, **dataclasses.asdict(answer)})

  def fail(self, key: str, reason: str) -> None:
    """Notes that a request got no answer."""
    self._append({"failed": key, "reason": reason})

  def read(self, key: str) -> Answer:
    """The answer that was kept; raises KeyError if there is none."""
    self._file.seek(self._offsets[key])
    event = json.loads(self._file.readline())
    del event["answered"]
    return Answer(**event)

  def _unwritable(self, error: OSError) -> DataError:
    return DataError(
      f"{self.path}: cannot be written ({error.strerror}): name another --output or make room"
    )
