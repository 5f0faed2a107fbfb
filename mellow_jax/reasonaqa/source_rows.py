"""Rows made from one file, with an account of all that no row was made of."""

import collections
import dataclasses
import html
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mellow_jax.data import prompts, records
from mellow_jax.data.records import Record

NO_AUDIO = "there is no audio below --audio_root"


@dataclass(frozen=True)
class Dropped:
  """A part of a file that no rows were made of, or whose rows were not kept."""

  what: str  # the clip's name, or its path
  line: int  # of the file, where its row begins; 0 for rows that were dropped later
  reason: str
  rows: int  # of ReasonAQA that it would have given


@dataclass(kw_only=True)
class SourceRows:
  """Rows made from a file; read * each is the number of rows made and dropped, together."""

  dataset: str
  split: str
  file: str
  unit: str  # what a row of the file is, in words
  each: int  # rows of ReasonAQA that a row of the file gives
  read: int = 0  # rows of the file
  rows: list[Record] = field(default_factory=list)  # their `row` counts from 0
  dropped: list[Dropped] = field(default_factory=list)

  def add(
    self,
    line: int,
    question: str,
    answer: str,
    *,
    taskname: str,
    clip: str,
    clip2: str = "",
    caption: str = "",
    caption2: str = "",
  ) -> None:
    """Makes a row, or drops it where a text is empty or a path leads out of the audio root."""
    try:
      paths = records.relative_path(clip), clip2 and records.relative_path(clip2)
    except ValueError as error:
      self.drop(f"{clip} {clip2}", line, f"the clip's path {error}", 1)
      return
    for name, text in (("question", question), ("answer", answer)):
      if not text.strip():
        self.drop(paths[0], line, f"the {name} is empty", 1)
        return
      if len(text) > prompts.MAX_CHARACTERS:
        limit = f"the {name} has more than {prompts.MAX_CHARACTERS} characters"
        self.drop(paths[0], line, limit, 1)
        return
    subtype = f"{self.dataset}.json"
    row = Record(taskname, *paths, caption, caption2, question, answer, subtype, row=len(self.rows))
    self.rows.append(row)

  def drop(self, what: str, line: int, reason: str, rows: int) -> None:
    """Notes a part of the file that gives no rows."""
    self.dropped.append(Dropped(what, line, reason, rows))

  def _keep(self, rows: list[Record], lost: Mapping[str, int], reason: str) -> None:
    """Keeps some of the rows; lost counts the others by their clip."""
    self.rows = rows
    for clip, count in lost.items():
      self.drop(clip, 0, reason, count)

  def keep_clips(self, clips: Container[str], reason: str) -> None:
    """Drops the rows whose first clip is none of those."""
    kept = [row for row in self.rows if row.filepath1 in clips]
    lost = collections.Counter(row.filepath1 for row in self.rows if row.filepath1 not in clips)
    self._keep(kept, lost, reason)

  def drop_missing_audio(self, root: str | os.PathLike, found: dict[str, str | None]) -> None:
    """Drops the rows of clips without a file below root.

    Freesound's names hold "&amp;" and the like: where a file has "&" instead, its rows are renamed.
    found maps paths to those of their files, None for no file; it is reused and added to.
    """
    kept, lost = [], collections.Counter()
    for row in self.rows:
      named = [path for path in (row.filepath1, row.filepath2) if path]
      for path in named:
        if path not in found:
          names = (name for name in (path, html.unescape(path)) if (Path(root) / name).is_file())
          found[path] = next(names, None)
      paths = [found[path] for path in named]
      if None in paths:
        lost[named[paths.index(None)]] += 1
        continue
      if paths != named:
        row = dataclasses.replace(row, filepath1=paths[0], filepath2=(paths[1:] or [""])[0])
      kept.append(row)
    self._keep(kept, lost, NO_AUDIO)


def clips_of(rows: Sequence[Record]) -> set[str]:
  """The paths of all clips of rows."""
  return {path for row in rows for path in (row.filepath1, row.filepath2) if path}
