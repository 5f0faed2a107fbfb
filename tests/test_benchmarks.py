"""Each benchmark at a tiny size, so that none rots; without PyTorch and the public code."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import (
  accelerator,
  contestants,
  decode,
  encoder,
  inputs,
  losses,
  pipeline,
  roofline,
  rounds,
  startup,
  train,
)
from mellow_jax.models import mellow


def measured(area, tmp_path, monkeypatch, *flags):
  """The report of an area in one round, of which PyTorch is no part."""
  has = rounds.has
  monkeypatch.setattr(rounds, "has", lambda *names: "torch" not in names and has(*names))
  output = tmp_path / "report.json"
  area.main(["--tiny", "--rounds=1", f"--output={output}", *flags])
  report = json.loads(output.read_text())
  rows = [row for table in report["tables"] for row in table["rows"]]
  assert rows and all(len(row["seconds"]) == 1 for row in rows)
  # The tokens after the first have a difference of two times, which noise can turn around.
  assert all(row["median"] > 0 for row in rows if row["name"] != decode.AFTER)
  return report


def names(report):
  return [row["name"] for table in report["tables"] for row in table["rows"]]


def skipped(report):
  return [each["what"] for each in report["skipped"]]


@pytest.mark.slow
def test_losses(tmp_path):
  output = tmp_path / "report.json"
  losses.main(["--tiny", f"--output={output}"])
  report = json.loads(output.read_text())
  (table,) = report["tables"]
  assert [row["name"] for row in table["rows"]] == [*losses.runs(losses.demo.get_config(), output)]
  assert [each["what"] for each in report["agreement"]] == [*losses.EXACT]
  assert all(0 < row["median"] < 10 for row in table["rows"])


@pytest.mark.slow
def test_train(tmp_path, monkeypatch):
  report = measured(train, tmp_path, monkeypatch, "--batch=2", "--lengths=2")
  assert names(report) == [*train.works(inputs.model(tiny=True), 2)]
  assert skipped(report) == ["reference and PyTorch, lean"]
  assert len(report["agreement"]) == 2
  (table,) = report["tables"]
  assert set(table["limits"]) == {"GFLOP/s", "GB/s"}
  assert all(row["share of the limit"] > 0 for row in table["rows"])
  assert all(0.1 < row["FLOP a byte"] < 100 for row in table["rows"])


def test_decode(tmp_path, monkeypatch):
  report = measured(decode, tmp_path, monkeypatch, "--batch=2", "--new_tokens=4")
  assert names(report) == ["ours", "ours, after the first token", "ours, first token"]
  assert skipped(report) == ["reference and Hugging Face"]
  table = report["tables"][0]
  (after,) = (row["seconds"] for row in table["rows"] if row["name"] == decode.AFTER)
  assert (min(after) <= 0) == any("tells nothing" in note for note in table["notes"])


def test_encoder(tmp_path, monkeypatch):
  report = measured(encoder, tmp_path, monkeypatch, "--batch=2", "--steps=1")
  assert names(report) == ["ours"]
  assert roofline.draw(report["tables"][0]).startswith("<svg")
  assert skipped(report) == ["reference", "Hugging Face, from log-mel"]


@pytest.mark.slow
def test_pipeline(tmp_path, monkeypatch):
  report = measured(pipeline, tmp_path, monkeypatch, "--batch=2", "--steps=1")
  tables = [table["title"] for table in report["tables"]]
  assert tables == [*pipeline.FORMATS, "training, batch 2"]
  assert "the loader alone" in names(report)


@pytest.mark.slow
def test_startup(tmp_path, monkeypatch):
  report = measured(startup, tmp_path, monkeypatch)
  assert "first training step, warm" in names(report)


@pytest.mark.slow
def test_accelerator(tmp_path, capsys):
  output = tmp_path / "report.json"
  accelerator.main(["--tiny", "--parts=training,decoding at 8", f"--output={output}"])
  report = json.loads(output.read_text())
  assert list(report["parts"]) == ["training", "decoding at 8"] and report["platform"] == "cpu"
  rows = names(report["parts"]["training"])
  assert (
    rows == list(accelerator.TRAINING) and list(report["parts"]["training"]["profiles"]) == rows
  )
  assert decode.AFTER in names(report["parts"]["decoding at 8"])
  goals = accelerator.goals(report["parts"])
  assert [row["goal"] for row in goals] == [*accelerator.TRAINING.values(), accelerator.DECODING[8]]
  assert all(row["reached"] > 0 for row in goals[:-1])  # the last: a difference of two times


def test_a_part_for_which_no_time_is_left_is_named(tmp_path, capsys):
  output = tmp_path / "report.json"
  accelerator.main(["--tiny", "--minutes=0", f"--output={output}"])
  found = json.loads(output.read_text())["parts"]
  assert list(found) == ["training", *(f"decoding at {n}" for n in accelerator.DECODING)]
  assert all("minutes are over" in each["skipped"] for each in found.values())
  with pytest.raises(SystemExit, match="--parts: speed: choose from training, decoding at 1"):
    accelerator.main(["--tiny", "--parts=speed"])


def test_all_areas_in_one_command(tmp_path, monkeypatch, capsys):
  def run(name):
    args = ["--tiny", "--rounds=2", "--reference=nowhere"]
    own = rounds.parser(name, reference=True).parse_args(args)
    report = rounds.Report(name, own)
    report.skip("reference", rounds.no_reference(own))
    one, other = (rounds.Row(x, 2) for x in ("one", "other"))
    found = rounds.Measured({"one": [1.0, 3.0], "other": [0.5, 0.5]}, {"GB/s": [1.0, 2.0]})
    return lambda args: (
      report.content
      | {"tables": [rounds.table(name, "clips/s", [one, other], found, peers=["one"])]}
    )

  for name, area in benchmarks.AREAS.items():
    monkeypatch.setattr(area, "run", run(name))

  def differ(args):
    raise SystemExit("results differ: nothing is timed")

  monkeypatch.setattr(encoder, "run", differ)
  output, page = tmp_path / "all.json", tmp_path / "all.html"
  status = benchmarks.main(["--tiny", f"--output={output}", f"--page={page}"])
  assert status == 1 and "encoder: results differ" in capsys.readouterr().out
  reports = json.loads(output.read_text())
  assert [*reports] == ["train", "decode", "pipeline", "startup"]
  row = reports["train"]["tables"][0]["rows"][1]
  assert row["median"] == 4.0 and row["times"] == {"one": 4.0}
  assert "<table>" in page.read_text() and "its encoder has one size" in page.read_text()


def test_results_that_differ_are_not_timed():
  report = rounds.Report("train", rounds.parser("").parse_args([]))
  report.agree("loss", 1e-5, 1e-4)
  for difference in (1e-3, float("nan")):
    with pytest.raises(SystemExit, match="results differ"):
      report.agree("loss", difference, 1e-4)


@pytest.mark.parametrize("anew", [False, True])
def test_contestants_of_processes_of_their_own_return_seconds_and_memory(anew):
  figures = {"turn": partial(float, 0.03), "peak_gib": rounds.peak_gib}
  one = rounds.Contestant("one", 3, partial(SimpleNamespace, **figures), anew=anew)
  found = rounds.take_turns([one], 2)
  table = rounds.table("sleep", "ms", [one], found)
  rounds.add_memory(table, [one])
  one.close()
  (row,) = table["rows"]
  assert row["median"] == 10.0 and 0 < row["peak GiB"] < 1


def test_answers_have_the_lengths_of_their_kinds():
  found = inputs.answer_tokens(20_000)
  rows, means = np.array([*inputs.ANSWERS.values()]).T
  assert np.mean(found) == pytest.approx(np.sum(rows * means) / rows.sum(), rel=0.02)
  assert found.min() >= 2 and found.max() <= 250


def test_slots_of_steps_follow_from_the_answers():
  works = train.works(inputs.model(tiny=False), 4)
  whole, lengths, grouped, _, shared = map(contestants.slots, works.values())
  assert whole == {250: 1.0}

  def mean(slots):
    assert sum(slots.values()) == pytest.approx(1) and len(slots) <= 5
    return sum(size * share for size, share in slots.items())

  assert mean(grouped) < mean(lengths) < 64 and mean(lengths) <= mean(shared) < 80


def test_parameters_that_a_token_reads_are_those_of_the_decoder():
  cfg = inputs.model(tiny=True, layers=3)
  flat = mellow.flatten(mellow.abstract(cfg)[1])
  size = sum(x.size for name, x in flat.items() if name.startswith("decoder/"))
  assert decode.bytes_read(cfg, 0, 1) == 4 * size


def test_a_token_at_the_roofline_reads_all_weights_for_two_operations_each():
  cfg = inputs.model(tiny=False)
  assert decode.flops(cfg, 1, 0) / decode.bytes_read(cfg, 0, 1) == pytest.approx(0.5, rel=1e-3)
  row = {"name": "ours", "seconds": [2.0, 1.0, 4.0]}
  table = {"rows": [row], "limits": {"GFLOP/s": {"median": 100.0}, "GB/s": {"median": 10.0}}}
  assert not roofline.draw(table)
  roofline.add(table, {"ours": roofline.Work(4e9, 8e9)}, "reads")
  assert row["FLOP a byte"] == 0.5 and row["GFLOP/s"] == 2.0
  assert "<svg" in roofline.draw(table)
