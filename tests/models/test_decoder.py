"""What decoders share: ways of attention, a last layer that computes no more than is asked for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
import tiny

from mellow_jax.config import LoRAConfig
from mellow_jax.models import attention, lora, mellow
from mellow_jax.models import decoder as decoder_lib
from mellow_jax.training import step

LENGTH, FIRST = 20, 13


def decoder(name, remat, keys=None, rate=0.0):
  """A decoder with low-rank updates of its value or joint products."""
  cfg = systems.config(f"htsat-linear-{name}")
  cfg.decoder = dataclasses.replace(cfg.decoder, remat=remat)
  flat = mellow.flatten(tiny.params(cfg))
  of = LoRAConfig(kernels=(r"decoder/.*/attn/(q|qkv)/kernel",), rank=2, dropout=rate)
  factors = lora.init(flat, of, jax.random.key(0))
  factors = {path: x + 0.1 for path, x in factors.items()}
  model = step.merge(cfg, flat)
  lora.attach(model, factors, keys, of)
  return model.decoder


def found(name, first, remat=False, keys=None, rate=0.0):
  """Hidden states from FIRST on, and the gradient of a weighted sum of them by the input."""
  weights = jax.random.normal(jax.random.key(3), (2, LENGTH - FIRST, 32))

  def run(x):
    mask = jnp.ones((2, LENGTH), bool)
    of = decoder(name, remat, keys, rate)
    states = of.states(x, mellow.positions(mask), mellow.causal(mask), keys, first)
    states = states[:, FIRST - first :]
    return (states * weights).sum(), states

  x = jax.random.normal(jax.random.key(1), (2, LENGTH, 32))
  (_, states), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(x)
  return states, gradient


@pytest.mark.parametrize("name", ["smollm2", "gpt2"])
@pytest.mark.parametrize("remat", [False, True])
def test_the_last_layer_at_the_asked_positions_is_that_at_all(name, remat):
  for asked, whole in zip(found(name, FIRST, remat), found(name, 0), strict=True):
    np.testing.assert_allclose(asked, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["smollm2", "gpt2"])
def test_one_position_of_each_row_is_that_among_all(name):
  model, x = decoder(name, False), jax.random.normal(jax.random.key(1), (2, LENGTH, 32))
  mask, only = jnp.ones((2, LENGTH), bool), jnp.asarray([LENGTH - 1, 3])
  inputs = (x, mellow.positions(mask), mellow.causal(mask))
  whole, cache = model(*inputs)
  one, same_cache = model(*inputs, only=only)
  np.testing.assert_allclose(one, whole[jnp.arange(2), only][:, None], rtol=1e-5, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, cache, same_cache)


@pytest.mark.parametrize(("name", "rate"), [("smollm2", 0.5), ("gpt2", 0.0)])
def test_what_the_last_layer_draws_is_that_of_all_positions(name, rate):
  keys = jax.random.split(jax.random.key(2), 2)
  for asked, whole in zip(
    found(name, FIRST, keys=keys, rate=rate), found(name, 0, keys=keys, rate=rate), strict=True
  ):
    np.testing.assert_allclose(asked, whole, rtol=1e-5, atol=1e-5)
  assert not np.allclose(asked, found(name, FIRST)[1], atol=1e-3)


# --- Attention -----------------------------------------------------------------------------------


def attended(method, length=40, first=0):
  """Hidden states of a sequence of which some positions are hidden, and the input's gradient."""
  mask = jnp.ones((2, length), bool).at[0, 9:15].set(False)
  weights = jax.random.normal(jax.random.key(3), (2, length - first, 32)) * mask[:, first:, None]

  def run(x):
    of = decoder("smollm2", remat=False)
    of.attention = method
    states = of.states(x, mellow.positions(mask), mellow.causal(mask), None, first)
    return (states * weights).sum(), states * mask[:, first:, None]

  x = jax.random.normal(jax.random.key(1), (2, length, 32))
  (_, states), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(x)
  return states, gradient


