"""What the savings of training do to the loss: short runs with each of them, beside the plain run.

  python -m benchmarks.losses --output=losses.json

The demo's model with a frozen encoder learns from generated clips with eight questions each, whose
answers have one word to ten. Each run ends with the loss on other clips. Savings that are exact
to rounding must agree with the plain run to 1e-5. Batches of answers of one length, and questions
that share their clips, change which rows meet in a batch; beside them stands the plain run with its
rows in another order. Each round is of another seed.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from benchmarks import rounds
from configs import demo
from mellow_jax import files
from mellow_jax.config import Config, DataConfig
from mellow_jax.data import choices, scene_audio, scenes
from mellow_jax.data.records import FIELDS

PLAIN, REORDERED = "plain", "plain, rows in another order"
QUESTIONS = 8  # on each clip
TOLERANCE = 1e-5  # of savings that are exact, relative


def questions(scene: scene_audio.Scene, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
  """Eight questions on a scene, with their answers."""
  ask = scenes.QUESTIONS
  absent = [kind for kind in scene_audio.KINDS if kind not in scene.kinds]
  yield ask["caption"], scene.caption
  yield ask["caption"], f"{scene.caption} and then {scene.caption}"
  for kind in rng.choice(scene_audio.KINDS, 4, replace=False):
    yield ask["binary"].format(kind=kind), "yes" if kind in scene.kinds else "no"
  for _ in range(2):
    options = [str(rng.choice(scene.kinds)), *map(str, rng.choice(absent, 3, replace=False))]
    yield choices.multiple_choice(ask["presence"], options, rng)


def write(folder: Path, cfg: Config, split: str, count: int) -> Path:
  """Writes so many clips and the table of their questions; returns the table's path."""
  audio, rows = cfg.model.audio, []
  clips = scene_audio.SceneClips(audio.sample_rate, audio.clip_samples)
  for number in range(count):
    path = scene_audio.scene_path(0, split, number)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / path, clips.load(path), audio.sample_rate)
    scene = scene_audio.draw_scene(0, split, number)
    for question, answer in questions(scene, np.random.default_rng(number)):
      fields = {"filepath1": path, "caption1": scene.caption, "input": question, "answer": answer}
      rows.append(dict.fromkeys(FIELDS, "") | fields)
  files.write_json(folder / f"{split}.json", rows)
  return folder / f"{split}.json"


def runs(plain: Config, features: Path) -> dict[str, Config]:
  """The runs by name."""

  def run(accumulate: int = 1, **data: object) -> Config:
    changed = dataclasses.replace(plain.data, **data)
    return dataclasses.replace(plain, data=changed, accumulate=accumulate)

  lengths = {"answer_lengths": 4}
  shared = {"share_prefix": QUESTIONS}
  return {
    PLAIN: plain,
    "answer lengths": run(**lengths),
    "answer lengths, in parts": run(4, **lengths),
    "cached features": run(features=str(features)),
    REORDERED: run(),
    "batches of one length": run(**lengths, group_answers=True),
    f"{QUESTIONS} questions on shared clips": run(**shared),
    "both": run(**lengths, **shared, group_answers=True),
  }


EXACT = ("answer lengths", "answer lengths, in parts", "cached features")


def final_loss(cfg: Config, workdir: Path) -> float:
  """Trains, and returns the loss on the clips that are held out."""
  from mellow_jax.training import loop

  loop.train(cfg, workdir)
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [line["val_loss"] for line in map(json.loads, lines) if "val_loss" in line][-1]


