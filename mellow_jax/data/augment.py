"""Changes that leave a training row's answer true: to the waveform, and to the order of options."""

import dataclasses
import re

import numpy as np
from jaxtyping import Float32

from mellow_jax.data.records import Record

_OPTION = re.compile(r"(?<!\S)([a-h])\) ")


def distort(wav: Float32[np.ndarray, "S"], rng: np.random.Generator) -> Float32[np.ndarray, "S"]:
  """Rolls the clip in time, tilts its spectrum smoothly by up to 6 dB, changes gain by up to 10 dB.

  The result stays in [-1, 1].
  """
  wav = np.roll(wav, int(rng.integers(len(wav))))
  spectrum = np.fft.rfft(wav)
  knots = rng.uniform(-6.0, 6.0, 6)
  db = np.interp(np.linspace(0, 5, len(spectrum)) ** 1.0, np.arange(6), knots)
  wav = np.fft.irfft(spectrum * 10 ** (db / 20), len(wav))
  gain = 10 ** (rng.uniform(-10.0, 10.0) / 20)
  peak = float(np.abs(wav).max())
  return (wav * min(gain, 1 / max(peak, 1e-9))).astype(np.float32)


def reorder_options(row: Record, rng: np.random.Generator) -> Record:
  """The row with its options "a) .. b) .." in another order, the answer's letter to match.

  Rows without lettered options, or whose answer is none of them, stay as they are.
  """
  parts = _OPTION.split(row.input)
  stem, letters, texts = parts[0], parts[1::2], [t.strip() for t in parts[2::2]]
  answer = _OPTION.match(row.answer)
  if len(texts) < 2 or not answer or answer[1] not in letters:
    return row
  right = texts[letters.index(answer[1])]
  if row.answer[answer.end() :].strip() != right:
    return row
  order = rng.permutation(len(texts))
  shuffled = [texts[i] for i in order]
  question = stem + " ".join(f"{a}) {t}" for a, t in zip(letters, shuffled, strict=True))
  letter = letters[int(np.flatnonzero(order == letters.index(answer[1]))[0])]
  return dataclasses.replace(row, input=question, answer=f"{letter}) {right}")
