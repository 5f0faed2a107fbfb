"""Does a trained model listen? Accuracy by task against chance and against noise, and one picture.

  python -m mellow_jax.evaluation.listening --workdir=runs/demo

Reads the folder of a training run. Every validation question is answered twice: with its clips, and
with Gaussian noise in their place. A model that listens loses its lead on noise. Writes
listening.json and listening.png beside the run.
"""

import dataclasses
import functools
import json
import pathlib
import re
import sys
from collections import defaultdict
from collections.abc import Sequence

import jax
import matplotlib
import numpy as np
import tqdm
from absl import app, flags, logging

from mellow_jax import checkpoint, config, parallel
from mellow_jax.checkpoint import LoadedModel
from mellow_jax.config import Config
from mellow_jax.data import augment, pipeline, scenes
from mellow_jax.data.records import Record
from mellow_jax.models import logmel, mellow
from mellow_jax.training import step

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from mellow_jax.errors import CheckpointError, ConfigError

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run.", required=True)
ROWS = flags.DEFINE_integer("rows", 4000, "Scenes asked about; rows of a file are all asked.")
REDRAWS = flags.DEFINE_integer("redraws", 0, "Option sets drawn anew for multiple choice.")
BATCH = flags.DEFINE_integer("batch_size", 50, "Questions answered together.")

NOISE_RMS = 0.1  # of the Gaussian noise, full scale being 1
ASKED = 3  # questions shown in the picture

_OPTION = re.compile(r"(?<!\S)[a-h]\) ")


def chance(row: Record) -> float | None:
  """Accuracy of a blind guess among the answers a question allows; None where any text is.

  A reader may do better: of the scenes' entailment rows it finds two thirds without listening.
  """
  options = len(_OPTION.findall(row.input))
  if options:
    return 1 / options
  return 0.5 if row.answer in ("yes", "no") else None


def family(row: Record) -> str:
  """The kind of task: "multiple choice", "yes/no" or the subtype's own name."""
  if "Entailment" in row.subtype:
    return "entailment"
  if row.answer in ("yes", "no"):
    return "yes/no"
  if chance(row):
    return "multiple choice"
  return {"Difference": "difference", "Detail": "detail"}.get(_task(row), "caption")


def _task(row: Record) -> str:
  name = row.subtype.removesuffix(".json")
  return name.partition("-")[2] or name


