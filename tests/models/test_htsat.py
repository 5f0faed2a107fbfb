"""What windows gather is the softmax of their scores, in the form of each kind of device."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mellow_jax.models import htsat


def test_attention_within_windows_is_a_softmax_of_scores(each_device):
  rng = np.random.default_rng(0)
  attention = htsat.WindowAttention(16, 4, 2, jnp.dtype("float32"), rngs=nnx.Rngs(0))
  x = jnp.asarray(3 * rng.standard_normal((6, 4, 16)), jnp.float32)
  mask = np.where(rng.random((3, 4, 4)) < 0.8, 0, -100).astype(np.float32)

  qkv = (x @ attention.qkv.kernel[...] + attention.qkv.bias[...]).reshape(6, 4, 3, 4, 4)
  q, k, v = (qkv[:, :, i] for i in range(3))  # windows, positions, heads, entries
  scores = jnp.einsum("wmhg,wlhg->whml", q, k) / 2
  bias = attention.bias_table[...][htsat.relative_position_index(2)]
  scores += bias.transpose(2, 0, 1) + jnp.tile(mask, (2, 1, 1))[:, None]
  y = jnp.einsum("whml,wlhg->wmhg", jax.nn.softmax(scores, axis=-1), v).reshape(6, 4, 16)
  expected = y @ attention.proj.kernel[...] + attention.proj.bias[...]
  np.testing.assert_allclose(attention(x, mask), expected, rtol=1e-5, atol=1e-6)
