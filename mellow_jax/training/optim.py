"""Optimisers, learning-rate schedules, gradient clipping and freezing."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from mellow_jax.config import OptimConfig
from mellow_jax.errors import ConfigError
from mellow_jax.models import mellow

Step = Int[Array, ""] | int


def split(
  flat: dict[str, Array], freeze: tuple[str, ...], beside: dict[str, Array] | None = None
) -> tuple[dict[str, Array], dict[str, Array]]:
  """(trainable, frozen) parameters by path; freeze holds regexes that match whole paths.

  Running statistics are frozen; `beside`, such as LoRA factors, is trainable. Raises ConfigError
  where a regex matches nothing, or where nothing is left to train.
  """
  for regex in freeze:
    if not any(re.fullmatch(regex, name) for name in flat):
      raise ConfigError(f"config.optim.freeze: {regex!r} matches no parameter path")
  patterns = [re.compile(regex) for regex in freeze]
  frozen = {k: v for k, v in flat.items() if any(p.fullmatch(k) for p in patterns)}
  frozen |= statistics(flat)
  trainable = {k: v for k, v in flat.items() if k not in frozen} | (beside or {})
  if not trainable:
    raise ConfigError(f"config.optim.freeze {freeze} leaves no parameter to train")
  return trainable, frozen


def statistics(flat: dict[str, Array]) -> dict[str, Array]:
  """The running statistics among parameters by path."""
  return {k: v for k, v in flat.items() if mellow.is_statistic(k)}


def average(
  ema: dict[str, Array], params: dict[str, Array], decay: float, updates: Int[Array, ""]
) -> dict[str, Array]:
  """The running average of parameters after one more update; an empty one stays empty.

  The decay of the n-th update (from 0) is at most (1 + n) / (10 + n), so that the average soon
  forgets the parameters that the run began with.
  """
  decay = jnp.minimum(decay, (1 + updates) / (10 + updates))
  return {name: decay * old + (1 - decay) * params[name] for name, old in ema.items()}


def schedule(cfg: OptimConfig, steps: int, steps_per_epoch: int) -> optax.Schedule:
  """Learning rate at each step of a run; `config.validate` has checked its name."""
  if cfg.schedule == "constant":
    rate = optax.constant_schedule(cfg.learning_rate)
  elif cfg.schedule == "cosine":
    rate = optax.cosine_decay_schedule(cfg.learning_rate, max(steps - cfg.warmup_steps, 1))
  else:  # "cosine_per_epoch"
    # As the training code: CosineAnnealingLR over the epochs, constant within one.
    epochs = max(-(-steps // steps_per_epoch), 1)
    cosine = optax.cosine_decay_schedule(cfg.learning_rate, epochs)

    def rate(step: Array | int) -> Array:
      return cosine((step + cfg.warmup_steps) // steps_per_epoch)

  if not cfg.warmup_steps:
    return rate
  warmup = optax.linear_schedule(0.0, cfg.learning_rate, cfg.warmup_steps)
  return optax.join_schedules([warmup, rate], [cfg.warmup_steps])


class RunningNormState(NamedTuple):
  """Running norms of each tensor's gradient, in the order of the tree's leaves."""

  l2: Float[Array, "tensors"]
  maximum: Float[Array, "tensors"]


def clip_by_running_norm(
  initial: float, *, overdrive: float = 2.5, momentum: float = 0.995
) -> optax.GradientTransformation:
  """Scales the whole gradient down when any tensor's norm leaps above its running average.

  A tensor's limit is `overdrive` times its running norm, for the L2 norm (which starts at
  `initial`) and for the maximum norm (which starts at 10 x initial). The gradient is scaled by the
  smallest ratio of limit to norm. The running norm then takes in 1 - momentum of the norm, of a
  leap no more than overdrive^2 times itself.

  Source: gradient tracking of the reference's training code.
  """

  def init(params: PyTree) -> RunningNormState:
    ones = jnp.ones(len(jax.tree.leaves(params)), jnp.float32)
    return RunningNormState(initial * ones, 10 * initial * ones)

  def update(updates: PyTree, state: RunningNormState, params: PyTree | None = None):
    del params
    leaves = jax.tree.leaves(updates)
    norms = RunningNormState(
      l2=jnp.stack([jnp.linalg.norm(g.ravel()) for g in leaves]),
      maximum=jnp.stack([jnp.abs(g).max() for g in leaves]),
    )
    ratios = jax.tree.map(lambda n, r: overdrive * r / jnp.maximum(n, 1e-30), norms, state)
    scale = jnp.minimum(1.0, jnp.min(jnp.stack(ratios)))
    state = jax.tree.map(
      lambda n, r: momentum * r + (1 - momentum) * jnp.minimum(n, overdrive**2 * r), norms, state
    )
    return jax.tree.map(lambda g: g * scale, updates), state

  return optax.GradientTransformation(init, update)


def descend(rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
  """Scales by minus the learning rate of the step given to `update`, which counts skipped steps."""

  def update(updates: PyTree, state: PyTree, params: PyTree | None = None, *, step: Step, **_):
    del params
    factor = -rate(step)  # once: traced for each of hundreds of arrays, it would take seconds
    return jax.tree.map(lambda u: factor * u, updates), state

  return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def make(cfg: OptimConfig, rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
  """Clipping, then Adam with the config's decay; `update` takes the step's number as `step`."""
  clips = {
    "running_norm": lambda: clip_by_running_norm(cfg.clip_norm),
    "global_norm": lambda: optax.clip_by_global_norm(cfg.clip_norm),
    "none": optax.identity,
  }
  adam = optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.eps)
  decay = optax.add_decayed_weights(cfg.weight_decay)
  orders = {"adam_l2": (decay, adam), "adamw": (adam, decay)}
  return optax.chain(clips[cfg.clip](), *orders[cfg.optimizer], descend(rate))
