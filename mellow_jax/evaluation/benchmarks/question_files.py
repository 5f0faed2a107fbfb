"""Tables of questions: those of MMAU and MMAR as published, and one's own."""

import ast
import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

from mellow_jax.data import choices, prompts, records, tables
from mellow_jax.data.records import Record
from mellow_jax.errors import DataError
from mellow_jax.evaluation.benchmarks import rows
from mellow_jax.evaluation.benchmarks.items import Item

Row = dict[str, Any]

# Columns of one's own table; those that begin with "by_" make groups of the report.
COLUMNS = ("file", "question", "answer", "file2", "choices", "references", "id", "caption")
GROUP = "by_"


def _fail(path: Path, where: str, fault: str) -> NoReturn:
  raise DataError(f"{path}, {where}: {fault}")


def _rows(path: Path) -> list[tuple[str, Row]]:
  """(place, fields) of each row, without fields of null; one held by its id has it as "id"."""
  found = []
  for row in tables.read(path):
    fields = {name: value for name, value in row.fields.items() if value is not None}
    if tables.KEY in fields:
      fields = {"id": fields[tables.KEY], **fields}
    found.append((row.place, fields))
  return found


def _text(path: Path, where: str, row: Row, field: str, default: str | None = None) -> str:
  value = row.get(field, default)
  if not isinstance(value, str) or (default is None and not value.strip()):
    _fail(path, where, f"field {field!r} is {value!r:.80}: a text is needed, in JSON with quotes")
  _check_length(path, where, field, value)
  return value


def _check_length(path: Path, where: str, field: str, text: str) -> None:
  if len(text) > prompts.MAX_CHARACTERS:
    most = prompts.MAX_CHARACTERS
    _fail(path, where, f"field {field!r} has more than {most} characters: shorten it")


def _id(path: Path, where: str, row: Row) -> str:
  """The id of a row, "" where it has none; JSON may hold it as a number."""
  value = row.get("id", "")
  if not isinstance(value, str | int):
    _fail(path, where, f"field 'id' is {tables.name_of(value)}: a text or a number is needed")
  return str(value)


def _audio(path: Path, where: str, row: Row, field: str) -> str:
  text = _text(path, where, row, field)
  try:
    return records.relative_path(text).removeprefix("./")
  except ValueError as error:
    _fail(path, where, f"field {field!r} {error}")


def _texts(path: Path, where: str, row: Row, field: str) -> tuple[str, ...]:
  """A list of texts; in one cell they stand between "|", or as JSON or Python print a list."""
  value = row.get(field) or []
  if isinstance(value, str):
    value = _listed(value) or [part.strip() for part in value.split("|")]
  if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
    fault = f"field {field!r} is no list of texts: {value!r:.80}"
    _fail(path, where, f'{fault}: write a list in JSON, or put "|" between them')
  for text in value:
    _check_length(path, where, field, text)
  return tuple(value)


def _listed(text: str) -> list[Any]:
  """The list that a cell holds as JSON or Python print it; [] for any other text."""
  for read in (json.loads, ast.literal_eval) if text.startswith("[") else ():
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
      found = read(text)
      if isinstance(found, list):
        return found
  return []


def _choices(path: Path, where: str, row: Row) -> tuple[tuple[str, ...], str]:
  """The choices and the right one of them; "" where none is given."""
  if isinstance(listed := row.get("choices"), list) and len(listed) > 2 and listed[-1] == "":
    row = {**row, "choices": listed[:-1]}  # as four rows of MMAR end; nothing is there to choose
  if isinstance(listed, dict) and "".join(listed).lower() == choices.LETTERS[: len(listed)]:
    row = {**row, "choices": [*listed.values()]}  # by their letters
  listed, answer = _texts(path, where, row, "choices"), _text(path, where, row, "answer", "")
  options = choices.unlabelled(listed)
  if not 2 <= len(options) <= len(choices.LETTERS):
    most = len(choices.LETTERS)
    fault = f"field 'choices' has {len(options)}: 2 to {most} are read"
    _fail(path, where, f'{fault}, in a cell with "|" between them')
  if not answer or answer in options:
    return options, answer
  if answer in listed:
    return options, options[listed.index(answer)]
  place = choices.choose(options, answer)
  if place is None:
    fault = f"field 'answer' {answer!r:.80} is none of the choices {list(options)!r:.200}"
    _fail(path, where, f"{fault}: write one of them, or its letter")
  return options, options[place]


def _group(value: object) -> str:
  """A group's name; some rows of MMAU have it in a list, or in a text that is one."""
  if isinstance(value, list):
    return ", ".join(map(str, value))
  listed = re.fullmatch(r"\['(.*)'\]", value) if isinstance(value, str) else None
  return listed[1] if listed else str(value)


