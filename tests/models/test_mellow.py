"""The whole model: its parameters before training."""

import jax
import numpy as np
import tiny
from flax import nnx

from mellow_jax.models import mellow


def test_fresh_parameters_are_those_of_the_keys_that_nnx_counts():
  cfg, seed = tiny.config(), 3
  made = jax.jit(lambda: nnx.to_pure_dict(nnx.state(mellow.MellowModel(cfg, rngs=nnx.Rngs(seed)))))
  jax.tree.map(np.testing.assert_array_equal, mellow.init_params(cfg, seed), made())
