"""Training checkpoints: a run goes on from what is sound, or says why it cannot."""

import functools
import gc
import logging
import os
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
import tiny
from damage import DAMAGES, assert_equal, files_of_at_most, one_line

from mellow_jax.config import Config, GPT2Config
from mellow_jax.errors import CheckpointError
from mellow_jax.training import checkpoints as resume
from mellow_jax.training.checkpoints import COMMITTED, TrainCheckpoints, run_settings

# Where Orbax gives up on damage, it leaves coroutines and futures behind that nobody waits for.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited"
)

RUN = {"seed": 0, "optim.learning_rate": 1e-3, "data.mix.caption": 1.0}


@pytest.fixture(autouse=True, scope="module")
def complaints_about_what_is_left_behind_are_not_shown():
  log = logging.getLogger("asyncio")
  log.disabled = True
  yield
  gc.collect()
  log.disabled = False


def state_at(step):
  rng = np.random.default_rng(step)
  return {
    "step": jnp.int32(step),
    "params": {"a/b": jnp.asarray(rng.standard_normal((50, 60), np.float32)), "c": jnp.ones(())},
  }


def like():
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state_at(0)
  )


def opened(folder, keep=3):
  return TrainCheckpoints(folder, keep=keep)


def save(checkpoints, step, state=None):
  checkpoints.save(step, state or state_at(step), RUN, {"bad": step})


def restored(folder):
  """The step that a new process would go on from; its state and counters are checked."""
  checkpoints = opened(folder)
  state, counters = checkpoints.restore(like(), RUN)
  checkpoints.close()
  step = int(state["step"])
  assert_equal(state, state_at(step))
  assert counters == {"bad": step}
  return step


@pytest.fixture
def folder(tmp_path):
  """Checkpoints of steps 2 and 4."""
  checkpoints = opened(tmp_path / "checkpoints")
  for step in (2, 4):
    save(checkpoints, step)
  checkpoints.close()
  return tmp_path / "checkpoints"


def names(folder):
  return {path.name for path in folder.iterdir()}


# --- What was saved ------------------------------------------------------------------------------


def test_an_empty_folder_is_a_beginning(tmp_path):
  assert opened(tmp_path / "checkpoints").restore(like(), RUN) is None


def test_the_last_step_comes_back_with_every_bit(folder):
  assert restored(folder) == 4


def test_counters_come_back_to_the_last_digit(tmp_path):
  checkpoints, counters = opened(tmp_path), {"bad/silent": 3, "best_val_loss": 0.1 + 0.2}
  checkpoints.save(1, state_at(1), RUN, counters)
  checkpoints.close()
  assert opened(tmp_path).restore(like(), RUN)[1] == counters


def test_the_newest_are_kept(tmp_path):
  checkpoints = opened(tmp_path, keep=2)
  for step in range(1, 5):
    save(checkpoints, step)
    assert len(checkpoints.steps()) >= min(step - 1, 2)  # an old one goes once a new one is there
  checkpoints.wait()
  assert names(tmp_path) == {"3", "4"}
  checkpoints.close()


def test_a_save_holds_the_state_as_it_was_though_its_memory_is_used_again(tmp_path):
  advance = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
  state = {"w": jnp.zeros(3_000_000)}
  checkpoints = opened(tmp_path)
  for step in range(3):
    save(checkpoints, step, state)  # still being written while the state goes on
    state = advance(state)
  checkpoints.wait()
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  found, _ = checkpoints.restore(
    {"w": jax.ShapeDtypeStruct((3_000_000,), float, sharding=sharding)}, RUN
  )
  assert_equal(found, {"w": jnp.full(3_000_000, 2.0)})


SETUP = """
import os, pathlib, sys, time, jax, jax.numpy as jnp, numpy as np, tiny
from mellow_jax import checkpoint, parallel
from mellow_jax.training import checkpoints as resume
run = {"seed": 0, "optim.learning_rate": 1e-3, "data.mix.caption": 1.0}

def like(mesh):
  arrays = {"step": jax.ShapeDtypeStruct((), jnp.int32)}
  arrays["params"] = {n: jax.ShapeDtypeStruct(s, float) for n, s in (("a/b", (50, 60)), ("c", ()))}
  return jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
    arrays, parallel.shardings(arrays, parallel.make_mesh(mesh)),
  )
"""
EIGHT_DEVICES = """
state, counters = resume.TrainCheckpoints(sys.argv[1], keep=3).restore(like((2, 4)), run)
assert state["params"]["a/b"].addressable_shards[0].data.shape == (50, 15)
other = resume.TrainCheckpoints(sys.argv[2], keep=3)
other.save(4, state, run, counters)
other.close()
"""


