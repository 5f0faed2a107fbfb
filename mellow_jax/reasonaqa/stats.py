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
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from mellow_jax.data.records import RecordError
from mellow_jax.reasonaqa import counts, paper
from mellow_jax.reasonaqa.counts import SIDES, Counts, Texts

_NEW_WORDS = 20  # of a kind and a side
_COLOURS = {"here": "#4f81bd", "paper": "#d98032"}
Table = list[list[str]]  # a header, and rows


class StatsError(ValueError):
  """Statistics that cannot be made; the message says what to change."""


def _flags() -> flags.FlagValues:
  f = flags.FlagValues()
  flags.DEFINE_bool("help", False, "Show this.", flag_values=f, short_name="h")
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
        raise StatsError(f"{name}: holds none of train.json, val.json and test.json")
    else:
      files = [path]
    found += map(counts.read, files)
  return found


# --- Tables --------------------------------------------------------------------------------------


def _share(part: int | None, whole: int) -> str:
  return "" if part is None else f"{100 * part / max(whole, 1):.1f}"


def _number(value: int | None) -> str:
  return "" if value is None else str(value)


def table1(found: Sequence[Counts]) -> Table:
  """Rows, share and clips of each part and split, beside the paper's rows and share."""
  table = [["split", "part", "rows", "paper", "%", "paper %", "clips", "paper clips"]]
  for file in found:
    published = file.name in paper.SPLITS
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


def draw(found: Sequence[Counts], words: Table, new: Table) -> Figure:
  """Rows of each part and split, words a text, and new words, as bars."""
  panels = len(found) + bool(len(words) > 1) + (2 if len(new) > 1 else 0)
  figure = Figure(figsize=(4.6 * panels, 5.6), layout="constrained")
  axes = iter(figure.subplots(1, panels, squeeze=False)[0])
  table = table1(found)[1:]
  for file in found:
    rows = [row for row in table if row[0] == file.name and row[1] != "all"]
    place = next(axes)
    y = range(len(rows))
    place.barh(
      [i - 0.2 for i in y], [int(row[2]) for row in rows], 0.4, color=_COLOURS["here"], label="here"
    )
    if any(row[3] for row in rows):
      published = [int(row[3] or 0) for row in rows]
      place.barh([i + 0.2 for i in y], published, 0.4, color=_COLOURS["paper"], label="paper")
      place.legend(loc="lower right", frameon=False)
    place.set_yticks([*y], [row[1] for row in rows])
    place.invert_yaxis()
    place.set_title(f"{file.name}: {file.rows} rows of {file.clips} clips", fontsize=10)
    place.set_xlabel("rows")
    place.spines[["top", "right"]].set_visible(False)
    place.ticklabel_format(axis="x", style="plain")
    place.tick_params(axis="x", labelrotation=30)
  if len(words) > 1:
    place = next(axes)
    names = [f"{row[0]} {row[1]}\n{side}" for row in words[1:] for side in SIDES]
    columns = {"all words": (4, 10), "no stop words": (5, 11), "paper": (6, 12)}
    for i, (label, picked) in enumerate(columns.items()):
      values = [float(row[column] or 0) for row in words[1:] for column in picked]
      y = [j + (i - 1) * 0.27 for j in range(len(values))]
      place.barh(y, values, 0.27, label=label, color=["#4f81bd", "#9dbbe0", "#d98032"][i])
    place.set_yticks([*range(len(names))], names, fontsize=8)
    place.invert_yaxis()
    place.set_title("words a text", fontsize=10)
    place.spines[["top", "right"]].set_visible(False)
    place.legend(loc="lower right", frameon=False)
  for side in SIDES if len(new) > 1 else ():
    place = next(axes)
    rows = [row for row in new[1:] if row[1] == side]
    rows = sorted(rows, key=lambda row: -int(row[3]))[:_NEW_WORDS]
    place.barh(range(len(rows)), [int(row[3]) for row in rows], color=_COLOURS["here"])
    place.set_yticks([*range(len(rows))], [f"{row[2]} ({row[0]})" for row in rows], fontsize=8)
    place.invert_yaxis()
    place.set_title(f"new words of {side}s, times", fontsize=10)
    place.spines[["top", "right"]].set_visible(False)
  return figure


# --- Command -------------------------------------------------------------------------------------


def _stats(f: flags.FlagValues) -> None:
  if not f.rows:
    raise StatsError("--rows is missing: name a folder or a file of rows")
  types = sorted({key[0] for key in paper.WORDS})
  if f.type not in types:
    raise StatsError(f"--type={f.type}: use {', '.join(types)}")
  if f.output and Path(f.output).exists():
    raise StatsError(f"{f.output}: is there already: remove it, or give another --output")
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
  print("\n".join(lines))
  if f.output:
    part = Path(f"{f.output}.part")
    part.mkdir(parents=True, exist_ok=True)
    (part / "stats.txt").write_text("\n".join(lines), encoding="utf-8")
    for name, table in tables.items():
      with (part / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    figure = draw(found, tables["words"], tables.get("new_words", []))
    figure.savefig(part / "stats.png", dpi=110)
    part.rename(f.output)


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  f = _flags()
  try:
    if extra := f(argv)[1:]:
      raise StatsError(f"{extra[0]!r} is no flag: write --rows=DIR")
    if f.help:
      print(__doc__, f.get_help(), sep="\n")
      return 0
    _stats(f)
  except (flags.Error, StatsError, RecordError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0
