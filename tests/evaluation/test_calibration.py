"""Calibration: known errors, a temperature that is found again, and the command."""

import json
import shutil

import numpy as np
import pytest

from mellow_jax import checkpoint, evaluate
from mellow_jax.errors import CheckpointError
from mellow_jax.evaluation.commands import calibrate
from mellow_jax.evaluation.metrics import calibration
from mellow_jax.inference.decide import probabilities


def made(temperature: float, n: int = 4000) -> tuple[list[np.ndarray], list[int]]:
  """Log-likelihoods that are `temperature` times as large as those that answers follow."""
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 1.5, (n, 4))
  answers = [int(rng.choice(4, p=probabilities(row))) for row in logits]
  return list(logits * temperature), answers


def test_the_error_of_known_choices():
  # Confidence 0.75 and right in half of the cases, and 0.95, always right.
  sure, unsure = np.log([0.95, 0.05]), np.log([0.75, 0.25])
  found = calibration.bins([unsure, unsure, sure, sure], [0, 1, 0, 0])
  assert [one.count for one in found] == [2, 2]
  assert calibration.expected_error(found) == pytest.approx((0.25 + 0.05) / 2)


def test_a_temperature_is_found_again_and_mends_the_error():
  choices, answers = made(temperature=3.0)
  fitted = calibration.fit(choices, answers)
  assert fitted == pytest.approx(3.0, rel=0.06)
  errors = [
    calibration.expected_error(calibration.bins(choices, answers, t)) for t in (1.0, fitted)
  ]
  assert errors[0] > 0.2 and errors[1] < 0.03


def predictions(path, n: int, clips: int = 40) -> str:
  choices, answers = made(temperature=4.0, n=n)
  lines = [
    {
      "item": {
        "id": str(i),
        "kind": "choice",
        "audio1": f"{i % clips}.wav",
        "question": "what?",
        "choices": list("wxyz"),
        "answer": "wxyz"[answer],
      },
      "benchmark": "table",
      "prompt": "what? a) w b) x c) y d) z",
      "prediction": "a) w",
      "order": [0, 1, 2, 3],
      "option_log_probs": [[float(x) - 100, 3] for x in row],
    }
    for i, (row, answer) in enumerate(zip(choices, answers, strict=True))
  ]
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return str(path)


def test_the_command_keeps_the_temperature_in_the_model_folder(tmp_path, capsys):
  argv = ["mellow calibrate", f"--checkpoint={tmp_path}"]
  argv.append(f"--predictions={predictions(tmp_path / 'p.jsonl', 2000)}")
  assert calibrate.main([*argv, "--dry_run"]) == 0
  assert checkpoint.load_calibration(tmp_path) == 1.0
  assert calibrate.main(argv) == 0
  assert checkpoint.load_calibration(tmp_path) == pytest.approx(4.0, rel=0.1)
  assert "expected calibration error on 1000 choices" in capsys.readouterr().out


def test_predictions_of_another_model_are_refused(tiny_model_folder, tmp_path, capsys):
  folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
  path = predictions(tmp_path / "p.jsonl", 400)
  argv = ["mellow calibrate", f"--checkpoint={folder}", f"--predictions={path}"]
  settings = tmp_path / "p.jsonl.settings.json"
  settings.write_text(json.dumps({"checkpoint_sha256": "a1"}))
  assert calibrate.main(argv) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert f"p.jsonl: was made by another model than {folder}: predict with this one" in line
  assert not (folder / "calibration.json").exists()
  settings.write_text(json.dumps({"checkpoint_sha256": checkpoint.identity(folder)}))
  assert calibrate.main(argv) == 0
  assert calibrate.main(argv) == 0  # what the folder keeps makes it no other model
  for text in ("[]", '{"items": "4"}'):
    settings.write_text(text)
    assert calibrate.main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "p.jsonl.settings.json: is not a predictions file's settings: restore it" in line


def test_answers_to_other_audio_are_refused(tmp_path, capsys):
  path = tmp_path / "p.jsonl"
  argv = ["mellow calibrate", f"--checkpoint={tmp_path}", f"--predictions={path}"]
  predictions(path, 400)
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  path.write_text("".join(json.dumps({**line, "heard": "noise"}) + "\n" for line in lines))
  assert calibrate.main(argv) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert "p.jsonl: was made with --audio=noise, which" in line and "predict without it" in line
  predictions(path, 400)
  settings = tmp_path / "p.jsonl.settings.json"
  settings.write_text(json.dumps({"audio2": "random"}))
  assert calibrate.main(argv) == 1
  assert "p.jsonl: was made with --audio2=random, which" in capsys.readouterr().err
  assert not (tmp_path / "calibration.json").exists()
  settings.write_text(json.dumps({"audio2": "same"}))
  assert calibrate.main(argv) == 0


def test_no_clip_is_both_fitted_and_reported(tmp_path, capsys):
  argv = ["mellow calibrate", f"--checkpoint={tmp_path}", "--dry_run"]
  path = predictions(tmp_path / "p.jsonl", 300, clips=3)  # two thirds are about clips 0 and 2
  assert calibrate.main([*argv, f"--predictions={path}"]) == 0
  assert "expected calibration error on 100 choices" in capsys.readouterr().out
  path = predictions(tmp_path / "one.jsonl", 300, clips=1)
  assert calibrate.main([*argv, f"--predictions={path}"]) == 1
  assert "one.jsonl: all choices are about one clip, two are needed" in capsys.readouterr().err


def test_too_few_choices_and_a_damaged_file_are_told(tmp_path, capsys):
  path = predictions(tmp_path / "p.jsonl", 5)
  argv = ["mellow calibrate", f"--checkpoint={tmp_path}", f"--predictions={path}"]
  assert calibrate.main(argv) == 1
  assert "5 choices with log-likelihoods, 20 are needed" in capsys.readouterr().err
  (tmp_path / "calibration.json").write_text('{"temperature": -1}')
  with pytest.raises(CheckpointError, match=r"calibration\.json.*mellow calibrate"):
    checkpoint.load_calibration(tmp_path)


def test_score_reports_the_error_and_draws_it(tmp_path):
  path = predictions(tmp_path / "p.jsonl", 400)
  argv = ["mellow evaluate score", f"--predictions={path}", f"--output={tmp_path / 'score'}"]
  assert evaluate.main(["mellow evaluate", "score", *argv[1:]]) == 0
  found = json.loads((tmp_path / "score/report.json").read_text())
  bins = [calibration.Bin(*one) for one in found["sections"][0]["calibration"]]
  assert sum(one.count for one in bins) == 400
  text = (tmp_path / "score/report.md").read_text()
  assert f"Expected calibration error {calibration.expected_error(bins):.4f}" in text
  assert "right as often as they say?" in (tmp_path / "score/report.html").read_text()
