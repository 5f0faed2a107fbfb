"""The listening report counts and groups as it says."""

import dataclasses

import numpy as np
import pytest

from mellow_jax.data import scenes
from mellow_jax.evaluation import listening

FAMILIES = {
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


@pytest.mark.parametrize("task", FAMILIES)
def test_family_and_chance(task):
  row = scenes.Scenes("val", 0, 1, {task: 1.0})[0]
  assert (listening.family(row), listening.chance(row)) == FAMILIES[task]


def test_accuracy_is_of_exact_answers():
  rows = scenes.Scenes("val", 0, 40, {"presence": 1.0, "binary": 1.0})
  right = [f" {row.answer.upper()} " for row in rows]
  assert all(share == 1.0 for share, _ in listening.accuracy(rows, right, "task").values())
  letters = [row.answer[:2] for row in rows]
  found = listening.accuracy(rows, letters, "family")
  assert found["multiple choice"][0] == 0.0
  assert sum(count for _, count in found.values()) == 40


def test_of_yes_and_no_the_first_word_counts():
  row = dataclasses.replace(scenes.Scenes("val", 0, 1, {"binary": 1.0})[0], answer="no")
  assert listening.is_right(row, "No and siren") and not listening.is_right(row, "yes no")
  assert not listening.is_right(row, "noise") and not listening.is_right(row, "")


def test_redrawn_options_keep_the_right_answer():
  rows = [
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
  drawn = listening.redraw(rows, 3)
  assert listening.redraw(rows, 3) == drawn
  assert any(a.input != b.input for a, b in zip(rows, drawn, strict=True))
  for before, after in zip(rows, drawn, strict=True):
    assert after.answer[3:] == before.answer[3:]
    assert f"{after.answer}" in after.input
