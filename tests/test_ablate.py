"""The table of the paper's ablations: its systems, their sizes, and that nothing is done twice."""

import dataclasses
import json
import re

import processes
import pytest

from mellow_jax import ablate, config, train
from mellow_jax.evaluation.commands import predict
from mellow_jax.inference.predictions import INCOMPLETE

SIZES = """
gpt2-linear-frozen          156,760,279
gpt2-nonlinear-frozen       157,351,639
gpt2-transformer-frozen     195,180,247
gpt2-linear                 156,760,279
gpt2-nonlinear              157,351,639
gpt2-transformer            195,180,247
smollm2-frozen              167,020,951
smollm2                     167,020,951
smollm2-lora8               167,481,751
smollm2-lora256             181,766,551
cnn14-smollm2               218,945,999
cnn14-gpt2                  209,522,447
"""


def test_sizes_as_the_command_prints_them(capsys):
  assert ablate.main(["mellow ablate", "--sizes"]) == 0
  assert capsys.readouterr().out.strip() == SIZES.strip()


@pytest.mark.parametrize("base", ["ablations", "ablations:paper"])
def test_every_system_is_a_run_that_can_be_carried_out(base):
  blocks = [block for block in ablate.BLOCKS if ":" in base or block != "data"]
  names = ablate.systems(blocks)
  assert len(names) == (15 if ":" in base else 11)
  seen = []
  for name in names:
    cfg = ablate.load(base, name)
    config.validate(cfg)
    assert any("decoder" in regex for regex in cfg.optim.freeze) == (
      "frozen" in name or "lora" in name
    )
    assert (cfg.model.decoder.kind, cfg.model.encoder.kind) == (
      "gpt2" if "gpt2" in name else "smollm2",
      "cnn14" if "cnn14" in name else "htsat",
    )
    assert cfg not in seen, f"{name} is another system's run"
    seen.append(cfg)


@pytest.fixture
def calls(monkeypatch):
  """What is trained and asked, in place of doing so; the first training is asked to stop."""
  found = []

  def option(argv, name):
    return next(word.split("=", 1)[1] for word in argv if word.startswith(f"--{name}="))

  def fake_train(argv):
    found.append((option(argv, "config"), [w for w in argv if w.startswith("--config.")]))
    if len(found) == 1:
      return 75
    folder = ablate.Path(option(argv, "workdir"))
    (folder / "model").mkdir(parents=True)
    f = train._flags(argv)
    f(argv)
    (folder / "run.json").write_text(json.dumps(dataclasses.asdict(f.config)))
    (folder / "metrics.jsonl").write_text(f'{{"step": {f.config.steps}, "val_loss": 2.0}}\n')
    return 0

  def fake_predict(argv):
    found.append(tuple(option(argv, name) for name in ("audio", "output", "max_new_tokens")))
    ablate.Path(option(argv, "output")).write_text("")
    return 0

  monkeypatch.setattr(train, "main", fake_train)
  monkeypatch.setattr(predict, "main", fake_predict)
  monkeypatch.setattr(ablate, "figures", lambda folder: {"yes/no": (97.0, 51.0)})
  return found


def test_systems_of_several_rows_are_trained_once_and_nothing_is_done_again(calls, tmp_path):
  argv = ["mellow ablate", f"--workdir={tmp_path}", "--rows=encoder,method", "--config.steps=9"]
  with pytest.raises(SystemExit) as stopped:
    ablate.main(argv)
  assert stopped.value.code == 75  # as training's: start the same command again
  assert ablate.main(argv) == 0
  trained = [call for call in calls if call[0].startswith("ablations")]
  names = ["cnn14-smollm2", "smollm2", "smollm2-frozen", "smollm2-lora8", "smollm2-lora256"]
  assert trained[1:] == [(f"ablations:{name}", ["--config.steps=9"]) for name in names]
  assert len(calls) - len(trained) == 2 * len(names)
  page = (tmp_path / "ablations.md").read_text()
  assert page.count("97.0 (51.0)") == 6 and "| HTSAT |" in page and "| fine-tuning |" in page
  assert (tmp_path / "curves.png").stat().st_size > 10_000
  # Answers are for predict to look at again: it asks what is left, and refuses those of other runs.
  done = [call for call in calls if call not in trained]
  calls.clear()
  assert ablate.main(argv) == 0 and calls == done


