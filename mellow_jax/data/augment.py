"""Changes that leave a training row's answer true: to its waveforms and to its options.

Not for rows that ask when sounds come, how many or how loud: rolled, mixed or louder, a clip has
another answer to that.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from mellow_jax.data import choices
from mellow_jax.data.records import Record


def distort(wav: Float32[np.ndarray, "S"], rng: np.random.Generator) -> Float32[np.ndarray, "S"]:
  """Rolls the clip in time, tilts its spectrum smoothly by up to 6 dB, changes gain by up to 10 dB.

  The result stays in [-1, 1].
  """
  wav = np.roll(wav, int(rng.integers(len(wav))))
  spectrum = np.fft.rfft(wav)
  knots = 10 ** (rng.uniform(-6.0, 6.0, 6) / 20)
  tilt = np.interp(np.linspace(0, 5, len(spectrum)), np.arange(6), knots)
  wav = np.fft.irfft(spectrum * tilt.astype(np.float32), len(wav))
  gain = 10 ** (rng.uniform(-10.0, 10.0) / 20)
  peak = float(np.abs(wav).max())
  return wav * np.float32(min(gain, 1 / max(peak, 1e-9)))


def mix(
  wav: Float32[np.ndarray, "S"], other: Float32[np.ndarray, "S"], rng: np.random.Generator
) -> Float32[np.ndarray, "S"]:
  """A clip with another of the same caption under it, at an equal to a tenfold lower weight."""
  weight = 10 ** rng.uniform(-1.0, 0.0)
  wav = wav + np.float32(weight) * other
  return wav / max(float(np.abs(wav).max()), 1.0)


def redraw_options(row: Record, captions: Sequence[str], rng: np.random.Generator) -> Record:
  """The row with its options "a) .. b) .." in another order, the answer's letter to match.

  Wrong options that are among the captions are replaced by randomly chosen other captions. Rows
  without lettered options, or whose answer is none of them, stay as they are.
  """
  stem, texts = choices.split_options(row.input)
  letter, right = choices.split_letter(row.answer)
  right = right.strip()
  if not letter or f"{letter}) {right}" not in choices.lettered(texts):
    return row
  wrong = [text for text in texts if text != right]
  others = [caption for caption in captions if caption != right]
  if len(wrong) <= len(others) and set(wrong) <= set(others):
    wrong = [others[i] for i in rng.choice(len(others), len(wrong), replace=False)]
  options = [*wrong, right]
  options = [options[i] for i in rng.permutation(len(options))]
  listed = choices.lettered(options)
  return dataclasses.replace(
    row, input=stem + " ".join(listed), answer=listed[options.index(right)]
  )
