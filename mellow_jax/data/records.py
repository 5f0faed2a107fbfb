"""Rows of ReasonAQA or about one's own clips, validated into records with random access.

A file holds rows in any form that `tables` reads: with the text fields of `Record`, as ReasonAQA
has them, or with the columns file, question and answer, and if wanted file2 and caption. null is
an empty text where a field may be empty. Nothing is guessed and nothing is dropped: what does not
fit is an error that names the file, the row and the field.
"""

import functools
import hashlib
import itertools
import math
import operator
import os
import re
import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import NamedTuple, NoReturn, SupportsIndex

from mellow_jax.data import prompts, tables
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
_values = operator.itemgetter(*FIELDS)
# Columns of a table, by the field that takes them; those of an empty default may be left out.
COLUMNS = {
  "filepath1": "file",
  "input": "question",
  "answer": "answer",
  "filepath2": "file2",
  "caption1": "caption",
}
NEEDED = ("filepath1", "input", "answer")  # no row may have them empty
_FIELD_OF = {column: field for field, column in COLUMNS.items()}
_DRIVE = re.compile(r"[A-Za-z]:")
READ_TOGETHER = 4096  # rows of StoredRows


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


_fields_of = operator.attrgetter(*FIELDS)
_paths = operator.itemgetter(FIELDS.index("filepath1"), FIELDS.index("filepath2"))


def _as_json(fields: tuple[str, ...]) -> bytes:
  # What json.dumps gives of a list of texts, in a third of its time: a million rows are hashed.
  return f"[{', '.join(map(encode_basestring_ascii, fields))}]".encode()


def content(record: Record) -> bytes:
  """The fields of a record without its row number, as a JSON list."""
  return _as_json(_fields_of(record))


def row_id(record: Record) -> str:
  """16 hex digits: a hash of the record's content, whatever its file and row number."""
  return hashlib.sha256(content(record)).hexdigest()[:16]


class Rows(Sequence[Record]):
  """Records with random access, in an order that stays."""

  path: str  # of the file or folder they come from

  def fields(self) -> Iterator[tuple[str, ...]]:
    """The values of FIELDS of each record, in order."""
    return map(_fields_of, self)

  def clip_paths(self) -> Iterator[tuple[str, str]]:
    """The first and the second audio path of each record, in order."""
    return map(_paths, self.fields())

  def audio_paths(self) -> list[str]:
    """Each audio path the records name, once, in order of appearance."""
    named = dict.fromkeys(itertools.chain.from_iterable(self.clip_paths()))
    named.pop("", None)
    return list(named)

  @functools.cached_property
  def digest(self) -> str:
    """16 hex digits: a hash of the records' contents in their order."""
    found = hashlib.sha256()
    for fields in self.fields():
      found.update(_as_json(fields))
    return found.hexdigest()[:16]

  def position(self, index: SupportsIndex) -> int:
    """The index counted from the first row; raises IndexError out of range."""
    index = operator.index(index)
    if not -len(self) <= index < len(self):
      raise IndexError(f"row {index} of {len(self)}")
    return index % len(self)


class StoredRows(Rows):
  """Rows in files that read many at once 25 times as fast as one by one."""

  def between(self, start: int, stop: int) -> Iterator[Record]:
    """The rows from start up to stop; raises DataError where a file is damaged."""
    raise NotImplementedError

  def __getitem__(self, index: SupportsIndex) -> Record:
    position = self.position(index)
    return next(self.between(position, position + 1))

  def __iter__(self) -> Iterator[Record]:
    for start in range(0, len(self), READ_TOGETHER):
      yield from self.between(start, min(start + READ_TOGETHER, len(self)))


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

  def fields(self) -> Iterator[tuple[str, ...]]:
    """Those of `Rows`, without a Record of each."""
    return iter(self._rows)


_BELOW_ROOT = "name a folder above all clips as the audio root, and give paths from there"


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
    raise ValueError(f"is absolute ({text!r}): {_BELOW_ROOT}")
  if ".." in path.split("/"):
    raise ValueError(f"leaves the audio root with '..' ({text!r}): {_BELOW_ROOT}")
  return path


def _fault(row: object) -> str:
  """What is wrong with a row whose shape is not that of a record."""
  if fault := tables.shape_fault(row):
    return fault
  for field in FIELDS:
    if field not in row:
      return f"field {field!r} is missing: add it, or write rows of file, question and answer"
    if not isinstance(row[field], str):
      return f"field {field!r} is {tables.name_of(row[field])}, not text: write it as text"
  for field, value in row.items():
    if field not in _KNOWN and not field.startswith("_"):
      return f"field {field!r} is unknown: remove it, or begin its name with '_' to have it ignored"
    if not isinstance(value, str | int | float | None) or _is_endless(value):
      return f"field {field!r} is {tables.name_of(value)}, not plain text or a number"
  return ""


def _is_endless(value: object) -> bool:
  """Whether a value is a number that Python reads and JSON does not have: NaN and infinities."""
  return isinstance(value, float) and not math.isfinite(value)


