"""The ways to a power spectrum: by FFT, by matrix products for TPUs, by the reference's sums."""

import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipe

from mellow_jax.config import AudioConfig
from mellow_jax.models import logmel
from mellow_jax.models.mel import filter_bank

WAYS = (logmel.power_by_fft, logmel.power_by_products)


def rectangular(frames):
  return logmel.power_by_convolution(frames, np.ones(frames.shape[-1]))


@pytest.mark.parametrize("way", [*WAYS, rectangular])
@pytest.mark.parametrize("n", [7, 64, 1024])
def test_power_is_that_of_the_definition(way, n):
  frames = np.random.default_rng(n).standard_normal((2, 3, n), np.float32)
  expected = np.abs(np.fft.rfft(frames.astype(np.float64))) ** 2
  found = np.asarray(jax.jit(way)(frames))
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * expected.max())


def test_both_ways_give_the_log_mel_of_the_golden_numbers():
  # The bar of tests/test_golden.py: 1e-4 of the largest entry in the cells above -75 dB.
  cfg = AudioConfig()
  wav = recipe.waveform(2020)[None].astype(np.float32)
  shape = (1, -1, cfg.n_fft)
  index = np.arange(cfg.n_fft) + cfg.hop_samples * np.arange(990)[:, None]
  frames = (wav[:, index] * np.hanning(cfg.n_fft + 1)[:-1].astype(np.float32)).reshape(shape)
  mel = filter_bank(cfg.sample_rate, cfg.n_fft, cfg.mel_bins, cfg.f_min, cfg.f_max).T
  exact = np.abs(np.fft.rfft(frames.astype(np.float64))) ** 2 @ mel
  expected = 10 * np.log10(np.maximum(exact, cfg.min_power))
  for way in WAYS:
    found = 10 * jnp.log10(jnp.maximum(jax.jit(way)(frames) @ mel, cfg.min_power))
    off = np.abs(np.asarray(found) - expected) / np.abs(expected).max()
    print(f"{way.__name__}: log-mel off by {off[expected > -75].max():.1e}, all {off.max():.1e}")
    assert off[expected > -75].max() < 1e-4
    assert off.max() < 1e-3  # below, rounding is larger than what is left of the signal


def test_the_convolution_adds_a_frame_from_its_first_sample_to_its_last():
  n = 64
  # Eight frames, as wide as a vector: the compiler of jax 0.12 fuses no multiply-adds of less.
  frames = np.random.default_rng(1).standard_normal((1, 8, n), np.float32)
  window = np.hanning(n + 1)[:-1]
  angle = 2 * np.pi / n * (np.outer(np.arange(n), np.arange(n // 2 + 1)) % n)
  parts = []
  for wave in (np.cos, np.sin):
    kernel = (wave(angle) * window[:, None]).astype(np.float32).astype(np.float64)
    total = np.zeros((8, n // 2 + 1), np.float32)
    for k in range(n):  # float64 holds a product of two float32 exactly
      total = (total + frames[0, :, k, None].astype(np.float64) * kernel[k]).astype(np.float32)
    parts.append(total.astype(np.float64))
  way = functools.partial(logmel.power_by_convolution, window=window)
  # The tests' own level of optimisation fuses no multiply-adds.
  found = jax.jit(way, compiler_options=compiling.AS_USERS_HAVE_IT)(frames)[0]
  expected = parts[0] ** 2 + parts[1] ** 2
  np.testing.assert_allclose(found, expected, rtol=3e-7)


@pytest.mark.parametrize("stft", ["convolution", "fft"])
def test_the_gradient_of_a_waveform_can_be_had(stft):
  cfg = AudioConfig(sample_rate=1000, n_fft=64, hop_samples=32, mel_bins=4, f_max=500.0, stft=stft)
  wav = jnp.asarray(np.random.default_rng(0).standard_normal((1, 640), np.float32))
  way = jnp.asarray(np.random.default_rng(1).standard_normal((1, 640), np.float32))

  @jax.jit
  def loudness(wav):
    return logmel.log_mel(wav, cfg).mean()

  found = float(jnp.vdot(jax.jit(jax.grad(loudness))(wav), way))
  h = 1e-2
  slope = float(loudness(wav + h * way) - loudness(wav - h * way)) / (2 * h)
  assert found == pytest.approx(slope, rel=1e-2)
