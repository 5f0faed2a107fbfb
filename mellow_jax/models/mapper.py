"""The mapper: the rows that the encoder makes of a clip, as embeddings that the decoder reads."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from mellow_jax.config import (
  ClipRows,
  LinearConfig,
  MapperConfig,
  ModelConfig,
  NonlinearConfig,
  TransformerConfig,
)
from mellow_jax.models import example_rng
from mellow_jax.models.cnn14 import CNN14Output
from mellow_jax.models.htsat import HTSATOutput

LAYER_NORM_EPS = 1e-5

# --- Projections ---------------------------------------------------------------------------------


def _repeat(x: Float[Array, "B Z D"], rows: ClipRows) -> Float[Array, "B R D"]:
  """Each step's row as often as it stands for a frame."""
  repeated = jnp.repeat(x[:, rows.single :], rows.frames, axis=1)
  return jnp.concatenate([x[:, : rows.single], repeated], axis=1)


class LinearProjection(nnx.Module):
  """One linear layer: the first half of the non-linear projection.

  Source: the paper's appendix F.1; no public code has it.
  """

  dropout = 0.0

  def __init__(self, n_in: int, width: int, bias: bool, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    init = nnx.initializers.xavier_uniform()
    self.linear = nnx.Linear(n_in, width, use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, "B Z C"], rows: ClipRows, keys: None) -> Float[Array, "B Z D"]:
    """The distinct rows."""
    del rows, keys  # nothing is random
    return self.linear(x).astype(jnp.float32)


class NonlinearProjection(nnx.Module):
  """Two linear layers, the second on top of the first, added and normalised.

  Source: the non-linear projection of the paper's figure 2; the reference's Projection.
  """

  def __init__(self, n_in: int, width: int, dropout: float, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.dropout = dropout
    self.linear1 = nnx.Linear(n_in, width, use_bias=False, dtype=dtype, rngs=rngs)
    self.linear2 = nnx.Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)
    self.norm = nnx.LayerNorm(width, epsilon=LAYER_NORM_EPS, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B Z C"], rows: ClipRows, keys: Key[Array, "B"] | None
  ) -> Float[Array, "B Z2 D"]:
    """The distinct rows; with keys, one an example, all of them, since dropout tells them apart."""
    e1 = self.linear1(x)
    e2 = self.linear2(jax.nn.gelu(e1, approximate=False))
    if keys is not None:
      e1, e2 = (_repeat(e, rows) for e in (e1, e2))
    return self.norm(e1 + example_rng.dropout(e2, self.dropout, keys))


def make_projection(
  cfg: MapperConfig, n_in: int, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs
) -> LinearProjection | NonlinearProjection:
  """The row-wise part of the configuration's mapper."""
  match cfg:
    case LinearConfig():
      return LinearProjection(n_in, width, cfg.bias, dtype, rngs=rngs)
    case NonlinearConfig() | TransformerConfig():
      return NonlinearProjection(n_in, width, cfg.dropout, dtype, rngs=rngs)


# --- Transformer ---------------------------------------------------------------------------------


