"""What holds for each encoder, mapper and decoder together: sizes, decoding, training, folders."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
import systems
import tiny
import topology
from flax import nnx

from mellow_jax import checkpoint, parallel
from mellow_jax.config import (
  CNN14Config,
  GPT2Config,
  HTSATConfig,
  LinearConfig,
  LoRAConfig,
  ModelConfig,
  NonlinearConfig,
  OptimConfig,
  SmolLM2Config,
  TransformerConfig,
)
from mellow_jax.errors import CheckpointError
from mellow_jax.inference import decode
from mellow_jax.inference.api import Mellow
from mellow_jax.models import mellow
from mellow_jax.training import programs, step

KEY_AND_QUERY = LoRAConfig(kernels=(r"decoder/.*/attn/[qk]/kernel",))

# --- Sizes ---------------------------------------------------------------------------------------

HTSAT, CNN14 = HTSATConfig(), CNN14Config()
LINEAR, NONLINEAR, TRANSFORMER = LinearConfig(), NonlinearConfig(), TransformerConfig()
SMOLLM2, GPT2 = SmolLM2Config(), GPT2Config()
LORA_8, LORA_256 = (
  dataclasses.replace(KEY_AND_QUERY, rank=rank, alpha=2.0 * rank) for rank in (8, 256)
)


@pytest.mark.parametrize(
  ("encoder", "mapper", "decoder", "lora", "total", "millions"),
  [
    (HTSAT, LINEAR, GPT2, None, 156_760_279, 156),
    (HTSAT, LinearConfig(bias=True), GPT2, None, 156_761_047, 156),
    (HTSAT, NONLINEAR, GPT2, None, 157_351_639, 157),
    (HTSAT, TRANSFORMER, GPT2, None, 195_180_247, 195),
    (HTSAT, NONLINEAR, SMOLLM2, None, 167_020_951, 167),
    (HTSAT, NONLINEAR, SMOLLM2, LORA_8, 167_481_751, 167),
    (HTSAT, NONLINEAR, SMOLLM2, LORA_256, 181_766_551, 181),
    (CNN14, NONLINEAR, SMOLLM2, None, 218_945_999, 219),
    (CNN14, NONLINEAR, GPT2, None, 209_522_447, None),
  ],
)
def test_parameters_of_the_papers_systems(encoder, mapper, decoder, lora, total, millions):
  cfg = ModelConfig(encoder=encoder, mapper=mapper, decoder=decoder)
  assert mellow.count_parameters(cfg, lora) == total
  # The paper's column mixes rounding down with rounding.
  assert millions is None or abs(total / 1e6 - millions) < 1


# --- Decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["columns", "rows"])
@pytest.mark.parametrize("name", systems.EVERY)
def test_cached_decoding_gives_the_tokens_of_the_full_forward(name, layout):
  """From the clips on, over 200 tokens, in the fused layout."""
  cfg = systems.config(name, dtype="float32", end_id=63)
  params = tiny.params(cfg)
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: 0 * x if path[-1].key == "bias" else x, params
  )  # GPT-2's would outweigh all else
  embed = params["decoder"]["embed"]
  embed["embedding"] = embed["embedding"].at[63].set(0.0)  # which is never the largest of many
  graphdef, fused = mellow.fuse(cfg, params, layout)
  wav = 0.3 * jax.random.normal(jax.random.key(1), (4, cfg.audio.clip_samples))
  ids = jax.random.randint(jax.random.key(2), (2, cfg.text_tokens), 2, 60)
  lengths, keys = jnp.asarray([3, 8]), jax.random.split(jax.random.key(0), 2)

  @jax.jit
  def answer(fused):
    model = nnx.merge(graphdef, fused)
    audio = model.encode(wav)
    prefix = model.prefix(audio[:2], audio[2:], ids)
    sampling = decode.Sampling(max_new_tokens=200)
    return prefix, decode.generate(model, prefix, lengths, keys, sampling)

  @jax.jit
  def logits(params, prefix, tokens):
    model = step.merge(cfg, mellow.flatten(params))
    return model.decoder.logits(model.hidden(prefix, lengths, tokens))

  prefix, found = answer(fused)
  assert prefix.shape == (2, cfg.prefix_tokens, 32) and (found.lengths == 200).all()
  tokens = found.tokens[:, 0]
  np.testing.assert_array_equal(tokens, logits(params, prefix, tokens).argmax(axis=-1))
  assert len(np.unique(tokens)) > 8  # no trivial answers


# --- Training ------------------------------------------------------------------------------------


def trained(name, **optim):
  """(parameters by path before, after two steps) of a run with everything random."""
  model = systems.config(name)
  model.encoder = dataclasses.replace(model.encoder, batch_statistics=True)
  if name.startswith("cnn14"):
    model.encoder.dropout, model.encoder.clip_dropout = 0.2, 0.5
  cfg = tiny.run(
    model=model,
    batch_size=4,
    encoder_train_mode=True,
    optim=OptimConfig(schedule="constant", **optim),
  )
  before = mellow.flatten(tiny.params(model))
  made = programs.make(cfg, parallel.make_mesh((1, 1)))
  state = made.init_state(before)
  before = {n: np.array(x) for n, x in {**state.trainable, **state.frozen}.items()}
  for number in range(2):
    state, metrics = made.train_step(state, topology.batch(cfg, number))
  assert np.isfinite(metrics.loss) and not metrics.skipped
  after = {n: np.asarray(x) for n, x in {**state.trainable, **state.frozen}.items()}
  return before, after


def changed(before, after):
  return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("name", ["cnn14-nonlinear-smollm2", "cnn14-transformer-gpt2"])
def test_a_frozen_decoder_is_the_same_to_the_bit_after_training(name):
  before, after = trained(name, freeze=("encoder/.*", "decoder/.*"))
  found = changed(before, after)
  assert {n.split("/")[0] for n in found} == {"encoder", "mapper"}
  assert {n for n in found if n.startswith("encoder/")} == {
    n for n in before if mellow.is_statistic(n)
  }
  assert {n for n in before if n.startswith("mapper/")} <= found


@pytest.mark.parametrize(
  ("name", "kernels"),
  [
    ("htsat-linear-smollm2", r"decoder/.*/attn/[qk]/kernel"),
    ("htsat-linear-gpt2", r"decoder/.*/attn/qkv/kernel"),
  ],
)
def test_lora_changes_its_factors_alone(name, kernels):
  lora = LoRAConfig(kernels=(kernels,), rank=2, dropout=0.1)
  before, after = trained(name, freeze=("encoder/.*", "mapper/.*", "decoder/.*"), lora=lora)
  found = {n for n in changed(before, after) if not mellow.is_statistic(n)}
  assert found == {n for n in before if n.endswith(("lora_a", "lora_b"))}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["htsat-transformer-gpt2", "cnn14-linear-smollm2"])
def test_everything_learns_that_is_not_frozen(name):
  before, after = trained(name, freeze=())
  unused = {n for n in before if n.startswith("encoder/head/")}
  if name.startswith("cnn14"):
    assert not unused
  assert changed(before, after) >= set(before) - unused - {"decoder/position/embedding"}


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if name in systems.PAIRS else pytest.mark.hour)
    for name in systems.NAMES
  ],
)
def test_a_run_trains_saves_resumes_and_answers(name, tmp_path, compile_cache):
  config = tmp_path / "system.py"
  config.write_text("import systems\nget_config = systems.get_config\n")
  whole, resumed = tmp_path / "whole", tmp_path / "resumed"
  processes.finish(processes.train(whole, f"{config}:{name}", compile_cache))
  shutil.copytree(whole, resumed)
  for part in ("checkpoints/4", "model"):
    shutil.rmtree(resumed / part)
  (out,) = processes.finish(processes.train(resumed, f"{config}:{name}", compile_cache))
  assert "resumed from step 2" in out
  found = [checkpoint.load_params(folder / "model")[0] for folder in (whole, resumed)]
  assert checkpoint.digest(found[0]) == checkpoint.digest(found[1])
  model = Mellow.load(whole / "model")
  clip = 0.3 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
  sampling = decode.Sampling(max_new_tokens=9)
  assert model.answer((clip, 16_000), "what is heard ?", sampling=sampling).tokens[0] <= 9


# --- Folders -------------------------------------------------------------------------------------


def test_a_folder_names_the_kind_of_each_part(tmp_path):
  cfg = systems.config("cnn14-transformer-gpt2")
  checkpoint.save_model(tmp_path / "model", tiny.params(cfg), cfg, "training", tiny.tokenizer())
  content = json.loads((tmp_path / "model/config.json").read_text())
  parts = ("encoder", "mapper", "decoder")
  assert [content["model"][part]["kind"] for part in parts] == ["cnn14", "transformer", "gpt2"]
  assert checkpoint.load_model(tmp_path / "model").config == cfg


def test_a_folder_without_kinds_is_mellow(tmp_path, tiny_config, tiny_model_folder):
  content = json.loads((tiny_model_folder / "config.json").read_text())
  folder = tmp_path / "model"
  folder.mkdir()
  for path in tiny_model_folder.iterdir():
    (folder / path.name).symlink_to(path) if path.name != "config.json" else None
  for part in ("encoder", "mapper", "decoder"):
    del content["model"][part]["kind"]
  (folder / "config.json").write_text(json.dumps(content))
  assert checkpoint.load_model(folder).config == tiny_config
  content["model"]["encoder"]["kind"] = "ast"
  (folder / "config.json").write_text(json.dumps(content))
  with pytest.raises(CheckpointError, match="ast"):
    checkpoint.load_model(folder)
