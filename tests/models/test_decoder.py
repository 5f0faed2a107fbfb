"""What decoders share: a last layer that computes no more than what is asked for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
import tiny

from mellow_jax.config import LoRAConfig
from mellow_jax.models import lora, mellow
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


@pytest.mark.parametrize(("name", "rate"), [("smollm2", 0.5), ("gpt2", 0.0)])
def test_what_the_last_layer_draws_is_that_of_all_positions(name, rate):
  keys = jax.random.split(jax.random.key(2), 2)
  for asked, whole in zip(
    found(name, FIRST, keys=keys, rate=rate), found(name, 0, keys=keys, rate=rate), strict=True
  ):
    np.testing.assert_allclose(asked, whole, rtol=1e-5, atol=1e-5)
  assert not np.allclose(asked, found(name, FIRST)[1], atol=1e-3)
