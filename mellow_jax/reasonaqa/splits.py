"""The splits of a dataset, and the files of rows that hold them."""

from collections.abc import Sequence
from pathlib import Path

from mellow_jax.errors import DataError

SPLITS = ("train", "val", "test")


def row_files(given: Sequence[str]) -> list[Path]:
  """The files of rows that are given, or that are in given folders, each in the order of SPLITS.

  Raises DataError for a folder without any.
  """
  found = []
  for path in map(Path, given):
    if not path.is_dir():
      found.append(path)
    elif inside := [file for split in SPLITS if (file := path / f"{split}.json").is_file()]:
      found += inside
    else:
      names = ", ".join(f"{split}.json" for split in SPLITS)
      raise DataError(f"{path}: holds none of {names}: name a folder or a file of rows")
  return found
