"""A run's picture, word-for-word accuracy, and multiple choices with redrawn options."""

import dataclasses
import json

import matplotlib.image
import numpy as np
import pytest
import tiny

from mellow_jax import evaluate
from mellow_jax.data import scenes
from mellow_jax.errors import DataError
from mellow_jax.evaluation.benchmarks import catalogue, option_sets, rows
from mellow_jax.evaluation.benchmarks.items import Prediction
from mellow_jax.evaluation.metrics import intervals, rules
from mellow_jax.evaluation.metrics.coco_java import Settings
from mellow_jax.evaluation.report import run_picture, sections, summary

TASKS = {
  "caption": ("caption", None),
  "presence": ("multiple choice", 1 / 4),
  "order": ("multiple choice", 1 / 4),
  "detail": ("detail", None),
  "count": ("multiple choice", 1 / 3),
  "overlap": ("yes/no", 1 / 2),
  "binary": ("yes/no", 1 / 2),
  "entailment": ("entailment", 1 / 3),
  "difference": ("difference", None),
}


def answered(records, write):
  """Predictions about rows; write gives the answer to one."""
  return tuple(
    Prediction(item=item, benchmark="scenes", prompt=record.input, prediction=write(record))
    for record, item in zip(records, map(rows.from_record, records), strict=True)
  )


@pytest.mark.parametrize("task", TASKS)
def test_task_and_chance_of_scenes(task):
  (section,) = sections.split(answered(scenes.Scenes("val", 0, 1, {task: 1.0}), lambda row: "x"))
  name, chance = TASKS[task]
  assert section.predictions[0].item.groups["task"] == name
  if chance:
    assert summary.blind(section)["random"].mean() == pytest.approx(100 * chance)
  else:
    assert section.kind == "text"


def test_word_for_word_is_the_whole_answer():
  records = scenes.Scenes("val", 0, 40, {"presence": 1.0, "caption": 1.0, "entailment": 1.0})

  def accuracy(write):
    found = run_picture.accuracies(answered(records, write))
    return {name: float(values.values.mean()) for name, values in found.items()}

  assert set(accuracy(lambda row: f" {row.answer.upper()}  ").values()) == {100.0}
  letters = accuracy(lambda row: row.answer[:2])
  assert letters["multiple choice"] == letters["entailment"] == 0
  without = answered(records, lambda row: row.answer.partition(") ")[2] or row.answer)
  (choice,) = (part for part in sections.split(without) if part.kind == "choice")
  assert rules.judge(rules.WORD_FOR_WORD, choice.predictions)[0].mean() == 0
  assert rules.judge(rules.OPTION_TEXT, choice.predictions)[0].mean() == 1


def test_of_yes_and_no_the_word_alone_counts():
  row = dataclasses.replace(scenes.Scenes("val", 0, 1, {"binary": 1.0})[0], answer="no")
  said = {"No and siren": 100, "yes no": 0, "noise": 0, "": 0}
  for text, value in said.items():
    (found,) = run_picture.accuracies(answered([row], lambda _, text=text: text)).values()
    assert found.values.mean() == value


def test_redrawn_options_keep_the_right_answer():
  records = [
    dataclasses.replace(
      row, caption1=kind, input=f"which? a) {kind} b) {other}", answer=f"a) {kind}"
    )
    for row, kind, other in zip(
      scenes.Scenes("val", 0, 20, {"presence": 1.0}),
      np.resize(scenes.KINDS, 20).tolist(),
      np.resize(scenes.KINDS[1:], 20).tolist(),
      strict=True,
    )
  ]
  drawn = option_sets.redraw("x.json", records, 3)
  assert option_sets.redraw("x.json", records, 3) == drawn
  assert len({item.id for item in drawn}) == len(drawn) == 60
  assert [item.groups["option set"] for item in drawn] == ["1"] * 20 + ["2"] * 20 + ["3"] * 20
  own = [rows.from_record(record) for record in records]
  assert any(a.choices != b.choices for a, b in zip(own, drawn, strict=False))
  for before, after in zip(own * 3, drawn, strict=True):
    assert after.answer == before.answer and after.answer in after.choices


def test_the_option_sets_of_a_question_are_one_trial():
  records = [
    dataclasses.replace(row, caption1=kind, input=f"which? a) {kind} b) hum", answer=f"a) {kind}")
    for row, kind in zip(
      scenes.Scenes("val", 0, 20, {"presence": 1.0}),
      np.resize(scenes.KINDS, 20).tolist(),
      strict=True,
    )
  ]
  drawn = option_sets.redraw("x.json", records, 5)
  right = {record.filepath1 for record in records[:10]}
  predictions = [
    Prediction(
      item=item,
      benchmark="reasonaqa",
      prompt="?",
      prediction=item.answer if item.audio1 in right else "?",
    )
    for item in drawn
  ]
  (section,) = sections.split(predictions)
  part = summary.summarise(section, Settings(), seed=0)
  assert (part.items, part.answers) == (20, 100)
  line = part.lines[0]
  values = np.repeat([100.0, 0.0], 10)
  assert (line.n, line.value) == (20, 50)
  assert (line.low, line.high) == intervals.percent_interval(values, seed=0)
  (groups,) = (one for one in part.groups if one.key == "option set")
  assert [one.n for one in groups.lines] == [20] * 5
  assert len(sections.headline(section)[0].ids) == 20


def test_options_are_redrawn_of_rows_alone(reference_data):
  with pytest.raises(DataError, match="benchmark mmau: only rows"):
    catalogue.read("mmau", reference_data / "meta/mmau", option_sets=2)


def test_the_command_draws_a_run(tmp_path, capsys):
  cfg = tiny.run()
  (tmp_path / "run.json").write_text(json.dumps(dataclasses.asdict(cfg)))
  steps = [json.dumps({"step": i, "loss": 3.0 / i}) + "\n" for i in range(1, 9)]
  (tmp_path / "metrics.jsonl").write_text("".join(steps) + '{"step": 9, "lo')
  records = scenes.Scenes("val", 0, 30, {"presence": 1.0, "binary": 1.0, "caption": 1.0})
  for name, audio in (("a", "clips"), ("b", "noise")):
    given = answered(records, lambda row, audio=audio: row.answer if audio == "clips" else "$x")
    lines = [dataclasses.asdict(dataclasses.replace(p, heard=audio)) for p in given]
    text = "".join(json.dumps({"row": i, **line}) + "\n" for i, line in enumerate(lines))
    (tmp_path / f"{name}.jsonl").write_text(text)
  flags = {"workdir": tmp_path, "predictions": tmp_path / "a.jsonl", "probe": tmp_path / "b.jsonl"}
  flags["output"] = tmp_path / "new" / "run.png"

  def run(**changes):
    given = [f"--{name}={value}" for name, value in (flags | changes).items() if value]
    return evaluate.main(["evaluate", "picture", *given]), *capsys.readouterr()

  status, out, _ = run()
  assert status == 0 and out.count("\nQ ") == 3 and "with noise: $x" in out
  assert matplotlib.image.imread(flags["output"]).shape[1] == 1430
  for changes, message in (
    ({"probe": None}, "--probe is missing"),
    ({"workdir": tmp_path / "new"}, "run.json: is not the settings of a training run"),
  ):
    status, _, err = run(**changes)
    assert status == 1 and message in err and err.startswith("error: ") and err.count("\n") == 1
