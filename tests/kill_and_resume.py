"""Kills a training run at random moments, again and again, and looks for any trace of it.

  python tests/kill_and_resume.py --kills=50 [--signal=TERM] [--workers=2] [--processes=2]
    [--seed=0] [--sources] [--savings]

The tiny run is trained once in peace. Then it is started, struck and started again, and every step
that any of its lives wrote down must have the loss, the gradient norm and the digest of the batch
of the peaceful run, to the last digit. Four in five SIGKILLs aim at a save that is being written.
After SIGTERM the very step must be saved, within 30 s and with exit status 75; of several
processes, one is signalled. With --sources the run is on rows and clips, and every life reads them
from other places: files, a cache, a TFDS dataset, two of them mixed by weight. With --savings steps
are compiled for several lengths of answers, a batch has answers of about one length, and features
take the place of the clips.
"""

import argparse
import dataclasses
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import audio_rows
import numpy as np
import processes

from mellow_jax.training import checkpoints

SAVE_EVERY = 10
FLAGS = ("--config.steps=200", f"--config.save_every={SAVE_EVERY}", "--config.keep=2")
FLAGS += ("--config.eval_every=50", "--config.sample_answers=0", "--config.audit=true")
SAVINGS = ("--config.data.answer_lengths=3", "--config.data.group_answers=true")
STOP_SECONDS = 30  # from SIGTERM to the end of the process
LIFE_SECONDS = 300  # no life lasts longer, unless something hangs
LISTENS = "mesh"  # in the first line, after which a run listens for SIGTERM
TRAINS = "compiling"  # said once what the life before left behind is tidied up


class Difference(AssertionError):
  """Something that a killed run did otherwise than one that was left in peace."""


@dataclasses.dataclass
class Tally:
  """What is counted over all strikes."""

  strikes: int = 0
  in_save: int = 0
  before_training: int = 0
  lines_compared: int = 0
  most_lost: int = 0
  slowest_stop: float = 0.0
  finished_runs: int = 0


def expect(holds, message):
  if not holds:
    raise Difference(message)


def measured(workdir):
  """(step, kind) to numbers as hex and digests, of every whole line of metrics.jsonl."""
  path, found = workdir / "metrics.jsonl", {}
  for text in path.read_text().splitlines(keepends=True) if path.exists() else ():
    if text.endswith("}\n"):
      line = json.loads(text)
      kind = "validation" if "val_loss" in line else "step"
      as_hex = {k: v.hex() if isinstance(v, float) else v for k, v in line.items()}
      found[line["step"], kind] = as_hex
  return found


def last_step(found):
  return max((step for step, kind in found if kind == "step"), default=0)


def saves(workdir):
  """Numbers of the finished steps, and of those that are not."""
  folder, finished, unfinished = workdir / "checkpoints", [], []
  for part in folder.glob("*"):
    if part.name.isdigit():
      (finished if (part / checkpoints.COMMITTED).exists() else unfinished).append(int(part.name))
  return sorted(finished), sorted(unfinished)


def is_saving(workdir):
  """Whether a newer step is being written; what is older is left over, or half removed."""
  finished, unfinished = saves(workdir)
  return max(unfinished, default=0) > max(finished, default=0)


def write_savings(folder, config, cache):
  """Rows whose answers have three lengths, and features of their clips; the flags of a run."""
  folder.mkdir()
  audio_rows.write(folder)
  rows = json.loads((folder / "train.json").read_text())
  for i, row in enumerate(rows):
    row["answer"] = " ".join([row["answer"]] * (1, 9, 17)[i % 3])
  for name, part in (("train", rows), ("val", rows[:4])):
    (folder / f"{name}.json").write_text(json.dumps(part))
  flags = [f"--config.data.train={folder / 'train.json'},{folder / 'train.json'}"]
  flags += [f"--config.data.val={folder / 'val.json'}"]
  features = ["--config.data.features=" + str(folder / "features")]
  command = ["-m", "mellow_jax", "cache-features", f"--config={config}:heard", "--windows=2"]
  command += [f"--output={folder / 'features'}", *flags]
  processes.finish(processes.start(command, cache))
  return [*flags, *SAVINGS, *features]


