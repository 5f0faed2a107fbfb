"""What training and saving put before the keys of a model, and beside them, changes nothing."""

import json
import pathlib

import jax
import numpy as np
import pytest
import tiny
from damage import one_line
from safetensors.numpy import load_file

from mellow_jax import checkpoint
from mellow_jax.convert import __main__ as command
from mellow_jax.convert import convert, torch_files
from mellow_jax.errors import CheckpointError
from tests.convert.weight_files import parameters, same, write_safetensors

PARTS = {
  "mellow": ("htsat-nonlinear-smollm2", ""),
  "htsat": ("htsat-nonlinear-smollm2", "encoder/"),
  "cnn14": ("cnn14-nonlinear-smollm2", "encoder/"),
  "smollm2": ("htsat-nonlinear-smollm2", "decoder/"),
  "gpt2": ("cnn14-nonlinear-gpt2", "decoder/"),
}
PREFIXES = ("_orig_mod.", "module.", "model.", "state_dict.", "transformer.", "net._orig_mod.")


def part(kind):
  """(configuration, our parameters, torch's) of a kind of file."""
  cfg, flat = parameters(PARTS[kind][0])
  flat = {name: x for name, x in flat.items() if name.startswith(PARTS[kind][1])}
  return cfg, flat, convert.reverse(flat, cfg)


@pytest.mark.parametrize("prefix", [*PREFIXES, "module.model.", "_orig_mod.module.model."])
@pytest.mark.parametrize("kind", PARTS)
def test_prefixes_of_training_are_taken_off(kind, prefix):
  cfg, flat, held = part(kind)
  found = convert.recognise({prefix + key: x for key, x in held.items()})
  assert found.kind == kind and found.state_dict.keys() == held.keys()
  first = next(iter(held))
  assert found.renamed == (prefix + first, first)
  assert same(convert.convert(found.state_dict, cfg), flat)


def test_wrappers_within_a_model_are_taken_off():
  cfg, flat, held = part("mellow")
  inner = {
    k.replace(".htsat.", ".htsat._orig_mod.").replace(".lm.", ".lm.module."): x
    for k, x in held.items()
  }
  assert same(convert.convert(inner, cfg), flat)


@pytest.mark.parametrize(
  ("kind", "old", "new"),
  [
    ("htsat", "sed_model.", ""),
    ("smollm2", "model.", ""),
    ("gpt2", "", "transformer."),
    ("cnn14", "", "audio_encoder.base.cnn14."),
  ],
)
def test_a_part_is_told_without_or_with_the_name_of_its_class(kind, old, new):
  cfg, flat, held = part(kind)
  renamed = {new + key.removeprefix(old): x for key, x in held.items()}
  assert same(convert.convert(renamed, cfg), flat)


@pytest.mark.parametrize("head", ["lm_head.weight", "model.lm_head.weight"])
def test_the_head_beside_a_decoder_is_checked_and_dropped(head):
  cfg, flat, held = part("gpt2")
  outer = head.removesuffix("lm_head.weight")
  renamed = {f"{outer}transformer.{key}": x for key, x in held.items()}
  assert same(convert.convert(renamed | {head: held["wte.weight"]}, cfg), flat)
  with pytest.raises(CheckpointError, match=r"lm_head\.weight' differs from the embedding"):
    convert.convert(renamed | {head: held["wte.weight"] + 1}, cfg)


def test_buffers_of_other_versions_are_dropped_by_name():
  cfg, flat, held = part("mellow")
  size, lm = cfg.decoder.head_size, "caption_decoder.lm.model."
  inverse = np.float32(cfg.decoder.rope_theta ** -(np.arange(0, size, 2) / size))
  extra = {
    lm + "layers.0.self_attn.rotary_emb.inv_freq": inverse,
    lm + "rotary_emb.inv_freq": inverse.astype(np.float16),
    lm + "embeddings.position_ids": np.arange(9)[None],
    "audio_encoder.base.htsat.extra.num_batches_tracked": np.array(3),
  }
  lines = convert.plan(held | extra, cfg)
  assert {line.key for line in lines if line.path is None} >= set(extra)
  assert same(convert.convert(held | extra, cfg), flat)
  key = lm + "rotary_emb.inv_freq"
  with pytest.raises(CheckpointError, match=r"inv_freq' is not of head size 8 and theta"):
    convert.convert(held | {key: 10_000.0 ** -(np.arange(0, size, 2) / size)}, cfg)


def test_a_missing_key_is_named_as_the_source_calls_it_beside_our_path():
  cfg, _, held = part("mellow")
  for key in ("audio_encoder.base.c2l.weight", "caption_decoder.lm.model.norm.weight"):
    with pytest.raises(CheckpointError) as caught:
      convert.plan({k: x for k, x in held.items() if k != key}, cfg)
    ours = {"c2l": "mapper/c2l/kernel", "norm": "decoder/norm/scale"}[key.split(".")[-2]]
    assert f"missing from the file: '{key}' (here {ours})" in one_line(caught)


