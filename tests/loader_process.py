"""A trainer without a model, in a process of its own: it asks for batches and prints their digests.

python tests/loader_process.py FOLDER WORKERS TIMEOUT_SECONDS START_STEP BATCH_SIZE

It prints "step <number> <digest>" and waits for a line before it goes on. A file FOLDER/hang makes
every read hang, FOLDER/exit lets who reads end with exit code 0. One clip in eight is bad.
"""

import hashlib
import os
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from mellow_jax.config import AudioConfig, DataConfig, ModelConfig
from mellow_jax.data import audio, pipeline, scenes
from mellow_jax.errors import AudioError, StalledError

RATE, SECONDS = 16_000, 4.1
CLIP_BYTES = round(RATE * SECONDS) * 4


@dataclass(frozen=True)
class FaultyClips(scenes.SceneClips):
  folder: Path

  def load(self, path, rng=None):
    if (self.folder / "hang").exists():
      time.sleep(3600)
    if (self.folder / "exit").exists():
      os._exit(0)
    number = zlib.crc32(path.encode())
    if number % 8 == 0:
      raise AudioError(f"{path}: is bad", audio.REASONS[number % 3])
    return super().load(path, rng)


def digest(batch):
  found = hashlib.sha256()
  for name in sorted(batch):
    found.update(name.encode() + batch[name].tobytes())
  return found.hexdigest()


def main(folder, workers, timeout_seconds, start_step, batch_size):
  model = ModelConfig(
    audio=AudioConfig(sample_rate=RATE, clip_seconds=SECONDS), text_tokens=24, answer_tokens=22
  )
  data = DataConfig(preset="clean", workers=int(workers), timeout_seconds=float(timeout_seconds))
  clips = FaultyClips(RATE, model.audio.clip_samples, Path(folder))
  rows = scenes.Scenes("train", 0, 400, {"caption": 1.0, "binary": 1.0})
  batches = pipeline.train_batches(
    pipeline.Preprocessor(rows, clips, scenes.build_tokenizer(), model, data),
    seed=3,
    batch_size=int(batch_size),
    start_step=int(start_step),
    shuffle=True,
  )
  try:
    for step, batch in enumerate(batches, int(start_step)):
      print(f"step {step} {digest(batch)}", flush=True)
      if not sys.stdin.readline():
        break
  except StalledError as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
  flags.FLAGS.mark_as_parsed()
  main(*sys.argv[1:])