class Run:
  """A training run of one or more processes in a folder, which can be started many times."""

  def __init__(self, workdir, options):
    self.workdir, self.options, self.logs = workdir, options, []
    self.processes, self.lives = [], 0

  def start(self):
    flags, config = list(FLAGS), str(self.options.config)
    if self.options.sources:
      kinds = [audio_rows.KINDS[(self.lives + i) % len(audio_rows.KINDS)] for i in range(2)]
      found = [audio_rows.paths(self.options.sources, kind) for kind in kinds]
      train, val = map(",".join, zip(*found, strict=True))
      flags += [f"--config.data.train={train}", f"--config.data.val={val}"]
      config += ":heard"
    if self.options.savings:
      flags += self.options.savings
      config += ":heard"
    self.lives += 1
    if self.options.workers:
      flags.append(f"--config.data.workers={self.options.workers}")
    count = self.options.processes
    if count > 1:
      flags += [f"--coordinator=127.0.0.1:{processes.free_port()}", f"--processes={count}"]
    self.workdir.mkdir(parents=True, exist_ok=True)
    self.logs = [self.workdir / f"log{i}" for i in range(count)]
    self.processes = [
      processes.train(
        self.workdir,
        config,
        self.options.cache,
        *flags,
        *([f"--process_id={i}"] if count > 1 else []),
        log=self.logs[i],
      )
      for i in range(count)
    ]

  def said(self):
    return "".join(log.read_text() for log in self.logs)

  def is_running(self):
    return any(process.poll() is None for process in self.processes)

  def wait(self, seconds):
    """Exit codes; nothing is left running."""
    until = time.monotonic() + seconds
    try:
      return [process.wait(max(until - time.monotonic(), 0.1)) for process in self.processes]
    except Exception as error:
      raise Difference(f"no end after {seconds} s: {self.said()[-2000:]}") from error
    finally:
      for process in self.processes:
        process.kill()

  def wait_for(self, holds):
    """Whether it became true before the run ended."""
    until = time.monotonic() + LIFE_SECONDS
    while not holds():
      expect(time.monotonic() < until, f"nothing happens: {self.said()[-2000:]}")
      if not self.is_running():
        return False
      time.sleep(0.001)
    return True


def wait_for_moment(run, rng, start_seconds):
  """Waits for a random moment of a run's life."""
  kills = run.options.signal == signal.SIGKILL
  if not kills:
    run.wait_for(lambda: LISTENS in run.said())
  if rng.random() >= (0.8 if kills else 0.3):  # most SIGTERMs are to arrive between saves
    moment = time.monotonic() + rng.uniform(0, (1.5 if kills else 0.5) * start_seconds)
    run.wait_for(lambda: time.monotonic() > moment)
    return
  run.wait_for(lambda: TRAINS in run.said())
  skipped, delay = rng.integers(3), rng.uniform(0, 0.01)
  while run.is_running():
    run.wait_for(lambda: not is_saving(run.workdir))
    run.wait_for(lambda: is_saving(run.workdir))
    time.sleep(delay)
    if skipped <= 0 and is_saving(run.workdir):  # a save may be over sooner: then the next
      return
    skipped -= 1


