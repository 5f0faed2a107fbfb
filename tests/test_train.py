"""The training command, as it is run: it resumes to the bit, and says in a line what is wrong."""

import dataclasses
import functools
import importlib
import json
import re
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
import tiny

from mellow_jax import checkpoint, parallel
from mellow_jax import train as command
from mellow_jax.config import OptimConfig, validate
from mellow_jax.data import pipeline, scenes, tokenizer
from mellow_jax.errors import CheckpointError, ConfigError, UserError
from mellow_jax.models import logmel, mellow
from mellow_jax.training import checkpoints, init, loop, optim, step, validation

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def train(run_config, compile_cache):
  """Starts the command on the tiny run in a folder; arg is for the config's file."""

  def start(workdir, *flags, arg=""):
    return processes.train(workdir, f"{run_config}{arg}", compile_cache, *flags)

  return start


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
  """The folder of a run of four steps that nothing disturbed, and what it said."""
  workdir = tmp_path_factory.mktemp("whole")
  (out,) = processes.finish(train(workdir))
  return workdir, out


def lines(workdir, name="metrics.jsonl"):
  return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def assert_same_end(workdir, other):
  """Every digit of every loss, and every bit of every parameter."""
  for name in ("metrics.jsonl", "answers.jsonl"):
    assert (workdir / name).read_text() == (other / name).read_text()
  digests = [json.loads((w / "model/config.json").read_text())["sha256"] for w in (workdir, other)]
  assert digests[0] == digests[1] and len(digests[0]) > 50


# --- Runs ----------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_promises(whole):
  workdir, out = whole
  found = lines(workdir)
  assert [line["step"] for line in found] == [1, 2, 3, 4, 4]
  assert all(set(line) == {"step", "loss", "grad_norm", "learning_rate"} for line in found[:4])
  assert [line["learning_rate"] for line in found[:4]] == pytest.approx([0, 5e-4, 1e-3, 5e-4])
  assert set(found[4]) == {"step", "val_loss", "val_accuracy", "val_answers"}
  assert found[3]["loss"] < found[0]["loss"]
  answers = lines(workdir, "answers.jsonl")
  rows = scenes.Scenes("val", 0, 8, {"caption": 1.0, "binary": 1.0})
  shown = [(a["question"], a["expected"]) for a in answers]
  assert shown == [(rows[i].input, rows[i].answer) for i in (0, 4)]
  assert {path.name for path in (workdir / "clips").iterdir()} == {"0a.flac", "4a.flac"}
  assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2", "4"}
  # The only validation was the best so far, at the last step.
  assert (workdir / "best/config.json").read_text() == (workdir / "model/config.json").read_text()
  model = checkpoint.load_model(workdir / "model")
  assert (model.config, model.preset) == (tiny.run().model, "clean")
  assert json.loads((workdir / "run.json").read_text())["data"]["source"] == "scenes"
  assert list(workdir.glob("events.out.tfevents.*"))
  times = lines(workdir, "times.jsonl")
  assert [line["step"] for line in times] == [1, 2, 3, 4, 4]
  # The last line has what comes after the last step.
  assert set(times[3]["seconds"]) == {"start", "train", "data", "compile", "save"}
  assert set(times[4]["seconds"]) == {*times[3]["seconds"], "evaluate"}
  assert times[4]["seconds"]["save"] > times[3]["seconds"]["save"]
  assert len({line["seconds"]["start"] for line in times}) == 1
  assert 0 < times[4]["goodput"] < 1 and min(times[4]["seconds"].values()) > 0
  assert "4 steps, loss" in (workdir / "report.html").read_text()
  for said in (
    "1 x cpu, mesh",
    "13,776 trainable of",
    "step 4/4",
    "validation loss",
    "model folder",
  ):
    assert said in out


def test_two_steps_and_two_more_are_four_to_the_bit(train, whole, tmp_path):
  workdir, _ = whole
  resumed = shutil.copytree(workdir, tmp_path / "run")
  shutil.rmtree(resumed / "checkpoints/4")
  shutil.rmtree(resumed / "model")
  (out,) = processes.finish(train(resumed))
  assert "resumed from step 2" in out and "step 3/4" in out and "step 2/4" not in out
  assert_same_end(resumed, workdir)


