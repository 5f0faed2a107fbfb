"""What a dataset holds, beside what the paper says of ReasonAQA.

  python -m mellow_jax.reasonaqa stats --rows=DIR [--output=DIR]
  python -m mellow_jax.reasonaqa stats --rows=type2.json --against=type1.json

--rows is a folder with train.json, val.json and test.json, or a file; repeat it for several. It
prints rows, shares and clips of each part (the paper's Table 1), words and vocabulary of the
synthetic questions and answers (Tables 9 and 15), and with --against the commonest words that these
rows have and those have not (Figure 9). --output gets the same as stats.txt, as CSV and as picture.

The paper does not say how it counts words. Its means are smaller than those of its own examples
("What is the sound event present in the clip?" has nine words, the mean is 3.06), as they are
without stop words: both are given, and letters of options are no words.
"""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mellow_jax import cli
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa import paper
from mellow_jax.reasonaqa.check import counts
from mellow_jax.reasonaqa.check.counts import SIDES, Counts, Texts

_NEW_WORDS = 20  # of a kind and a side
_COLOURS = ("#4f81bd", "#d98032", "#8a8f98")
Table = list[list[str]]  # a header, and rows


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  flags.DEFINE_multi_string("rows", [], "Folder or file of rows.", flag_values=f)
  flags.DEFINE_multi_string("against", [], "Rows whose words are not new.", flag_values=f)
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("output", help="Folder for the text, the tables and the picture.")
  text("type", default="Type 1", help="The paper's type of synthetic rows to compare with.")
  return f


def _read(given: Sequence[str]) -> list[Counts]:
  found = []
  for name in given:
    path = Path(name)
    if path.is_dir():
      files = [path / f"{split}.json" for split in paper.SPLITS]
      files = [file for file in files if file.is_file()]
      if not files:
        raise DataError(f"{name}: holds none of train.json, val.json and test.json")
    else:
      files = [path]
    found += map(counts.read, files)
  return found


# --- Tables --------------------------------------------------------------------------------------


def _share(part: int | None, whole: int) -> str:
  return "" if part is None else f"{100 * part / max(whole, 1):.1f}"


def _number(value: int | float | None) -> str:
  return "" if value is None else str(value)


def table1(found: Sequence[Counts]) -> Table:
  """Rows, share and clips of each part and split, beside the paper's rows and share."""
  table = [["split", "part", "rows", "paper", "%", "paper %", "clips", "paper clips"]]
  for file in found:
    published = file.name in paper.SPLITS and any(
      counts.published(n, file.name) for n in file.parts
    )
    index = paper.SPLITS.index(file.name) if published else 0
    # Parts the paper has and this has not are there, with nothing: a gap is to be seen.
    names = [*file.parts]
    for name, rows in paper.ROWS.items():
      tiers = [f"{name}-{i}" for i in (1, 2, 3)] if name in paper.TIERED else [name]
      names += [one for one in tiers if published and rows[index] and one not in file.parts]
    for name in sorted(names, key=_order):
      part = file.parts.get(name, counts.Part())
      rows = counts.published(name, file.name)
      clips = paper.CLIPS.get(name, ())[index : index + 1] if published else ()
      table.append(
        [
          *(file.name, name, str(part.rows), _number(rows)),
          *(_share(part.rows, file.rows), _share(rows, paper.TOTAL_ROWS[index])),
          *(str(len(part.clips)), "".join(map(str, clips))),
        ]
      )
    totals = paper.TOTAL_ROWS[index], paper.TOTAL_CLIPS[index]
    rows, clips = map(str, totals) if published else ("", "")
    table.append([file.name, "all", str(file.rows), rows, "100.0", "", str(file.clips), clips])
  return table


def _order(name: str) -> tuple[int, str]:
  stem = name.rpartition("-")[0] if name[-2:] in ("-1", "-2", "-3") else name
  known = [*paper.ROWS]
  return (known.index(stem) if stem in known else len(known), name)


def table9(found: Sequence[Counts], type_: str) -> Table:
  """Words a question and an answer and their vocabulary, of synthetic rows."""
  header = ["kind", "captions", "rows", "paper"]
  for side in SIDES:
    for what in ("words", "vocabulary"):
      header += [f"{side} {what}", "no stop words", "paper"]
  table = [header]
  for (kind, source), texts in sorted(counts.written(found).items(), reverse=True):
    said = paper.WORDS.get((type_, kind, source))
    cells = [kind, source, str(texts["question"].texts), _number(said and said[0])]
    for i, side in enumerate(SIDES):
      one = texts[side]
      length, vocabulary = said[1 + 2 * i : 3 + 2 * i] if said else (None, None)
      cells += [f"{one.length():.2f}", f"{one.length(content=True):.2f}", _number(length)]
      cells += [str(one.vocabulary()), str(one.vocabulary(content=True)), _number(vocabulary)]
    table.append(cells)
  return table


