"""Clips a second of a CPU core by format, and a run on files beside one on synthetic batches.

  python -m benchmarks.pipeline --output=pipeline.json

Formats: wav at 32 kHz of 10 s, and wav, flac, ogg and mp3 at 44.1 kHz of 22 s, of which ten seconds
from a random place are decoded and resampled to 32 kHz, as the loader does. Beside it stand
librosa, which decodes the same part, and torchaudio as the public PyTorch code uses it: the whole
file, all of it resampled, then cut. The first ten seconds must agree before anything is timed: to
1e-2 of their root mean square with librosa, whose filter is another, and to 1e-4 with torchaudio.
Seconds are those of the CPU, in all threads; files are in the system's cache.

The second table trains: on one batch again and again, and on the loader's batches from such files.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from benchmarks import inputs, rounds
from mellow_jax.config import AudioConfig, Config, DataConfig
from mellow_jax.data import audio
from mellow_jax.data.presets import PRESETS

Wave = np.ndarray
FORMATS = {  # samples a second, seconds, format of soundfile
  "wav, 32 kHz": (32_000, 10, "wav"),
  "wav, 44.1 kHz": (44_100, 22, "wav"),
  "flac, 44.1 kHz": (44_100, 22, "flac"),
  "ogg, 44.1 kHz": (44_100, 22, "ogg"),
  "mp3, 44.1 kHz": (44_100, 22, "mp3"),
}
CFG, PRESET = AudioConfig(), PRESETS["training"]
FILES = 8  # of a format, or clips of the run
OURS, SYNTHETIC = "ours", "synthetic batches"
TOLERANCES = {"librosa": 1e-2, "torchaudio": 1e-4}


def sound(rate: int, seconds: float, seed: int) -> Wave:
  """Chirps up to 6 kHz, which all resampling filters keep, and which lossy formats compress."""
  rng, t = np.random.default_rng(seed), np.arange(round(rate * seconds)) / rate
  wav = np.zeros(len(t))
  for _ in range(8):
    low, high = rng.uniform(80, 6000, 2)
    wav += np.sin(2 * np.pi * (low * t + (high - low) * t**2 / (2 * seconds)))
  return (0.1 * wav).astype(np.float32)


def write(folder: Path, kind: str, count: int) -> list[Path]:
  """So many files of a format."""
  rate, seconds, suffix = FORMATS[kind]
  paths = [folder / f"{kind.replace(' ', '_')}{i}.{suffix}" for i in range(count)]
  for i, path in enumerate(paths):
    soundfile.write(path, sound(rate, seconds, i), rate)
  return paths


# --- Contestants: ten seconds of a file, from a random place or from its beginning ---------------


def ours(path: Path, rng: np.random.Generator | None) -> Wave:
  return audio.load(path, CFG, PRESET, rng=rng).wav


def librosa_crop(path: Path, rng: np.random.Generator | None) -> Wave:
  import librosa

  seconds = CFG.clip_seconds
  offset = rng.uniform(0, max(soundfile.info(path).duration - seconds, 0)) if rng else 0.0
  return librosa.load(path, sr=CFG.sample_rate, offset=offset, duration=seconds)[0]


def torchaudio_whole(path: Path, rng: np.random.Generator | None) -> Wave:
  import torchaudio

  wav, rate = torchaudio.load(str(path))
  wav = torchaudio.functional.resample(wav[:2].mean(0), rate, CFG.sample_rate).numpy()
  spare = max(len(wav) - CFG.clip_samples, 0)
  start = int(rng.integers(spare + 1)) if rng else 0
  return wav[start : start + CFG.clip_samples]


class Decoder:
  """A way to decode files; a turn returns the CPU's seconds of each of them once."""

  def __init__(self, load: Callable[[Path, np.random.Generator | None], Wave], paths: list[Path]):
    self._load, self._paths = load, paths
    self._rng = np.random.default_rng(0)
    self.first()  # imports

  def first(self) -> Wave:
    """The beginning of the first file."""
    return self._load(self._paths[0], None)

  def turn(self) -> float:
    start = time.process_time()
    for path in self._paths:
      self._load(path, self._rng)
    return time.process_time() - start


def difference(found: Wave, expected: Wave) -> float:
  """Root mean square of the difference as a share of that of the second."""
  count = min(len(found), len(expected))
  error = found[:count] - expected[:count]
  return float(np.sqrt(np.mean(error**2) / np.mean(expected[:count] ** 2)))