def strike(run, rng, peace, tally):
  """Ends one life of a run; returns False where it reached its own end first."""
  expected = saves(run.workdir)[0][-1:]
  begun = time.monotonic()
  run.start()
  wait_for_moment(run, rng, peace.start_seconds)
  trains = TRAINS in run.said()
  victim = run.processes[rng.integers(len(run.processes))]
  struck = time.monotonic()
  victim.send_signal(run.options.signal)
  codes = run.wait(STOP_SECONDS if run.options.signal == signal.SIGTERM else LIFE_SECONDS)
  seconds = time.monotonic() - struck
  said = run.said()
  resumed = re.search(r"resumed from step (\d+)", said)
  if resumed:
    expect([int(resumed[1])] == expected, f"resumed from {resumed[1]}, saved was {expected}")
  if codes == [0] * len(codes):
    return False
  found = measured(run.workdir)
  for key, line in found.items():
    expect(line == peace.lines[key], f"{line} instead of {peace.lines[key]}")
  finished, unfinished = saves(run.workdir)
  newest, last = finished[-1] if finished else 0, last_step(found)
  if run.options.signal == signal.SIGTERM:
    expect(set(codes) == {75}, f"ended with {codes}: {said[-2000:]}")
    stops = re.findall(r"stopped as asked after step (\d+)", said)
    expect(stops == [str(newest)], f"said it stopped at {stops}, saved is {newest}")
    expect(last == newest and not unfinished, f"step {last} was done, saved is {newest}")
    tally.slowest_stop = max(tally.slowest_stop, seconds)
  else:
    expect(codes == [-signal.SIGKILL], f"ended with {codes}: {said[-2000:]}")
    # One more than it had written down may have been under way.
    tally.most_lost = max(tally.most_lost, last - newest)
    expect(last - newest <= 2 * SAVE_EVERY, f"step {last} was done, saved is {newest}")
  tally.strikes += 1
  in_save = trains and is_saving(run.workdir)
  tally.in_save += in_save
  tally.before_training += not trains
  tally.lines_compared += len(found)
  print(
    f"strike {tally.strikes}: {struck - begun:.1f} s after the start, step {last}, "
    f"saved {newest}{', in a save' if in_save else ''}",
    flush=True,
  )
  return True


class Peace:
  """What a run does that nothing disturbs."""

  def __init__(self, workdir, options):
    self._workdir = workdir
    begun = time.monotonic()
    run = Run(workdir, options)
    run.start()
    run.wait_for(lambda: TRAINS in run.said())
    self.start_seconds = time.monotonic() - begun
    codes = run.wait(LIFE_SECONDS)
    expect(set(codes) == {0}, f"ended with {codes}: {run.said()[-2000:]}")
    self.lines = measured(workdir)

  def assert_same_end(self, workdir):
    for name in ("metrics.jsonl", "model/config.json", "best/config.json"):
      same = (workdir / name).read_text() == (self._workdir / name).read_text()
      expect(same, f"{name} differs in the end")


def survive(folder, options):
  """Strikes as often as the options say; raises Difference where anything came of it."""
  rng, tally = np.random.default_rng(options.seed), Tally()
  peace = Peace(folder / "peace", options)
  print(f"in peace: trains {peace.start_seconds:.1f} s after the start", flush=True)
  run = Run(folder / "run0", options)
  while tally.strikes < options.kills:
    if not strike(run, rng, peace, tally):
      peace.assert_same_end(run.workdir)
      tally.finished_runs += 1
      shutil.rmtree(run.workdir)
      run = Run(folder / f"run{tally.finished_runs}", options)
  run.start()
  codes = run.wait(LIFE_SECONDS)
  expect(set(codes) == {0}, f"ended with {codes}: {run.said()[-2000:]}")
  peace.assert_same_end(run.workdir)
  tally.finished_runs += 1
  return tally


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=10)
  parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
  parser.add_argument("--workers", type=int, default=0)
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--sources", action="store_true")
  parser.add_argument("--savings", action="store_true")
  options = parser.parse_args()
  options.signal = getattr(signal, f"SIG{options.signal}")
  begun = time.monotonic()
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    options.config, options.cache = folder / "tiny_run.py", folder / "compiled"
    options.config.write_text("import tiny\nget_config = tiny.get_config\n")
    options.sources = audio_rows.write_all(folder / "heard") if options.sources else None
    if options.savings:
      options.savings = write_savings(folder / "heard", options.config, options.cache)
    try:
      tally = survive(folder, options)
    except Difference as error:
      print(f"seed {options.seed}: {error}", file=sys.stderr)
      sys.exit(1)
  print(f"seed {options.seed}, {time.monotonic() - begun:.0f} s, no difference")
  for name, value in dataclasses.asdict(tally).items():
    print(f"{name.replace('_', ' '):>16} {value:g}")


if __name__ == "__main__":
  main()
