"""Every number of the reference that tests/golden/seed202.npz holds, without PyTorch.

The bar is 1e-4 of each array's largest entry, 1e-5 for the loss, 1e-3 for gradients' norms and for
losses after updates.
"""

import dataclasses
import functools

import compiling
import fidelity
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fidelity import GOLDEN, TOLERANCE, check, check_losses

from mellow_jax import config, parallel
from mellow_jax.data import audioset
from mellow_jax.data.audio import Clip
from mellow_jax.evaluation.inspection import events, inspecting
from mellow_jax.inference import decode
from mellow_jax.models import logmel, mellow
from mellow_jax.training import optim, programs, step


@pytest.fixture(scope="module")
def golden():
  with np.load(GOLDEN / "seed202.npz") as file:
    return dict(file)


@pytest.fixture(scope="module")
def cfg():
  cfg = config.ModelConfig(dtype="float32")
  cfg.mapper.dropout = 0.0
  return cfg


@pytest.fixture(scope="module")
def params(cfg):
  return fidelity.weights(cfg, "manifest.json", 202)


@pytest.fixture(scope="module")
def heard(cfg, params):
  """Each stage of the encoder on both clips of the batch of 2."""

  # The tests' own level of optimisation fuses no multiply-adds.
  @functools.partial(jax.jit, compiler_options=compiling.AS_USERS_HAVE_IT)
  def run(params, wav):
    model = step.merge(cfg, params)
    db = logmel.log_mel(wav, cfg.audio)
    stages = model.encoder.stage_outputs(db)
    out = model.encoder.classify(stages[-1])
    return db, stages, out, model.mapper(out)

  wavs = [fidelity.waveforms(202, slot) for slot in range(2)]
  with jax.default_matmul_precision("highest"):
    return wavs, [run(params, wav) for wav in wavs]


@pytest.fixture(scope="module")
def batch(golden, heard):
  return step.Batch(
    wav1=jnp.asarray(heard[0][0]),
    wav2=jnp.asarray(heard[0][1]),
    text_ids=jnp.asarray(golden["text_ids"], jnp.int32),
    text_lengths=jnp.asarray(golden["text_lengths"], jnp.int32),
    answer_ids=jnp.asarray(golden["answer_ids"], jnp.int32),
    loss_mask=jnp.asarray(golden["answer_ids"] != golden["pad_id"]),
  )


def tokens(x):
  return np.asarray(x).reshape(2, -1, x.shape[-1])


def test_waveform(golden, heard, record_property):
  check(record_property, "waveform", heard[0][0][:, :2000:50], golden["audio_head"], 0.0)


def test_log_mel(golden, heard, record_property):
  check(record_property, "log-mel", heard[1][0][0][:, ::8], golden["logmel_audio1"])


def test_log_mel_by_fft_is_the_same_but_in_silence(golden, heard, cfg):
  # Below -75 dB, where 27% of the cells are, the reference's own rounding is larger than the bar:
  # float64 arithmetic is 4.4e-4 from the golden numbers there.
  expected = golden["logmel_audio1"]
  by_fft = dataclasses.replace(cfg.audio, stft="fft")
  ours = np.asarray(jax.jit(lambda wav: logmel.log_mel(wav, by_fft))(heard[0][0]))[:, ::8]
  audible = expected > -75.0
  assert audible.mean() > 0.7
  off = np.abs(ours - expected) / np.abs(expected).max()
  print(f"fidelity log-mel by FFT, above -75 dB {off[audible].max():.2e}, all {off.max():.2e}")
  assert off[audible].max() <= TOLERANCE
  assert off.max() <= 6e-4
  power, expected_power = 10 ** (ours / 10), 10 ** (expected / 10)
  assert np.abs(power - expected_power)[~audible].max() < 1e-10 * expected_power.max()


def test_patch_embedding(golden, heard, record_property):
  ours = tokens(heard[1][0][1][0])[:, ::64]
  check(record_property, "patch embedding", ours, golden["patch_embed_audio1"])


