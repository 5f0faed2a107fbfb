"""A picture of a dataset's tables."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mellow_jax.reasonaqa.stats.counts import SIDES, FileCounts
from mellow_jax.reasonaqa.stats.tables import MOST_WORDS, Table

_COLOURS = ("#4f81bd", "#d98032", "#8a8f98")


def _bars(axes: Axes, title: str, names: Sequence[str], series: dict[str, Sequence[int | float]]):
  """Horizontal bars: for each name one of each series."""
  height = 0.8 / len(series)
  for i, (label, values) in enumerate(series.items()):
    y = [j + (i - (len(series) - 1) / 2) * height for j in range(len(values))]
    axes.barh(y, values, height, color=_COLOURS[i], label=label)
  axes.set_yticks(range(len(names)), names, fontsize=8)
  axes.set_ylim(max(len(names), 8) - 0.5, -0.5)  # the first on top
  axes.set_title(title, fontsize=10)
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  axes.spines[["top", "right"]].set_visible(False)
  if len(series) > 1:
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, -0.16), ncols=3, frameon=False)


def draw(files: Sequence[FileCounts], rows: Table, words: Table, lists: dict[str, Table]) -> Figure:
  """Rows of each subset and split, words per text, and lists of words by their title, as bars."""
  lists = {title: table for title, table in lists.items() if len(table) > 1}
  panels = len(files) + (len(words) > 1) + 2 * len(lists)
  figure = Figure(figsize=(4.6 * panels, 5.6), layout="constrained")
  axes = iter(figure.subplots(1, panels, squeeze=False)[0])
  for file in files:
    own = [row for row in rows[1:] if row[0] == file.name and row[1] != "all"]
    series = {"rows here": [int(row[2]) for row in own]}
    if any(row[3] for row in own):
      series["the paper's"] = [int(row[3] or 0) for row in own]
    title = f"{file.name}: {file.rows} rows of {file.clips} clips"
    _bars(next(axes), title, [row[1] for row in own], series)
  if len(words) > 1:
    names = [f"{row[0]} {row[1]}\n{side}" for row in words[1:] for side in SIDES]
    series = {
      label: [float(row[column] or 0) for row in words[1:] for column in (first, first + 6)]
      for label, first in (("all words", 4), ("without stop words", 5), ("the paper's", 6))
    }
    _bars(next(axes), "words a text", names, series)
  for title, table in lists.items():
    for side in SIDES:
      own = [row for row in table[1:] if row[1] == side]
      own = sorted(own, key=lambda row: -int(row[3]))[:MOST_WORDS]
      names = [f"{row[2]} ({row[0]})" for row in own]
      _bars(next(axes), f"{title} of {side}s", names, {"times": [int(row[3]) for row in own]})
  return figure
