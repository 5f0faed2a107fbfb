"""The page of a run says what the run's files say."""

import json
import re

import pytest

from mellow_jax.errors import DataError
from mellow_jax.training import report


def write_lines(path, lines):
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def workdir(tmp_path):
  """A run of 1000 steps, killed and started again after 600."""
  write_lines(
    tmp_path / "metrics.jsonl",
    [{"step": n, "loss": 2 / n, "grad_norm": 1.0, "learning_rate": 0.1} for n in range(1, 1001)]
    + [{"step": 500, "val_loss": 0.25}, {"step": 1000, "val_loss": 0.5}],
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
  write_lines(
    tmp_path / "answers.jsonl",
    [{"step": n, **asked, "answer": "yes" if n > 300 else "no"} for n in range(100, 1001, 100)],
  )
  (tmp_path / "run.json").write_text('{"seed": 17}')
  return tmp_path


def test_a_page_shows_the_runs_figures(workdir):
  text = report.write(workdir).read_text()
  assert "1000 steps, loss 0.0020, validation loss 0.5000, lowest 0.2500 at step 500" in text
  assert text.count("<svg") == 1 and "&quot;seed&quot;: 17" in text
  # 60 + 20 s of training in 90 s, over both starts.
  assert "88.9% of 90 s trained" in text
  assert re.findall(r"<th>(step \d+)</th>", text) == [
    f"step {n}" for n in (100, 300, 500, 800, 1000)
  ]
  assert text.count('class="right">yes') == 3 and text.count('class="">no') == 2
  assert "is it &lt;b&gt;?" in text and "<b>" not in text
  assert "Clips that could not be used" not in text
  assert not re.search(r'(src|href)="http', text)  # nothing is fetched


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


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(DataError, match=r"metrics.jsonl: no metrics: give the --workdir"):
    report.write(tmp_path)
  assert not list(tmp_path.iterdir())
