"""Whether the probabilities of a model's choices are right as often as they say.

A choice's probabilities are exp(log-likelihood / temperature) of its options, over their sum, as
decisions have them. Confidence here is the probability of the most probable option.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mellow_jax.inference.decide import probabilities

BINS = 15  # Guo et al.
TEMPERATURES = (0.05, 20.0)  # that a fit looks between
Scores = Sequence[float] | np.ndarray  # options' log-likelihoods


class Bin(NamedTuple):
  """The choices whose confidence falls into one of equal ranges."""

  confidence: float  # mean
  accuracy: float  # share of right ones
  count: int


def bins(choices: Sequence[Scores], answers: Sequence[int], temperature: float = 1.0) -> list[Bin]:
  """Confidence and accuracy by confidence, of options' log-likelihoods and the right places."""
  found = [probabilities(one, temperature) for one in choices]
  confidence = np.array([one.max() for one in found])
  right = np.array([one.argmax() == answer for one, answer in zip(found, answers, strict=True)])
  place = np.minimum((confidence * BINS).astype(int), BINS - 1)
  return [
    Bin(float(confidence[here].mean()), float(right[here].mean()), int(here.sum()))
    for here in (place == number for number in range(BINS))
    if here.any()
  ]


def expected_error(found: Sequence[Bin]) -> float:
  """Expected calibration error: the mean distance of accuracy from confidence.

  Source: Guo et al. 2017, On Calibration of Modern Neural Networks.
  """
  total = sum(one.count for one in found)
  return sum(abs(one.accuracy - one.confidence) * one.count for one in found) / total


def fit(choices: Sequence[Scores], answers: Sequence[int]) -> float:
  """The temperature under which the right options are the most probable in all."""
  import scipy.optimize  # here, as --help of commands imports this module

  def loss(log_temperature: float) -> float:
    temperature = np.exp(log_temperature)
    return -sum(
      np.log(max(probabilities(one, temperature)[answer], 1e-300))
      for one, answer in zip(choices, answers, strict=True)
    )

  bounds = tuple(np.log(TEMPERATURES))
  found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded")
  return float(np.exp(found.x))
