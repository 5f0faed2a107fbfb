"""The sound events that a model's audio encoder detects over the time of a clip.

Source: the paper's appendix I; the probabilities are the framewise output of HTSAT's token-semantic
head, which AudioSet training made a detector.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree

from mellow_jax.config import HTSATConfig, ModelConfig
from mellow_jax.data import audioset
from mellow_jax.data.audio import Clip
from mellow_jax.errors import ConfigError
from mellow_jax.evaluation.inspection import hallucination
from mellow_jax.models import logmel, mellow

BATCH = 8  # windows encoded together
# Encoder parameters and waveforms [B, S] -> log-mel in dB, framewise probabilities.
Detector = Callable[[PyTree, Float[np.ndarray, "B S"]], tuple[Array, Array]]


@dataclass(frozen=True)
class Timeline:
  """Log-mel and event probabilities of a clip's windows, without the padding of the last one.

  Step k begins k * step_seconds after the clip's beginning, frame t at t * hop_seconds.
  """

  name: str
  clips: tuple[Clip, ...]  # the windows
  db: Float[np.ndarray, "T F"]  # log-mel spectrogram
  probabilities: Float[np.ndarray, "Z E"]  # of each event in each step
  step_seconds: float
  hop_seconds: float

  def span(self, first: int, last: int) -> tuple[float, float]:
    """Begin and end in seconds of the windows first to last (exclusive)."""
    windows = self.clips[first:last]
    return windows[0].start_seconds, windows[-1].start_seconds + windows[-1].seconds_used

  def steps(self, first: int, last: int) -> slice:
    """The steps of the windows first to last (exclusive)."""
    begin, end = self.span(first, last)
    return slice(round(begin / self.step_seconds), ceil(end / self.step_seconds))

  def peaks(self, first: int, last: int) -> Float[np.ndarray, "E"]:
    """Each event's highest probability in the windows first to last (exclusive)."""
    return self.probabilities[self.steps(first, last)].max(axis=0)


def ceil(x: float) -> int:
  """The next whole number, where rounding errors do not count: 10 s are 32 steps of 0.3125 s."""
  return int(np.ceil(x - 1e-6))


def make_detector(cfg: ModelConfig) -> Detector:
  """A compiled function of the encoder's parameters and waveforms [B, S]: dB and probabilities.

  The probabilities are the framewise output of the token-semantic head, a sigmoid of its scores.
  Raises ConfigError for an encoder without such a head.
  """
  if not isinstance(cfg.encoder, HTSATConfig):
    raise ConfigError(
      f"the encoder {cfg.encoder.kind} tells no events over time: only HTSAT's can be inspected"
    )
  graphdef, _ = nnx.split(nnx.eval_shape(lambda: mellow.make_encoder(cfg, rngs=nnx.Rngs(0))))

  @jax.jit
  @mellow.exactly(cfg)
  def detect(
    params: PyTree, wav: Float[Array, "B S"]
  ) -> tuple[Float[Array, "B T F"], Float[Array, "B Z E"]]:
    encoder, db = nnx.merge(graphdef, params), logmel.log_mel(wav, cfg.audio)
    return db, encoder.classify(encoder.stage_outputs(db)[-1]).framewise

  return detect


def detect_events(
  name: str, clips: Sequence[Clip], cfg: ModelConfig, detect: Detector, params: PyTree
) -> Timeline:
  """The timeline of a clip's consecutive windows; detect is of `make_detector`."""
  size, wavs = min(len(clips), BATCH), [clip.wav for clip in clips]
  wavs += wavs[-1:] * (-len(wavs) % size)  # another size would compile again
  found = [detect(params, np.stack(wavs[i : i + size])) for i in range(0, len(wavs), size)]
  db, probabilities = (np.concatenate([np.asarray(f[i]) for f in found]) for i in range(2))
  steps = cfg.clip_rows.steps
  hop, step = cfg.audio.hop_samples / cfg.audio.sample_rate, cfg.audio.clip_seconds / steps
  whole = round(cfg.audio.clip_seconds / hop)  # one frame more stands on a window's end

  def cut(array: np.ndarray, seconds: float, most: int) -> np.ndarray:
    kept = [
      a[: min(ceil(clip.seconds_used / seconds), most)]
      for a, clip in zip(array, clips, strict=False)
    ]
    return np.concatenate(kept)

  return Timeline(
    name=name,
    clips=tuple(clips),
    db=cut(db, hop, whole),
    probabilities=cut(probabilities, step, steps),
    step_seconds=step,
    hop_seconds=hop,
  )


def event_name(index: int, classes: int) -> str:
  """AudioSet's name of an event, or its number where the encoder's classes are not AudioSet's."""
  return audioset.CLASSES[index] if hallucination.applies(classes) else f"class {index}"


def top_events(peaks: Float[np.ndarray, "E"], count: int) -> list[int]:
  """The events of the highest peaks, highest first."""
  return np.argsort(-peaks, kind="stable")[:count].tolist()
