"""Filters generated questions of existing files, as the paper's Appendix D asks for.

  mellow reasonaqa filter --data=train.json --output=filtered
  mellow reasonaqa filter --data=openaqa_5.6M.json --output=filtered

--data is a file in ReasonAQA's schema, of which the rows of a subtype ...-MCQ.json or
...-Detail.json are judged, or in OpenAQA's (instruction, audio_id, output), of which the open-ended
questions are. Rejected are questions that general knowledge answers, answers that refuse, what is
repeated across clips, what is vague, and what holds rests of a model's layout or the caption. All
other rows are kept as they stand. OUTPUT gets rows.json, rejects.jsonl and report.json; of the
rows.json of `synthesize` it can be a --part of type 4.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from mellow_jax import cli, files, progress
from mellow_jax.data import choices, tables
from mellow_jax.data.records import FIELDS
from mellow_jax.data.text import one_line
from mellow_jax.errors import DataError, FlagsError
from mellow_jax.reasonaqa.llm import filters, leftovers, results
from mellow_jax.reasonaqa.llm.qa_pairs import QAPair

OPENAQA = ("instruction", "audio_id", "output")
_OPEN_ENDED = "open-ended question"


class _Question(NamedTuple):
  row: dict[str, Any]
  file: str
  caption: str
  question: str
  answer: str
  is_generated: bool


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("data", help="File of questions: ReasonAQA's or OpenAQA's.")
  text("output", help="Folder to write; it must not exist yet.")
  flags.DEFINE_float(
    "repeat_share",
    0.05,
    "Share of the clips that may have one question with one answer.",
    lower_bound=0,
    flag_values=f,
  )
  return f


def _questions(path: str) -> Iterator[_Question]:
  """The rows of a file; raises DataError naming a row that is of neither schema."""
  for found in tables.read(path):
    row = found.fields
    names = next((names for names in (FIELDS, OPENAQA) if {*names} <= {*row}), ())
    if not names or not all(isinstance(row[name], str) for name in names):
      raise DataError(
        f"{path}, {found.place}: has neither ReasonAQA's fields ({', '.join(FIELDS)}) nor "
        f"OpenAQA's ({', '.join(OPENAQA)}) as texts: mend or drop the row"
      )
    if names == OPENAQA:
      texts = row["audio_id"], "", row["instruction"], row["output"]
      yield _Question(row, *texts, row.get("task", _OPEN_ENDED) == _OPEN_ENDED)
    else:
      texts = (row[name] for name in ("filepath1", "caption1", "input", "answer"))
      yield _Question(row, *texts, row["subtype"].endswith(("-MCQ.json", "-Detail.json")))


def _fault(found: _Question, repetition: filters.RepetitionFilter) -> str:
  """Why a question is rejected; "" for one that is kept."""
  question, answer, options = one_line(found.question), one_line(found.answer), ()
  if found.row.get("subtype", "").endswith("-MCQ.json"):
    question, options = choices.split_options(question)
    place = choices.choose(options, answer, agree=True)
    if place is None:
      return "the answer names no option"
    answer = options[place]
  if not question.strip() or not answer.strip():
    return "the question or the answer is empty"
  pair = QAPair(question.strip(), options, answer)
  return (
    leftovers.fault(pair, found.caption)
    or filters.reject_reason(pair)
    or repetition.reject_reason(pair, found.file)
  )


def _filter(f: flags.FlagValues) -> None:
  cli.require(f, "data", "output")
  if Path(f.output).exists():
    raise FlagsError(f"{f.output}: is there already: remove it, or give another --output")
  clips, rows = set[str](), 0
  for found in _questions(f.data):
    clips.add(found.file)
    rows += 1
  repetition = filters.RepetitionFilter(f.repeat_share, len(clips))
  report = {"data": f.data, "clips": len(clips), "questions": 0, "not_judged": 0}
  report |= results.run_of(Path(f.data), rows)  # `synthesize --type=4` takes what is kept, too
  with files.replacing_folder(f.output) as folder, results.writing(folder, report) as kept:
    for found in progress.Bar(_questions(f.data), "rows", unit=" rows"):
      report["questions"] += found.is_generated
      report["not_judged"] += not found.is_generated
      if found.is_generated and (reason := _fault(found, repetition)):
        kept.reject(reason, found.file, found.caption, f"{found.question} | {found.answer}")
      else:
        kept.keep(found.row)
  print(results.summary(Path(f.output), report))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for a UserError."""
  return cli.run(
    argv, _flags(), __doc__, _filter, example="--data=FILE --output=DIR", waits_for="reading"
  )