@pytest.fixture
def trained(calls, tmp_path):
  """The arguments of a command whose two systems are done; `calls` is empty again."""
  argv = ["mellow ablate", f"--workdir={tmp_path}", "--rows=encoder", "--config.steps=9"]
  calls.append(("stopped once",))
  assert ablate.main(argv) == 0
  calls.clear()
  return argv


def reaches_training(argv, calls):
  """Whether a command begins with training, which the fixture stops."""
  with pytest.raises(SystemExit) as stopped:
    ablate.main(argv)
  return stopped.value.code == 75 and len(calls) == 1


def test_what_was_trained_otherwise_is_for_training_to_judge(trained, calls):
  assert reaches_training([*trained[:-1], "--config.steps=10"], calls)


@pytest.mark.parametrize("left", ['{"step": 8}\n', "", None])
def test_a_model_of_before_the_last_step_is_for_training_to_judge(trained, calls, tmp_path, left):
  path = tmp_path / "cnn14-smollm2/metrics.jsonl"
  path.write_text(left) if left is not None else path.unlink()
  assert reaches_training(trained, calls)


def test_the_page_shows_no_system_of_before_this_command(trained, calls, tmp_path, monkeypatch):
  """The other system's answers may be to another benchmark, until predict has looked at them."""
  ask = predict.main

  def refuse(argv):
    return 1 if any("/smollm2/" in word for word in argv) else ask(argv)

  monkeypatch.setattr(predict, "main", refuse)
  with pytest.raises(SystemExit) as stopped:
    ablate.main(trained)
  assert stopped.value.code == 1
  page = (tmp_path / "ablations.md").read_text()
  (cnn14,) = [line for line in page.splitlines() if line.startswith("| CNN14 |")]
  (htsat,) = [line for line in page.splitlines() if line.startswith("| HTSAT |")]
  assert "97.0 (51.0)" in cnn14 and "97.0 (51.0)" not in htsat


def test_questions_that_could_not_be_asked_are_told_and_tried_again(trained, tmp_path, monkeypatch):
  asked = []

  def fail(argv):
    asked.append(argv)
    return INCOMPLETE if "--audio=clips" in argv and any("/smollm2/" in w for w in argv) else 0

  monkeypatch.setattr(predict, "main", fail)
  for times in (1, 2):
    assert ablate.main(trained) == INCOMPLETE and len(asked) == 4 * times
    said = "Some clips could not be read, and their questions count as wrong, in smollm2.\n"
    assert said in (tmp_path / "ablations.md").read_text()


def test_fields_on_the_command_line_count_in_sizes_and_lengths(calls, tmp_path):
  calls.append(("stopped once",))
  argv = ["mellow ablate", f"--workdir={tmp_path}", "--rows=encoder"]
  argv += ["--config.model.decoder.mlp=8", "--config.model.answer_tokens=30"]
  assert ablate.main(argv) == 0
  page = (tmp_path / "ablations.md").read_text()
  for system in ("cnn14-smollm2", "smollm2"):
    cfg = ablate.load("ablations", system)
    before = ablate.size(cfg)
    cfg.model.decoder.mlp = 8
    assert f"| {ablate.size(cfg):,} |" in page and f"| {before:,} |" not in page
  assert calls[2][2] == "30"


# Each command of a list in turn, with one system and few scenes.
COMMANDS = """
import json, sys
from mellow_jax import ablate
from mellow_jax.evaluation.benchmarks import catalogue
catalogue.SCENES = 10
ablate.TABLE["encoder"] = ablate.TABLE["encoder"][:1]
for argv in json.loads(sys.argv[1]):
  try:
    status = ablate.main(["mellow ablate", *argv])
  except SystemExit as ended:
    status = ended.code
  print("status", status, flush=True)
"""

