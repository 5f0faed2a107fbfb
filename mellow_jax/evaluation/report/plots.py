"""Pictures of a report, as SVG that stands within its page."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mellow_jax.evaluation.report.grounding import Grounding
from mellow_jax.evaluation.report.scores import Score
from mellow_jax.evaluation.report.summary import Failure, Groups, SectionReport
from mellow_jax.training.report import svg

MOST_LINES = 12  # of a picture of groups
WIDTH = 5.8  # inches: at two thirds of it, on a phone, texts can still be read
OURS, GUESS, PROBE = "#3a7d44", "#8a8f98", "#d98032"


def _dress(ax: Axes, title: str, names: Sequence[str], most: float = 100.0) -> None:
  """Rows from top to bottom, percentages or, with another most, some figure from left to right."""
  ax.set_title(title, loc="left", fontsize=10)
  ax.set_yticks(range(len(names)), names, fontsize=10)
  ax.set_ylim(len(names) - 0.4, -0.6)
  ax.set_xlim(0, most)  # figures stand right of it
  ax.set_xlabel("right answers, %", fontsize=9)
  ax.tick_params(axis="x", labelsize=9)
  ax.grid(axis="x", alpha=0.25)
  ax.spines[["top", "right", "left"]].set_visible(False)


def _bar(ax: Axes, y: int, value: float, low: float, high: float, colour: str) -> None:
  ax.barh(y, value, height=0.55, color=colour, alpha=0.85)
  ax.plot([low, high], [y, y], color="black", linewidth=1.2)
  ax.text(101, y, f"{value:.1f}", va="center", fontsize=9)


def glance(parts: Sequence[SectionReport]) -> str:
  """Right answers of each section, with its interval and the best blind guess."""
  shown = [part for part in parts if part.lines[0].unit == "%"]
  if not shown:
    return ""
  figure = Figure(figsize=(WIDTH, 0.9 + 0.42 * len(shown)), layout="constrained")
  ax = figure.subplots()
  for y, part in enumerate(shown):
    line = part.lines[0]
    _bar(ax, y, line.value, line.low, line.high, OURS)
    best = max(part.baselines.values(), default=np.nan)
    ax.plot([best, best], [y - 0.38, y + 0.38], color=GUESS, linewidth=2.5)
  ax.plot([], [], color=GUESS, linewidth=2.5, label="best blind guess")
  ax.plot([], [], color="black", linewidth=1.2, label="95% interval")
  _dress(ax, "", [f"{part.name} ({part.items})" for part in shown])
  figure.legend(loc="outside upper right", ncols=2, fontsize=9, frameon=False)
  return svg(figure)


def groups(part: SectionReport) -> str:
  """The leading figure of a section by each of its groups, and the best blind guess (grey).

  Groups of many values are in the tables alone.
  """
  drawn = [one for one in part.groups if len(one.lines) <= MOST_LINES]
  if not drawn:
    return ""
  heights = [len(one.lines) + 3.0 for one in drawn]
  figure = Figure(figsize=(WIDTH, 0.28 * sum(heights)), layout="constrained")
  axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
  for ax, one in zip(axes, drawn, strict=True):
    _draw_group(ax, one, part.lines[0])
  return svg(figure)


def _draw_group(ax: Axes, one: Groups, leading: Score) -> None:
  for y, line in enumerate(one.lines):
    if line.low is not None:
      ax.plot([line.low, line.high], [y, y], color=OURS, linewidth=1.5)
    ax.plot(line.value, y, "o", color=OURS, markersize=5)
    if line.baselines:
      ax.plot(max(line.baselines.values()), y, "|", color=GUESS, markersize=11, markeredgewidth=2)
  highest = max(line.value if line.high is None else line.high for line in one.lines)
  most = 100.0 if leading.unit == "%" else 1.1 * highest or 1.0
  _dress(ax, f"by {one.key}", [f"{line.name} ({line.n})" for line in one.lines], most)
  if leading.unit != "%":
    ax.set_xlabel(leading.name, fontsize=9)


def spread(part: SectionReport) -> str:
  """How many texts have which value of the leading figure."""
  if not part.spread:
    return ""
  figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
  ax = figure.subplots()
  ax.stairs(part.spread.texts, part.spread.edges, fill=True, color=OURS, alpha=0.7, label="texts")
  dealt = "the same texts dealt to other items"
  ax.stairs(part.spread.dealt, part.spread.edges, color=GUESS, linewidth=2, label=dealt)
  ax.set(xlabel=f"{part.lines[0].name} of a text", ylabel="texts", yscale="symlog")
  ax.tick_params(labelsize=9)
  ax.spines[["top", "right"]].set_visible(False)
  figure.legend(loc="outside upper right", ncols=2, fontsize=9, frameon=False)
  return svg(figure)


def reliability(part: SectionReport) -> str:
  """Accuracy by confidence; a dot's size is the number of choices."""
  if not part.calibration:
    return ""
  figure = Figure(figsize=(4, 3), layout="constrained")
  ax = figure.subplots()
  ax.plot([0, 1], [0, 1], color=GUESS, linewidth=1, label="as sure as right")
  bins = part.calibration
  most = max(one.count for one in bins)
  sizes = [10 + 110 * one.count / most for one in bins]
  ax.scatter([b.confidence for b in bins], [b.accuracy for b in bins], sizes, color=OURS)
  ax.set(xlim=(0, 1.03), ylim=(-0.03, 1.03))
  ax.set_xlabel("probability of the most probable option", fontsize=9)
  ax.set_ylabel("share that is right", fontsize=9)
  ax.tick_params(labelsize=9)
  ax.spines[["top", "right"]].set_visible(False)
  ax.legend(fontsize=9, frameon=False)
  return svg(figure)


