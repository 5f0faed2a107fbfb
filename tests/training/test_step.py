"""One step of training: what it leaves out, what it adds up, in which type, and what it keeps."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import topology

from mellow_jax import parallel
from mellow_jax.config import OptimConfig
from mellow_jax.data import answer_lengths
from mellow_jax.models import mellow
from mellow_jax.training import optim, programs, step

# A large eps: Adam makes steps of full size out of gradients that are rounding alone.
OPTIM = OptimConfig(schedule="cosine", eps=1e-3, ema=0.9)


def config(**changes):
  """A run with everything random, and with the statistics of the batch."""
  cfg = tiny.run(optim=OPTIM, encoder_train_mode=True, batch_size=4, **changes)
  encoder = dataclasses.replace(cfg.model.encoder, batch_statistics=True, spec_augment=True)
  return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, encoder=encoder))


def start(cfg, steps=10, batch=None):
  """The compiled step of a run on one device, for batches as the given, and its first state."""
  batch = topology.batch(cfg, 0) if batch is None else batch
  compiled = programs.make(dataclasses.replace(cfg, steps=steps), parallel.make_mesh((1, 1)))
  run = compiled.train_step.lower(compiled.abstract, batch).compile()
  return run, compiled.init_state(mellow.flatten(tiny.params(cfg.model)))


def host(tree):
  return jax.tree.map(np.array, tree)  # copies: a step overwrites what it is given


def spoilt(cfg, number):
  """A batch of which one example is no number."""
  batch = topology.batch(cfg, number)
  batch.wav1[1] = np.nan
  return batch


def test_validation_counts_the_answers_that_greedy_decoding_gives_word_for_word():
  cfg = config()
  params = mellow.flatten(tiny.params(cfg.model))
  batch = topology.batch(cfg, 0)
  found = jax.jit(functools.partial(step.answer, cfg=cfg.model))(params, batch)
  answers = np.array(found.tokens[:, 0])
  lengths = np.minimum(np.asarray(found.lengths[:, 0]) + 1, answers.shape[1])  # with the end
  mask = np.arange(answers.shape[1]) < lengths[:, None]
  answers = np.where(mask, answers, 1)
  scores = jax.jit(functools.partial(step.eval_step, cfg=cfg.model))
  right = scores(params, batch._replace(answer_ids=answers, loss_mask=mask))
  assert (right.right, right.answers, right.tokens) == (4, 4, mask.sum())
  answers[1, lengths[1] - 1] += 1  # the last token is wrong in one, and one is padding
  mask[2] = False
  wrong = scores(params, batch._replace(answer_ids=answers, loss_mask=mask))
  assert (wrong.right, wrong.answers) == (2, 3)


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


def test_the_rate_among_the_metrics_is_that_of_the_step_also_where_it_is_left_out(recipe):
  cfg, run, state = recipe
  rate = optim.schedule(cfg.optim, 10, 1)
  for number, make in enumerate((topology.batch, spoilt, topology.batch)):
    state, metrics = run(state, make(cfg, number))
    assert float(metrics.learning_rate) == pytest.approx(float(rate(number)), rel=1e-6)


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


# --- Parts of a batch ----------------------------------------------------------------------------


def gradient(cfg, batch):
  """Loss, tokens and gradient of the first step, summed over the batch."""
  flat = mellow.flatten(tiny.params(cfg.model))
  trainable, frozen = optim.split(flat, cfg.optim.freeze)
  keys = jax.random.split(jax.random.key(0), cfg.batch_size)
  run = jax.jit(functools.partial(step.gradient, cfg=cfg))
  return run(trainable, frozen, batch, keys)[0]


@pytest.mark.slow
def test_parts_of_a_batch_add_up_to_the_whole_and_draw_the_same():
  # Everything random but for the batch's own statistics, which are those of a part.
  cfg = config()
  cfg.model.encoder.batch_statistics = False
  batch = topology.batch(cfg, 0)
  assert len(set(batch.loss_mask.sum(axis=1))) > 1  # as many tokens in every part prove nothing
  loss, tokens, grads = gradient(cfg, batch)
  loss2, tokens2, grads2 = gradient(dataclasses.replace(cfg, accumulate=2), batch)
  assert tokens2 == tokens == batch.loss_mask.sum()
  np.testing.assert_allclose(loss2, loss, rtol=1e-6)
  for name in grads:
    largest = float(jnp.abs(grads[name]).max())
    np.testing.assert_allclose(grads2[name], grads[name], atol=1e-5 * largest + 1e-6, err_msg=name)


def cut_behind_the_longest(cfg, batch):
  """The batch in two parts by length, each with as many slots as it needs."""
  arrays = {name: x for name, x in batch._asdict().items() if x is not None}
  parts = answer_lengths.in_parts(arrays, 2)
  slots = [int(answer_lengths.needed(part["loss_mask"]).max()) for part in parts]
  assert slots[0] < slots[1] < cfg.model.answer_tokens
  return tuple(
    step.Batch(**answer_lengths.cut(part, n)) for part, n in zip(parts, slots, strict=True)
  )


def test_a_batch_in_parts_by_length_gives_the_update_of_the_whole():
  cfg = config()
  cfg.model.encoder.batch_statistics = False
  batch = topology.batch(cfg, 3)
  parts = cut_behind_the_longest(cfg, batch)
  (run, state), (run2, state2) = start(cfg), start(cfg, batch=parts)
  (state, metrics), (state2, metrics2) = run(state, batch), run2(state2, parts)
  np.testing.assert_allclose(metrics2.loss, metrics.loss, rtol=1e-6)
  np.testing.assert_allclose(metrics2.grad_norm, metrics.grad_norm, rtol=1e-5)
  for name, x in state.trainable.items():
    np.testing.assert_allclose(state2.trainable[name], x, atol=1e-6, err_msg=name)


def test_of_batches_of_one_length_each_token_counts_the_same():
  """Two batches' gradients, over their usual tokens, add up to that of the mean over all tokens."""
  cfg = dataclasses.replace(config(), encoder_train_mode=False)
  short, long = topology.batch(cfg, 3), topology.batch(cfg, 4)
  short.loss_mask[:, 2:] = False
  tokens = [float(batch.loss_mask.sum()) for batch in (short, long)]
  assert tokens[0] < tokens[1] / 2
  usual = sum(tokens) / 2

  def norm(batch, **settings):
    made = programs.make(cfg, parallel.make_mesh((1, 1)), **settings)
    state = made.init_state(mellow.flatten(tiny.params(cfg.model)))
    return made.train_step(state, batch)[1]

  for batch, count in zip((short, long), tokens, strict=True):
    plain, weighed = norm(batch), norm(batch, usual_tokens=usual)
    np.testing.assert_allclose(weighed.loss, plain.loss)
    np.testing.assert_allclose(weighed.grad_norm, plain.grad_norm * count / usual, rtol=1e-6)


