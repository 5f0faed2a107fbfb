"""The faults of a dataset's rows and clips, kept small: a million rows take some tens of MB."""

import array
import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from mellow_jax.data import records
from mellow_jax.data.records import Record
from mellow_jax.reasonaqa.check import faults
from mellow_jax.reasonaqa.check.faults import Fault

# No reason to leave rows out: of duplicates both would be; a text that is cut is still of use, and
# so is a clip slightly over full scale.
_NOT_QUARANTINED = (
  "duplicate_row",
  "row_in_later_file",
  "duplicate_clip",
  "peak_over_1",
  *faults.OVER_TOKENS,
)
_NO_CLIP = -1


class _RowFault(NamedTuple):
  row: int  # of all files
  place: str  # in its file
  fault: Fault


class _ClipFault(NamedTuple):
  clip: int
  file: int | None  # the only file it holds for; None for all
  fault: Fault


class DatasetFaults:
  """Rows of one file after the other, their clips, and the faults of both."""

  def __init__(self):
    self.files: list[str] = []  # their names
    self._starts: list[int] = []  # the first row of each file
    self._ids = array.array("Q")  # records.row_id; 0 for a row that is no record
    self._row_clips = array.array("l")  # two for each row
    self._clips: dict[str, int] = {}  # path -> index
    self._new_from = 0  # the first clip that new_clips has not returned
    self._digests: dict[int, bytes] = {}  # of the samples, by clip
    self._row_faults: list[_RowFault] = []
    self._clip_faults: list[_ClipFault] = []

  # --- Adding ------------------------------------------------------------------------------------

  def begin_file(self, path: Path) -> None:
    """The rows that follow are of this file."""
    self.files.append(str(path) if path.name in self.files else path.name)
    self._starts.append(len(self._ids))

  def add_row(self, row: Record | None) -> int:
    """Adds the next row of the file, None for one that is no record; its number."""
    self._ids.append(int(records.row_id(row), 16) if row else 0)
    for path in (row.filepath1, row.filepath2) if row else ("", ""):
      # A path out of the root is a fault of the row, and is not opened.
      known = path and _is_below_root(path)
      self._row_clips.append(self._clips.setdefault(path, len(self._clips)) if known else _NO_CLIP)
    return len(self._ids) - 1

  def add_row_fault(self, row: int, place: str, fault: Fault) -> None:
    """Adds a fault of a row's texts."""
    self._row_faults.append(_RowFault(row, place, fault))

  def new_clips(self) -> list[str]:
    """The paths in rows added since the last call."""
    names = [*self._clips][self._new_from :]
    self._new_from = len(self._clips)
    return names

  def add_clip(self, path: str, found: Sequence[Fault], digest: bytes | None) -> None:
    """Adds the faults of a clip, and the digest of its samples."""
    clip = self._clips[path]
    self._clip_faults += [_ClipFault(clip, None, fault) for fault in found]
    if digest and not any(fault.kind == "silent" for fault in found):
      self._digests[clip] = digest

  # --- Duplicates --------------------------------------------------------------------------------

  def find_duplicates(self) -> None:
    """Adds faults for equal rows and for clips of equal samples, in a file and across files."""
    ids = np.asarray(self._ids, np.uint64)
    order = np.argsort(ids, kind="stable")
    equal = (ids[order][1:] == ids[order][:-1]) & (ids[order][1:] != 0)
    later: dict[int, int] = {}  # of rows that are in a later file as well, the next row there
    # From the last row of equal ones to the first, so that each knows of all after it.
    for i in np.flatnonzero(equal)[::-1].tolist():
      first, second = int(order[i]), int(order[i + 1])
      if self._file(first) == self._file(second):
        fault = Fault("duplicate_row", f"says what {self._place(first)} says")
        self.add_row_fault(second, self._place(second), fault)
        found = later.get(second)
      else:
        found = second
      if found is not None:
        later[first] = found
        where = f"{self._place(found)} of {self.files[self._file(found)]}"
        fault = Fault("row_in_later_file", f"says what {where} says")
        self.add_row_fault(first, self._place(first), fault)
    self._find_duplicate_clips()

  def _find_duplicate_clips(self) -> None:
    names, row_clips = [*self._clips], self._row_clip_array()
    by_digest: dict[bytes, list[tuple[int, int]]] = collections.defaultdict(list)  # (file, clip)
    for file in range(len(self.files)):
      for clip in np.unique(row_clips[self._rows_of(file)]).tolist():
        if clip != _NO_CLIP:
          # A clip that cannot be decoded is equal to its own path alone.
          by_digest[self._digests.get(clip) or names[clip].encode()].append((file, clip))
    for places in by_digest.values():
      last_file, last_clip = places[-1]
      for i, (file, clip) in enumerate(places):
        if last_file > file:
          named = "" if last_clip == clip else f" as {names[last_clip]}"
          fault = Fault("clip_in_later_file", f"is heard in {self.files[last_file]}{named} too")
          self._clip_faults.append(_ClipFault(clip, file, fault))
        if i and places[i - 1][0] == file:
          fault = Fault("duplicate_clip", f"sounds as {names[places[i - 1][1]]}")
          self._clip_faults.append(_ClipFault(clip, file, fault))

  def _file(self, row: int) -> int:
    return int(np.searchsorted(self._starts, row, side="right")) - 1

  def _place(self, row: int) -> str:
    return f"row {row - self._starts[self._file(row)]} (from 0)"

  def _rows_of(self, file: int) -> slice:
    return slice(self._starts[file], [*self._starts, len(self._ids)][file + 1])

  def _row_clip_array(self) -> Int64[np.ndarray, "rows 2"]:
    return np.asarray(self._row_clips, np.int64).reshape(-1, 2)

  # --- Reports -----------------------------------------------------------------------------------

  def _rows_with(self, found: Sequence[_ClipFault]) -> Bool[np.ndarray, "rows"]:
    """Which rows name a clip with one of the faults."""
    affected, row_clips = np.zeros(len(self._ids), bool), self._row_clip_array()
    for file in range(len(self.files)):
      rows = self._rows_of(file)
      clips = [fault.clip for fault in found if fault.file in (None, file)]
      affected[rows] = np.isin(row_clips[rows], clips).any(axis=1)
    return affected

  def report(self) -> dict[str, Any]:
    """Rows by file, clips, counts of faults by kind and every fault, ready for JSON."""
    counts: dict[str, dict[str, int]] = {}
    for kind in faults.OF_ROWS:
      if rows := {found.row for found in self._row_faults if found.fault.kind == kind}:
        counts[kind] = {"rows": len(rows)}
    for kind in faults.OF_CLIPS:
      if found := [one for one in self._clip_faults if one.fault.kind == kind]:
        clips = len({one.clip for one in found})
        counts[kind] = {"rows": int(self._rows_with(found).sum()), "clips": clips}
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
    rows = {name: self._rows_of(file) for file, name in enumerate(self.files)}
    rows = {name: part.stop - part.start for name, part in rows.items()}
    return {"rows": rows, "clips": len(names), "counts": counts, "faults": listed}

  def quarantine(self, allowed: Sequence[str]) -> dict[str, list[str]]:
    """The ids of the rows not to use, each with its reasons; none for faults of allowed kinds."""
    names, reasons = [*self._clips], collections.defaultdict(list)
    ignored = {*_NOT_QUARANTINED, *allowed}
    for row, _, fault in self._row_faults:
      if fault.kind not in ignored:
        reasons[row].append(f"{fault.kind}: {fault.message}")
    bad = [found for found in self._clip_faults if found.fault.kind not in ignored]
    by_clip = collections.defaultdict(list)
    for found in bad:
      by_clip[found.clip].append(found)
    shared = {row for row, _, fault in self._row_faults if fault.kind == "row_in_later_file"}
    for row in np.flatnonzero(self._rows_with(bad)).tolist():
      file = self._file(row)
      for clip in dict.fromkeys(self._row_clips[2 * row : 2 * row + 2]):
        for found in by_clip[clip]:
          # A row that the later file has as well has the same id there, and stays.
          in_both = found.fault.kind == "clip_in_later_file" and row in shared
          if found.file in (None, file) and not in_both:
            reasons[row].append(f"{found.fault.kind}: {names[clip]}: {found.fault.message}")
    return {f"{self._ids[row]:016x}": reasons[row] for row in sorted(reasons) if self._ids[row]}


def _is_below_root(path: str) -> bool:
  try:
    records.relative_path(path)
  except ValueError:
    return False
  return True
