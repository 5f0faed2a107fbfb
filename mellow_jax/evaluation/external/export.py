"""Predictions in the forms that other people's scripts take.

  mellow evaluate export --predictions=predictions.jsonl --format=mmau --output=FILE

| format | file | for |
|---|---|---|
| mmau | JSON list: MMAU's rows with "model_output" | evaluation.py of Sakshi113/MMAU, its server |
| mmar | JSONL: MMAR's rows with "answer_prediction" | evaluation.py of ddlBoJack/MMAR |
| aura | JSONL: the arguments of compute_aura_score | AURA, which asks a language model of others |

Both benchmarks compare sets of words, so that the letter of "b) dog" would be one of them: it is
stripped, and nothing else is changed. With --data, the benchmark's own file, its rows are copied
whole; without, they hold what the predictions know of them, which is all that the scripts read.
"""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from mellow_jax import cli, files
from mellow_jax.data import choices, tables
from mellow_jax.errors import DataError, FlagsError
from mellow_jax.evaluation.benchmarks import prediction_files
from mellow_jax.evaluation.benchmarks.items import Prediction

# Format to: the benchmarks it is of, the key of the clip and the key of the answer.
PUBLISHED = {
  "mmau": (("mmau", "mmau-test"), "audio_id", "model_output"),
  "mmar": (("mmar",), "audio_path", "answer_prediction"),
}


def published_row(prediction: Prediction, audio_key: str, answer_key: str) -> dict[str, Any]:
  """A benchmark's row as its script reads it, with the answer."""
  item = prediction.item
  return {
    "id": item.id,
    audio_key: item.audio1,
    "question": item.question,
    "choices": list(item.choices),
    **({"answer": item.answer} if item.answer else {}),
    **item.groups,
    answer_key: choices.split_letter(prediction.prediction)[1],
  }


def published(
  predictions: Sequence[Prediction], form: str, data: Path | None = None
) -> list[dict[str, Any]]:
  """Rows of MMAU or MMAR with their answers, those of the benchmark's own file if it is given.

  Raises DataError where predictions are of another benchmark, of permuted options more than once,
  or do not cover the file; DataError where the file cannot be read.
  """
  benchmarks, audio_key, answer_key = PUBLISHED[form]
  by_id: dict[str, Prediction] = {}
  for prediction in predictions:
    if prediction.benchmark not in benchmarks:
      raise DataError(
        f"the predictions are of benchmark {prediction.benchmark}: --format={form} takes "
        f"{' or '.join(benchmarks)}"
      )
    if prediction.item.id in by_id:
      raise DataError(
        f"id {prediction.item.id!r} is answered more than once, with its options in several "
        "orders: the script takes one answer; predict without --permute_options"
      )
    by_id[prediction.item.id] = prediction
  if data is None:
    return [published_row(prediction, audio_key, answer_key) for prediction in by_id.values()]
  rows = [row.fields for row in tables.read(data)]
  if absent := [row.get("id") for row in rows if row.get("id") not in by_id]:
    raise DataError(
      f"{data}: {len(absent)} of {len(rows)} rows have no prediction, first {absent[0]!r}: the "
      "script would leave them out of its figures; finish `evaluate predict`"
    )
  texts = {name: choices.split_letter(p.prediction)[1] for name, p in by_id.items()}
  return [{**row, answer_key: texts[row["id"]]} for row in rows]


def aura(predictions: Sequence[Prediction]) -> list[dict[str, str]]:
  """Rows for AURA, as `compute_aura_score(**row, openai_api_key=KEY)` takes them.

  Of an item with several references there is one each, since it compares with one.

  Raises DataError for an item without a reference or about two clips.
  """
  rows = []
  for prediction in predictions:
    item = prediction.item
    references = item.references or ((item.answer,) if item.answer else ())
    if item.audio2 or not references:
      fault = "is about two clips" if item.audio2 else "has no published answer"
      raise DataError(f"id {item.id!r} {fault}: AURA compares one clip, answer and reference")
    rows += [
      {
        "question": item.question,
        "reference": reference,
        "response": prediction.prediction,
        "audio_path": item.audio1,
      }
      for reference in references
    ]
  return rows


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("predictions", help="File that `evaluate predict` wrote.")
  flags.DEFINE_enum("format", None, [*PUBLISHED, "aura"], "Whose form.", flag_values=f)
  text("data", help="The benchmark's own file, whose rows are copied whole; for mmau and mmar.")
  text("output", help="File to write; one of this name is replaced.")
  return f


def _export(f: flags.FlagValues) -> None:
  cli.require(f, "predictions", "format", "output")
  found = prediction_files.read(f.predictions, need_answers=False)
  if f.format == "aura":
    if f.data:
      raise FlagsError("--data is for --format=mmau and mmar: drop it")
    rows = aura(found.predictions)
  else:
    rows = published(found.predictions, f.format, Path(f.data) if f.data else None)
  if f.format == "mmau":
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
  else:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  files.write_text(f.output, text)
  heard = "" if found.heard == "clips" else f", of a probe that heard {found.heard}"
  if failed := sum(bool(p.failure) for p in found.predictions):
    heard += f"; {failed} of the answers are empty, as their questions could not be asked"
  print(f"{f.output}: {len(rows)} rows{heard}", file=sys.stderr)


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(
    argv, _flags(), __doc__, _export, example="--predictions=FILE", waits_for="writing"
  )
