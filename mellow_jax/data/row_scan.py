"""Reads a file of rows one at a time, valid or not, with all faults of each."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from mellow_jax.data import records


class ScannedRow(NamedTuple):
  """A row of a file, with all that keeps it from being a Record."""

  place: str  # such as "row 7 (from 0)"
  # Those of records.FIELDS, paths as they are kept; None where one is missing or no text.
  fields: tuple[str, ...] | None
  faults: list[tuple[str, str]]  # (field, what is wrong with it); "" for the row as a whole


def scan(path: str | os.PathLike) -> Iterator[ScannedRow]:
  """The rows of a file one at a time, valid or not; a JSON file of any length takes little memory.

  Raises DataError for a file that cannot be read, or that is no list of rows.
  """
  reader = records.Reader(path)
  for row in reader:
    faults = reader.faults(row.fields)
    shaped = not any(not field for field, _ in faults)
    yield ScannedRow(row.place, reader.kept(row.fields) if shaped else None, faults)
