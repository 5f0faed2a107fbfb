"""Kernels of causal attention over whole sequences, for training: none keeps a score matrix."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LANES = 128  # of a TPU's registers: a block is a multiple
MOST_POSITIONS = 1024  # that make a single block; longer sequences have blocks of half as many


def cudnn(
  q: Float[Array, "B L N G"],
  k: Float[Array, "B L K G"],
  v: Float[Array, "B L K G"],
  mask: Bool[Array, "b L L"],
) -> Float[Array, "B L N G"]:
  """cuDNN's attention, for sequences whose mask hides nothing but later positions.

  It would take the mask as a bias, whose gradient it computes as well, and which must be even.
  """
  del mask
  return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


def splash(
  q: Float[Array, "B L N G"],
  k: Float[Array, "B L K G"],
  v: Float[Array, "B L K G"],
  mask: Bool[Array, "b L L"],
  interpret: bool = False,
) -> Float[Array, "B L N G"]:
  """Splash attention; positions that the mask hides from all others are a segment of their own.

  interpret: emulated, for tests. Source: jax.experimental.pallas.ops.tpu.splash_attention.
  """
  from jax.experimental.pallas.ops.tpu import splash_attention  # 0.1 s, wanted on TPUs alone

  b, l, heads, size = q.shape
  block = -(-l // LANES) * LANES if l <= MOST_POSITIONS else MOST_POSITIONS // 2
  rest = -l % block
  q, k, v = (
    jnp.pad(x, ((0, 0), (0, rest), (0, 0), (0, 0))).swapaxes(1, 2)
    for x in (q * jnp.asarray(size**-0.5, q.dtype), k, v)
  )
  hidden = ~jnp.diagonal(mask, axis1=1, axis2=2)
  segment = jnp.pad(hidden.astype(jnp.int32), ((0, 0), (0, rest)), constant_values=1)
  segment = jnp.broadcast_to(segment, (b, l + rest))
  shape = (l + rest, l + rest)
  kernel = splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([splash_attention.CausalMask(shape)] * heads),
    block_sizes=splash_attention.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      use_fused_bwd_kernel=True,
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  y = jax.vmap(kernel)(q, k, v, splash_attention.SegmentIds(segment, segment))
  return y.swapaxes(1, 2)[:, :l]


KERNELS = {"cudnn": cudnn, "splash": splash}