def _linear(n_in: int, n_out: int, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
  """A linear layer whose weights start uniform in +-1/sqrt(n_in), as torch's do."""
  init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
  return nnx.Linear(n_in, n_out, use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs)


class MapperLayer(nnx.Module):
  """Unmasked self-attention without positions and a two-layer perceptron, residual and pre-norm.

  Source: the transformer layer of Pengi, microsoft/Pengi 31d5e37, models/decoder.py.
  """

  def __init__(self, cfg: TransformerConfig, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.heads = cfg.heads
    self.norm1 = nnx.LayerNorm(width, epsilon=LAYER_NORM_EPS, rngs=rngs)
    self.queries = _linear(width, width, False, dtype, rngs)
    self.keys_values = _linear(width, 2 * width, False, dtype, rngs)
    self.project = _linear(width, width, True, dtype, rngs)
    self.norm2 = nnx.LayerNorm(width, epsilon=LAYER_NORM_EPS, rngs=rngs)
    self.fc1 = _linear(width, cfg.mlp_ratio * width, True, dtype, rngs)
    self.fc2 = _linear(cfg.mlp_ratio * width, width, True, dtype, rngs)

  def __call__(self, x: Float[Array, "B R D"]) -> Float[Array, "B R D"]:
    b, r, d = x.shape
    h = self.norm1(x)
    k, v = jnp.split(self.keys_values(h), 2, axis=-1)
    q, k, v = (y.reshape(b, r, self.heads, -1) for y in (self.queries(h), k, v))
    scores = jnp.einsum("brng,bsng->bnrs", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * (d // self.heads) ** -0.5, axis=-1).astype(v.dtype)
    x = x + self.project(jnp.einsum("bnrs,bsng->brng", weights, v).reshape(b, r, d))
    return x + self.fc2(jax.nn.relu(self.fc1(self.norm2(x))))


class MapperTransformer(nnx.Module):
  """Transformer layers over rows and learnt constants, of which the constants' places are kept.

  Reconstructed, not the authors' code: the paper calls its third projection "a stack of transformer
  layers with learnable constants" and gives the system 195M parameters. Eight of Pengi's layers
  behind the non-linear projection and the downsampler, one stack for both clips, with 40 constants,
  have 195,180,247; other stacks of that size cannot be told from it.

  Source: the paper's appendix F.1 and size column; microsoft/Pengi for the layer.
  """

  def __init__(self, cfg: TransformerConfig, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.constants = nnx.Param(jax.random.normal(rngs.params(), (cfg.constants, width)))
    self.layers = nnx.List(MapperLayer(cfg, width, dtype, rngs=rngs) for _ in range(cfg.layers))

  def __call__(self, x: Float[Array, "B R D"]) -> Float[Array, "B A D"]:
    constants = self.constants[...]
    x = jnp.concatenate([x, jnp.broadcast_to(constants, (len(x), *constants.shape))], axis=1)
    for layer in self.layers:
      x = layer(x)
    return x[:, -len(constants) :]


# --- Mapper --------------------------------------------------------------------------------------


class Mapper(nnx.Module):
  """An encoder's output to A audio tokens.

  The reference repeats each of HTSAT's 32 steps to 32 frames, projects all 1025 rows and averages
  groups of 8. Repeated rows are equal and everything is row-wise, so the distinct rows are enough,
  unless dropout differs between frames.
  """

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.rows, self.downsample = cfg.clip_rows, cfg.mapper.downsample
    classes, n_in, width = cfg.encoder.classes, cfg.encoder.row_width, cfg.decoder.width
    dtype, std = jnp.dtype(cfg.dtype), cfg.mapper.c2l_init_std
    self.c2l = nnx.Linear(
      classes,
      n_in,
      kernel_init=nnx.initializers.normal(std if std else classes**-0.5),
      dtype=dtype,
      rngs=rngs,
    )
    self.projection = make_projection(cfg.mapper, n_in, width, dtype, rngs=rngs)
    has_transformer = isinstance(cfg.mapper, TransformerConfig)
    self.transformer = (
      MapperTransformer(cfg.mapper, width, dtype, rngs=rngs) if has_transformer else None
    )

  def __call__(
    self, output: HTSATOutput | CNN14Output, keys: Key[Array, "B"] | None = None
  ) -> Float[Array, "B A D"]:
    """With keys, one an example, dropout at the config's rate on every frame; without, none."""
    keys = keys if self.projection.dropout else None
    x = self.projection(output.rows(self.c2l), self.rows, keys)
    single, steps = x[:, : self.rows.single], x[:, self.rows.single :]
    if keys is None:
      tokens = jnp.repeat(steps, self.rows.frames // self.downsample, axis=1)
    else:
      b, r, d = steps.shape
      tokens = steps.reshape(b, r // self.downsample, self.downsample, d).mean(axis=2)
    tokens = jnp.concatenate([single, tokens], axis=1)
    return tokens if self.transformer is None else self.transformer(tokens)
