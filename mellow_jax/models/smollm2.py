"""SmolLM2: a Llama decoder with grouped-query attention and an explicit key/value cache."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mellow_jax.config import SmolLM2Config

QUERIES = 128  # positions of a question that attend at a time, in decoding
LOGITS_BYTES = 2**26  # of the logits that training holds at a time, a few times over


class LayerCache(NamedTuple):
  """Keys (already rotated) and values of one layer, for T slots; the first axis is rows x heads.

  The two are one axis, as the products want them: from an array of four axes XLA on CPU makes one
  of three for every token, a copy of the cache. Slots stand last where a product yields them.
  """

  k: Float[Array, "BK G T"]
  v: Float[Array, "BK T G"]

  def grow(self, slots: int) -> "LayerCache":
    """The same with so many slots more."""
    none, room = (0, 0), (0, slots)
    return LayerCache(jnp.pad(self.k, (none, none, room)), jnp.pad(self.v, (none, room, none)))

  def change(self, first: int, f: Callable[[Array], Array]) -> "LayerCache":
    """The same with f of what stands in the slots from `first` on."""
    k, v = f(self.k[..., first:]), f(self.v[:, first:])
    return LayerCache(self.k.at[..., first:].set(k), self.v.at[:, first:].set(v))


Cache = tuple[LayerCache, ...]


class Rotary(NamedTuple):
  """Sine and cosine of the angles that each position's heads are rotated by, in float32."""

  sin: Float[Array, "B L 1 g"]  # g: half of a head
  cos: Float[Array, "B L 1 g"]


def rotary(positions: Int[Array, "B L"], slots: int, cfg: SmolLM2Config) -> Rotary:
  """The angles of these positions, all below slots; angles in float32.

  Looked up in a table, once for all layers: XLA would compute a sine anew for each head and layer.

  Source: Su et al. 2021.
  """
  half = cfg.head_size // 2
  frequency = np.float32(cfg.rope_theta) ** (-np.arange(half, dtype=np.float32) / np.float32(half))
  angle = np.arange(slots, dtype=np.float32)[:, None, None] * frequency
  return Rotary(*(jnp.take(f(angle), positions, axis=0, mode="clip") for f in (np.sin, np.cos)))


