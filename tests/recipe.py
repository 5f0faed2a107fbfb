"""Deterministic weights and waveforms for the golden files, with numpy alone.

A manifest is a JSON object {name: [shape...]} in the checkpoint's own order. The value of every
tensor depends only on (seed, name, shape), so two programs that never meet fill the same model.
"""

import math
import zlib

import numpy as np

# Computed, not learned: whoever builds the model derives these from the audio settings.
CONSTANT = (
  "spectrogram_extractor.",
  "logmel_extractor.",
  "relative_position_index",
  "attn_mask",
  "num_batches_tracked",
)

# Larger than fan-in scaling where a plain random model would hardly depend on its input.
GAIN = {
  "q_proj": 2.0,
  "k_proj": 2.0,
  "o_proj": 2.0,
  "down_proj": 2.0,
  "tscam_conv": 4.0,
  "c2l": 4.0,
  "c_attn": 5.0,
  "c_proj": 3.0,
  "conv_block": 1.4,
}


def is_constant(name: str) -> bool:
  return any(part in name for part in CONSTANT)


def fill(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
  """float32 array of `shape` for the tensor `name` under `seed`."""
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  n = rng.standard_normal(shape, dtype=np.float32)
  leaf = name.rsplit(".", 1)[-1]
  if leaf == "running_mean":  # bn0 sees decibels, every other batch norm sees activations
    return (-30.0 + 5.0 * n if "bn0" in name else 0.1 * n).astype(np.float32)
  if leaf == "running_var":
    return ((300.0 if "bn0" in name else 1.0) * (1.0 + 0.1 * np.abs(n))).astype(np.float32)
  if leaf == "relative_position_bias_table":
    return 0.2 * n
  if "embed_tokens" in name or "lm_head" in name or "wte" in name:
    # input and output embedding are one tensor (tied): both names take the same value
    rng = np.random.default_rng([seed, zlib.crc32(b"embed_tokens")])
    n = rng.standard_normal(shape, dtype=np.float32)
    return (5.0 / math.sqrt(shape[-1]) * n).astype(np.float32)
  if len(shape) == 1:
    return (1.0 + 0.1 * n if leaf == "weight" else 0.05 * n).astype(np.float32)
  fan_in = int(np.prod(shape[1:]))
  gain = next((g for part, g in GAIN.items() if part in name), 1.0)
  return (gain * n / math.sqrt(fan_in)).astype(np.float32)


def state_dict(manifest: dict[str, list[int]], seed: int) -> dict[str, np.ndarray]:
  return {k: fill(k, tuple(s), seed) for k, s in manifest.items() if not is_constant(k)}


def waveform(seed: int, samples: int = 320000, rate: int = 32000) -> np.ndarray:
  """Chirps, an amplitude-modulated tone and noise bursts: float32 [samples] in [-0.9, 0.9]."""
  rng = np.random.default_rng([seed, 320000])
  t = np.arange(samples) / rate
  x = np.zeros(samples)
  for _ in range(4):
    f0, f1 = rng.uniform(80, 6000, 2)
    a = rng.uniform(0.05, 0.3)
    x += a * np.sin(2 * np.pi * (f0 * t + (f1 - f0) * t * t / (2 * t[-1])) + rng.uniform(0, 6.28))
  f, m = rng.uniform(200, 3000), rng.uniform(1, 12)
  x += 0.2 * np.sin(2 * np.pi * f * t) * (0.5 + 0.5 * np.sin(2 * np.pi * m * t))
  for _ in range(5):
    start, length = int(rng.integers(0, samples - 40000)), int(rng.integers(4000, 40000))
    x[start : start + length] += rng.uniform(0.02, 0.2) * rng.standard_normal(length)
  return (x / np.max(np.abs(x)) * 0.9).astype(np.float32)
