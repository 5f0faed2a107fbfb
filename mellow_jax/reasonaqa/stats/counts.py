"""Counts of a dataset: rows, clips, and the words of questions and answers."""

import collections
import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mellow_jax.data import records
from mellow_jax.data.records import FIELDS
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.vocabulary import STOP_WORDS, words

SIDES = ("question", "answer")


@dataclass
class WordCounts:
  """The words of some rows' questions, or of their answers."""

  texts: int = 0
  counts: collections.Counter[str] = field(default_factory=collections.Counter)

  def add(self, text: str) -> None:
    """Counts a text's words."""
    self.texts += 1
    self.counts.update(words(text))

  def of_content(self) -> "WordCounts":
    """The same without stop words."""
    kept = {word: n for word, n in self.counts.items() if word not in STOP_WORDS}
    return WordCounts(self.texts, collections.Counter(kept))

  @property
  def mean_length(self) -> float:
    """Words per text."""
    return self.counts.total() / max(self.texts, 1)

  def __add__(self, other: "WordCounts") -> "WordCounts":
    return WordCounts(self.texts + other.texts, self.counts + other.counts)


@dataclass
class SubsetCounts:
  """The rows of one subtype of a file."""

  rows: int = 0
  clips: set[str] = field(default_factory=set)
  question: WordCounts = field(default_factory=WordCounts)
  answer: WordCounts = field(default_factory=WordCounts)


@dataclass
class FileCounts:
  """The rows of a file, by subset: a subtype without ".json"."""

  name: str  # of the file, without its ending: the split
  subsets: dict[str, SubsetCounts]

  @property
  def rows(self) -> int:
    """The number of rows in all subsets."""
    return sum(subset.rows for subset in self.subsets.values())

  @property
  def clips(self) -> int:
    """The number of distinct clips in all subsets."""
    return len(set().union(*(subset.clips for subset in self.subsets.values())))


def read(path: str | os.PathLike) -> FileCounts:
  """Counts a file's rows. Raises DataError as `records.read` does."""
  subsets: dict[str, SubsetCounts] = {}
  for checked in records.scan(path):
    if checked.faults:
      where, (name, message) = f"{os.fspath(path)}, {checked.place}", checked.faults[0]
      raise DataError(f"{where}: field {name!r} {message}" if name else f"{where}: {message}")
    row = dict(zip(FIELDS, checked.fields, strict=True))
    subset = subsets.setdefault(row["subtype"].removesuffix(".json"), SubsetCounts())
    subset.rows += 1
    subset.clips.update(row[name] for name in ("filepath1", "filepath2") if row[name])
    subset.question.add(row["input"])
    subset.answer.add(row["answer"])
  return FileCounts(Path(path).stem, subsets)


def generated_words(
  files: Sequence[FileCounts],
) -> dict[tuple[str, str], dict[str, WordCounts]]:
  """Words of the generated rows, by kind and source of the captions, as in Tables 9 and 15.

  The files are summed; the source "all" is the sum over sources.
  """
  tables: dict[tuple[str, str], dict[str, WordCounts]] = {}
  for file in files:
    for name, subset in file.subsets.items():
      source, _, kind = name.rpartition("-")
      if kind in ("MCQ", "Detail"):
        for key in ((kind, source), (kind, "all")):
          sides = tables.setdefault(key, {side: WordCounts() for side in SIDES})
          for side in SIDES:
            sides[side] += getattr(subset, side)
  return tables


def frequent_words(own: WordCounts, known: Container[str], most: int) -> list[tuple[str, int]]:
  """The most frequent words that are not known, with their counts."""
  found = [(word, n) for word, n in own.counts.items() if word not in known]
  return sorted(found, key=lambda one: (-one[1], one[0]))[:most]