def test_two_models_in_a_file_are_named():
  cfg, _, held = part("mellow")
  two = {f"{name}.{key}": x for name in ("model", "ema") for key, x in held.items()}
  with pytest.raises(CheckpointError, match=r"several models.*'ema\.', 'model\.': save"):
    convert.plan(two, cfg)
  with pytest.raises(CheckpointError, match="are both"):
    convert.plan(held | {f"module.{key}": x for key, x in held.items()}, cfg)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_told(value):
  cfg, _, held = part("mellow")
  key = "caption_decoder.lm.model.norm.weight"
  with pytest.raises(CheckpointError) as caught:
    convert.convert(held | {key: np.full_like(held[key], value)}, cfg)
  assert f"key '{key}' holds 32 values that are NaN or infinite" in one_line(caught)


# --- Models of other sizes -----------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_what_reverse_writes_of_a_small_model_comes_back(
  ending, tiny_model_folder, tmp_path, capsys
):
  source, back = tmp_path / f"small{ending}", tmp_path / "back"
  call = command.main
  assert call(["convert", "--reverse", f"--input={tiny_model_folder}", f"--output={source}"]) == 0
  assert f"--like={tiny_model_folder}" in capsys.readouterr().out
  assert call(["convert", f"--input={source}", f"--output={back}"]) == 1
  assert "give --like=FOLDER" in capsys.readouterr().err and not back.exists()
  like = f"--like={tiny_model_folder}"
  assert call(["convert", f"--input={source}", f"--output={back}", like]) == 0
  ours, theirs = checkpoint.load_model(tiny_model_folder), checkpoint.load_model(back)
  assert ours.config == theirs.config and ours.preset == theirs.preset == "training"
  assert ours.tokenizer.to_str() == theirs.tokenizer.to_str()
  jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.fixture
def made(tmp_path, tiny_model_folder, capsys):
  """Calls the command on weights of the small architecture; gives its status and what it said."""
  source = tmp_path / "small.safetensors"
  command.main(["convert", "--reverse", f"--input={tiny_model_folder}", f"--output={source}"])
  capsys.readouterr()

  def call(*arguments):
    status = command.main(["convert", f"--input={source}", *arguments])
    return status, capsys.readouterr()

  return call


def test_a_tokenizer_may_be_a_file(made, tiny_model_folder, tmp_path):
  other = tmp_path / "other.json"
  tiny.tokenizer().save(str(other))
  like, out = f"--like={tiny_model_folder}", tmp_path / "out"
  status, _ = made(like, f"--output={out}", f"--tokenizer={other}", "--preset=clean")
  assert status == 0
  assert json.loads((out / "config.json").read_text())["preset"] == "clean"
  assert (out / "tokenizer.json").is_file()


def test_folder_and_tokenizer_are_checked_before_weights_are_read(made, tmp_path, monkeypatch):
  monkeypatch.setattr(convert, "recognise", lambda state_dict: pytest.fail("weights were read"))
  full = tmp_path / "full"
  full.mkdir()
  (full / "notes.txt").write_text("mine")
  for arguments, message in (
    ([f"--output={full}"], "exists and is not empty"),
    ([f"--output={full}/notes.txt/model"], "notes.txt is not a folder: name another"),
    ([f"--output={tmp_path}/new", f"--tokenizer={full}/notes.txt"], "no readable tokenizer"),
    ([f"--output={tmp_path}/new", "--like=/nowhere"], "there is no such folder"),
    ([f"--output={tmp_path}/new", f"--adapter={tmp_path}/new"], "must be another folder"),
  ):
    status, said = made(*arguments)
    assert status == 1 and message in said.err and said.err.count("\n") == 1
  assert not (tmp_path / "new").exists()


def test_reverse_checks_its_output_before_the_model_is_read(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(checkpoint, "load_params", lambda folder: pytest.fail("weights were read"))
  for output, message in (
    (tmp_path / "x.bin", "must be .pt or .safetensors"),
    (tmp_path / "absent" / "x.pt", "absent is not a folder"),
  ):
    assert command.main(["convert", "--reverse", "--input=a", f"--output={output}"]) == 1
    assert message in capsys.readouterr().err


def test_a_renamed_prefix_is_told(tiny_model_folder, made, tmp_path):
  source = tmp_path / "small.safetensors"
  write_safetensors(source, {f"_orig_mod.{k}": x for k, x in load_file(source).items()})
  status, said = made(f"--like={tiny_model_folder}", "--dry_run")
  assert status == 0 and "prefixes of keys are taken off: _orig_mod.audio_encoder." in said.out


# The kinds that users met, at the size of their first keys: the rest of HTSAT is missing.
@pytest.mark.parametrize(
  "name", ["UPPER.PTH", "compiled.pt", "pytorch_model.bin", "x.safetensors", "y.ckpt"]
)
def test_incomplete_files_are_named_by_their_missing_keys_whatever_their_name(
  name, tmp_path, capsys
):
  prefix = "_orig_mod." if "compiled" in name else ""
  state = {
    f"{prefix}sed_model.patch_embed.proj.weight": np.zeros((96, 1, 4, 4), np.float32),
    f"{prefix}sed_model.bn0.weight": np.zeros(64, np.float32),
  }
  path = tmp_path / name
  write_safetensors(path, state) if "ckpt" in name else torch_files.write(path, state)
  assert command.main(["convert", f"--input={path}", "--dry_run"]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert "missing from the file: 'sed_model.bn0.bias' (here encoder/bn0/bias)" in line
  assert pathlib.Path(path).name in line
