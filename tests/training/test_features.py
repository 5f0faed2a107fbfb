"""Features in the place of clips: the same loss, several windows, and nothing that is stale."""

import dataclasses
import json
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
import soundfile
import tiny
from damage import files_of_at_most, one_line

import mellow_jax
from mellow_jax import cache_features, checkpoint, parallel
from mellow_jax.config import DataConfig
from mellow_jax.configs import finetune
from mellow_jax.data import features as kept
from mellow_jax.data import pipeline
from mellow_jax.errors import AudioError, CheckpointError, ConfigError, DataError
from mellow_jax.models import mellow
from mellow_jax.training import checkpoints, features, init, loader, step

ROWS = [
  ("short.wav", "what is heard ?", "a dog"),
  ("long.wav", "what ?", "rain"),
  ("bad.wav", "?", "x"),
]


@pytest.fixture
def cfg(tmp_path):
  rng = np.random.default_rng(0)
  for name, seconds in (("short.wav", 2.0), ("long.wav", 9.0)):
    soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(int(16_000 * seconds)), 16_000)
  (tmp_path / "bad.wav").write_bytes(b"no sound")
  lines = ["file,question,answer", *(",".join(row) for row in ROWS)]
  (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
  data = DataConfig(
    train=str(tmp_path / "rows.csv"),
    val=str(tmp_path / "rows.csv"),
    tokenizer="words",
    max_bad_fraction=1.0,
    second_clip="silence",
  )
  return tiny.run(data=data, batch_size=2)


def kept_in(cfg, folder):
  features.write(cfg, folder, windows=3, batch=2, log=lambda text: None)
  return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, features=str(folder)))


def loaded(cfg, tmp_path):
  return loader.Loader(cfg, parallel.make_mesh((1, 1)), tmp_path)


def test_features_give_the_loss_of_the_clips(cfg, tmp_path):
  cached = kept_in(cfg, tmp_path / "features")
  flat = mellow.flatten(mellow.init_params(cfg.model, cfg.seed))
  features.check_encoder(str(tmp_path / "features"), flat)
  evaluate = jax.jit(lambda flat, batch: step.eval_step(flat, batch, cfg=cfg.model))
  found = []
  for each in (cfg, cached):
    (batch,) = loaded(each, tmp_path).validation(1, [])
    found.append(evaluate(flat, batch))
  assert batch.wav1.shape[1] < 10_000 < cfg.model.audio.clip_samples
  np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
  assert found[0][1] == found[1][1] > 0

  index = json.loads((tmp_path / "features/index.json").read_text())
  windows = {path: clip["windows"] for path, clip in index["clips"].items()}
  assert windows == {"": 1, "short.wav": 1, "long.wav": 4}
  assert [*index["bad"]] == ["bad.wav"]
  clips = kept.open_folder(tmp_path / "features", {}, pipeline.sources(cfg)[2], ())
  drawn = {clips.load("long.wav", np.random.default_rng(i)).tobytes() for i in range(30)}
  assert len(drawn) == 3 and clips.load("long.wav").tobytes() not in drawn


def test_a_run_goes_on_with_as_many_windows_from_wherever_they_are(cfg, tmp_path):
  """They are drawn by the clip's path and their number: another number is other windows."""

  def content(windows, name):
    features.write(cfg, tmp_path / name, windows=windows, batch=2, log=lambda text: None)
    data = dataclasses.replace(cfg.data, features=str(tmp_path / name))
    return loaded(dataclasses.replace(cfg, data=data), tmp_path).content

  three = content(3, "three")
  shutil.move(tmp_path / "three", tmp_path / "elsewhere")
  assert content(3, "again") == three
  two, none = content(2, "two"), loaded(cfg, tmp_path).content
  assert {name for name in two if two[name] != three[name]} == {checkpoints.WINDOWS}
  assert {name for name in none if none[name] != three[name]} == {checkpoints.WINDOWS}


