"""Rows of users' files: CSV, TSV, JSON and lines of JSON, each row with its place for messages.

What a file holds follows from its first character that is no white space, not from its name:

  [        a JSON list of rows, read one at a time
  {        a row on each line; or one JSON object, which is a row, or is around one list of rows, or
           holds rows by their ids: these get the key KEY
  other    a table, whose cells stand between commas, tabs or semicolons, whichever gives its header
           the most columns

A byte-order mark, as spreadsheets write it, is skipped, and so are rows of empty cells and empty
columns at the end. Lines end in LF, CR or both; other line separators (U+2028, U+0085) are text.
"""

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, TypeVar

from mellow_jax import files
from mellow_jax.data import json_stream
from mellow_jax.errors import DataError

T = TypeVar("T")
R = TypeVar("R")


class Row(NamedTuple):
  """One row of a file."""

  fields: Any  # a dict; of `scan` whatever a JSON file holds in its place
  number: int  # the line that it begins on, from 1, or its place in a JSON list, from 0
  in_list: bool = False

  @property
  def place(self) -> str:
    """Where it stands, for messages."""
    return f"row {self.number} (from 0)" if self.in_list else f"line {self.number}"


class Table(NamedTuple):
  """A file's rows, still to be read."""

  columns: tuple[str, ...] | None  # of the header; None for JSON
  rows: Iterator[Row]  # raises DataError where the file is malformed or at its end empty


class Repeated:
  """Stands for a JSON object in which a key occurs twice."""

  def __init__(self, key: str):
    self.key = key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Repeated:
  fields = dict(pairs)
  if len(fields) == len(pairs):
    return fields
  keys = [key for key, _ in pairs]
  return Repeated(next(key for key in keys if keys.count(key) > 1))


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_JSONS = (".json", ".jsonl")
_ENDINGS = (*_JSONS, ".csv", ".tsv", ".xlsx")
NO_ROWS = "holds no rows: give it one, or name another file"
MEND = "mend it there"  # where a caller knows no better remedy
MOST_FAULTS = 10  # that one message names
_SEPARATORS = ",\t;"
KEY = "_key"  # of a row that a JSON object holds by its id: that id; readers ignore names with "_"


def is_named(path: str | os.PathLike) -> bool:
  """Whether a file's name is that of a table: what takes tables and clips goes by it."""
  return os.fspath(path).lower().endswith(_ENDINGS)


def name_of(value: object) -> str:
  """What a JSON value is, for messages."""
  if isinstance(value, float) and not math.isfinite(value):
    return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
  names = {type(None): "null", dict: "an object", Repeated: "an object", list: "a list"}
  return names.get(type(value), type(value).__name__)


def shape_fault(fields: object) -> str:
  """What is wrong with a row that is no JSON object, or one with a key twice; "" for others."""
  if isinstance(fields, Repeated):
    return f"field {fields.key!r} occurs twice: keep one"
  return "" if isinstance(fields, dict) else f"is {name_of(fields)}, not an object"


def read(
  path: str | os.PathLike, *, columns: tuple[str, ...] = (), remedy: str = ""
) -> Iterator[Row]:
  """The rows of a file, each a dict: of texts in a table, of JSON values elsewhere.

  columns must be in a table's header. remedy says what to do about a malformed file, in place of
  the usual advice.

  Raises DataError naming file, line or row and remedy: on the first call for a file that cannot be
  read or lacks a column, while reading for one that is malformed, has no rows, or has a row that is
  no object or has a key twice.
  """
  table = scan(path, remedy=remedy)
  for column in columns if table.columns is not None else ():
    if column not in table.columns:
      _fail(path, "line 1", f"column {column!r} is missing", remedy)
  return _objects(path, table.rows)


def _objects(path: str | os.PathLike, rows: Iterator[Row]) -> Iterator[Row]:
  for row in rows:
    fault = shape_fault(row.fields)
    try:
      json.dumps(row.fields, ensure_ascii=False, default=vars).encode()
    except UnicodeEncodeError:
      fault = "holds half a surrogate pair: write the file as UTF-8"
    except RecursionError:
      fault = "is nested too deep: write its fields as texts"
    if fault:
      _fail(path, row.place, fault)
    yield row


def each(path: str | os.PathLike, rows: Iterable[T], make: Callable[[int, T], R]) -> list[R]:
  """make(number from 0, row) of each row.

  Raises one DataError of those that make raises, as "path, place: fault", for MOST_FAULTS rows.
  """
  found, faults, before = [], [], f"{os.fspath(path)}, "
  for number, row in enumerate(rows):
    try:
      found.append(make(number, row))
    except DataError as error:
      faults.append(str(error).removeprefix(before).partition(": "))
      if len(faults) == MOST_FAULTS:
        break
  if not faults:
    return found
  places: dict[str, list[str]] = {}
  for place, _, fault in faults:
    places.setdefault(fault, []).append(place)
  said = []
  for fault, (first, *others) in places.items():
    said.append(f"{first}: {fault}" + (f" (also {', '.join(others)})" if others else ""))
  if len(faults) == MOST_FAULTS:
    said.append("more rows may follow")
  raise DataError(before + "; ".join(said))