@pytest.mark.parametrize(
  "moment",
  [
    "step 2/4",  # during the first save
    *(pytest.param(m, marks=pytest.mark.slow) for m in ("compiling", "step 1", "step 3", "step 4")),
  ],
)
def test_killed_at_any_moment_a_run_ends_the_same(train, whole, tmp_path, moment):
  workdir, _ = whole
  process = train(tmp_path / "run")
  for line in process.stdout:
    if moment in line:
      break
  process.kill()
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  processes.finish(train(tmp_path / "run"))
  assert_same_end(tmp_path / "run", workdir)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_that_very_step(train, whole, tmp_path):
  workdir, _ = whole
  # Heard while the step is compiled, which is finished and run: step 1, and after that step 2,
  # which is saved at any rate and is not saved twice.
  for step_number, asked in ((1, signal.SIGINT), (2, signal.SIGTERM)):
    process = train(tmp_path / "run")
    for line in process.stdout:
      if "compiling" in line:
        break
    process.send_signal(asked)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert f"stopped as asked after step {step_number}; the same command goes on" in out
    heard = "\nstops after the next step; Ctrl-C again ends at once\n"
    assert err == (heard if asked == signal.SIGINT else "")
    assert [line["step"] for line in lines(tmp_path / "run")] == [*range(1, step_number + 1)]
    saved = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert saved == {str(n) for n in range(1, step_number + 1)}
    assert not (tmp_path / "run/model").exists()
  (out,) = processes.finish(train(tmp_path / "run"))
  assert "resumed from step 2" in out
  assert_same_end(tmp_path / "run", workdir)


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_run_whose_output_nobody_reads_any_more_saves_that_very_step(train, tmp_path, both):
  process = train(tmp_path / "run", "--config.save_every=1000")
  for line in process.stdout:
    if "compiling" in line:
      break
  process.stdout.close()
  if both:  # as `2>&1 | tee log`, which Ctrl-C ends
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 75
  else:
    assert process.stderr.read() == "stdout was closed: stops after the next step\n"
    assert process.wait() == 75
  (saved,) = (tmp_path / "run/checkpoints").iterdir()
  assert [line["step"] for line in lines(tmp_path / "run")] == [*range(1, int(saved.name) + 1)]


@pytest.mark.slow
def test_the_best_model_is_that_of_the_lowest_validation_loss(train, tmp_path):
  # Validated between the saves, too, and with a learning rate that spoils what was learnt.
  flags = ["--config.steps=3", "--config.eval_every=1", "--config.sample_answers=0"]
  flags += ["--config.optim.schedule=constant", "--config.optim.learning_rate=0.3"]
  workdir = tmp_path / "run"
  processes.finish(train(workdir, *flags))
  losses = [line["val_loss"] for line in lines(workdir) if "val_loss" in line]
  assert len(losses) == 3 and min(losses[:2]) < losses[2]
  best, last = (checkpoint.load_model(workdir / name) for name in ("best", "model"))
  assert validation_loss(best) == pytest.approx(min(losses), rel=1e-4)
  assert validation_loss(last) == pytest.approx(losses[2], rel=1e-4)
  # A run that goes on knows what was the best before: step 3 does not become it.
  for name in ("checkpoints/3", "model", "best"):
    shutil.rmtree(workdir / name)
  processes.finish(train(workdir, *flags))
  assert (workdir / "model").exists() and not (workdir / "best").exists()
  # But of more validation rows its loss is another.
  for name in ("checkpoints/3", "model"):
    shutil.rmtree(workdir / name)
  (out,) = processes.finish(train(workdir, *flags, "--config.eval_batches=2"))
  assert "validation scores other rows than before" in out and (workdir / "best").exists()


