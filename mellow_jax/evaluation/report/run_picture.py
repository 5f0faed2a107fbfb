"""The picture of a training run: three of its answers, its loss, its accuracy by task."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mellow_jax import config, files
from mellow_jax.config import Config
from mellow_jax.data import pipeline
from mellow_jax.errors import PredictionsError
from mellow_jax.evaluation.benchmarks.items import Prediction
from mellow_jax.evaluation.metrics import rules
from mellow_jax.evaluation.report import sections, summary
from mellow_jax.models import logmel

ASKED = 3  # questions shown
FIRST = ("multiple choice", "yes/no", "caption")  # tasks shown, where there are such
SMOOTHING = 200  # points of the loss curve left after smoothing


def choose(predictions: Sequence[Prediction]) -> list[Prediction]:
  """The first answer of each of three tasks."""
  by_task: dict[str, Prediction] = {}
  for prediction in predictions:
    by_task.setdefault(prediction.item.groups.get("task", prediction.item.kind), prediction)
  names = dict.fromkeys((*FIRST, *by_task))
  return [by_task[name] for name in names if name in by_task][:ASKED]


def expected(prediction: Prediction) -> str:
  """The right answer as the model should write it, of options with the letter."""
  answer = prediction.item.answer
  return f"{rules.gold_letter(prediction)}) {answer}" if prediction.item.choices else answer


def accuracies(predictions: Sequence[Prediction]) -> dict[str, sections.ItemValues]:
  """Word-for-word accuracy of each section, by item; of yes and no by the word alone."""
  return {part.name: sections.headline(part)[-1] for part in sections.split(predictions)}


def _draw_question(
  spectrum: Axes, words: Axes, cfg: Config, clip: tuple[str, np.ndarray], texts: Sequence[str]
) -> None:
  """A clip with its caption; beside it question, answer, expected answer and answer to the probe.

  texts are these four, and the colour of the answer.
  """
  caption, db = clip
  audio = cfg.model.audio
  extent = (0, audio.clip_seconds, 0, audio.mel_bins)
  spectrum.imshow(db.T, origin="lower", aspect="auto", extent=extent)
  spectrum.set(xlabel="seconds", ylabel="mel bin")
  spectrum.set_title(f"first clip: {caption}", fontsize=10, loc="left")
  words.axis("off")
  question, answer, right, probed, colour = texts
  for y, text, shade in (
    (0.85, f"Q  {question}", "black"),
    (0.50, f"A  {answer}", colour),
    (0.33, f"expected  {right}", "dimgray"),
    (0.16, probed, "dimgray"),
  ):
    words.text(0, y, text.replace("$", r"\$"), fontsize=12, color=shade, wrap=True, va="top")


def _draw_loss(ax: Axes, losses: Sequence[tuple[int, float]]) -> None:
  if losses:
    steps, values = np.array(losses).T
    width = max(len(values) // SMOOTHING, 1)
    ax.plot(steps[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"))
  ax.set(xlabel="step", ylabel="training loss, nats a token", yscale="log")
  ax.grid(alpha=0.3)


def _draw_accuracy(
  ax: Axes, plain: Sequence[Prediction], probe: Sequence[Prediction], label: str
) -> None:
  """Bars of each section with the clips and with the probe, and the accuracy of random answers."""
  parts = sections.split(plain)
  x = np.arange(len(parts))
  for shift, predictions, colour, name in (
    (-0.2, plain, "tab:green", "clips"),
    (0.2, probe, "tab:gray", label),
  ):
    found = accuracies(predictions)
    heights = [found[part.name].values.mean() if part.name in found else 0.0 for part in parts]
    ax.bar(x + shift, heights, 0.38, color=colour, label=name)
  for i, part in enumerate(parts):
    if part.kind != "text":
      chance = summary.blind(part)["random"].mean()
      ax.hlines(chance, i - 0.4, i + 0.4, colors="black", linestyles=":")
  ax.plot([], [], "k:", label="chance")
  ax.set_xticks(x, [part.name.replace(" ", "\n").replace("-", "\n") for part in parts])
  ax.set(ylabel="word-for-word accuracy, %", ylim=(0, 105))
  ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, frameon=False)


def draw(
  workdir: Path, plain: Sequence[Prediction], probe: Sequence[Prediction], label: str
) -> Figure:
  """The picture of a run and its answers; also prints the questions shown.

  label names what the probe changed. Raises DataError where workdir holds no run, PredictionsError
  where the probe lacks a question.
  """
  run = files.read_json(workdir / "run.json", "the settings of a training run")
  cfg = config.from_dict(Config, run)
  _, rows, clips = pipeline.sources(cfg)
  probed = {p.item.id: p.prediction for p in probe}
  spectrogram = jax.jit(functools.partial(logmel.log_mel, cfg=cfg.model.audio))
  shown = choose(plain)
  figure = Figure(figsize=(13, 2.1 * len(shown) + 2.7), layout="constrained")
  grid = figure.add_gridspec(len(shown) + 1, 2, width_ratios=(1.15, 1))
  for i, prediction in enumerate(shown):
    item = prediction.item
    if item.id not in probed:
      raise PredictionsError(f"--probe: id {item.id!r} has no answer: probe the same questions")
    caption = next((row.caption1 for row in rows if row.filepath1 == item.audio1), item.audio1)
    wav = clips.load(item.audio1, None)[None]
    axes = figure.add_subplot(grid[i, 0]), figure.add_subplot(grid[i, 1])
    answer, other = prediction.prediction, f"with {label}: {probed[item.id]}"
    (figures,) = accuracies([prediction]).values()
    colour = "tab:green" if figures.values[0] else "tab:red"
    texts = (prediction.prompt, answer, expected(prediction), other, colour)
    _draw_question(*axes, cfg, (caption, np.asarray(spectrogram(wav))[0]), texts)
    print(f"\nQ {prediction.prompt}\nA {answer}   (expected: {expected(prediction)}; {other})")
  lines = files.read_lines(workdir / "metrics.jsonl")
  losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
  _draw_loss(figure.add_subplot(grid[len(shown), 0]), losses)
  _draw_accuracy(figure.add_subplot(grid[len(shown), 1]), plain, probe, label)
  return figure
