"""Sizes and random inputs that all contestants of a measurement share; numpy alone."""

import dataclasses

import numpy as np

from mellow_jax.config import AudioConfig, HTSATConfig, ModelConfig, NonlinearConfig, SmolLM2Config

# Rows of ReasonAQA's training set by kind of answer, and tokens of an answer. Rows: the paper's
# Table 1. Words of multiple choice and detail: its Table 9 (2.31 and 25.65), at 1.3 tokens a word
# and two more for the letter and the end; those of the other three kinds are assumed.
ANSWERS = {
  "multiple choice": (337_082, 5),
  "detail": (333_970, 35),
  "difference": (203_565, 40),
  "caption": (67_855, 22),
  "yes or no, entailment": (25_599, 4),
}
SPREAD = 1 / 3  # standard deviation of an answer's tokens, over their mean; assumed


def model(tiny: bool, layers: int | None = None, dtype: str = "float32") -> ModelConfig:
  """The released architecture, with as many decoder layers if given; or one of the same parts that
  compiles in seconds."""
  if not tiny:
    cfg = ModelConfig(dtype=dtype, audio=AudioConfig(stft="fft"))  # as configs/mellow.py
    decoder = dataclasses.replace(cfg.decoder, layers=layers or cfg.decoder.layers)
    return dataclasses.replace(cfg, decoder=decoder)
  return ModelConfig(
    dtype=dtype,
    audio=AudioConfig(sample_rate=16_000, clip_seconds=1.0, mel_bins=16, f_max=8000.0, stft="fft"),
    encoder=HTSATConfig(chunks=2, width=24, depths=(1, 1), heads=(2, 4), window=4, classes=16),
    mapper=NonlinearConfig(downsample=4),
    decoder=SmolLM2Config(
      vocab=64, width=32, layers=layers or 1, heads=4, kv_heads=2, head_size=8, mlp=48
    ),
    text_tokens=8,
    answer_tokens=64,
    pad_id=1,
  )


def prefix(cfg: ModelConfig, rows: int) -> np.ndarray:
  """Embeddings of two clips and a question, float32 [rows, P, D]."""
  rng = np.random.default_rng(0)
  shape = (rows, cfg.prefix_tokens, cfg.decoder.width)
  return cfg.decoder.width**-0.5 * rng.standard_normal(shape, np.float32)


def answer_tokens(count: int, seed: int = 0, most: int = 250) -> np.ndarray:
  """Tokens of so many answers, int [count], drawn as ANSWERS says."""
  rng = np.random.default_rng(seed)
  rows, means = np.array([*ANSWERS.values()]).T
  mean = rng.choice(means, count, p=rows / rows.sum())
  shape = SPREAD**-2
  return np.clip(np.rint(rng.gamma(shape, mean / shape)), 2, most).astype(int)


def examples(cfg: ModelConfig, rows: int, seed: int, share: int = 1) -> dict[str, np.ndarray]:
  """Arrays of a training batch, as step.Batch has them: noise, random tokens, answers' lengths.

  With share > 1, so many questions share their clips: texts have shape [rows, share, ...].
  """
  rng = np.random.default_rng(seed)
  several = (rows, share) if share > 1 else (rows,)

  def clips() -> np.ndarray:
    return 0.1 * rng.standard_normal((rows, cfg.audio.clip_samples), np.float32)

  def tokens(slots: int) -> np.ndarray:
    return rng.integers(cfg.pad_id + 1, cfg.decoder.vocab, (*several, slots), np.int32)

  lengths = answer_tokens(rows * share, seed, cfg.answer_tokens).reshape(several)
  mask = np.arange(cfg.answer_tokens) < lengths[..., None]
  return {
    "wav1": clips(),
    "wav2": clips(),
    "text_ids": tokens(cfg.text_tokens),
    "text_lengths": np.full(several, cfg.text_tokens, np.int32),
    "answer_ids": np.where(mask, tokens(cfg.answer_tokens), cfg.pad_id).astype(np.int32),
    "loss_mask": mask,
  }
