"""The mapper: what the encoder heard, as embeddings that the decoder reads."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from mellow_jax.config import ModelConfig
from mellow_jax.models import example_rng
from mellow_jax.models.htsat import HTSATOutput

LAYER_NORM_EPS = 1e-5


class Projection(nnx.Module):
  """Two linear layers, the second on top of the first, added and normalised.

  Source: the non-linear projection of the paper's figure 2; the reference's Projection.
  """

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    width, dtype = cfg.decoder.width, jnp.dtype(cfg.dtype)
    self.linear1 = nnx.Linear(cfg.encoder_width, width, use_bias=False, dtype=dtype, rngs=rngs)
    self.linear2 = nnx.Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)
    self.norm = nnx.LayerNorm(width, epsilon=LAYER_NORM_EPS, rngs=rngs)

  def branches(
    self, x: Float[Array, "B Z C"]
  ) -> tuple[Float[Array, "B Z D"], Float[Array, "B Z D"]]:
    """The two terms whose sum is normalised; dropout acts on the second."""
    e1 = self.linear1(x)
    return e1, self.linear2(jax.nn.gelu(e1, approximate=False))


class Mapper(nnx.Module):
  """Latent and framewise outputs to A = 1 + frames / downsample audio tokens.

  The reference repeats each of the encoder's steps to its frames (32 steps x 32), projects all
  1025 rows and averages groups of 8. Repeated rows are equal and everything is row-wise, so the
  distinct rows are enough, unless dropout draws differently for every frame.
  """

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    std = cfg.mapper.c2l_init_std
    self.c2l = nnx.Linear(
      cfg.encoder.classes,
      cfg.encoder_width,
      kernel_init=nnx.initializers.normal(std if std else cfg.encoder.classes**-0.5),
      dtype=jnp.dtype(cfg.dtype),
      rngs=rngs,
    )
    self.projection = Projection(cfg, rngs=rngs)

  def __call__(
    self, heard: HTSATOutput, keys: Key[Array, "B"] | None = None
  ) -> Float[Array, "B A D"]:
    """With keys, one an example, dropout at the config's rate on every frame; without, none."""
    rate, downsample = self.cfg.mapper.dropout, self.cfg.mapper.downsample
    frames = self.cfg.frames // self.cfg.steps  # of a step
    latent = heard.latent[:, None].astype(jnp.float32)
    rows = jnp.concatenate([latent, self.c2l(heard.framewise).astype(jnp.float32)], axis=1)
    e1, e2 = self.projection.branches(rows)
    if keys is None or rate == 0.0:
      x = self.projection.norm(e1 + e2)
      tokens = jnp.repeat(x[:, 1:], frames // downsample, axis=1)
    else:
      e1, e2 = (
        jnp.concatenate([e[:, :1], jnp.repeat(e[:, 1:], frames, axis=1)], axis=1) for e in (e1, e2)
      )
      x = self.projection.norm(e1 + example_rng.dropout(e2, rate, keys))
      b, _, d = x.shape
      tokens = x[:, 1:].reshape(b, -1, downsample, d).mean(axis=2)
    return jnp.concatenate([x[:, :1], tokens], axis=1)
