"""Multiple choices with other wrong options, drawn from the captions of the same rows.

With few questions the accuracy depends on which wrong options stand beside the right one; over
several option sets it does so less.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mellow_jax.data import augment
from mellow_jax.data.records import Record
from mellow_jax.evaluation.benchmarks import rows
from mellow_jax.evaluation.benchmarks.items import Item

GROUP = "option set"  # of an item: the number of its set, from 1


def question_of(item: Item) -> str:
  """What tells questions apart: an item's id, but the same for all option sets of a question.

  Ids differ by set, as they follow from the options.
  """
  if GROUP not in item.groups:
    return item.id
  return "\0".join((item.audio1, item.audio2, item.question, item.answer))


def redraw(name: str, records: Sequence[Record], count: int) -> list[Item]:
  """The multiple choices among the rows of a file, each with count option sets.

  Each set is an item, and has a seed of its own.
  Raises DataError naming the file where an answer is none of its row's options.
  """
  captions = sorted({record.caption1 for record in records})
  items, _ = rows.from_records(name, records)  # raises for a faulty row
  chosen = [one for one in records if rows.from_record(one).kind == "choice"] if items else []
  found = []
  for number in range(1, count + 1):
    rng = np.random.default_rng([number - 1, 1])
    drawn = [augment.redraw_options(record, captions, rng) for record in chosen]
    for item in rows.from_records(name, drawn)[0]:
      groups = {**item.groups, GROUP: str(number)}
      found.append(dataclasses.replace(item, id=f"{item.id}/{number}", groups=groups))
  return found
