"""Clips to try on the page: generated scenes that no training row holds, with a question each."""

import functools
import io
import wave

import numpy as np

from mellow_jax.data.scene_audio import SceneClips
from mellow_jax.data.scenes import Scenes

TASKS = ("caption", "presence", "detail")
SAMPLE_RATE, SECONDS = 16_000, 5.12


@functools.cache
def listed() -> list[dict[str, str]]:
  """Name, address and question of each example."""
  return [
    {"name": f"scene {i + 1}", "url": f"examples/{i}.wav", "question": _row(i)[1]}
    for i in range(len(TASKS))
  ]


@functools.cache
def clip(number: int) -> bytes:
  """The wav file of an example; raises IndexError for a number that has none."""
  clips = SceneClips(SAMPLE_RATE, round(SAMPLE_RATE * SECONDS))
  samples = np.clip(clips.load(_row(number)[0]), -1, 1)
  file = io.BytesIO()
  with wave.open(file, "wb") as writer:
    writer.setnchannels(1)
    writer.setsampwidth(2)
    writer.setframerate(SAMPLE_RATE)
    writer.writeframes((samples * 32767).astype("<i2").tobytes())
  return file.getvalue()


def _row(number: int) -> tuple[str, str]:
  row = Scenes("val", 1, number + 1, {TASKS[number]: 1.0}, None, 0)[number]
  return row.filepath1, row.input
