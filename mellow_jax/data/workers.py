"""Batches made by threads or worker processes; one that hangs or dies becomes an error.

Grain waits for ever for a read that hangs, a worker that was stopped and one that ended with exit
code 0; and its workers outlive a trainer that is killed.
"""

import contextlib
import functools
import multiprocessing
import os
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import grain

from mellow_jax.errors import StalledError

POLL_SECONDS = 0.5
# A batch that a worker sent before it ended may still be on its way.
LAST_BATCH_SECONDS = 3.0
CLOSE_SECONDS = 15.0


def batches(
  ds: grain.MapDataset, *, threads: int, workers: int, timeout_seconds: float
) -> "Watched":
  """The elements of ds in order, made by threads here, or by as many in each worker process."""
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  made, prefix = ds.to_iter_dataset(options), f"/m{secrets.token_hex(3)}_"
  if workers:
    made = made.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
      worker_init_fn=functools.partial(start_worker, prefix),
    )
  return Watched(made, timeout_seconds, prefix)


def start_worker(prefix: str, index: int, count: int) -> None:
  """Starts a worker process, which ends when the trainer does, however that ends.

  The worker ignores SIGINT and SIGTERM, which jobs send to all their processes: the trainer may
  need more batches before it ends. The names of the worker's shared memory begin with the prefix.
  """
  del index, count

  def name() -> str:
    made = prefix + secrets.token_hex(4)
    resource_tracker.register(made, "shared_memory")
    return made

  # Python tells its tracker, which removes what the dead leave behind, only once memory has been
  # made: a worker that dies in between would leave it for ever. Nothing public sets the name.
  shared_memory._make_filename = name
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  trainer = multiprocessing.parent_process()

  def watch() -> None:
    trainer.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True, name="end-with-trainer").start()


class Watched(Iterator[Any]):
  """The elements of a dataset, or a StalledError where none arrives in time.

  Use it as a context, or close it: its threads and processes then end.
  """

  def __init__(self, ds: grain.IterDataset, timeout_seconds: float, prefix: str):
    """prefix is that of the workers' shared memory."""
    self._timeout_seconds, self._prefix = timeout_seconds, prefix
    self._others = {child.pid for child in multiprocessing.active_children()}
    self._workers: dict[int, multiprocessing.process.BaseProcess] = {}
    self._made = iter(ds)
    self._ready: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(1)
    self._closed = threading.Event()
    threading.Thread(target=self._pull, daemon=True, name="batches").start()

  def __enter__(self) -> "Watched":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def __next__(self) -> Any:
    """Raises StalledError, and what making the element raised."""
    if self._closed.is_set():
      raise StopIteration
    start = time.monotonic()
    ended_at = None
    while True:
      try:
        element, error = self._ready.get(timeout=POLL_SECONDS)
        break
      except queue.Empty:
        now = time.monotonic()
      if self._ended() and ended_at is None:
        ended_at = now
      if now - start > self._timeout_seconds or now - (ended_at or now) > LAST_BATCH_SECONDS:
        raise self._stalled(f"no batch came for {now - start:.0f} s")
    if isinstance(error, RuntimeError) and self._ended():
      raise self._stalled("no batch came")  # Grain's own finding, in many words
    if error is not None:
      self.close()
      raise error
    return element

  def close(self) -> None:
    """Ends the threads and processes that make elements; no more can be asked for."""
    if self._closed.is_set():
      return
    self._closed.set()
    if not sys.is_finalizing():  # no thread starts any more when the interpreter ends
      # Grain lets each worker end what it does; one that hangs must not hold up the end of the run.
      closing = threading.Thread(target=self._made.close, daemon=True, name="close-batches")
      closing.start()
      closing.join(CLOSE_SECONDS)
    self._kill()

  def _pull(self) -> None:
    try:
      for element in self._made:
        if not self._put(element, None):
          return
      self._put(None, StopIteration())
    except Exception as error:  # of any kind: raised again where the element is asked for
      self._put(None, error)

  def _put(self, element: Any, error: Exception | None) -> bool:
    while not self._closed.is_set():
      try:
        self._ready.put((element, error), timeout=POLL_SECONDS)
        return True
      except queue.Full:
        pass
    return False

  def _ended(self) -> list[str]:
    """How each worker that has ended did so."""
    children = multiprocessing.active_children()  # Grain tells no process ids
    self._workers |= {c.pid: c for c in children if c.pid not in self._others}
    codes = {pid: worker.exitcode for pid, worker in self._workers.items()}
    return [
      f"worker process {pid} was ended by signal {-code}"
      if code < 0
      else f"worker process {pid} ended with exit code {code}"
      for pid, code in codes.items()
      if code is not None
    ]

  def _stalled(self, what: str) -> StalledError:
    """Kills the workers: those that are stopped or hang would not end otherwise."""
    causes = self._ended() or [
      "a read hangs, or is slower than config.data.timeout_seconds "
      f"({self._timeout_seconds:g}) allows"
    ]
    self._closed.set()
    self._kill()
    return StalledError(
      f"{what}: {', '.join(causes)}; start the same command again to go on from the last checkpoint"
    )

  def _kill(self) -> None:
    """Ends the workers, and removes the batches that they have made and nobody has asked for."""
    self._ended()
    for worker in self._workers.values():
      worker.kill()
    for worker in self._workers.values():
      worker.join(1.0)
    for path in Path("/dev/shm").glob(f"{self._prefix[1:]}*"):
      with contextlib.suppress(OSError, ValueError):  # gone by now; or empty, as its maker left it
        memory = shared_memory.SharedMemory(path.name)
        memory.close()
        memory.unlink()
      path.unlink(missing_ok=True)