def answer_rows(
  model: LoadedModel, encoder: pipeline.Preprocessor, batch_size: int, *, noise: bool, label: str
) -> list[str]:
  """The greedy answer to every row of the encoder, as text."""
  run = jax.jit(functools.partial(step.answer, cfg=model.config))
  params, rng = mellow.flatten(model.params), np.random.default_rng(0)
  texts, count = [], -(-len(encoder.rows) // batch_size)
  batches = pipeline.eval_batches(encoder, batch_size=batch_size, count=count)
  for arrays in tqdm.tqdm(batches, total=count, desc=label, leave=False, file=sys.stderr):
    if noise:
      wav = NOISE_RMS * rng.standard_normal(arrays["wav1"].shape).astype(np.float32)
      arrays = {**arrays, "wav1": wav, "wav2": wav}
    found = run(params, step.Batch(**arrays))
    for tokens, length in zip(np.asarray(found.tokens), np.asarray(found.lengths), strict=True):
      texts.append(model.tokenizer.decode(tokens[0, : length[0]].tolist()))
  return texts[: len(encoder.rows)]


def accuracy(rows: Sequence[Record], texts: list[str], by: str) -> dict[str, tuple[float, int]]:
  """Share of right answers and number of rows, by task or by family."""
  found = defaultdict(list)
  for row, text in zip(rows, texts, strict=True):
    found[family(row) if by == "family" else _task(row)].append(is_right(row, text))
  return {name: (float(np.mean(hits)), len(hits)) for name, hits in sorted(found.items())}


def is_right(row: Record, text: str) -> bool:
  """Whether an answer is the row's, word for word; of yes/no questions the first word counts.

  On noise a model may say "yes and siren": in full that is never right, and worse than a guess.
  """
  given, expected = _plain(text), _plain(row.answer)
  return (given.split(" ")[0] if family(row) == "yes/no" else given) == expected


def _plain(text: str) -> str:
  return " ".join(text.lower().split())


def redraw(rows: Sequence[Record], seed: int) -> list[Record]:
  """The multiple-choice rows with other wrong options in another order."""
  captions = sorted({row.caption1 for row in rows})
  rng = np.random.default_rng([seed, 1])
  chosen = [row for row in rows if family(row) == "multiple choice"]
  return [augment.redraw_options(row, captions, rng) for row in chosen]


def load_run(workdir: pathlib.Path, rows: int) -> tuple[Config, LoadedModel, pipeline.Preprocessor]:
  """A finished run's config and model, and an encoder over its validation rows.

  Raises CheckpointError or ConfigError where the run is not finished or its data is gone.
  """
  try:
    content = json.loads((workdir / "run.json").read_text())
  except (OSError, ValueError) as error:
    raise CheckpointError(f"{workdir}: no run.json of a training run ({error})") from error
  cfg = config.from_dict(Config, content)
  model = checkpoint.load_model(workdir / "model")
  _, val, clips = pipeline.sources(cfg)
  if cfg.data.source == "scenes":
    val = scenes.Scenes("val", cfg.seed, rows, cfg.data.mix)
  encoder = pipeline.Preprocessor(val, clips, model.tokenizer, model.config, cfg.data)
  return cfg, model, encoder


def measure(
  model: LoadedModel, encoder: pipeline.Preprocessor, batch_size: int, redraws: int
) -> dict[str, dict]:
  """Accuracy by family and task with the clips and with noise, and over redrawn option sets."""
  rows = encoder.rows
  heard = answer_rows(model, encoder, batch_size, noise=False, label="with its clips")
  blind = answer_rows(model, encoder, batch_size, noise=True, label="with noise")
  report = {}
  for by in ("family", "task"):
    with_noise = accuracy(rows, blind, by)
    guesses = defaultdict(list)
    for row in rows:
      guesses[family(row) if by == "family" else _task(row)].append(chance(row) or 0.0)
    report[by] = {
      name: {
        "rows": count,
        "accuracy": share,
        "noise": with_noise[name][0],
        "chance": float(np.mean(guesses[name])),
      }
      for name, (share, count) in accuracy(rows, heard, by).items()
    }
  if redraws:
    drawn = []
    for seed in range(redraws):
      other = dataclasses.replace(encoder, rows=redraw(rows, seed))
      pair = [
        accuracy(
          other.rows,
          answer_rows(model, other, batch_size, noise=noise, label=f"option set {seed + 1}"),
          "family",
        )["multiple choice"][0]
        for noise in (False, True)
      ]
      drawn.append(pair)
    report["redrawn multiple choice"] = {
      "accuracy": [a for a, _ in drawn],
      "noise": [n for _, n in drawn],
    }
  return report


def table(report: dict[str, dict]) -> str:
  """The report as a person reads it."""
  lines = [f"{'':24}{'rows':>6}{'accuracy':>10}{'noise':>8}{'chance':>8}"]
  for by in ("family", "task"):
    for name, r in report[by].items():
      guess = f"{100 * r['chance']:.1f}" if r["chance"] else "-"
      lines.append(
        f"{name:24}{r['rows']:>6}{100 * r['accuracy']:>10.1f}{100 * r['noise']:>8.1f}{guess:>8}"
      )
    lines.append("")
  if drawn := report.get("redrawn multiple choice"):
    sets = " ".join(f"{100 * a:.1f}" for a in drawn["accuracy"])
    mean, noise = (100 * np.mean(drawn[k]) for k in ("accuracy", "noise"))
    lines.append(f"multiple choice over {len(drawn['accuracy'])} redrawn option sets: {sets}")
    lines.append(f"mean {mean:.1f}, with noise {noise:.1f}")
  return "\n".join(lines).rstrip()


def ask(model: LoadedModel, encoder: pipeline.Preprocessor) -> list[tuple[Record, str, str]]:
  """Held-out questions of different kinds, each with the answer heard and the one on noise."""
  chosen: dict[str, Record] = {}
  for row in encoder.rows:
    chosen.setdefault(family(row), row)
  wanted = ("multiple choice", "yes/no", "caption", *chosen)
  rows = [chosen[name] for name in dict.fromkeys(wanted) if name in chosen][:ASKED]
  few = dataclasses.replace(encoder, rows=rows)
  heard, blind = (
    answer_rows(model, few, len(rows), noise=noise, label="asking") for noise in (False, True)
  )
  return list(zip(rows, heard, blind, strict=True))


def draw(
  path: pathlib.Path,
  asked: list[tuple[Record, str, str]],
  encoder: pipeline.Preprocessor,
  report: dict[str, dict],
  losses: list[tuple[int, float]],
) -> None:
  """One picture: what was heard, asked and answered; how training went; what noise does."""
  audio = encoder.model.audio
  figure = plt.figure(figsize=(13, 3.0 * len(asked) + 3.4), layout="constrained")
  grid = figure.add_gridspec(len(asked) + 1, 2, width_ratios=(1.15, 1))
  spectrogram = jax.jit(functools.partial(logmel.log_mel, cfg=audio))
  for i, (row, heard, blind) in enumerate(asked):
    axes = figure.add_subplot(grid[i, 0])
    db = np.asarray(spectrogram(encoder.clips.load(row.filepath1, None)[None]))[0]
    axes.imshow(
      db.T, origin="lower", aspect="auto", extent=(0, audio.clip_seconds, 0, audio.mel_bins)
    )
    axes.set(xlabel="seconds", ylabel="mel bin")
    axes.set_title(f"what it heard: {row.caption1}", fontsize=10, loc="left")
    words = figure.add_subplot(grid[i, 1])
    words.axis("off")
    right = is_right(row, heard)
    for y, text, colour in (
      (0.85, f"Q  {row.input}", "black"),
      (0.50, f"A  {heard}", "tab:green" if right else "tab:red"),
      (0.33, f"expected  {row.answer}", "dimgray"),
      (0.16, f"on noise it says  {blind}", "dimgray"),
    ):
      words.text(0, y, text, fontsize=12, color=colour, wrap=True, va="top")
  curve = figure.add_subplot(grid[len(asked), 0])
  if losses:
    steps, values = np.array(losses).T
    width = max(len(values) // 200, 1)
    smooth = np.convolve(values, np.ones(width) / width, "valid")
    curve.plot(steps[width - 1 :], smooth, color="tab:blue")
  curve.set(xlabel="step", ylabel="training loss, nats a token", yscale="log")
  curve.grid(alpha=0.3)
  bars = figure.add_subplot(grid[len(asked), 1])
  names = list(report["family"])
  x = np.arange(len(names))
  for shift, key, colour in ((-0.2, "accuracy", "tab:green"), (0.2, "noise", "tab:gray")):
    heights = [100 * report["family"][name][key] for name in names]
    bars.bar(x + shift, heights, 0.38, color=colour, label=key)
  for i, name in enumerate(names):
    if guess := report["family"][name]["chance"]:
      bars.hlines(100 * guess, i - 0.4, i + 0.4, colors="black", linestyles=":")
  bars.plot([], [], "k:", label="chance")
  bars.set_xticks(x, [name.replace(" ", "\n") for name in names])
  bars.set(ylabel="right answers, %", ylim=(0, 105))
  bars.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, frameon=False)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def run(workdir: pathlib.Path, rows: int, redraws: int, batch_size: int) -> dict[str, dict]:
  """Measures a run, prints and writes what was found."""
  cfg, model, encoder = load_run(workdir, rows)
  print("compiling, once", flush=True)
  report = measure(model, encoder, batch_size, redraws)
  print(table(report))
  asked = ask(model, encoder)
  for row, heard, blind in asked:
    print(f"\nQ {row.input}\nA {heard}   (expected: {row.answer}; on noise: {blind})")
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
  report = {"seed": cfg.seed, "steps": cfg.steps, **report}
  (workdir / "listening.json").write_text(json.dumps(report, indent=1))
  draw(workdir / "listening.png", asked, encoder, report, losses)
  print(f"\npicture: {workdir / 'listening.png'}")
  return report


def main(argv: list[str]) -> None:
  """Entry of the command."""
  del argv
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  parallel.use_compilation_cache()
  try:
    run(pathlib.Path(WORKDIR.value), ROWS.value, REDRAWS.value, BATCH.value)
  except (CheckpointError, ConfigError, OSError) as error:
    print(f"mellow_jax.evaluation.listening: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  app.run(main)
