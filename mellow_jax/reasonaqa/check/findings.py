"""What a check finds, kept small: a million rows take some tens of megabytes."""

import array
import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from mellow_jax.data import records
from mellow_jax.data.records import Record
from mellow_jax.reasonaqa.check import faults
from mellow_jax.reasonaqa.check.faults import Fault

# No reason to leave rows out: of what is there twice both would be; a text that is cut is of use,
# and so is a clip that overshoots a little.
_KEPT = ("duplicate_row", "row_in_later_file", "duplicate_clip", "peak_over_1", *faults.OVER_TOKENS)
_NOTHING = -1  # no clip


class _RowFault(NamedTuple):
  row: int  # of all files
  place: str  # in its file
  fault: Fault


class _ClipFault(NamedTuple):
  clip: int
  file: int | None  # that alone it holds for; None for all
  fault: Fault


class Findings:
  """Rows of one file after the other, their clips, and what is wrong with either."""

  def __init__(self):
    self.files: list[str] = []  # their names
    self._starts: list[int] = []  # the first row of each file
    self._ids = array.array("Q")  # 0 for what is no row
    self._firsts, self._seconds = array.array("l"), array.array("l")
    self._clips: dict[str, int] = {}
    self._taken = 0  # clips that were given out to be checked
    self._digests: dict[int, bytes] = {}
    self._row_faults: list[_RowFault] = []
    self._clip_faults: list[_ClipFault] = []

  # --- Gathering ---------------------------------------------------------------------------------

  def begin(self, path: Path) -> None:
    """The rows that follow are of this file."""
    self.files.append(str(path) if path.name in self.files else path.name)
    self._starts.append(len(self._ids))

  def add_row(self, row: Record | None) -> int:
    """The number of the next row of the file, None for what is none."""
    self._ids.append(int(records.row_id(row), 16) if row else 0)
    for places, path in (
      (self._firsts, row and row.filepath1),
      (self._seconds, row and row.filepath2),
    ):
      # Paths out of the root are a fault of the row, and are not opened.
      known = _is_below(path) if path else False
      places.append(self._clips.setdefault(path, len(self._clips)) if known else _NOTHING)
    return len(self._ids) - 1

  def add_row_fault(self, row: int, place: str, fault: Fault) -> None:
    """Notes what is wrong with a row's texts."""
    self._row_faults.append(_RowFault(row, place, fault))

  def new_clips(self) -> list[str]:
    """The paths that rows named since this was last asked."""
    names = [*self._clips][self._taken :]
    self._taken = len(self._clips)
    return names

  def add_clip(self, path: str, found: Sequence[Fault], digest: bytes | None) -> None:
    """Notes what is wrong with a clip, and what it sounds like."""
    clip = self._clips[path]
    self._clip_faults += [_ClipFault(clip, None, fault) for fault in found]
    if digest and not any(fault.kind == "silent" for fault in found):
      self._digests[clip] = digest

  # --- Comparing ---------------------------------------------------------------------------------

  def _file(self, row: int) -> int:
    return int(np.searchsorted(self._starts, row, side="right")) - 1

  def _place(self, row: int) -> str:
    return f"row {row - self._starts[self._file(row)]} (from 0)"

  def compare(self) -> None:
    """Finds rows that say the same and clips that sound the same, in a file and across files."""
    ids = np.asarray(self._ids, np.uint64)
    order = np.argsort(ids, kind="stable")
    same = (ids[order][1:] == ids[order][:-1]) & (ids[order][1:] != 0)
    for i in np.flatnonzero(same).tolist():
      first, second = int(order[i]), int(order[i + 1])
      if self._file(first) == self._file(second):
        fault = Fault("duplicate_row", f"says what {self._place(first)} says")
        self.add_row_fault(second, self._place(second), fault)
      else:
        where = f"{self._place(second)} of {self.files[self._file(second)]}"
        fault = Fault("row_in_later_file", f"says what {where} says")
        self.add_row_fault(first, self._place(first), fault)
    self._compare_clips()

  def _compare_clips(self) -> None:
    names = [*self._clips]
    alike: dict[bytes, list[tuple[int, int]]] = {}  # (file, clip) in which a sound is heard
    for file in range(len(self.files)):
      part = self._rows_of(file)
      heard = np.unique(np.concatenate([self._array("firsts")[part], self._array("seconds")[part]]))
      for clip in heard.tolist():
        # What cannot be decoded is its path alone.
        sound = self._digests.get(clip) or names[clip].encode() if clip != _NOTHING else b""
        if sound:
          alike.setdefault(sound, []).append((file, clip))
    for places in alike.values():
      for i, (file, clip) in enumerate(places):
        if places[-1][0] > file:
          other, path = self.files[places[-1][0]], names[places[-1][1]]
          named = "" if path == names[clip] else f" as {path}"
          fault = Fault("clip_in_later_file", f"is heard in {other}{named} too")
          self._clip_faults.append(_ClipFault(clip, file, fault))
        if i and places[i - 1][0] == file:
          fault = Fault("duplicate_clip", f"sounds as {names[places[i - 1][1]]}")
          self._clip_faults.append(_ClipFault(clip, file, fault))

  def _array(self, name: str) -> np.ndarray:
    return np.asarray(getattr(self, f"_{name}"), np.int64)

  def _rows_of(self, file: int) -> slice:
    return slice(self._starts[file], [*self._starts, len(self._ids)][file + 1])

  # --- Telling -----------------------------------------------------------------------------------

  def _hearing(self, found: Sequence[_ClipFault]) -> Bool[np.ndarray, "rows"]:
    """Which rows hear clips of which faults."""
    heard = np.zeros(len(self._ids), bool)
    firsts, seconds = self._array("firsts"), self._array("seconds")
    for file in range(len(self.files)):
      part = self._rows_of(file)
      clips = [fault.clip for fault in found if fault.file in (None, file)]
      heard[part] = np.isin(firsts[part], clips) | np.isin(seconds[part], clips)
    return heard

  def report(self) -> dict[str, Any]:
    """Rows by file, clips, faults by kind and every fault, ready for JSON."""
    by_kind: dict[str, dict[str, int]] = {}
    for kind in faults.OF_ROWS:
      rows = {found.row for found in self._row_faults if found.fault.kind == kind}
      if rows:
        by_kind[kind] = {"rows": len(rows)}
    for kind in faults.OF_CLIPS:
      found = [one for one in self._clip_faults if one.fault.kind == kind]
      if found:
        clips = len({one.clip for one in found})
        by_kind[kind] = {"rows": int(self._hearing(found).sum()), "clips": clips}
    names = [*self._clips]
    listed = [
      {
        "kind": fault.kind,
        "where": f"{self.files[self._file(row)]}, {place}",
        "id": f"{self._ids[row]:016x}" if self._ids[row] else None,
        "message": fault.message,
      }
      for row, place, fault in sorted(self._row_faults)
    ]
    for clip, file, fault in self._clip_faults:
      where = names[clip] if file is None else f"{names[clip]}, in {self.files[file]}"
      listed.append({"kind": fault.kind, "where": where, "message": fault.message})
    rows = {}
    for file, name in enumerate(self.files):
      part = self._rows_of(file)
      rows[name] = part.stop - part.start
    return {"rows": rows, "clips": len(names), "counts": by_kind, "faults": listed}

  def quarantine(self, allowed: Sequence[str]) -> dict[str, list[str]]:
    """The ids of the rows not to use, each with its reasons; none for faults of allowed kinds."""
    names, reasons = [*self._clips], collections.defaultdict(list)
    kept = {*_KEPT, *allowed}
    for row, _, fault in self._row_faults:
      if fault.kind not in kept:
        reasons[row].append(f"{fault.kind}: {fault.message}")
    bad: dict[int, list[_ClipFault]] = {}
    for found in self._clip_faults:
      if found.fault.kind not in kept:
        bad.setdefault(found.clip, []).append(found)
    every = [found for some in bad.values() for found in some]
    shared = {row for row, _, fault in self._row_faults if fault.kind == "row_in_later_file"}
    for row in np.flatnonzero(self._hearing(every)).tolist():
      file = self._file(row)
      for clip in dict.fromkeys((self._firsts[row], self._seconds[row])):
        for found in bad.get(clip, []):
          # A row that stands in the later file as well has one id in both.
          in_both = found.fault.kind == "clip_in_later_file" and row in shared
          if found.file in (None, file) and not in_both:
            reasons[row].append(f"{found.fault.kind}: {names[clip]}: {found.fault.message}")
    return {f"{self._ids[row]:016x}": reasons[row] for row in sorted(reasons) if self._ids[row]}


def _is_below(path: str) -> bool:
  try:
    records.relative_path(path)
  except ValueError:
    return False
  return True
