"""Every system of the paper's ablations, its parts, and LoRA: names, and there and back."""

import dataclasses
import json
import pathlib

import jax
import librosa
import ml_dtypes
import numpy as np
import pytest
import systems
import tiny
from damage import one_line
from safetensors.numpy import load_file

from mellow_jax import checkpoint
from mellow_jax.config import (
  CNN14Config,
  GPT2Config,
  LinearConfig,
  LoRAConfig,
  ModelConfig,
  SmolLM2Config,
  TransformerConfig,
)
from mellow_jax.convert import __main__ as command
from mellow_jax.convert import convert, rules, sources, torch_files
from mellow_jax.errors import CheckpointError
from mellow_jax.models import lora, mel, mellow
from tests.convert.weight_files import (
  KEY_QUERY,
  QUERY_VALUE,
  factors,
  parameters,
  same,
  write_legacy,
  write_safetensors,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CNN14_PREFIX, GPT2_PREFIX = "audio_encoder.base.cnn14.", "caption_decoder.lm.transformer."
PEFT = "caption_decoder.lm.base_model.model."


def kinds(cfg: ModelConfig) -> str:
  return f"{cfg.encoder.kind}-{cfg.mapper.kind}-{cfg.decoder.kind}"


def part(flat, name: str):
  return {path: x for path, x in flat.items() if path.startswith(f"{name}/")}


# --- Full size -----------------------------------------------------------------------------------


def without_memory(shapes):
  """Arrays of these shapes that take no memory."""
  dtypes = {key: np.int64 if "num_batches" in key else np.float32 for key in shapes}
  return {k: np.broadcast_to(np.zeros((), dtypes[k]), shape) for k, shape in shapes.items()}


@pytest.fixture(scope="module")
def manifest():
  """Names and shapes of the reference with CNN14 and GPT-2."""
  return json.loads((GOLDEN / "manifest_cnn14_gpt2.json").read_text())


@pytest.fixture(scope="module")
def abstract():
  """Parameters of that system under nnx.eval_shape."""
  cfg = ModelConfig(encoder=CNN14Config(), decoder=GPT2Config())
  return mellow.flatten(mellow.abstract(cfg)[1])


def shapes_of(arrays):
  return {key: list(x.shape) for key, x in arrays.items()}


def test_a_full_checkpoint_with_cnn14_and_gpt2_has_every_name_and_shape(manifest, abstract):
  held = without_memory(manifest)
  cfg = convert.config_of(held)
  assert kinds(cfg) == "cnn14-nonlinear-gpt2"
  assert (cfg.sep_id, cfg.end_id, cfg.pad_id) == (50_256, 50_256, 0)
  filled = [line.path for line in convert.plan(held, cfg) if line.path]
  assert sorted(filled) == sorted(abstract)
  flat = without_memory({name: x.shape for name, x in abstract.items()})
  assert shapes_of(convert.reverse(flat, cfg)) == manifest


def test_full_cnn14_alone_has_its_84_entries(manifest, abstract):
  shapes = {
    k.removeprefix(CNN14_PREFIX): v for k, v in manifest.items() if k.startswith(CNN14_PREFIX)
  }
  held = without_memory(shapes)
  assert len(held) == 84
  cfg = convert.config_of(held)
  assert kinds(cfg) == "cnn14-nonlinear-smollm2"
  lines = convert.plan(held, cfg)
  assert {line.path for line in lines if line.path} == set(part(abstract, "encoder"))
  flat = {name: x.shape for name, x in part(abstract, "encoder").items()}
  assert shapes_of(convert.reverse(without_memory(flat), cfg)) == shapes


def test_full_cnn14_of_panns_for_16_khz_is_told_by_its_log_mel(manifest):
  held = {k.removeprefix(CNN14_PREFIX): v for k, v in manifest.items() if "cnn14." in k}
  # Its other 81 entries have the shapes of the one for 32 kHz. Source: Cnn14_16k of PANNs.
  held |= {f"spectrogram_extractor.stft.conv_{x}.weight": [257, 1, 512] for x in ("real", "imag")}
  held |= {"logmel_extractor.melW": [257, 64]}
  held = without_memory(held)
  with pytest.raises(CheckpointError) as error:
    convert.plan(held, convert.config_of(held))
  assert one_line(error).startswith("key 'spectrogram_extractor.stft.conv_")
  for words in ("(257, 1, 512) instead of (513, 1, 1024)", "than of 32000 Hz", "--like=FOLDER"):
    assert words in str(error.value)


def test_full_gpt2_of_the_hub_drops_masks_and_keeps_biases(manifest, abstract):
  shapes = {
    k.removeprefix(GPT2_PREFIX): v for k, v in manifest.items() if k.startswith(GPT2_PREFIX)
  }
  assert len(shapes) == 148
  masks = {f"h.{layer}.attn.bias": [1, 1, 1024, 1024] for layer in range(12)}
  held = without_memory(shapes | masks)
  cfg = convert.config_of(held)
  assert kinds(cfg) == "htsat-nonlinear-gpt2"
  lines = convert.plan(held, cfg)
  assert {line.key for line in lines if line.path is None} == set(masks)
  assert "h.0.attn.c_attn.bias" in {line.key for line in lines if line.path}
  flat = {name: x.shape for name, x in part(abstract, "decoder").items()}
  back = convert.reverse(without_memory(flat), cfg)
  assert shapes_of(back) == shapes | masks
  mask = back["h.3.attn.bias"][0, 0]
  assert mask[5, 5] == 1 and mask[5, 6] == 0 and mask[1023, 0] == 1


def test_full_checkpoints_of_peft_have_the_codes_names_and_size():
  cfg = ModelConfig()
  flat = mellow.flatten(mellow.abstract(cfg)[1])
  code = LoRAConfig(kernels=(r"decoder/.*/attn/[qv]/kernel",), rank=256)
  low = jax.eval_shape(lambda: lora.init(flat, code, jax.random.key(0)))
  held = convert.reverse(without_memory({k: x.shape for k, x in (flat | low).items()}), cfg)
  assert sum(x.size for key, x in held.items() if ".lora_" in key) == 14_745_600
  layer = PEFT + "model.layers.29.self_attn."
  assert held[layer + "v_proj.lora_A.default.weight"].shape == (256, 576)
  assert held[layer + "v_proj.lora_B.default.weight"].shape == (192, 256)
  assert kinds(convert.config_of(held)) == "htsat-nonlinear-smollm2"
  filled = {line.path for line in convert.plan(held, cfg) if line.path}
  assert filled == set(flat | low)


# --- There and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", systems.NAMES)
def test_each_system_comes_back_bit_for_bit(name):
  cfg, flat = parameters(name)
  held = convert.reverse(flat, cfg)
  table = rules.table("mellow", cfg)
  assert all(len(rules.match(key, table)) == 1 for key in held)
  assert kinds(convert.config_of(held)) == name
  there = convert.convert(held, cfg)
  assert same(there, flat)
  assert same(convert.reverse(there, cfg), held)


def test_the_bias_of_a_linear_projection_is_told_by_its_key():
  cfg = systems.config("htsat-linear-gpt2")
  cfg.mapper = LinearConfig(downsample=4, bias=True)
  flat = mellow.flatten(tiny.params(cfg))
  held = convert.reverse(flat, cfg)
  assert "audio_encoder.projection.linear.bias" in held
  assert convert.config_of(held).mapper == LinearConfig(bias=True)
  assert same(convert.convert(held, cfg), {k: np.asarray(x) for k, x in flat.items()})


def test_the_names_of_the_transformer_projection():
  cfg, flat = parameters("cnn14-transformer-gpt2")
  held = convert.reverse(flat, cfg)
  layer = "audio_encoder.mapper.transformer.layers.1."
  for key, shape in {
    "audio_encoder.mapper.prefix_const": (5, 32),
    layer + "attn.to_keys_values.weight": (64, 32),
    layer + "attn.project.bias": (32,),
    layer + "mlp.fc1.weight": (64, 32),
  }.items():
    assert held[key].shape == shape
  assert convert.config_of(held).mapper == TransformerConfig()


# --- The command ---------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
  """The command on files of a small configuration; gives what it printed."""

  def call(cfg: ModelConfig, *arguments: str, status: int = 0) -> str:
    monkeypatch.setattr(convert, "config_of", lambda state_dict: cfg)
    tiny.tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert command.main(["convert", *arguments]) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out

  return call


def test_cnn14_of_panns_comes_back_from_its_legacy_file(run, tmp_path):
  cfg, flat = parameters("cnn14-nonlinear-smollm2")
  held = convert.reverse(part(flat, "encoder"), cfg)
  source, folder, back = tmp_path / "Cnn14.pth", tmp_path / "cnn14", tmp_path / "back.pt"
  write_legacy(source, held)
  out = run(cfg, f"--input={source}", f"--output={folder}")
  assert "(cnn14)" in out and "conv_block2.bn1.num_batches_tracked" in out
  loaded, config, _ = checkpoint.load_params(folder)
  assert (
    config == cfg
    and json.loads((folder / "config.json").read_text())["model"]["encoder"]["kind"] == "cnn14"
  )
  assert same({k: np.asarray(x) for k, x in loaded.items()}, part(flat, "encoder"))
  run(cfg, "--reverse", f"--input={folder}", f"--output={back}")
  assert same(torch_files.read(back), held)


def test_gpt2_of_the_hub_comes_back_with_its_masks(run, tmp_path):
  cfg, flat = parameters("cnn14-nonlinear-gpt2")
  held = convert.reverse(part(flat, "decoder"), cfg)
  assert {"wte.weight", "h.1.attn.bias", "h.1.attn.c_attn.bias"} <= set(held)
  source, folder, back = (tmp_path / name for name in ("a.safetensors", "gpt2", "b.safetensors"))
  write_safetensors(source, held)
  out = run(cfg, f"--input={source}", f"--output={folder}")
  assert "h.0.attn.bias" in out and "c_attn" not in out
  run(cfg, "--reverse", f"--input={folder}", f"--output={back}")
  assert same(load_file(back), held)


# --- LoRA ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("layers", "alpha", "flag"), [(QUERY_VALUE, 16.0, "--lora_alpha=16"), (KEY_QUERY, 8.0, "")]
)
def test_a_checkpoint_of_peft_becomes_weights_and_an_adapter_and_comes_back(
  layers, alpha, flag, run, tmp_path
):
  cfg, flat = parameters("htsat-nonlinear-smollm2")
  low = factors(flat, layers)
  held = convert.reverse(flat | low, cfg)
  name = PEFT + f"model.layers.1.self_attn.{layers[1]}_proj."
  assert held[name + "base_layer.weight"].shape == (16 if layers == QUERY_VALUE else 32, 32)
  assert held[name + "lora_A.default.weight"].shape == (4, 32)
  assert name + "lora_B.default.weight" in held and name + "weight" not in held
  assert {PEFT + "lm_head.weight", PEFT + "model.layers.0.self_attn.o_proj.weight"} <= set(held)
  source, back = tmp_path / "lora.ckpt", tmp_path / "back.pt"
  torch_files.write(source, held)
  base, adapter, merged = (tmp_path / n for n in ("base", "adapter", "merged"))
  flags = [flag] if flag else []
  out = run(cfg, f"--input={source}", f"--output={base}", f"--adapter={adapter}", *flags)
  assert f"LoRA of rank 4, alpha {alpha:g}" in out and ("--lora_alpha sets another" in out) != bool(
    flags
  )
  assert same({k: np.asarray(x) for k, x in checkpoint.load_params(base)[0].items()}, flat)
  found = {k: np.asarray(x) for k, x in checkpoint.load_params(adapter)[0].items()}
  assert same(found, lora.scaled(low, alpha / 4))
  run(cfg, "--reverse", f"--input={base}", f"--adapter={adapter}", f"--output={back}", *flags)
  assert same(torch_files.read(back), held)
  run(cfg, f"--input={source}", f"--output={merged}", *flags)
  found = {k: np.asarray(x) for k, x in checkpoint.load_params(merged)[0].items()}
  assert same(found, lora.merge(flat | low, alpha / 4))


