"""Our numbers beside the reference's: the recipe's weights, and how far an array may be off."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import recipe

from mellow_jax.config import ModelConfig
from mellow_jax.convert import rules

GOLDEN = pathlib.Path(__file__).parent / "golden"
TOLERANCE = 1e-4  # of the largest entry


def weights(cfg: ModelConfig, manifest: str, seed: int):
  """The recipe's weights of a manifest by our paths."""
  table, flat = rules.mellow(cfg), {}
  for key, shape in json.loads((GOLDEN / manifest).read_text()).items():
    ((rule, path),) = rules.match(key, table)
    if path is not None:
      array = rule.transform.there(recipe.fill(key, tuple(shape), seed))
      flat[path.replace(".", "/")] = jnp.asarray(array)
  return flat


def waveforms(seed: int, slot: int):
  """Audio `slot` (0 or 1) of the batch of 2."""
  return np.stack([recipe.waveform(10 * seed + 5 * slot + i) for i in range(2)])


def check(record_property, name, actual, expected, tolerance=TOLERANCE):
  """The largest difference, as a share of the largest expected entry, is at most the tolerance."""
  actual = np.asarray(actual)
  assert actual.shape == expected.shape
  found = float(np.abs(actual - expected).max() / np.abs(expected).max())
  record_property(name, float(found))
  print(f"fidelity {name} {found:.2e}")
  assert found <= tolerance


def check_losses(record_property, name, ours, expected, bar):
  """The same of each of some losses by itself."""
  worst = float(np.max(np.abs(np.asarray(ours) - expected) / expected))
  record_property(name, float(worst))
  print(f"fidelity {name} {worst:.2e}")
  assert worst <= bar


def gradient_norms(cfg: ModelConfig, ours, golden):
  """The largest relative difference of the norms by path; takes those that are expected."""
  table, worst = rules.mellow(cfg), 0.0
  for key, expected in zip(golden["grad_names"], golden["grad_norms"], strict=True):
    ((_, path),) = rules.match(str(key), table)
    worst = max(worst, abs(ours.pop(path.replace(".", "/")) - expected) / expected)
  return worst
