"""Tables of a dataset's counts beside the paper's: Table 1, Tables 9 and 15, Figures 6 and 9."""

import textwrap
from collections.abc import Callable, Container, Sequence

from mellow_jax.errors import DataError
from mellow_jax.reasonaqa import paper
from mellow_jax.reasonaqa.splits import SPLITS
from mellow_jax.reasonaqa.stats import counts
from mellow_jax.reasonaqa.stats.counts import SIDES, FileCounts, WordCounts
from mellow_jax.reasonaqa.vocabulary import STOP_WORDS

MOST_WORDS = 20  # of a kind and a side
Table = list[list[str]]  # a header, and rows
_WORDS = ["kind", "side", "word", "times"]  # header of a table of words


def _percent(part: int | None, whole: int) -> str:
  return "" if part is None else f"{100 * part / max(whole, 1):.1f}"


def _cell(value: int | float | None) -> str:
  return "" if value is None else str(value)


def table1(files: Sequence[FileCounts]) -> Table:
  """Rows, share and clips of each subset and split, beside the paper's rows and share."""
  table = [["split", "part", "rows", "paper", "%", "paper %", "clips", "paper clips"]]
  for file in files:
    in_paper = file.name in SPLITS and any(paper.rows(n, file.name) for n in file.subsets)
    index = SPLITS.index(file.name) if in_paper else 0
    total = paper.TOTAL_ROWS[index]
    for name in _subset_names(file, index if in_paper else None):
      subset, rows = file.subsets.get(name, counts.SubsetCounts()), paper.rows(name, file.name)
      clips = paper.CLIPS[name][index] if in_paper and name in paper.CLIPS else None
      shares = [_percent(subset.rows, file.rows), _percent(rows, total)]
      cells = [file.name, name, str(subset.rows), _cell(rows), *shares]
      table.append([*cells, str(len(subset.clips)), _cell(clips)])
    sums = [str(total), str(paper.TOTAL_CLIPS[index])] if in_paper else ["", ""]
    cells = [file.name, "all", str(file.rows), sums[0], "100.0", ""]
    table.append([*cells, str(file.clips), sums[1]])
  return table


def _subset_names(file: FileCounts, index: int | None) -> list[str]:
  """The subsets of a file, and those that the paper's split of that index has beside, sorted."""
  names = {*file.subsets}
  for name, rows in paper.ROWS.items():
    if index is not None and rows[index]:
      names |= {f"{name}-{i}" for i in (1, 2, 3)} if name in paper.TIERED else {name}
  return sorted(names, key=_order)


def _order(name: str) -> tuple[int, str]:
  stem = name.rpartition("-")[0] if name[-2:] in ("-1", "-2", "-3") else name
  known = [*paper.ROWS]
  return (known.index(stem) if stem in known else len(known), name)


def table9(files: Sequence[FileCounts], type_: str) -> Table:
  """Words per question and per answer and their vocabulary, of generated rows."""
  header = ["kind", "captions", "rows", "paper"]
  for side in SIDES:
    for what in ("words", "vocabulary"):
      header += [f"{side} {what}", "no stop words", "paper"]
  table = [header]
  for (kind, source), sides in sorted(counts.generated_words(files).items(), reverse=True):
    published = paper.WORDS.get((type_, kind, source), (None,) * 5)
    cells = [kind, source, str(sides["question"].texts), _cell(published[0])]
    for i, side in enumerate(SIDES):
      own, (length, vocabulary) = sides[side], published[1 + 2 * i : 3 + 2 * i]
      both = own, own.of_content()
      means = [f"{counted.mean_length:.2f}" for counted in both]
      sizes = [str(len(counted.counts)) for counted in both]
      cells += [*means, _cell(length), *sizes, _cell(vocabulary)]
    table.append(cells)
  return table


def _words(files: Sequence[FileCounts], known: Callable[[str, str], Container[str]]) -> Table:
  """The most frequent words of the generated rows but for those known, by kind and side."""
  table = [_WORDS]
  for (kind, source), sides in sorted(counts.generated_words(files).items(), reverse=True):
    for side in SIDES if source == "all" else ():
      found = counts.frequent_words(sides[side], known(kind, side), MOST_WORDS)
      table += [[kind, side, word, str(times)] for word, times in found]
  return table


def figure6(files: Sequence[FileCounts]) -> Table:
  """The most frequent words of the generated rows, without stop words."""
  return _words(files, lambda kind, side: STOP_WORDS)


def figure9(files: Sequence[FileCounts], others: Sequence[FileCounts]) -> Table:
  """The most frequent words of the generated rows that others of the same kind lack."""
  theirs = counts.generated_words(others)
  if not theirs:
    raise DataError("--against: holds no rows of a subtype ...-MCQ.json or ...-Detail.json")
  lacking = dict.fromkeys(SIDES, WordCounts())
  return _words(files, lambda kind, side: theirs.get((kind, "all"), lacking)[side].counts)


def as_text(table: Table) -> list[str]:
  """The lines of a table in text; words in a row for each kind and side."""
  if table[0] is not _WORDS:
    return aligned(table)
  lines = []
  for kind, side in dict.fromkeys((kind, side) for kind, side, *_ in table[1:]):
    own = (f"{word} {times}" for k, s, word, times in table[1:] if (k, s) == (kind, side))
    lines += textwrap.wrap(f"{kind} {side}s: {', '.join(own)}", 100, subsequent_indent="  ")
  return lines


def aligned(table: Table) -> list[str]:
  """The lines of a table in text, numbers to the right."""
  columns = list(zip(*table, strict=True))
  widths = [max(map(len, column)) for column in columns]
  numeric = [
    all(cell.replace(".", "").isdigit() or not cell for cell in column[1:]) for column in columns
  ]
  return [
    "  ".join(
      cell.rjust(width) if number else cell.ljust(width)
      for cell, width, number in zip(row, widths, numeric, strict=True)
    ).rstrip()
    for row in table
  ]