def validation_loss(model):
  """Of the first batch of the tiny run, whose validation has no other."""
  cfg = tiny.run()
  _, val_rows, clips = pipeline.sources(cfg)
  encoder = pipeline.Preprocessor(val_rows, clips, model.tokenizer, cfg.model, cfg.data)
  (arrays,) = pipeline.eval_batches(encoder, batch_size=cfg.batch_size, count=1)
  flat = mellow.flatten(model.params)
  evaluate = jax.jit(functools.partial(step.eval_step, cfg=cfg.model))
  return validation.scores(flat, [step.Batch(**arrays)], evaluate).loss


@pytest.mark.slow
def test_a_run_with_worker_processes_ends_without_leaked_shared_memory(train, whole, tmp_path):
  process = train(tmp_path / "run", "--config.data.workers=2")
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, out + err
  assert "leaked" not in err
  assert (tmp_path / "run/metrics.jsonl").read_text() == (whole[0] / "metrics.jsonl").read_text()


def test_a_finished_run_has_nothing_left_to_do(train, whole):
  workdir, _ = whole

  def written():
    files = [path for path in workdir.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files if "tfevents" not in path.name}

  before = {path: time for path, time in written().items() if path.parent != workdir}
  text = (workdir / "metrics.jsonl").read_text()
  (out,) = processes.finish(train(workdir))
  assert "resumed from step 4" in out and "nothing is left to do" in out
  assert before.items() <= written().items()  # checkpoints and model are untouched
  assert (workdir / "metrics.jsonl").read_text() == text


@pytest.fixture
def files(tmp_path):
  """Flags for a run on a small dataset of files."""
  folder = tmp_path / "data"
  cfg = tiny.run()
  clips = scenes.SceneClips(16_000, cfg.model.audio.clip_samples)
  for split, size in (("train", 12), ("val", 3)):
    scenes.write(scenes.Scenes(split, 0, size, scenes.MIX), clips, folder)
  paths = [f"--config.data.{split}={folder / split}.json" for split in ("train", "val")]
  return [*paths, f"--config.data.audio_root={folder}"]


@pytest.mark.slow
def test_a_run_on_files_goes_on_from_another_runs_model(train, whole, files, tmp_path):
  model = whole[0] / "model"
  flags = [f"--config.init_from=('{model}',)", "--config.calibrate_batches=2", "--profile=2:2"]
  (out,) = processes.finish(train(tmp_path / "run", *files, *flags, arg=":files"))
  assert re.search(r"model: (\d+) of \1 arrays taken", out) and "step 4/4" in out
  assert "trace of steps 2 to 3" in out and list(tmp_path.glob("run/profile/**/*.xplane.pb"))
  assert re.search(r"\d% of it idle\n +\d+\.\d%  ", out)
  rows = json.loads((tmp_path / "data/train.json").read_text())
  texts = [row[field] for row in rows for field in ("input", "answer")]
  vocabulary = tokenizer.build_tokenizer(texts).get_vocab()
  assert tokenizer.load_tokenizer(tmp_path / "run/model").get_vocab() == vocabulary
  kept = set(vocabulary) & set(scenes.build_tokenizer().get_vocab())
  assert f"{len(kept)} of {len(vocabulary)} tokens keep their embedding" in out
  val = json.loads((tmp_path / "data/val.json").read_text())
  shown = [answer["expected"] for answer in lines(tmp_path / "run", "answers.jsonl")]
  assert shown == [row["answer"] for row in val[:2]]
  # It goes on where the other run ended, and does not begin anew.
  assert lines(tmp_path / "run")[0]["loss"] < lines(whole[0])[1]["loss"]
  # What is frozen stays as it was, but for the statistics that were measured anew.
  before, after = (checkpoint.load_params(folder)[0] for folder in (model, tmp_path / "run/model"))
  same = {name for name, value in before.items() if np.array_equal(value, after[name])}
  statistics = {"encoder/bn0/mean", "encoder/bn0/var"}
  assert same == {name for name in before if name.startswith("encoder/")} - statistics


