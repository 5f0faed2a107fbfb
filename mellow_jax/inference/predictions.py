"""Files of answers that can be resumed: JSON Lines, one line a row, each with the row's key.

A key follows from what is asked, so a rerun finds an answer again wherever its row stands now: rows
may be added, dropped and put in another order. A row that could not be asked has a line, too, whose
"failure" says why: it is tried again. FILE.settings.json holds the settings of the run; with others
a rerun is refused.
"""

import collections
import fcntl
import glob
import hashlib
import json
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int

from mellow_jax import files
from mellow_jax.errors import DataError, PredictionsError

INCOMPLETE = 2  # exit status of a command where some rows could not be asked
NEW, FAILED, ANSWERED = range(3)
Line = dict[str, Any]


def key_of(content: object) -> str:
  """16 hex digits: a hash of what a row asks, given as JSON."""
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def root_of(paths: Iterable[str], root: Path) -> str:
  """The folder where clips lie, a setting of theirs; "" where no path is relative to it.

  An empty path is that of no clip.
  """
  return str(root.resolve()) if any(p and not Path(p).is_absolute() for p in paths) else ""


def number_of(key: str) -> int:
  """A number from 0 to 2^31 - 1 that follows from a key, for a row's random numbers."""
  return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1


def to_ask(states: Int[np.ndarray, "rows"]) -> list[int]:
  """The rows without an answer; those that failed come last, or a run that is killed soon after
  each of its starts would try them alone.
  """
  return sorted(np.flatnonzero(states != ANSWERED).tolist(), key=lambda row: states[row] == FAILED)


