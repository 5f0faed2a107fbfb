"""The three projections, the transformer beside a plain evaluation in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from mellow_jax import config
from mellow_jax.config import CNN14Config, LinearConfig, NonlinearConfig, TransformerConfig
from mellow_jax.errors import ConfigError
from mellow_jax.models.htsat import HTSATOutput
from mellow_jax.models.mapper import Mapper, MapperTransformer

TRANSFORMER = TransformerConfig(downsample=4, layers=2, heads=4, constants=5)


def oracle(flat, x, heads):
  """The transformer of one clip's rows [R, D], written out; Pengi's layer as its facts say."""

  def norm(x, p):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * p["scale"] + p["bias"]

  def linear(x, p):
    return x @ p["kernel"] + p.get("bias", 0.0)

  constants = flat["constants"]
  x = np.concatenate([x, constants])
  for _, p in sorted(flat["layers"].items()):
    h = norm(x, p["norm1"])
    q, kv = linear(h, p["queries"]), linear(h, p["keys_values"])
    k, v = kv[:, : x.shape[1]], kv[:, x.shape[1] :]
    size = x.shape[1] // heads
    gathered = np.zeros_like(x)
    for head in range(heads):
      part = slice(head * size, (head + 1) * size)
      scores = q[:, part] @ k[:, part].T * size**-0.5
      weights = np.exp(scores - scores.max(-1, keepdims=True))
      gathered[:, part] = weights / weights.sum(-1, keepdims=True) @ v[:, part]
    x = x + linear(gathered, p["project"])
    x = x + linear(np.maximum(linear(norm(x, p["norm2"]), p["fc1"]), 0), p["fc2"])
  return x[-len(constants) :]


def test_the_transformer_is_the_written_out_one():
  model = MapperTransformer(TRANSFORMER, 32, jnp.dtype("float32"), rngs=nnx.Rngs(0))
  rng = np.random.default_rng(0)
  graphdef, state = nnx.split(model)
  flat = jax.tree.map(
    lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), nnx.to_pure_dict(state)
  )
  rows = rng.standard_normal((3, 17, 32), np.float32)
  with jax.default_matmul_precision("highest"):
    ours = nnx.merge(graphdef, flat)(jnp.asarray(rows))
  assert ours.shape == (3, 5, 32)
  double = jax.tree.map(lambda x: np.asarray(x, np.float64), flat)
  for i in range(3):
    expected = oracle(double, rows[i].astype(np.float64), TRANSFORMER.heads)
    np.testing.assert_allclose(ours[i], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def output(cfg, seed=0):
  rng = np.random.default_rng(seed)
  rows, events = cfg.clip_rows, cfg.encoder.classes
  return HTSATOutput(
    latent=jnp.asarray(rng.standard_normal((2, cfg.encoder.row_width)), "f4"),
    framewise=jnp.asarray(rng.random((2, rows.steps, events)), "f4"),
    clipwise=jnp.asarray(rng.random((2, events)), "f4"),
  )


@pytest.mark.parametrize(
  ("mapper", "tokens"),
  [
    (LinearConfig(downsample=4), 17),
    (NonlinearConfig(downsample=4), 17),
    (TRANSFORMER, 5),
  ],
)
def test_audio_tokens_and_dropout(mapper, tokens):
  cfg = tiny.config(mapper=mapper, dtype="float32")
  assert cfg.prefix_tokens == 2 * tokens + 2 + cfg.text_tokens
  module, keys = Mapper(cfg, rngs=nnx.Rngs(0)), jax.random.split(jax.random.key(0), 2)
  evaluated = module(output(cfg))
  assert evaluated.shape == (2, tokens, cfg.decoder.width)
  is_same = np.allclose(evaluated, module(output(cfg), keys))
  assert is_same == isinstance(mapper, LinearConfig)


def test_the_linear_projection_is_one_layer_and_equal_rows_average_to_themselves():
  cfg = tiny.config(mapper=LinearConfig(downsample=4, bias=True), dtype="float32")
  module = Mapper(cfg, rngs=nnx.Rngs(0))
  module.projection.linear.bias[...] += 1.0
  out = output(cfg)
  rows = np.asarray(out.rows(module.c2l))
  kernel = np.asarray(module.projection.linear.kernel)
  repeated = np.concatenate([rows[:, :1], rows[:, 1:].repeat(cfg.clip_rows.frames, axis=1)], axis=1)
  projected = repeated @ kernel + 1.0
  pooled = projected[:, 1:].reshape(2, -1, 4, 32).mean(axis=2)
  expected = np.concatenate([projected[:, :1], pooled], axis=1)
  np.testing.assert_allclose(module(out), expected, rtol=1e-4, atol=1e-5)


def test_prefixes_at_full_size():
  """389 and 195 as in the reference; 211 with 40 constants a clip, whatever the encoder."""
  htsat, cnn14 = config.HTSATConfig(), CNN14Config()
  found = {
    (encoder.kind, mapper.kind): config.ModelConfig(encoder=encoder, mapper=mapper).prefix_tokens
    for encoder in (htsat, cnn14)
    for mapper in (LinearConfig(), NonlinearConfig(), TransformerConfig())
  }
  assert found == {
    ("htsat", "linear"): 389,
    ("htsat", "nonlinear"): 389,
    ("htsat", "transformer"): 211,
    ("cnn14", "linear"): 195,
    ("cnn14", "nonlinear"): 195,
    ("cnn14", "transformer"): 211,
  }


def test_heads_that_do_not_divide_the_width_are_refused():
  cfg = tiny.config(mapper=TransformerConfig(downsample=4, heads=5))
  with pytest.raises(ConfigError, match=r"mapper\.heads must divide decoder\.width"):
    config.validate_model(cfg)
