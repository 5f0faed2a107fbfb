"""Predictions files, ours and other models', as answers to a benchmark's items."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from mellow_jax import files
from mellow_jax.data import tables
from mellow_jax.errors import DataError, PredictionsError, first_line
from mellow_jax.evaluation.benchmarks.items import Item, Kind, Prediction

# Where other models' files, MMAU's and MMAR's among them, keep the text.
TEXT_KEYS = ("prediction", "model_output", "answer_prediction", "model_prediction")
_REMEDY = "a line cut off by a kill is mended by the same `evaluate predict` again"
_NOT_ANSWERED = "the predictions file has null in place of an answer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionSet:
  """The predictions of one run of a model over a benchmark."""

  path: Path
  sha256: str  # of the file
  benchmark: str
  heard: str  # "clips", or what was played in their place
  permuted: bool  # whether any options were shown in another order than the item's
  unanswered: int | None  # items without an answer; None if nothing says how many there are
  settings: dict[str, Any]  # what the file was made with, {} if it does not say
  predictions: tuple[Prediction, ...]


def no_answer(item: Item, benchmark: str) -> str:
  """What to do about an item that cannot be scored."""
  if benchmark == "table":
    return (
      f"item {item.id!r} ({item.audio1}) of the table has no answer: add the column answer to the "
      "table, and ask again with `evaluate predict`"
    )
  return (
    f"the right answer to id {item.id!r} is not published: `evaluate export` writes a file for "
    "whoever has it"
  )


def read(
  path: str | os.PathLike,
  benchmark: str | None = None,
  items: Sequence[Item] | None = None,
  *,
  need_answers: bool = True,
) -> PredictionSet:
  """A predictions file: as `evaluate predict` writes it, or any model's in a form `tables` reads.

  A line of ours holds its item. A line of another's holds "id" and one of TEXT_KEYS, and finds its
  item among those given; an object of answers by id will do, too. null in place of an answer is a
  failure to answer. With items, each line must answer one of them. With need_answers each
  item's right answer must be known.

  Raises PredictionsError.
  """
  path = Path(path)
  try:
    rows = list(tables.read(path, remedy=_REMEDY))
  except DataError as error:
    raise PredictionsError(str(error)) from None
  known = None if items is None else {item.id: item for item in items}
  if (
    known is not None
    and len(rows) == 1
    and rows[0].fields
    and rows[0].fields.keys() <= known.keys()
  ):
    pairs = enumerate(rows[0].fields.items())
    rows = [tables.Row({"id": i, "prediction": text}, n, in_list=True) for n, (i, text) in pairs]
  predictions, seen = [], {}
  for number, row in ((row.place, row.fields) for row in rows):
    where = f"{path}, {number}"
    prediction = _prediction(where, row, benchmark, known)
    # An item of ours may come several times, with its options in several orders.
    key = ("row", row["row"]) if "item" in row and "row" in row else ("id", prediction.item.id)
    if key in seen:
      raise PredictionsError(
        f"{where}: {key[0]} {key[1]!r} is there already, in {seen[key]}: remove one of the two"
      )
    seen[key] = number
    if need_answers and not prediction.item.answer:
      raise PredictionsError(f"{where}: {no_answer(prediction.item, prediction.benchmark)}")
    predictions.append(prediction)
  for name in ("benchmark", "heard"):
    values = {getattr(prediction, name) for prediction in predictions}
    if len(values) > 1:
      raise PredictionsError(
        f"{path}: several values of {name} ({', '.join(sorted(values))}): split it"
      )
  answered, settings = {prediction.item.id for prediction in predictions}, _settings(path)
  unanswered = settings["items"] - len(answered) if "items" in settings else None
  if known is not None:
    unanswered = len(known.keys() - answered)
  return PredictionSet(
    path=path,
    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    benchmark=predictions[0].benchmark,
    heard=predictions[0].heard,
    permuted=any(list(p.order) != sorted(p.order) for p in predictions),
    unanswered=unanswered,
    settings=settings,
    predictions=tuple(predictions),
  )


def _prediction(
  where: str, row: dict[str, Any], benchmark: str | None, known: dict[str, Item] | None
) -> Prediction:
  if "item" in row:
    try:
      found = _own(row)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
      raise PredictionsError(
        f"{where}: is no prediction of `evaluate predict` ({first_line(error)}): restore the line, "
        "or remove it and predict again"
      ) from None
    if benchmark and found.benchmark != benchmark:
      raise PredictionsError(
        f"{where}: answers benchmark {found.benchmark}, not {benchmark}: drop --benchmark"
      )
    if known is not None and known.get(found.item.id) != found.item:
      raise PredictionsError(
        f"{where}: id {found.item.id!r} is not the item that --data has: name the data it was made "
        "from, or drop --data"
      )
    places = range(len(found.item.choices))
    if found.order and sorted(found.order) != list(places):
      raise PredictionsError(f"{where}: order {list(found.order)} is none of {len(places)} choices")
    if found.option_log_probs and len(found.option_log_probs) != len(places):
      raise PredictionsError(f"{where}: option_log_probs are not those of {len(places)} choices")
    return found
  if known is None or benchmark is None:
    raise PredictionsError(
      f"{where}: holds no item: name --benchmark and --data, where the questions are"
    )
  keys = [key for key in TEXT_KEYS if key in row]
  name = row.get("id", row.get(tables.KEY))
  if len(keys) != 1 or not isinstance(name, str | int):
    raise PredictionsError(
      f'{where}: needs "id" and one text among {", ".join(TEXT_KEYS)}, and has '
      f"{', '.join(map(repr, row))}: rename or add what is missing"
    )
  text = row[keys[0]]
  if not isinstance(text, str | None):
    raise PredictionsError(
      f"{where}: field {keys[0]!r} is {tables.name_of(text)}: write it as text, in quotes"
    )
  if str(name) not in known:
    raise PredictionsError(
      f"{where}: id {name!r} is none of benchmark {benchmark}'s: name the --data that was asked"
    )
  item = known[str(name)]
  return Prediction(
    item=item,
    benchmark=benchmark,
    prompt="",  # it does not say
    prediction=text or "",
    failure=_NOT_ANSWERED if text is None else "",
    order=tuple(range(len(item.choices))),
  )


def _own(row: dict[str, Any]) -> Prediction:
  """A line of `evaluate predict`; raises one of several built-in errors for any other."""
  if not isinstance(row.get("prediction"), str):
    raise ValueError(f"prediction {row.get('prediction')!r:.80} is no text")
  item = {**dict.fromkeys(("choices", "references"), ()), **row["item"]}
  for name in ("choices", "references"):
    if not isinstance(item[name], list | tuple):
      raise ValueError(f"{name} is no list")
    item[name] = tuple(item[name])
  groups = item.get("groups", {})
  texts = [item[name] for name in item.keys() - {"choices", "references", "groups"}]
  texts += [*item["choices"], *item["references"], *groups, *groups.values()]
  texts += [row[name] for name in ("benchmark", "prompt", "heard", "failure") if name in row]
  if not all(isinstance(text, str) for text in texts):
    raise ValueError("a text is something else")
  if item["kind"] not in get_args(Kind):
    raise ValueError(f"kind {item['kind']!r:.80} is none of {', '.join(get_args(Kind))}")
  if item["choices"] and item.get("answer") and item["answer"] not in item["choices"]:
    raise ValueError("the right answer is none of the choices")
  order = tuple(row.get("order") or range(len(item["choices"])))
  if not all(isinstance(number, int) for number in (row.get("row", 0), *order)):
    raise ValueError("a number is something else")
  scores = tuple((float(s), int(n)) for s, n in row.get("option_log_probs", ()))
  if any(math.isnan(score) for score, _ in scores):
    raise ValueError("a log-likelihood is NaN")
  samples, agreed = tuple(row.get("samples") or ()), row.get("agreed")
  if not all(isinstance(text, str) for text in samples) or not isinstance(agreed, int | None):
    raise ValueError("samples and agreed are no texts and a number")
  names = {field.name for field in dataclasses.fields(Prediction)}
  made = {"item": Item(**item), "order": order, "option_log_probs": scores, "samples": samples}
  return Prediction(**{name: value for name, value in row.items() if name in names} | made)


def _settings(path: Path) -> dict[str, Any]:
  beside = path.with_name(path.name + ".settings.json")
  try:
    found = files.read_json(beside, "a predictions file's settings") if beside.exists() else {}
  except DataError as error:
    raise PredictionsError(str(error)) from None
  if not isinstance(found, dict) or not isinstance(found.get("items", 0), int):
    raise PredictionsError(
      f"{beside}: is not a predictions file's settings: restore it from a copy, or remove it"
    )
  return found
