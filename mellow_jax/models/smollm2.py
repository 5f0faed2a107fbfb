"""SmolLM2: a Llama decoder with rotary positions and grouped-query attention."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mellow_jax.config import SmolLM2Config
from mellow_jax.models import decoder
from mellow_jax.models.decoder import Context, Decoder, LayerCache, Layout, RowLinear


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(
  x: Float[Array, "*B D"], scale: Float[Array, "D"], epsilon: float
) -> Float[Array, "*B D"]:
  """RMSNorm, computed in float32. Source: Zhang and Sennrich 2019."""
  return _rms_norm_kept(x, scale, epsilon)[0]


def _rms_norm_kept(x: Array, scale: Array, epsilon: float) -> tuple[Array, tuple[Array, ...]]:
  wide = x.astype(jnp.float32)
  inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + epsilon)
  return (wide * inverse * scale).astype(x.dtype), (x, scale, inverse)


def _sums_of_kept(
  x: Float[Array, "*B D"], scale: Float[Array, "D"], inverse: Array, dy: Float[Array, "*B D"]
) -> tuple[Float[Array, "*B 1"], Float[Array, "*B 1"]]:
  """What a norm multiplies by, as it was kept, and the sum of dy and the norm's output."""
  # A product: from a sum XLA on CPU makes the scale an array of the size of x.
  return inverse, jnp.einsum("...d,d->...", dy * (x * inverse), scale)[..., None]


def _sums_anew(
  x: Float[Array, "*B D"],
  scale: Float[Array, "D"],
  inverse: Array,
  dy: Float[Array, "*B D"],
  epsilon: float,
) -> tuple[Float[Array, "*B 1"], Float[Array, "*B 1"]]:
  """The same, of one reading. A norm of which nothing is kept is one operation on a GPU."""
  inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)
  # From a product XLA on GPU writes to memory what is summed.
  return inverse, inverse * jnp.sum(dy * x * scale, axis=-1, keepdims=True)


def _rms_norm_gradient(epsilon: float, kept: tuple[Array, ...], dy: Array) -> tuple[Array, Array]:
  x, scale, inverse = kept
  # The barrier, which CPUs ignore: what is computed anew is not what the forward pass had.
  inputs = (each.astype(jnp.float32) for each in jax.lax.optimization_barrier((*kept, dy)))
  inverse, along = jax.lax.platform_dependent(
    *inputs, cpu=_sums_of_kept, default=functools.partial(_sums_anew, epsilon=epsilon)
  )
  normed, dy = x.astype(jnp.float32) * inverse, dy.astype(jnp.float32)
  dx = inverse * (dy * scale - normed * along / x.shape[-1])
  return dx.astype(x.dtype), jnp.einsum("...d,...d->d", dy, normed)


rms_norm.defvjp(_rms_norm_kept, _rms_norm_gradient)


class RMSNorm(nnx.Module):
  """Divides vectors by their root mean square, and scales their entries."""

  def __init__(self, width: int, epsilon: float):
    self.scale, self.epsilon = nnx.Param(jnp.ones(width)), epsilon

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    return rms_norm(x, self.scale[...], self.epsilon)


class Attention(nnx.Module):
  """Causal self-attention in which H query heads share one key and value head."""

  def __init__(
    self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: Layout | None = None
  ):
    self.cfg, self.fused = cfg, fused
    q_width, kv_width = cfg.heads * cfg.head_size, cfg.kv_heads * cfg.head_size

    def linear(n_in: int, n_out: int) -> nnx.Module:
      if fused == "rows":
        return RowLinear(n_in, n_out, dtype, use_bias=False)
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
    context: Context,
    cache: LayerCache | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B l D"], LayerCache]:
    cfg, (b, l, _) = self.cfg, x.shape
    if self.fused:
      ends = (cfg.heads * cfg.head_size, (cfg.heads + cfg.kv_heads) * cfg.head_size)
      q, k, v = jnp.split(self.qkv(x), ends, axis=-1)
      q = context.asked(q)
    elif context.asks_all:
      q, k, v = decoder.together(x, self.q, self.k, self.v)
    else:
      q, (k, v) = self.q(context.asked(x)), decoder.together(x, self.k, self.v)
    asked = Rotary(*map(context.asked, context.positions))
    q = rotate(q.reshape(*q.shape[:2], cfg.heads, cfg.head_size), asked)
    k = rotate(k.reshape(b, l, cfg.kv_heads, cfg.head_size), context.positions)
    v = v.reshape(b, l, cfg.kv_heads, cfg.head_size)
    y, cache = decoder.attend(q, k, v, context, cache, start)
    return self.o(y), cache