RUN = """
import tiny


def get_config(arg):
  return tiny.run(steps=2, eval_batches=0, sample_answers=0)
"""


def test_other_settings_and_another_benchmark_are_refused(tmp_path, compile_cache):
  """Nothing is replaced here: training and predict themselves refuse, in a line each."""
  path, workdir, table = tmp_path / "own.py", tmp_path / "table", tmp_path / "own.csv"
  path.write_text(RUN)
  table.write_text("file,question,answer\na.wav,is there rain?,yes\n")
  (tmp_path / "a.wav").write_bytes(b"")  # not read: it is refused before
  argv = [f"--config={path}", f"--workdir={workdir}", "--rows=encoder"]
  other = [*argv, "--benchmark=table", f"--data={table}"]
  commands = json.dumps([argv, argv, [*argv, "--config.seed=1"], other])
  out, err = processes.start(["-c", COMMANDS, commands], compile_cache).communicate(timeout=300)
  first, again, seed, benchmark, _ = re.split(r"(?<=status \d)\n", out)
  assert first.endswith("status 0") and first.count("loading JAX") == 1, err
  assert again.endswith("status 0") and "loading JAX" not in again
  assert again.partition("## encoder")[2] == first.partition("## encoder")[2] != ""
  assert seed.endswith("status 1") and benchmark.endswith("status 1")
  errors = [line for line in err.splitlines() if line.startswith("error: ")]
  assert len(errors) == 2
  assert (
    f"{workdir}/cnn14-smollm2/checkpoints/2: was saved with seed = 0, this run has 1" in errors[0]
  )
  assert f"{workdir}/cnn14-smollm2/clips.jsonl: was made with audio_root = None" in errors[1]
  assert "on `scenes`" in (workdir / "ablations.md").read_text()


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ([], "--workdir is missing"),
    (["--workdir=x", "--rows=encoders"], "--rows=encoders: use projection, decoder"),
    (["--workdir=x", "--rows=data"], "needs the paper's data"),
    (["--workdir=x", "train"], "'train' is no flag"),
    (["--workdir=x", "--config=nosuch"], "--config=nosuch: no config of that name"),
    # What cannot be answered is not trained first.
    (["--workdir=x", "--config=ablations:paper"], "have no scenes of their own to answer: name"),
    (["--workdir=x", "--config.data.source=files"], "have no scenes of their own to answer: name"),
    (["--workdir=x", "--benchmark=mmau"], "--data is missing: name the files of --benchmark=mmau"),
    (["--workdir=x", "--benchmark=mmua", "--data=y"], "--benchmark=mmua is unknown: one of mmau,"),
    (["--workdir=x", "--benchmark=mmau", "--data=/nowhere"], "/nowhere: there is no such file"),
  ],
)
def test_what_cannot_be_done_is_one_line(words, message, calls, capsys):
  assert ablate.main(["mellow ablate", *words]) == 1
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1 and not calls


def test_the_systems_of_the_paper_answer_what_is_named(calls, tmp_path, capsys):
  table = tmp_path / "own.csv"
  argv = ["mellow ablate", f"--workdir={tmp_path}", "--config=ablations:paper", "--rows=encoder"]
  argv += ["--benchmark=table", f"--data={table}"]
  table.write_text("file,question\na.wav,is there rain?\n")
  assert ablate.main(argv) == 1 and not calls  # nothing could be scored
  assert "of the table has no answer: add the column answer" in capsys.readouterr().err
  table.write_text("file,question,answer\na.wav,is there rain?,yes\n")
  with pytest.raises(SystemExit):
    ablate.main(argv)
  assert [call[0] for call in calls] == ["ablations:paper/cnn14-smollm2"]
