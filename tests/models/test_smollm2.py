"""The decoder's choices that must not change what it computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mellow_jax.models import decoder, mellow, smollm2
from mellow_jax.training import step


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


def test_recomputing_layers_saves_memory_as_compiled():
  """XLA may recognise what is computed again and keep it after all; on CPU it once did."""

  def temporary(remat):
    decoder = dataclasses.replace(tiny.config().decoder, layers=8, remat=remat)
    cfg = tiny.config(decoder=decoder, answer_tokens=100)
    _, abstract = mellow.abstract(cfg)
    flat = mellow.flatten(abstract)
    prefix = jax.ShapeDtypeStruct((4, cfg.prefix_tokens, 32), "float32")
    answer = jax.ShapeDtypeStruct((4, 100), "int32")

    def loss(flat, prefix, answer):
      model = step.merge(cfg, flat)
      return jnp.sum(model.hidden(prefix, jnp.full(4, 8), answer))

    compiled = jax.jit(jax.grad(loss)).lower(flat, prefix, answer).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(remat=True) < 0.4 * temporary(remat=False)


@pytest.mark.parametrize("positions_a_piece", [1, 3, 5])
def test_a_loss_in_pieces_is_the_loss(tiny_config, positions_a_piece, monkeypatch):
  flat = mellow.flatten(tiny.params(tiny_config))
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.standard_normal((2, 8, 32)), "f4")
  ids = jnp.asarray(rng.integers(0, 64, (2, 8)), jnp.int32)
  weights = jnp.asarray(rng.random((2, 8)), "f4")

  def found():
    def loss(embedding, hidden):
      model = step.merge(tiny_config, {**flat, "decoder/embed/embedding": embedding})
      nll = model.decoder.nll(hidden, ids)
      return jnp.sum(weights * nll), nll

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    args = (flat["decoder/embed/embedding"], hidden)
    return "scan" in str(jax.make_jaxpr(run)(*args)), jax.jit(run)(*args)

  whole_in_pieces, whole = found()
  monkeypatch.setattr(decoder.Decoder, "logits_bytes", 4 * 2 * 64 * positions_a_piece)
  in_pieces, pieces = found()
  assert (whole_in_pieces, in_pieces) == (False, True)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_the_loss_of_a_token_and_its_gradient_are_those_of_its_logits(
  dtype, tolerance, keeps, each_device
):
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.standard_normal((2, 5, 16)), dtype)
  embedding = jnp.asarray(rng.standard_normal((40, 16)), jnp.float32)
  ids = jnp.asarray(rng.integers(0, 40, (2, 5)), jnp.int32)
  weights = jnp.asarray(rng.random((2, 5)), jnp.float32)

  def plain(hidden, embedding):
    table = embedding.astype(dtype).astype(jnp.float32)
    logits = hidden.astype(jnp.float32) @ table.T
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], 2)[..., 0]

  def ours(hidden, embedding):
    return decoder.nll(hidden, embedding, ids, jnp.dtype(dtype), keeps)

  expected, found = (jax.vjp(f, hidden, embedding) for f in (plain, ours))
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
  for a, b in zip(found[1](weights), expected[1](weights), strict=True):
    assert a.dtype == b.dtype
    a, b = (np.asarray(each, np.float32) for each in (a, b))
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_written_out_are_those_of_the_functions(dtype, each_device):
  rng = np.random.default_rng(0)
  x, other, dy = (jnp.asarray(2 * rng.standard_normal((2, 5, 16)), dtype) for _ in range(3))
  scale = jnp.asarray(rng.standard_normal(16), jnp.float32)

  def plain_norm(x, scale):
    wide = x.astype(jnp.float32)
    return (wide / jnp.sqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-5) * scale).astype(x.dtype)

  pairs = (
    (lambda x, scale: smollm2.rms_norm(x, scale, 1e-5), plain_norm, (x, scale)),
    (smollm2.swiglu, lambda gate, up: jax.nn.silu(gate) * up, (x, other)),
  )
  tolerance = 1e-5 if dtype == "float32" else 2e-2
  for written, plain, inputs in pairs:
    (y, gradient), (expected, expected_gradient) = (
      (f(*inputs), jax.vjp(f, *inputs)[1](dy)) for f in (written, plain)
    )
    for a, b in zip((y, *gradient), (expected, *expected_gradient), strict=True):
      assert a.dtype == b.dtype
      a, b = (np.asarray(each, np.float32) for each in (a, b))
      np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
