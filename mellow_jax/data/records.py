"""ReasonAQA's JSON, or a CSV table of one's own clips, validated into records with random access.

A JSON file is a list of objects, each with the text fields of `Record`. A table has the columns
file, question and answer, and if wanted file2 and caption. Nothing is guessed and nothing is
dropped: what does not fit is an error that names the file, the row and the field.
"""

import csv
import functools
import hashlib
import io
import json
import operator
import os
import re
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex

from mellow_jax.data import prompts
from mellow_jax.errors import DataError

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
# Columns of a table, by the field that takes them; those of an empty default may be left out.
COLUMNS = {
  "filepath1": "file",
  "input": "question",
  "answer": "answer",
  "filepath2": "file2",
  "caption1": "caption",
}
_NEEDED = ("file", "question", "answer")
_DRIVE = re.compile(r"[A-Za-z]:")


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


def said(record: Record) -> bytes:
  """All that a record says, and not its place: the JSON list of its fields."""
  return json.dumps([getattr(record, field) for field in FIELDS]).encode()


def row_id(record: Record) -> str:
  """16 hex digits that follow from all a record says, and not from its file or its place there."""
  return hashlib.sha256(said(record)).hexdigest()[:16]


class Rows(Sequence[Record]):
  """Records with random access, in an order that stays."""

  path: str  # of the file or folder they come from

  def audio_paths(self) -> list[str]:
    """Each audio path the records name, once, in order of appearance."""
    named = dict.fromkeys(path for row in self for path in (row.filepath1, row.filepath2))
    named.pop("", None)
    return list(named)

  @functools.cached_property
  def digest(self) -> str:
    """16 hex digits that follow from all the records say, and from their order."""
    found = hashlib.sha256()
    for row in self:
      found.update(said(row))
    return found.hexdigest()[:16]


class Records(Rows):
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


# Of strict JSON: what it may not hold becomes values that no field may have.
DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_Constant)


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


class Reader:
  """Checks the rows of one file; of a table with the line that each begins on."""

  def __init__(self, name: str, lines: list[int] | None = None):
    self.name = name
    self.lines = lines
    self.paths = {"": ""}  # as written -> as kept: the same clip stands in many rows

  def _fail(self, row: int, fault: str) -> NoReturn:
    if self.lines is None:
      raise DataError(f"{self.name}, row {row} (from 0): {fault}")
    for field, column in COLUMNS.items():
      fault = fault.replace(f"field {field!r}", f"column {column!r}")
    raise DataError(f"{self.name}, line {self.lines[row]}: {fault}")

  def faults(self, row: object) -> list[tuple[str, str]]:
    """All that is wrong with a row, each with its field, "" where it is the row's shape."""
    if (type(row) is not dict or row.keys() != _KNOWN) and (fault := _fault(row)):
      return [("", fault)]
    found = []
    for field in FIELDS:
      value = row[field]
      if type(value) is not str:
        return [("", _fault(row))]
      if not value.isascii():
        try:
          value.encode()
        except UnicodeEncodeError:
          found.append((field, "holds half a surrogate pair: write the file as UTF-8"))
      if len(value) > prompts.MAX_CHARACTERS:
        found.append((field, f"has more than {prompts.MAX_CHARACTERS} characters"))
    for field in ("filepath1", "input", "answer"):
      if not row[field] or row[field].isspace():
        found.append((field, "is empty: fill it in or drop the row"))
    for field in ("filepath1", "filepath2"):
      text = row[field]
      if text not in self.paths:
        try:
          self.paths[text] = relative_path(text)
        except ValueError as error:
          found.append((field, str(error)))
    return found

  def row(self, i: int, row: object, listed: Container[str] = ()) -> tuple[str, ...]:
    """The fields of row i as they are kept. Raises DataError for one with a fault.

    Not for one whose id is listed, if all its fields are texts.
    """
    for field, fault in self.faults(row):
      if field and row_id(Record(*self.kept(row), row=i)) in listed:
        break
      self._fail(i, f"field {field!r} {fault}" if field else fault)
    return self.kept(row)

  def kept(self, row: dict[str, str]) -> tuple[str, ...]:
    """The fields of a row whose shape is right, as they are kept."""
    task, first, second, caption1, caption2, question, answer, subtype = (
      row[field] for field in FIELDS
    )
    first, second = self.paths.get(first, first), self.paths.get(second, second)
    task, subtype = sys.intern(task), sys.intern(subtype)
    return task, first, second, caption1, caption2, question, answer, subtype