def test_an_adapter_folder_of_training_holds_a_mapper_that_is_taken(run, tmp_path):
  cfg, flat = parameters("htsat-nonlinear-smollm2")
  trained = factors(flat, KEY_QUERY) | {k: x + 1 for k, x in part(flat, "mapper").items()}
  base, adapter, back = tmp_path / "base", tmp_path / "adapter", tmp_path / "back.pt"
  checkpoint.save_model(base, flat, cfg, "clean", None)
  checkpoint.save_model(adapter, lora.scaled(trained, 2.0), cfg, "clean", None)
  run(cfg, "--reverse", f"--input={base}", f"--adapter={adapter}", f"--output={back}")
  assert same(torch_files.read(back), convert.reverse(flat | trained, cfg))


def test_peft_on_gpt2_wraps_biases_as_well():
  cfg, flat = parameters("cnn14-linear-gpt2")
  low = factors(flat, QUERY_VALUE)
  held = convert.reverse(flat | low, cfg)
  layer = PEFT + "transformer.h.0.attn.c_attn."
  assert {layer + "base_layer.bias", layer + "base_layer.weight"} <= set(held)
  assert layer + "bias" not in held and held[layer + "lora_B.default.weight"].shape == (96, 4)
  assert kinds(convert.config_of(held)) == "cnn14-linear-gpt2"
  assert same(convert.convert(held, cfg), flat | low)


