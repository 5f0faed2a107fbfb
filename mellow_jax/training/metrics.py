"""Logs of a training run: metrics, sample answers, and how its time was used.

metrics.jsonl   a line for each step, with every digit; the same after a kill and resume
answers.jsonl   sample answers of each validation
times.jsonl     examples/s, and seconds by activity from the start on; lines before a kill stay
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
from jaxtyping import PyTree

from mellow_jax import files, parallel


class MetricsWriter:
  """Writes metrics and sample answers, in the first process: as JSON lines and to TensorBoard."""

  def __init__(self, workdir: pathlib.Path, start_step: int):
    self._board, self._workdir = None, workdir
    if not parallel.is_first():
      return
    for name in ("metrics.jsonl", "answers.jsonl"):
      _cut(workdir / name, start_step)
    self._board = tensorboardX.SummaryWriter(str(workdir), purge_step=start_step + 1)

  def write(self, step_number: int, values: dict[str, float | str]) -> None:
    """Writes a line of metrics, with every digit of a float; TensorBoard gets the numbers only."""
    if self._board:
      self._append("metrics.jsonl", {"step": step_number, **values})
      self._plot(step_number, values)

  def write_answer(self, step_number: int, shown: dict[str, str]) -> None:
    """Writes a sample answer as a line of answers.jsonl and as text of TensorBoard."""
    if self._board:
      self._append("answers.jsonl", {"step": step_number, **shown})
      self._board.add_text(shown["question"], shown["answer"], step_number)

  def write_times(self, step_number: int, examples_per_s: float, timer: "Timer") -> None:
    """Writes a line of times.jsonl: speed, goodput, and seconds of this process by activity."""
    if self._board:
      values = {"examples_per_s": examples_per_s, "goodput": timer.goodput()}
      seconds = timer.seconds()
      self._append("times.jsonl", {"step": step_number, **values, "seconds": seconds})
      self._plot(step_number, values)

  def _append(self, name: str, line: dict[str, Any]) -> None:
    files.append_lines(self._workdir / name, [line], sync=False)

  def _plot(self, step_number: int, values: dict[str, float | str]) -> None:
    for name, value in values.items():
      if not isinstance(value, str):
        self._board.add_scalar(name, value, step_number)

  def close(self) -> None:
    """Flushes the board."""
    if self._board:
      self._board.close()


class Timer:
  """Wall time of this process by activity; what lies outside all sections is training."""

  def __init__(self):
    self._start = time.perf_counter()
    self._sections: dict[str, float] = {}

  @contextlib.contextmanager
  def section(self, activity: str) -> Iterator[None]:
    """Counts the seconds of a with block for an activity; sections must not overlap."""
    begin = time.perf_counter()
    try:
      yield
    finally:
      seconds = time.perf_counter() - begin
      self._sections[activity] = self._sections.get(activity, 0.0) + seconds

  def seconds(self) -> dict[str, float]:
    """Seconds since the start, by activity."""
    total = time.perf_counter() - self._start
    return {"train": total - sum(self._sections.values()), **self._sections}

  def goodput(self) -> float:
    """Share of the time spent in training steps, from 0 to 1."""
    seconds = self.seconds()
    return seconds["train"] / sum(seconds.values())


def batch_digest(batch: PyTree) -> str:
  """BLAKE2 of a global batch, to compare the data of two runs."""
  digest = hashlib.blake2b(digest_size=16)
  for leaf in jax.tree.leaves(batch):
    digest.update(parallel.to_host(leaf).tobytes())
  return digest.hexdigest()


def _cut(path: pathlib.Path, last_step: int) -> None:
  """Drops the lines of later steps, which will be written again, and one that a kill cut off."""
  if path.exists():
    lines = [line for line in files.read_lines(path) if line["step"] <= last_step]
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
