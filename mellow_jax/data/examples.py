"""A row to the arrays of an example: what is asked, what is heard, what is answered.

A training row whose audio cannot be used is replaced as a whole, text and audio together, by one
that follows from the seed and the row's place in the run alone; each is noted.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tokenizers
from jaxtyping import Float32

from mellow_jax.config import DataConfig, ModelConfig
from mellow_jax.data import augment, bad_records, presets, prompts
from mellow_jax.data.bad_records import BadRecord
from mellow_jax.data.clips import Clips
from mellow_jax.data.records import Record
from mellow_jax.errors import AudioError, PipelineError

MIXED_SHARE = 0.5  # of augmented clips that sound together with another of their caption

T, U = TypeVar("T"), TypeVar("U")


@dataclasses.dataclass(frozen=True)
class _Silence:
  """Clips without a sound, for rows that are left out and yet fill their place in a batch."""

  samples: int

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "S"]:
    return np.zeros(self.samples, np.float32)


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Makes an example of a row: a random one with rng (training), always the same without."""

  rows: Sequence[Record]
  clips: Clips
  tokenizer: tokenizers.Tokenizer
  model: ModelConfig
  data: DataConfig

  def __call__(self, row: Record, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    """The arrays of one example, by the names of a step's batch.

    Raises PipelineError naming the row.
    """
    try:
      return self._example(row, rng, [])
    except AudioError as error:
      raise PipelineError(f"row {row.row} ({row.subtype}): {error}") from error

  def draw(self, row: Record, rng: np.random.Generator) -> dict[str, Any]:
    """A training example of the row, or of another one where its audio cannot be used.

    Beside the arrays it holds "bad", the list of BadRecord met on the way. Raises PipelineError for
    text that cannot be used, and where all records of a long series are bad.
    """
    met: list[BadRecord] = []
    if self.data.shuffled_audio:
      heard = self._any_row(rng)
      row = dataclasses.replace(row, filepath1=heard.filepath1, filepath2=heard.filepath2)
    example = _first_usable(
      self._any_row, lambda chosen, rng: self._example(chosen, rng, met), rng, first=row
    )
    return {**example, "bad": met}

  def heard_or_left_out(self, row: Record, met: list[BadRecord]) -> dict[str, np.ndarray]:
    """A validation example; silence without loss, noted in met, where the audio cannot be used."""
    try:
      return self._example(row, None, met)
    except AudioError:
      silent = dataclasses.replace(self, clips=_Silence(self.model.audio.clip_samples))
      example = silent(row)
      return {**example, "loss_mask": np.zeros_like(example["loss_mask"])}

  def _example(
    self, row: Record, rng: np.random.Generator | None, met: list[BadRecord]
  ) -> dict[str, np.ndarray]:
    """Raises AudioError, noted in met, and PipelineError for what else is wrong with the row."""
    try:
      return self._encode(row, rng, met)
    except AudioError:
      raise
    except ValueError as error:
      raise PipelineError(f"row {row.row} ({row.subtype}): {error}") from error

  def _encode(
    self, row: Record, rng: np.random.Generator | None, met: list[BadRecord]
  ) -> dict[str, np.ndarray]:
    preset, model = presets.PRESETS[self.data.preset], self.model
    if rng is not None and self.data.augment:
      # Another caption of the row's own clips would be right as well.
      own = {row.filepath1, row.filepath2}
      captions = [c for c, paths in self.clips_by_caption.items() if own.isdisjoint(paths)]
      row = augment.redraw_options(row, captions, rng)
    wav1 = self._clip(row.filepath1, row.caption1, row, rng, met)
    if row.filepath2:
      wav2 = self._clip(row.filepath2, row.caption2, row, rng, met)
    else:
      wav2 = self._second_clip(wav1, rng, met)
    task = prompts.task_of(row.input)
    question = prompts.question(row.input, preset, rng=rng)
    answer = prompts.answer(
      row.answer, preset, task=task, training=rng is not None, second=row.caption2 or None
    )
    ids = (model.pad_id, model.end_id)
    text_ids, text_length = prompts.encode_question(
      self.tokenizer, question, preset, model.text_tokens, *ids
    )
    answer_ids, answer_length = prompts.encode_answer(
      self.tokenizer, answer, preset, model.answer_tokens, *ids
    )
    if preset.answer_end == "string":
      # The reference leaves out the loss of every pad token, also of a genuine "!".
      loss_mask = answer_ids != model.pad_id
    else:
      loss_mask = np.arange(model.answer_tokens) < answer_length
    return {
      "wav1": wav1,
      "wav2": wav2,
      "text_ids": text_ids,
      "text_lengths": np.int32(text_length),
      "answer_ids": answer_ids,
      "loss_mask": loss_mask,
    }

  def _second_clip(
    self, wav1: Float32[np.ndarray, "S"], rng: np.random.Generator | None, met: list[BadRecord]
  ) -> Float32[np.ndarray, "S"]:
    """What a row of one clip hears second."""
    if self.data.second_clip == "silence":
      return np.zeros_like(wav1)
    if self.data.second_clip == "same" or rng is None:
      return wav1
    if rng.random() >= self.data.another_clip_share:
      return wav1
    # The reference lets one-clip questions hear any clip of the dataset second.
    return _first_usable(
      self._any_row,
      lambda other, rng: self._clip(other.filepath1, other.caption1, other, rng, met),
      rng,
    )

  def _clip(
    self,
    path: str,
    caption: str,
    row: Record,
    rng: np.random.Generator | None,
    met: list[BadRecord],
  ) -> Float32[np.ndarray, "S"]:
    wav = self._load(path, row, rng, met)
    if rng is None or not self.data.augment:
      return wav
    wav = augment.distort(wav, rng)
    paths = self.clips_by_caption.get(caption, [path])
    if rng.random() < MIXED_SHARE:
      other = _first_usable(
        lambda rng: paths[int(rng.integers(len(paths)))],
        lambda path, rng: self._load(path, row, rng, met),
        rng,
      )
      wav = augment.mix(wav, augment.distort(other, rng), rng)
    return wav

  def _load(
    self, path: str, row: Record, rng: np.random.Generator | None, met: list[BadRecord]
  ) -> Float32[np.ndarray, "S"]:
    try:
      return self.clips.load(path, rng)
    except AudioError as error:
      met.append(BadRecord(path, error.reason, str(error), row.row))
      raise

  def _any_row(self, rng: np.random.Generator) -> Record:
    return self.rows[int(rng.integers(len(self.rows)))]

  @functools.cached_property
  def clips_by_caption(self) -> dict[str, list[str]]:
    """Each caption of the rows' first clips, and the paths of those, once each."""
    found: dict[str, dict[str, None]] = {}
    for row in self.rows:
      found.setdefault(row.caption1, {})[row.filepath1] = None
    return {caption: list(paths) for caption, paths in found.items()}


def _first_usable(
  draw: Callable[[np.random.Generator], T],
  use: Callable[[T, np.random.Generator], U],
  rng: np.random.Generator,
  first: T | None = None,
) -> U:
  """What use makes of what draw draws (at first of `first`), until that is no AudioError.

  Raises PipelineError after a long series of those.
  """
  try:
    return use(draw(rng) if first is None else first, rng)
  except AudioError as error:
    failed = error
  seed = rng.integers(2**32, size=4, dtype=np.uint32)
  for number in range(bad_records.MOST_TRIES):
    again = np.random.default_rng([*seed, number])
    try:
      return use(draw(again), again)
    except AudioError as error:
      failed = error
  raise PipelineError(
    f"{bad_records.MOST_TRIES} records in a row could not be used, the last: {failed}"
  ) from failed