@pytest.mark.parametrize("name", ["htsat-nonlinear-smollm2", "cnn14-linear-gpt2"])
def test_an_adapter_alone_comes_back_with_its_configuration(name, run, tmp_path):
  cfg, flat = parameters(name)
  low = factors(flat, KEY_QUERY)
  held = convert.reverse(low, cfg)
  gpt2 = cfg.decoder.kind == "gpt2"
  layer = "transformer.h.0.attn.c_attn" if gpt2 else "model.layers.0.self_attn.q_proj"
  assert held[f"base_model.model.{layer}.lora_A.weight"].shape == (4, 32)
  assert convert.config_of(held).decoder.kind == cfg.decoder.kind
  source, folder, written = (tmp_path / n for n in ("peft", "adapter", "written"))
  source.mkdir()
  written.mkdir()
  settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 32, "bias": "none", "use_dora": False}
  (source / "adapter_config.json").write_text(json.dumps(settings))
  write_safetensors(source / "adapter_model.safetensors", held)
  tokenizer = f"--tokenizer={tmp_path}"
  out = run(cfg, f"--input={source}", f"--output={folder}", tokenizer)
  assert "alpha 32 (of adapter_config.json)" in out
  found = {k: np.asarray(x) for k, x in checkpoint.load_params(folder)[0].items()}
  assert same(found, lora.scaled(low, 8.0))
  back = written / "adapter_model.safetensors"
  run(cfg, "--reverse", f"--input={folder}", f"--output={back}", "--lora_alpha=32")
  assert same(load_file(back), held)
  settings = json.loads((written / "adapter_config.json").read_text())
  assert (settings["r"], settings["lora_alpha"]) == (4, 32) and layer in settings["target_modules"]
  assert settings["fan_in_fan_out"] == gpt2
  other_base = ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights = pissa_niter_16")
  for change, word in (
    ({"use_dora": True}, "use_dora"),
    ({"r": 8}, "rank 4"),
    ({}, "LoRA"),
    other_base,
  ):
    wrong = settings | change if change else {"peft_type": "IA3"}
    (source / "adapter_config.json").write_text(json.dumps(wrong))
    arguments = (f"--input={source}", f"--output={tmp_path / 'other'}", tokenizer)
    assert word in run(cfg, *arguments, status=1)
  assert not (tmp_path / "other").exists()


