"""Batches with bad clips, killed at random: `python kill_batches.py FOLDER MODEL COUNT SECONDS`.

The parent imports everything and forks; a child answers one table after another with one model, as
`mellow generate` does, until it is killed. Each table must end complete: every good row answered
once, every bad row named once. MODEL is a model folder, or "none" for one whose network is left
out, so that a child starts in no time.
"""

import contextlib
import functools
import json
import os
import random
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import soundfile
import tiny

from mellow_jax import checkpoint, generate
from mellow_jax.data import presets
from mellow_jax.inference import answering, api
from mellow_jax.inference.decode import Generation

RATE, SEED = 16_000, 0
BAD = ("empty", "text", "cut", "missing", "folder")  # what may stand in the place of a clip
ROWS = 24  # at most, of a table


def make(folder: Path, count: int) -> list[tuple[Path, dict[int, bool]]]:
  """Tables with their clips: the path of each, and which of its rows are good."""
  rng, tables = random.Random(SEED), []
  tones = np.random.default_rng(SEED).uniform(-0.5, 0.5, (8, RATE // 2)).astype(np.float32)
  for number in range(count):
    root, rows, good = folder / f"{number}", [], {}
    root.mkdir(parents=True)
    for row in range(rng.randint(4, ROWS)):
      good[row] = rng.random() > 0.25
      write(root / f"{row}.wav", tones[row % 8], None if good[row] else rng.choice(BAD))
      rows.append({"file": f"{row}.wav", "question": rng.choice(["rain ?", "what is heard ?"])})
    good[0] = True
    write(root / "0.wav", tones[0], None)
    path = root / rng.choice(["rows.json", "rows.jsonl", "rows.csv"])
    if path.suffix == ".csv":
      path.write_text(
        "".join(f"{','.join(cells)}\n" for cells in [rows[0], *map(dict.values, rows)])
      )
    else:
      text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
      path.write_text(text)
    (root / "config.json").write_text(json.dumps({"format": checkpoint.FORMAT}))
    tables.append((path, good))
  return tables


def write(path: Path, wav: np.ndarray, bad: str | None) -> None:
  """A clip, or something else in its place."""
  if path.is_dir():
    path.rmdir()
  path.unlink(missing_ok=True)
  if bad == "folder":
    path.mkdir()
  elif bad in ("empty", "text"):
    path.write_bytes(b"no audio" if bad == "text" else b"")
  elif bad != "missing":
    soundfile.write(path, wav, RATE)
    if bad == "cut":
      path.write_bytes(path.read_bytes()[:500])


def load(model_folder: str) -> api.Mellow:
  """The model of a folder; of "none" all but the network."""
  if model_folder != "none":
    return api.Mellow.load(model_folder)
  model = object.__new__(api.Mellow)
  model.preset, model.cfg = presets.PRESETS["clean"], tiny.config()
  model.tokenizer, model.params, model._compiled = tiny.tokenizer(), None, set()
  model._inputs = len

  def generate(params: None, size: int, key: int, numbers: np.ndarray, how: object) -> Generation:
    time.sleep(0.005)
    ends = np.ones((size, 1), np.int32)
    return Generation(np.full((size, 1, 4), 5), 2 * ends, -1.0 * ends, np.int32(3))

  model._generate = generate
  # In place of the engine, which needs a network: batches.
  batches = types.SimpleNamespace(answers=functools.partial(model.stream, batch_size=4))
  answering.Engine = lambda *_, **__: contextlib.nullcontext(batches)
  api.jax.random.key = int  # the first of JAX's own would take longer than a table
  return model


def answer(tables: list[tuple[Path, dict[int, bool]]], model_folder: str) -> None:
  """Answers the tables that are not complete, with one model for all."""
  loaded = load(model_folder)
  answering.Mellow.load = lambda *_: loaded
  for path, good in tables:
    done = path.with_name("done")
    if done.exists():
      continue
    folder = path.parent if model_folder == "none" else model_folder
    flags = [f"--checkpoint={folder}", f"--data={path}", "--batch_size=4"]
    output = path.with_name("out.jsonl")
    flags += [f"--output={output}", "--max_new_tokens=4"]
    status = generate.main(["generate", *flags])
    assert status == (0 if all(good.values()) else 2), status
    done.touch()


def check(tables: list[tuple[Path, dict[int, bool]]]) -> tuple[int, int]:
  """Rows answered and rows named as bad; raises AssertionError where a table is not complete."""
  answered = named = 0
  for path, good in tables:
    lines = [json.loads(line) for line in path.with_name("out.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(len(good))), path
    for line in lines:
      assert line["filepath1"] == f"{line['row']}.wav"
      assert ("failure" not in line) == good[line["row"]], (path, line)
      assert good[line["row"]] == ("texts" in line), (path, line)
      named += "failure" in line
      answered += "texts" in line
  return answered, named


def kill_until_done(tables: list, model_folder: str, log: Path, seconds: float) -> int:
  """Forks children that answer, kills each after a random time; returns the number of kills."""
  rng, kills, ended, stalls = random.Random(SEED), 0, 0, 0
  while True:
    child = os.fork()
    if not child:
      with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
      try:
        answer(tables, model_folder)
      except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
      os._exit(0)
    # It dies in the midst of its work: after a random time from its first new line on.
    before, deadline = written(tables), None
    # A child that is too slow here to end any table gets more time.
    now = sum(path.with_name("done").exists() for path, _ in tables)
    stalls, ended = 0 if now > ended else stalls + 1, now
    wait = rng.uniform(0, seconds * 1.5**stalls)
    while True:
      pid, status = os.waitpid(child, os.WNOHANG)
      if pid:
        assert status == 0, log.read_text()[-3000:]
        return kills
      if deadline is None and written(tables) != before:
        deadline = time.monotonic() + wait
      if deadline is not None and time.monotonic() > deadline:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        break
      time.sleep(0.002)


def written(tables: list) -> int:
  """Bytes of all answers so far."""
  outputs = (path.with_name("out.jsonl") for path, _ in tables)
  return sum(output.stat().st_size for output in outputs if output.exists())


def main(folder: str, model_folder: str, count: str, seconds: str = "0.3") -> None:
  """Makes the tables, kills and continues, and prints what came of it."""
  tables = make(Path(folder), int(count))
  kills = kill_until_done(tables, model_folder, Path(folder) / "log", float(seconds))
  answered, named = check(tables)
  print(f"{count} tables, {kills} kills: {answered} rows answered once, {named} named as bad once")


if __name__ == "__main__":
  main(*sys.argv[1:])
