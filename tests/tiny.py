"""A Mellow small enough to compile and run in seconds, with every part of the real one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from mellow_jax.config import (
  AudioConfig,
  Config,
  DataConfig,
  HTSATConfig,
  ModelConfig,
  NonlinearConfig,
  OptimConfig,
  SmolLM2Config,
)
from mellow_jax.data import tokenizer as tokenizer_lib
from mellow_jax.models import mellow

TEXT = "what is heard in the audio ? a dog barks , then rain falls . one two three four"


def config(**changes: Any) -> ModelConfig:
  """Hears 1 s at 16 kHz; 17 audio tokens a clip, a prefix of 44."""
  fields = {
    "audio": AudioConfig(
      sample_rate=16_000, clip_seconds=1.0, mel_bins=16, f_max=8000.0, stft="fft"
    ),
    "encoder": HTSATConfig(
      chunks=2, patch=4, width=24, depths=(1, 1), heads=(2, 4), window=4, classes=16
    ),
    "mapper": NonlinearConfig(downsample=4),
    "decoder": SmolLM2Config(
      vocab=64, width=32, layers=2, heads=4, kv_heads=2, head_size=8, mlp=48
    ),
    "text_tokens": 8,
    "answer_tokens": 8,
    "pad_id": 1,
  }
  return ModelConfig(**{**fields, **changes})


def run(**changes: Any) -> Config:
  """A training run of four steps on generated scenes, with dropout, saved at steps 2 and 4."""
  model = config(
    # Scenes last up to 4 s.
    audio=AudioConfig(
      sample_rate=16_000, clip_seconds=5.12, hop_samples=2560, mel_bins=16, f_max=8000.0, stft="fft"
    ),
    decoder=SmolLM2Config(vocab=80, width=32, layers=1, heads=4, kv_heads=2, head_size=8, mlp=48),
    text_tokens=24,
    answer_tokens=22,
    mask_padding=True,
  )
  fields = {
    "model": model,
    "data": DataConfig(source="scenes", preset="clean", mix={"caption": 1.0, "binary": 1.0}),
    "optim": OptimConfig(schedule="cosine", warmup_steps=2, freeze=("encoder/.*",)),
    "batch_size": 8,
    "steps": 4,
    "save_every": 2,
    "eval_every": 4,
    "eval_batches": 1,
    "sample_answers": 2,
    "log_every": 1,
  }
  return Config(**{**fields, **changes})


def get_config(arg: str = "") -> Config:
  """The same run, as the command's --config; on rows and clips that flags name with "files".

  With "heard" they are those of audio_rows.py, from two sources.
  """
  if arg == "heard":
    data = DataConfig(
      tokenizer="words", max_bad_fraction=0.5, mix={"A": 2.0}, weights=(2.0, 1.0), threads=1
    )
    return run(data=data)
  if arg != "files":
    return run()
  data = DataConfig(
    preset="clean",
    tokenizer="words",
    mix={"Scenes-Caption.json": 2.0},
    augment=True,
    cache_clips=True,
  )
  return run(data=data)


def tokenizer() -> tokenizers.Tokenizer:
  """Words of TEXT; 0 ends, 1 pads, as in the config."""
  return tokenizer_lib.build_tokenizer([TEXT])


def params(cfg: ModelConfig, seed: int = 0) -> dict:
  """Random weights, large enough for lively answers; they need no compilation."""
  rng = np.random.default_rng(seed)

  def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if len(leaf.shape) < 2:
      return jnp.ones(leaf.shape)
    return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 2 * leaf.shape[0] ** -0.5)

  _, abstract = mellow.abstract(cfg)
  filled = jax.tree.map(fill, abstract)
  embed = filled["decoder"]["embed"]
  embed["embedding"] *= cfg.decoder.vocab**0.5 / 4  # what comes out of a table of any length
  return filled
