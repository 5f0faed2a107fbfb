"""Model folders: whole or refused, never wrong."""

import gc
import json
import logging
import shutil

import jax
import numpy as np
import pytest
import tiny
from damage import DAMAGES, assert_equal, files_of_at_most, one_line

from mellow_jax import checkpoint
from mellow_jax.errors import CheckpointError
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


@pytest.fixture
def disk_is_full(monkeypatch):
  usage = shutil.disk_usage("/")._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


# --- Model folders -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params(tiny_config):
  return tiny.params(tiny_config)


def test_a_model_folder_gives_back_every_bit(tiny_model_folder, tiny_config, params):
  loaded = checkpoint.load_model(tiny_model_folder)
  assert_equal(loaded.params, params)
  assert (loaded.config, loaded.preset) == (tiny_config, "training")
  assert loaded.tokenizer.to_str() == tiny.tokenizer().to_str()


@pytest.mark.parametrize("damage", DAMAGES)
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


def test_the_folder_of_a_run_points_at_its_model(tiny_model_folder, tmp_path):
  shutil.copytree(tiny_model_folder, tmp_path / "run" / "model")
  with pytest.raises(CheckpointError, match=r"the folder of a run: its model is .*run/model"):
    checkpoint.load_model(tmp_path / "run")
