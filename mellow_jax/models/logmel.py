"""Waveform to log-mel spectrogram to the square image that HTSAT reads."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh
from jaxtyping import Array, Complex, Float

from mellow_jax.config import AudioConfig
from mellow_jax.models import mel

# --- Power spectrum ------------------------------------------------------------------------------


@custom_partitioning
def _divided_rfft(frames: Float[Array, "B T n"]) -> Complex[Array, "B T k"]:
  return jnp.fft.rfft(frames, axis=-1)


def _partition(mesh: Mesh, arguments: tuple, result: jax.ShapeDtypeStruct) -> tuple:
  (frames,) = arguments
  return mesh, functools.partial(jnp.fft.rfft, axis=-1), result.sharding, (frames.sharding,)


# XLA divides a Fourier transform over no axis: without this rule every device would gather the
# frames of all clips and transform them all.
_divided_rfft.def_partition(
  _partition, sharding_rule="b t n -> b t k", need_replication_factors=("n", "k")
)


@jax.custom_jvp
def _rfft(frames: Float[Array, "B T n"]) -> Complex[Array, "B T k"]:
  return _divided_rfft(frames)


@_rfft.defjvp
def _rfft_jvp(primals: tuple, tangents: tuple) -> tuple:
  # The rule above has no derivative. Nothing trained lies before the transform; whoever wants the
  # gradient of a waveform gets it, undivided.
  return _rfft(*primals), jnp.fft.rfft(*tangents, axis=-1)


def power_by_fft(frames: Float[Array, "B T n"]) -> Float[Array, "B T k"]:
  """Power of each frame at its n / 2 + 1 frequencies, by the fast Fourier transform."""
  spectrum = _rfft(frames)
  return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def power_by_convolution(
  frames: Float[Array, "B T n"], window: np.ndarray
) -> Float[Array, "B T k"]:
  """The same of frames times a window, rounded as the reference's convolution rounds it.

  One multiply-add after another, from a frame's first sample to its last, the window in the kernel.
  Beside a loud tone a quiet cell is mostly rounding, so only the same sums in the same order give
  the reference's decibels there. Takes 30 ms a clip of 10 s on two CPU cores instead of 2 ms.

  Source: torchlibrosa's STFT and the order in which PyTorch adds up such a convolution on a CPU.
  """
  n = frames.shape[-1]
  angle = 2 * np.pi / n * (np.outer(np.arange(n), np.arange(n // 2 + 1)) % n)
  kernels = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * window[:, None]

  def add(total: Array, sample_and_kernel: tuple[Array, Array]) -> tuple[Array, None]:
    sample, kernel = sample_and_kernel
    # A compiler makes one fused operation of the two, as the reference's does.
    return total + kernel[:, None] * sample[:, None, :], None

  total = jnp.zeros((len(frames), kernels.shape[1], frames.shape[1]), jnp.float32)
  per_sample = jnp.moveaxis(frames, -1, 0), jnp.asarray(kernels, jnp.float32)
  # Sixteen terms at a time stay in registers; the order is the same.
  total, _ = jax.lax.scan(add, total, per_sample, unroll=16)
  real, imag = jnp.split(total, 2, axis=1)
  return jnp.swapaxes(jnp.square(real) + jnp.square(imag), 1, 2)


def power_by_products(frames: Float[Array, "B T n"]) -> Float[Array, "B T k"]:
  """The same by matrix products in full float32, for TPUs' matrix units.

  The cosines are the same from both ends of a frame and the sines opposite, so half a frame of sums
  and half a frame of differences are multiplied. That halves the work, to 1 GFLOP a clip of 10 s,
  tens of microseconds on a TPU; and sums half as long keep the rounding of quiet cells as small as
  the fast transform's. On a CPU it takes four times as long as that.
  """
  n = frames.shape[-1]
  pairs = (n - 1) // 2  # of samples as far from the start as from the end
  start, end = frames[..., 1 : pairs + 1], frames[..., : n // 2 : -1]
  alone = frames[..., :1], frames[..., pairs + 1 : n - pairs]  # the first, and an even n's middle
  sums = jnp.concatenate([alone[0], start + end, alone[1]], axis=-1)
  # Whole turns are left out while the angle is an integer.
  angle = 2 * np.pi / n * (np.outer(np.arange(n // 2 + 1), np.arange(n // 2 + 1)) % n)
  cos, sin = np.cos(angle).astype(np.float32), np.sin(angle[1 : pairs + 1]).astype(np.float32)
  product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  return jnp.square(product(sums, cos)) + jnp.square(product(start - end, sin))


# --- Log-mel and image ---------------------------------------------------------------------------


def log_mel(wav: Float[Array, "B S"], cfg: AudioConfig) -> Float[Array, "B T F"]:
  """Log-mel spectrogram in dB; by default 64 bins from 50 Hz to 14 kHz, a frame every 10 ms.

  wav is in [-1, 1] at cfg.sample_rate. Frames are centred and reflect-padded, so 10 s gives 1001.

  Source: torchlibrosa Spectrogram and LogmelFilterBank as the reference sets them.
  """
  wav = jnp.pad(wav.astype(jnp.float32), ((0, 0), (cfg.n_fft // 2, cfg.n_fft // 2)), mode="reflect")
  frames = 1 + (wav.shape[1] - cfg.n_fft) // cfg.hop_samples
  index = np.arange(cfg.n_fft) + cfg.hop_samples * np.arange(frames)[:, None]
  window = np.hanning(cfg.n_fft + 1)[:-1]  # periodic

  def windowed(way: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda frames: way(frames * window.astype(np.float32))

  ways = {
    "convolution": functools.partial(power_by_convolution, window=window),
    "fft": windowed(power_by_fft),
  }
  power = jax.lax.platform_dependent(
    wav[:, index], tpu=windowed(power_by_products), default=ways[cfg.stft]
  )
  bank = mel.filter_bank(cfg.sample_rate, cfg.n_fft, cfg.mel_bins, cfg.f_min, cfg.f_max)
  power_in_bins = jnp.matmul(power, bank.T, precision=jax.lax.Precision.HIGHEST)
  return 10.0 * jnp.log10(jnp.maximum(power_in_bins, cfg.min_power))


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
