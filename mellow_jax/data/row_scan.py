"""Reads a file of rows one at a time, valid or not, with all faults of each."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mellow_jax.data import json_stream, records
from mellow_jax.errors import DataError


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
  name = os.fspath(path)
  lines: list[int] = []
  try:
    if name.lower().endswith(".csv"):
      rows, lines = records.read_table(name, Path(path).read_bytes())
    else:
      rows = json_stream.items(path, records.DECODER)
    reader = records.Reader(name)
    for i, row in enumerate(rows):
      faults = reader.faults(row)
      shaped = not any(not field for field, _ in faults)
      place = f"line {lines[i]}" if lines else f"row {i} (from 0)"
      yield ScannedRow(place, reader.kept(row) if shaped else None, faults)
  except DataError:
    raise
  except OSError as error:
    raise DataError(f"{name}: cannot be read ({error.strerror}): check the path") from None
  except ValueError as error:
    raise DataError(f"{name}: is no JSON list of rows: {error}") from None
