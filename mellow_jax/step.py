"""What one step computes: loss, gradients, update. All the maths, no input or output."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mellow_jax import decode, optim
from mellow_jax.config import Config, ModelConfig
from mellow_jax.models import logmel, mellow
from mellow_jax.models.mellow import Mellow

Flat = dict[str, Array]


class Batch(NamedTuple):
  """What a step reads."""

  wav1: Float[Array, "B S"]
  wav2: Float[Array, "B S"]
  text_ids: Int[Array, "B L"]
  text_lengths: Int[Array, "B"]
  answer_ids: Int[Array, "B R"]
  loss_mask: Bool[Array, "B R"]  # True at answer tokens that are learnt


class TrainState(NamedTuple):
  """Everything a run needs to go on, beside its configuration."""

  step: Int[Array, ""]
  trainable: Flat
  frozen: Flat  # held parameters, and bn0's running statistics
  opt_state: optax.OptState


class Metrics(NamedTuple):
  """What a step reports."""

  loss: Float[Array, ""]
  grad_norm: Float[Array, ""]


def merge(cfg: ModelConfig, *parts: Flat) -> Mellow:
  """The model over parameters by path; inside a jitted function this costs nothing."""
  graphdef, abstract = mellow.abstract(cfg)
  flat = {name: value for part in parts for name, value in part.items()}
  return nnx.merge(graphdef, mellow.unflatten(flat, abstract))


def encode_pair(
  model: Mellow, batch: Batch, encoder_key: Array | None, mapper_key: Array | None
) -> tuple[Float[Array, "B A D"], Float[Array, "B A D"]]:
  """Audio tokens of both clips."""
  if encoder_key is None:
    # One call, an example's clips side by side: on a mesh they stay on the example's device.
    clips = jnp.stack([batch.wav1, batch.wav2], axis=1)
    heard = model.encode(clips.reshape(-1, clips.shape[-1]), None, mapper_key)
    heard = heard.reshape(len(clips), 2, *heard.shape[1:])
    return heard[:, 0], heard[:, 1]

  def keys(i: int) -> tuple[Array, Array | None]:
    return tuple(k if k is None else jax.random.fold_in(k, i) for k in (encoder_key, mapper_key))

  # Two calls, as in the reference: batch statistics are those of the first, then of the second.
  return model.encode(batch.wav1, *keys(0)), model.encode(batch.wav2, *keys(1))


def answer_nll(
  model: Mellow,
  batch: Batch,
  encoder_key: Array | None = None,
  mapper_key: Array | None = None,
) -> Float[Array, "B R"]:
  """Negative log-likelihood of each answer token, in nats."""
  audio1, audio2 = encode_pair(model, batch, encoder_key, mapper_key)
  prefix = model.prefix(audio1, audio2, batch.text_ids)
  hidden = model.hidden(prefix, batch.text_lengths, batch.answer_ids)
  return optax.softmax_cross_entropy_with_integer_labels(
    model.decoder.logits(hidden), batch.answer_ids
  )


def init_state(flat: Flat, cfg: Config, tx: optax.GradientTransformation) -> TrainState:
  """The state before step 0."""
  trainable, frozen = optim.split(flat, cfg.optim.freeze)
  return TrainState(jnp.zeros((), jnp.int32), trainable, frozen, tx.init(trainable))


def train_step(
  state: TrainState, batch: Batch, *, cfg: Config, tx: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
  """One optimiser step on one global batch; its randomness follows from seed and step alone."""
  key = jax.random.fold_in(jax.random.key(cfg.seed), state.step)
  encoder_key, mapper_key = jax.random.split(key)

  def loss_fn(trainable: Flat) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Flat]]:
    model = merge(cfg.model, trainable, state.frozen)
    nll = answer_nll(model, batch, encoder_key if cfg.encoder_train_mode else None, mapper_key)
    statistics = {
      "encoder/bn0/mean": model.encoder.bn0.mean[...],
      "encoder/bn0/var": model.encoder.bn0.var[...],
    }
    # Counted in float32: sums of one type share an all-reduce.
    tokens = jnp.sum(batch.loss_mask, dtype=jnp.float32)
    return jnp.sum(nll * batch.loss_mask), (tokens, statistics)

  # The mean over the learnt tokens of the whole batch, divided last: dividing the loss would need
  # the number of tokens on other devices before the gradient, an all-reduce of its own.
  (loss, (tokens, statistics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.trainable)
  loss, grads = jax.tree.map(lambda x: x / jnp.maximum(tokens, 1), (loss, grads))
  updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
  trainable = optax.apply_updates(state.trainable, updates)
  state = TrainState(state.step + 1, trainable, {**state.frozen, **statistics}, opt_state)
  return state, Metrics(loss, optax.tree.norm(grads))


def eval_step(
  trainable: Flat, frozen: Flat, batch: Batch, *, cfg: ModelConfig
) -> tuple[Float[Array, ""], Int[Array, ""]]:
  """Summed loss and number of answer tokens of a batch, nothing random."""
  nll = answer_nll(merge(cfg, trainable, frozen), batch)
  return jnp.sum(nll * batch.loss_mask), jnp.sum(batch.loss_mask)


def answer(trainable: Flat, frozen: Flat, batch: Batch, *, cfg: ModelConfig) -> decode.Answers:
  """Greedy answers to a batch."""
  model = merge(cfg, trainable, frozen)
  prefix = model.prefix(*encode_pair(model, batch, None, None), batch.text_ids)
  keys = jax.random.split(jax.random.key(0), len(batch.text_ids))  # greedy draws nothing
  sampling = decode.Sampling(max_new_tokens=cfg.answer_tokens)
  return decode.generate(model, prefix, batch.text_lengths, keys, sampling)


def mel_moments(
  wav: Float[Array, "B S"], *, cfg: ModelConfig
) -> tuple[Float[Array, "F"], Float[Array, "F"]]:
  """Mean and mean square of each mel bin in dB, to calibrate bn0 on the training clips."""
  db = logmel.log_mel(wav, cfg.audio)
  return db.mean(axis=(0, 1)), jnp.square(db).mean(axis=(0, 1))


def jit_train_step(
  cfg: Config,
  tx: optax.GradientTransformation,
  state_sharding: Any,
  batch_sharding: Any,
  metrics_sharding: Any,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """The compiled step: state in place, shardings given, old state donated."""
  return jax.jit(
    functools.partial(train_step, cfg=cfg, tx=tx),
    in_shardings=(state_sharding, batch_sharding),
    out_shardings=(state_sharding, metrics_sharding),
    donate_argnums=0,
  )