# --- Types ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bfloat16_is_a_matter_of_computation_alone():
  full = tiny.run(batch_size=2)
  half = dataclasses.replace(full, model=dataclasses.replace(full.model, dtype="bfloat16"))
  batch = topology.batch(full, 0)
  (loss, _, grads), (half_loss, _, half_grads) = gradient(full, batch), gradient(half, batch)
  assert half_loss != loss and half_loss == pytest.approx(float(loss), rel=2e-2)
  assert {g.dtype for g in half_grads.values()} == {jnp.dtype("float32")}
  cosine = optax.tree.vdot(grads, half_grads) / (
    optax.tree.norm(grads) * optax.tree.norm(half_grads)
  )
  assert cosine > 0.98
  rate = optim.schedule(half.optim, 1, 1)
  tx = optim.make(half.optim, rate)
  state = topology.abstract_state(half, tx)
  compute = functools.partial(step.train_step, cfg=half, tx=tx, rate=rate)
  after, metrics = jax.eval_shape(compute, state, batch)
  for leaf in jax.tree.leaves((state, after, metrics)):
    assert leaf.dtype in (jnp.float32, jnp.int32)
  # The type is the products'; what softmax, norms and the loss are made of is float32.
  program = str(jax.make_jaxpr(compute)(state, batch))
  narrow = set(re.findall(r"bf16\[[\d,]*\] = (\w+)", program))
  assert "dot_general" in narrow
  assert not narrow & {"reduce_max", "log", "rsqrt", "sqrt", "cos", "sin"}


# --- Averages ------------------------------------------------------------------------------------


def test_the_average_follows_its_formula_and_is_what_answers():
  cfg = tiny.run(optim=OptimConfig(ema=0.3))
  flat = {"decoder/norm/scale": jnp.zeros(2), "encoder/bn0/mean": jnp.ones(2)}
  tx = optim.make(cfg.optim, optim.schedule(cfg.optim, 1, 1))
  cfg.optim.freeze = ()
  state = step.init_state(flat, cfg, tx)
  expected = 0.0
  for n in range(5):
    params = {"decoder/norm/scale": jnp.full(2, n + 1.0)}
    ema = optim.average(state.ema, params, cfg.optim.ema, jnp.int32(n))
    decay = min(0.3, (1 + n) / (10 + n))  # 0.1, 0.18, 0.25, 0.3, 0.3
    expected = decay * expected + (1 - decay) * (n + 1)
    np.testing.assert_allclose(ema["decoder/norm/scale"], expected, rtol=1e-6)
    state = state._replace(ema=ema, trainable=params)
  params = step.inference_params(state, cfg)
  assert params["decoder/norm/scale"][0] == ema["decoder/norm/scale"][0] != 5
  assert params["encoder/bn0/mean"][0] == 1
  without = step.init_state(flat, tiny.run(optim=OptimConfig(freeze=())), tx)
  assert without.ema == {} and optim.average({}, params, 0.0, jnp.int32(0)) == {}


# --- What is frozen ------------------------------------------------------------------------------


def kept(freeze, depths, train_mode):
  """Bytes that the forward pass keeps for the gradient, beside parameters and batch."""
  cfg = tiny.run(optim=OptimConfig(freeze=freeze), batch_size=2, encoder_train_mode=train_mode)
  encoder = dataclasses.replace(
    cfg.model.encoder, depths=depths, batch_statistics=True, spec_augment=True, stochastic_depth=0.1
  )
  cfg.model = dataclasses.replace(cfg.model, encoder=encoder)
  flat = mellow.flatten(mellow.abstract(cfg.model)[1])
  trainable, frozen = jax.eval_shape(lambda flat: optim.split(flat, freeze), flat)
  batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, topology.batch(cfg, 0)))
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))

  def residuals(trainable, frozen, batch, keys):
    def loss(trainable):
      model = step.merge(cfg.model, trainable, frozen)
      return step.answer_nll(model, batch, keys if train_mode else None, keys).sum()

    return jax.vjp(loss, trainable)[1]

  leaves = jax.tree.leaves(jax.eval_shape(residuals, trainable, frozen, batch, keys))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if leaf.dtype == jnp.float32)


@pytest.mark.parametrize("train_mode", [False, True])
def test_a_frozen_encoder_leaves_nothing_for_the_gradient(train_mode):
  shallow, deep = ((kept(("encoder/.*",), d, train_mode)) for d in ((1, 1), (3, 1)))
  assert shallow == deep > 0
  shallow, deep = ((kept((), d, train_mode)) for d in ((1, 1), (3, 1)))
  assert deep > 1.2 * shallow
