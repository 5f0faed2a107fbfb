"""ReasonAQA's JSON, validated into records with random access.

A file is a list of objects, each with the text fields of `Record`. Nothing is guessed and nothing
is dropped: what does not fit is an error that names the file, the row and the field.
"""

import json
import operator
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex

from mellow_jax.data import prompts

FIELDS = (
  "taskname",
  "filepath1",
  "filepath2",
  "caption1",
  "caption2",
  "input",
  "answer",
  "subtype",
)
_KNOWN = frozenset(FIELDS)
_DRIVE = re.compile(r"[A-Za-z]:")


class RecordError(ValueError):
  """A file of records that cannot be used as it is; the message names file, row and field."""


@dataclass(frozen=True, slots=True)
class Record:
  """One question about one clip or two, with its answer."""

  taskname: str  # source of the clips, such as "audiocaps" or "clothov21"
  filepath1: str  # relative to the root folder of the audio, with forward slashes
  filepath2: str  # "" where the question is about one clip
  caption1: str
  caption2: str
  input: str  # the question, or a prompt key
  answer: str
  subtype: str  # the part of the dataset, such as "ACD-1.json"
  row: int  # place in its file, from 0


class Records(Sequence):
  """The records of a file, in its order."""

  def __init__(self, path: str, rows: list[tuple[str, ...]]):
    self.path = path
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: SupportsIndex) -> Record:
    # Made on demand: a million of them would take seconds to build before the first is used.
    index = operator.index(index)
    fields = self._rows[index]
    return Record(*fields, row=index % len(self._rows))

  def audio_paths(self) -> list[str]:
    """Each audio path the records name, once, in order of appearance."""
    first, second = FIELDS.index("filepath1"), FIELDS.index("filepath2")
    named = dict.fromkeys(path for row in self._rows for path in (row[first], row[second]))
    named.pop("", None)
    return list(named)


def relative_path(text: str) -> str:
  """The path with forward slashes, if it names something below a root folder.

  ReasonAQA was written on Windows: its paths may hold backslashes. Raises ValueError, saying why,
  for an empty or absolute path, a drive letter, a ".." and a NUL.
  """
  path = text.replace("\\", "/")
  if not path:
    raise ValueError("is empty")
  if "\0" in path:
    raise ValueError("holds a NUL character")
  if path.startswith("/") or _DRIVE.match(path):
    raise ValueError(f"is absolute ({text!r}): make it relative to the audio root")
  if ".." in path.split("/"):
    raise ValueError(f"leaves the audio root with '..' ({text!r})")
  return path


class _Repeated:
  """Stands for an object in which a key occurs twice."""

  def __init__(self, key: str):
    self.key = key


class _Constant:
  """Stands for NaN, Infinity and -Infinity, which Python reads and JSON does not have."""

  def __init__(self, name: str):
    self.name = name


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
  fields = dict(pairs)
  if len(fields) == len(pairs):
    return fields
  keys = [key for key, _ in pairs]
  return _Repeated(next(key for key in keys if keys.count(key) > 1))


def _name(value: object) -> str:
  if isinstance(value, _Constant):
    return value.name
  names = {type(None): "null", dict: "an object", _Repeated: "an object", list: "a list"}
  return names.get(type(value), type(value).__name__)


def _fault(row: object) -> str:
  """What is wrong with a row whose shape is not that of a record."""
  if isinstance(row, _Repeated):
    return f"field {row.key!r} occurs twice: keep one"
  if not isinstance(row, dict):
    return f"is {_name(row)}, not an object"
  for field in FIELDS:
    if field not in row:
      return f"field {field!r} is missing"
    if not isinstance(row[field], str):
      return f"field {field!r} is {_name(row[field])}, not text"
  for field, value in row.items():
    if field not in _KNOWN and not field.startswith("_"):
      return f"field {field!r} is unknown: remove it, or begin its name with '_' to have it ignored"
    if not isinstance(value, str | int | float | None):
      return f"field {field!r} is {_name(value)}, not plain text or a number"
  return ""


class _Reader:
  """Checks the rows of one file."""

  def __init__(self, name: str):
    self.name = name
    self.paths = {"": ""}  # as written -> as kept: the same clip stands in many rows

  def fail(self, row: int, fault: str) -> NoReturn:
    raise RecordError(f"{self.name}, row {row} (from 0): {fault}")

  def path(self, row: int, field: str, text: str) -> str:
    if (path := self.paths.get(text)) is None:
      try:
        path = self.paths[text] = relative_path(text)
      except ValueError as error:
        self.fail(row, f"field {field!r} {error}")
    return path

  def row(self, i: int, row: object) -> tuple[str, ...]:
    if (type(row) is not dict or row.keys() != _KNOWN) and (fault := _fault(row)):
      self.fail(i, fault)
    values = [row[field] for field in FIELDS]
    for field, value in zip(FIELDS, values, strict=True):
      if type(value) is not str:
        self.fail(i, _fault(row))
      if not value.isascii():
        try:
          value.encode()
        except UnicodeEncodeError:
          self.fail(i, f"field {field!r} holds half a surrogate pair: write the file as UTF-8")
      if len(value) > prompts.MAX_CHARACTERS:
        self.fail(i, f"field {field!r} has more than {prompts.MAX_CHARACTERS} characters")
    task, first, second, caption1, caption2, question, answer, subtype = values
    for field, value in (("filepath1", first), ("input", question), ("answer", answer)):
      if not value or value.isspace():
        self.fail(i, f"field {field!r} is empty: fill it in or drop the row")
    first = self.path(i, "filepath1", first)
    second = self.path(i, "filepath2", second)
    task, subtype = sys.intern(task), sys.intern(subtype)
    return task, first, second, caption1, caption2, question, answer, subtype


def read(path: str | os.PathLike) -> Records:
  """The records of a JSON file.

  Fields whose names begin with "_" are notes, and ignored. Raises RecordError if the file cannot be
  read, is not strict JSON (UTF-8 without a byte-order mark, no NaN, no key twice), is not a list of
  at least one object, or if a row has a field missing, unknown, not text or too long, an empty
  question, answer or first path, or an audio path that could leave its root folder.
  """
  name = os.fspath(path)
  try:
    raw = Path(path).read_bytes()
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or error
    raise RecordError(f"{name}: cannot be read ({reason}): check the path") from None
  if raw.startswith(b"\xef\xbb\xbf"):
    raise RecordError(f"{name}: begins with a byte-order mark: save it as UTF-8 without one")
  try:
    rows = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_Constant)
  except UnicodeDecodeError as error:
    raise RecordError(f"{name}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
  except RecursionError:
    raise RecordError(f"{name}: is nested too deep; expected a list of flat objects") from None
  except ValueError as error:
    raise RecordError(f"{name}: is not JSON ({error})") from None
  if not isinstance(rows, list):
    raise RecordError(f"{name}: holds {_name(rows)} at the top; expected a list of objects")
  if not rows:
    raise RecordError(f"{name}: holds no rows")
  reader = _Reader(name)
  return Records(name, [reader.row(i, row) for i, row in enumerate(rows)])


def missing_audio(records: Records, root: str | os.PathLike) -> list[str]:
  """The audio paths for which there is no file below root, each once, in order of appearance."""
  return [path for path in records.audio_paths() if not (Path(root) / path).is_file()]
