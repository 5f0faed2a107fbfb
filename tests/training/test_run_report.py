"""The page of a run says what the run's files say."""

import base64
import json
import re

import pytest

from mellow_jax.errors import DataError
from mellow_jax.training import report, validation


def test_sample_answers_are_spread_over_the_validation_rows():
  assert validation.spread(1000, 3, 8) == [0, 333, 666, 1, 334, 667, 2, 335]
  assert validation.spread(4, 3, 8) == [0, 1, 2, 3] and validation.spread(1, 3, 8) == [0]
  assert validation.spread(9, 3, 2) == [0, 3]


def write_lines(path, lines):
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def workdir(tmp_path):
  """A run of 1000 steps, killed and started again after 600."""
  write_lines(
    tmp_path / "metrics.jsonl",
    [{"step": n, "loss": 2 / n, "grad_norm": 1.0, "learning_rate": 0.1} for n in range(1, 1001)]
    + [
      {"step": 500, "val_loss": 0.25},
      {"step": 1000, "val_loss": 0.5, "val_accuracy": 0.75, "val_answers": 8},
    ],
  )
  seconds = [{"train": 30.0, "compile": 10.0}, {"train": 60.0, "compile": 10.0}, {"train": 20.0}]
  write_lines(
    tmp_path / "times.jsonl",
    [
      {"step": n, "examples_per_s": 7.5, "goodput": 0.5, "seconds": s}
      for n, s in zip((300, 600, 1000), seconds, strict=True)
    ],
  )
  asked = {"question": "is it <b>?", "expected": "yes"}
  (tmp_path / "clips").mkdir()
  (tmp_path / "clips/0a.flac").write_bytes(b"heard")
  clips = ({"clip1": "x/one.wav", "audio1": "clips/0a.flac"}, {"clip1": "two.wav"})
  write_lines(
    tmp_path / "answers.jsonl",
    [
      {"step": n, **asked, **clip, "answer": "yes" if n > 300 * number else "no"}
      for n in range(100, 1001, 100)
      for number, clip in enumerate(clips, 1)
    ],
  )
  (tmp_path / "run.json").write_text('{"seed": 17}')
  return tmp_path


def test_a_page_shows_the_runs_figures(workdir):
  text = report.write(workdir).read_text()
  assert "1000 steps, loss 0.0020, validation loss 0.5000, lowest 0.2500 at step 500" in text
  assert text.count("<svg") == 5 and "&quot;seed&quot;: 17" in text
  # 60 + 20 s of training in 90 s, over both starts.
  assert "88.9% of 90 s trained" in text
  assert "75.0% (6 of 8) held-out answers right" in text
  assert "is it &lt;b&gt;?" in text and "<b>" not in text
  assert "Clips that could not be used" not in text
  assert not re.search(r'(src|href)="http', text)  # nothing is fetched


def test_two_clips_of_one_question_are_two_rows_each_with_its_name_and_player(workdir):
  text = report.render(workdir)
  table = text[text.index("Answers over time") :]
  one, two = re.findall(r"<tr><td .*?</tr>", table[: table.index("</table>")])
  assert one.startswith(
    '<tr><td data-name=clip>x/one.wav<audio controls preload="none" src="data:audio/flac;base64,'
  )
  assert base64.b64decode(re.search('base64,([^"]+)', one)[1]) == b"heard"
  assert two.startswith("<tr><td data-name=clip>two.wav</td>") and "<audio" not in two  # not kept
  for row, last in ((one, 300), (two, 600)):
    assert re.findall("<small>(.*?)</small>", row) == [
      f"steps 100 to {last}",
      f"steps {last + 100} to 1000",
    ]
    assert row.count('class="right">yes') == 1 and row.count('class="">no') == 1


def test_every_validation_is_on_the_page_and_so_are_answers_of_older_runs(workdir):
  asked = {"question": "what?", "expected": "rain"}  # of two clips, which older runs did not name
  lines = [{"step": n, **asked, "answer": a} for n in range(1, 31) for a in ("rain", f"dog {n}")]
  write_lines(workdir / "answers.jsonl", lines)
  text = report.render(workdir)
  assert re.findall(r'"number">(\d+)</td><td class="number">0\.', text) == ["500", "1000"]
  one, two = re.findall(r"<tr><td data-name=clip></td>.*?</tr>", text)
  assert re.findall("<small>(.*?)</small>", one) == ["steps 1 to 30"]
  assert re.findall("<small>(.*?)</small>", two) == [f"step {n}" for n in range(1, 31)]


def test_a_page_counts_the_clips_that_could_not_be_used(workdir):
  bad = [{"path": f"{i}.wav", "reason": "empty" if i else "missing"} for i in range(3)]
  write_lines(workdir / "bad_records.jsonl", bad)
  text = report.render(workdir)
  assert "3 files" in text and re.search(r"empty</td><td class=\"number\">2<", text)


def test_a_run_that_is_cut_off_or_young_has_its_page(workdir):
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"step": 10')
  for name in ("times", "answers"):
    (workdir / f"{name}.jsonl").unlink()
  assert "1000 steps" in report.render(workdir)


def test_a_run_without_a_finite_loss_has_its_page(workdir):
  skipped = [{"step": n, "skipped": n, "why": "loss nan, gradient norm nan"} for n in (1, 2)]
  write_lines(workdir / "metrics.jsonl", skipped)
  assert "2 steps, no step with a finite loss, 7.5 examples/s" in report.render(workdir)


def test_time_and_speed_of_a_start_that_was_killed_early_count(workdir):
  # The second start took longer from its first line on, and compiled its last step only.
  seconds = [{"start": 5.0, "train": 5.0}, {"start": 5.0, "train": 10.0}]
  seconds += [{"start": 25.0, "train": 50.0}, {"start": 25.0, "train": 60.0}]
  lines = [{"step": n, "examples_per_s": 8.0, "seconds": s} for n, s in enumerate(seconds, 1)]
  write_lines(workdir / "times.jsonl", [*lines[:3], {**lines[3], "examples_per_s": 0.0}])
  text = report.render(workdir)
  assert "70.0% of 100 s trained" in text and "8.0 examples/s" in text
  assert re.search(r"start</td><td class=\"number\">30\.0 s<", text)


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(DataError, match=r"metrics.jsonl: no metrics: give the --workdir"):
    report.write(tmp_path)
  assert not list(tmp_path.iterdir())