def _read_published(path: Path, audio: str, groups: tuple[str, ...]) -> list[Item]:
  """A benchmark whose rows have id, question, choices and, where it is published, the answer."""

  def item(number: int, placed: tuple[str, Row]) -> Item:
    where, row = placed
    options, right = _choices(path, where, row)
    if not (name := _id(path, where, row)):
      _fail(path, where, f"field 'id' is {row.get('id')!r}: a text or a number is needed")
    return Item(
      id=name,
      kind="choice",
      audio1=_audio(path, where, row, audio),
      question=_text(path, where, row, "question"),
      choices=options,
      answer=right,
      groups={name: _group(row[name]) for name in groups if row.get(name)},
    )

  items = tables.each(path, _rows(path), item)
  _check_ids(path, items)
  return items


def _check_ids(path: Path, items: list[Item]) -> None:
  seen = set()
  for item in items:
    if item.id in seen:
      raise DataError(f"{path}: id {item.id!r} occurs twice: ids tell the questions apart")
    seen.add(item.id)


def read_mmau(path: Path) -> list[Item]:
  """The questions of MMAU; raises DataError naming file, row and field."""
  groups = ("task", "difficulty", "category", "sub-category", "dataset")
  return _read_published(path, "audio_id", groups)


def read_mmar(path: Path) -> list[Item]:
  """The questions of MMAR; raises DataError naming file, row and field."""
  groups = ("modality", "category", "sub-category", "language")
  return _read_published(path, "audio_path", groups)


def _by_question(path: Path, where: str, record: Record, *, is_text: bool) -> Item:
  """A row whose options, if it has any, stand in its question.

  An answer that is none of them is a slip, unless it is yes or no or is_text: a question may list
  what only looks like options, as "how differ a) and b)?" does.
  """
  with contextlib.suppress(DataError):
    item = rows.from_record(record)
    if item.kind != "text" or is_text or not choices.split_options(record.input)[1]:
      return item
  fault = f"field 'answer' {record.answer!r:.80} is none of the options in its question"
  remedy = "write one of them, or its letter; repeat a free text in the column references"
  _fail(path, where, f"{fault}: {remedy}")


def read_own(
  path: Path,
  quarantined: Collection[str] | None = None,
  say: Callable[[str], None] = lambda line: None,
) -> list[Item]:
  """The questions of one's own table; raises DataError naming file, row and field.

  It has the columns file, question and answer, and if wanted file2, choices, references, id and
  caption, in any form that `tables` reads. A column by_<name> groups the report by name; one that
  begins with "_" is ignored. Without choices the options may stand in the question, "a) .. b) ..".
  Rows in quarantine are left out, and may be faulty. Their number is told to say, as are the rows
  without an answer, which cannot be scored.
  """
  found = _rows(path)
  if quarantined is not None:
    kept = [placed for placed in found if _row_id(path, placed[1]) not in quarantined]
    out = len(found) - len(kept)
    say(f"{path}: {out} of {len(found)} rows are in quarantine and left out")
    found = kept
  items = tables.each(path, found, lambda number, placed: _own_item(path, *placed, number))
  absent = [where for (where, _), item in zip(found, items, strict=True) if not item.answer]
  if absent:
    more = ", ..." if len(absent) > tables.MOST_FAULTS else ""
    places = f"{', '.join(absent[: tables.MOST_FAULTS])}{more}"
    say(f"{path}: {len(absent)} of {len(items)} rows have no answer to be scored by: {places}")
  if any(row.get("id", "") != "" for _, row in found):
    _check_ids(path, items)
  return rows.with_own_ids(items)


def _row_id(path: Path, row: Row) -> str:
  """`records.row_id` of a row of one's own table, as `records.Reader` has it; "" for no row."""
  texts = {field: row.get(column, "") for field, column in records.COLUMNS.items()}
  if not all(isinstance(text, str) for text in texts.values()):
    return ""
  for field in ("filepath1", "filepath2"):
    with contextlib.suppress(ValueError):  # such a path stays as it is
      texts[field] = records.relative_path(texts[field])
  blank = {**dict.fromkeys(records.FIELDS, ""), "subtype": path.name}
  return records.row_id(Record(**{**blank, **texts}, row=0))


def _own_item(path: Path, where: str, row: Row, number: int) -> Item:
  for column in row:
    if column not in COLUMNS and not column.startswith((GROUP, "_")):
      known = ", ".join(COLUMNS)
      _fail(path, where, f"column {column!r} is unknown: use {known} or {GROUP}<name>")
  record = Record(
    taskname="",
    filepath1=_audio(path, where, row, "file"),
    filepath2=_audio(path, where, row, "file2") if row.get("file2") else "",
    caption1=_text(path, where, row, "caption", ""),
    caption2="",
    input=_text(path, where, row, "question"),
    answer=_text(path, where, row, "answer", ""),
    subtype="",
    row=number,
  )
  if row.get("choices"):
    options, right = _choices(path, where, row)
    item = rows.item(record, rows.kind_of(options), record.input, options, right)
  else:
    item = _by_question(path, where, record, is_text=bool(row.get("references")))
  groups = {name.removeprefix(GROUP): _group(row[name]) for name in row if name.startswith(GROUP)}
  return dataclasses.replace(
    item,
    id=_id(path, where, row) or item.id,
    references=_texts(path, where, row, "references") or item.references,
    groups={**item.groups, **groups},
  )