def probes(grounding: Grounding) -> str:
  """The leading figure of each section with its clips and with each probe."""
  leading = {}
  for loss in grounding.losses:
    leading.setdefault((loss.section, loss.probe), loss)
  shown = [loss for loss in leading.values() if loss.unit == "%" and not loss.pooled]
  if not shown:
    return ""
  names = list(dict.fromkeys(loss.section for loss in shown))
  rows = [(name, loss) for name in names for loss in shown if loss.section == name]
  figure = Figure(figsize=(WIDTH, 1.0 + 0.34 * (len(rows) + len(names))), layout="constrained")
  ax, labels, y = figure.subplots(), [], 0
  for name in names:
    mine = [loss for where, loss in rows if where == name]
    ax.barh(y, mine[0].clips, height=0.7, color=OURS, alpha=0.85)
    ax.text(101, y, f"{mine[0].clips:.1f}", va="center", fontsize=9)
    labels.append(f"{name}: its clips")
    for loss in mine:
      y += 1
      ax.barh(y, loss.probed, height=0.7, color=PROBE, alpha=0.85)
      low, high = loss.clips - loss.high, loss.clips - loss.low
      ax.plot([low, high], [y, y], color="black", linewidth=1.2)
      ax.text(101, y, f"{loss.probed:.1f}", va="center", fontsize=9)
      labels.append(loss.probe)
    y += 1
  _dress(ax, "", labels)
  return svg(figure)


def confusion(part: SectionReport) -> str:
  """Expected classes against the classes given, in percent of each class expected."""
  if not part.confusion:
    return ""
  expected = list(part.confusion)
  extra = [one for row in part.confusion.values() for one in row if one not in expected]
  given = [*expected, *sorted(set(extra))]
  counts = np.array([[part.confusion[e].get(g, 0) for g in given] for e in expected], float)
  share = 100 * counts / counts.sum(axis=1, keepdims=True)
  size = (min(2.2 + 1.15 * len(given), WIDTH), 1.2 + 0.55 * len(expected))
  figure = Figure(figsize=size, layout="constrained")
  ax = figure.subplots()
  ax.imshow(share, cmap="Greens", vmin=0, vmax=100, aspect="auto")
  for (i, j), value in np.ndenumerate(share):
    colour = "white" if value > 60 else "black"
    ax.text(j, i, f"{value:.1f}%", ha="center", va="center", fontsize=10, color=colour)
  ax.set_xticks(range(len(given)), given, fontsize=9)
  ax.set_yticks(range(len(expected)), expected, fontsize=9)
  ax.set(xlabel="the answer says", ylabel="right is")
  return svg(figure)


def failures(found: Sequence[Failure]) -> str:
  """Answers that do not plainly pick an option, by reason."""
  if not found:
    return ""
  figure = Figure(figsize=(WIDTH, 0.8 + 0.32 * len(found)), layout="constrained")
  ax = figure.subplots()
  for y, one in enumerate(found):
    ax.barh(y, one.share, height=0.6, color=PROBE, alpha=0.85)
    ax.text(one.share, y, f" {one.share:.1f}% ({one.count})", va="center", fontsize=9)
  _dress(ax, "", [one.reason for one in found], most=1.3 * max(one.share for one in found))
  ax.set_xlabel("answers, %", fontsize=9)
  return svg(figure)