@pytest.mark.parametrize("stage", range(4))
def test_stage(golden, heard, stage, record_property):
  x = tokens(heard[1][0][1][stage + 1])
  x = x[:, :: x.shape[1] // 16]
  check(record_property, f"HTSAT stage {stage + 1}", x, golden[f"stage{stage}_audio1"])


def test_encoder_outputs(golden, heard, record_property):
  for i in range(2):
    check(record_property, f"latent {i + 1}", heard[1][i][2].latent, golden[f"latent_audio{i + 1}"])
  check(record_property, "framewise", heard[1][0][2].framewise, golden["framewise_audio1"])
  check(record_property, "clipwise", heard[1][0][2].clipwise, golden["clipwise_audio1"])


def test_inspected_event_curves(cfg, golden, heard, params, record_property):
  """As `mellow inspect` shows them, the batch of 2 standing for a clip's two windows."""
  clips = [Clip(wav, 10.0 * i, 10.0, 20.0) for i, wav in enumerate(heard[0][0])]
  nested = mellow.unflatten(params, mellow.abstract(cfg)[1])
  with jax.default_matmul_precision("highest"):
    detect = events.make_detector(cfg)
    timeline = events.detect_events("clip", clips, cfg, detect, nested["encoder"])
  expected = golden["framewise_audio1"].reshape(64, 527)
  check(record_property, "inspected events", timeline.probabilities, expected)
  shown = inspecting.report_clip(timeline, top=3, threshold=0.5)
  best = np.argsort(-expected.max(axis=0), kind="stable")[:3].tolist()
  assert [event["index"] for event in shown["events"]] == best
  for event in shown["events"]:
    assert event["name"] == audioset.CLASSES[event["index"]]
    np.testing.assert_allclose(event["probabilities"], expected[:, event["index"]], atol=1e-4)
  detected = [event["index"] for event in shown["detected"]]
  assert sorted(detected) == np.flatnonzero(expected.max(axis=0) >= 0.5).tolist()


def test_prefix(cfg, golden, heard, params, record_property):
  model = step.merge(cfg, params)
  ids = jnp.asarray(golden["text_ids"], jnp.int32)
  prefix = model.prefix(heard[1][0][3], heard[1][1][3], ids)
  assert prefix.shape == (2, 389, 576)
  rows = prefix[:, golden["prefix_positions"]]
  check(record_property, "prefix", rows, golden["prefix"])


def test_parameter_count(cfg):
  """167,020,951 as PyTorch counts, where the STFT and mel matrices are parameters too."""
  flat = mellow.flatten(mellow.abstract(cfg)[1])
  learned = sum(x.size for name, x in flat.items() if not name.endswith(("bn0/mean", "bn0/var")))
  bins = cfg.audio.n_fft // 2 + 1
  computed = 2 * bins * cfg.audio.n_fft + bins * cfg.audio.mel_bins
  assert learned == 165_937_495
  assert learned + computed == 167_020_951


def test_greedy_tokens(cfg, golden, heard, batch, params, record_property):
  """The reference's answers, through the cache that it does without."""
  sampling = decode.Sampling(max_new_tokens=golden["greedy_tokens"].shape[1])

  @jax.jit
  def answer(params, audio1, audio2):
    # An end token would end our answer early: the golden tokens hold none.
    model = step.merge(cfg, params)
    prefix = model.prefix(audio1, audio2, batch.text_ids)
    keys = jax.random.split(jax.random.key(0), 2)
    return decode.generate(model, prefix, batch.text_lengths, keys, sampling)

  assert not (golden["greedy_tokens"] == cfg.end_id).any()
  with jax.default_matmul_precision("highest"):
    found = answer(params, heard[1][0][3], heard[1][1][3])
  wrong = int((np.asarray(found.tokens)[:, 0] != golden["greedy_tokens"]).sum())
  record_property("greedy tokens", int(wrong))
  print(f"fidelity greedy tokens that differ {wrong}")
  assert wrong == 0


@pytest.fixture(scope="module")
def train_config(cfg):
  """The recipe of golden/README: torch's Adam, learning rate 1e-4, L2 decay 1e-4, HTSAT frozen."""
  return config.Config(
    model=dataclasses.replace(cfg, audio=config.AudioConfig(stft="fft")),  # as configs/mellow.py
    optim=config.OptimConfig(learning_rate=1e-4, schedule="constant", clip="none"),
  )


@pytest.fixture
def state(train_config, params):
  """The state before the first step."""
  tx = optim.make(train_config.optim, optim.schedule(train_config.optim, 1, 1))
  return step.init_state(params, train_config, tx)


@pytest.fixture(scope="module")
def forward(train_config, golden, batch):
  """Loss and logits of the batch, from the model's own parts and not through the step."""

  @jax.jit
  def forward(trainable, frozen):
    model = step.merge(train_config.model, trainable, frozen)
    audio = step.encode_pair(model, batch, None, None)
    prefix = model.prefix(*audio, batch.text_ids)
    hidden = model.hidden(prefix, batch.text_lengths, batch.answer_ids)
    logits = model.decoder.logits(hidden)
    log_probs = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_probs, batch.answer_ids[..., None], -1)[..., 0]
    mean = jnp.sum(nll * batch.loss_mask) / jnp.sum(batch.loss_mask)
    return mean, logits[:, golden["logits_row_ids"], ::96]

  return forward


def test_loss_and_logits(state, forward, golden, record_property):
  with jax.default_matmul_precision("highest"):
    loss, logits = forward(state.trainable, state.frozen)
  check(record_property, "logits", logits, golden["logits_rows"])
  check_losses(record_property, "loss", [float(loss)], golden["loss"], 1e-5)


@pytest.mark.slow  # 10 GiB
def test_gradients_and_adam(state, forward, train_config, golden, batch, record_property):
  """The gradient by tensor, and two steps of Adam, through our own step."""
  cfg = train_config.optim
  with jax.default_matmul_precision("highest"):
    before = {name: np.array(x) for name, x in state.trainable.items()}

    # As the training command does it, but for the folders.
    run = programs.make(train_config, parallel.make_mesh((1, 1))).train_step
    state, metrics = run(state, batch)
    losses = [float(metrics.loss)]

    # The first moment after one step holds the gradient that the step itself found, with its decay.
    moment = optax.tree.get(state.opt_state, "mu")
    ours = {
      name: np.linalg.norm(np.asarray(m) / (1 - cfg.b1) - cfg.weight_decay * before[name])
      for name, m in moment.items()
    }
    worst = fidelity.gradient_norms(train_config.model, ours, golden)
    record_property("gradient norms", float(worst))
    print(f"fidelity gradient norms {worst:.2e}")
    assert not ours
    assert worst <= 1e-3

    state, metrics = run(state, batch)
    losses += [float(metrics.loss), float(forward(state.trainable, state.frozen)[0])]
  check_losses(record_property, "loss of the step", losses[0], golden["loss"], 1e-5)
  check_losses(record_property, "adam losses", losses, golden["adam_losses"], 1e-3)
