"""A file of answers that a killed run leaves usable: one JSON object a line, one line a row.

Beside it stand the settings it was made with, in FILE.settings.json. A rerun goes on after the last
whole line; with other settings it is refused.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class PredictionsError(ValueError):
  """Predictions that cannot be continued; the message names file and remedy."""


class Predictions:
  """Predictions for rows 0, 1, 2 and so on, in this order, each under the key "row"."""

  def __init__(self, path: str | os.PathLike, settings: dict[str, Any]):
    """Opens the file or begins it.

    Raises PredictionsError if it was made with other settings, is damaged other than by a cut-off
    last line, or cannot be written.
    """
    self.path = Path(path)
    self._settings = self.path.with_name(self.path.name + ".settings.json")
    try:
      if self.path.exists():
        self._check_settings(settings)
        self.done = self._repair()
      else:
        self.done = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # First the settings: no predictions ever stand without.
        part = self._settings.with_name(self._settings.name + ".part")
        part.write_text(json.dumps(settings, indent=1))
        part.replace(self._settings)
        self.path.touch()
    except OSError as error:
      raise self._unwritable(error) from None

  def _check_settings(self, settings: dict[str, Any]) -> None:
    try:
      saved = json.loads(self._settings.read_text())
    except (OSError, ValueError) as error:
      raise PredictionsError(
        f"{self.path}: exists, but {self._settings.name} does not say how it was made ({error}): "
        "name another --output, or remove the file"
      ) from None
    for key in sorted(saved.keys() | settings.keys()):
      if saved.get(key) != settings.get(key):
        raise PredictionsError(
          f"{self.path}: was made with {key} = {saved.get(key)!r}, this run has "
          f"{settings.get(key)!r}: name another --output, or remove the file"
        )

  def _repair(self) -> int:
    """Cuts off a last line without its end; the number of whole lines."""
    whole = 0
    with self.path.open("rb+") as file:
      for number, line in enumerate(file):
        if not line.endswith(b"\n"):
          file.truncate(whole)
          return number
        try:
          row = json.loads(line)["row"]
        except (ValueError, KeyError, TypeError):
          row = None
        if row != number:
          raise PredictionsError(
            f"{self.path}, line {number + 1}: is not the prediction of row {number}: the file was "
            "changed; remove it, or everything from this line on"
          )
        whole += len(line)
    return len(self.read())

  def append(self, lines: Iterable[dict[str, Any]]) -> None:
    """Adds the next rows and waits until they are on disk; raises PredictionsError if it cannot."""
    lines = [{"row": self.done + i, **line} for i, line in enumerate(lines)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    try:
      with self.path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
      raise self._unwritable(error) from None
    self.done += len(lines)

  def read(self) -> list[dict[str, Any]]:
    """All predictions so far."""
    return [json.loads(line) for line in self.path.read_bytes().splitlines()]

  def _unwritable(self, error: OSError) -> PredictionsError:
    return PredictionsError(
      f"{self.path}: cannot be written ({error.strerror}): name another --output or make room"
    )
