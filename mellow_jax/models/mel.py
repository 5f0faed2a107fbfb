"""The mel filter bank, bit for bit that of librosa, whose import alone takes a second.

Source: M. Slaney's Auditory Toolbox, as librosa.filters.mel has it by default.
"""

import functools

import numpy as np
from jaxtyping import Float

_LINEAR_HZ = 200 / 3  # a mel, up to _BREAK_HZ
_BREAK_HZ, _BREAK_MEL = 1000.0, 1000.0 / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27  # of the logarithm of the frequency, a mel, from there on


def _to_mel(hz: float) -> float:
  if hz >= _BREAK_HZ:
    return _BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP
  return hz / _LINEAR_HZ


def _to_hz(mels: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
  logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL))
  return np.where(mels >= _BREAK_MEL, logarithmic, _LINEAR_HZ * mels)


@functools.lru_cache
def filter_bank(
  rate: int, n_fft: int, bins: int, f_min: float, f_max: float
) -> Float[np.ndarray, "F k"]:
  """Weights of n_fft / 2 + 1 frequencies in each mel bin, float32: triangles of equal area."""
  edges = _to_hz(np.linspace(_to_mel(f_min), _to_mel(f_max), bins + 2))  # Hz
  distances = edges[:, None] - np.fft.rfftfreq(n_fft, 1.0 / rate)
  widths = np.diff(edges)[:, None]
  rising, falling = -distances[:-2] / widths[:-1], distances[2:] / widths[1:]
  triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
  return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
