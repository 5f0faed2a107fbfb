"""One step of training: what it leaves out, what it adds up, in which type, and what it keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import topology

from mellow_jax import optim, parallel, step
from mellow_jax.config import OptimConfig
from mellow_jax.models import mellow

# A large eps: Adam makes steps of full size out of gradients that are rounding alone.
OPTIM = OptimConfig(schedule="cosine", eps=1e-3, freeze=("encoder/(?!bn0).*",), ema=0.9)


def config(**changes):
  """A run with everything random, and with the statistics of the batch."""
  cfg = tiny.run(optim=OPTIM, encoder_train_mode=True, batch_size=4, **changes)
  encoder = dataclasses.replace(cfg.model.encoder, batch_statistics=True, spec_augment=True)
  return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, encoder=encoder))


def start(cfg, steps=10):
  """The compiled step of a run on one device, and its first state."""
  tx = optim.make(cfg.optim, optim.schedule(cfg.optim, steps, 1))
  mesh = parallel.make_mesh((1, 1))
  flat = mellow.flatten(tiny.params(cfg.model))
  state = step.init_state(flat, cfg, tx)
  sharding = parallel.shardings(jax.eval_shape(lambda: state), mesh)
  run = step.jit_train_step(
    cfg, tx, sharding, parallel.batch_sharding(mesh), parallel.replicated(mesh)
  )
  # Programs as small as these compile in half the time unoptimised.
  options = {"xla_backend_optimization_level": 0}
  run = run.lower(state, topology.batch(cfg, 0)).compile(options)
  return run, jax.device_put(state, sharding)


def host(tree):
  return jax.tree.map(np.array, tree)  # copies: a step overwrites what it is given


def spoilt(cfg, number):
  """A batch of which one example is no number."""
  batch = topology.batch(cfg, number)
  batch.wav1[1] = np.nan
  return batch


# --- Updates that are left out -------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe():
  cfg = config()
  run, state = start(cfg)
  return cfg, run, host(state)


def test_without_a_finite_loss_nothing_changes_but_the_counters(recipe):
  cfg, run, state = recipe
  state, _ = run(state, topology.batch(cfg, 0))
  before = host(state)
  for number in (1, 2):
    state, metrics = run(state, spoilt(cfg, number))
    assert np.isnan(metrics.loss) and np.isnan(metrics.grad_norm)
    assert (metrics.skipped, metrics.skipped_in_a_row) == (number, number)
  after = host(state)
  assert (after.step, after.skipped, after.skipped_in_a_row) == (3, 2, 2)
  for name in ("trainable", "frozen", "opt_state", "ema"):
    old, new = (jax.tree.leaves(getattr(s, name)) for s in (before, after))
    assert len(old) == len(new) > 0
    assert all(np.array_equal(x, y) for x, y in zip(old, new, strict=True)), name
  # Statistics of the batch are among them: a good step changes them.
  state, metrics = run(state, topology.batch(cfg, 3))
  assert (metrics.skipped, metrics.skipped_in_a_row) == (2, 0)
  assert np.isfinite(metrics.loss)
  for part, name in (("frozen", "encoder/bn0/mean"), ("trainable", "decoder/norm/scale")):
    assert not np.array_equal(getattr(state, part)[name], getattr(after, part)[name])


def test_a_gradient_too_large_for_its_norm_counts_as_not_finite(recipe):
  cfg, run, state = recipe
  before = {**state.trainable, "decoder/norm/scale": np.full(32, 1e25, np.float32)}
  state = state._replace(trainable=before)
  state, metrics = run(state, topology.batch(cfg, 0))
  assert np.isfinite(metrics.loss) and np.isinf(metrics.grad_norm) and metrics.skipped == 1
  assert all(np.array_equal(state.trainable[name], before[name]) for name in before)


def test_the_learning_rate_is_that_of_the_step_also_after_an_update_left_out():
  cfg = OptimConfig(schedule="cosine", learning_rate=1.0, clip="none")
  rate = optim.schedule(cfg, 10, 1)
  tx = optim.make(cfg, rate)
  params = {"w": jnp.zeros(3)}
  for number in (0, 4, 9):
    updates, _ = tx.update({"w": jnp.ones(3)}, tx.init(params), params, step=number)
    np.testing.assert_allclose(updates["w"], -float(rate(number)), rtol=1e-5)