def test_embeddings_move_with_their_tokens():
  loaded, fresh = jnp.arange(8.0).reshape(4, 2), -jnp.ones((5, 2))
  old, new = {"a": 0, "b": 1, "c": 2, "d": 3}, {"a": 0, "d": 1, "e": 2, "b": 3}
  found = init.move_embeddings(loaded, fresh, old, new)
  assert found.tolist() == [[0, 1], [6, 7], [-1, -1], [2, 3], [-1, -1]]
  assert init.move_embeddings(loaded, fresh[:4], old, dict(old)) is loaded
  # A table of the same tokens may have more rows, and fewer.
  more = init.move_embeddings(loaded, fresh, old, dict(old))
  assert more.shape == (5, 2) and np.array_equal(more[:4], loaded)
  fewer = init.move_embeddings(more, fresh[:4], old, dict(old))
  np.testing.assert_array_equal(fewer, loaded)


def test_calibration_measures_what_will_be_heard():
  model = tiny.config()
  rng = np.random.default_rng(0)
  wav = 0.1 * rng.standard_normal((3, 2, model.audio.clip_samples)).astype(np.float32)
  ids, lengths = jnp.ones((2, 8), int), jnp.ones(2, int)
  batches = [step.Batch(clips, clips, ids, lengths, ids, ids > 0) for clips in jnp.asarray(wav)]
  names = ("encoder/bn0/mean", "encoder/bn0/var", "decoder/norm/scale")
  flat = {name: jnp.ones(16) for name in names}
  cfg = tiny.run(model=model)
  found = init.calibrate(flat, cfg, batches, parallel.make_mesh((1, 1)))
  db = logmel.log_mel(jnp.asarray(wav.reshape(6, -1)), model.audio).reshape(-1, 16)
  np.testing.assert_allclose(found["encoder/bn0/mean"], db.mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(found["encoder/bn0/var"], db.var(axis=0), rtol=1e-3)
  assert found["decoder/norm/scale"] is flat["decoder/norm/scale"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_is_one_that_can_be_carried_out(path):
  cfg = importlib.import_module(f"mellow_jax.configs.{path.stem}").get_config()
  cfg.init_from = cfg.init_from or ("weights/mellow",)  # finetune asks for a folder
  validate(cfg, reads_data=False)
  optim.make(cfg.optim, optim.schedule(cfg.optim, cfg.steps, 1))
  assert checkpoints.run_settings(cfg, 1, {})["optim.optimizer"] == cfg.optim.optimizer


# --- Errors --------------------------------------------------------------------------------------

FULL_DISK = """
import shutil
import sys
shutil.disk_usage = lambda path, real=shutil.disk_usage: real(path)._replace(free=1000)
from mellow_jax import train
sys.exit(train.main(sys.argv))
"""

# Clips of the steps named are no numbers, for the command alone and for one that resumes.
SPOILT = """
import sys
import numpy as np
from mellow_jax import train
from mellow_jax.data import pipeline
batches = pipeline.train_batches
def spoilt(encoder, *, start_step, **rest):
  found = batches(encoder, start_step=start_step, **rest)
  for number, batch in enumerate(found, start_step + 1):
    if number in STEPS:
      batch["wav1"][0] = np.nan
    yield batch
pipeline.train_batches = spoilt
sys.exit(train.main(sys.argv))
"""


@pytest.fixture(scope="module")
def spoilt(run_config, compile_cache):
  """Starts the command on the tiny run with some steps' clips spoilt."""

  def start(workdir, steps, *flags):
    program = SPOILT.replace("STEPS", str(steps))
    return processes.start(
      ["-c", program, f"--config={run_config}", f"--workdir={workdir}", *flags], compile_cache
    )

  return start


@pytest.fixture(scope="module")
def mistaken(train, whole, run_config, compile_cache, tmp_path_factory):
  """Folders, and the commands started in them with a mistake; all at once, as most is importing."""
  folder = tmp_path_factory.mktemp("mistaken")
  (folder / "train.json").write_text('[{"input": 1}]')
  data = {"train": folder / "train.json", "val": folder, "audio_root": folder}
  data |= {"source": "files", "tokenizer": "words"}
  other = tiny.config(mapper=tiny.run().model.mapper)
  checkpoint.save_model(folder / "other", tiny.params(other), other, "clean", tiny.tokenizer())
  model = tiny.run().model
  nan = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), tiny.params(model))
  checkpoint.save_model(folder / "nan", nan, model, "clean", scenes.build_tokenizer())
  mistakes = {
    "field": ["--config.stepz=4"],
    "preset": ["--config.data.preset=paper"],
    "mesh": ["--config.mesh=(2,1)"],
    "rows": [f"--config.data.{name}={value}" for name, value in data.items()],
    "architecture": [f"--config.init_from=('{folder / 'other'}',)"],
    "diverged": [f"--config.init_from=('{folder / 'nan'}',)"],
  }
  started = {name: train(folder / "runs" / name, *flags) for name, flags in mistakes.items()}
  flags = [f"--config={run_config}", f"--workdir={folder / 'runs/disk'}"]
  started["disk"] = processes.start(["-c", FULL_DISK, *flags], compile_cache)
  yield folder, started
  for process in started.values():
    process.kill()