def test_what_one_device_saved_and_eight_read_and_saved_again_is_the_same(
  folder, compile_cache, tmp_path
):
  script = ["-c", SETUP + EIGHT_DEVICES, folder, tmp_path / "other"]
  processes.finish(processes.start(script, compile_cache, devices=8))
  assert restored(tmp_path / "other") == 4


ONE_OF_TWO = """
coordinator, this = sys.argv[2], int(sys.argv[3])
parallel.initialize(coordinator, 2, this)
folder = pathlib.Path(sys.argv[1])
shapes = like((1, 2))
state = jax.tree.map(
  lambda x: jax.make_array_from_callback(
    x.shape, x.sharding, lambda index: np.full(x.shape, 4, x.dtype)[index]
  ),
  shapes,
)
saves = resume.TrainCheckpoints(folder / "checkpoints", keep=3)
if this == 0:
  config = tiny.config()
  checkpoint.save_model(folder / "best", {"a": np.ones(3)}, config, "tiny", None)
  mkdir = os.mkdir
  os.mkdir = lambda *args, **kwargs: (time.sleep(0.5), mkdir(*args, **kwargs))
saves.save(4, state, run, {})
saves.wait()
found, _ = saves.restore(shapes, run)
print(saves.steps(), float(found["params"]["a/b"].addressable_shards[0].data.mean()))
"""


def test_one_process_that_saved_alone_does_not_lose_the_part_of_the_other(compile_cache, tmp_path):
  where = f"127.0.0.1:{processes.free_port()}"
  script = ["-c", SETUP + ONE_OF_TWO, tmp_path, where]
  both = [processes.start([*script, i], compile_cache) for i in range(2)]
  for said in processes.finish(*both, seconds=120):
    assert said.splitlines()[-1] == "[4] 4.0"


@pytest.mark.parametrize(
  ("run", "message"),
  [
    (RUN | {"optim.learning_rate": 3e-3}, "optim.learning_rate = 0.001, this run has 0.003"),
    (RUN | {"data.mix.order": 1.0}, "data.mix.order = None, this run has 1.0"),
    ({"seed": 0, "data.mix.caption": 1.0}, "optim.learning_rate = 0.001, this run has None"),
  ],
)
def test_a_run_of_other_settings_is_not_resumed(folder, run, message):
  with pytest.raises(CheckpointError, match=f"was saved with {message}.*another --workdir"):
    opened(folder).restore(like(), run)


def test_a_field_that_an_older_version_lacked_had_its_default(tmp_path):
  now = run_settings(Config(), 8, {})
  older = {name: value for name, value in now.items() if not name.endswith(".kind")}
  assert len(older) < len(now)
  saved = opened(tmp_path)
  saved.save(2, state_at(2), older, {})
  saved.close()
  assert opened(tmp_path).restore(like(), now) is not None
  other = now | {"model.decoder.kind": "gpt2"}
  with pytest.raises(CheckpointError, match=r"model\.decoder\.kind = 'smollm2'"):
    opened(tmp_path).restore(like(), other)


def changed(fields):
  """The tiny run with other fields, by their flags' names."""
  cfg = tiny.run()
  for name, value in fields.items():
    *parts, last = name.split(".")
    setattr(functools.reduce(getattr, parts, cfg), last, value)
  return cfg


GROUPED = {"data.group_answers": True, "data.answer_lengths": 4}
BATCH_STATISTICS = {"encoder_train_mode": True, "model.encoder.batch_statistics": True}
GPT2, UNDRAWN = {"model.decoder": GPT2Config()}, {"model.decoder": GPT2Config(dropout=0.0)}


