"""Finds official files below a folder by their published names."""

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


def files_below(folder: str | os.PathLike) -> Iterator[Path]:
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
    for path in files_below(folder)
    if any(path.parts[-len(Path(name).parts) :] == Path(name).parts for name in names)
  ]
  if dataset == "AudioCaps":  # train.csv and the like are names of many datasets
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
