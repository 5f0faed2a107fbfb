"""Low-rank parts: with alpha 0 nothing changes, merged they answer as beside the kernel."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
import tiny
import topology
from flax import nnx

from mellow_jax import checkpoint
from mellow_jax.config import LoRAConfig, OptimConfig
from mellow_jax.errors import CheckpointError, ConfigError
from mellow_jax.models import lora, mellow
from mellow_jax.training import init, optim, step

EVERY = LoRAConfig(kernels=(".*",), rank=3, alpha=6.0)
QV = r"decoder/.*/attn/[qv]/kernel"
KEYS = jax.random.split(jax.random.key(0), 4)


def factors(flat, cfg):
  """Low-rank parts of which neither matrix is 0."""
  found, rng = lora.init(flat, cfg, jax.random.key(0)), np.random.default_rng(0)
  return {k: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32) for k, x in found.items()}


def compiled(model_config, flat, parts, cfg, with_dropout=False):
  """The loss of each token, with the parts beside their kernels, as a program of both."""
  batch = topology.batch(tiny.run(model=model_config, batch_size=2), 0)

  def run(flat, parts, batch):
    model = step.merge(model_config, flat)
    lora.attach(model, parts, KEYS[:2] if with_dropout else None, cfg)
    return step.answer_nll(model, batch)

  program = jax.jit(run)
  return lambda flat, parts: np.asarray(program(flat, parts, batch))


@pytest.fixture(scope="module")
def flat(tiny_config):
  return mellow.flatten(tiny.params(tiny_config))


@pytest.fixture(scope="module")
def plain(tiny_config, flat):
  return compiled(tiny_config, flat, {}, EVERY)


def test_alpha_0_changes_nothing(tiny_config, flat, plain):
  cfg = dataclasses.replace(EVERY, alpha=0.0, dropout=0.5)
  parts = factors(flat, cfg)
  assert len(parts) > 40
  # To the bit: what answers, and what one layer computes.
  merged = lora.merge(flat | parts, lora.scale(cfg))
  assert set(merged) == set(flat)
  assert all(np.array_equal(merged[name], flat[name]) for name in flat)
  linear = nnx.Linear(32, 16, rngs=nnx.Rngs(0))
  a, b = (parts[f"decoder/blocks/0/attn/k/lora_{x}"] for x in "ab")
  x = jax.random.normal(KEYS[0], (4, 9, 32))
  np.testing.assert_array_equal(lora.LoRALinear(linear, a, b, KEYS, cfg)(x), linear(x))
  # To rounding: a whole model is another program, which XLA fuses otherwise.
  beside = compiled(tiny_config, flat, parts, cfg, with_dropout=True)(flat, parts)
  np.testing.assert_allclose(beside, plain(flat, {}), rtol=1e-5)


@pytest.mark.parametrize("kernels", [".*", "decoder/blocks/0/.*"])
def test_merged_equals_beside_the_kernel_and_fresh_parts_change_nothing(
  tiny_config, flat, plain, kernels
):
  # With remat equal layers run in a loop: here those with parts, then those without.
  remat = dataclasses.replace(tiny_config.decoder, remat=True)
  model = dataclasses.replace(tiny_config, decoder=remat)
  cfg = dataclasses.replace(EVERY, kernels=(kernels,))
  parts, fresh = factors(flat, cfg), lora.init(flat, cfg, jax.random.key(0))
  beside, base = compiled(model, flat, parts, cfg), plain(flat, {})
  merged = plain(lora.merge(flat | parts, lora.scale(cfg)), {})
  np.testing.assert_allclose(beside(flat, parts), merged, rtol=1e-5, atol=1e-5)
  assert np.abs(merged - base).max() > 0.1
  np.testing.assert_allclose(beside(flat, fresh), base, rtol=1e-5)
  a = fresh["decoder/blocks/0/attn/q/lora_a"]
  assert np.abs(a).max() <= 32**-0.5 and np.std(a) > 0.5 * 32**-0.5


def test_dropout_is_on_what_enters_the_product_and_keeps_its_mean():
  cfg = LoRAConfig(rank=2, alpha=2.0, dropout=0.25)
  zero = nnx.Linear(2, 2, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
  linear = lora.LoRALinear(zero, jnp.eye(2), jnp.eye(2), KEYS, cfg)
  found = np.asarray(linear(jnp.ones((4 * 500, 5, 2))))
  assert set(np.unique(found)) == {np.float32(0), np.float32(1 / 0.75)}
  assert found.mean() == pytest.approx(1, abs=0.02)
  examples = found.reshape(4, -1)
  assert not np.array_equal(examples[0], examples[1])


@pytest.mark.parametrize(
  ("kernels", "named"),
  [
    (("decoder/.*/attn/x/kernel",), "decoder/.*/attn/x/kernel"),
    ((QV, "encoder/patch_embed/kernel"), "encoder/patch_embed/kernel"),  # a convolution
    (("decoder/embed/embedding",), "decoder/embed/embedding"),
  ],
)
def test_a_regex_of_no_linear_layer_is_refused(kernels, named):
  cfg = tiny.run(optim=OptimConfig(lora=LoRAConfig(kernels=kernels)))
  message = f"config.optim.lora.kernels: '{named}' matches no kernel of a linear layer"
  with pytest.raises(ConfigError, match=re.escape(message)):
    topology.abstract_state(cfg, optim.make(cfg.optim, optim.schedule(cfg.optim, 1, 1)))


def test_the_adapted_kernels_are_held_and_freeze_says_what_else_is():
  def trained(*freeze):
    cfg = tiny.run(optim=OptimConfig(freeze=freeze, lora=LoRAConfig(kernels=(QV,), rank=4)))
    state = topology.abstract_state(cfg, optim.make(cfg.optim, optim.schedule(cfg.optim, 1, 1)))
    assert {x.shape for name, x in state.trainable.items() if name.endswith("lora_a")} == {(32, 4)}
    assert not any("lora" in name for name in state.frozen)
    assert all(name in state.frozen for name in state.frozen if re.fullmatch(QV, name))
    return set(state.trainable)

  products = {f"decoder/blocks/0/attn/{x}/lora_{y}" for x in "qv" for y in "ab"}
  assert trained(".*") == products
  assert trained("encoder/.*", "mapper/.*", "decoder/.*") == products
  with_mapper = trained("encoder/.*", "decoder/.*") - products
  assert with_mapper and all(name.startswith("mapper/") for name in with_mapper)
  everything = trained()
  assert "decoder/blocks/0/attn/k/kernel" in everything and "decoder/embed/embedding" in everything
  assert "decoder/blocks/0/attn/q/kernel" not in everything


# --- Through the training command ----------------------------------------------------------------


@pytest.mark.slow
def test_a_run_saves_its_adapter_and_the_merged_model(run_config, compile_cache, tmp_path):
  cfg = tiny.run()
  base = tiny.params(cfg.model)
  tokenizer, _ = init.tokenizer(cfg, [])
  checkpoint.save_model(tmp_path / "base", base, cfg.model, "clean", tokenizer)
  flags = [f"--config.init_from=('{tmp_path / 'base'}',)", f"--config.optim.lora.kernels=('{QV}',)"]
  flags += ["--config.optim.lora.rank=2", "--config.optim.lora.dropout=0.3"]
  flags += ["--config.sample_answers=0", "--config.accumulate=2"]
  flags += ["--config.optim.freeze=('encoder/.*','decoder/.*')", "--config.optim.ema=0.5"]
  whole = tmp_path / "whole"
  processes.finish(processes.train(whole, run_config, compile_cache, *flags))

  merged, *_ = checkpoint.load_params(whole / "model")
  base = mellow.flatten(base)
  assert {name: x.shape for name, x in merged.items()} == {k: x.shape for k, x in base.items()}
  changed = {name for name in base if not np.array_equal(merged[name], base[name])}
  assert {name for name in changed if not name.startswith("mapper/")} == {
    f"decoder/blocks/0/attn/{x}/kernel" for x in "qv"
  }
  found, *_ = checkpoint.load_params(whole / "adapter")
  assert sum(x.size for x in found.values()) < 0.4 * sum(x.size for x in merged.values())
  folders = (str(tmp_path / "base"), str(whole / "adapter"))
  again = init.parameters(dataclasses.replace(cfg, init_from=folders), tokenizer)
  for name in merged:
    np.testing.assert_allclose(again[name], merged[name], atol=1e-6, err_msg=name)
  with pytest.raises(CheckpointError, match="holds a part of the model"):
    checkpoint.load_model(whole / "adapter")

  resumed = shutil.copytree(whole, tmp_path / "resumed")
  for name in ("checkpoints/4", "model", "adapter"):
    shutil.rmtree(resumed / name)
  (out,) = processes.finish(processes.train(resumed, run_config, compile_cache, *flags))
  assert "resumed from step 2" in out
  assert (resumed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
  for name in ("model", "adapter"):
    digests = [
      json.loads((folder / name / "config.json").read_text())["sha256"]
      for folder in (whole, resumed)
    ]
    assert digests[0] == digests[1]
