"""Worker processes: the batches that threads make, no waiting for ever, and nothing left over."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import loader_process
import processes
import pytest

FEEDING = Path(__file__).parents[1] / "loader_process.py"
SLOWEST_SECONDS = 30.0
# Of a read. Those that do not wait for it to pass have time to import while others work.
TIMEOUT_SECONDS = {"hang": 5.0, "hang workers": SLOWEST_SECONDS, "stopped": SLOWEST_SECONDS}
AMPLE_SECONDS = 120.0
# Workers and first step of each trainer; all are started at once, since most of it is importing.
TRAINERS = {
  "threads": (0, 0),
  "one": (1, 0),
  "two": (2, 3),
  "killed": (2, 0),
  "exit": (2, 0),
  "hang": (0, 0),
  "SIGKILL": (2, 0),
  "SIGTERM": (2, 0),
}
SLOW = {"stopped": (2, 0), "hang workers": (2, 0), "signalled": (2, 0)}
COMPARED = ("threads", "one", "two")


class Trainer:
  """A trainer without a model, in a session of its own."""

  def __init__(self, folder, name, workers, start_step):
    # A size of its own, by which its files of shared memory are known.
    batch_size = 3 if name in COMPARED else 3 + [*TRAINERS, *SLOW].index(name)
    self.wav_bytes = batch_size * loader_process.CLIP_BYTES
    self.folder = folder / name
    self.folder.mkdir()
    timeout = TIMEOUT_SECONDS.get(name, AMPLE_SECONDS)
    arguments = (self.folder, workers, timeout, start_step, batch_size)
    self.process = subprocess.Popen(
      [sys.executable, FEEDING, *map(str, arguments)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={**os.environ, "PYTHONPATH": str(FEEDING.parents[1])},
      start_new_session=True,
    )

  def draw(self, count):
    """What it prints for the next batches."""
    lines = []
    for _ in range(count):
      lines.append(self.process.stdout.readline().strip())
      assert lines[-1].startswith("step "), self.process.communicate()
      self.process.stdin.write("\n")
      self.process.stdin.flush()
    return lines

  def members(self):
    """Living processes of its session, whoever their parent is by now."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
      try:
        state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
      except OSError:
        continue
      if int(session) == self.process.pid and state != "Z":
        found.append(int(stat.parent.name))
    return found

  def workers(self):
    """The worker processes."""
    command = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.members()}
    return [pid for pid in command if b"spawn_main" in command[pid]]

  def shared(self):
    """Its files of shared memory that hold waveforms."""
    found = []
    for path in Path("/dev/shm").iterdir():
      with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == self.wav_bytes:
          found.append(path.name)
    return found

  def assert_nothing_is_left(self, seconds=5):
    end = time.monotonic() + seconds
    while left := self.members() + self.shared():
      assert time.monotonic() < end, left
      time.sleep(0.1)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """Starts trainers, and kills what is left of them at the end."""
  folder, started = tmp_path_factory.mktemp("trainers"), []

  def start(cases):
    found = {name: Trainer(folder, name, *case) for name, case in cases.items()}
    started.extend(found.values())
    return found

  yield start
  for trainer in started:
    for pid in [trainer.process.pid, *trainer.workers()]:  # the tracker then cleans up, and ends
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def trainers(start):
  """All that are not slow."""
  return start(TRAINERS)


@pytest.fixture(scope="module")
def slow_trainers(start):
  """Those that wait until a time-out has passed."""
  return start(SLOW)


@pytest.mark.slow
def test_workers_make_the_batches_that_threads_make_from_any_step(trainers):
  found = {name: trainers[name].draw(6) for name in COMPARED}
  assert found["one"] == found["threads"] and len(set(found["one"])) == 6
  assert found["two"][:3] == found["threads"][3:]
  for name in COMPARED:
    trainers[name].process.stdin.close()  # they end in the ordinary way
  assert [trainers[name].process.wait(30) for name in COMPARED] == [0, 0, 0]
  for name in COMPARED:
    trainers[name].assert_nothing_is_left()


