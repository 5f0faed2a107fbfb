"""From questions to lines of predictions: clips read ahead, batches answered, the work shared."""

import collections
import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from jaxtyping import Bool

from mellow_jax import parallel
from mellow_jax.config import AudioConfig
from mellow_jax.data import audio, prompts, scenes
from mellow_jax.data.audio import Clip
from mellow_jax.errors import AudioError, PredictionsError, QuestionError
from mellow_jax.evaluation.benchmarks import probes
from mellow_jax.evaluation.benchmarks.items import Item, Prediction
from mellow_jax.inference.api import Mellow, Row
from mellow_jax.inference.decode import Sampling
from mellow_jax.inference.predictions import SharedPredictions

READERS = 8  # threads that read clips
READ_AHEAD = 64  # questions whose clips are read before it is their turn
KEPT_CLIPS = 256  # that have been read, for items about the same clip

Line = dict[str, Any]


@dataclass(frozen=True)
class Question:
  """An item as it is put to the model: one line of the output."""

  item: Item
  order: tuple[int, ...]  # of its choices
  prompt: str
  options: tuple[str, ...]  # the answers that name its choices, in the item's own order


@dataclass(frozen=True, kw_only=True)
class Asking:
  """Everything that answers depend on beside the model and the questions."""

  benchmark: str
  audio_root: Path
  slots: probes.Slots
  window: audio.Window
  max_new_tokens: int
  options_loglik: bool


# --- What is heard -------------------------------------------------------------------------------


def _whole(wav: np.ndarray, cfg: AudioConfig) -> Clip:
  """A clip that is as long as the model hears."""
  return Clip(wav, 0.0, cfg.clip_seconds, cfg.clip_seconds)


def _read(path: str, model: Mellow, asking: Asking) -> Clip:
  cfg, slots = model.cfg.audio, asking.slots
  if slots.heard == "noise":
    return _whole(probes.noise(path, cfg.clip_samples, slots.seed), cfg)
  if asking.benchmark == "scenes":
    return _whole(scenes.SceneClips(cfg.sample_rate, cfg.clip_samples).load(path), cfg)
  return audio.load(asking.audio_root / path, cfg, model.preset, window=asking.window)


def _rows(model: Mellow, asking: Asking, questions: Sequence[Question]) -> Iterator[Row]:
  """The questions with their clips, which threads read ahead. Raises AudioError naming the item."""
  cfg = model.cfg.audio
  silent = _whole(np.zeros(cfg.clip_samples, np.float32), cfg)
  with futures.ThreadPoolExecutor(READERS) as pool:
    # The same path gives the same clip, which the model encodes once in a batch.
    start = functools.lru_cache(KEPT_CLIPS)(lambda path: pool.submit(_read, path, model, asking))
    begun: collections.deque = collections.deque()
    for question in itertools.chain(questions, [None] * READ_AHEAD):
      paths = asking.slots(question.item) if question else ()
      begun.append((question, [start(path) if path else None for path in paths]))
      if len(begun) <= READ_AHEAD:
        continue
      question, clips = begun.popleft()
      try:
        first, second = (clip.result() if clip else silent for clip in clips)
      except AudioError as error:
        raise AudioError(f"item {question.item.id}: {error}", error.reason) from None
      yield first, second, question.prompt


# --- What is answered ----------------------------------------------------------------------------


def _room(model: Mellow, questions: Sequence[Question]) -> tuple[int, int]:
  """The most options of a question, and the most tokens of an option."""
  cfg = model.cfg
  how = (model.preset.answer_end, cfg.answer_tokens, cfg.pad_id, cfg.end_id)
  texts = {text for question in questions for text in question.options}
  lengths = [prompts.encode(model.tokenizer, t, *how)[1] for t in texts]
  return max(len(question.options) for question in questions), max(lengths, default=0)


