"""Fine-tuning: a run takes its model from the folder it starts from, and learns new words."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from absl import flags

from mellow_jax import Mellow, checkpoint, cli, files, parallel
from mellow_jax.config import DataConfig, validate
from mellow_jax.configs import finetune
from mellow_jax.data import scenes, sound_files
from mellow_jax.data import tokenizer as tokenizers
from mellow_jax.data.preprocessing import Preprocessor
from mellow_jax.data.records import Record
from mellow_jax.errors import CheckpointError, ConfigError, DataError
from mellow_jax.models import mellow
from mellow_jax.training import init, loop, optim, step, survey
from mellow_jax.training.checkpoints import TrainCheckpoints

LORA = {"lora": jnp.zeros(1)}
RATE = jnp.float32(0.1)
CLIPS = scenes.SceneClips(16_000, 16_000 * 4)


def row(question, answer, number=0):
  return Record("", f"{number}.wav", "", "", "", question, answer, "t.csv", number)


def config_of(folder, arg="", **data):
  cfg = finetune.get_config(arg)
  data = dataclasses.replace(cfg.data, train="t.csv", **data)
  return dataclasses.replace(cfg, init_from=(str(folder),), data=data)


# --- Model and preset ----------------------------------------------------------------------------


def test_a_run_adopts_the_model_and_the_preset_of_the_folder_it_starts_from(
  tiny_model_folder, tiny_config
):
  given = {"model.text_tokens": 9, "model.encoder.spec_augment": True, "steps": 3}
  cfg = init.adopt(config_of(tiny_model_folder), given)
  assert (cfg.model.text_tokens, cfg.model.encoder.spec_augment) == (9, True)
  assert cfg.model.encoder.width == tiny_config.encoder.width
  assert cfg.data.preset == "training" and cfg.steps == 1000
  init.check_folders(cfg)
  with pytest.raises(ConfigError, match=r"config.model.encoder.dropout: the model in .* no such"):
    init.adopt(config_of(tiny_model_folder), {"model.encoder.dropout": 0.1})


@pytest.mark.parametrize(("preset", "adopted"), [("clean", "clean"), ("release", "training")])
def test_released_weights_are_trained_as_they_were(tiny_config, tmp_path, preset, adopted):
  checkpoint.save_model(tmp_path / "m", tiny.params(tiny_config), tiny_config, preset, None)
  assert init.adopt(config_of(tmp_path / "m"), {}).data.preset == adopted
  assert init.adopt(config_of(tmp_path / "m"), {"data.preset": "clean"}).data.preset == "clean"


def test_without_a_folder_the_line_says_what_to_give():
  cfg = finetune.get_config()
  cfg.data.train = "t.csv"
  with pytest.raises(ConfigError, match=r"give --config.init_from=FOLDER, a model folder"):
    validate(cfg)


def test_another_architecture_is_told_before_parameters_are_read(tiny_model_folder, tmp_path):
  folder = shutil.copytree(tiny_model_folder, tmp_path / "m")
  shutil.rmtree(folder / "params")
  cfg = tiny.run(init_from=(str(folder),))
  message = "m: another architecture: .* there, .* in config.model .*start from it with --config=f"
  with pytest.raises(CheckpointError, match=message):
    init.check_folders(cfg)


def test_a_part_of_a_folder_may_start_a_run(tiny_model_folder, tiny_config, tmp_path):
  # Of another width, so that its decoder and mapper could not be taken.
  decoder = dataclasses.replace(tiny_config.decoder, mlp=tiny_config.decoder.mlp * 2)
  model = dataclasses.replace(tiny_config, decoder=decoder)
  cfg = tiny.run(model=model, init_from=(f"{tiny_model_folder}:encoder",), seed=7)
  init.check_folders(cfg)
  tokenizer = tokenizers.load_tokenizer(tiny_model_folder)
  found = init.parameters(cfg, tokenizer)
  theirs = checkpoint.load_params(tiny_model_folder)[0]
  fresh = mellow.flatten(mellow.init_params(model, 7))
  for name, value in found.items():
    expected = theirs if name.startswith("encoder/") else fresh
    np.testing.assert_array_equal(value, expected[name], err_msg=name)
  cfg.data.tokenizer, cfg.data.source = "", "files"
  assert init.tokenizer(cfg, [])[0].get_vocab() == tokenizer.get_vocab()


def test_a_part_that_a_folder_lacks_is_told(tiny_config, tmp_path):
  flat = mellow.flatten(tiny.params(tiny_config))
  decoder = {name: value for name, value in flat.items() if name.startswith("decoder/")}
  checkpoint.save_model(tmp_path / "m", decoder, tiny_config, "clean", None)
  cfg = tiny.run(init_from=(f"{tmp_path / 'm'}:encoder",))
  with pytest.raises(CheckpointError, match=r"m holds no encoder: leave .*m:encoder out of init_"):
    init.check_folders(cfg)


@pytest.mark.parametrize("arg", ["lora", "small", ""])
def test_what_is_trained_follows_the_argument(arg, tiny_model_folder):
  cfg = init.adopt(config_of(tiny_model_folder, arg), {})
  flat = mellow.flatten(tiny.params(cfg.model))
  trainable, _ = optim.split(flat, cfg.optim.freeze, LORA if arg == "lora" else {})
  assert any(name.startswith("encoder/") for name in trainable) == (arg == "small")
  assert bool(cfg.optim.lora.kernels) == (arg == "lora")
  if arg == "lora":
    assert set(trainable) == {"lora"}
  with pytest.raises(ConfigError, match="finetune:full: write finetune, finetune:lora or"):
    finetune.get_config("full")


# --- Words ---------------------------------------------------------------------------------------


def test_new_words_join_the_tokenizer_and_are_trained_also_beside_lora(tiny_model_folder, capsys):
  cfg = init.adopt(config_of(tiny_model_folder, "lora"), {})
  old = tokenizers.load_tokenizer(tiny_model_folder).get_vocab()
  rows = [row("What is heard?", f"a zebra brays {i}") for i in range(100, 150)]
  grown, found = init.tokenizer(cfg, rows)
  new = grown.get_vocab()
  assert old.items() <= new.items() and {"zebra", "brays", "100", "149"} <= set(new)
  assert sorted(new.values()) == [*range(len(new))]
  assert grown.decode(grown.encode("a zebra, brays").ids) == "a zebra, brays"
  assert found.model.decoder.vocab == len(new) > cfg.model.decoder.vocab
  flat = mellow.flatten(tiny.params(found.model))
  trainable, _ = optim.split(flat, found.optim.freeze, LORA)
  assert set(trainable) == {"lora", init.EMBEDDING}
  said = capsys.readouterr().out
  assert "52 words of the rows are new to the tokenizer" in said and "100, 101" in said
  # Known words alone change nothing.
  same, found = init.tokenizer(cfg, [row("what is heard?", "a dog barks")])
  assert same.get_vocab() == old and found == cfg


def test_embeddings_of_new_words_are_drawn_from_those_of_the_old():
  rng = np.random.default_rng(0)
  loaded = jnp.asarray(rng.normal((3, -1), (2, 0.5), (500, 2)), jnp.float32)
  fresh = jnp.asarray(0.02 * rng.standard_normal((1500, 2)), jnp.float32)
  old, new = ({str(i): i for i in range(size)} for size in (500, 1500))
  found = init.move_embeddings(loaded, fresh, old, new)
  assert np.array_equal(found[:500], loaded)
  np.testing.assert_allclose(found[500:].mean(axis=0), (3, -1), atol=0.3)
  np.testing.assert_allclose(found[500:].std(axis=0), (2, 0.5), rtol=0.1)


@pytest.mark.parametrize("rows", [-3, 0, 48])
def test_a_vocabulary_of_other_length_is_the_run_s_and_keeps_the_tokens(
  rows, tiny_model_folder, tiny_config
):
  tokenizer = tokenizers.load_tokenizer(tiny_model_folder)
  vocab = tiny_config.decoder.vocab + rows
  assert vocab >= tokenizer.get_vocab_size()
  cfg = init.adopt(config_of(tiny_model_folder), {"model.decoder.vocab": vocab})
  init.check_folders(cfg)
  found = init.parameters(cfg, tokenizer)[init.EMBEDDING]
  known = checkpoint.load_params(tiny_model_folder)[0][init.EMBEDDING]
  assert found.shape == (vocab, tiny_config.decoder.width)
  used = tokenizer.get_vocab_size()
  np.testing.assert_array_equal(found[:used], known[:used])
  if rows == 0:
    np.testing.assert_array_equal(found, known)


def test_a_first_state_that_could_not_be_loaded_again_is_refused(tiny_model_folder, monkeypatch):
  tokenizer = tokenizers.load_tokenizer(tiny_model_folder)
  cfg = init.adopt(config_of(tiny_model_folder), {"model.decoder.vocab": 100})
  monkeypatch.setattr(init, "move_embeddings", lambda loaded, *_: loaded)
  message = r"decoder/embed/embedding is \(64, 32\) with .* \(100, 32\) in config\.model: change"
  with pytest.raises(CheckpointError, match=message):
    init.parameters(cfg, tokenizer)


def test_texts_that_do_not_fit_are_told_with_the_remedy(tiny_config):
  rows = [row("is it a dog?", "yes"), row("a dog " * 9, "rain falls and falls on four dog zebra ?")]
  data = DataConfig(preset="clean")
  encoder = Preprocessor(rows, CLIPS, tiny.tokenizer(), tiny_config, data)
  assert [*survey.faults("training", encoder)] == [
    "training: questions of 1 of 2 rows are longer than 8 tokens and are cut: shorten them, or "
    "give --config.model.text_tokens=19",
    "training: answers of 1 of 2 rows are longer than 8 tokens and are cut: shorten them, or give "
    "--config.model.answer_tokens=10",
    "training: 5 words are unknown to the tokenizer, and read as one and the same: it, yes, and, "
    "on, zebra",
  ]


def test_a_row_whose_texts_cannot_be_read_is_named(tiny_config):
  for bad, message in (
    (row("caption both audios", "rain", 7), "a caption of both audios needs the second caption"),
    (row("caption the audio", "a" * 10_000, 7), "text of 10016 characters, more than the 10000"),
  ):
    rows = [row("is it a dog?", "yes"), bad]
    data = DataConfig(preset="training")
    encoder = Preprocessor(rows, CLIPS, tiny.tokenizer(), tiny_config, data)
    with pytest.raises(DataError, match=rf"^training: row 7 \(from 0\) of t\.csv: {message}"):
      next(survey.faults("training", encoder))


@pytest.mark.parametrize(
  ("text", "mix"), [("{}", {}), ("{'a.json': 4.0}", {"a.json": 4.0}), ("{'a': 2}", {"a": 2})]
)
def test_a_mix_can_be_set_on_the_command_line(text, mix):
  argv = ["train", "--config=demo", f"--config.data.mix={text}"]
  f = cli.flag_values()
  cli.define_config(f, argv)
  f(argv)
  assert f.config.data.mix == mix
  f, argv[2] = cli.flag_values(), "--config.data.mix=4"
  cli.define_config(f, argv)
  with pytest.raises(flags.Error, match=re.escape("or {} for none")):
    f(argv)


# --- A run's folder ------------------------------------------------------------------------------

HOLD = """
import sys, time
from mellow_jax import files
with files.locked(sys.argv[1]) as free:
  print(free, flush=True)
  time.sleep(60)
