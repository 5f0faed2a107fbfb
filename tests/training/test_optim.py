"""Freezing, schedules, clipping and both Adams, against plain rewrites of what they promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mellow_jax.config import OptimConfig
from mellow_jax.errors import ConfigError
from mellow_jax.training import optim

FLAT = {
  "encoder/bn0/mean": jnp.zeros(2),
  "encoder/bn0/var": jnp.ones(2),
  "encoder/head/kernel": jnp.ones((2, 2)),
  "decoder/norm/scale": jnp.ones(2),
}


# --- Freezing ------------------------------------------------------------------------------------


def test_frozen_parameters_and_statistics_are_set_apart():
  trainable, frozen = optim.split(FLAT, ("encoder/.*",))
  assert set(trainable) == {"decoder/norm/scale"}
  assert set(frozen) == set(FLAT) - set(trainable)
  trainable, frozen = optim.split(FLAT, ())
  # bn0's running statistics are no parameters, even where nothing is frozen.
  assert set(frozen) == {"encoder/bn0/mean", "encoder/bn0/var"}


@pytest.mark.parametrize(
  ("freeze", "message"),
  [
    (("encoder",), r"'encoder' matches no parameter path"),  # whole paths, not beginnings
    (("encoder/.*", "deocder/.*"), r"'deocder/.\*' matches no parameter path"),
    (("encoder/.*", "decoder/.*"), "leaves no parameter to train"),
  ],
)
def test_a_freeze_that_matches_nothing_or_everything_is_refused(freeze, message):
  with pytest.raises(ConfigError, match=f"config.optim.freeze.*{message}"):
    optim.split(FLAT, freeze)


# --- Schedules -----------------------------------------------------------------------------------


def rates(steps, steps_per_epoch, **fields):
  rate = optim.schedule(OptimConfig(**fields), steps, steps_per_epoch)
  return np.array([float(rate(jnp.int32(step))) for step in range(steps)])


def annealed(peak, epoch, epochs):
  """CosineAnnealingLR of torch, in its closed form, down to 0."""
  return peak * (1 + math.cos(math.pi * epoch / epochs)) / 2


def test_cosine_per_epoch_is_torchs_cosine_annealing_and_constant_within_an_epoch():
  found = rates(17, 5, learning_rate=2e-3, schedule="cosine_per_epoch")
  expected = [annealed(2e-3, step // 5, 4) for step in range(17)]  # the fourth epoch is cut short
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert all(len(set(found[i : i + 5])) == 1 for i in (0, 5, 10))


def test_cosine_falls_every_step():
  found = rates(10, 5, learning_rate=2e-3, schedule="cosine")
  np.testing.assert_allclose(found, [annealed(2e-3, step, 10) for step in range(10)], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "cosine_per_epoch"])
def test_warm_up_rises_from_0_to_the_peak_and_then_the_schedule_begins(schedule):
  found = rates(12, 4, learning_rate=1e-2, schedule=schedule, warmup_steps=4)
  np.testing.assert_allclose(found[:4], np.array([0, 1, 2, 3]) * 0.25e-2, rtol=1e-6)
  after = {
    "constant": [1e-2] * 8,
    "cosine": [annealed(1e-2, step, 8) for step in range(8)],
    # An epoch is an epoch of the data: the warm-up has taken the first of three.
    "cosine_per_epoch": [annealed(1e-2, 1 + step // 4, 3) for step in range(8)],
  }
  # Of the peak, not of the value: at the foot of the cosine float32 has lost digits.
  np.testing.assert_allclose(found[4:], after[schedule], atol=1e-6 * 1e-2)


# --- Adam ----------------------------------------------------------------------------------------


def adam(params, grads, rate, *, l2=0.0, decoupled=0.0, b1=0.9, b2=0.999, eps=1e-8):
  """torch.optim.Adam(weight_decay=l2) or AdamW(weight_decay=decoupled), by hand in float64."""
  p, m, v = params.astype(np.float64), 0.0, 0.0
  for t, g in enumerate(grads, start=1):
    g = g + l2 * p
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    update = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    p = p - rate * (update + decoupled * p)
  return p


@pytest.mark.parametrize(("optimizer", "kind"), [("adam_l2", "l2"), ("adamw", "decoupled")])
def test_adam_with_its_decay_equals_the_formulas(optimizer, kind):
  rng = np.random.default_rng(0)
  start = rng.standard_normal(50).astype(np.float32)
  grads = rng.standard_normal((8, 50)).astype(np.float32)
  # A decay as large as the gradient: were it in the wrong place, nothing would agree.
  cfg = OptimConfig(optimizer=optimizer, weight_decay=0.5, clip="none")
  tx = optim.make(cfg, optax.constant_schedule(1e-2))
  params, state = {"w": jnp.asarray(start)}, tx.init({"w": jnp.asarray(start)})
  for number, g in enumerate(grads):
    updates, state = tx.update({"w": jnp.asarray(g)}, state, params, step=number)
    params = optax.apply_updates(params, updates)
  right = adam(start, grads, 1e-2, **{kind: 0.5})
  np.testing.assert_allclose(params["w"], right, atol=1e-6)
  other = adam(start, grads, 1e-2, **{{"l2": "decoupled", "decoupled": "l2"}[kind]: 0.5})
  assert np.abs(right - other).max() > 1e-2


def test_the_decay_is_added_after_clipping():
  params = {"w": jnp.full(4, 100.0)}
  cfg = OptimConfig(optimizer="adam_l2", weight_decay=1.0, clip="global_norm", clip_norm=1e-3)
  tx = optim.make(cfg, optax.constant_schedule(1.0))
  _, state = tx.update({"w": jnp.full(4, -1.0)}, tx.init(params), params, step=0)
  (moments,) = (s for s in state if isinstance(s, optax.ScaleByAdamState))
  np.testing.assert_allclose(moments.mu["w"] / (1 - cfg.b1), 100 - 0.5e-3, rtol=1e-6)


# --- Clipping by running norms -------------------------------------------------------------------


class RunningNorms:
  """The docstring of `clip_by_running_norm`, one tensor and one norm at a time."""

  def __init__(self, initial, overdrive=2.5, momentum=0.995):
    self.first = {"l2": initial, "max": 10 * initial}
    self.overdrive, self.momentum, self.running = overdrive, momentum, {}

  def clip(self, grads):
    scale = 1.0
    for name, g in grads.items():
      for kind, norm in (("l2", math.sqrt((g**2).sum())), ("max", np.abs(g).max())):
        running = self.running.get((name, kind), self.first[kind])
        limit = self.overdrive * running
        if norm > limit:
          scale = min(scale, limit / norm)
          norm = min(norm, self.overdrive * limit)
        self.running[name, kind] = self.momentum * running + (1 - self.momentum) * norm
    return {name: scale * g for name, g in grads.items()}, scale


def test_clipping_by_running_norms_equals_its_description():
  rng = np.random.default_rng(1)
  shapes = {"a": (3, 5), "b": (7,), "c": ()}
  tx, plain = optim.clip_by_running_norm(0.5), RunningNorms(0.5)
  state = tx.init({name: jnp.zeros(shape) for name, shape in shapes.items()})
  update, scales = jax.jit(tx.update), []
  for step in range(120):
    sizes = 10 ** rng.uniform(-2, 0, len(shapes))
    if step % 10 == 9:
      sizes[rng.integers(len(shapes))] *= 10 ** rng.uniform(1, 4)  # a leap of one tensor
    if step == 50:
      sizes[:] = 0  # a gradient of zeros is nothing to divide by
    grads = {
      name: (size * rng.standard_normal(shape)).astype(np.float32)
      for (name, shape), size in zip(shapes.items(), sizes, strict=True)
    }
    found, state = update({k: jnp.asarray(g) for k, g in grads.items()}, state)
    expected, scale = plain.clip({k: g.astype(np.float64) for k, g in grads.items()})
    scales.append(scale)
    for name in shapes:
      np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-9)
  # The sequence did what it is for: it clipped, by a lot, and let most steps through.
  assert min(scales) < 1e-2 and np.median(scales) == 1
  for (name, kind), value in plain.running.items():
    tracked = {"l2": state.l2, "max": state.maximum}[kind][sorted(shapes).index(name)]
    np.testing.assert_allclose(tracked, value, rtol=1e-5)