def scan(path: str | os.PathLike, *, remedy: str = "") -> Table:
  """As `read`, but JSON rows are given whatever their shape, for the caller to check.

  Raises DataError as `read` does, but for the shape of rows.
  """
  with _reading(path, remedy):
    with Path(path).open("rb") as file:
      if foreign := files.foreign(file.read(files.HEAD_BYTES)):
        _fail(path, "", foreign)
    with _opened(path) as file:
      first = _first_sign(file)
    if not first:
      _fail(path, "", NO_ROWS)
    if first in ("[", "{"):
      rows = _list_rows if first == "[" else _line_rows
      return Table(None, _filled(path, rows(path, remedy)))
    text = Path(path).read_bytes().decode("utf-8-sig")
  separator = max(_SEPARATORS, key=lambda sign: len(_header(text, sign)))
  header = _header(text, separator)
  if os.fspath(path).lower().endswith(_JSONS) and len(header) < 2:
    _fail(path, "", "is not JSON: it begins with neither '[' nor '{'", remedy or MEND)
  for column in header:
    if column and header.count(column) > 1:
      _fail(path, "line 1", f"column {column!r} occurs twice: keep one")
  return Table(header, _filled(path, _table_rows(path, remedy, header, _cells(text, separator))))


def _cells(text: str, separator: str) -> Any:
  return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)


def _header(text: str, separator: str) -> tuple[str, ...]:
  """The names of the columns, without empty ones at the end; an index of pandas is named _index."""
  try:
    header = [column.strip() for column in next(_cells(text, separator), ())]
  except csv.Error:
    return ()
  while header and not header[-1]:
    header.pop()
  if header and not header[0]:
    header[0] = "_index"
  return tuple(header)


def _fail(path: str | os.PathLike, place: str, fault: str, remedy: str = "") -> NoReturn:
  raise DataError(f"{os.fspath(path)}{place and ', '}{place}: {fault}{remedy and ': '}{remedy}")


def _opened(path: str | os.PathLike) -> IO[str]:
  return Path(path).open(encoding="utf-8-sig", newline="")


@contextlib.contextmanager
def _reading(path: str | os.PathLike, remedy: str) -> Iterator[None]:
  """Turns what may go wrong with a file into DataError."""
  try:
    yield
  except DataError:
    raise
  except OSError as error:
    _fail(path, "", f"cannot be read ({error.strerror}): check the path")
  except UnicodeDecodeError:
    _fail(path, "", f"is not UTF-8 at byte {_bad_byte(path)}: {remedy or 'save it as UTF-8'}")
  except ValueError as error:
    _fail(path, "", f"cannot be read ({error}): check the path")


def _bad_byte(path: str | os.PathLike) -> int:
  """Where a file's first byte is that is not UTF-8; a stream knows only the place in a block."""
  try:
    Path(path).read_bytes().decode()
  except UnicodeDecodeError as error:
    return error.start
  return 0


def _first_sign(file: IO[str]) -> str:
  """The first character that is no white space; "" without one."""
  while (sign := file.read(1)).isspace():
    pass
  return sign


def _filled(path: str | os.PathLike, rows: Iterator[Row]) -> Iterator[Row]:
  """The rows; raises DataError where there are none."""
  first = next(rows, None)
  if first is None:
    _fail(path, "", NO_ROWS)
  yield first
  yield from rows


def _table_rows(
  path: str | os.PathLike, remedy: str, header: tuple[str, ...], table: Any
) -> Iterator[Row]:
  begin, width, is_header = 1, len(header), True
  try:
    for cells in table:
      is_blank = not "".join(cells).strip()
      if "".join(cells[width:]).strip() or (len(cells) < width and not is_blank):
        _fail(
          path,
          f"line {begin}",
          f"has {len(cells)} cells where the header has {width}",
          remedy or 'put text that holds a comma between ""',
        )
      if not (is_blank or is_header):
        yield Row(dict(zip(header, cells, strict=False)), begin)
      begin, is_header = table.line_num + 1, False
  except csv.Error as error:
    _fail(path, f"line {begin}", f"is not CSV ({error})", remedy)


def _list_rows(path: str | os.PathLike, remedy: str) -> Iterator[Row]:
  with _reading(path, remedy), _opened(path) as file:
    try:
      for number, fields in enumerate(json_stream.items_of(file, _DECODER)):
        yield Row(fields, number, in_list=True)
    except UnicodeDecodeError:
      raise
    except ValueError as error:
      _fail(path, "", f"is not JSON ({error})", remedy or MEND)


def _line_rows(path: str | os.PathLike, remedy: str) -> Iterator[Row]:
  with _reading(path, remedy):
    with _opened(path) as file:
      inside = _rows_inside(file)
    if inside is not None:
      yield from inside
      return
    with _opened(path) as file:
      for number, line in enumerate(file, 1):
        if line.strip():
          try:
            fields = _DECODER.decode(line)
          except (ValueError, RecursionError) as error:
            _fail(path, f"line {number}", f"is not JSON ({error})", remedy or MEND)
          yield Row(fields, number)


def _rows_inside(file: IO[str]) -> list[Row] | None:
  """The rows of the one JSON object that a file is; None where it is lines."""
  lines = (line for line in file if line.strip())
  try:
    try:
      content = _DECODER.decode(next(lines))
    except json.JSONDecodeError:  # the object ends on a later line, or nowhere
      file.seek(0)
      content = _DECODER.decode(file.read())
    else:
      if next(lines, None) is not None:
        return None
  except (ValueError, RecursionError):
    return None
  values = [*content.values()] if isinstance(content, dict) else []
  lists = [value for value in values if isinstance(value, list) and value and _are_rows(value)]
  if len(lists) == 1:
    return [Row(fields, number, in_list=True) for number, fields in enumerate(lists[0])]
  if values and _are_rows(values):
    return [
      Row({KEY: key, **row} if isinstance(row, dict) else row, number, in_list=True)
      for number, (key, row) in enumerate(content.items())
    ]
  return [Row(content, 1)]


def _are_rows(values: list[Any]) -> bool:
  return all(isinstance(row, dict | Repeated) for row in values)
