"""Random numbers with one key per example.

So an example's random numbers depend neither on its device nor on the rest of its batch: they are
the same on meshes and in micro-batches of any size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def fold(keys: Key[Array, "B"], number: int | Int[Array, ""]) -> Key[Array, "B"]:
  """Folds a number into the key of each example."""
  return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def bernoulli(keys: Key[Array, "B"], p: float, shape: tuple[int, ...]) -> Bool[Array, "B ..."]:
  """Bernoulli samples of the given shape for each example, True with probability p in [0, 1]."""
  return jax.vmap(lambda key: jax.random.bernoulli(key, p, shape))(keys)


def dropout(
  x: Float[Array, "B ..."], rate: float, keys: Key[Array, "B"] | None
) -> Float[Array, "B ..."]:
  """x with each entry 0 with probability `rate` and the others scaled up; without keys x itself."""
  if keys is None or rate == 0.0:
    return x
  return jnp.where(bernoulli(keys, 1 - rate, x.shape[1:]), x / (1 - rate), 0)
