"""Random numbers by example: each example of a batch has a key of its own.

So what is drawn for an example depends neither on the device it lies on nor on the examples beside
it: meshes and micro-batches of any size draw the same.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def fold(keys: Key[Array, "B"], number: int | Int[Array, ""]) -> Key[Array, "B"]:
  """Another key of each example, one for every number."""
  return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def bernoulli(keys: Key[Array, "B"], p: float, shape: tuple[int, ...]) -> Bool[Array, "B ..."]:
  """An array of the shape for each example, True with probability p."""
  return jax.vmap(lambda key: jax.random.bernoulli(key, p, shape))(keys)


def dropout(
  x: Float[Array, "B ..."], rate: float, keys: Key[Array, "B"] | None
) -> Float[Array, "B ..."]:
  """x with each entry 0 with probability `rate` and the others scaled up; without keys x itself."""
  if keys is None or rate == 0.0:
    return x
  return jnp.where(bernoulli(keys, 1 - rate, x.shape[1:]), x / (1 - rate), 0)
