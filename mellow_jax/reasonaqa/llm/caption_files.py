"""Captions of clips in the files of their publishers; a language model writes questions about them.

Reads the tables of AudioCaps (train.csv, val.csv, test.csv) and Clotho
(clotho_captions_development.csv and so on), a plain table with the columns file and caption,
WavCaps' JSON (as_final.json, bbc_final.json, fsd_final.json, sb_final.json), and ReasonAQA's own
JSON, whose captions of one clip are used.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mellow_jax import files
from mellow_jax.data import prompts, records, tables
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.official import sources

# WavCaps' files, and the folders its archives unpack to.
WAVCAPS = {"as": "AudioSet_SL", "bbc": "BBC_Sound_Effects", "fsd": "FreeSound", "sb": "SoundBible"}
# What WavCaps' lists of excluded clips call its sources.
_LISTED_AS = {"AudioSet_SL": "AudioSet"}
_CLOTHO = ("file_name", *(f"caption_{i}" for i in range(1, 6)))


@dataclass(frozen=True, slots=True)
class Caption:
  """A caption of one clip."""

  source: str  # "AudioCaps", "Clotho", "WavCaps", or the name of a user's table
  file: str  # relative to the root folder of the audio, with forward slashes
  text: str

  @property
  def taskname(self) -> str:
    """The source as ReasonAQA's field `taskname` names it."""
    return {"Clotho": "clothov21"}.get(self.source, self.source.lower())

  @property
  def key(self) -> str:
    """16 hex digits: a hash of path and text."""
    return hashlib.sha256(json.dumps([self.file, self.text]).encode()).hexdigest()[:16]


def _part(path: Path, names: dict[str, str]) -> str:
  """The split that a table holds, by one of the names in its own."""
  found = [name for name in names if re.search(rf"(?<![a-z]){name}(?![a-z])", path.stem.lower())]
  if len(found) != 1:
    raise DataError(
      f"{path}: its name does not say which part it is: name it after one of {', '.join(names)}"
    )
  return names[found[0]]


def _read_table(path: Path, table: tables.Table) -> Iterator[tuple[str, Caption]]:
  """(place, caption) for each row of a table, whose header tells its source."""
  rows, header = ((row.number, row.fields) for row in table.rows), {*table.columns}
  if {"youtube_id", "caption"} <= header:
    split = _part(path, {name: name for name in ("train", "val", "test")})
    for line, row in rows:
      file = sources.audiocaps_path(f"Y{row['youtube_id']}", split)
      yield f"line {line}", Caption("AudioCaps", file, row["caption"])
  elif set(_CLOTHO) <= header:
    split = _part(path, {"development": "train", "validation": "val", "evaluation": "test"})
    for line, row in rows:
      for column in _CLOTHO[1:]:
        file = sources.clotho_path(row["file_name"], split)
        yield f"line {line}, {column}", Caption("Clotho", file, row[column])
  elif {"file", "caption"} <= header:
    for line, row in rows:
      yield f"line {line}", Caption(path.stem, row["file"], row["caption"])
  else:
    columns = ", ".join(table.columns)
    raise DataError(
      f"{path}, line 1: these are the columns of no source that is known: {columns}: a table of "
      "your own has the columns file and caption"
    )


def _read_reasonaqa(path: Path) -> Iterator[tuple[str, Caption]]:
  """(place, caption) for each row of ReasonAQA that asks to caption one clip."""
  for row in records.read(path):
    if not row.filepath2 and prompts.task_of(row.input) == "caption first":
      yield f"row {row.row}", Caption(row.subtype.removesuffix(".json"), row.filepath1, row.answer)


