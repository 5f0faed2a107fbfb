"""Seconds of new processes: import, first answer, first training step; cold and warm.

  python -m benchmarks.startup --output=startup.json
  python -m benchmarks.startup --full_size

Each turn is a command in a process of its own: Python alone, importing what answers, `mellow
generate` until it has answered a question of one clip, `mellow train` on generated scenes until
metrics.jsonl has its first step. "cold" has an empty compilation cache, "warm" that of an earlier
turn. Weights are random; sizes are the demo's, or the paper's with --full_size. Importing PyTorch
and transformers stands beside them where they are installed. Needs a POSIX system.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import rounds

ROOT = Path(__file__).parents[1]
ALONE, IMPORT, PEER = "Python alone", "import what answers", "import torch and transformers"
TOKENS = 16  # of the answer
SCENES = """
import runpy

def get_config():
  cfg = runpy.run_path({path!r})["get_config"]("random")
  cfg.data.source, cfg.data.mix = "scenes", {{"caption": 0.5, "binary": 0.5}}
  cfg.model.sep_id, cfg.model.end_id, cfg.model.pad_id = 0, 0, 1  # of the scenes' tokenizer
  cfg.batch_size = 4
  return cfg
"""
SMALLER = ["--config.model.decoder.layers=1", "--config.model.encoder.depths=(1,1)"]


def write_model(folder: Path, full_size: bool) -> None:
  """A model folder with random weights, and clip.wav beside it."""
  from mellow_jax import checkpoint, cli
  from mellow_jax.config import ModelConfig
  from mellow_jax.data import tokenizer
  from mellow_jax.models import mellow

  cfg = ModelConfig()
  if not full_size:
    import runpy

    cfg = runpy.run_path(cli.config_path("demo"))["get_config"]().model
  words = tokenizer.build_tokenizer(["! is there a bell ? yes no"])
  checkpoint.save_model(folder / "model", mellow.init_params(cfg, 0), cfg, "clean", words)
  samples = np.random.default_rng(0).normal(0, 3000, 10 * 32_000).astype("<i2")
  with wave.open(str(folder / "clip.wav"), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(32_000)
    file.writeframes(samples.tobytes())


class Command:
  """A command in a new process; a turn returns its seconds."""

  def __init__(self, folder: Path, arguments: Sequence[str], cache: Path | None = None):
    """cache is the folder of compiled programs that turns share; None: each has an empty one."""
    self._folder, self._arguments, self._cache = folder, [sys.executable, *arguments], cache
    if cache:
      self.turn()  # fills it

  def turn(self) -> float:
    with tempfile.TemporaryDirectory(dir=self._folder) as name:
      cache = str(self._cache or Path(name) / "cache")
      start = time.perf_counter()
      path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
      self._run(Path(name), {**os.environ, "MELLOW_CACHE": cache, "PYTHONPATH": path})
      return time.perf_counter() - start

  def _run(self, folder: Path, env: dict[str, str]) -> None:
    subprocess.run(self._arguments, env=env, cwd=folder, check=True, capture_output=True)


class FirstStep(Command):
  """`mellow train` until it has written down its first step."""

  def _run(self, folder: Path, env: dict[str, str]) -> None:
    metrics, log = folder / "run" / "metrics.jsonl", folder / "log.txt"
    with log.open("w") as output:
      command = [*self._arguments, f"--workdir={folder / 'run'}"]
      process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
      try:
        while not (metrics.exists() and "\n" in metrics.read_text()):
          if process.poll() is not None:
            raise RuntimeError(f"training ended: {log.read_text()}")
          time.sleep(0.005)
      finally:
        process.kill()
        process.wait()


def commands(args: argparse.Namespace, folder: Path) -> dict[str, partial]:
  """Contestants by name."""
  answer = ["-m", "mellow_jax.generate", f"--checkpoint={folder / 'model'}"]
  answer += [f"--max_new_tokens={TOKENS}", str(folder / "clip.wav"), "is there a bell?"]
  config = "demo"
  if args.full_size:
    from mellow_jax import cli

    config = str(folder / "on_scenes.py")
    Path(config).write_text(SCENES.format(path=cli.config_path("mellow")))
  train = ["-m", "mellow_jax.train", f"--config={config}", "--config.log_every=1"]
  train += ["--config.eval_batches=0", "--config.sample_answers=0"]
  train += [*SMALLER, "--config.calibrate_batches=1"] if args.tiny else []
  found = {
    ALONE: partial(Command, folder, ["-c", "pass"]),
    IMPORT: partial(Command, folder, ["-c", "from mellow_jax import Mellow"]),
  }
  if rounds.has("torch"):
    found[PEER] = partial(Command, folder, ["-c", "import torch, transformers"])
  for kind, cache in (("cold", None), ("warm", folder / "cache")):
    found[f"first answer, {kind}"] = partial(Command, folder, answer, cache)
    found[f"first training step, {kind}"] = partial(FirstStep, folder, train, cache)
  return found


def run(args: argparse.Namespace) -> dict:
  """The measurement; its report."""
  report = rounds.Report("startup", args)
  if not rounds.has("torch"):
    report.skip(PEER, "torch is not installed")
  with tempfile.TemporaryDirectory() as name:
    rounds.apart(write_model, Path(name), args.full_size)
    everyone = [
      rounds.Contestant(one, 1, make, own_process=False)
      for one, make in commands(args, Path(name)).items()
    ]
    measured = rounds.take_turns(everyone, args.rounds)
  title = f"start-up, {'full size' if args.full_size else 'demo'}"
  report.add(rounds.table(title, "s", everyone, measured))
  return report.content


def parser() -> argparse.ArgumentParser:
  found = rounds.parser(__doc__)
  found.add_argument("--full_size", action="store_true", help="the paper's sizes")
  return found


def main(argv: Sequence[str]) -> None:
  run(parser().parse_args(argv))


if __name__ == "__main__":
  main(sys.argv[1:])
