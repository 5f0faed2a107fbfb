"""A Mellow small enough to compile and run in seconds, with every part of the real one."""

from typing import Any

import tokenizers

from mellow_jax.config import AudioConfig, HTSATConfig, MapperConfig, ModelConfig, SmolLM2Config
from mellow_jax.data import words

TEXT = "what is heard in the audio ? a dog barks , then rain falls . one two three four"


def config(**changes: Any) -> ModelConfig:
  """Hears 1 s at 16 kHz; 17 audio tokens a clip, a prefix of 44."""
  fields = {
    "audio": AudioConfig(sample_rate=16_000, clip_seconds=1.0, mel_bins=16, f_max=8000.0),
    "encoder": HTSATConfig(
      chunks=2, patch=4, width=24, depths=(1, 1), heads=(2, 4), window=4, classes=16
    ),
    "mapper": MapperConfig(downsample=4),
    "decoder": SmolLM2Config(
      vocab=64, width=32, layers=2, heads=4, kv_heads=2, head_size=8, mlp=48
    ),
    "text_tokens": 8,
    "answer_tokens": 8,
    "pad_id": 1,
  }
  return ModelConfig(**{**fields, **changes})


def tokenizer() -> tokenizers.Tokenizer:
  """Words of TEXT; 0 ends, 1 pads, as in the config."""
  return words.build_tokenizer([TEXT])