def test_the_command_hears_with_the_model_of_the_folder_that_a_run_adopts(
  cfg, tiny_model_folder, tmp_path, capsys
):
  output, words = tmp_path / "features", ["mellow cache-features", "--config=finetune"]
  words += [f"--config.data.{name}={cfg.data.train}" for name in ("train", "val")]
  words += ["--config.data.max_bad_fraction=1.0", f"--output={output}", "--device=cpu"]
  assert cache_features.main([*words, f"--config.init_from={tmp_path}/absent"]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"error: {tmp_path}/absent: there is no such folder")
  given = [*words, f"--config.init_from={tiny_model_folder}"]
  assert cache_features.main(given) == 0, capsys.readouterr().err
  # What training asks of the folder.
  run = dataclasses.replace(finetune.get_config(), init_from=(str(tiny_model_folder),))
  kept.check_made_by(output, features.made_by(init.adopt(run, {})))
  features.check_encoder(str(output), checkpoint.load_params(tiny_model_folder)[0])


def test_a_folder_of_another_architecture_is_told_before_clips_are_read(cfg, tiny_model_folder):
  decoder = dataclasses.replace(cfg.model.decoder, width=64)
  other = dataclasses.replace(
    cfg, init_from=(str(tiny_model_folder),), model=dataclasses.replace(cfg.model, decoder=decoder)
  )
  shutil.rmtree(pathlib.Path(cfg.data.train).parent)
  with pytest.raises(CheckpointError, match=r"another architecture: .* in config.model"):
    features.write(other, pathlib.Path("absent"), windows=1, batch=1, log=print)


def test_features_of_clips_that_are_kept_in_memory_are_those_of_their_files(cfg, tmp_path):
  plain = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, preset="clean"))
  in_memory = dataclasses.replace(plain, data=dataclasses.replace(plain.data, cache_clips=True))
  found = []
  for name, each in (("files", plain), ("memory", in_memory)):
    (batch,) = loaded(kept_in(each, tmp_path / name), tmp_path).validation(1, [])
    found.append(np.asarray(batch.wav1))
  assert found[0].shape[1] < cfg.model.audio.clip_samples
  np.testing.assert_array_equal(*found)


def test_stale_features_are_refused(cfg, tmp_path):
  cached = kept_in(cfg, tmp_path / "features")
  other = mellow.flatten(tiny.params(cfg.model, seed=1))
  with pytest.raises(DataError, match="is stale: its encoder is"):
    features.check_encoder(cached.data.features, other)
  with pytest.raises(DataError, match="is stale: its preset is training"):
    loaded(
      dataclasses.replace(cached, data=dataclasses.replace(cached.data, preset="clean")), tmp_path
    )
  os.utime(tmp_path / "short.wav")  # another time, the same bytes
  loaded(cached, tmp_path)
  soundfile.write(tmp_path / "short.wav", np.zeros(32_000), 16_000)
  with pytest.raises(DataError, match=r"is stale: short\.wav has changed"):
    loaded(cached, tmp_path)
  with pytest.raises(ConfigError, match="is there already"):
    features.write(cfg, tmp_path / "features", windows=3, batch=2, log=print)


@pytest.mark.parametrize("was", ["undecodable", "missing", "without permission"])
def test_a_bad_clip_that_was_mended_makes_features_stale(cfg, tmp_path, was, monkeypatch):
  bad, sound = tmp_path / "bad.wav", (tmp_path / "short.wav").read_bytes()
  if was == "missing":
    bad.unlink()
  with monkeypatch.context() as closed:
    if was == "without permission":
      bad.write_bytes(sound)
      for name in ("open", "read_bytes"):  # root may read everything
        closed.setattr(pathlib.Path, name, _refusing(getattr(pathlib.Path, name), bad))
    cached = kept_in(cfg, tmp_path / "features")
    loaded(cached, tmp_path)
  if was != "without permission":
    bad.write_bytes(sound)
  with pytest.raises(DataError, match=r"is stale: bad\.wav has changed: write it anew") as caught:
    loaded(cached, tmp_path)
  one_line(caught)


def _refusing(read, refused):
  def guarded(path, *args, **kwargs):
    if path == refused:
      raise PermissionError(13, "Permission denied", str(path))
    return read(path, *args, **kwargs)

  return guarded


def test_features_of_an_older_version_whose_bad_clips_have_no_stamp_are_read(cfg, tmp_path):
  cached = kept_in(cfg, tmp_path / "features")
  path = tmp_path / "features/index.json"
  index = json.loads(path.read_text())
  index["bad"] = {name: [bad["message"], bad["reason"]] for name, bad in index["bad"].items()}
  path.write_text(json.dumps(index))
  with pytest.raises(AudioError) as caught:
    loaded(cached, tmp_path).val_encoder.clips.load("bad.wav")
  assert caught.value.reason == "undecodable"


