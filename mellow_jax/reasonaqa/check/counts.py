"""What a dataset holds: rows and clips of each part, words and vocabulary of its texts."""

import collections
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mellow_jax.data import row_by_row
from mellow_jax.data.records import FIELDS
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa import paper
from mellow_jax.reasonaqa.vocabulary import STOP_WORDS, words

_PATHS = [FIELDS.index(name) for name in ("filepath1", "filepath2")]
_INPUT, _ANSWER, _SUBTYPE = (FIELDS.index(name) for name in ("input", "answer", "subtype"))
SIDES = ("question", "answer")


@dataclass
class Texts:
  """The words of some rows' questions, or of their answers."""

  texts: int = 0
  counts: collections.Counter[str] = field(default_factory=collections.Counter)

  def add(self, text: str) -> None:
    """Counts a text's words."""
    self.texts += 1
    self.counts.update(words(text))

  def length(self, content: bool = False) -> float:
    """Words a text on average, all of them or those that are no stop words."""
    counted = (n for word, n in self.counts.items() if not (content and word in STOP_WORDS))
    return sum(counted) / max(self.texts, 1)

  def vocabulary(self, content: bool = False) -> int:
    """How many different words there are."""
    return sum(not (content and word in STOP_WORDS) for word in self.counts)

  def __add__(self, other: "Texts") -> "Texts":
    return Texts(self.texts + other.texts, self.counts + other.counts)


@dataclass
class Part:
  """The rows of one subtype of a file."""

  rows: int = 0
  clips: set[str] = field(default_factory=set)
  question: Texts = field(default_factory=Texts)
  answer: Texts = field(default_factory=Texts)


@dataclass
class Counts:
  """The parts of a file of rows, by dataset: a subtype without ".json"."""

  name: str  # of the file, without its ending: the split
  parts: dict[str, Part]

  @property
  def rows(self) -> int:
    """Of all parts."""
    return sum(part.rows for part in self.parts.values())

  @property
  def clips(self) -> int:
    """Different ones of all parts."""
    return len(set().union(*(part.clips for part in self.parts.values())))


def read(path: str | os.PathLike) -> Counts:
  """Counts a file's rows. Raises DataError as `records.read` does."""
  parts: dict[str, Part] = {}
  for checked in row_by_row.read(path):
    if checked.faults:
      where, (name, message) = f"{os.fspath(path)}, {checked.place}", checked.faults[0]
      raise DataError(f"{where}: field {name!r} {message}" if name else f"{where}: {message}")
    row = checked.fields
    part = parts.setdefault(row[_SUBTYPE].removesuffix(".json"), Part())
    part.rows += 1
    part.clips.update(row[i] for i in _PATHS if row[i])
    part.question.add(row[_INPUT])
    part.answer.add(row[_ANSWER])
  return Counts(Path(path).stem, parts)


def published(dataset: str, split: str) -> int | None:
  """Rows of a dataset in the paper's Table 1; None for what it does not have."""
  if split not in paper.SPLITS:
    return None
  name, _, tier = dataset.partition("-")
  index, tiers = paper.SPLITS.index(split), 3 if tier in ("1", "2", "3") else 1
  counts = paper.ROWS.get(dataset) or (paper.ROWS.get(name) if tiers > 1 else None)
  return counts[index] // tiers if counts else None


def written(found: Sequence[Counts]) -> dict[tuple[str, str], dict[str, Texts]]:
  """Words of the synthetic rows, by kind and source of the captions, as Tables 9 and 15 have them.

  Questions and answers of all files together; the source "all" is the sum over sources.
  """
  tables: dict[tuple[str, str], dict[str, Texts]] = {}
  for counts in found:
    for dataset, part in counts.parts.items():
      source, _, kind = dataset.rpartition("-")
      if kind in ("MCQ", "Detail"):
        for key in ((kind, source), (kind, "all")):
          texts = tables.setdefault(key, {side: Texts() for side in SIDES})
          for side in SIDES:
            texts[side] += getattr(part, side)
  return tables


def new_words(texts: Texts, others: Texts, most: int) -> list[tuple[str, int]]:
  """The commonest words of texts that others have not; how often each is there."""
  found = [(word, n) for word, n in texts.counts.items() if word not in others.counts]
  return sorted(found, key=lambda one: (-one[1], one[0]))[:most]
