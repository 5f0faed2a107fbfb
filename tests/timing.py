"""What a piece of code takes, whatever else the machine and the test process are doing."""

import contextlib
import gc
import time


class CpuTime:
  """What `cpu_time` measured: `seconds`, once its block has ended."""

  seconds = float("nan")


@contextlib.contextmanager
def cpu_time(clock=time.thread_time):
  """Measures the seconds this thread computes in the block; all threads with `time.process_time`.

  Threads that earlier tests left at work do not count then, and no garbage is collected
  meanwhile: walking all that a test process holds takes up to a second, and falls on whichever
  test allocates next.
  """
  taken, collects = CpuTime(), gc.isenabled()
  gc.disable()
  start = clock()
  try:
    yield taken
  finally:
    taken.seconds = clock() - start
    if collects:
      gc.enable()
