"""Rows of ReasonAQA's form as questions: options parsed out of the input, captions put together."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from mellow_jax.data import choices, prompts, records
from mellow_jax.data.records import Record
from mellow_jax.errors import DataError
from mellow_jax.evaluation.benchmarks.items import Item, Kind

MOST_REFERENCES = 5  # of a caption; the reference scores against no more
TASKS = {"choice": "multiple choice", "binary": "yes/no", "entailment": "entailment"}  # by kind
_TEXT_TASKS = {"difference": "difference", "other": "detail"}  # of free text; the others caption


def kind_of(options: Sequence[str]) -> Kind:
  """Whether options are verdicts on a hypothesis or any others."""
  return "entailment" if all(map(choices.verdict, options)) else "choice"


def from_record(record: Record) -> Item:
  """A row of ReasonAQA's form, or of a table of one's own, as a question.

  Lettered options at the end of its input, "a) .. b) ..", become choices: a multiple choice, or
  entailment where they are verdicts. "yes" and "no" make a binary question, everything else is free
  text with one reference. An answer's letter counts before its text, as the reference scores it.

  Raises DataError, naming the row, where the answer to a multiple choice is none of its options;
  an empty one is none that was published.
  """
  stem, options = choices.split_options(record.input)
  place = choices.choose(options, record.answer)
  if options and (place is not None or not record.answer.strip()):
    right = "" if place is None else options[place]
    return item(record, kind_of(options), stem.strip(), options, right)
  if options and (choices.split_letter(record.answer)[0] or "MCQ" in record.subtype):
    raise DataError(
      f"row {record.row} (from 0): answer {record.answer!r} is none of the options in its input"
    )
  if yes_or_no := choices.yes_or_no(record.answer):
    return item(record, "binary", record.input, (), yes_or_no)
  return item(record, "text", record.input, (), record.answer.strip())


def item(record: Record, kind: Kind, question: str, options: tuple[str, ...], answer: str) -> Item:
  """The question of a row, of which kind and parts are known."""
  task = TASKS.get(kind) or _TEXT_TASKS.get(prompts.task_of(question), "caption")
  subtype = record.subtype.removesuffix(".json")
  groups = {"task": task, "subtype": subtype, "source": record.taskname}
  return Item(
    id=records.row_id(record),
    kind=kind,
    audio1=record.filepath1,
    audio2=record.filepath2,
    question=question,
    choices=options,
    answer=answer,
    references=(answer,) if kind == "text" and answer else (),
    groups={name: value for name, value in groups.items() if value},
  )


def from_records(
  name: str, rows: Iterable[Record], quarantined: Collection[str] = ()
) -> tuple[list[Item], int]:
  """The rows of a file as questions, and how many rows were left out as quarantined.

  The captions of a clip are one question with up to five references, as the reference scores them.

  Raises DataError where answers are none of their options, saying of how many rows.
  """
  items: list[Item] = []
  captions: dict[tuple[str, ...], int] = {}  # what is captioned -> its place among the items
  left_out, faults = 0, []
  for record in rows:
    if quarantined and records.row_id(record) in quarantined:
      left_out += 1
      continue
    try:
      item = from_record(record)
    except DataError as error:
      faults.append(error)
      continue
    if item.groups["task"] == "caption":
      captioned = (record.subtype, item.audio1, item.audio2, item.question)
      if (place := captions.setdefault(captioned, len(items))) < len(items):
        first = items[place]
        references = (*first.references, *item.references)[:MOST_REFERENCES]
        items[place] = dataclasses.replace(first, references=references)
        continue
    items.append(item)
  if faults:
    raise DataError(
      f"{name}: the answer is none of the options in {len(faults)} rows, first {faults[0]}: "
      "correct them, or list them with `mellow reasonaqa check --quarantine=FILE` "
      "and give --quarantine=FILE"
    )
  return with_own_ids(items), left_out


def with_own_ids(items: Sequence[Item]) -> list[Item]:
  """The items, the second and later of one id with its number added: rows may repeat."""
  found, seen = [], {}
  for item in items:
    seen[item.id] = seen.get(item.id, 0) + 1
    number = seen[item.id]
    found.append(item if number == 1 else dataclasses.replace(item, id=f"{item.id}-{number}"))
  return found