def test_alpha_is_the_codes_where_queries_and_values_have_its_rank(run, tmp_path):
  cfg, flat = parameters("htsat-nonlinear-smollm2")
  for layers, alpha in ((QUERY_VALUE, "256"), (KEY_QUERY, "512")):
    source, folder = tmp_path / f"{layers}.safetensors", tmp_path / layers
    write_safetensors(source, convert.reverse(factors(flat, layers, rank=256), cfg))
    assert f"LoRA of rank 256, alpha {alpha}" in run(cfg, f"--input={source}", f"--output={folder}")


# --- What does not fit ---------------------------------------------------------------------------


def refused(state_dict, cfg, *words):
  with pytest.raises(CheckpointError) as error:
    convert.convert(state_dict, cfg)
  assert "\n" not in str(error.value)
  assert all(word in str(error.value) for word in words), str(error.value)


def test_factors_that_do_not_fit_are_named():
  cfg, flat = parameters("htsat-nonlinear-smollm2")
  held = convert.reverse(flat | factors(flat, QUERY_VALUE), cfg)
  layer = PEFT + "model.layers.0.self_attn.q_proj."
  b = layer + "lora_B.default.weight"
  refused({k: x for k, x in held.items() if k != b}, cfg, "decoder/blocks/0/attn/q/lora_b")
  refused(held | {b: held[b][:, :2]}, cfg, b, "shape")
  plain = layer + "weight"
  refused(held | {plain: held[layer + "base_layer.weight"]}, cfg, "twice", "attn/q/kernel")
  other = b.replace("default", "second")
  refused(held | {other: held[b]}, cfg, other)
  wrapped_norm = PEFT + "model.norm.lora_A.default.weight"
  refused(held | {wrapped_norm: held[b]}, cfg, wrapped_norm)