def rotate(x: Float[Array, "B L N G"], by: Rotary) -> Float[Array, "B L N G"]:
  """Rotary position embedding, halves rotated against each other.

  Source: Su et al. 2021, in the half-split form of the Llama implementations.
  """
  a, b = jnp.split(x, 2, axis=-1)
  turned = (a * by.cos - b * by.sin, b * by.cos + a * by.sin)
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class Attention(nnx.Module):
  """Causal self-attention in which H query heads share one key and value head."""

  def __init__(self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: bool = False):
    self.cfg, self.fused = cfg, fused
    q_width, kv_width = cfg.heads * cfg.head_size, cfg.kv_heads * cfg.head_size

    def linear(n_in: int, n_out: int) -> nnx.Linear:
      return nnx.Linear(n_in, n_out, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

    init = nnx.initializers.normal(1 / math.sqrt(cfg.width))
    if fused:
      self.qkv = linear(cfg.width, q_width + 2 * kv_width)
    else:
      self.q = linear(cfg.width, q_width)
      self.k = linear(cfg.width, kv_width)
      self.v = linear(cfg.width, kv_width)
    init = nnx.initializers.normal(1 / math.sqrt(q_width * 2 * cfg.layers))
    self.o = linear(q_width, cfg.width)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    by: Rotary,
    mask: Bool[Array, "b L T"],
    cache: LayerCache | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B L D"], LayerCache]:
    cfg, (b, l, _) = self.cfg, x.shape
    if self.fused:
      ends = (cfg.heads * cfg.head_size, (cfg.heads + cfg.kv_heads) * cfg.head_size)
      q, k, v = jnp.split(self.qkv(x), ends, axis=-1)
    else:
      q, k, v = self.q(x), self.k(x), self.v(x)
    q = rotate(q.reshape(b, l, cfg.heads, cfg.head_size), by)
    k = rotate(k.reshape(b, l, cfg.kv_heads, cfg.head_size), by)
    v = v.reshape(b, l, cfg.kv_heads, cfg.head_size)
    rows = b * cfg.kv_heads
    k = k.transpose(0, 2, 3, 1).reshape(rows, cfg.head_size, l)
    v = v.swapaxes(1, 2).reshape(rows, l, cfg.head_size)
    if cache is not None:
      k = jax.lax.dynamic_update_slice(cache.k, k.astype(cache.k.dtype), (0, 0, start))
      v = jax.lax.dynamic_update_slice(cache.v, v.astype(cache.v.dtype), (0, start, 0))
    q = q.reshape(b, l, cfg.kv_heads, -1, cfg.head_size).transpose(0, 2, 3, 1, 4)
    if self.fused and cache is None and l > QUERIES:
      # A question's positions take turns. No piece looks at the slots after its own, so a third of
      # the work falls away, and the scores stay in the processor's cache.
      pieces = -(-l // QUERIES)
      y = jnp.concatenate(
        [
          self._gather(q[..., first:end, :], k[..., :end], v[:, :end], mask[:, first:end, :end])
          for first, end in itertools.pairwise(l * i // pieces for i in range(pieces + 1))
        ],
        axis=3,
      )
    else:
      y = self._gather(q, k, v, mask)
    return self.o(y.transpose(0, 3, 1, 2, 4).reshape(b, l, -1)), LayerCache(k, v)

  def _gather(
    self,
    q: Float[Array, "B K H L G"],
    k: Float[Array, "BK G T"],
    v: Float[Array, "BK T G"],
    mask: Bool[Array, "b L T"],
  ) -> Float[Array, "B K H L G"]:
    """What some positions gather from the values of the slots that the mask shows them."""
    # Heads come before positions on both sides of each product: in any other order XLA on CPU
    # copies the whole cache, transposed, for every token.
    shape = q.shape
    q = q.reshape(len(k), -1, shape[-1])
    scores = jnp.einsum("nqg,ngt->nqt", q, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(*shape[:-1], k.shape[-1]) * shape[-1] ** -0.5
    scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("nqt,ntg->nqg", weights.reshape(len(k), -1, k.shape[-1]), v).reshape(shape)


class MLP(nnx.Module):
  """SwiGLU."""

  def __init__(self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: bool = False):
    self.fused = fused

    def linear(n_in: int, n_out: int) -> nnx.Linear:
      return nnx.Linear(n_in, n_out, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

    init = nnx.initializers.normal(1 / math.sqrt(cfg.width))
    if fused:
      self.gate_up = linear(cfg.width, 2 * cfg.mlp)
    else:
      self.gate = linear(cfg.width, cfg.mlp)
      self.up = linear(cfg.width, cfg.mlp)
    init = nnx.initializers.normal(1 / math.sqrt(cfg.mlp * 2 * cfg.layers))
    self.down = linear(cfg.mlp, cfg.width)

  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    gate, up = jnp.split(self.gate_up(x), 2, axis=-1) if self.fused else (self.gate(x), self.up(x))
    return self.down(jax.nn.silu(gate) * up)


class Block(nnx.Module):
  """One decoder layer: attention and SwiGLU, both residual and pre-norm."""

  def __init__(self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: bool = False):
    self.attn_norm = nnx.RMSNorm(cfg.width, epsilon=cfg.norm_eps, rngs=rngs)
    self.attn = Attention(cfg, dtype, rngs=rngs, fused=fused)
    self.mlp_norm = nnx.RMSNorm(cfg.width, epsilon=cfg.norm_eps, rngs=rngs)
    self.mlp = MLP(cfg, dtype, rngs=rngs, fused=fused)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    by: Rotary,
    mask: Bool[Array, "b L T"],
    cache: LayerCache | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B L D"], LayerCache]:
    h, cache = self.attn(self.attn_norm(x), by, mask, cache, start)
    x = x + h
    return x + self.mlp(self.mlp_norm(x)), cache


class SmolLM2(nnx.Module):
  """The language model, `caption_decoder.lm` of the reference.

  Fused, it computes the same from the parameters that `fuse` makes: fewer and longer products, for
  decoding one token at a time.
  """

  def __init__(self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: bool = False):
    self.cfg, self.dtype, self.fused = cfg, dtype, fused
    init = nnx.initializers.normal(1 / math.sqrt(cfg.width))
    self.embed = nnx.Embed(cfg.vocab, cfg.width, embedding_init=init, dtype=dtype, rngs=rngs)
    self.blocks = nnx.List(Block(cfg, dtype, rngs=rngs, fused=fused) for _ in range(cfg.layers))
    self.norm = nnx.RMSNorm(cfg.width, epsilon=cfg.norm_eps, rngs=rngs)
    if fused:
      # The embedding, transposed: a product with one vector is faster along this memory layout.
      self.head = nnx.Linear(
        cfg.width, cfg.vocab, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs
      )

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
    slots are the L positions themselves, and the mask shows none of them a later one.
    """
    x, layers = x.astype(self.dtype), []
    by = rotary(positions, mask.shape[-1], self.cfg)
    for i, block in enumerate(self.blocks):
      x, layer = block(x, by, mask, None if cache is None else cache[i], start)
      layers.append(layer)
    return self.norm(x), tuple(layers)

  def states(
    self, x: Float[Array, "B L D"], positions: Int[Array, "B L"], mask: Bool[Array, "b L T"]
  ) -> Float[Array, "B L D"]:
    """The hidden states alone, for training; see `remat` in the config.

    With it, layers of one structure run in a loop over their stacked parameters. XLA on CPU would
    see through a recomputation that is written out layer by layer, and keep everything after all.
    """
    if not self.cfg.remat:
      return self(x, positions, mask)[0]
    x, by = x.astype(self.dtype), rotary(positions, mask.shape[-1], self.cfg)
    parts = [nnx.split(block) for block in self.blocks]
    for graphdef, alike in itertools.groupby(parts, key=lambda part: part[0]):
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in alike))

      @jax.checkpoint
      def layer(x, state, graphdef=graphdef):
        return nnx.merge(graphdef, state)(x, by, mask)[0], None

      x, _ = jax.lax.scan(layer, x, stacked)
    return self.norm(x)

  def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Next-token logits in float32; the output head is the embedding itself."""
    hidden = hidden.astype(self.dtype)
    if self.fused:
      kernel = self.head.kernel[...]
      return jnp.einsum("...d,dv->...v", hidden, kernel, preferred_element_type=jnp.float32)
    table = self.embed.embedding[...].astype(self.dtype)
    return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)

  def nll(self, hidden: Float[Array, "B R D"], ids: Int[Array, "B R"]) -> Float[Array, "B R"]:
    """Negative log-likelihood of each token, in nats.

    Where the logits of all positions would be the largest array of training, they are computed some
    positions at a time, and again for the gradient.
    """

    def piece(hidden: Float[Array, "B r D"], ids: Int[Array, "B r"]) -> Float[Array, "B r"]:
      return optax.softmax_cross_entropy_with_integer_labels(self.logits(hidden), ids)

    b, r = ids.shape
    pieces = min(-(-4 * b * r * self.cfg.vocab // LOGITS_BYTES), r)
    if pieces == 1:
      return piece(hidden, ids)
    rest = -r % pieces
    hidden, ids = jnp.pad(hidden, ((0, 0), (0, rest), (0, 0))), jnp.pad(ids, ((0, 0), (0, rest)))
    split = jax.tree.map(
      lambda x: x.reshape(b, pieces, -1, *x.shape[2:]).swapaxes(0, 1), (hidden, ids)
    )
    found = jax.lax.map(jax.checkpoint(lambda x: piece(*x)), split)
    return found.swapaxes(0, 1).reshape(b, -1)[:, :r]


def fuse(params: dict, dtype: jnp.dtype) -> dict:
  """The parameters of a fused SmolLM2 from a plain one's, kernels in the type they work in."""

  def join(part: dict, *names: str) -> dict:
    kernels = [part[name]["kernel"].astype(dtype) for name in names]
    return {"kernel": kernels[0] if len(kernels) == 1 else jnp.concatenate(kernels, axis=1)}

  def block(plain: dict) -> dict:
    attn, mlp = plain["attn"], plain["mlp"]
    return {
      **plain,
      "attn": {"qkv": join(attn, "q", "k", "v"), "o": join(attn, "o")},
      "mlp": {"gate_up": join(mlp, "gate", "up"), "down": join(mlp, "down")},
    }

  embedding = params["embed"]["embedding"].astype(dtype)
  return {
    "embed": {"embedding": embedding},
    "blocks": {i: block(plain) for i, plain in params["blocks"].items()},
    "norm": params["norm"],
    "head": {"kernel": embedding.T},
  }
