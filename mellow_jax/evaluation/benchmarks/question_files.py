"""Tables of questions: those of MMAU and MMAR as published, and one's own."""

import dataclasses
import re
from pathlib import Path
from typing import Any, NoReturn

from mellow_jax.data import choices, records, tables
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
  """(place, fields) of each row."""
  return [(row.place, row.fields) for row in tables.read(path)]


def _text(path: Path, where: str, row: Row, field: str, default: str | None = None) -> str:
  value = row.get(field, default)
  if not isinstance(value, str) or (default is None and not value.strip()):
    _fail(path, where, f"field {field!r} is {value!r}: a text is needed")
  return value


def _audio(path: Path, where: str, row: Row, field: str) -> str:
  try:
    return records.relative_path(_text(path, where, row, field)).removeprefix("./")
  except ValueError as error:
    _fail(path, where, f"field {field!r} {error}")


def _texts(path: Path, where: str, row: Row, field: str) -> tuple[str, ...]:
  """A list of texts; in CSV they stand in one cell, between "|"."""
  value = row.get(field) or []
  if isinstance(value, str):
    value = [part.strip() for part in value.split("|")]
  if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
    _fail(path, where, f"field {field!r} is no list of texts: {value!r}")
  return tuple(value)


def _choices(path: Path, where: str, row: Row) -> tuple[tuple[str, ...], str]:
  """The choices and the right one of them; "" where none is given."""
  if isinstance(listed := row.get("choices"), list) and len(listed) > 2 and listed[-1] == "":
    row = {**row, "choices": listed[:-1]}  # as four rows of MMAR end; nothing is there to choose
  options, answer = _texts(path, where, row, "choices"), _text(path, where, row, "answer", "")
  if not 2 <= len(options) <= len(choices.LETTERS):
    most = len(choices.LETTERS)
    _fail(path, where, f"field 'choices' has {len(options)}: 2 to {most} are read")
  if not answer or answer in options:
    return options, answer
  place = choices.choose(options, answer)
  if place is None:
    _fail(path, where, f"field 'answer' {answer!r} is none of the choices {list(options)}")
  return options, options[place]


def _group(value: object) -> str:
  """A group's name; some rows of MMAU have it in a list, or in a text that is one."""
  if isinstance(value, list):
    return ", ".join(map(str, value))
  listed = re.fullmatch(r"\['(.*)'\]", value) if isinstance(value, str) else None
  return listed[1] if listed else str(value)


def _read_published(path: Path, audio: str, groups: tuple[str, ...]) -> list[Item]:
  """A benchmark whose rows have id, question, choices and, where it is published, the answer."""
  items = []
  for where, row in _rows(path):
    options, right = _choices(path, where, row)
    items.append(
      Item(
        id=_text(path, where, row, "id"),
        kind="choice",
        audio1=_audio(path, where, row, audio),
        question=_text(path, where, row, "question"),
        choices=options,
        answer=right,
        groups={name: _group(row[name]) for name in groups if row.get(name)},
      )
    )
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


def read_own(path: Path) -> list[Item]:
  """The questions of one's own table; raises DataError naming file, row and field.

  It has the columns file, question and answer, and if wanted file2, choices, references, id and
  caption. A column by_<name> groups the report by name; one that begins with "_" is ignored.
  Without choices the options may stand in the question, "a) .. b) ..".
  """
  found, items = _rows(path), []
  for number, (where, row) in enumerate(found):
    for column in row:
      if column not in COLUMNS and not column.startswith((GROUP, "_")):
        known = ", ".join(COLUMNS)
        _fail(path, where, f"column {column!r} is unknown: use {known} or {GROUP}<name>")
    items.append(_own_item(path, where, number, row))
  if any(row.get("id") for _, row in found):
    _check_ids(path, items)
  return rows.with_own_ids(items)


def _own_item(path: Path, where: str, number: int, row: Row) -> Item:
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
    try:
      item = rows.from_record(record)
    except DataError:
      _fail(path, where, f"answer {record.answer!r} is none of the options in its question")
  groups = {name.removeprefix(GROUP): _group(row[name]) for name in row if name.startswith(GROUP)}
  return dataclasses.replace(
    item,
    id=str(row.get("id") or item.id),
    references=_texts(path, where, row, "references") or item.references,
    groups={**item.groups, **groups},
  )