def test_a_clip_that_the_folder_lacks_is_told_at_the_start(cfg, tmp_path):
  cached = kept_in(cfg, tmp_path / "features")
  for name in ("new.wav", "newer.wav"):
    shutil.copy(tmp_path / "short.wav", tmp_path / name)
  with pathlib.Path(cfg.data.train).open("a") as file:
    file.write("new.wav,what ?,rain\nnewer.wav,what ?,rain\n")
  with pytest.raises(
    DataError, match=r"2 of the 5 clips .* first new\.wav: write it anew"
  ) as caught:
    loaded(cached, tmp_path)
  one_line(caught)


def test_a_clip_that_no_row_names_any_more_may_be_gone(cfg, tmp_path):
  cached = kept_in(cfg, tmp_path / "features")
  lines = pathlib.Path(cfg.data.train).read_text().splitlines(keepends=True)
  pathlib.Path(cfg.data.train).write_text("".join(x for x in lines if "long.wav" not in x))
  (tmp_path / "long.wav").unlink()
  assert len(loaded(cached, tmp_path).rows) == 2


DAMAGES = [
  (lambda index: [], "holds \\[\\], expected an object"),
  (lambda index: {k: x for k, x in index.items() if k != "width"}, "'width' is missing"),
  (lambda index: {k: x for k, x in index.items() if k != "made_by"}, "'made_by' is missing"),
  (lambda index: index | {"rows": "9"}, "rows is '9'"),
  (lambda index: index | {"dtype": "int8"}, "dtype is 'int8', expected float32 or bfloat16"),
  (lambda index: index | {"clips": []}, "clips is \\[\\]"),
  (lambda index: index | {"clips": {}}, "the features of silence are missing"),
  (lambda index: index | {"bad": {"bad.wav": {}}}, "bad.wav: its fault is {}"),
  (lambda index: index | {"bad": {"bad.wav": None}}, "has no len"),
  (lambda index: index["clips"]["long.wav"].pop("first") and index, "'first' is missing"),
  (lambda index: index["clips"]["long.wav"].pop("crc32") and index, "its stamp is missing"),
  (
    lambda index: index["clips"]["long.wav"].update(windows=99) or index,
    "long.wav: rows . to 100 of",
  ),
]


def test_a_damaged_index_is_told_in_one_line(cfg, tmp_path):
  cached, path = kept_in(cfg, tmp_path / "features"), tmp_path / "features/index.json"
  whole = path.read_text()
  for damage, message in DAMAGES:
    path.write_text(json.dumps(damage(json.loads(whole))))
    with pytest.raises(DataError, match=f"features/index.json: .*{message}.*: it is dam") as caught:
      loaded(cached, tmp_path)
    one_line(caught)


def test_the_code_that_makes_features_is_all_that_it_imports():
  root = pathlib.Path(mellow_jax.__file__).parent
  without = {"data/audio_forms.py", "models/example_rng.py"}  # of samples; of training
  for name in features.CODE:
    for line in (root / name).read_text().splitlines():
      if found := re.match(r"from mellow_jax\.(data|models) import (.*)", line):
        used = {f"{found[1]}/{module.strip()}.py" for module in found[2].split(",")}
      elif found := re.match(r"from mellow_jax\.(data|models)\.(\w+) import", line):
        used = {f"{found[1]}/{found[2]}.py"}
      else:
        continue
      assert used <= {*features.CODE, *without}, name


def test_a_full_disk_is_named_and_no_features_are_left(cfg, tmp_path):
  with files_of_at_most(100), pytest.raises(OSError, match="too large") as caught:
    kept_in(cfg, tmp_path / "features")
  assert caught.value.filename == str(tmp_path / "features")
  assert not list(tmp_path.glob("features*"))


@pytest.mark.parametrize(
  ("change", "message"),
  [({"encoder_train_mode": True}, "encoder_train_mode"), ({"calibrate_batches": 1}, "calibrate")],
)
def test_an_encoder_that_changes_keeps_no_features(cfg, tmp_path, change, message):
  with pytest.raises(ConfigError, match=message):
    kept_in(dataclasses.replace(cfg, **change), tmp_path / "features")