@jax.custom_vjp
def swiglu(gate: Float[Array, "B L M"], up: Float[Array, "B L M"]) -> Float[Array, "B L M"]:
  """SiLU of the gate times `up`. Only these two are kept for the gradient.

  Source: Shazeer 2020, GLU Variants Improve Transformer.
  """
  return jax.nn.silu(gate) * up


def _swiglu_kept(gate: Array, up: Array) -> tuple[Array, tuple[Array, Array]]:
  return swiglu(gate, up), (gate, up)


def _swiglu_gradient(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
  gate, up = kept
  sigmoid = jax.nn.sigmoid(decoder.after(dy, gate).astype(jnp.float32))
  silu = gate * sigmoid
  found = dy * up * (sigmoid + silu * (1 - sigmoid)), dy * silu
  return tuple(x.astype(dy.dtype) for x in found)


swiglu.defvjp(_swiglu_kept, _swiglu_gradient)


class MLP(nnx.Module):
  """SwiGLU between two products."""

  def __init__(
    self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: Layout | None = None
  ):
    self.fused = fused

    def linear(n_in: int, n_out: int) -> nnx.Module:
      if fused == "rows":
        return RowLinear(n_in, n_out, dtype, use_bias=False)
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
    if self.fused:
      gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
    else:
      gate, up = decoder.together(x, self.gate, self.up)
    return self.down(swiglu(gate, up))


class Block(nnx.Module):
  """One decoder layer: attention and SwiGLU, both residual and pre-norm."""

  def __init__(
    self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: Layout | None = None
  ):
    self.attn_norm = RMSNorm(cfg.width, cfg.norm_eps)
    self.attn = Attention(cfg, dtype, rngs=rngs, fused=fused)
    self.mlp_norm = RMSNorm(cfg.width, cfg.norm_eps)
    self.mlp = MLP(cfg, dtype, rngs=rngs, fused=fused)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    context: Context,
    cache: LayerCache | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B l D"], LayerCache]:
    h, cache = self.attn(self.attn_norm(x), context, cache, start)
    x = context.asked(x) + h
    return x + self.mlp(self.mlp_norm(x)), cache


class SmolLM2(Decoder):
  """The language model, `caption_decoder.lm` of the reference."""

  def __init__(
    self, cfg: SmolLM2Config, dtype: jnp.dtype, *, rngs: nnx.Rngs, fused: Layout | None = None
  ):
    self.cfg, self.dtype, self.fused = cfg, dtype, fused
    self.attention = "pieces" if fused else "scores"
    init = nnx.initializers.normal(1 / math.sqrt(cfg.width))
    self.embed = nnx.Embed(cfg.vocab, cfg.width, embedding_init=init, dtype=dtype, rngs=rngs)
    self.blocks = nnx.List(Block(cfg, dtype, rngs=rngs, fused=fused) for _ in range(cfg.layers))
    self.norm = RMSNorm(cfg.width, cfg.norm_eps)
    if fused == "columns":
      # The embedding, transposed; by rows the embedding itself is as the head wants it.
      self.head = nnx.Linear(
        cfg.width, cfg.vocab, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs
      )

  def begin(
    self, x: Float[Array, "B L D"], positions: Int[Array, "B L"], context: Context
  ) -> tuple[Float[Array, "B L D"], Context]:
    """Positions turn queries and keys in every layer; the embeddings stay as they are."""
    by = rotary(positions, context.mask.shape[-1], self.cfg)
    return x, context._replace(positions=by)


def fuse(params: dict, dtype: jnp.dtype, layout: Layout) -> dict:
  """The parameters of a fused SmolLM2 from a plain one's, kernels in the type they work in."""

  def join(part: dict, *names: str) -> dict:
    kernels = [part[name]["kernel"].astype(dtype) for name in names]
    kernel = kernels[0] if len(kernels) == 1 else jnp.concatenate(kernels, axis=1)
    return {"kernel": kernel.T if layout == "rows" else kernel}

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
    **({"head": {"kernel": embedding.T}} if layout == "columns" else {}),
  }