def _batches(
  model: Mellow, asking: Asking, questions: Sequence[Question], mine: Sequence[int], batch: int
) -> Iterator[list[Line]]:
  """The lines of some of the questions, by their numbers, a batch at a time."""
  room = _room(model, questions) if asking.options_loglik else (0, 0)
  passed: collections.deque[Row] = collections.deque()

  def rows() -> Iterator[Row]:
    for row in _rows(model, asking, [questions[i] for i in mine]):
      passed.append(row)
      yield row

  sampling = Sampling(max_new_tokens=asking.max_new_tokens)
  answers = model.stream(rows(), sampling=sampling, batch_size=batch)
  for start in range(0, len(mine), batch):
    numbers = mine[start : start + batch]
    texts = [answer.text for answer in itertools.islice(answers, len(numbers))]
    heard = [passed.popleft() for _ in numbers]
    scores: dict[int, list[tuple[float, int]]] = {}
    scored = [i for i, n in enumerate(numbers) if asking.options_loglik and questions[n].options]
    if scored:
      options = [questions[numbers[i]].options for i in scored]
      found = model.score([heard[i] for i in scored], options, batch_size=batch, room=room)
      scores = dict(zip(scored, found, strict=True))
    yield [
      _line(asking, number, questions[number], texts[i], scores.get(i, []))
      for i, number in enumerate(numbers)
    ]


def _line(
  asking: Asking, number: int, question: Question, text: str, scores: list[tuple[float, int]]
) -> Line:
  prediction = Prediction(
    item=question.item,
    benchmark=asking.benchmark,
    prompt=question.prompt,
    prediction=text,
    order=question.order,
    option_log_probs=tuple(scores),
    heard=asking.slots.heard,
  )
  return {"row": number, **dataclasses.asdict(prediction)}


# --- Who answers what ----------------------------------------------------------------------------


def begin(output: SharedPredictions, settings: dict[str, Any]) -> Bool[np.ndarray, "rows"]:
  """Which rows are answered already, as the first process finds it; all processes must ask.

  Raises PredictionsError in each of them where the first cannot begin.
  """
  done, failure = np.zeros(output.rows + 1, np.int32), None  # at the end: whether it failed
  if parallel.is_first():
    try:
      done[:-1] = output.begin(settings)
    except PredictionsError as error:
      done[-1], failure = 1, error
  done = parallel.sum_over_processes(done)
  if done[-1]:
    raise failure or PredictionsError("the first process stopped: its message says why")
  return done[:-1].astype(bool)


def answer(
  model: Mellow,
  asking: Asking,
  questions: Sequence[Question],
  output: SharedPredictions,
  done: Bool[np.ndarray, "rows"],
  batch: int,
) -> None:
  """Adds the predictions that are not done, shared among all processes; the first one finishes.

  In each round every process answers one batch. They all wait for the last, so that none runs far
  ahead and each learns of the others' failures.

  Raises AudioError or QuestionError naming the item, and PredictionsError; in the processes that
  met no error themselves the latter.
  """
  left = np.flatnonzero(~done).tolist()
  starts = range(0, len(left), batch * jax.process_count())
  skip = batch * jax.process_index()
  mine = [row for start in starts for row in left[start + skip : start + skip + batch]]
  batches = _batches(model, asking, questions, mine, batch)
  with tqdm.tqdm(
    total=len(questions),
    initial=len(questions) - len(left),
    unit="row",
    file=sys.stderr,
    disable=not parallel.is_first(),
  ) as bar:
    for _ in starts:
      lines, failure = [], None
      try:
        lines = next(batches, [])
        output.append(lines)
      except (AudioError, QuestionError, PredictionsError) as error:
        failure = error
      answered, failures = parallel.sum_over_processes(np.array([len(lines), failure is not None]))
      bar.update(int(answered))
      if failures:
        raise failure or PredictionsError("another process stopped: its message says why")
  if parallel.is_first():
    output.finish()
