"""GPT-2's own: positions that end, dropout that acts where it is frozen, recomputed layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mellow_jax import config
from mellow_jax.config import GPT2Config
from mellow_jax.errors import ConfigError
from mellow_jax.inference import decode
from mellow_jax.models import mellow
from mellow_jax.training import step

TINY = GPT2Config(vocab=64, positions=64, width=32, layers=2, heads=4, mlp=48)


def with_decoder(**fields):
  return tiny.config(decoder=dataclasses.replace(TINY, **fields))


def inputs(cfg):
  rng = np.random.default_rng(0)
  prefix = jnp.asarray(rng.standard_normal((2, cfg.prefix_tokens, cfg.decoder.width)), "f4")
  answer = jnp.asarray(rng.integers(3, 60, (2, cfg.answer_tokens)), jnp.int32)
  return prefix, jnp.asarray([3, 8], jnp.int32), answer


def loss_and_gradient(cfg, keys=None):
  flat = mellow.flatten(tiny.params(cfg))
  prefix, lengths, answer = inputs(cfg)

  def loss(flat):
    model = step.merge(cfg, flat)
    return jnp.mean(jnp.square(model.hidden(prefix, lengths, answer, keys)))

  return jax.jit(jax.value_and_grad(loss))(flat)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_recomputed_layers_give_the_same_loss_and_gradient(rate):
  """Dropout included: a layer draws the same when it is computed again."""
  keys = jax.random.split(jax.random.key(0), 2)
  loss, grads = loss_and_gradient(with_decoder(dropout=rate), keys)
  again, grads_again = loss_and_gradient(with_decoder(dropout=rate, remat=True), keys)
  np.testing.assert_allclose(loss, again, rtol=1e-5)
  for name in grads:
    np.testing.assert_allclose(grads[name], grads_again[name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_dropout_acts_in_training_alone_and_can_be_switched_off():
  keys = jax.random.split(jax.random.key(0), 2)
  evaluated, _ = loss_and_gradient(with_decoder())
  assert loss_and_gradient(with_decoder(), keys)[0] != evaluated
  assert loss_and_gradient(with_decoder(dropout=0.0), keys)[0] == evaluated


def test_positions_are_added_to_the_audio_as_well():
  cfg = with_decoder()
  flat = mellow.flatten(tiny.params(cfg))
  model = step.merge(cfg, flat)
  prefix, lengths, _ = inputs(cfg)
  moved = {**flat, "decoder/position/embedding": flat["decoder/position/embedding"][::-1]}
  first, second = (m.prefill(prefix, lengths)[0] for m in (model, step.merge(cfg, moved)))
  assert not np.allclose(first, second)


def test_more_positions_than_it_has_learnt_are_refused():
  cfg = with_decoder(positions=52)
  assert cfg.prefix_tokens == 44
  message = "prefix of 44 tokens and an answer of 10 take 53 positions, the decoder has 52"
  with pytest.raises(ConfigError, match=message):
    config.validate_model(dataclasses.replace(cfg, answer_tokens=10))
  model = step.merge(cfg, mellow.flatten(tiny.params(cfg)))
  prefix, lengths, _ = inputs(cfg)
  keys = jax.random.split(jax.random.key(0), 2)
  with pytest.raises(ConfigError, match=message):
    decode.generate(model, prefix, lengths, keys, decode.Sampling(max_new_tokens=10))
  with pytest.raises(ConfigError, match=message):
    decode.score(model, prefix, lengths, jnp.zeros((2, 1, 10), jnp.int32), jnp.ones((2, 1), int))
