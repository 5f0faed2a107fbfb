"""Lines and bars for whoever waits: what is being done, after 1.5 s, and then every 8 s."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import tqdm

FIRST_S, EVERY_S = 1.5, 8.0
_open: list["_Waiting"] = []  # stages that run now, the innermost last


class _Waiting(threading.Event):
  """Set when a stage is done; is_seen: whether what it does stands on the screen."""

  is_seen = False


def _print(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stage(
  what: str, say: Callable[[str], None] = _print, *, is_said: bool = False
) -> Iterator[None]:
  """Says what the block does while it runs; says nothing of a block that is done in FIRST_S.

  Of a stage within a stage only the inner one speaks. is_said: the caller has said what the block
  does, and the first line comes after EVERY_S.
  """
  start, is_done = time.monotonic(), _Waiting()
  is_done.is_seen = is_said
  _open.append(is_done)

  def watch() -> None:
    if not is_said and not is_done.wait(FIRST_S) and not _open[-1].is_seen:
      is_done.is_seen = True
      say(f"{what} ...")
    while not is_done.wait(EVERY_S):
      if _open[-1] is is_done:
        say(f"{what} ... {time.monotonic() - start:.0f} s")

  thread = threading.Thread(target=watch, daemon=True, name="progress")
  thread.start()
  try:
    yield
  finally:
    is_done.set()
    thread.join()
    _open.remove(is_done)


class Bar(tqdm.tqdm):
  """A progress bar on stderr whose clock goes on while a step takes long."""

  def __init__(self, *args: Any, **kwargs: Any) -> None:
    self._clock = contextlib.ExitStack()
    super().__init__(*args, file=sys.stderr, **kwargs)
    self._clock.enter_context(stage("", lambda _: self.refresh(), is_said=True))

  def close(self) -> None:
    """Ends the bar."""
    self._clock.close()
    super().close()
