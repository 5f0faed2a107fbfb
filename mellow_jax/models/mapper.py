"""The mapper: the rows that the encoder makes of a clip, as embeddings that the decoder reads."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from mellow_jax.config import ClipRows, ModelConfig
from mellow_jax.models import example_rng
from mellow_jax.models.cnn14 import CNN14Output
from mellow_jax.models.htsat import HTSATOutput

LAYER_NORM_EPS = 1e-5


def _repeat(x: Float[Array, "B Z D"], rows: ClipRows) -> Float[Array, "B R D"]:
  """Each step's row as often as it stands for a frame."""
  repeated = jnp.repeat(x[:, rows.single :], rows.frames, axis=1)
  return jnp.concatenate([x[:, : rows.single], repeated], axis=1)


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
    self, x: Float[Array, "B Z C"], rows: ClipRows, keys: Key[Array, "B"] | None = None
  ) -> Float[Array, "B Z2 D"]:
    """The distinct rows; with keys, one an example, all of them, since dropout tells them apart."""
    e1 = self.linear1(x)
    e2 = self.linear2(jax.nn.gelu(e1, approximate=False))
    if keys is not None:
      e1, e2 = (_repeat(e, rows) for e in (e1, e2))
    return self.norm(e1 + example_rng.dropout(e2, self.dropout, keys))


class Mapper(nnx.Module):
  """An encoder's output to A audio tokens.

  The reference repeats each of HTSAT's 32 steps to 32 frames, projects all 1025 rows and averages
  groups of 8. Repeated rows are equal and everything is row-wise, so the distinct rows are enough,
  unless dropout draws differently for every frame.
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
    self.projection = NonlinearProjection(n_in, width, cfg.mapper.dropout, dtype, rngs=rngs)

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
    return jnp.concatenate([single, tokens], axis=1)
