"""What a training run writes down: metrics, sample answers, and where its time went.

metrics.jsonl   one line a step, every digit; the same for a run that was killed and resumed
answers.jsonl   sample answers of each validation
times.jsonl     examples/s, and seconds by what they were spent on; as it was, kills included
"""

import contextlib
import hashlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import tensorboardX

from mellow_jax import parallel


class RunLog:
  """Metrics and sample answers as JSON lines and on TensorBoard; the first process writes them."""

  def __init__(self, workdir: pathlib.Path, start_step: int):
    self._board, self._workdir = None, workdir
    if not parallel.is_first():
      return
    for name in ("metrics.jsonl", "answers.jsonl"):
      _cut(workdir / name, start_step)
    self._board = tensorboardX.SummaryWriter(str(workdir), purge_step=start_step + 1)

  def write(self, step_number: int, values: dict[str, float | str]) -> None:
    """One line of metrics; floats keep every digit. Text is not drawn on the board."""
    if self._board:
      self._append("metrics.jsonl", {"step": step_number, **values})
      self._draw(step_number, values)

  def write_answer(self, step_number: int, shown: dict[str, str]) -> None:
    """A sample answer, as a line of answers.jsonl and as text on the board."""
    if self._board:
      self._append("answers.jsonl", {"step": step_number, **shown})
      self._board.add_text(shown["question"], shown["answer"], step_number)

  def write_times(self, step_number: int, examples_per_s: float, spent: "Spent") -> None:
    """One line of times.jsonl: how fast this process has been, and what its time went into."""
    if self._board:
      values = {"examples_per_s": examples_per_s, "goodput": spent.goodput()}
      seconds = spent.seconds()
      self._append("times.jsonl", {"step": step_number, **values, "seconds": seconds})
      self._draw(step_number, values)

  def _append(self, name: str, line: dict[str, Any]) -> None:
    with (self._workdir / name).open("a") as file:
      file.write(json.dumps(line) + "\n")

  def _draw(self, step_number: int, values: dict[str, float | str]) -> None:
    for name, value in values.items():
      if not isinstance(value, str):
        self._board.add_scalar(name, value, step_number)

  def close(self) -> None:
    """Flushes the board."""
    if self._board:
      self._board.close()


class Spent:
  """Wall time of this process by what it was spent on; what no block claims is training."""

  def __init__(self):
    self._start = time.perf_counter()
    self._blocks: dict[str, float] = {}

  @contextlib.contextmanager
  def on(self, what: str) -> Iterator[None]:
    """Counts the seconds of a block; blocks do not overlap."""
    begin = time.perf_counter()
    try:
      yield
    finally:
      self._blocks[what] = self._blocks.get(what, 0.0) + time.perf_counter() - begin

  def seconds(self) -> dict[str, float]:
    """Seconds since the start, by what they were spent on."""
    total = time.perf_counter() - self._start
    return {"train": total - sum(self._blocks.values()), **self._blocks}

  def goodput(self) -> float:
    """Share of the time that went into training steps, from 0 to 1."""
    seconds = self.seconds()
    return seconds["train"] / sum(seconds.values())


def fingerprint(batch: tuple[jax.Array, ...]) -> str:
  """BLAKE2 of a global batch, by which the data of two runs can be compared."""
  seen = hashlib.blake2b(digest_size=16)
  for leaf in batch:
    seen.update(parallel.to_host(leaf).tobytes())
  return seen.hexdigest()


def _cut(path: pathlib.Path, last_step: int) -> None:
  """Drops the lines of later steps, which will be written again, and one that a kill cut off."""
  if path.exists():
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    kept = [line + "\n" for line in lines if json.loads(line)["step"] <= last_step]
    part = path.with_suffix(".part")
    part.write_text("".join(kept))
    part.replace(path)