def decoding(kind: str, loads: dict, paths: list[Path], report: rounds.Report, count: int) -> dict:
  """The table of a format."""
  everyone = [
    rounds.Contestant(name, len(paths), partial(Decoder, load, paths), own_process=False)
    for name, load in loads.items()
  ]
  own = everyone[-1].call("first")
  for one in everyone[:-1]:
    far = difference(own, one.call("first"))
    report.agree(f"{kind}, {one.name}", far, TOLERANCES[one.name])
  measured = rounds.take_turns(everyone, count)
  return rounds.table(kind, "clips/s of a core", everyone, measured, peers=[*TOLERANCES])


# --- A run ---------------------------------------------------------------------------------------


class Run:
  """A run on files; a turn returns the seconds of so many steps."""

  def __init__(self, cfg: Config, folder: Path, steps: int, on_files: bool, trains: bool = True):
    import jax

    from mellow_jax import parallel
    from mellow_jax.models import mellow
    from mellow_jax.training import programs
    from mellow_jax.training.loader import Loader

    parallel.use_compilation_cache()
    mesh = parallel.make_mesh((1, 1), jax.devices()[:1])
    loader = Loader(cfg, mesh, folder)
    self._batches = self._loaded = loader.train(0, {})
    if not on_files:
      self._batches = itertools.repeat(next(self._loaded))
    self._steps, self._trains, self._wait = steps, trains, jax.block_until_ready
    if trains:
      made = programs.make(loader.cfg, mesh)
      self._step = made.train_step
      self._state = made.init_state(mellow.flatten(mellow.init_params(loader.cfg.model, 0)))
    self._run()  # compiles

  def _run(self) -> None:
    batch = next(self._batches)
    if self._trains:
      self._state, metrics = self._step(self._state, batch)
      self._wait(metrics)

  def turn(self) -> float:
    def steps() -> None:
      for _ in range(self._steps):
        self._run()

    return rounds.timed(steps)[0]

  def close(self) -> None:
    self._loaded.close()


def write_rows(folder: Path, seconds: float) -> None:
  """rows.json and its clips at 44.1 kHz."""
  rows = []
  for i in range(2 * FILES):
    soundfile.write(folder / f"{i}.wav", sound(44_100, seconds, i), 44_100)
    row = {"taskname": "made", "filepath1": f"{i}.wav", "filepath2": "", "caption1": "chirps"}
    texts = {"caption2": "", "input": "what is heard?", "answer": f"{i} chirps", "subtype": "Made"}
    rows.append(row | texts)
  (folder / "rows.json").write_text(json.dumps(rows))


def training(args: argparse.Namespace, folder: Path) -> dict:
  """The table of a run on files."""
  model = inputs.model(args.tiny, args.layers)
  write_rows(folder, 2.2 * model.audio.clip_seconds)
  data = DataConfig(
    train=str(folder / "rows.json"),
    audio_root=str(folder),
    val_share=0.25,
    tokenizer="words",
    threads=args.threads,
  )
  cfg = Config(model=model, data=data, batch_size=args.batch)
  runs = {
    SYNTHETIC: partial(Run, cfg, folder, args.steps, on_files=False),
    "files through the loader": partial(Run, cfg, folder, args.steps, on_files=True),
    "the loader alone": partial(Run, cfg, folder, args.steps, on_files=True, trains=False),
  }
  amount, own_process = args.batch * args.steps, not args.tiny
  everyone = [
    rounds.Contestant(name, amount, make, own_process=own_process) for name, make in runs.items()
  ]
  measured = rounds.take_turns(everyone, args.rounds)
  table = rounds.table(
    f"training, batch {args.batch}", "examples/s", everyone, measured, peers=(SYNTHETIC,)
  )
  for one in everyone:
    one.close()
  return table


def run(args: argparse.Namespace) -> dict:
  """The measurement; its report."""
  report = rounds.Report("pipeline", args)
  loads = {"librosa": librosa_crop, "torchaudio": torchaudio_whole}
  for name in list(loads):
    if not rounds.has(name):
      report.skip(name, f"not installed: pip install {name}")
      del loads[name]
  loads[OURS] = ours
  with tempfile.TemporaryDirectory() as name:
    for kind in FORMATS:
      paths = write(Path(name), kind, 1 if args.tiny else FILES)
      report.add(decoding(kind, loads, paths, report, args.rounds))
    report.add(training(args, Path(name)))
  return report.content


def parser() -> argparse.ArgumentParser:
  found = rounds.parser(__doc__)
  found.add_argument("--layers", type=int, help="of the decoder of the run, fewer than its own")
  found.add_argument("--batch", type=int, default=4, help="of the run")
  found.add_argument("--steps", type=int, default=2, help="of a turn of the run")
  found.add_argument("--threads", type=int, default=2, help="of the loader")
  return found


def main(argv: Sequence[str]) -> None:
  run(parser().parse_args(argv))


if __name__ == "__main__":
  main(sys.argv[1:])