def assert_stalls(trainer, cause, message, seconds):
  """It ends with one line of error in time, and nothing is left of it."""
  trainer.draw(1)
  cause()
  begin = time.monotonic()
  trainer.process.stdin.write("\n" * 100)
  _, err = trainer.process.communicate(timeout=60)
  assert time.monotonic() - begin < seconds
  assert trainer.process.returncode == 1
  # From Python 3.13 on the warning of the resource tracker has a second line, of its source.
  tracker = ("resource_tracker", "warnings.warn(")
  (line,) = [line for line in err.splitlines() if not any(part in line for part in tracker)]
  assert re.search(f"^no batch came.*: .*{message}.*; start the same command again", line), line
  trainer.assert_nothing_is_left()


def test_a_worker_that_is_killed_is_an_error(trainers):
  trainer = trainers["killed"]
  message = r"worker process \d+ was ended by signal 9"
  cause = lambda: os.kill(trainer.workers()[0], signal.SIGKILL)  # noqa: E731
  assert_stalls(trainer, cause, message, SLOWEST_SECONDS)


def test_a_worker_that_ends_without_an_error_is_one(trainers):
  trainer = trainers["exit"]
  message = r"worker process \d+ ended with exit code 0"
  assert_stalls(trainer, (trainer.folder / "exit").touch, message, SLOWEST_SECONDS)


HANGS = "a read hangs, or is slower than config.data.timeout_seconds"


def test_a_read_that_hangs_in_a_thread_is_an_error(trainers):
  trainer = trainers["hang"]
  assert_stalls(trainer, (trainer.folder / "hang").touch, HANGS, TIMEOUT_SECONDS["hang"] + 5)


@pytest.mark.slow
def test_a_read_that_hangs_in_a_worker_is_an_error(slow_trainers):
  trainer = slow_trainers["hang workers"]
  assert_stalls(trainer, (trainer.folder / "hang").touch, HANGS, SLOWEST_SECONDS + 5)


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_an_error(slow_trainers):
  trainer = slow_trainers["stopped"]
  cause = lambda: os.kill(trainer.workers()[0], signal.SIGSTOP)  # noqa: E731
  assert_stalls(trainer, cause, HANGS, SLOWEST_SECONDS + 5)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_when_the_trainer_dies_nothing_is_left_after_five_seconds(trainers, name):
  trainer = trainers[name]
  trainer.draw(2)
  assert len(trainer.workers()) == 2 and trainer.shared()
  trainer.process.send_signal(getattr(signal, name))
  assert trainer.process.wait() == -getattr(signal, name)
  trainer.assert_nothing_is_left(5)


DIES_WHILE_IT_MAKES_SHARED_MEMORY = """
import multiprocessing, os, signal
from multiprocessing import shared_memory
from mellow_jax.data import workers

def work():
  workers.start_worker("/untold_", 0, 1)
  shared_memory.mmap.mmap = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
  shared_memory.SharedMemory(create=True, size=1)

if __name__ == "__main__":
  child = multiprocessing.get_context("spawn").Process(target=work)
  child.start()
  child.join()
  print(child.exitcode, *(name for name in os.listdir("/dev/shm") if name.startswith("untold_")))
"""


def test_shared_memory_of_a_worker_that_dies_as_it_makes_it_does_not_stay(tmp_path):
  program = tmp_path / "dies.py"
  program.write_text(DIES_WHILE_IT_MAKES_SHARED_MEMORY)
  (out,) = processes.finish(processes.start([program], tmp_path))
  code, name = out.split()
  assert code == "-9"
  end = time.monotonic() + 5
  while (Path("/dev/shm") / name).exists():
    assert time.monotonic() < end
    time.sleep(0.1)


@pytest.mark.slow
def test_signals_to_the_whole_job_leave_the_workers_to_the_trainer(slow_trainers):
  trainer = slow_trainers["signalled"]
  trainer.draw(2)
  for pid in trainer.workers():
    for number in (signal.SIGTERM, signal.SIGINT):
      os.kill(pid, number)
  assert len(trainer.draw(8)) == 8


@pytest.mark.slow
def test_the_command_ends_with_one_line_where_no_batch_comes(run_config, compile_cache, tmp_path):
  # Longer than this takes a worker alone to start.
  flags = ["--config.data.workers=1", "--config.data.timeout_seconds=0.1"]
  process = processes.train(tmp_path / "run", run_config, compile_cache, *flags)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 1
  # Python's own tracker of semaphores may have a remark of its own.
  (line,) = [line for line in err.splitlines() if "resource_tracker" not in line and line[0] != " "]
  assert re.search(f"^error: no batch came for 1 s: {HANGS} .0.1. allows; start", line)
