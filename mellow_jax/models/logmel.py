"""Waveform to log-mel spectrogram to the square image that HTSAT reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from librosa import filters

from mellow_jax.config import AudioConfig


@functools.lru_cache
def _mel_matrix(rate: int, n_fft: int, bins: int, f_min: float, f_max: float) -> np.ndarray:
  mel = filters.mel(sr=rate, n_fft=n_fft, n_mels=bins, fmin=f_min, fmax=f_max)
  return mel.T.astype(np.float32)


def log_mel(wav: Float[Array, "B S"], cfg: AudioConfig) -> Float[Array, "B T F"]:
  """Log-mel spectrogram in dB; by default 64 bins from 50 Hz to 14 kHz, a frame every 10 ms.

  wav is in [-1, 1] at cfg.sample_rate. Frames are centred and reflect-padded, so 10 s gives 1001.

  Source: torchlibrosa Spectrogram and LogmelFilterBank as the reference sets them.
  """
  wav = jnp.pad(wav.astype(jnp.float32), ((0, 0), (cfg.n_fft // 2, cfg.n_fft // 2)), mode="reflect")
  frames = 1 + (wav.shape[1] - cfg.n_fft) // cfg.hop_samples
  index = np.arange(cfg.n_fft) + cfg.hop_samples * np.arange(frames)[:, None]
  window = np.hanning(cfg.n_fft + 1)[:-1].astype(np.float32)  # periodic
  spectrum = jnp.fft.rfft(wav[:, index] * window, axis=-1)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  mel_matrix = _mel_matrix(cfg.sample_rate, cfg.n_fft, cfg.mel_bins, cfg.f_min, cfg.f_max)
  mel = jnp.matmul(power, mel_matrix, precision=jax.lax.Precision.HIGHEST)
  return 10.0 * jnp.log10(jnp.maximum(mel, cfg.min_power))


@functools.lru_cache
def _bicubic_matrix(old: int, new: int) -> np.ndarray:
  """[new, old] weights of a bicubic resize with aligned corners.

  Source: torch.nn.functional.interpolate(mode="bicubic", align_corners=True), coefficient -0.75.
  """
  a = -0.75
  position = np.arange(new) * ((old - 1) / (new - 1))
  start = np.floor(position).astype(int)
  matrix = np.zeros((new, old))
  for tap in range(-1, 3):
    d = np.abs(position - (start + tap))
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    weight = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    np.add.at(matrix, (np.arange(new), np.clip(start + tap, 0, old - 1)), weight)
  return matrix.astype(np.float32)


def resize_time(x: Float[Array, "B T F"], frames: int) -> Float[Array, "B T2 F"]:
  """Stretches the time axis to `frames` by bicubic interpolation with aligned corners."""
  if x.shape[1] == frames:
    return x
  weights = _bicubic_matrix(x.shape[1], frames)
  return jnp.einsum("st,btf->bsf", weights, x, precision=jax.lax.Precision.HIGHEST)


def fold(x: Float[Array, "B T F"], chunks: int) -> Float[Array, "B Q Q"]:
  """Cuts time into chunks and stacks them: row = chunk * F + mel bin, column = frame in the chunk.

  Source: reshape_wav2img of the reference's HTSAT.
  """
  batch, frames, bins = x.shape
  x = x.reshape(batch, chunks, frames // chunks, bins)
  return x.transpose(0, 1, 3, 2).reshape(batch, chunks * bins, frames // chunks)