def complaints(process):
  """The lines on stderr of a process that ended with an error."""
  _, err = process.communicate(timeout=300)
  assert process.returncode == 1, err
  assert "Traceback" not in err
  assert all(line.startswith(("error: ", "warning: ")) for line in err.splitlines()), err
  return err.splitlines()


@pytest.mark.parametrize(
  ("mistake", "message"),
  [
    ("field", "unknown config field .*stepz"),
    ("preset", "config.data.preset 'paper': use release, training, clean"),
    ("mesh", r"config.mesh \(2, 1\) does not cover the 1 devices"),
    ("rows", r"train.json, row 0 \(from 0\): field 'taskname' is missing"),
    ("architecture", "other: another architecture: decoder/.* in config.model"),
    ("diverged", "nan: .* holds numbers that are not finite: train it anew"),
  ],
)
def test_a_mistake_is_told_in_one_line_and_saves_nothing(mistaken, mistake, message):
  folder, started = mistaken
  (line,) = complaints(started[mistake])
  assert re.search(message, line)
  assert not list((folder / "runs" / mistake).glob("checkpoints/*"))
  assert not (folder / "runs" / mistake / "model").exists()


@pytest.mark.slow
def test_bad_batches_are_left_out_until_too_many_and_so_they_are_after_a_resume(spoilt, tmp_path):
  bad, workdir = {2, 4, 5, 6, 7, 8}, tmp_path / "run"
  flags = ["--config.steps=9", "--config.save_every=1", "--config.keep=9", "--config.accumulate=2"]
  flags += ["--config.eval_batches=0", "--config.sample_answers=0", "--config.optim.ema=0.9"]
  (line,) = complaints(spoilt(workdir, bad, *flags))
  assert re.search("step 8: loss nan, .* no update since step 3, whose parameters are kept", line)
  assert not (workdir / "model").exists()
  found = lines(workdir)
  assert [line["step"] for line in found if "loss" in line] == [1, 3]
  why = "loss nan, gradient norm nan"
  counted = [{"step": n, "skipped": i, "why": why} for i, n in enumerate(sorted(bad), start=1)]
  assert [line for line in found if "loss" not in line] == counted
  # The rate is that of the step.
  assert found[2]["learning_rate"] == pytest.approx(1e-3)
  # What was saved meanwhile holds the parameters, moments and average of the step before.
  digests = {}
  for folder in (workdir / "checkpoints").iterdir():
    meta = json.loads((folder / "meta/metadata").read_text())
    digests[int(folder.name)] = {k: v for k, v in meta["sha256"].items() if "/" in k}
  assert set(digests) == set(range(1, 8))
  assert digests[1] == digests[2] != digests[3]
  assert digests[3] == digests[4] == digests[5] == digests[6] == digests[7]
  # In the middle of the bad ones, those before are remembered.
  resumed = shutil.copytree(workdir, tmp_path / "resumed")
  for step_number in (6, 7):
    shutil.rmtree(resumed / f"checkpoints/{step_number}")
  assert complaints(spoilt(resumed, bad, *flags)) == [line]
  assert (resumed / "metrics.jsonl").read_text() == (workdir / "metrics.jsonl").read_text()


