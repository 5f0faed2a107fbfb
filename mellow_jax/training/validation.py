"""Validation: loss over the answer tokens, and sample answers."""

from collections.abc import Callable, Iterator

import numpy as np

from mellow_jax import parallel
from mellow_jax.data import pipeline
from mellow_jax.training.step import Batch, Flat, TrainState


def mean_loss(state: TrainState | Flat, batches: Iterator[Batch], eval_step: Callable) -> float:
  """Mean loss over the answer tokens of all batches; state is what eval_step takes."""
  loss, tokens = 0.0, 0
  for batch in batches:
    batch_loss, batch_tokens = eval_step(state, batch)
    loss, tokens = loss + float(batch_loss), tokens + int(batch_tokens)
  return loss / max(tokens, 1)


def sample_answers(
  state: TrainState, batch: Batch, encoder: pipeline.Preprocessor, count: int, answer_step: Callable
) -> list[dict[str, str]]:
  """The first `count` validation questions, each with the expected answer and the model's."""
  generated = answer_step(state, batch)
  tokens, lengths = np.asarray(generated.tokens)[:, 0], np.asarray(generated.lengths)[:, 0]
  # Rows without loss are padding, or rows whose audio is bad.
  is_used = parallel.to_host(batch.loss_mask).any(axis=1)
  samples = []
  for i in np.flatnonzero(is_used)[:count].tolist():
    row, text = encoder.rows[i], encoder.tokenizer.decode(tokens[i, : lengths[i]].tolist())
    samples.append({"question": row.input, "expected": row.answer, "answer": text})
  return samples