FRONT_END = "spectrogram_extractor.stft.conv_real.weight", "logmel_extractor.melW"


def as_torchlibrosa(cfg, held):
  """The entries with its front end: in float64 by powers of a root of one, then in float32."""
  n, audio = cfg.audio.n_fft, cfg.audio
  rows = np.arange(n)[:, None] * np.arange(n // 2 + 1)
  waves = np.power(np.exp(-2j * np.pi / n), rows) * librosa.filters.get_window("hann", n)[:, None]
  limits = {"fmin": audio.f_min, "fmax": audio.f_max}
  mels = librosa.filters.mel(sr=audio.sample_rate, n_fft=n, n_mels=audio.mel_bins, **limits)
  theirs = {"conv_real.weight": waves.real.T[:, None], "conv_imag.weight": waves.imag.T[:, None]}
  theirs["melW"] = mels.T
  return {
    key: next((np.float32(y) for name, y in theirs.items() if key.endswith(name)), x)
    for key, x in held.items()
  }


@pytest.mark.parametrize("name", ["htsat-nonlinear-smollm2", "cnn14-nonlinear-gpt2"])
def test_computed_entries_may_be_rounded_in_other_ways(name):
  cfg, flat = parameters(name)
  held = convert.reverse(part(flat, "encoder"), cfg)
  theirs = as_torchlibrosa(cfg, held)
  assert any(not np.array_equal(held[key], x) for key, x in theirs.items())
  made = convert.computed(cfg, cfg.encoder.kind)
  coarse = {k: x.astype(ml_dtypes.bfloat16) if k in made else x for k, x in held.items()}
  for state_dict in (theirs, coarse):
    assert same(convert.convert(state_dict, cfg), part(flat, "encoder"))


@pytest.mark.parametrize("name", ["htsat-nonlinear-smollm2", "cnn14-nonlinear-gpt2"])
def test_computed_entries_of_another_model_are_named(name):
  cfg, flat = parameters(name)
  held, audio = convert.reverse(flat, cfg), cfg.audio
  keys = [next(key for key in held if key.endswith(name)) for name in FRONT_END]
  for key in keys:
    refused(held | {key: held[key][1:]}, cfg, key, "shape", "another log-mel", "16000 Hz")
    refused(held | {key: held[key][::-1]}, cfg, key, "values", "another log-mel", "16000 Hz")
  bank = mel.filter_bank(22_050, audio.n_fft, audio.mel_bins, audio.f_min, audio.f_max)
  refused(held | {keys[1]: bank.T}, cfg, keys[1], "values", f"{audio.mel_bins} bins, 50 to 8000 Hz")
  for key in (key for key in held if key.endswith(("attn_mask", "relative_position_index"))):
    refused(held | {key: held[key] + 1}, cfg, key, "values", "another architecture")
    refused(held | {key: held[key][1:]}, cfg, key, "shape", "another architecture")


def test_a_part_that_is_missing_or_of_another_kind_is_named():
  cfg, flat = parameters("cnn14-nonlinear-gpt2")
  held = convert.reverse(flat, cfg)
  refused({k: x for k, x in held.items() if "caption_decoder" not in k}, cfg, "decoder/")
  refused(held | {"audio_encoder.base.htsat.bn0.weight": np.ones(64, np.float32)}, cfg, "htsat")
  other = dataclasses.replace(cfg, decoder=SmolLM2Config())
  refused(held, other, "caption_decoder.lm.transformer")
  conv = CNN14_PREFIX + "conv_block1.conv1.weight"
  refused(held | {conv: held[conv][0]}, cfg, conv, "shape")
  head = "caption_decoder.lm.lm_head.weight"
  refused(held | {head: held[head] + 1}, cfg, head)


@pytest.mark.parametrize(
  ("flags", "word"),
  [
    (["--lora_alpha=4"], "no LoRA"),
    (["--adapter=x"], "no whole model with LoRA"),
  ],
)
def test_flags_of_lora_without_lora_are_refused(flags, word, run, tmp_path):
  cfg, flat = parameters("cnn14-nonlinear-gpt2")
  source = tmp_path / "x.safetensors"
  write_safetensors(source, convert.reverse(part(flat, "decoder"), cfg))
  arguments = (f"--input={source}", f"--output={tmp_path / 'folder'}", *flags)
  assert word in run(cfg, *arguments, status=1)
  assert not (tmp_path / "folder").exists()


def test_parts_that_have_no_file_of_their_own_are_not_reversed():
  cfg, flat = parameters("cnn14-nonlinear-gpt2")
  for held in (part(flat, "mapper"), part(flat, "encoder") | part(flat, "decoder")):
    with pytest.raises(CheckpointError, match="not a whole model"):
      convert.reverse(held, cfg)
  low = factors(flat, QUERY_VALUE)
  with pytest.raises(CheckpointError, match="not a whole model"):
    convert.reverse(part(flat, "decoder") | low, cfg)
  elsewhere = {"mapper/c2l/lora_a": np.ones((16, 4)), "mapper/c2l/lora_b": np.ones((4, 10))}
  with pytest.raises(CheckpointError, match="mapper/c2l/lora_a has no name"):
    convert.reverse(flat | elsewhere, cfg)


# --- Files written by PyTorch --------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
  ("name", "kept"),
  [
    ("cnn14-nonlinear-gpt2", "encoder/"),
    ("cnn14-nonlinear-gpt2", "decoder/"),
    ("cnn14-linear-gpt2", ""),
    ("cnn14-nonlinear-smollm2", ""),
    ("htsat-transformer-gpt2", ""),
    ("htsat-nonlinear-smollm2", "LoRA"),
  ],
)
def test_files_written_by_pytorch_come_back(name, kept, is_zip, tmp_path):
  torch = pytest.importorskip("torch")
  cfg, flat = parameters(name)
  if kept == "LoRA":
    flat |= factors(flat, QUERY_VALUE)
  else:
    flat = {path: x for path, x in flat.items() if path.startswith(kept)}
  held = convert.reverse(flat, cfg)
  sampler = {"indexes": np.arange(9), "random_state": np.random.RandomState(1)}
  tensors = {k: torch.from_numpy(np.array(x)) for k, x in held.items()}
  content = {"iteration": 600_000, "model": tensors, "sampler": sampler}
  source, back = tmp_path / "x.pth", tmp_path / "back.pt"
  torch.save(content, source, _use_new_zipfile_serialization=is_zip)
  there = convert.convert(sources.load_state_dict(str(source))[0], cfg)
  assert same(there, flat)
  torch_files.write(back, convert.reverse(there, cfg))
  again = torch.load(back, weights_only=True)
  assert same({k: x.numpy() for k, x in again.items()}, held)


