"""Model folders and training checkpoints: whole or refused, never wrong."""

import contextlib
import gc
import json
import logging
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mellow_jax import checkpoint
from mellow_jax.checkpoint import CheckpointError
from mellow_jax.models import mellow

# Where Orbax gives up on damage, it leaves coroutines and futures behind that nobody waits for.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited"
)


@pytest.fixture(autouse=True, scope="module")
def complaints_about_what_is_left_behind_are_not_shown():
  log = logging.getLogger("asyncio")
  log.disabled = True
  yield
  gc.collect()
  log.disabled = False


def assert_equal(found, expected):
  found, expected = mellow.flatten(found), mellow.flatten(expected)
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
    assert np.asarray(found[name]).tobytes() == np.asarray(value).tobytes(), name


@contextlib.contextmanager
def files_of_at_most(size):
  """No process of Linux or macOS may then write a longer file: a full disk, wherever this runs."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def disk_is_full(monkeypatch):
  usage = shutil.disk_usage("/")._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def one_line(caught):
  text = str(caught.value)
  assert "\n" not in text
  return text


def delete(path, rng):
  path.unlink()


def truncate(path, rng):
  path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def flip(path, rng):
  content = bytearray(path.read_bytes())
  content[rng.integers(len(content))] ^= 1 << rng.integers(8)
  path.write_bytes(content)


# --- Model folders -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params(tiny_config):
  return tiny.params(tiny_config)


def test_a_model_folder_gives_back_every_bit(tiny_model_folder, tiny_config, params):
  loaded = checkpoint.load_model(tiny_model_folder)
  assert_equal(loaded.params, params)
  assert (loaded.config, loaded.preset) == (tiny_config, "training")
  assert loaded.tokenizer.to_str() == tiny.tokenizer().to_str()


@pytest.mark.parametrize("damage", [delete, truncate, flip])
def test_a_damaged_model_folder_never_gives_wrong_numbers(
  tiny_model_folder, params, damage, tmp_path
):
  rng, refused = np.random.default_rng(0), 0
  files = [
    path.relative_to(tiny_model_folder) for path in (tiny_model_folder / "params").rglob("*")
  ]
  files = [path for path in files if (tiny_model_folder / path).stat().st_size]
  files = [path for path in files if (tiny_model_folder / path).is_file()]
  for name in files:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model_folder, folder)
    damage(folder / name, rng)
    try:
      assert_equal(checkpoint.load_model(folder).params, params)
    except CheckpointError as error:
      refused += 1
      assert str(folder) in str(error) and "\n" not in str(error)
    shutil.rmtree(folder)
  # Files that only describe how the others came about may be missing.
  assert len(files) > 4 and refused >= 2


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c: c["model"]["decoder"].update(layers=3), "first decoder/blocks/2/"),
    (lambda c: c["model"]["decoder"].update(layers=1), "decoder/blocks/1/.* is no parameter"),
    (lambda c: c["model"]["decoder"].update(width=64), "damaged, or not of the architecture"),
    (lambda c: c["model"]["decoder"].update(kv_heads=3), "kv_heads must divide"),
    (lambda c: c["model"]["decoder"].update(rope=1), "unknown config field decoder.'rope'"),
    (lambda c: c.update(model=[1]), "config.json: "),
    (lambda c: c.pop("sha256"), "'sha256'"),
    (lambda c: c["sha256"].update({"decoder/bias": ""}), "decoder/bias is no parameter"),
    (lambda c: c.update(format=2), "format 2, this version reads 1"),
  ],
)
def test_a_config_that_is_not_of_its_parameters_is_refused(
  tiny_model_folder, change, message, tmp_path
):
  folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
  content = json.loads((folder / "config.json").read_text())
  change(content)
  (folder / "config.json").write_text(json.dumps(content))
  with pytest.raises(CheckpointError, match=message) as caught:
    checkpoint.load_model(folder)
  assert str(folder) in one_line(caught)


@pytest.mark.parametrize("text", ["", "[]", '{"format"', "\xff"])
def test_a_config_that_is_no_config_is_refused(tiny_model_folder, text, tmp_path):
  folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
  (folder / "config.json").write_bytes(text.encode("latin-1"))
  with pytest.raises(CheckpointError, match=str(folder)):
    checkpoint.load_model(folder)


def test_a_part_of_a_model_is_for_training_to_start_from(tiny_config, params, tmp_path):
  flat = mellow.flatten(params)
  part = {name: value for name, value in flat.items() if name.startswith("encoder/")}
  checkpoint.save_model(tmp_path / "encoder", part, tiny_config, "training", None)
  found, _, _ = checkpoint.load_params(tmp_path / "encoder")
  assert_equal(found, part)
  with pytest.raises(CheckpointError, match=r"holds a part of the model.*--config.init_from"):
    checkpoint.load_model(tmp_path / "encoder")


def test_what_is_there_is_replaced_only_if_asked(tiny_config, params, tmp_path):
  folder = tmp_path / "model"
  folder.mkdir()
  (folder / "notes.txt").write_text("mine")
  with pytest.raises(CheckpointError, match="exists and is not empty"):
    checkpoint.save_model(folder, params, tiny_config, "clean", None)
  assert [path.name for path in tmp_path.rglob("*")] == ["model", "notes.txt"]
  checkpoint.save_model(folder, params, tiny_config, "clean", None, overwrite=True)
  assert_equal(checkpoint.load_params(folder)[0], mellow.flatten(params))
  assert [path.name for path in tmp_path.iterdir()] == ["model"]
  (tmp_path / "empty").mkdir()
  checkpoint.save_model(tmp_path / "empty", params, tiny_config, "clean", None)


def test_a_full_disk_leaves_no_half_of_a_model(tiny_config, params, tmp_path, disk_is_full):
  with pytest.raises(CheckpointError) as caught:
    checkpoint.save_model(tmp_path / "model", params, tiny_config, "clean", None)
  assert "model: could not be written (0 MiB free): 0." in one_line(caught)
  assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_on_the_way_leaves_no_half_of_a_model(tiny_config, params, tmp_path):
  checkpoint.save_model(tmp_path / "model", params, tiny_config, "clean", None)
  other = jax.tree.map(lambda leaf: leaf + 1, params)
  with files_of_at_most(20_000), pytest.raises(CheckpointError) as caught:
    checkpoint.save_model(tmp_path / "model", other, tiny_config, "clean", None, overwrite=True)
  assert "model: could not be written" in one_line(caught)
  assert [path.name for path in tmp_path.iterdir()] == ["model"]
  assert_equal(checkpoint.load_params(tmp_path / "model")[0], mellow.flatten(params))


# --- Training checkpoints ------------------------------------------------------------------------

RUN = {"seed": 0, "optim.learning_rate": 1e-3, "data.mix.caption": 1.0}


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


def reopened(folder):
  return checkpoint.TrainCheckpoints(folder, keep=3)


@pytest.fixture
def folder(tmp_path):
  """Checkpoints of steps 2 and 4."""
  checkpoints = reopened(tmp_path / "checkpoints")
  for step in (2, 4):
    checkpoints.save(step, state_at(step), RUN)
  checkpoints.close()
  return tmp_path / "checkpoints"


def test_an_empty_folder_is_a_beginning(tmp_path):
  assert reopened(tmp_path / "checkpoints").restore(like(), RUN) is None


def test_the_last_step_comes_back_with_every_bit(folder):
  assert_equal(reopened(folder).restore(like(), RUN), state_at(4))


def test_a_save_holds_the_state_as_it_was_though_its_memory_is_used_again(tmp_path):
  advance = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
  state = {"w": jnp.zeros(3_000_000)}
  checkpoints = reopened(tmp_path)
  for step in range(3):
    checkpoints.save(step, state, RUN)  # still being written while the state goes on
    state = advance(state)
  checkpoints.wait()
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  found = checkpoints.restore(
    {"w": jax.ShapeDtypeStruct((3_000_000,), float, sharding=sharding)}, RUN
  )
  assert_equal(found, {"w": jnp.full(3_000_000, 2.0)})


@pytest.mark.parametrize("damage", [delete, truncate, flip])
def test_damage_to_the_last_step_costs_no_more_than_that_step(folder, damage, tmp_path):
  rng = np.random.default_rng(1)
  names = [path.relative_to(folder) for path in (folder / "4").rglob("*") if path.is_file()]
  fallbacks = 0
  for name in names:
    other = shutil.copytree(folder, tmp_path / "damaged")
    if not (other / name).stat().st_size and damage is not delete:
      continue
    damage(other / name, rng)
    checkpoints = reopened(other)
    state = checkpoints.restore(like(), RUN)
    assert_equal(state, state_at(int(state["step"])))
    assert int(state["step"]) in (2, 4)
    if int(state["step"]) == 2:
      fallbacks += 1
      checkpoints.save(4, state_at(4), RUN)  # the run comes to step 4 again
      checkpoints.close()
      assert_equal(reopened(other).restore(like(), RUN), state_at(4))
    shutil.rmtree(other)
  assert fallbacks >= 3


def test_where_no_step_is_sound_training_does_not_begin_anew(folder):
  for step in (2, 4):
    for path in (folder / str(step) / "state").rglob("*"):
      if path.is_file():
        path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(CheckpointError, match=r"no usable checkpoint.*step 4: .*step 2: ") as caught:
    reopened(folder).restore(like(), RUN)
  assert "or remove the folder to start from the beginning" in one_line(caught)
  assert {"2", "4"} <= {path.name for path in folder.iterdir()}


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
    reopened(folder).restore(like(), run)


def test_a_step_that_was_never_finished_is_removed(folder, caplog):
  (folder / "4" / checkpoint.COMMITTED).unlink()  # what a kill leaves
  (folder / "6").mkdir()
  checkpoints = reopened(folder)
  assert_equal(checkpoints.restore(like(), RUN), state_at(2))
  assert {path.name for path in folder.iterdir()} == {"2"}
  checkpoints.save(4, state_at(4), RUN)
  checkpoints.close()
  assert_equal(reopened(folder).restore(like(), RUN), state_at(4))


def test_a_full_disk_costs_only_the_saves_that_find_it_full(tmp_path, monkeypatch):
  checkpoints = reopened(tmp_path)
  checkpoints.save(1, state_at(1), RUN)
  with monkeypatch.context() as full:
    usage = shutil.disk_usage("/")._replace(free=1000)
    full.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match="0 MiB free") as caught:
      checkpoints.save(2, state_at(2), RUN)
    assert "saving failed, steps [1] are kept (0 MiB free): 0.0 MiB are" in one_line(caught)
  checkpoints.save(3, state_at(3), RUN)
  checkpoints.close()
  assert_equal(reopened(tmp_path).restore(like(), RUN), state_at(3))


def test_a_save_that_fails_in_the_background_is_told_at_the_next(tmp_path):
  checkpoints = reopened(tmp_path)
  checkpoints.save(1, state_at(1), RUN)
  checkpoints.wait()
  with (
    files_of_at_most(2_000),
    pytest.raises(CheckpointError, match=r"steps \[1\] are kept") as caught,
  ):
    checkpoints.save(2, state_at(2), RUN)
    checkpoints.wait()
  assert f"{tmp_path}: saving failed" in one_line(caught)
  checkpoints.save(3, state_at(3), RUN)
  checkpoints.close()
  checkpoints = reopened(tmp_path)
  assert_equal(checkpoints.restore(like(), RUN), state_at(3))
  assert {path.name for path in tmp_path.iterdir()} == {"1", "3"}  # nothing is left of step 2
