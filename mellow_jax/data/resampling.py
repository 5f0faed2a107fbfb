"""Resampling by the window or whole: torchaudio's resampler as matrix products in numpy."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy.lib.stride_tricks import sliding_window_view

# torchaudio's default resampling filter.
_ZEROS = 6  # zero crossings of the sinc on each side
_ROLLOFF = 0.99  # cut-off as a share of the lower Nyquist frequency
_PHASES = 64  # output samples computed by one matrix product


@dataclass(frozen=True)
class _Filters:
  """The resampling filter, cut into the phases at which it meets the samples.

  Output sample k * new + p is the product of phase p with the input around k * old. Phases that
  stand close together share their input, and one matrix product computes them.
  """

  old: int  # input samples per period
  new: int  # output samples per period
  width: int  # input samples the filter reaches to either side
  blocks: tuple[tuple[int, np.ndarray], ...]  # (first input sample, [taps, phases])


# Few are kept: a pair of rates without a common divisor takes up to 116 MB, a usual one 0.2.
@functools.lru_cache(maxsize=4)
def _filters(rate: int, new_rate: int) -> _Filters:
  divisor = math.gcd(rate, new_rate)
  old, new = rate // divisor, new_rate // divisor
  repeat = max(1, _PHASES // new)  # several short periods make one long enough for a product
  old, new = old * repeat, new * repeat
  cutoff = min(old, new) * _ROLLOFF
  width = math.ceil(_ZEROS * old / cutoff)
  blocks = []
  for start in range(0, new, _PHASES):
    phases = np.arange(start, min(start + _PHASES, new))
    first = start * old // new
    last = -(-int(phases[-1]) * old // new) + 2 * width
    taps = np.arange(first, last + 1) - width
    t = cutoff * (taps[:, None] / old - phases[None, :] / new)
    t = np.clip(t, -_ZEROS, _ZEROS)
    kernel = np.sinc(t) * np.square(np.cos(np.pi * t / (2 * _ZEROS))) * (cutoff / old)
    blocks.append((first, kernel.astype(np.float32)))
  return _Filters(old, new, width, tuple(blocks))


def length(samples: int, rate: int, new_rate: int) -> int:
  """Samples at new_rate of a signal of so many samples at rate."""
  return -(-samples * new_rate // rate)


def resample_window(
  read: Callable[[int, int], Float32[np.ndarray, "_"]],
  samples: int,
  rate: int,
  new_rate: int,
  start: int,
  stop: int,
) -> Float32[np.ndarray, "_"]:
  """Output samples [start, stop) of a signal of so many input samples, reading no more than needed.

  Periods are counted from the signal's own start, so that every output sample meets the same phase
  of the filter whatever the window.
  """
  if rate == new_rate:
    return read(start, stop)
  filters = _filters(rate, new_rate)
  period = start // filters.new
  periods = -(-stop // filters.new) - period
  begin = period * filters.old - filters.width
  end = begin + periods * filters.old + 2 * filters.width + 1
  wav = read(max(begin, 0), min(end, samples))
  wav = np.pad(wav, (max(-begin, 0), max(end - samples, 0)))  # silence before and after the signal
  out, phase = np.empty((periods, filters.new), np.float32), 0
  for first, kernel in filters.blocks:
    taps, phases = kernel.shape
    inputs = sliding_window_view(wav, taps)[first :: filters.old][:periods]
    if taps > filters.old:  # numpy has no fast product for rows that overlap in memory
      inputs = np.ascontiguousarray(inputs)
    np.matmul(inputs, kernel, out=out[:, phase : phase + phases])
    phase += phases
  offset = period * filters.new
  return out.ravel()[start - offset : stop - offset]


def resample(wav: Float32[np.ndarray, "_"], rate: int, new_rate: int) -> Float32[np.ndarray, "_"]:
  """The waveform at another rate (Hz), by windowed-sinc interpolation.

  Source: torchaudio.functional.resample with its defaults: Hann window, width 6, roll-off 0.99.
  """
  samples = length(len(wav), rate, new_rate)
  return resample_window(lambda a, b: wav[a:b], len(wav), rate, new_rate, 0, samples)