def test_a_full_disk_ends_the_run_with_a_line_and_nothing_half_written(mistaken):
  folder, started = mistaken
  # Training goes on without its checkpoints, since room may come back; the model is what counts.
  *earlier, last = complaints(started["disk"])
  first, best, second = earlier
  assert "disk/best: could not be written (0 MiB free)" in best
  for line, number in ((first, 2), (second, 4)):
    message = f"disk/checkpoints: step {number} could not be saved, steps [] are kept (0 MiB free)"
    assert message in line
  assert "disk/model: could not be written (0 MiB free)" in last
  left = {path.name for path in (folder / "runs/disk").iterdir() if "tfevents" not in path.name}
  assert left == {"answers.jsonl", "clips", "metrics.jsonl", "run.json", "times.jsonl"}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"batch_size": 0}, "config.batch_size 0 must be at least 1"),
    ({"eval_every": 0}, "config.eval_every 0 must be at least 1"),
    ({"seed": -1}, "config.seed -1 must be from 0 to"),
    ({"optim": OptimConfig(schedule="linear")}, "use cosine_per_epoch, cosine, constant"),
    ({"optim": OptimConfig(freeze=("head.*",))}, r"'head\.\*' matches no parameter path"),
    ({"model": tiny.config()}, "clip_samples 16000 is less than 4"),
    ({"init_from": ("/no/model",)}, "/no/model: there is no such folder"),
  ],
)
def test_what_no_run_can_do_is_an_error_that_names_it(changes, message, tmp_path):
  with pytest.raises(UserError, match=message) as caught:
    loop.train(tiny.run(**changes), tmp_path)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("decoder", "message"),
  [
    ({"kv_heads": 3}, "decoder.kv_heads must divide decoder.heads"),
    ({"vocab": 9}, "config.model.decoder.vocab 9 has no room for the .* tokens"),
  ],
)
def test_a_decoder_that_does_not_fit_is_an_error_that_names_it(decoder, message, tmp_path):
  cfg = tiny.run()
  cfg.model.decoder = dataclasses.replace(cfg.model.decoder, **decoder)
  with pytest.raises(ConfigError, match=message):
    loop.train(cfg, tmp_path)


@pytest.mark.parametrize("text", ["3", "0:5", "5:0", "a:b", "-1:2"])
def test_a_profile_is_a_first_step_and_a_count(text):
  assert list(command.parse_profile("3:2")) == [3, 4] and not command.parse_profile("")
  with pytest.raises(ConfigError, match=f"--profile={text}: give STEP:COUNT"):
    command.parse_profile(text)


def test_other_settings_leave_a_run_as_it_is(whole):
  workdir, _ = whole
  before = (workdir / "run.json").read_text()
  other = OptimConfig(schedule="cosine", warmup_steps=2, learning_rate=0.1)
  message = "checkpoints/4: was saved with optim.learning_rate = 0.001, this run has 0.1"
  with pytest.raises(CheckpointError, match=message):
    loop.train(tiny.run(optim=other), workdir)
  assert (workdir / "run.json").read_text() == before


@pytest.mark.slow
def test_lengths_of_answers_keep_the_losses_and_resume_bit_for_bit(
  run_config, tmp_path, compile_cache
):
  def run(name, *flags):
    (out,) = processes.finish(
      processes.train(tmp_path / name, run_config, compile_cache, "--config.accumulate=2", *flags)
    )
    return out, lines(tmp_path / name)

  flags = ("--config.data.answer_lengths=3",)
  (_, whole), (out, cut) = run("whole"), run("cut", *flags)
  assert "compiling the training step, for answers of up to" in out
  for line, other in zip(cut, whole, strict=True):
    assert line == pytest.approx(other, rel=1e-5)
  flags = (*flags, "--config.data.group_answers=true", "--config.audit=true")
  _, grouped = run("grouped", *flags)
  assert [line["batch"] for line in grouped if "batch" in line]
  assert [line["loss"] for line in grouped if "loss" in line] != [
    line["loss"] for line in cut if "loss" in line
  ]
  shutil.copytree(tmp_path / "grouped", tmp_path / "resumed")
  for part in ("checkpoints/4", "model"):
    shutil.rmtree(tmp_path / "resumed" / part)
  out, resumed = run("resumed", *flags)
  assert "resumed from step 2" in out and resumed == grouped
