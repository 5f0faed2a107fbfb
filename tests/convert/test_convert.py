"""The laws of conversion, at full size and without PyTorch."""

import json
import os
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import recipe
import tokenizers
from safetensors.numpy import load_file, save_file

from mellow_jax import checkpoint
from mellow_jax.config import ModelConfig
from mellow_jax.convert import convert, rules, torch_files
from mellow_jax.errors import CheckpointError
from mellow_jax.models import mel, mellow
from tools.convert_weights import __main__ as command

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CFG = ModelConfig()
TIED = "caption_decoder.lm.model.embed_tokens.weight"
HEAD = "caption_decoder.lm.lm_head.weight"


@pytest.fixture(scope="module")
def manifest():
  return json.loads((GOLDEN / "manifest.json").read_text())


@pytest.fixture(scope="module")
def state_dict(manifest):
  """The learned entries of the recipe; the computed ones are absent."""
  return recipe.state_dict(manifest, 202)


@pytest.fixture(scope="module")
def flat(state_dict):
  return convert.convert(state_dict, CFG)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  model = tokenizers.models.WordLevel({"<|endoftext|>": 0, "!": 17}, unk_token="!")
  tokenizers.Tokenizer(model).save(str(folder / "tokenizer.json"))
  return folder


def same_bits(a, b):
  return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_every_leaf_is_filled_once_with_its_shape(flat):
  abstract = mellow.flatten(mellow.abstract(CFG)[1])
  assert {k: v.shape for k, v in flat.items()} == {k: v.shape for k, v in abstract.items()}
  assert all(v.dtype == np.float32 for v in flat.values())


@pytest.mark.parametrize("kind", rules.MARKERS)
def test_rules_match_one_key_at_most(manifest, kind):
  for key in manifest:
    assert len(rules.match(key, rules.table(kind, CFG))) <= 1


def test_there_and_back_is_bit_identical(state_dict, flat, manifest):
  back = convert.reverse(flat, CFG)
  assert {k: list(v.shape) for k, v in back.items()} == manifest
  for key, array in state_dict.items():
    assert same_bits(back[key], array), key


def test_computed_entries_are_those_of_the_reference(manifest):
  entries = convert.computed(CFG)
  assert set(entries) == {key for key in manifest if recipe.is_constant(key)}
  index = entries["audio_encoder.base.htsat.layers.0.blocks.0.attn.relative_position_index"]
  assert (index[0, 0], index[0, -1], index[-1, 0]) == (112, 0, 224)  # of 15 x 15 offsets
  assert np.unique(entries["audio_encoder.base.htsat.layers.2.blocks.5.attn_mask"]).tolist() == [
    -100.0,
    0.0,
  ]
  stft = "audio_encoder.base.htsat.spectrogram_extractor.stft.conv_"
  frame = recipe.waveform(1)[:1024]
  spectrum = entries[stft + "real.weight"][:, 0] @ frame + 1j * (
    entries[stft + "imag.weight"][:, 0] @ frame
  )
  expected = np.fft.rfft(frame * np.hanning(1025)[:-1])
  np.testing.assert_allclose(spectrum, expected, atol=1e-3)


@pytest.mark.parametrize(
  "form",
  [pytest.param("ckpt with module.", marks=pytest.mark.slow), "safetensors, all entries"],
)
def test_command_converts_and_reverses(
  form, state_dict, flat, manifest, tokenizer_folder, tmp_path, capsys
):
  source = tmp_path / ("v0.safetensors" if "safetensors" in form else "v0.ckpt")
  if form == "ckpt with module.":
    torch_files.write(source, {f"module.{key}": array for key, array in state_dict.items()})
  else:
    save_file({k: np.asarray(v, order="C") for k, v in convert.reverse(flat, CFG).items()}, source)
  output = tmp_path / "folder"
  command.main(
    ["convert", f"--input={source}", f"--output={output}", f"--tokenizer={tokenizer_folder}"]
  )
  loaded, config, preset = checkpoint.load_params(output)
  assert (config, preset) == (CFG, "release")
  assert all(same_bits(np.asarray(loaded[name]), array) for name, array in flat.items())
  if "safetensors" not in form:
    assert "relative_position_index" not in capsys.readouterr().out  # nothing computed was there
    back = tmp_path / "back.safetensors"
    command.main(["convert", "--reverse", f"--input={output}", f"--output={back}"])
    again = load_file(back)
  else:
    assert "relative_position_index" in capsys.readouterr().out  # dropped by name
    back = tmp_path / "back.pt"
    command.main(["convert", "--reverse", f"--input={output}", f"--output={back}"])
    again = torch_files.read(back)
  assert {k: list(v.shape) for k, v in again.items()} == manifest
  assert all(same_bits(again[key], array) for key, array in state_dict.items())


