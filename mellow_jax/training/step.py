"""The maths of one training step: loss, gradients, update. No input or output."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from mellow_jax import parallel
from mellow_jax.config import Config, ModelConfig
from mellow_jax.inference import decode
from mellow_jax.models import example_rng, logmel, lora, mellow
from mellow_jax.models.mellow import MellowModel
from mellow_jax.training import optim

Flat = dict[str, Array]


class Batch(NamedTuple):
  """Input of a step: two clips, a question and its answer for each example.

  Where K questions share their clips, texts are of shape [B, K, ...].
  """

  wav1: Float[Array, "B S"]  # or features in its place, see MellowModel.encode
  wav2: Float[Array, "B S"]
  text_ids: Int[Array, "B L"]
  text_lengths: Int[Array, "B"]
  answer_ids: Int[Array, "B R"]
  loss_mask: Bool[Array, "B R"]  # True at answer tokens that count in the loss
  # Places of the examples in the step's batch, from which their random numbers follow; None: their
  # places in this one.
  rows: Int[Array, "B"] | None = None


Parts = tuple[Batch, ...]  # of one step, each with as many slots for answers as it needs


class TrainState(NamedTuple):
  """What a checkpoint holds of a run, beside its configuration."""

  step: Int[Array, ""]  # batches so far, with those whose update was skipped
  trainable: Flat
  frozen: Flat  # frozen parameters, and running statistics
  opt_state: optax.OptState
  ema: Flat  # running average of trainable; empty unless the config asks for it
  skipped: Int[Array, ""]  # updates skipped because loss or gradient was not finite
  skipped_in_a_row: Int[Array, ""]  # of those, the last ones without an update in between


class Metrics(NamedTuple):
  """Results of a step for the log."""

  loss: Float[Array, ""]
  grad_norm: Float[Array, ""]
  learning_rate: Float[Array, ""]  # of this step, also where its update is skipped
  skipped: Int[Array, ""]
  skipped_in_a_row: Int[Array, ""]


def answer_slots(batch: Batch | Parts) -> tuple[int, ...]:
  """Slots for answers in each part of a batch: a step is compiled for each."""
  parts = (batch,) if isinstance(batch, Batch) else batch
  return tuple(part.answer_ids.shape[-1] for part in parts)


def merge(cfg: ModelConfig, *parts: Flat) -> MellowModel:
  """The model over parameters by path; inside a jitted function this costs nothing."""
  graphdef, abstract = mellow.abstract(cfg)
  flat = {name: value for part in parts for name, value in part.items()}
  return nnx.merge(graphdef, mellow.unflatten(flat, abstract))


def encode_pair(
  model: MellowModel,
  batch: Batch,
  encoder_keys: Key[Array, "B"] | None,
  mapper_keys: Key[Array, "B"] | None,
) -> tuple[Float[Array, "B A D"], Float[Array, "B A D"]]:
  """Audio tokens of both clips.

  Keys, one per example, switch on the training mode of the encoder and of the mapper.
  """

  def keys(i: int) -> list[Key[Array, "B"] | None]:
    return [k if k is None else example_rng.fold(k, i) for k in (encoder_keys, mapper_keys)]

  if encoder_keys is not None:
    # Two calls, as in the reference: batch statistics are those of the first, then of the second.
    return model.encode(batch.wav1, *keys(0)), model.encode(batch.wav2, *keys(1))
  # One call, with both clips of an example next to each other.
  clips = jnp.stack([batch.wav1, batch.wav2], axis=1)
  if mapper_keys is not None:
    mapper_keys = jnp.stack([keys(0)[1], keys(1)[1]], axis=1).reshape(-1)
  audio = model.encode(clips.reshape(-1, clips.shape[-1]), None, mapper_keys)
  audio = audio.reshape(len(clips), 2, *audio.shape[1:])
  return audio[:, 0], audio[:, 1]


def answer_states(
  model: MellowModel,
  batch: Batch,
  encoder_keys: Key[Array, "B"] | None = None,
  mapper_keys: Key[Array, "B"] | None = None,
  decoder_keys: Key[Array, "B"] | None = None,
) -> Float[Array, "b R D"]:
  """The decoder's hidden states from which it says each token of the right answer.

  Of K questions that share their clips, b is B times K.
  """
  audio1, audio2 = encode_pair(model, batch, encoder_keys, mapper_keys)
  texts = (batch.text_ids, batch.text_lengths, batch.answer_ids)
  if batch.text_ids.ndim == 3:
    return model.shared_hidden(audio1, audio2, *texts, decoder_keys)
  prefix = model.prefix(audio1, audio2, batch.text_ids)
  return model.hidden(prefix, *texts[1:], decoder_keys)


def answer_nll(
  model: MellowModel, batch: Batch, *keys: Key[Array, "B"] | None
) -> Float[Array, "B *K R"]:
  """Negative log-likelihood of each answer token, in nats; keys are those of `answer_states`."""
  hidden = answer_states(model, batch, *keys)
  nll = model.decoder.nll(hidden, batch.answer_ids.reshape(len(hidden), -1))
  return nll.reshape(batch.answer_ids.shape)


def init_state(flat: Flat, cfg: Config, tx: optax.GradientTransformation) -> TrainState:
  """The state before step 0."""
  lora_key = jax.random.fold_in(jax.random.key(cfg.seed), 2**31)  # no step has this number
  factors = lora.init(flat, cfg.optim.lora, lora_key)
  adapted = map(re.escape, lora.kernels(flat, cfg.optim.lora))
  trainable, frozen = optim.split(flat, (*cfg.optim.freeze, *adapted), factors)
  # Separate arrays: the step donates its input, so that no two leaves may share memory.
  ema = jax.tree.map(jnp.copy, trainable) if cfg.optim.ema else {}
  step, *skipped = (jnp.zeros((), jnp.int32) for _ in range(3))
  return TrainState(step, trainable, frozen, tx.init(trainable), ema, *skipped)


def gradient(
  trainable: Flat,
  frozen: Flat,
  batch: Batch | Parts,
  keys: Key[Array, "B"] | tuple[Key[Array, "b"], ...],
  *,
  cfg: Config,
  axes: tuple[str, ...] = (),
  decoder: parallel.DecoderWays | None = None,
) -> tuple[tuple[Float[Array, ""], Float[Array, ""], Flat], Flat]:
  """(loss, tokens, gradient) summed over a batch's answer tokens, and the statistics.

  With mesh axes, each device computes on its own examples, and one all-reduce at the end sums over
  the devices. decoder: in what ways it computes, its own by default.
  """

  def loss_fn(trainable: Flat, statistics: Flat, batch: Batch, keys: Key[Array, "B"]):
    model = merge(cfg.model, trainable, frozen, statistics)
    # Batch statistics are those of all devices.
    model.encoder.set_attributes(nnx.BatchNorm, axis_name=axes or None)
    if decoder:
      model.decoder.attention = decoder.attention
      model.decoder.logits_bytes = decoder.logits_bytes or model.decoder.logits_bytes
    parts = (example_rng.fold(keys, i) for i in range(4))
    encoder_keys, mapper_keys, lora_keys, decoder_keys = parts
    lora.attach(model, trainable, lora_keys, cfg.optim.lora)
    encoder_keys = encoder_keys if cfg.encoder_train_mode else None
    nll = answer_nll(model, batch, encoder_keys, mapper_keys, decoder_keys)
    return jnp.sum(nll * batch.loss_mask), mellow.statistics(model)

  def microbatch(statistics: Flat, batch: Batch, keys: Key[Array, "B"]) -> tuple[tuple, Flat]:
    run = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, statistics), grads = run(trainable, statistics, batch, keys)
    return (loss, jnp.sum(batch.loss_mask, dtype=jnp.float32), grads), statistics

  def add(carry: tuple, part: tuple[Batch, Key[Array, "B"]]) -> tuple[tuple, None]:
    sums, statistics = carry
    more, statistics = microbatch(statistics, *part)
    return (jax.tree.map(jnp.add, sums, more), statistics), None

  statistics = optim.statistics(frozen)
  if not isinstance(batch, Batch):
    sums, statistics = microbatch(statistics, batch[0], keys[0])
    for part in zip(batch[1:], keys[1:], strict=True):
      # One after the other, in the memory of one.
      sums, part = jax.lax.optimization_barrier((sums, part))
      (sums, statistics), _ = add((sums, statistics), part)
    return jax.lax.psum(sums, axes), statistics
  if cfg.accumulate == 1:
    sums, statistics = microbatch(statistics, batch, keys)
    return jax.lax.psum(sums, axes), statistics
  # A microbatch takes every accumulate-th row: the same rows on any number of devices.
  parts = jax.tree.map(
    lambda x: x.reshape(-1, cfg.accumulate, *x.shape[1:]).swapaxes(0, 1), (batch, keys)
  )
  zero = jnp.zeros((), jnp.float32)
  start = (zero, zero, jax.tree.map(jnp.zeros_like, trainable)), statistics
  (sums, statistics), _ = jax.lax.scan(add, start, parts)
  return jax.lax.psum(sums, axes), statistics


def train_step(
  state: TrainState,
  batch: Batch | Parts,
  *,
  cfg: Config,
  tx: optax.GradientTransformationExtraArgs,
  rate: optax.Schedule,
  mesh: Mesh | None = None,
  usual_tokens: float | None = None,
) -> tuple[TrainState, Metrics]:
  """One optimiser step on one global batch; its randomness depends on seed and step alone.

  The gradient is that of the mean over the batch's answer tokens. With usual_tokens, the answer
  tokens of most batches, it is the sum divided by them: where batches have very different numbers,
  each token then counts the same. Where loss or gradient is not finite, the update is skipped: only
  counters change. rate is the schedule of tx, for the log.
  """
  key = jax.random.fold_in(jax.random.key(cfg.seed), state.step)

  def keys_of(part: Batch) -> Key[Array, "B"]:
    rows = jnp.arange(len(part.text_ids)) if part.rows is None else part.rows
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)

  keys = keys_of(batch) if isinstance(batch, Batch) else tuple(map(keys_of, batch))
  axes = mesh.axis_names if mesh else ()
  total = functools.partial(gradient, cfg=cfg, axes=axes, decoder=parallel.decoder_ways(cfg, mesh))
  if mesh:
    here, everywhere = PartitionSpec(mesh.axis_names), PartitionSpec()
    specs = (everywhere, everywhere, here, here)
    total = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False)
  (loss, tokens, grads), statistics = total(state.trainable, state.frozen, batch, keys)
  loss = loss / jnp.maximum(tokens, 1)
  count = jnp.maximum(tokens, 1) if usual_tokens is None else usual_tokens
  grads = jax.tree.map(lambda x: x / count, grads)
  grad_norm = optax.tree.norm(grads)

  updates, opt_state = tx.update(grads, state.opt_state, state.trainable, step=state.step)
  trainable = optax.apply_updates(state.trainable, updates)
  ema = optim.average(state.ema, trainable, cfg.optim.ema, state.step - state.skipped)
  is_good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  trainable, statistics, opt_state, ema = jax.tree.map(
    lambda new, old: jnp.where(is_good, new, old),
    (trainable, statistics, opt_state, ema),
    (state.trainable, optim.statistics(state.frozen), state.opt_state, state.ema),
  )
  frozen = {**state.frozen, **statistics}
  skipped = state.skipped + ~is_good
  in_a_row = jnp.where(is_good, 0, state.skipped_in_a_row + 1)
  metrics = Metrics(loss, grad_norm, jnp.float32(rate(state.step)), skipped, in_a_row)
  state = TrainState(state.step + 1, trainable, frozen, opt_state, ema, skipped, in_a_row)
  return state, metrics


def inference_params(state: TrainState, cfg: Config) -> Flat:
  """Inference parameters: LoRA merged, EMA if kept."""
  flat = {**(state.ema or state.trainable), **state.frozen}
  return lora.merge(flat, lora.scale(cfg.optim.lora))


def adapter(state: TrainState, cfg: Config) -> Flat:
  """The trained part alone, for `init_from`: LoRA factors with their scale, EMA if kept."""
  flat = {**(state.ema or state.trainable), **optim.statistics(state.frozen)}
  return lora.scaled(flat, lora.scale(cfg.optim.lora))


class AnswerSums(NamedTuple):
  """Sums over the answers of a batch."""

  loss: Float[Array, ""]  # nats
  tokens: Int[Array, ""]
  right: Int[Array, ""]  # answers that greedy decoding gives word for word
  answers: Int[Array, ""]


def eval_step(params: Flat, batch: Batch, *, cfg: ModelConfig) -> AnswerSums:
  """Loss and right answers of a batch; nothing is random.

  Greedy decoding gives an answer word for word if, after the right tokens so far, the next one is
  the most probable each time: no answer has to be decoded.
  """
  model = merge(cfg, params)
  hidden = answer_states(model, batch)
  nll = model.decoder.nll(hidden, batch.answer_ids)
  is_right = model.decoder.is_first_choice(hidden, batch.answer_ids) | ~batch.loss_mask
  is_answer = batch.loss_mask.any(axis=1)
  return AnswerSums(
    jnp.sum(nll * batch.loss_mask),
    jnp.sum(batch.loss_mask),
    jnp.sum(is_right.all(axis=1) & is_answer),
    jnp.sum(is_answer),
  )


def answer(params: Flat, batch: Batch, *, cfg: ModelConfig) -> decode.Generation:
  """Greedy answers to a batch."""
  model = merge(cfg, params)
  prefix = model.prefix(*encode_pair(model, batch, None, None), batch.text_ids)
  keys = jax.random.split(jax.random.key(0), len(batch.text_ids))  # unused by greedy decoding
  sampling = decode.Sampling(max_new_tokens=cfg.answer_tokens)
  return decode.generate(model, prefix, batch.text_lengths, keys, sampling)


def mel_moments(
  wav: Float[Array, "B S"], *, cfg: ModelConfig
) -> tuple[Float[Array, "F"], Float[Array, "F"]]:
  """Mean (dB) and mean square (dB^2) of each mel bin, to calibrate bn0 on training clips."""
  db = logmel.log_mel(wav, cfg.audio)
  return db.mean(axis=(0, 1)), jnp.square(db).mean(axis=(0, 1))
