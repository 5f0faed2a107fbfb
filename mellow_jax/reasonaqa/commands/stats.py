"""Counts a dataset's rows, clips and words, beside the paper's figures of ReasonAQA.

  mellow reasonaqa stats --data=DIR [--output=DIR]
  mellow reasonaqa stats --data=type2.json --against=type1.json

--data is a folder with train.json, val.json and test.json, or a file; repeat it for several. Prints
rows, shares and clips of each part (the paper's Table 1), words and vocabulary of the generated
questions and answers (Tables 9 and 15), their most frequent words (Figure 6), and with --against
those that the rows of that file lack (Figure 9). --output gets the same as stats.txt, as CSV and as
a picture.

The paper does not say how it counts words. Its means are smaller than those of its own examples
("What is the sound event present in the clip?" has nine words, the mean is 3.06), as they are
without stop words: both are given, and letters of options are no words.
"""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mellow_jax import cli, files
from mellow_jax.errors import FlagsError
from mellow_jax.reasonaqa import paper
from mellow_jax.reasonaqa.splits import row_files
from mellow_jax.reasonaqa.stats import counts, tables


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  flags.DEFINE_multi_string("data", [], "Folder or file of rows.", flag_values=f)
  cli.define_old_name(f, "rows", "data")
  flags.DEFINE_multi_string("against", [], "Rows whose words are not new.", flag_values=f)
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("output", help="Folder for the text, the tables and the picture.")
  text("type", default="Type 1", help="The paper's type of generated rows to compare with.")
  return f


def _stats(f: flags.FlagValues) -> None:
  if not f.data:
    raise FlagsError("--data is missing: name a folder or a file of rows")
  types = sorted({key[0] for key in paper.WORDS})
  if f.type not in types:
    raise FlagsError(f"--type={f.type}: use {', '.join(types)}")
  if f.output and Path(f.output).exists():
    raise FlagsError(f"{f.output}: is there already: remove it, or give another --output")
  own, others = ([*map(counts.read, row_files(given))] for given in (f.data, f.against))
  titled = {
    "rows": ("Rows and clips, beside the paper's Table 1", tables.table1(own)),
    "words": (
      f"Words of generated rows, beside the paper's Tables 9 and 15, {f.type}",
      tables.table9(own, f.type),
    ),
  }
  titled["frequent_words"] = (
    "Most frequent words of generated rows, without stop words, as in the paper's Figure 6",
    tables.figure6(own),
  )
  if others:
    title = f"Words that {', '.join(f.against)} has not"
    titled["new_words"] = title, tables.figure9(own, others)
  lines = []
  for title, table in titled.values():
    if len(table) > 1:
      lines += [title, "", *tables.as_text(table), ""]
  if f.output:
    with files.replacing_folder(f.output) as folder:
      (folder / "stats.txt").write_text("\n".join(lines), encoding="utf-8")
      for name, (_, table) in titled.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
          csv.writer(file, lineterminator="\n").writerows(table)
      rows, words, *lists = (table for _, table in titled.values())
      titles = ("frequent words", "new words")
      from mellow_jax.reasonaqa.stats import figure  # Matplotlib, which --help need not wait for

      picture = figure.draw(own, rows, words, dict(zip(titles, lists, strict=False)))
      picture.savefig(folder / "stats.png", dpi=110, bbox_inches="tight")
  # Last: whoever reads only the head of it ends the command.
  print("\n".join(lines))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for a UserError."""
  return cli.run(argv, _flags(), __doc__, _stats, example="--data=DIR", waits_for="counting")
