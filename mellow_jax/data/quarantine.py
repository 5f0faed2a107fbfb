"""Rows that are not to be used, listed in a file by what they say.

  {"version": 1, "rows": {"0123456789abcdef": ["answer is empty", ...], ...}}

A row's id is that of `records.row_id`, so that the list holds for whatever file the row stands in.
"""

import json
import os
import re
from pathlib import Path

from mellow_jax.errors import DataError

VERSION = 1
_ID = re.compile(r"[0-9a-f]{16}")


def read(path: str | os.PathLike) -> dict[str, tuple[str, ...]]:
  """The ids of the rows that a quarantine file lists, and of each the reasons.

  Raises DataError where the file cannot be read or is not of this form.
  """
  name = os.fspath(path)
  try:
    found = json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    reason = getattr(error, "strerror", None) or error
    raise DataError(f"{name}: is no readable quarantine file ({reason})") from None
  if not isinstance(found, dict) or not isinstance(found.get("rows"), dict):
    raise DataError(f"{name}: is no quarantine file: expected an object with 'rows' by id")
  if found.get("version") != VERSION:
    version = found.get("version")
    raise DataError(f"{name}: has version {version!r}, expected {VERSION}: write it anew")
  for row, reasons in found["rows"].items():
    if not _ID.fullmatch(row):
      raise DataError(f"{name}: {row!r} is no id of a row, which has 16 hex digits")
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
      raise DataError(f"{name}: row {row}: expected a list of reasons, each a text")
  return {row: tuple(reasons) for row, reasons in found["rows"].items()}
