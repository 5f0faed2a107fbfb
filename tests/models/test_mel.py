"""The mel filter bank is librosa's, bit for bit, without librosa."""

import subprocess
import sys

import librosa
import numpy as np
import pytest

from mellow_jax.models import mel


@pytest.mark.parametrize(
  "sizes",
  [
    (32_000, 1024, 64, 50.0, 14_000.0),  # the release's
    (16_000, 1024, 32, 50.0, 8000.0),  # the demo's
    (44_100, 2048, 128, 0.0, 22_050.0),
    (48_000, 2048, 80, 1000.0, 20_000.0),
    (8000, 400, 20, 20.0, 900.0),
  ],
)
def test_the_filter_bank_is_librosas_bit_for_bit(sizes):
  rate, n_fft, bins, f_min, f_max = sizes
  expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bins, fmin=f_min, fmax=f_max)
  found = mel.filter_bank(*sizes)
  assert found.dtype == expected.dtype == np.float32
  assert found.tobytes() == expected.tobytes()


def test_what_answers_imports_neither_librosa_nor_transformers():
  code = (
    "import sys; from mellow_jax import Mellow; from mellow_jax.convert import model_folders;"
    "print(*{'librosa', 'scipy.signal', 'sklearn', 'transformers'}.intersection(sys.modules))"
  )
  argv = [sys.executable, "-c", code]
  assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split() == []
