"""Finds official files below a folder by their published names."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from mellow_jax.errors import DataError

PLACES = {
  "AudioCaps": "github.com/cdjkim/audiocaps, folder dataset",
  "Clotho": "zenodo.org/records/4783391",
  "ClothoAQA": "zenodo.org/records/6473207",
  "CLE": "github.com/microsoft/AudioEntailment, folder data/CLE",
  "ACE": "github.com/microsoft/AudioEntailment, folder data/ACE",
  "CLD": "github.com/soham97/ADIFF, folder data/CLD",
  "ACD": "github.com/soham97/ADIFF, folder data/ACD",
}


class MissingSource(DataError):
  """An official file that is not there; the message says where to get it."""

  def __init__(self, dataset: str, file: str, folder: str | os.PathLike):
    self.file, self.place = file, PLACES[dataset.partition("-")[0]]
    super().__init__(f"{dataset}: no {file} below {folder}: get it from {self.place}")


def _below(folder: str | os.PathLike) -> Iterator[Path]:
  """The files below a folder, those in folders that links lead to as well, each folder once."""
  seen = set()
  for place, folders, names in os.walk(folder, followlinks=True):
    folders[:] = sorted(folders)
    if (real := os.path.realpath(place)) in seen:
      folders.clear()
      continue
    seen.add(real)
    yield from (Path(place, name) for name in sorted(names))


def find(folder: str | os.PathLike, dataset: str, names: list[str]) -> Path:
  """The one file below the folder that has one of the names, "folder/name" or "name".

  Raises MissingSource without one, DataError for several.
  """
  found = [
    path
    for path in _below(folder)
    if any(path.parts[-len(Path(name).parts) :] == Path(name).parts for name in names)
  ]
  if dataset == "AudioCaps":  # their names alone say little
    found = [
      path
      for path in found
      if any(part.lower().startswith("audiocaps") for part in path.relative_to(folder).parts[:-1])
      and "dataset2.0" not in path.parts
    ]
  if not found:
    raise MissingSource(dataset, " or ".join(names), folder)
  if len(found) > 1:
    raise DataError(f"{dataset}: {found[0]} and {found[1]} are both there: keep one of them")
  return found[0]


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
  """The rows of a CSV file that has at least the columns, each with the line it begins on."""
  try:
    text = path.read_bytes().decode("utf-8-sig")
  except OSError as error:
    raise DataError(f"{path}: cannot be read ({error.strerror})") from None
  except UnicodeDecodeError as error:
    raise DataError(
      f"{path}: is not UTF-8 at byte {error.start}: convert it, as with iconv -f latin1 -t utf-8"
    ) from None
  table = csv.reader(io.StringIO(text, newline=""), strict=True)
  line = 1
  try:
    header = next(table, [])
    if absent := [column for column in columns if column not in header]:
      raise DataError(
        f"{path}, line 1: column {absent[0]!r} is missing: get the file again (one that Git LFS or "
        "an error page left in its place is no CSV)"
      )
    line = table.line_num + 1
    for cells in table:
      if cells and len(cells) != len(header):
        raise DataError(
          f"{path}, line {line}: has {len(cells)} cells where the header has {len(header)}: get "
          "the file again"
        )
      if cells:
        yield line, dict(zip(header, cells, strict=True))
      line = table.line_num + 1
  except csv.Error as error:
    raise DataError(f"{path}, line {line}: is not CSV ({error}): get the file again") from None
