"""The roofline: how fast each row of a table computes, for the memory traffic that it needs.

Below the slope memory is the limit, below the flat part arithmetic is. Traffic is what the
compiler's program moves, or the least that a method can move: the table says which.
"""

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from mellow_jax.training import report


class Work(NamedTuple):
  """What a turn of a contestant computes and moves."""

  flops: float
  traffic: float  # bytes


def add(table: dict[str, Any], work: Mapping[str, Work], traffic: str) -> None:
  """Gives the rows of a table that work names their places; traffic says what was counted."""
  for row in table["rows"]:
    if each := work.get(row["name"]):
      seconds = statistics.median(row["seconds"])
      row["FLOP a byte"] = each.flops / each.traffic
      row["GFLOP/s"] = each.flops / seconds / 1e9
  table["traffic"] = traffic


def draw(table: dict[str, Any]) -> str:
  """The drawing as SVG; "" for a table without places."""
  rows = [row for row in table["rows"] if "FLOP a byte" in row]
  if not rows:
    return ""
  peak, bandwidth = (table["limits"][name]["median"] for name in ("GFLOP/s", "GB/s"))
  ridge = peak / bandwidth
  places = [row["FLOP a byte"] for row in rows]
  left, right = min([ridge, *places]) / 3, max([ridge, *places]) * 10
  figure = Figure(figsize=(9, 4.2), layout="constrained")
  axes = figure.subplots()
  axes.plot([left, ridge, right], [left * bandwidth, peak, peak], color="#333")
  axes.text(right, peak, f"{peak:.0f} GFLOP/s ", ha="right", va="bottom")
  axes.text(left, left * bandwidth, f"  {bandwidth:.1f} GB/s", ha="left", va="top")
  for i, row in enumerate(rows):
    axes.scatter(row["FLOP a byte"], row["GFLOP/s"], color=f"C{i}", label=row["name"], zorder=3)
  axes.set(xscale="log", yscale="log", xlabel=f"FLOP a byte ({table['traffic']})")
  axes.set_ylabel("GFLOP/s")
  axes.grid(alpha=0.3)
  axes.legend(loc="lower right", fontsize="small")
  return report.svg(figure)