def read_table(name: str, raw: bytes) -> tuple[list[dict[str, str]], list[int]]:
  """The fields of a table's rows, and the line that each begins on."""
  try:
    text = raw.decode("utf-8-sig")  # spreadsheets begin their UTF-8 with a byte-order mark
  except UnicodeDecodeError as error:
    raise DataError(f"{name}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
  table = csv.reader(io.StringIO(text, newline=""), strict=True)
  rows, lines, begin = [], [], 1
  try:
    header = next(table, [])
    _check_header(name, header)
    begin = table.line_num + 1
    for cells in table:
      if cells:  # a blank line is no row
        if len(cells) != len(header):
          raise DataError(
            f"{name}, line {begin}: has {len(cells)} cells where the header has {len(header)}: put "
            'text that holds a comma between ""'
          )
        rows.append(dict(zip(header, cells, strict=True)))
        lines.append(begin)
      begin = table.line_num + 1
  except csv.Error as error:
    raise DataError(f"{name}, line {begin}: is not CSV ({error})") from None
  if not rows:
    raise DataError(f"{name}: holds no rows")
  blank = dict.fromkeys(FIELDS, "") | {"subtype": Path(name).name}
  return [
    blank | {field: row.get(column, "") for field, column in COLUMNS.items()} for row in rows
  ], lines


def _check_header(name: str, header: list[str]) -> None:
  known = [*COLUMNS.values()]
  for column in header:
    if column not in known and not column.startswith("_"):
      raise DataError(
        f"{name}, line 1: column {column!r} is unknown: use {', '.join(known)}, separated by "
        "commas, or begin its name with '_' to have it ignored"
      )
    if header.count(column) > 1:
      raise DataError(f"{name}, line 1: column {column!r} occurs twice: keep one")
  for column in _NEEDED:
    if column not in header:
      raise DataError(f"{name}, line 1: column {column!r} is missing")


def read(path: str | os.PathLike, listed: Container[str] = ()) -> Records:
  """The records of a JSON file, or of a table where the name ends in ".csv".

  Rows whose ids are listed may be empty where they should not be, or name paths that lead out of
  the root: they keep their place as they are, for the caller to leave out.

  Fields and columns whose names begin with "_" are notes, and ignored. Raises DataError if the
  file cannot be read, is not strict JSON (UTF-8 without a byte-order mark, no NaN, no key twice) or
  strict CSV, is not a list of at least one object, or if a row has a field missing, unknown, not
  text or too long, an empty question, answer or first path, or an audio path that could leave its
  root folder.
  """
  name = os.fspath(path)
  try:
    raw = Path(path).read_bytes()
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or error
    raise DataError(f"{name}: cannot be read ({reason}): check the path") from None
  if name.lower().endswith(".csv"):
    rows, lines = read_table(name, raw)
    reader = Reader(name, lines)
    return Records(name, [reader.row(i, row, listed) for i, row in enumerate(rows)])
  if raw.startswith(b"\xef\xbb\xbf"):
    raise DataError(f"{name}: begins with a byte-order mark: save it as UTF-8 without one")
  try:
    rows = DECODER.decode(raw.decode())
  except UnicodeDecodeError as error:
    raise DataError(f"{name}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
  except RecursionError:
    raise DataError(f"{name}: is nested too deep; expected a list of flat objects") from None
  except ValueError as error:
    raise DataError(f"{name}: is not JSON ({error})") from None
  if not isinstance(rows, list):
    raise DataError(f"{name}: holds {_name(rows)} at the top; expected a list of objects")
  if not rows:
    raise DataError(f"{name}: holds no rows")
  reader = Reader(name)
  return Records(name, [reader.row(i, row, listed) for i, row in enumerate(rows)])


def missing_audio(records: Rows, root: str | os.PathLike) -> list[str]:
  """The audio paths for which there is no file below root, each once, in order of appearance."""
  return [path for path in records.audio_paths() if not (Path(root) / path).is_file()]
