"""GPT-2: a decoder with learned positions, and with dropout, also where it is frozen."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mellow_jax.config import GPT2Config
from mellow_jax.models import decoder, example_rng
from mellow_jax.models.decoder import Context, Decoder, LayerCache, Layout, RowLinear

INIT_STD = 0.02  # of initial weights; Radford et al. 2019


def _linear(
  n_in: int, n_out: int, std: float, dtype: jnp.dtype, rngs: nnx.Rngs, fused: Layout | None
) -> nnx.Module:
  if fused == "rows":
    return RowLinear(n_in, n_out, dtype, use_bias=True)
  init = nnx.initializers.normal(std)
  return nnx.Linear(n_in, n_out, kernel_init=init, dtype=dtype, rngs=rngs)


class GPT2Attention(nnx.Module):
  """Causal multi-head self-attention; queries, keys and values come from one product."""

  def __init__(
    self, cfg: GPT2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: Layout | None = None
  ):
    self.cfg, self.fused = cfg, fused
    self.qkv = _linear(cfg.width, 3 * cfg.width, INIT_STD, dtype, rngs, fused)
    self.o = _linear(cfg.width, cfg.width, INIT_STD / math.sqrt(2 * cfg.layers), dtype, rngs, fused)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    context: Context,
    cache: LayerCache | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B l D"], LayerCache]:
    b, l, d = x.shape
    shape, dropout = (b, l, self.cfg.heads, d // self.cfg.heads), self.cfg.dropout
    q, k, v = (y.reshape(shape) for y in jnp.split(self.qkv(x), 3, axis=-1))
    q = context.asked(q)
    y, cache = decoder.attend(q, k, v, context, cache, start, dropout=dropout)
    return self.o(y), cache


class GPT2Block(nnx.Module):
  """One decoder layer: attention and a two-layer perceptron, both residual and pre-norm."""

  def __init__(
    self, cfg: GPT2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: Layout | None = None
  ):
    self.dropout = cfg.dropout
    self.attn_norm = nnx.LayerNorm(cfg.width, epsilon=cfg.norm_eps, rngs=rngs)
    self.attn = GPT2Attention(cfg, dtype, rngs=rngs, fused=fused)
    self.mlp_norm = nnx.LayerNorm(cfg.width, epsilon=cfg.norm_eps, rngs=rngs)
    self.up = _linear(cfg.width, cfg.mlp, INIT_STD, dtype, rngs, fused)
    self.down = _linear(
      cfg.mlp, cfg.width, INIT_STD / math.sqrt(2 * cfg.layers), dtype, rngs, fused
    )

  def __call__(
    self,
    x: Float[Array, "B L D"],
    context: Context,
    cache: LayerCache | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B l D"], LayerCache]:
    h, cache = self.attn(self.attn_norm(x), context.part(0), cache, start)
    x = context.asked(x) + example_rng.dropout(h, self.dropout, context.part(1).keys)
    h = self.down(jax.nn.gelu(self.up(self.mlp_norm(x)), approximate=True))
    return x + example_rng.dropout(h, self.dropout, context.part(2).keys), cache


class GPT2(Decoder):
  """The language model, `caption_decoder.lm` of the reference."""

  def __init__(
    self, cfg: GPT2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: Layout | None = None
  ):
    self.cfg, self.dtype, self.fused, self.dropout = cfg, dtype, fused, cfg.dropout
    self.attention = "pieces" if fused else "scores"
    init = nnx.initializers.normal(INIT_STD)
    self.embed = nnx.Embed(cfg.vocab, cfg.width, embedding_init=init, dtype=dtype, rngs=rngs)
    self.position = nnx.Embed(cfg.positions, cfg.width, embedding_init=init, dtype=dtype, rngs=rngs)
    self.blocks = nnx.List(GPT2Block(cfg, dtype, rngs=rngs, fused=fused) for _ in range(cfg.layers))
    self.norm = nnx.LayerNorm(cfg.width, epsilon=cfg.norm_eps, rngs=rngs)
    if fused == "columns":  # as SmolLM2's
      self.head = nnx.Linear(
        cfg.width, cfg.vocab, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs
      )

  def begin(
    self, x: Float[Array, "B L D"], positions: Int[Array, "B L"], context: Context
  ) -> tuple[Float[Array, "B L D"], Context]:
    """Positions are added to the embeddings, those of the audio as well."""
    # A row that decoding has not begun may stand anywhere: past the table it takes the last.
    table = self.position.embedding[...]
    x = x + jnp.take(table, positions, axis=0, mode="clip").astype(x.dtype)
    return example_rng.dropout(x, self.cfg.dropout, context.part(self.cfg.layers).keys), context


def fuse(params: dict, dtype: jnp.dtype, layout: Layout) -> dict:
  """The parameters of a fused GPT-2 from a plain one's, kernels in the type they work in."""

  def kernel(x: Array) -> Array:
    x = x.astype(dtype)
    return x.T if layout == "rows" else x

  embedding = params["embed"]["embedding"].astype(dtype)
  blocks = jax.tree.map(lambda x: kernel(x) if x.ndim == 2 else x, params["blocks"])
  return {
    **params,
    "embed": {"embedding": embedding},
    "blocks": blocks,
    **({"head": {"kernel": embedding.T}} if layout == "columns" else {}),
  }
