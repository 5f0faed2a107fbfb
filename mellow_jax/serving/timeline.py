"""What a model's audio encoder detects over the time of a clip, for the page."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mellow_jax.data.audio import Clip
from mellow_jax.errors import ConfigError
from mellow_jax.evaluation.inspection import events, hallucination
from mellow_jax.inference.api import Mellow, announced

SHOWN = 8  # events, the most probable ones


def make(model: Mellow) -> Callable[[Clip], dict[str, Any]]:
  """A function of clips: the steps of the most probable events, by name, and their stems.

  Its program is compiled here: the first clip would else make all requests wait for it. Where the
  encoder tells no events, or its classes have no names, the list is empty and "note" says why.
  """
  try:
    detect = events.make_detector(model.cfg)
  except ConfigError as error:
    note = str(error)
    return lambda clip: {"events": [], "note": note}
  if not hallucination.applies(model.cfg.encoder.classes):
    note = "this model's encoder was trained here: its classes have no names"
    return lambda clip: {"events": [], "note": note}
  params = model.params["encoder"]
  with announced("the sound events of a clip"):
    silence = np.zeros((1, model.cfg.audio.clip_samples), np.float32)
    jax.block_until_ready(detect(params, silence))

  def read(clip: Clip) -> dict[str, Any]:
    found = events.detect_events("clip", [clip], model.cfg, detect, params)
    peaks = found.probabilities.max(axis=0)
    return {
      "step_seconds": found.step_seconds,
      "events": [
        {
          "name": (name := events.event_name(i, len(peaks))),
          "stems": [hallucination.stem(word) for word in hallucination.words(name)],
          "probabilities": np.round(found.probabilities[:, i].astype(float), 3).tolist(),
        }
        for i in events.top_events(peaks, SHOWN)
      ],
    }

  return read