@pytest.mark.torch
def test_torch_loads_the_reversed_file(flat, state_dict, manifest, tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "v0.pt"
  torch_files.write(path, convert.reverse(flat, CFG))
  loaded = torch.load(path, weights_only=True)
  assert {k: list(v.shape) for k, v in loaded.items()} == manifest
  assert all(same_bits(loaded[key].numpy(), array) for key, array in state_dict.items())
  assert loaded[HEAD].data_ptr() == loaded[TIED].data_ptr()


def test_parts_convert_alone(state_dict, flat):
  htsat_prefix, lm_prefix = "audio_encoder.base.htsat.", "caption_decoder.lm."
  htsat = {
    "sed_model." + k.removeprefix(htsat_prefix): v
    for k, v in state_dict.items()
    if k.startswith(htsat_prefix)
  }
  smollm2 = {
    k.removeprefix(lm_prefix): v.astype(ml_dtypes.bfloat16)
    for k, v in state_dict.items()
    if k.startswith(lm_prefix) and k != HEAD
  }
  part = convert.convert(htsat, CFG)
  assert set(part) == {name for name in flat if name.startswith("encoder/")}
  assert all(same_bits(part[name], flat[name]) for name in part)
  part = convert.convert(smollm2, CFG)
  assert set(part) == {name for name in flat if name.startswith("decoder/")}
  name = "decoder/blocks/3/mlp/up/kernel"
  np.testing.assert_array_equal(part[name], flat[name].astype(ml_dtypes.bfloat16))


def refused(state_dict, *words):
  with pytest.raises(CheckpointError) as error:
    convert.convert(state_dict, CFG)
  assert "\n" not in str(error.value)
  for word in words:
    assert word in str(error.value)


KEY = "audio_encoder.base.htsat.layers.2.blocks.4.mlp.fc1.weight"


def test_a_missing_key_is_named(state_dict):
  refused({k: v for k, v in state_dict.items() if k != KEY}, "encoder/stages/2/blocks/4/fc1/kernel")


def test_an_extra_key_is_named(state_dict):
  refused({**state_dict, "audio_encoder.base.extra": np.zeros(3, np.float32)}, "base.extra")
  more = KEY.replace("blocks.4", "blocks.6")
  refused({**state_dict, more: state_dict[KEY]}, more)


def test_a_wrong_shape_is_named(state_dict):
  refused({**state_dict, KEY: state_dict[KEY].T}, KEY, "shape")


def test_an_inexact_type_is_named(state_dict):
  refused({**state_dict, KEY: state_dict[KEY].astype(np.float64)}, KEY, "float64")


def test_an_untied_head_is_named(state_dict):
  refused({**state_dict, HEAD: state_dict[HEAD] + 1}, HEAD)


def test_an_encoder_for_48_khz_is_named(state_dict):
  """As CLAP has it: all shapes are those of the released HTSAT, but it hears other mel bins."""
  entries = convert.computed(CFG)
  convert.plan(state_dict | entries, CFG)
  (key,) = (key for key in entries if key.endswith("melW"))
  other = mel.filter_bank(48_000, 1024, 64, 50.0, 14_000.0).T
  refused(
    {**state_dict, **entries, key: other}, key, "32000 Hz, n_fft 1024 and 64 bins, 50 to 14000"
  )


def test_another_model_is_refused():
  refused({"encoder.weight": np.zeros(3, np.float32)}, "encoder.weight", "Mellow")


def run_refused(capsys, tmp_path, source, *words):
  output = tmp_path / "folder"
  assert command.main(["convert", f"--input={source}", f"--output={output}"]) == 1
  (line,) = capsys.readouterr().err.strip().splitlines()
  for word in words:
    assert word in line
  assert not output.exists()
  assert not list(tmp_path.glob("*.part"))


def test_a_truncated_file_is_named(capsys, tmp_path):
  path = tmp_path / "v0.ckpt"
  torch_files.write(path, {"a": np.arange(10_000, dtype=np.float32)})
  path.write_bytes(path.read_bytes()[:-300])
  run_refused(capsys, tmp_path, path, "v0.ckpt")


def test_a_pickle_that_would_execute_code_is_named(capsys, tmp_path):
  class Attack:
    def __reduce__(self):
      return os.system, (f"touch {tmp_path / 'executed'}",)

  path = tmp_path / "v0.ckpt"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps({"a": Attack()}, protocol=2))
    archive.writestr("archive/version", "3\n")
  run_refused(capsys, tmp_path, path, "v0.ckpt", "system")
  assert not (tmp_path / "executed").exists()


def test_an_absent_file_is_named(capsys, tmp_path):
  run_refused(capsys, tmp_path, tmp_path / "nowhere.ckpt", "nowhere.ckpt")


def test_dry_run_prints_the_table_and_writes_nothing(state_dict, tmp_path, capsys):
  source = tmp_path / "v0.safetensors"
  save_file(state_dict, source)
  command.main(["convert", f"--input={source}", "--dry-run"])
  out = capsys.readouterr().out
  assert f"{KEY}  [1536, 384] float32  ->  encoder/stages/2/blocks/4/fc1/kernel" in out
  assert list(tmp_path.iterdir()) == [source]