@pytest.mark.parametrize(
  ("fields", "change", "message"),
  [
    (GROUPED, {"data.answer_lengths": 2}, r"data\.answer_lengths = 4, this run has 2"),
    (GROUPED, {"accumulate": 2}, ""),
    ({}, {"data.answer_lengths": 4}, ""),
    (GROUPED, {"data.group_answers": False}, r"data\.group_answers = True, this run has False"),
    (BATCH_STATISTICS, {"accumulate": 2}, "accumulate = 1, this run has 2"),
    (BATCH_STATISTICS, {"data.answer_lengths": 4}, ""),
    (
      BATCH_STATISTICS | {"accumulate": 2},
      {"data.answer_lengths": 4},
      r"data\.answer_lengths = 1, this run has 4",
    ),
    (BATCH_STATISTICS, {"encoder_train_mode": False}, "encoder_train_mode = True, this run has"),
    ({"model.encoder.batch_statistics": True}, {"accumulate": 2, "data.answer_lengths": 4}, ""),
    (GPT2, {"data.answer_lengths": 4}, r"data\.answer_lengths = 1, this run has 4"),
    (GPT2, {"accumulate": 2}, ""),
    (GPT2 | {"data.answer_lengths": 4}, {"accumulate": 2}, "accumulate = 1, this run has 2"),
    (UNDRAWN, {"data.answer_lengths": 4, "accumulate": 2}, ""),
  ],
)
def test_a_saving_that_changes_what_a_step_computes_is_not_changed_on_resume(
  tmp_path, fields, change, message
):
  saved = opened(tmp_path)
  saved.save(2, state_at(2), run_settings(changed(fields), 8, {}), {})
  saved.close()
  now = run_settings(changed(fields | change), 8, {})
  if not message:
    assert opened(tmp_path).restore(like(), now) is not None
    return
  with pytest.raises(CheckpointError, match=f"was saved with {message}.*another --workdir"):
    opened(tmp_path).restore(like(), now)


def test_lengths_that_an_older_version_did_not_write_down_do_not_stand_in_the_way(tmp_path):
  now = run_settings(changed(GROUPED), 8, {})
  older = {name: value for name, value in now.items() if name != "data.answer_lengths"}
  assert len(older) == len(now) - 1
  saved = opened(tmp_path)
  saved.save(2, state_at(2), older, {})
  saved.close()
  assert opened(tmp_path).restore(like(), now) is not None


@pytest.mark.parametrize("name", [resume.TOKENIZER, resume.WINDOWS])
def test_other_content_under_a_path_that_may_change_is_not_resumed(tmp_path, name):
  cfg = tiny.run()
  before = run_settings(cfg, 8, {resume.DIGEST: "", name: "one"})
  saved = opened(tmp_path)
  saved.save(2, state_at(2), before, {})
  saved.close()
  cfg.data.tokenizer, cfg.data.features, cfg.init_from = "/moved/a", "/moved/b", ("/moved/c",)
  same = run_settings(cfg, 8, {resume.DIGEST: "", name: "one"})
  assert opened(tmp_path).restore(like(), same) is not None
  # A step of an older version does not tell.
  assert opened(tmp_path).restore(like(), run_settings(cfg, 8, {resume.DIGEST: ""})) is not None
  other = run_settings(cfg, 8, {resume.DIGEST: "", name: "another"})
  message = f"was saved with {name} = 'one', this run has 'another'; use another --workdir"
  with pytest.raises(CheckpointError, match=message):
    opened(tmp_path).restore(like(), other)


# --- Damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_the_last_step_costs_no_more_than_that_step(folder, damage, tmp_path):
  rng = np.random.default_rng(1)
  files = [path.relative_to(folder) for path in (folder / "4").rglob("*") if path.is_file()]
  assert len(files) > 8
  went_back = 0
  for name in files:
    other = shutil.copytree(folder, tmp_path / "damaged")
    if not (other / name).stat().st_size and damage.__name__ != "delete":
      continue
    damage(other / name, rng)
    step = restored(other)
    assert step in (2, 4), name
    if step == 2:
      went_back += 1
      checkpoints = opened(other)
      save(checkpoints, 4)  # the run comes to step 4 again
      checkpoints.close()
      assert restored(other) == 4
    shutil.rmtree(other)
  assert went_back >= 3


def test_an_empty_step_folder_and_one_without_its_marker_do_not_count(folder):
  (folder / "4" / COMMITTED).unlink()  # what a kill leaves
  (folder / "6").mkdir()
  assert restored(folder) == 2
  assert names(folder) == {"2"}
  checkpoints = opened(folder)
  save(checkpoints, 4)
  checkpoints.close()
  assert restored(folder) == 4


