"""The decoder's choices that must not change what it computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from mellow_jax import step
from mellow_jax.models import mellow


def test_recomputing_layers_gives_the_same_loss_and_gradient():
  plain = tiny.config()
  again = dataclasses.replace(plain, decoder=dataclasses.replace(plain.decoder, remat=True))
  flat = mellow.flatten(tiny.params(plain, 0))
  rng = np.random.default_rng(0)
  prefix = jnp.asarray(rng.standard_normal((2, plain.prefix_tokens, plain.decoder.width)), "f4")
  answer = jnp.asarray(rng.integers(3, 60, (2, plain.answer_tokens)), jnp.int32)
  lengths = jnp.asarray([3, 8], jnp.int32)

  def found(cfg):
    def loss(flat):
      model = step.merge(cfg, flat)
      return jnp.mean(jnp.square(model.hidden(prefix, lengths, answer)))

    run = jax.value_and_grad(loss)
    text = str(jax.make_jaxpr(run)(flat))
    return "remat" in text or "checkpoint" in text, jax.jit(run)(flat)

  (kept, (loss, grads)), (recomputed, (loss_again, grads_again)) = found(plain), found(again)
  assert (kept, recomputed) == (False, True)
  np.testing.assert_allclose(loss, loss_again, rtol=1e-6)
  for name in grads:
    np.testing.assert_allclose(grads[name], grads_again[name], rtol=1e-4, atol=1e-6, err_msg=name)
