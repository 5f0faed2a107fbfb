"""The picture of `mellow_jax.inspect`: question and answer above spectrogram and sound events."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import librosa
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mellow_jax.config import AudioConfig
from mellow_jax.evaluation.inspection.events import Timeline, ceil, event_name, top_events

RANGE_DB = 80.0  # shown below the loudest cell
WIDTH = 9.0  # inches; at less than half of it, on a phone, texts can still be read
CHARACTERS = 86  # of a line of text, at the most
LINE = 0.21  # height of a line of text, inches
LABEL = 24  # characters of an event's name on a line


def _lines(
  prompt: str, answers: Sequence[dict], rule: dict, several_windows: bool
) -> list[tuple[str, str, str]]:
  """(text, colour, weight) of each line above the clips."""
  found = [(f"Q  {prompt}", "black", "normal")]
  for answer in answers:
    where = f"[{' | '.join(answer['heard'])}]  " if several_windows else ""
    found.append((f"A  {where}{answer['answer'] or '(an empty answer)'}", "black", "bold"))
    checked = answer["check"]
    if checked is None:
      continue
    supported = [w for w in checked["words"] if w["supported"]]
    flagged = [w for w in checked["words"] if not w["supported"]]
    for title, words, colour in (
      ("supported by an event", supported, "tab:green"),
      (f"no event above {checked['threshold']:g}", flagged, "tab:red"),
    ):
      if words:
        each = ", ".join(f"{w['word']} ({w['event']} {w['peak']:.2f})" for w in words)
        found.append((f"     {title}: {each}", colour, "normal"))
    if not checked["words"]:
      found.append(("     no word of the answer names an AudioSet event", "dimgray", "normal"))
  if not rule["applies"]:
    found.append((f"Words not checked: {rule['why']}.", "dimgray", "normal"))
  return [
    (line, colour, weight)
    for text, colour, weight in found
    for line in textwrap.wrap(text, CHARACTERS, subsequent_indent="     ", drop_whitespace=True)
  ]


def _draw_clip(
  spectrum: Axes,
  curves: Axes | None,
  timeline: Timeline,
  page: range,
  cfg: AudioConfig,
  top: int,
  threshold: float,
) -> None:
  """A clip's spectrogram, and below it the curves of its top events, over some of its windows.

  Events without names have no curves.
  """
  last = min(page.stop, len(timeline.clips))
  begin, end = timeline.span(page.start, last)
  hop, step = timeline.hop_seconds, timeline.step_seconds
  db = timeline.db[round(begin / hop) : ceil(end / hop)]
  peak = timeline.db.max()
  image = spectrum.imshow(
    db.T - peak,
    origin="lower",
    aspect="auto",
    extent=(begin, begin + len(db) * hop, -0.5, cfg.mel_bins - 0.5),
    vmin=-RANGE_DB,
    vmax=0,
  )
  scale = spectrum.inset_axes((1.012, 0, 0.016, 1))
  spectrum.figure.colorbar(image, cax=scale, label="dB from the peak")
  centres = librosa.mel_frequencies(cfg.mel_bins + 2, fmin=cfg.f_min, fmax=cfg.f_max)[1:-1]
  ticks = np.linspace(0, cfg.mel_bins - 1, 5).round().astype(int)
  spectrum.set_yticks(ticks, [f"{centres[t] / 1000:.1f}" for t in ticks])
  spectrum.set_ylabel("kHz (mel)")
  total = timeline.clips[0].total_seconds
  spectrum.set_title(
    f"{Path(timeline.name).name}   {begin:.1f}-{end:.1f} s of {total:.1f} s",
    fontsize=10,
    loc="left",
  )
  spectrum.set_xlim(begin, end)
  for clip in timeline.clips[page.start + 1 : last]:
    spectrum.axvline(clip.start_seconds, color="white", linewidth=0.8)
  if curves is None:
    spectrum.set_xlabel("seconds")
    return
  spectrum.tick_params(labelbottom=False)
  steps = timeline.steps(page.start, last)
  values = timeline.probabilities[steps]
  edges = begin + np.arange(len(values) + 1) * step
  for index in top_events(values.max(axis=0), top):
    label = textwrap.fill(event_name(index, values.shape[1]), LABEL)
    curves.stairs(values[:, index], edges, baseline=None, linewidth=1.6, label=label)
  curves.axhline(threshold, color="black", linestyle=":", linewidth=0.8)
  for clip in timeline.clips[page.start + 1 : last]:
    curves.axvline(clip.start_seconds, color="gray", linewidth=0.8)
  curves.set(xlabel="seconds", ylabel="probability", xlim=(begin, end), ylim=(0, 1.02))
  curves.grid(alpha=0.3)
  curves.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)


def draw(
  prompt: str,
  answers: Sequence[dict],
  timelines: Sequence[Timeline],
  page: range,
  rule: dict,
  cfg: AudioConfig,
  top: int,
  threshold: float,
) -> Figure:
  """One picture: question and answers, then each clip that has windows on this page."""
  shown = [timeline for timeline in timelines if len(timeline.clips) > page.start]
  lines = _lines(prompt, answers, rule, any(len(t.clips) > 1 for t in timelines))
  axes = 2 if rule["applies"] else 1  # of a clip
  heights = [LINE * len(lines) + 0.1] + [1.7, 1.5][:axes] * len(shown)
  figure = Figure(figsize=(WIDTH, sum(heights) + 0.5 * len(shown)), layout="constrained")
  grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
  words = figure.add_subplot(grid[0])
  words.axis("off")
  for i, (text, colour, weight) in enumerate(lines):
    # A dollar would begin a formula.
    words.text(
      *(0, 1 - i / len(lines), text.replace("$", r"\$")),
      color=colour,
      weight=weight,
      fontsize=10.5,
      va="top",
      transform=words.transAxes,
    )
  for i, timeline in enumerate(shown):
    spectrum, *curves = (figure.add_subplot(grid[1 + axes * i + k]) for k in range(axes))
    _draw_clip(spectrum, curves[0] if curves else None, timeline, page, cfg, top, threshold)
  return figure
