"""Predictions in other people's forms: what their scripts read is there, and nothing is lost."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mellow_jax.evaluation.benchmarks.items import Item, Prediction
from mellow_jax.evaluation.external import export

ROOT = Path(__file__).parents[2]
GROUPS = {"task": "sound", "difficulty": "easy", "sub-category": "Ambient Sound Interpretation"}


def item(name, **changes):
  fields = {
    "id": name,
    "kind": "choice",
    "audio1": f"clips/{name}.wav",
    "question": "What is heard?",
    "choices": ("Dog", "A cat", "Rain"),
    "answer": "Dog",
    "groups": GROUPS,
  }
  return Item(**{**fields, **changes})


def predictions(*texts, benchmark="mmau", **changes):
  return [
    Prediction(item=item(f"q{i}", **changes), benchmark=benchmark, prompt="p", prediction=text)
    for i, text in enumerate(texts)
  ]


@pytest.fixture
def run(tmp_path, capsys):
  """Runs the command on predictions; gives the status, the file's text and the last line said."""

  def run(found, form, *flags):
    lines = [json.dumps({"row": i, **dataclasses.asdict(p)}) for i, p in enumerate(found)]
    (tmp_path / "predictions.jsonl").write_text("".join(line + "\n" for line in lines))
    output = tmp_path / "out"
    names = [f"--predictions={tmp_path / 'predictions.jsonl'}", f"--output={output}"]
    status = export.main(["export", *names, f"--format={form}", *flags])
    text = output.read_text() if output.exists() else None
    return status, text, capsys.readouterr().err.splitlines()[-1]

  return run


def test_mmau_gets_words_without_letters(run):
  said = ["a) dog", "(b) a cat", "B) A cat", "dog", "a", "the answer is c) rain", ""]
  status, text, line = run(predictions(*said), "mmau")
  rows = json.loads(text)
  assert status == 0 and line.endswith("7 rows")
  assert [row["model_output"] for row in rows] == [
    *("dog", "a cat", "A cat", "dog", "a", "the answer is c) rain", ""),
  ]
  # All that evaluation.py looks up, and what tells the rows apart.
  assert rows[0] == {
    "id": "q0",
    "audio_id": "clips/q0.wav",
    "question": "What is heard?",
    "choices": ["Dog", "A cat", "Rain"],
    "answer": "Dog",
    **GROUPS,
    "model_output": "dog",
  }


def test_it_needs_no_jax():
  program = (
    "import sys; import mellow_jax.evaluation.external.export as e; sys.exit('jax' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_a_probe_is_called_one(run):
  found = [dataclasses.replace(p, heard="noise") for p in predictions("a) dog", "b) a cat")]
  status, _, line = run(found, "mmau")
  assert status == 0 and line.endswith("2 rows, of a probe that heard noise")


def test_answers_that_are_not_published_are_no_hindrance(run):
  status, text, _ = run(predictions("a) dog", benchmark="mmau-test", answer=""), "mmau")
  (row,) = json.loads(text)
  assert status == 0 and "answer" not in row and row["model_output"] == "dog"


def test_the_benchmarks_own_rows_are_kept_whole(run, tmp_path):
  own = [
    {"id": name, "audio_id": f"./clips/{name}.wav", "category": "['Reasoning']", "split": "test"}
    for name in ("q1", "q0")
  ]
  data = tmp_path / "mmau.json"
  data.write_text(json.dumps(own))
  status, text, _ = run(predictions("a) dog", "b) a cat"), "mmau", f"--data={data}")
  assert status == 0
  assert json.loads(text) == [
    {**own[0], "model_output": "a cat"},
    {**own[1], "model_output": "dog"},
  ]
  data.write_text(json.dumps([*own, {"id": "q2"}, {"id": "q3"}]))
  (tmp_path / "out").unlink()
  status, text, line = run(predictions("a) dog", "b) a cat"), "mmau", f"--data={data}")
  assert status == 1 and text is None
  assert "2 of 4 rows have no prediction, first 'q2'" in line


def test_mmar_is_lines_with_its_own_key(run):
  groups = {"modality": "mix-sound-speech", "category": "Signal Layer"}
  found = predictions("a) dog", "c) rain", benchmark="mmar", groups=groups)
  status, text, _ = run(found, "mmar")
  rows = [json.loads(line) for line in text.splitlines()]
  assert status == 0
  assert [row["answer_prediction"] for row in rows] == ["dog", "rain"]
  assert rows[0]["audio_path"] == "clips/q0.wav" and rows[0]["modality"] == "mix-sound-speech"


def test_aura_compares_with_one_reference_at_a_time(run):
  plain = predictions("a dog", benchmark="clothoaqa", kind="text", choices=(), answer="barking")
  several = predictions(
    *("a dog",), benchmark="audiocaps", kind="text", choices=(), answer="x", references=("x", "y")
  )
  status, text, _ = run(plain, "aura")
  assert status == 0
  assert json.loads(text) == {
    "question": "What is heard?",
    "reference": "barking",
    "response": "a dog",
    "audio_path": "clips/q0.wav",
  }
  _, text, _ = run(several, "aura")
  assert [json.loads(line)["reference"] for line in text.splitlines()] == ["x", "y"]


def test_what_a_form_cannot_hold_is_refused(run):
  def fails(found, form, message, *flags):
    status, text, line = run(found, form, *flags)
    assert status == 1 and text is None
    assert line.startswith("error: ") and message in line

  fails(predictions("a", benchmark="cle"), "mmau", "are of benchmark cle: --format=mmau takes mmau")
  orders = [dataclasses.replace(predictions("a) dog")[0], order=o) for o in ((0, 1, 2), (2, 1, 0))]
  fails(orders, "mmau", "id 'q0' is answered more than once")
  fails(predictions("a", audio2="b.wav"), "aura", "is about two clips")
  fails(predictions("a", answer=""), "aura", "has no published answer")
  fails(predictions("a"), "aura", "--data is for --format=mmau and mmar", "--data=x.json")