def _read_wavcaps(path: Path, data: Any, excluded: frozenset[str]) -> Iterator[tuple[str, Caption]]:
  """(place, caption) for each clip of a file of WavCaps whose id is not excluded.

  Source: huggingface.co/datasets/cvssp/WavCaps: {"num_captions_per_audio": 1, "data": [{"id": ...,
  "caption": ..., "duration": ...}]}; clips are <id>.flac, without the .wav of AudioSet's ids.
  """
  source = WAVCAPS.get(path.stem.split("_")[0])
  if not source:
    names = ", ".join(f"{name}_final.json" for name in WAVCAPS)
    raise DataError(f"{path}: its name is none of WavCaps' ({names}): rename it to what it is")
  clips = data.get("data") if isinstance(data, dict) else None
  if not isinstance(clips, list):
    raise DataError(f"{path}: is not WavCaps' JSON: expected an object with the list 'data'")
  for i, clip in enumerate(clips):
    fields = clip if isinstance(clip, dict) else {}
    name, text = fields.get("id"), fields.get("caption")
    if not (isinstance(name, str) and isinstance(text, str)):
      raise DataError(f"{path}, clip {i} (from 0): has no 'id' and 'caption' of text")
    if name not in excluded:
      file = f"WavCaps/{source}_flac/{name.removesuffix('.wav')}.flac"
      yield f"clip {i} (from 0)", Caption("WavCaps", file, text)


def _excluded(path: Path, captions: Path) -> frozenset[str]:
  """The ids that one of WavCaps' lists names for the source of a file of captions.

  Source: github.com/XinhaoMei/WavCaps, data/json_files/blacklist: {"AudioSet": ["Y....wav", ...],
  "FreeSound": [...]}.
  """
  lists = files.read_json(path, "JSON")
  names = {_LISTED_AS.get(source, source) for source in WAVCAPS.values()}
  named = {name: lists[name] for name in names & {*lists}} if isinstance(lists, dict) else {}
  if not named or not all(map(_is_list_of_ids, named.values())):
    known = ", ".join(sorted(names))
    raise DataError(
      f"{path}: holds no lists of clips by source ({known}): use one of WavCaps' blacklists"
    )
  source = WAVCAPS.get(captions.stem.split("_")[0], "")
  return frozenset(map(str, named.get(_LISTED_AS.get(source, source), [])))


def _is_list_of_ids(ids: Any) -> bool:
  return isinstance(ids, list) and all(isinstance(name, str | int) for name in ids)


class CaptionFile(NamedTuple):
  """What a file of captions holds."""

  captions: list[Caption]  # in its order, each once
  count: int  # of all captions, those that are there several times included
  excluded: int  # clips of WavCaps that were left out


def read(path: str | os.PathLike, exclude: str | os.PathLike = "") -> CaptionFile:
  """The captions of a file.

  exclude is one of the lists that WavCaps publishes of its clips that other benchmarks test on.
  Raises DataError if a file cannot be read, is of no known source, or has an empty caption, one
  longer than a record may be, or a clip that could leave its root folder; DataError for rows of
  ReasonAQA that are not sound, and where exclude is no such list.
  """
  path = Path(path)
  is_json = path.suffix.lower() == ".json"
  data = files.read_json(path, "JSON") if is_json else None
  is_wavcaps = is_json and not isinstance(data, list)
  if is_wavcaps:
    found = _read_wavcaps(path, data, _excluded(Path(exclude), path) if exclude else frozenset())
  elif exclude:
    raise DataError(f"{path}: --exclude is for WavCaps' JSON: drop it")
  else:
    table = tables.scan(path)
    found = _read_reasonaqa(path) if table.columns is None else _read_table(path, table)
  seen, captions, count = set(), [], 0
  for place, caption in found:
    count += 1
    text = " ".join(caption.text.split())
    try:
      file = records.relative_path(caption.file)
    except ValueError as error:
      raise DataError(f"{path}, {place}: the clip's path {error}") from None
    if not text or len(text) > prompts.MAX_CHARACTERS:
      fault = f"has more than {prompts.MAX_CHARACTERS} characters" if text else "is empty"
      raise DataError(f"{path}, {place}: the caption {fault}: correct or drop it")
    if (file, text) not in seen:
      seen.add((file, text))
      captions.append(Caption(caption.source, file, text))
  if not captions:
    raise DataError(f"{path}: holds no captions")
  return CaptionFile(captions, count, len(data["data"]) - count if is_wavcaps else 0)
