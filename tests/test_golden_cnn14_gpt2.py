"""Every number of the reference that tests/golden/cnn14_gpt2_seed303.npz holds, without PyTorch.

The other encoder and the other decoder at full size; the bars are those of test_golden.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fidelity import GOLDEN, check, check_losses, gradient_norms, waveforms, weights

from mellow_jax import config, parallel
from mellow_jax.config import CNN14Config, GPT2Config
from mellow_jax.inference import decode
from mellow_jax.training import programs, step

SEED = 303


@pytest.fixture(scope="module")
def golden():
  with np.load(GOLDEN / "cnn14_gpt2_seed303.npz") as file:
    return dict(file)


@pytest.fixture(scope="module")
def cfg():
  return config.ModelConfig(
    encoder=CNN14Config(),
    mapper=config.NonlinearConfig(dropout=0.0),
    decoder=GPT2Config(dropout=0.0),
    sep_id=50_256,
    end_id=50_256,
    pad_id=0,
    dtype="float32",
  )


@pytest.fixture(scope="module")
def params(cfg):
  return weights(cfg, "manifest_cnn14_gpt2.json", SEED)


@pytest.fixture(scope="module")
def batch(cfg, golden):
  return step.Batch(
    wav1=jnp.asarray(waveforms(SEED, 0)),
    wav2=jnp.asarray(waveforms(SEED, 1)),
    text_ids=jnp.asarray(golden["text_ids"], jnp.int32),
    text_lengths=jnp.full(2, cfg.text_tokens, jnp.int32),  # nothing is masked
    answer_ids=jnp.asarray(golden["answer_ids"], jnp.int32),
    loss_mask=jnp.asarray(golden["answer_ids"] != golden["pad_id"]),
  )


@pytest.fixture(scope="module")
def encoded(cfg, params, batch):
  """The encoder's output of the first clips, and the audio tokens of both."""

  @jax.jit
  def run(params, wav):
    model = step.merge(cfg, params)
    output = model.encoder(wav)
    return output, model.mapper(output)

  with jax.default_matmul_precision("highest"):
    (output, audio1), (_, audio2) = (run(params, wav) for wav in (batch.wav1, batch.wav2))
  return output, audio1, audio2


@pytest.mark.slow
def test_encoder_outputs(encoded, golden, record_property):
  output, audio1, _ = encoded
  check(record_property, "CNN14 clipwise", output.clipwise, golden["clipwise_audio1"])
  framewise = output.framewise[:, ::6, ::8]
  check(record_property, "CNN14 framewise", framewise, golden["framewise_audio1"])
  rows = audio1[:, jnp.asarray([0, 1, 15, 31])]
  check(record_property, "CNN14 embedding", rows, golden["embedding_audio1"])


@pytest.mark.slow
def test_prefix_and_greedy_tokens(cfg, params, batch, encoded, golden, record_property):
  sampling = decode.Sampling(max_new_tokens=golden["greedy_tokens"].shape[1])

  @jax.jit
  def answer(params, audio1, audio2):
    model = step.merge(cfg, params)
    prefix = model.prefix(audio1, audio2, batch.text_ids)
    keys = jax.random.split(jax.random.key(0), 2)
    return prefix, decode.generate(model, prefix, batch.text_lengths, keys, sampling)

  with jax.default_matmul_precision("highest"):
    prefix, found = answer(params, *encoded[1:])
  assert prefix.shape == (2, 195, 768)
  rows = prefix[:, golden["prefix_positions"]]
  check(record_property, "CNN14 prefix", rows, golden["prefix"])
  # An end token would end our answer early: the golden tokens hold none.
  assert not (golden["greedy_tokens"] == cfg.end_id).any()
  np.testing.assert_array_equal(found.tokens[:, 0], golden["greedy_tokens"])


@pytest.mark.slow
def test_loss_and_gradient(cfg, params, batch, golden, record_property):
  """Through our own step; the first moment of Adam after it holds the gradient and its decay."""
  optim = config.OptimConfig(schedule="constant", clip="none")
  run = config.Config(model=cfg, optim=optim, batch_size=2)
  before = {name: np.asarray(x) for name, x in params.items()}
  mesh = parallel.make_mesh((1, 1), jax.devices()[:1])
  made = programs.make(run, mesh)
  with jax.default_matmul_precision("highest"):
    state, metrics = made.train_step(made.init_state(params), batch)
  check_losses(record_property, "GPT-2 loss", [float(metrics.loss)], golden["loss"], 1e-5)
  ours = {
    name: np.linalg.norm(np.asarray(m) / (1 - optim.b1) - optim.weight_decay * before[name])
    for name, m in optax.tree.get(state.opt_state, "mu").items()
  }
  worst = gradient_norms(cfg, ours, golden)
  record_property("GPT-2 gradient norms", float(worst))
  print(f"fidelity GPT-2 gradient norms {worst:.2e}")
  assert not ours
  assert worst <= 1e-3