class Predictions:
  """Predictions for rows that are known by their keys, written by one process or several.

  One process appends to FILE itself. Of several, process I appends its rows to FILE.part-I. In any
  order: once every row has its line, `finish` puts them into FILE in the order of the rows. One
  process calls `begin` and `finish`, all call `append`. A rerun reads FILE and the parts of all
  earlier processes, whatever their number. As a context manager it gives its lock back at the end
  of the block.
  """

  def __init__(self, path: str | os.PathLike, keys: Sequence[str], part: int | None = None):
    """keys are those of the rows; the second and later rows of one key get its number added."""
    self.path, seen = Path(path), collections.Counter[str]()
    self._settings = self.path.with_name(self.path.name + ".settings.json")
    self._mine = self.path if part is None else self.path.with_name(f"{self.path.name}.part-{part}")
    self._held: BinaryIO | None = None
    self.keys: list[str] = []
    for key in keys:
      seen[key] += 1
      self.keys.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    self.dropped = 0  # answers to rows that are asked no more, which `finish` leaves out

  def __enter__(self) -> "Predictions":
    return self

  def __exit__(self, *_: object) -> None:
    if self._held is not None:
      self._held.close()
      self._held = None

  def begin(
    self, settings: Mapping[str, Any], about: Mapping[str, Any] = {}
  ) -> Int[np.ndarray, "rows"]:
    """NEW, FAILED or ANSWERED for each row; one process calls it, before any appends.

    settings are what answers depend on, about is what else to write down of the run.

    Raises PredictionsError if the file was made with other settings or about other rows, is damaged
    other than by a cut-off last line, cannot be written, or is being written by another run.
    """
    if self.path.is_dir():
      raise PredictionsError(f"{self.path}: is a folder: name a file in it")
    try:
      if sources := self._sources():
        self._check_settings(settings, about)
      content = {**about, **settings}
      if not sources or files.read_json(self._settings, "settings") != content:
        files.write_json(self._settings, content)  # first: predictions always have settings
      for source in sources:
        with source.open("rb") as file:
          self._lock(file)
      if not sources:
        self._mine.touch()
    except OSError as error:
      raise self._unwritable(error) from None
    lines = self._lines()
    found = {key: FAILED if line.get("failure") else ANSWERED for key, line in lines.items()}
    states = np.array([found.get(key, NEW) for key in self.keys], np.int32)
    answered, here = (sum(one == ANSWERED for one in of) for of in (found.values(), states))
    self.dropped = answered - here
    if answered and not here:
      raise PredictionsError(
        f"{self.path}: holds {answered} answers to other questions: name another --output, or "
        "remove the file"
      )
    return states

  def append(self, lines: Iterable[Line]) -> None:
    """Adds lines, each with its "row"; returns once they are on disk.

    Raises PredictionsError if it cannot, or if another run writes the same file.
    """
    lines = [{"row": line["row"], "key": self.keys[line["row"]], **line} for line in lines]
    try:
      if self._held is None:
        self._held = self._mine.open("ab")
        self._lock(self._held)
      files.append_lines(self._mine, lines, sync=True)
    except OSError as error:
      raise self._unwritable(error) from None

  def finish(self, fields: Sequence[Mapping[str, Any]] = ()) -> list[Line]:
    """Puts the lines in the order of the rows, one for each; one process calls it, at the end.

    fields are what lines say of their rows, as it is now. Returns the lines that hold a failure.
    Raises PredictionsError if rows are absent, or if the file cannot be written.
    """
    found = self._lines()
    if absent := sum(key not in found for key in self.keys):
      raise PredictionsError(
        f"{self.path}: {absent} of {len(self.keys)} rows have no prediction: do all processes see "
        "the same files? Run it again"
      )
    lines = []
    for row, key in enumerate(self.keys):
      lines.append({**found[key], **(fields[row] if fields else {}), "row": row})
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    try:
      if not self.path.exists() or self.path.read_bytes() != text:
        with files.replacing(self.path, "wb") as file:
          file.write(text)
      for part in self._parts():
        part.unlink(missing_ok=True)
    except OSError as error:
      raise self._unwritable(error) from None
    return [line for line in lines if line.get("failure")]

  # --- Files -------------------------------------------------------------------------------------

  def _parts(self) -> list[Path]:
    return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.part-*"))

  def _sources(self) -> list[Path]:
    return [path for path in (self.path, *self._parts()) if path.exists()]

  def _lines(self) -> dict[str, Line]:
    """The line of each key: an answer where there is one, else the last failure."""
    found: dict[str, Line] = {}
    try:
      for source in self._sources():
        files.cut_partial_line(source)
        with source.open("rb") as file:
          for number, text in enumerate(file, 1):
            line = _line(source, number, text)
            if found.get(line["key"], {"failure": "none yet"}).get("failure"):
              found[line["key"]] = line
    except OSError as error:
      raise self._unwritable(error) from None
    return found

  def _check_settings(self, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    try:
      saved = files.read_json(self._settings, "settings of predictions")
      if not isinstance(saved, dict):
        raise DataError(f"{self._settings.name}: holds no object")
    except DataError as error:
      raise PredictionsError(
        f"{self.path}: exists, but {self._settings.name} does not say how it was made ({error}): "
        "name another --output, or remove the file"
      ) from None
    for key in sorted((saved.keys() | settings.keys()) - about.keys()):
      if saved.get(key) != settings.get(key):
        raise PredictionsError(
          f"{self.path}: was made with {key} = {_short(saved.get(key))}, this run has "
          f"{_short(settings.get(key))}: name another --output, or remove the file"
        )

  def _unwritable(self, error: OSError) -> PredictionsError:
    return PredictionsError(
      f"{self.path}: cannot be written ({error.strerror}): name another --output or make room"
    )

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


def _line(path: Path, number: int, text: bytes) -> Line:
  try:
    line = json.loads(text)
    if isinstance(line["key"], str):
      return line
  except (ValueError, KeyError, TypeError):
    pass
  raise PredictionsError(
    f"{path}, line {number}: is no line of a prediction: the file was changed; remove that line"
  )


def _short(value: object) -> str:
  """A value, shortened for a message."""
  shown = reprlib.Repr()
  shown.maxstring = shown.maxother = 80
  return shown.repr(value)
