"""A row to the arrays of an example: waveforms, question, answer and loss mask.

A training row whose audio cannot be used is replaced as a whole, text and audio together, by one
that follows from the seed and the row's place in the run alone. Each bad record is collected.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tokenizers
from jaxtyping import Float32, Int32

from mellow_jax.config import DataConfig, ModelConfig
from mellow_jax.data import augment, bad_records, presets, prompts
from mellow_jax.data.bad_records import BadRecord
from mellow_jax.data.clips import Clips
from mellow_jax.data.features import FeatureClips
from mellow_jax.data.records import Record
from mellow_jax.errors import AudioError, PipelineError

MIXED_SHARE = 0.5  # of augmented clips that are mixed with another clip of the same caption

T, U = TypeVar("T"), TypeVar("U")


@dataclasses.dataclass(frozen=True)
class _Silence:
  """Silent clips, for validation rows that have no loss and yet fill their place in a batch."""

  silence: Float32[np.ndarray, "S"]

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float32[np.ndarray, "S"]:
    return self.silence


@dataclasses.dataclass(frozen=True)
class Preprocessor:
  """Makes an example of a row: with rng (training) a random one, without always the same."""

  rows: Sequence[Record]
  clips: Clips
  tokenizer: tokenizers.Tokenizer
  model: ModelConfig
  data: DataConfig

  def __call__(self, row: Record, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    """The arrays of one example, named as the fields of a batch.

    Raises PipelineError naming the row.
    """
    try:
      return self._example(row, rng, [])
    except AudioError as error:
      raise PipelineError(f"row {row.row} ({row.subtype}): {error}") from error

  def texts(self, row: Record, rng: np.random.Generator | None = None) -> tuple[str, str]:
    """The question and the answer of a row as the preset writes them, before their ends.

    Raises ValueError for a row that cannot be written so.
    """
    preset = presets.PRESETS[self.data.preset]
    question = prompts.question(row.input, preset, rng=rng)
    answer = prompts.answer(
      row.answer,
      preset,
      task=prompts.task_of(row.input),
      training=rng is not None,
      second=row.caption2 or None,
    )
    return question, answer

  def training_example(
    self, row: Record | tuple[Record, ...], rng: np.random.Generator
  ) -> dict[str, Any]:
    """A training example of the row, or of another one where its audio cannot be used.

    Of several rows on the same clips, their clips once and their texts stacked.

    Beside the arrays it holds "bad", the list of BadRecord found on the way. Raises PipelineError
    for text that cannot be used, and where all records of a long series are bad.
    """
    if isinstance(row, tuple):
      return self._group(row, rng)
    return self._usable(row, rng)[1]

  def _usable(self, row: Record, rng: np.random.Generator) -> tuple[bool, dict[str, Any]]:
    """Whether the row's audio can be used, and the training example of it or of another."""
    bad: list[BadRecord] = []
    if self.data.shuffled_audio:
      other = self._any_row(rng)
      row = dataclasses.replace(row, filepath1=other.filepath1, filepath2=other.filepath2)
    chosen, example = _first_usable(
      self._any_row,
      lambda chosen, rng: (chosen, self._example(chosen, rng, bad)),
      rng,
      first=row,
    )
    return chosen is row, {**example, "bad": bad}

  def _group(self, rows: tuple[Record, ...], rng: np.random.Generator) -> dict[str, Any]:
    """The clips of the first row, and the texts of share_prefix rows; absent ones have no loss."""
    is_own, made = self._usable(rows[0], rng)
    texts = [{name: made[name] for name in made if name not in ("wav1", "wav2", "bad")}]
    for row in rows[1:] if is_own else ():
      try:
        texts.append(self._texts(self._redrawn(row, rng), rng))
      except ValueError as error:
        raise PipelineError(f"row {row.row} ({row.subtype}): {error}") from error
    blank = {**texts[0], "loss_mask": np.zeros_like(texts[0]["loss_mask"])}
    texts += [blank] * (self.data.share_prefix - len(texts))
    return {**made, **{name: np.stack([text[name] for text in texts]) for name in texts[0]}}

  def validation_example(self, row: Record, bad: list[BadRecord]) -> dict[str, np.ndarray]:
    """A validation example; where the audio cannot be used, silence without loss, and bad grows."""
    try:
      return self._example(row, None, bad)
    except AudioError:
      example = dataclasses.replace(self, clips=_Silence(self.silence))(row)
      return {**example, "loss_mask": np.zeros_like(example["loss_mask"])}

  @property
  def silence(self) -> Float32[np.ndarray, "S"]:
    """A silent clip, or its features."""
    if isinstance(self.clips, FeatureClips | _Silence):
      return self.clips.silence
    return np.zeros(self.model.audio.clip_samples, np.float32)

  def _example(
    self, row: Record, rng: np.random.Generator | None, bad: list[BadRecord]
  ) -> dict[str, np.ndarray]:
    """Raises AudioError, adding to bad, and PipelineError for what else is wrong with the row."""
    try:
      return self._encode(row, rng, bad)
    except AudioError:
      raise
    except ValueError as error:
      raise PipelineError(f"row {row.row} ({row.subtype}): {error}") from error

  def _encode(
    self, row: Record, rng: np.random.Generator | None, bad: list[BadRecord]
  ) -> dict[str, np.ndarray]:
    row = self._redrawn(row, rng)
    return {**self._clip_pair(row, rng, bad), **self._texts(row, rng)}

  def _redrawn(self, row: Record, rng: np.random.Generator | None) -> Record:
    """The row, in training with other options where the data are augmented."""
    if rng is None or not self.data.augment:
      return row
    # Another caption of the row's own clips would be right as well.
    own = {row.filepath1, row.filepath2}
    captions = [c for c, paths in self.clips_by_caption.items() if own.isdisjoint(paths)]
    return augment.redraw_options(row, captions, rng)

  def _clip_pair(
    self, row: Record, rng: np.random.Generator | None, bad: list[BadRecord]
  ) -> dict[str, np.ndarray]:
    """The arrays of a row's clips. Raises AudioError, adding to bad."""
    wav1 = self._clip(row.filepath1, row.caption1, row, rng, bad)
    if row.filepath2:
      wav2 = self._clip(row.filepath2, row.caption2, row, rng, bad)
    else:
      wav2 = self._second_clip(wav1, rng, bad)
    return {"wav1": wav1, "wav2": wav2}

  def _texts(self, row: Record, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    """The arrays of a row's question and answer. Raises ValueError."""
    preset, model = presets.PRESETS[self.data.preset], self.model
    question, answer = self.texts(row, rng)
    ids = (model.pad_id, model.end_id)
    text_ids, text_length = prompts.encode(
      self.tokenizer, question, preset.question_end, model.text_tokens, *ids
    )
    answer_ids, answer_length = self._answer_ids(answer)
    if preset.answer_end == "string":
      # The reference leaves out the loss of every pad token, also of a genuine "!".
      loss_mask = answer_ids != model.pad_id
    else:
      loss_mask = np.arange(model.answer_tokens) < answer_length
    return {
      "text_ids": text_ids,
      "text_lengths": np.int32(text_length),
      "answer_ids": answer_ids,
      "loss_mask": loss_mask,
    }

  def _answer_ids(self, text: str) -> tuple[Int32[np.ndarray, "R"], int]:
    """The ids of an answer and its end, padded, and their number. Raises ValueError."""
    preset, model = presets.PRESETS[self.data.preset], self.model
    slots, ids = model.answer_tokens, (model.pad_id, model.end_id)
    return prompts.encode(self.tokenizer, text, preset.answer_end, slots, *ids)

  def answer_length(self, row: Record | tuple[Record, ...]) -> int:
    """Tokens of the longest answer in training; of one that cannot be used as many as may be."""
    if isinstance(row, tuple):
      return max(map(self.answer_length, row))
    try:
      return self._answer_ids(self.texts(row)[1])[1]
    except ValueError:
      return self.model.answer_tokens

  def _second_clip(
    self, wav1: Float32[np.ndarray, "S"], rng: np.random.Generator | None, bad: list[BadRecord]
  ) -> Float32[np.ndarray, "S"]:
    """The second clip of a row that has one."""
    if self.data.second_clip == "silence":
      is_kept = isinstance(self.clips, FeatureClips | _Silence)
      return self.clips.silence if is_kept else np.zeros_like(wav1)
    if self.data.second_clip == "same" or rng is None:
      return wav1
    if rng.random() >= self.data.another_clip_share:
      return wav1
    # The reference takes any clip of the dataset as the second of a one-clip question.
    return _first_usable(
      self._any_row,
      lambda other, rng: self._clip(other.filepath1, other.caption1, other, rng, bad),
      rng,
    )

  def _clip(
    self,
    path: str,
    caption: str,
    row: Record,
    rng: np.random.Generator | None,
    bad: list[BadRecord],
  ) -> Float32[np.ndarray, "S"]:
    wav = self._load(path, row, rng, bad)
    if rng is None or not self.data.augment:
      return wav
    wav = augment.distort(wav, rng)
    paths = self.clips_by_caption.get(caption, [path])
    if rng.random() < MIXED_SHARE:
      other = _first_usable(
        lambda rng: paths[int(rng.integers(len(paths)))],
        lambda path, rng: self._load(path, row, rng, bad),
        rng,
      )
      wav = augment.mix(wav, augment.distort(other, rng), rng)
    return wav

  def _load(
    self, path: str, row: Record, rng: np.random.Generator | None, bad: list[BadRecord]
  ) -> Float32[np.ndarray, "S"]:
    try:
      return self.clips.load(path, rng)
    except AudioError as error:
      bad.append(BadRecord(path, error.reason, str(error), row.row))
      raise

  def _any_row(self, rng: np.random.Generator) -> Record:
    return self.rows[int(rng.integers(len(self.rows)))]

  @functools.cached_property
  def clips_by_caption(self) -> dict[str, list[str]]:
    """The paths of the rows' first clips by their caption, each once; not of rows without one."""
    found: dict[str, dict[str, None]] = {}
    for row in self.rows:
      if row.caption1:
        found.setdefault(row.caption1, {})[row.filepath1] = None
    return {caption: list(paths) for caption, paths in found.items()}


def _first_usable(
  sample: Callable[[np.random.Generator], T],
  use: Callable[[T, np.random.Generator], U],
  rng: np.random.Generator,
  first: T | None = None,
) -> U:
  """use(first), or use(sample(rng)), sampled again for as long as that raises AudioError.

  Raises PipelineError after MOST_TRIES.
  """
  try:
    return use(sample(rng) if first is None else first, rng)
  except AudioError as error:
    failed = error
  seed = rng.integers(2**32, size=4, dtype=np.uint32)
  for number in range(bad_records.MOST_TRIES):
    again = np.random.default_rng([*seed, number])
    try:
      return use(sample(again), again)
    except AudioError as error:
      failed = error
  raise PipelineError(
    f"{bad_records.MOST_TRIES} records in a row could not be used, the last: {failed}"
  ) from failed