def test_where_no_step_is_sound_training_does_not_begin_anew(folder):
  for step in (2, 4):
    for path in (folder / str(step) / "state").rglob("*"):
      if path.is_file():
        path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(CheckpointError, match=r"no usable checkpoint.*step 4: .*step 2: ") as caught:
    opened(folder).restore(like(), RUN)
  assert "or remove the folder to start from the beginning" in one_line(caught)
  assert names(folder) == {"2", "4"}


TWO_HOSTS = """
parallel.initialize(sys.argv[1], 2, int(sys.argv[2]))
state, counters = resume.TrainCheckpoints(sys.argv[3], keep=3).restore(like((-1, 1)), run)
print(int(state["step"]), counters["bad"])
"""


def test_damage_that_one_host_alone_sees_sends_all_to_the_same_older_step(
  folder, compile_cache, tmp_path
):
  address = f"127.0.0.1:{processes.free_port()}"
  other = shutil.copytree(folder, tmp_path / "other")
  numbers = max((other / "4/state").rglob("*"), key=lambda path: path.stat().st_size)
  content = bytearray(numbers.read_bytes())
  content[len(content) // 2] ^= 1  # which Orbax restores without a word
  numbers.write_bytes(content)
  begun = time.monotonic()
  hosts = [
    processes.start(["-c", SETUP + TWO_HOSTS, address, i, place], compile_cache)
    for i, place in enumerate((folder, other))
  ]
  for out in processes.finish(*hosts):
    assert out.splitlines()[-1] == "2 2"
  assert time.monotonic() - begun < 120  # they agree, and wait for no time-out


# --- Full disks ----------------------------------------------------------------------------------


def test_a_full_disk_costs_only_the_saves_that_find_it_full(tmp_path, monkeypatch):
  checkpoints = opened(tmp_path)
  save(checkpoints, 1)
  with monkeypatch.context() as full:
    usage = shutil.disk_usage("/")._replace(free=1000)
    full.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match="0 MiB free") as caught:
      save(checkpoints, 2)
    assert "step 2 could not be saved, steps [1] are kept (0 MiB free): 0.0 MiB are" in one_line(
      caught
    )
  save(checkpoints, 3)
  checkpoints.close()
  assert restored(tmp_path) == 3


def told(checkpoints):
  """The error of the save in the background, which polling finds without waiting for the next."""
  with pytest.raises(CheckpointError) as caught:
    for _ in range(600):
      checkpoints.poll()
      time.sleep(0.05)
  return one_line(caught)


def test_a_save_that_fails_in_the_background_is_told_at_once(tmp_path):
  checkpoints = opened(tmp_path)
  save(checkpoints, 1)
  checkpoints.wait()
  with files_of_at_most(2_000):
    save(checkpoints, 2)
    assert f"{tmp_path}: step 2 could not be saved, steps [1] are kept (" in told(checkpoints)
  assert names(tmp_path) == {"1"}  # nothing is left of step 2
  save(checkpoints, 3)
  checkpoints.close()
  assert restored(tmp_path) == 3
  assert names(tmp_path) == {"1", "3"}


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 8 MiB."""
  place = tmp_path / "disk"
  place.mkdir()
  command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place]
  if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
    pytest.skip("only root of a Linux that lets it mount can make a small disk")
  yield place
  subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_that_fills_up_keeps_its_steps_and_is_used_again_once_it_has_room(small_disk):
  checkpoints = opened(small_disk / "checkpoints")
  save(checkpoints, 1)
  checkpoints.wait()
  big = {"w": jnp.asarray(np.random.default_rng(0).standard_normal(500_000, np.float32))}
  other = small_disk / "other"
  free = shutil.disk_usage(small_disk).free
  other.write_bytes(bytes(free - 2_000_000 - 20_000))  # room for the array, not for all around it
  save(checkpoints, 2, big)
  message = told(checkpoints)
  assert f"{small_disk}/checkpoints: step 2 could not be saved, steps [1] are kept (" in message
  assert "MiB free" in message
  assert names(small_disk / "checkpoints") == {"1"}
  assert shutil.disk_usage(small_disk).free > 2_000_000
  other.unlink()
  save(checkpoints, 3, big)
  save(checkpoints, 4)
  checkpoints.close()
  assert names(small_disk / "checkpoints") == {"1", "3", "4"}
  assert restored(small_disk / "checkpoints") == 4
