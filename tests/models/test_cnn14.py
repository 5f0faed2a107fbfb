"""CNN14 as part of a model: its rows, its statistics and its dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from mellow_jax import config
from mellow_jax.config import CNN14Config
from mellow_jax.errors import ConfigError
from mellow_jax.evaluation.inspection import events
from mellow_jax.models import mellow
from mellow_jax.training import step

TINY = CNN14Config(channels=(6, 8, 10), classes=16)


@pytest.fixture(scope="module")
def cfg():
  return tiny.config(encoder=TINY)


@pytest.fixture(scope="module")
def flat(cfg):
  return mellow.flatten(tiny.params(cfg))


def wavs(count):
  return 0.3 * jax.random.normal(jax.random.key(1), (count, 16_000))


def changed(cfg, **fields):
  return dataclasses.replace(cfg, encoder=dataclasses.replace(cfg.encoder, **fields))


def test_rows_at_full_size():
  cfg = config.ModelConfig(encoder=CNN14Config())
  assert cfg.clip_rows == (32, 0, 1)
  assert cfg.audio_tokens == 32
  assert cfg.prefix_tokens == 32 + 1 + 32 + 1 + 129
  _, abstract = mellow.abstract(cfg)
  assert abstract["mapper"]["c2l"]["kernel"].shape == (527, 2048)
  assert abstract["mapper"]["projection"]["linear1"]["kernel"].shape == (2048, 576)


def test_rows_are_the_clips_events_and_the_features_of_each_step(cfg, flat):
  model = step.merge(cfg, flat)
  out = model.encoder(wavs(2))
  assert out.framewise.shape == (2, 51 // 4, 10)
  assert out.clipwise.shape == (2, 16)
  rows = out.rows(model.mapper.c2l)
  np.testing.assert_allclose(rows[:, 0], model.mapper.c2l(out.clipwise), rtol=1e-5)
  np.testing.assert_array_equal(rows[:, 1:], out.framewise)
  assert model.encode(wavs(2)).shape == (2, 13, 32)


def test_odd_frames_are_dropped_by_each_pooling(cfg, flat):
  """As torch's: 125 frames become 62."""
  model = step.merge(cfg, flat)
  x = jnp.ones((1, 25, 16, 1))
  assert model.encoder.blocks[0](x, False).shape == (1, 12, 8, 6)


def test_training_uses_and_tracks_the_batchs_statistics(cfg, flat):
  keys = jax.random.split(jax.random.key(0), 2)
  model = step.merge(changed(cfg, batch_statistics=True), flat)
  before = {name: np.asarray(x) for name, x in mellow.statistics(model).items()}
  assert len(before) == 2 * (1 + 2 * 3)
  out = model.encoder(wavs(2), keys)
  after = mellow.statistics(model)
  assert all(not np.array_equal(before[name], after[name]) for name in before)
  evaluated = step.merge(cfg, flat).encoder(wavs(2), keys)
  assert not np.allclose(out.framewise, evaluated.framewise)

  plain = step.merge(cfg, flat)
  plain.encoder(wavs(2), keys)
  for name, x in mellow.statistics(plain).items():
    np.testing.assert_array_equal(x, before[name])


@pytest.mark.parametrize("field", ["dropout", "clip_dropout"])
def test_dropout_acts_in_training_and_depends_on_the_example_alone(cfg, flat, field):
  model = step.merge(changed(cfg, **{field: 0.5}), flat)
  keys = jax.random.split(jax.random.key(0), 3)
  run = nnx.jit(lambda model, wav, keys: model.encoder(wav, keys))
  evaluated, trained = run(model, wavs(3), None), run(model, wavs(3), keys)
  assert not np.allclose(evaluated.clipwise, trained.clipwise)
  is_same = np.allclose(evaluated.framewise, trained.framewise)
  assert is_same == (field == "clip_dropout")
  alone = run(model, wavs(3)[1:2], keys[1:2])
  np.testing.assert_allclose(alone.clipwise[0], trained.clipwise[1], rtol=1e-5)


def test_it_tells_no_events_over_time(cfg):
  with pytest.raises(ConfigError, match="cnn14 tells no events over time"):
    events.make_detector(cfg)


def test_too_many_poolings_are_refused():
  cfg = tiny.config(encoder=CNN14Config(channels=(4,) * 6, classes=16))
  with pytest.raises(ConfigError, match="leave nothing of 51 frames of 16 mel bins"):
    config.validate_model(cfg)
