"""Validation: loss and accuracy over all answers, and sample answers with their clips."""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mellow_jax import parallel
from mellow_jax.data import pipeline, sound_files
from mellow_jax.training.step import Batch, Flat, TrainState


class Scores(NamedTuple):
  """What validation found."""

  loss: float  # mean over the answer tokens, in nats
  right: int  # answers that are word for word right
  answers: int


def scores(state: TrainState | Flat, batches: Iterable[Batch], eval_step: Callable) -> Scores:
  """Scores over all batches; state is what eval_step takes."""
  loss, tokens, right, answers = 0.0, 0, 0, 0
  for batch in batches:
    found = eval_step(state, batch)
    loss, tokens = loss + float(found.loss), tokens + int(found.tokens)
    right, answers = right + int(found.right), answers + int(found.answers)
  return Scores(loss / max(tokens, 1), right, answers)


def spread(rows: int, count: int, most: int) -> list[int]:
  """Numbers of up to `most` rows, the first `count` spread evenly over all, then their neighbours.

  A table is often in the order of its classes, and its first rows are of one.
  """
  found = (i * rows // count + place for place in range(most) for i in range(count))
  return [*dict.fromkeys(number for number in found if number < rows)][:most]


def sample_answers(
  state: TrainState,
  batch: Batch,
  numbers: Sequence[int],
  encoder: pipeline.Preprocessor,
  count: int,
  answer_step: Callable,
  folder: pathlib.Path,
) -> list[dict[str, str]]:
  """The first `count` questions of a batch, each with clips, the expected answer and the model's.

  numbers: those of the batch's rows, among all validation rows. The clips as the model hears them
  are written to folder by the first process, if they are not there yet, and named by their path
  below the folder that holds it; of features there are none.
  """
  generated = answer_step(state, batch)
  tokens, lengths = np.asarray(generated.tokens)[:, 0], np.asarray(generated.lengths)[:, 0]
  # Rows without loss are padding, or rows whose audio is bad.
  is_used = parallel.to_host(batch.loss_mask).any(axis=1)
  clips = [parallel.to_host(wav) for wav in (batch.wav1, batch.wav2)]
  is_audio = batch.wav1.shape[1] == encoder.model.audio.clip_samples  # and not features
  samples = []
  for i in np.flatnonzero(is_used)[:count].tolist():
    number, text = numbers[i], encoder.tokenizer.decode(tokens[i, : lengths[i]].tolist())
    row = encoder.rows[number]
    sample = {"question": row.input, "expected": row.answer, "answer": text}
    for place, path in enumerate(filter(None, (row.filepath1, row.filepath2))):
      file = folder / f"{number}{'ab'[place]}.flac"
      sample[f"clip{place + 1}"] = path
      if not is_audio:
        continue
      sample[f"audio{place + 1}"] = f"{folder.name}/{file.name}"
      if parallel.is_first() and not file.exists():
        sound_files.write(file, clips[place][i], encoder.model.audio.sample_rate)
    samples.append(sample)
  return samples
