"""Prediction files that can be resumed: JSON Lines, one line a row.

FILE.settings.json holds the settings of the run. A rerun continues after the last whole line; with
other settings it is refused.
"""

import fcntl
import glob
import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool

from mellow_jax import files
from mellow_jax.errors import DataError, PredictionsError


class _File:
  """A file of predictions and the settings beside it."""

  def __init__(self, path: str | os.PathLike):
    self.path = Path(path)
    self._settings = self.path.with_name(self.path.name + ".settings.json")

  def _check_settings(self, settings: dict[str, Any]) -> None:
    try:
      saved = files.read_json(self._settings, "settings of predictions")
    except DataError as error:
      raise PredictionsError(
        f"{self.path}: exists, but {self._settings.name} does not say how it was made ({error}): "
        "name another --output, or remove the file"
      ) from None
    for key in sorted(saved.keys() | settings.keys()):
      if saved.get(key) != settings.get(key):
        raise PredictionsError(
          f"{self.path}: was made with {key} = {_short(saved.get(key))}, this run has "
          f"{_short(settings.get(key))}: name another --output, or remove the file"
        )

  def _changed(self, path: Path, line: int, what: str) -> PredictionsError:
    return PredictionsError(
      f"{path}, line {line}: is not {what}: the file was changed; remove it, or everything from "
      "this line on"
    )

  def _count_rows(self) -> int:
    """The number of whole lines, which hold rows 0, 1, 2 and so on; raises PredictionsError."""
    rows = 0
    for row, _ in _whole_lines(self.path):
      if row != rows:
        raise self._changed(self.path, rows + 1, f"the prediction of row {rows}")
      rows += 1
    return rows

  def _unwritable(self, error: OSError) -> PredictionsError:
    return PredictionsError(
      f"{self.path}: cannot be written ({error.strerror}): name another --output or make room"
    )


def _short(value: object) -> str:
  """A value, shortened for a message."""
  shown = reprlib.Repr()
  shown.maxstring = shown.maxother = 80
  return shown.repr(value)


def _whole_lines(path: Path) -> Iterator[tuple[int | None, bytes]]:
  """The row number of each line, or None, and the line; an incomplete last line is removed."""
  files.cut_partial_line(path)
  with path.open("rb") as file:
    for line in file:
      try:
        row = json.loads(line)["row"]
      except (ValueError, KeyError, TypeError):
        row = None
      yield row if isinstance(row, int) else None, line


class Predictions(_File):
  """Predictions for rows 0, 1, 2 and so on, in this order, each under the key "row"."""

  def __init__(self, path: str | os.PathLike, settings: dict[str, Any]):
    """Opens the file, or creates it.

    Raises PredictionsError if it was made with other settings, is damaged other than by a cut-off
    last line, or cannot be written.
    """
    super().__init__(path)
    try:
      if self.path.exists():
        self._check_settings(settings)
        self.done = self._count_rows()
      else:
        self.done = 0
        files.write_json(self._settings, settings)  # first: predictions always have settings
        self.path.touch()
    except OSError as error:
      raise self._unwritable(error) from None

  def append(self, lines: Iterable[dict[str, Any]]) -> None:
    """Adds the next rows; returns once they are on disk. Raises PredictionsError if it cannot."""
    lines = [{"row": self.done + i, **line} for i, line in enumerate(lines)]
    try:
      files.append_lines(self.path, lines, sync=True)
    except OSError as error:
      raise self._unwritable(error) from None
    self.done += len(lines)

  def read(self) -> list[dict[str, Any]]:
    """All predictions so far."""
    return [json.loads(line) for line in self.path.read_bytes().splitlines()]


class SharedPredictions(_File):
  """Predictions for a fixed number of rows, written by several processes.

  Process I appends its rows to FILE.part-I, in any order. Once every row is answered, `finish`
  joins the parts to FILE, in order. One process calls `begin` and `finish`, all call `append`. A
  rerun reads the parts of all earlier processes, whatever their number. As a context manager it
  gives its lock back at the end of the block.
  """

  def __init__(self, path: str | os.PathLike, rows: int, part: int = 0):
    super().__init__(path)
    self.rows, self._mine = rows, self.path.with_name(f"{self.path.name}.part-{part}")
    self._held: BinaryIO | None = None

  def __enter__(self) -> "SharedPredictions":
    return self

  def __exit__(self, *_: object) -> None:
    if self._held is not None:
      self._held.close()
      self._held = None

  def _parts(self) -> list[Path]:
    return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.part-*"))

  def begin(self, settings: dict[str, Any]) -> Bool[np.ndarray, "rows"]:
    """Which rows are answered already; one process calls it, before any appends.

    Raises PredictionsError if the file was made with other settings, is damaged other than by a
    cut-off last line, cannot be written, or is being written by a run that still goes on.
    """
    done = np.zeros(self.rows, bool)
    try:
      whole, parts = self.path.exists(), self._parts()
      if whole or parts:
        self._check_settings(settings)
      else:
        files.write_json(self._settings, settings)
      for part in parts:
        with part.open("rb") as file:
          self._lock(file)
          for number, (row, _) in enumerate(_whole_lines(part), 1):
            if row is None or not 0 <= row < self.rows:
              raise self._changed(part, number, f"the prediction of one of {self.rows} rows")
            done[row] = True
      if whole:
        if (rows := self._count_rows()) != self.rows:
          raise PredictionsError(
            f"{self.path}: holds {rows} predictions, not {self.rows}: the file was changed; "
            "remove it"
          )
        self._remove(parts)  # left by a run that was killed before it removed them
        done[:] = True
    except OSError as error:
      raise self._unwritable(error) from None
    return done

  def append(self, lines: Iterable[dict[str, Any]]) -> None:
    """Adds lines, each with its "row"; returns once they are on disk.

    Raises PredictionsError if it cannot, or if another run writes the same file.
    """
    try:
      if self._held is None:
        self._held = self._mine.open("ab")
        self._lock(self._held)
      files.append_lines(self._mine, lines, sync=True)
    except OSError as error:
      raise self._unwritable(error) from None

  def finish(self) -> None:
    """Joins all parts; one process calls it, once every row is answered.

    Raises PredictionsError if rows are absent, or if the file cannot be written.
    """
    try:
      found: dict[int, bytes] = {}
      for part in self._parts():
        for row, line in _whole_lines(part):
          found.setdefault(row, line)
      if absent := self.rows - len(found):
        raise PredictionsError(
          f"{self.path}: {absent} of {self.rows} rows have no prediction: do all processes see the "
          "same files? Run it again"
        )
      with files.replacing(self.path, "wb") as file:
        file.writelines(found[row] for row in range(self.rows))
      self._remove(self._parts())
    except OSError as error:
      raise self._unwritable(error) from None

  def _remove(self, parts: Sequence[Path]) -> None:
    for part in parts:
      part.unlink(missing_ok=True)

  def _lock(self, file: BinaryIO) -> None:
    """Locks the file against other runs until it is closed, if the file system has locks."""
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise PredictionsError(
        f"{self.path}: another run is writing it: wait for its end, or name another --output"
      ) from None
    except OSError:
      return  # it has none
