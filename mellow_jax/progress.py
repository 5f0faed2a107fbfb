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
def stage(what: str, say: Callable[[str], None] = _print) -> Iterator[None]:
  """Says what the block does while it runs; says nothing of a block that is done in FIRST_S."""
  start, is_done = time.monotonic(), threading.Event()

  def watch() -> None:
    pause = FIRST_S
    while not is_done.wait(pause):
      passed = time.monotonic() - start
      say(f"{what} ..." if pause == FIRST_S else f"{what} ... {passed:.0f} s")
      pause = EVERY_S

  thread = threading.Thread(target=watch, daemon=True, name="progress")
  thread.start()
  try:
    yield
  finally:
    is_done.set()
    thread.join()