"""


def test_a_second_run_in_a_folder_is_refused_until_the_first_ends_or_is_killed(tmp_path):
  root = Path(__file__).parents[2]
  first = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, cwd=root)
  assert first.stdout.readline() == b"True\n"
  message = r"another run is writing there: .* name another --workdir"
  with pytest.raises(ConfigError, match=message), loop.own_folder(tmp_path):
    pass
  first.send_signal(signal.SIGKILL)
  first.communicate()
  with loop.own_folder(tmp_path), files.locked(tmp_path) as free:
    assert not free
  assert not list(tmp_path.iterdir())  # the lock is no file


def test_a_failed_start_leaves_no_empty_folder(tmp_path):
  for made in ("checkpoints", "checkpoints/1"):
    with pytest.raises(KeyError), loop.own_folder(tmp_path / "run"):
      (tmp_path / "run" / made).mkdir(parents=True)
      raise KeyError
    assert (tmp_path / "run").exists() == (made == "checkpoints/1")


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_finished_run_goes_on_where_its_schedule_allows_it(tmp_path, schedule):
  saved = {"steps": 2, "optim.schedule": schedule, "data.source": "files", "seed": 0}
  checkpoints = TrainCheckpoints(tmp_path / "checkpoints", keep=2)
  state = {"a": jnp.ones(3)}
  checkpoints.save(2, state, saved, {})
  checkpoints.wait()
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = {"a": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=sharding)}
  more = saved | {"steps": 4}
  if schedule == "constant":
    assert checkpoints.restore(like, more)
  else:
    with pytest.raises(
      CheckpointError, match=rf"steps = 2, .* 4; .*{schedule}.*init_from=.*/model"
    ):
      checkpoints.restore(like, more)
  with pytest.raises(CheckpointError, match="seed = 0, this run has 1"):
    checkpoints.restore(like, more | {"seed": 1})
  # Scenes are as many as the steps need: it is the steps that are named.
  checkpoints.save(3, state, saved | {"data.source": "scenes", "rows": 2}, {})
  checkpoints.wait()
  scenes = more | {"data.source": "scenes", "rows": 4, "the digest of its rows": "other"}
  named = r"steps = 2, .* 4; .*optim.schedule.* the order of scenes .*init_from=.*/model"
  with pytest.raises(CheckpointError, match=named):
    checkpoints.restore(like, scenes)
  checkpoints.close()


@pytest.mark.parametrize(
  ("number", "silent", "said"), [(3, 2.5, True), (3, 1.0, False), (60, 2.5, False), (60, 8.5, True)]
)
def test_the_first_steps_are_not_silent_nor_are_slow_ones(
  number, silent, said, monkeypatch, capsys
):
  run = mock.Mock(spec=loop.Run, cfg=tiny.run(log_every=50, steps=100), start=0)
  one, zero = jnp.float32(1.5), jnp.int32(0)
  run.pending = (number, step.Metrics(one, one, RATE, zero, zero), {})
  run.timed = number - 1  # all but the one that was compiled
  run.programs, run.writer, run.timer = mock.Mock(), mock.Mock(), mock.Mock()
  run.timer.seconds.return_value = {"train": 4.0}
  monkeypatch.setattr(parallel, "silent_seconds", lambda: silent)
  loop.log_pending(run)
  # The rate is that of the step itself: what the host computed of it would wait for the next step.
  rate = {"loss": 1.5, "grad_norm": 1.5, "learning_rate": float(RATE)}
  run.writer.write.assert_called_once_with(number, rate)
  assert not run.programs.mock_calls
  line = f"step {number}/100  loss 1.5000  {(number - 1) * 2:.1f} examples/s"
  assert (line in capsys.readouterr().out) == said


def test_the_speed_is_that_of_steps_that_nothing_was_compiled_for(monkeypatch, capsys):
  cfg = tiny.run(log_every=1, steps=9)
  run = mock.Mock(spec=loop.Run, cfg=cfg, start=0, compiled={}, pending=None, timed=0)
  run.state, run.loader, run.checkpoints, run.writer = (mock.Mock() for _ in range(4))
  run.programs, run.timer = mock.Mock(), mock.MagicMock()
  run.timer.seconds.return_value = {"train": 4.0, "compile": 9.0}
  one, zero = jnp.float32(1.5), jnp.int32(0)
  compiled = run.programs.train_step.lower.return_value.compile.return_value
  compiled.memory_analysis.return_value.temp_size_in_bytes = 2**20
  compiled.return_value = run.state, step.Metrics(one, one, RATE, zero, zero)
  slots = iter((8, 16, 8, 24, 16))
  monkeypatch.setattr(step, "answer_slots", lambda batch: (next(slots),))
  for number in range(1, 6):  # each is logged once the next has begun, which may be compiled
    loop.run_step(run, number, ())
  loop.log_pending(run)
  timed = (0, 0, 1, 1, 2)
  written = [call.args[:2] for call in run.writer.write_times.call_args_list]
  assert written == [(number, count * 8 / 4.0) for number, count in enumerate(timed, 1)]
  said = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
  assert [("left" in line) for line in said] == [count > 0 for count in timed]
  assert "step 3/9  loss 1.5000  2.0 examples/s  0m24s left" in said[2]


# --- A small run ---------------------------------------------------------------------------------

CLASSES = ("hum", "whistle", "siren", "click", "rush", "purr", "knock", "sweep", "trill", "drone")


def write_clips(folder, name, count, rng):
  """A table of clips of ten sounds, each a tone with a beat and noise; its (file, caption)."""
  seconds, found = np.arange(16_000) / 16_000, []
  for number in range(count):
    kind = number % 10
    pitch = 150 * 1.45**kind * rng.uniform(0.95, 1.05)
    beat = 1 + np.sign(np.sin(2 * np.pi * (1 + kind % 4) * (seconds + rng.random())))
    noise = (kind % 3) * 0.1 * rng.standard_normal(len(seconds))
    wav = (0.1 * beat * np.sin(2 * np.pi * pitch * seconds) + 0.2 * noise).astype(np.float32)
    sound_files.write(folder / f"{name}{number}.wav", wav, 16_000)
    found.append((f"{name}{number}.wav", f"a {CLASSES[kind]} is heard"))
  lines = [f"{file},what is heard ?,{caption},{caption}\n" for file, caption in found]
  (folder / f"{name}.csv").write_text("file,question,answer,caption\n" + "".join(lines))
  return found


@pytest.mark.slow
def test_a_run_counts_the_held_out_answers_that_its_model_then_gives(tiny_config, tmp_path):
  """The case of docs/finetune.md, which test_first_hour.py walks whole, with a tiny model."""
  folder, workdir = tmp_path / "start", tmp_path / "mine"
  checkpoint.save_model(folder, tiny.params(tiny_config), tiny_config, "clean", tiny.tokenizer())
  rng = np.random.default_rng(0)
  write_clips(tmp_path, "clips", 60, rng)
  held = write_clips(tmp_path, "held_out", 10, rng)
  flags_of_run = (
    *("--config=finetune:small", f"--workdir={workdir}", f"--config.init_from={folder}"),
    *(f"--config.data.train={tmp_path / 'clips.csv'}", "--config.data.cache_clips=true"),
    *(f"--config.data.val={tmp_path / 'held_out.csv'}", "--config.steps=100"),
  )
  environ = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}  # as users run it
  command = [sys.executable, "-m", "mellow_jax.train", *flags_of_run]
  subprocess.run(command, check=True, env=environ, cwd=Path(__file__).parents[2])
  model = Mellow.load(workdir / "model")
  answers = [model.answer(tmp_path / path, "what is heard ?").text for path, _ in held]
  right = sum(answer == caption for answer, (_, caption) in zip(answers, held, strict=True))
  assert set(answers) <= {f"a {name} is heard" for name in CLASSES}  # the form is learnt
  last = files.read_lines(workdir / "metrics.jsonl")[-1]
  assert round(last["val_accuracy"] * last["val_answers"]) == right
  assert held[0][0] in (workdir / "report.html").read_text()
