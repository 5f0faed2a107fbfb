"""Lines for whoever waits: what is being done, after 1.5 s, and then every 8 s."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

FIRST_S, EVERY_S = 1.5, 8.0


def _print(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stage(
  what: str, say: Callable[[str], None] = _print, *, is_said: bool = False
) -> Iterator[None]:
  """Says what the block does while it runs; says nothing of a block that is done in FIRST_S.

  is_said: the caller has said it, and the first line comes after EVERY_S.
  """
  start, is_done = time.monotonic(), threading.Event()

  def watch() -> None:
    if not is_said and not is_done.wait(FIRST_S):
      say(f"{what} ...")
    while not is_done.wait(EVERY_S):
      say(f"{what} ... {time.monotonic() - start:.0f} s")

  thread = threading.Thread(target=watch, daemon=True, name="progress")
  thread.start()
  try:
    yield
  finally:
    is_done.set()
    thread.join()
