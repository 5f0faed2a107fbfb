"""How well a run does on the validation rows: its loss, and what it answers."""

from collections.abc import Callable, Iterator

import numpy as np

from mellow_jax import parallel
from mellow_jax.data import pipeline
from mellow_jax.training.step import Batch, TrainState


def mean_loss(state: TrainState, batches: Iterator[Batch], eval_step: Callable) -> float:
  """Mean loss over the answer tokens of all batches."""
  loss, tokens = 0.0, 0
  for batch in batches:
    batch_loss, batch_tokens = eval_step(state, batch)
    loss, tokens = loss + float(batch_loss), tokens + int(batch_tokens)
  return loss / max(tokens, 1)


def sample_answers(
  state: TrainState, batch: Batch, encoder: pipeline.Preprocessor, count: int, answer_step: Callable
) -> list[dict[str, str]]:
  """The first `count` validation questions with the right answer and the model's."""
  found = answer_step(state, batch)
  tokens, lengths = np.asarray(found.tokens)[:, 0], np.asarray(found.lengths)[:, 0]
  heard = np.flatnonzero(parallel.to_host(batch.loss_mask).any(axis=1))  # the others are left out
  shown = []
  for i in heard[:count].tolist():
    row, text = encoder.rows[i], encoder.tokenizer.decode(tokens[i, : lengths[i]].tolist())
    shown.append({"question": row.input, "expected": row.answer, "answer": text})
  return shown