@pytest.mark.torch
def test_the_names_are_those_of_the_pytorch_classes():
  """Of transformers' decoders, and of what peft makes of a linear layer."""
  torch = pytest.importorskip("torch")
  import transformers

  cfg, flat = parameters("htsat-nonlinear-smollm2")
  sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
  llama = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      **sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True
    )
  )
  low = factors(flat, QUERY_VALUE)
  for layer in llama.model.layers:
    for name in ("q_proj", "v_proj"):
      adapted = torch.nn.Module()
      adapted.base_layer = getattr(layer.self_attn, name)
      wide, high = adapted.base_layer.weight.shape[::-1]
      for factor, size in (("lora_A", (wide, 4)), ("lora_B", (4, high))):
        linear = torch.nn.Linear(*size, bias=False)
        setattr(adapted, factor, torch.nn.ModuleDict({"default": linear}))
      setattr(layer.self_attn, name, adapted)
  ours = {k.removeprefix(PEFT): x for k, x in convert.reverse(flat | low, cfg).items()}
  theirs = {key: tuple(x.shape) for key, x in llama.state_dict().items()}
  assert {k: ours[k].shape for k in ours if "audio_encoder" not in k} == theirs

  cfg, flat = parameters("htsat-linear-gpt2")
  gpt2 = transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      vocab_size=64, n_positions=256, n_embd=32, n_layer=2, n_head=4, n_inner=48
    )
  )
  held = convert.reverse(flat, cfg)
  lm = "caption_decoder.lm."
  ours = {k.removeprefix(lm): x.shape for k, x in held.items() if k.startswith(lm)}
  assert ours == {key: tuple(x.shape) for key, x in gpt2.state_dict().items()}