def base(args: argparse.Namespace, folder: Path) -> Config:
  """The plain run, with its files written."""
  cfg = demo.get_config()
  encoder = dataclasses.replace(cfg.model.encoder, spec_augment=False)
  cfg = dataclasses.replace(
    cfg,
    model=dataclasses.replace(cfg.model, encoder=encoder),
    steps=args.steps,
    batch_size=32,
    calibrate_batches=0,
    save_every=args.steps,
    eval_every=args.steps,
    optim=dataclasses.replace(cfg.optim, warmup_steps=args.steps // 10, freeze=("encoder/.*",)),
  )
  folder.mkdir()
  scenes.build_tokenizer().save(str(folder / "tokenizer.json"))
  train, val = (write(folder, cfg, split, n) for split, n in (("train", args.clips), ("val", 64)))
  data = DataConfig(
    **{"source": "files", "preset": "clean", "train": str(train), "val": str(val)},
    **{"tokenizer": str(folder / "tokenizer.json"), "second_clip": "same", "cache_clips": True},
  )
  return dataclasses.replace(cfg, data=data, eval_batches=64 * QUESTIONS // cfg.batch_size)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
  """The last losses of each run, by seed."""
  from mellow_jax import parallel
  from mellow_jax.training import features

  parallel.use_compilation_cache()
  plain, found = base(args, folder / "data"), {}
  for seed in range(args.rounds):
    seeded = dataclasses.replace(plain, seed=seed)
    with contextlib.redirect_stdout(io.StringIO()):
      features.write(seeded, folder / f"features{seed}", windows=1, batch=32, log=print)
    for name, cfg in runs(seeded, folder / f"features{seed}").items():
      if name == REORDERED:
        cfg = _reordered(cfg, folder / f"reordered{seed}.json")
      with contextlib.redirect_stdout(io.StringIO()):
        loss = final_loss(cfg, folder / f"{seed}" / name.replace(" ", "_"))
      found.setdefault(name, []).append(loss)
      print(f"seed {seed}, {name}: {loss:.7g}, {loss / found[PLAIN][-1] - 1:+.1e}", flush=True)
  return found


def _reordered(cfg: Config, path: Path) -> Config:
  """The run on the same rows, which stand in another order."""
  rows = json.loads(Path(cfg.data.train).read_text())
  order = np.random.default_rng(0).permutation(len(rows))
  files.write_json(path, [rows[i] for i in order])
  root = str(Path(cfg.data.train).parent)
  return dataclasses.replace(
    cfg, data=dataclasses.replace(cfg.data, train=str(path), audio_root=root)
  )


def table(losses: dict[str, list[float]]) -> dict:
  """The losses of all runs, with their ratios to those of the plain run."""
  rows, notes = [], []
  for name, values in losses.items():
    ratios = [value / plain for value, plain in zip(values, losses[PLAIN], strict=True)]
    times = {} if name == PLAIN else {PLAIN: statistics.median(ratios)}
    rows.append({"name": name, **rounds.spread(values), "losses": values, "times": times})
    if name != PLAIN:
      mean = statistics.mean(ratios) - 1
      low, high = min(ratios) - 1, max(ratios) - 1
      notes.append(f"{name}: {mean:+.1e} of the plain loss on average ({low:+.1e} to {high:+.1e})")
  count = len(losses[PLAIN])
  return {
    **{"title": "loss on held-out clips", "unit": "nats a token", "rounds": count, "limits": {}},
    **{"rows": rows, "notes": notes},
  }


def run(args: argparse.Namespace) -> dict:
  """The measurement; its report."""
  report = rounds.Report("losses", args)
  with tempfile.TemporaryDirectory() as name:
    losses = measure(args, Path(name))
  for name in EXACT:
    apart = max(abs(a / b - 1) for a, b in zip(losses[name], losses[PLAIN], strict=True))
    report.agree(name, apart, TOLERANCE)
  report.add(table(losses))
  return report.content


def main(argv: list[str] | None = None) -> dict:
  found = rounds.parser(__doc__)
  found.add_argument("--steps", type=int, default=200)
  found.add_argument("--clips", type=int, default=512)
  args = found.parse_args(argv)
  if args.tiny:
    args.steps, args.clips, args.rounds = min(args.steps, 4), min(args.clips, 16), 1
  return run(args)


if __name__ == "__main__":
  main(sys.argv[1:])
