"""SmolLM2: a Llama decoder with grouped-query attention and an explicit key/value cache."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mellow_jax.config import SmolLM2Config


class LayerCache(NamedTuple):
  """Keys (already rotated) and values of one layer, for T slots."""

  k: Float[Array, "B K T G"]
  v: Float[Array, "B K T G"]


Cache = tuple[LayerCache, ...]


def empty_cache(cfg: SmolLM2Config, batch: int, slots: int, dtype: jnp.dtype) -> Cache:
  """A cache of zeros for `slots` positions."""
  shape = (batch, cfg.kv_heads, slots, cfg.head_size)
  return tuple(
    LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(cfg.layers)
  )


def rotate(
  x: Float[Array, "B L N G"], positions: Int[Array, "B L"], theta: float
) -> Float[Array, "B L N G"]:
  """Rotary position embedding, halves rotated against each other; angles in float32.

  Source: Su et al. 2021, in the half-split form of the Llama implementations.
  """
  half = x.shape[-1] // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None, None].astype(jnp.float32) * frequency
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nnx.Module):
  """Causal self-attention in which H query heads share one key and value head."""

  def __init__(self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.cfg = cfg
    q_width, kv_width = cfg.heads * cfg.head_size, cfg.kv_heads * cfg.head_size

    def linear(n_in: int, n_out: int) -> nnx.Linear:
      return nnx.Linear(n_in, n_out, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

    init = nnx.initializers.normal(1 / math.sqrt(cfg.width))
    self.q = linear(cfg.width, q_width)
    self.k = linear(cfg.width, kv_width)
    self.v = linear(cfg.width, kv_width)
    init = nnx.initializers.normal(1 / math.sqrt(q_width * 2 * cfg.layers))
    self.o = linear(q_width, cfg.width)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    positions: Int[Array, "B L"],
    mask: Bool[Array, "b L T"],
    cache: LayerCache | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B L D"], LayerCache]:
    cfg, (b, l, _) = self.cfg, x.shape
    q = rotate(self.q(x).reshape(b, l, cfg.heads, cfg.head_size), positions, cfg.rope_theta)
    k = rotate(self.k(x).reshape(b, l, cfg.kv_heads, cfg.head_size), positions, cfg.rope_theta)
    v = self.v(x).reshape(b, l, cfg.kv_heads, cfg.head_size)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    if cache is not None:
      k = jax.lax.dynamic_update_slice(cache.k, k.astype(cache.k.dtype), (0, 0, start, 0))
      v = jax.lax.dynamic_update_slice(cache.v, v.astype(cache.v.dtype), (0, 0, start, 0))
    # Heads come before positions on both sides of each product: in any other order XLA on CPU
    # copies the whole cache, transposed, for every token.
    q = q.reshape(b, l, cfg.kv_heads, -1, cfg.head_size).transpose(0, 2, 3, 1, 4)
    scores = jnp.einsum("bkhlg,bktg->bkhlt", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * cfg.head_size**-0.5, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    y = jnp.einsum("bkhlt,bktg->bkhlg", weights, v).transpose(0, 3, 1, 2, 4).reshape(b, l, -1)
    return self.o(y), LayerCache(k, v)


class MLP(nnx.Module):
  """SwiGLU."""

  def __init__(self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    def linear(n_in: int, n_out: int) -> nnx.Linear:
      return nnx.Linear(n_in, n_out, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

    init = nnx.initializers.normal(1 / math.sqrt(cfg.width))
    self.gate = linear(cfg.width, cfg.mlp)
    self.up = linear(cfg.width, cfg.mlp)
    init = nnx.initializers.normal(1 / math.sqrt(cfg.mlp * 2 * cfg.layers))
    self.down = linear(cfg.mlp, cfg.width)

  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
  """One decoder layer: attention and SwiGLU, both residual and pre-norm."""

  def __init__(self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.attn_norm = nnx.RMSNorm(cfg.width, epsilon=cfg.norm_eps, rngs=rngs)
    self.attn = Attention(cfg, dtype, rngs=rngs)
    self.mlp_norm = nnx.RMSNorm(cfg.width, epsilon=cfg.norm_eps, rngs=rngs)
    self.mlp = MLP(cfg, dtype, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    positions: Int[Array, "B L"],
    mask: Bool[Array, "b L T"],
    cache: LayerCache | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B L D"], LayerCache]:
    h, cache = self.attn(self.attn_norm(x), positions, mask, cache, start)
    x = x + h
    return x + self.mlp(self.mlp_norm(x)), cache


class SmolLM2(nnx.Module):
  """The language model, `caption_decoder.lm` of the reference."""

  def __init__(self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.cfg, self.dtype = cfg, dtype
    init = nnx.initializers.normal(1 / math.sqrt(cfg.width))
    self.embed = nnx.Embed(cfg.vocab, cfg.width, embedding_init=init, dtype=dtype, rngs=rngs)
    self.blocks = nnx.List(Block(cfg, dtype, rngs=rngs) for _ in range(cfg.layers))
    self.norm = nnx.RMSNorm(cfg.width, epsilon=cfg.norm_eps, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    positions: Int[Array, "B L"],
    mask: Bool[Array, "b L T"],
    cache: Cache | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B L D"], Cache]:
    """Embeddings to normalised hidden states, and the keys and values of every layer.

    mask is True where a position may attend to a slot. With a cache, the L new positions are
    written to its slots start to start + L and attention runs over all T slots; without one, the
    slots are the L positions themselves.
    """
    x, layers = x.astype(self.dtype), []
    for i, block in enumerate(self.blocks):
      x, layer = block(x, positions, mask, None if cache is None else cache[i], start)
      layers.append(layer)
    return self.norm(x), tuple(layers)

  def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Next-token logits in float32; the output head is the embedding itself."""
    table = self.embed.embedding[...].astype(self.dtype)
    hidden = hidden.astype(self.dtype)
    return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