@pytest.mark.parametrize("method", ["pieces", "splash"])
def test_each_way_of_attention_computes_the_same(method, monkeypatch):
  monkeypatch.setattr(decoder_lib, "QUERIES", 16)
  emulated = functools.partial(attention.splash, interpret=True)
  monkeypatch.setitem(attention.KERNELS, "splash", emulated)
  for found, scores in zip(attended(method, first=21), attended("scores", first=21), strict=True):
    largest = float(jnp.abs(scores).max())
    np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["smollm2", "gpt2"])
def test_attention_in_pieces_keeps_no_scores(name):
  def kept(method, length):
    def residuals(x):
      mask, of = jnp.ones((1, length), bool), decoder(name, remat=False)
      of.attention = method
      run = functools.partial(of.states, positions=mellow.positions(mask), mask=mellow.causal(mask))
      return jax.vjp(run, x)[1]

    x = jax.ShapeDtypeStruct((1, length, 32), jnp.float32)
    leaves = jax.tree.leaves(jax.eval_shape(residuals, x))
    return sum(leaf.size for leaf in leaves if leaf.dtype == jnp.float32)

  assert kept("pieces", 512) < 2.5 * kept("pieces", 256)  # linear in the length
  assert kept("scores", 512) > 3 * kept("scores", 256)


def test_the_compiled_gradient_keeps_no_scores_of_a_layer():
  """XLA on CPU may compute again at once what is computed again, and keep it; it once did."""
  length, layers = 512, (2, 6)

  def temporary(method, layers):
    cfg = systems.config("htsat-linear-smollm2")
    cfg.decoder = dataclasses.replace(cfg.decoder, layers=layers)
    of = step.merge(cfg, mellow.flatten(tiny.params(cfg))).decoder
    of.attention = method

    def loss(x):
      mask = jnp.ones((1, length), bool)
      return of.states(x, mellow.positions(mask), mellow.causal(mask)).sum()

    x = jax.ShapeDtypeStruct((1, length, 32), jnp.float32)
    return jax.jit(jax.grad(loss)).lower(x).compile().memory_analysis().temp_size_in_bytes

  def of_a_layer(method):
    few, many = (temporary(method, n) for n in layers)
    return (many - few) / (layers[1] - layers[0])

  scores = 4 * length**2 * systems.config("htsat-linear-smollm2").decoder.heads  # bytes
  assert of_a_layer("pieces") < 0.5 * scores < of_a_layer("scores")


# --- Clips that questions share ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["htsat-linear-gpt2", "cnn14-nonlinear-smollm2"])
@pytest.mark.parametrize("mask_padding", [False, True])
def test_questions_that_share_their_clips_have_the_loss_of_each_alone(name, mask_padding):
  cfg = systems.config(name, mask_padding=mask_padding)
  cfg.decoder = dataclasses.replace(cfg.decoder, remat=mask_padding)
  flat, rng = mellow.flatten(tiny.params(cfg)), np.random.default_rng(0)
  wav1, wav2 = 0.1 * rng.standard_normal((2, 2, cfg.audio.clip_samples), np.float32)
  ids = rng.integers(2, 60, (2, 3, cfg.text_tokens), np.int32)
  answers = rng.integers(2, 60, (2, 3, cfg.answer_tokens), np.int32)
  lengths = rng.integers(1, cfg.text_tokens, (2, 3), np.int32)
  shared = step.Batch(wav1, wav2, ids, lengths, answers, answers > 10)
  alone = step.Batch(
    *(np.repeat(wav, 3, axis=0) for wav in (wav1, wav2)),
    *(x.reshape(6, *x.shape[2:]) for x in shared[2:6]),
  )

  @jax.jit
  def found(flat, batch):
    def loss(flat):
      nll = step.answer_nll(step.merge(cfg, flat), batch)
      return (nll * batch.loss_mask).sum(), nll.reshape(6, -1)

    return jax.value_and_grad(loss, has_aux=True)(flat)

  (_, nll), gradient = found(flat, shared)
  (_, nll2), gradient2 = found(flat, alone)
  np.testing.assert_allclose(nll, nll2, rtol=1e-4, atol=1e-5)
  for path, x in gradient2.items():
    largest = float(jnp.abs(x).max())
    np.testing.assert_allclose(gradient[path], x, atol=1e-4 * largest + 1e-5, err_msg=path)