class Reader:
  """Checks the rows of one file."""

  def __init__(self, path: str | os.PathLike, *, answers: bool = True):
    """Answers may be absent or empty where answers is False.

    Raises DataError for a file that cannot be read, or whose columns are not those of rows.
    """
    self.name = os.fspath(path)
    self._needed = NEEDED if answers else NEEDED[:-1]
    table = tables.scan(path)
    self._has_columns = False  # the last row is by the names of COLUMNS
    if table.columns is not None:
      self._check_header(table.columns)
    self._rows = table.rows
    # What rows may leave out: with COLUMNS all of it, with FIELDS an answer that is not needed.
    self._blank = dict.fromkeys(FIELDS, "") | {"subtype": Path(path).name}
    for field in self._needed:
      del self._blank[field]
    self.paths = {"": ""}  # as written -> as kept: the same clip stands in many rows

  def __iter__(self) -> Iterator[tables.Row]:
    """The rows by the names of FIELDS, not yet checked; raises DataError for a malformed file."""
    for row in self._rows:
      if type(row.fields) is dict and (fields := self._named(row.fields)) is not row.fields:
        row = row._replace(fields=fields)
      yield row

  def _named(self, fields: dict[str, object]) -> dict[str, object]:
    self._has_columns = "file" in fields and "filepath1" not in fields
    if self._has_columns:
      fields = self._blank | {_FIELD_OF.get(name, name): text for name, text in fields.items()}
    elif "answer" in self._blank:
      fields = {"answer": "", **fields}
    if None in fields.values():
      empty = {name for name in FIELDS if name not in self._needed and fields.get(name, "") is None}
      fields = fields | dict.fromkeys(empty, "")
    return fields

  def _check_header(self, header: Sequence[str]) -> None:
    known = FIELDS if "filepath1" in header else (*COLUMNS.values(),)
    for column in header:
      if column not in known and not column.startswith("_"):
        raise DataError(
          f"{self.name}, line 1: column {column!r} is unknown: use {', '.join(known)}, separated "
          "by commas, tabs or semicolons, or begin its name with '_' to have it ignored"
        )
    for column in (COLUMNS[field] for field in self._needed):
      if known != FIELDS and column not in header:
        raise DataError(f"{self.name}, line 1: column {column!r} is missing: add it")

  def _fail(self, place: str, fault: str) -> NoReturn:
    if self._has_columns:
      for field, column in COLUMNS.items():
        fault = fault.replace(f"field {field!r}", f"column {column!r}")
    raise DataError(f"{self.name}, {place}: {fault}")

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
    for field in self._needed:
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

  def _plain(self, row: object) -> tuple[str, ...] | None:
    """The fields, as they are kept, of a row like nearly all; None: `faults` has to look closer."""
    if type(row) is not dict or len(row) != len(FIELDS):
      return None
    try:
      values = _values(row)
      text = "".join(values)
      first, second = self.paths[values[1]], self.paths[values[2]]
    except (KeyError, TypeError):  # a field is unknown, or is no text; a path is new
      return None
    if not text.isascii() or len(text) > prompts.MAX_CHARACTERS:
      return None
    for field in self._needed:
      if not row[field] or row[field].isspace():
        return None
    return _kept(values, first, second)

  def record(self, i: int, row: tables.Row, listed: Container[str] = ()) -> tuple[str, ...]:
    """The fields of row i as they are kept. Raises DataError for one with a fault.

    Not for one whose id is listed, if all its fields are texts.
    """
    if plain := self._plain(row.fields):
      return plain
    for field, fault in self.faults(row.fields):
      if field and row_id(Record(*self.kept(row.fields), row=i)) in listed:
        break
      self._fail(row.place, f"field {field!r} {fault}" if field else fault)
    return self.kept(row.fields)

  def kept(self, row: dict[str, str]) -> tuple[str, ...]:
    """The fields of a row whose shape is right, as they are kept."""
    values = _values(row)
    return _kept(values, *(self.paths.get(path, path) for path in _paths(values)))


def _kept(values: tuple[str, ...], first: str, second: str) -> tuple[str, ...]:
  """The values of FIELDS with these paths; what many rows say alike is held once."""
  task, _, _, caption1, caption2, question, answer, subtype = values
  task, subtype = sys.intern(task), sys.intern(subtype)
  return task, first, second, caption1, caption2, question, answer, subtype


def read(path: str | os.PathLike, listed: Container[str] = (), *, answers: bool = True) -> Records:
  """The records of a file; without answers, rows may lack them.

  Rows whose ids are listed may be empty where they should not be, or name paths that lead out of
  the root: they keep their place as they are, for the caller to leave out.

  Fields and columns whose names begin with "_" are notes, and ignored. Raises DataError if the
  file cannot be read, is malformed or holds no rows, or if a row has a field missing, twice,
  unknown, not text or too long, an empty question, answer or first path, or an audio path that
  could leave its root folder.
  """
  reader = Reader(path, answers=answers)
  rows = tables.each(reader.name, reader, lambda i, row: reader.record(i, row, listed))
  return Records(reader.name, rows)


def missing_audio(records: Rows, root: str | os.PathLike) -> list[str]:
  """The audio paths for which there is no file below root, each once, in order of appearance."""
  return [path for path in records.audio_paths() if not (Path(root) / path).is_file()]


# --- Rows with their faults ----------------------------------------------------------------------


class ScannedRow(NamedTuple):
  """A row of a file, with all that keeps it from being a Record."""

  place: str  # such as "row 7 (from 0)"
  # Those of FIELDS, paths as they are kept; None where one is missing or no text.
  fields: tuple[str, ...] | None
  faults: list[tuple[str, str]]  # (field, what is wrong with it); "" for the row as a whole


def scan(path: str | os.PathLike) -> Iterator[ScannedRow]:
  """The rows of a file one at a time, valid or not; a JSON file of any length takes little memory.

  Raises DataError for a file that cannot be read, or that is no list of rows.
  """
  reader = Reader(path)
  for row in reader:
    faults = reader.faults(row.fields)
    shaped = not any(not field for field, _ in faults)
    yield ScannedRow(row.place, reader.kept(row.fields) if shaped else None, faults)