def figure9(found: Sequence[Counts], others: Sequence[Counts]) -> Table:
  """The commonest words that the synthetic rows have and others' of the same kind have not."""
  table = [["kind", "side", "word", "times"]]
  theirs = counts.written(others)
  if not theirs:
    raise DataError("--against: holds no rows of a subtype ...-MCQ.json or ...-Detail.json")
  for (kind, source), texts in sorted(counts.written(found).items(), reverse=True):
    if source == "all":
      for side in SIDES:
        known = theirs.get((kind, "all"), {}).get(side, Texts())
        new = counts.new_words(texts[side], known, _NEW_WORDS)
        table += [[kind, side, word, str(times)] for word, times in new]
  return table


def _aligned(table: Table) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  numeric = [
    all(cell.replace(".", "").isdigit() or not cell for cell in column[1:])
    for column in zip(*table, strict=True)
  ]
  return [
    "  ".join(
      cell.rjust(width) if number else cell.ljust(width)
      for cell, width, number in zip(row, widths, numeric, strict=True)
    ).rstrip()
    for row in table
  ]


# --- Picture -------------------------------------------------------------------------------------


def _bars(place: Axes, title: str, names: Sequence[str], series: dict[str, Sequence[int | float]]):
  """Horizontal bars, of each name one a series."""
  height = 0.8 / len(series)
  for i, (label, values) in enumerate(series.items()):
    y = [j + (i - (len(series) - 1) / 2) * height for j in range(len(values))]
    place.barh(y, values, height, color=_COLOURS[i], label=label)
  place.set_yticks(range(len(names)), names, fontsize=8)
  place.set_ylim(max(len(names), 8) - 0.5, -0.5)  # the first on top
  place.set_title(title, fontsize=10)
  place.xaxis.set_major_formatter(EngFormatter(sep=""))
  place.spines[["top", "right"]].set_visible(False)
  if len(series) > 1:
    place.legend(loc="lower center", bbox_to_anchor=(0.4, -0.16), ncols=3, frameon=False)


def draw(found: Sequence[Counts], rows: Table, words: Table, new: Table) -> Figure:
  """Rows of each part and split, words a text, and new words, as bars."""
  panels = len(found) + (len(words) > 1) + (2 if len(new) > 1 else 0)
  figure = Figure(figsize=(4.6 * panels, 5.6), layout="constrained")
  axes = iter(figure.subplots(1, panels, squeeze=False)[0])
  for file in found:
    mine = [row for row in rows[1:] if row[0] == file.name and row[1] != "all"]
    series = {"rows here": [int(row[2]) for row in mine]}
    if any(row[3] for row in mine):
      series["the paper's"] = [int(row[3] or 0) for row in mine]
    title = f"{file.name}: {file.rows} rows of {file.clips} clips"
    _bars(next(axes), title, [row[1] for row in mine], series)
  if len(words) > 1:
    names = [f"{row[0]} {row[1]}\n{side}" for row in words[1:] for side in SIDES]
    series = {
      label: [float(row[column] or 0) for row in words[1:] for column in (first, first + 6)]
      for label, first in (("all words", 4), ("without stop words", 5), ("the paper's", 6))
    }
    _bars(next(axes), "words a text", names, series)
  for side in SIDES if len(new) > 1 else ():
    mine = [row for row in new[1:] if row[1] == side]
    mine = sorted(mine, key=lambda row: -int(row[3]))[:_NEW_WORDS]
    names = [f"{row[2]} ({row[0]})" for row in mine]
    _bars(next(axes), f"new words of {side}s", names, {"times": [int(row[3]) for row in mine]})
  return figure


# --- Command -------------------------------------------------------------------------------------


def _stats(f: flags.FlagValues) -> None:
  if not f.rows:
    raise DataError("--rows is missing: name a folder or a file of rows")
  types = sorted({key[0] for key in paper.WORDS})
  if f.type not in types:
    raise DataError(f"--type={f.type}: use {', '.join(types)}")
  if f.output and Path(f.output).exists():
    raise DataError(f"{f.output}: is there already: remove it, or give another --output")
  found, others = _read(f.rows), _read(f.against)
  tables = {"rows": table1(found), "words": table9(found, f.type)}
  if others:
    tables["new_words"] = figure9(found, others)
  titles = {
    "rows": "Rows and clips, beside the paper's Table 1",
    "words": f"Words of synthetic rows, beside the paper's Tables 9 and 15, {f.type}",
    "new_words": f"Words that {', '.join(f.against)} has not",
  }
  lines = []
  for name, table in tables.items():
    if len(table) > 1:
      lines += [titles[name], "", *_aligned(table), ""]
  if f.output:
    part = Path(f"{f.output}.part")
    part.mkdir(parents=True, exist_ok=True)
    (part / "stats.txt").write_text("\n".join(lines), encoding="utf-8")
    for name, table in tables.items():
      with (part / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    figure = draw(found, tables["rows"], tables["words"], tables.get("new_words", []))
    figure.savefig(part / "stats.png", dpi=110, bbox_inches="tight")
    part.rename(f.output)
  # Last: whoever reads only the head of it ends the command.
  print("\n".join(lines))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _stats, example="--rows=DIR")
