"""From questions to lines of predictions: clips read ahead, batches answered, the work shared."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from mellow_jax import parallel, progress
from mellow_jax.config import AudioConfig
from mellow_jax.data import audio, prompts, scenes
from mellow_jax.data.audio import Clip
from mellow_jax.errors import AudioError, PredictionsError, QuestionError
from mellow_jax.evaluation.benchmarks import probes
from mellow_jax.evaluation.benchmarks.items import Item, Prediction
from mellow_jax.inference import predictions
from mellow_jax.inference.api import Answer, Mellow, NotAsked, Row
from mellow_jax.inference.decode import Sampling
from mellow_jax.inference.notes import NoteCounts
from mellow_jax.inference.predictions import Predictions

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
  sampling: Sampling
  options_loglik: bool
  vote: bool = False  # among samples
  seed: int = 0  # of samples
  strict: bool = False  # a clip that cannot be read ends the run


def keys(asking: Asking, questions: Sequence[Question]) -> list[str]:
  """What each question is known by: its item, its prompt and what is heard."""
  return [
    predictions.key_of(
      [dataclasses.asdict(q.item), q.order, q.prompt, asking.slots(q.item), asking.slots.heard]
    )
    for q in questions
  ]


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
  """The questions with their clips, which threads read ahead, or the error of reading one.

  Raises AudioError naming the item where strict.
  """
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
        if asking.strict:
          raise AudioError(f"item {question.item.id}: {error}", error.reason) from None
        first, second = error, None
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
  model: Mellow,
  asking: Asking,
  questions: Sequence[Question],
  mine: Sequence[int],
  keys: Sequence[str],
  batch: int,
  counts: NoteCounts,
) -> Iterator[list[Line]]:
  """The lines of some of the questions, by their numbers, a batch at a time."""
  slots = asking.slots
  expected = {"question_cut"}  # the command counts those of all questions before it begins
  if slots.heard == "silence" or slots.second == "none":
    expected.add("silent_clip")
  room = _room(model, questions) if asking.options_loglik else (0, 0)
  passed: collections.deque[Row] = collections.deque()

  def rows() -> Iterator[Row]:
    for row in _rows(model, asking, [questions[i] for i in mine]):
      passed.append(row)
      yield row

  answers = model.stream(
    rows(),
    sampling=asking.sampling,
    seed=asking.seed,
    batch_size=batch,
    numbers=[predictions.number_of(keys[i]) for i in mine],
    strict=asking.strict,
  )
  for start in range(0, len(mine), batch):
    numbers = mine[start : start + batch]
    some = itertools.islice(answers, len(numbers))
    found = {n: _voted(asking, questions[n], a) for n, a in zip(numbers, some, strict=True)}
    heard = {number: passed.popleft() for number in numbers}
    failures = {n: answer for n, answer in found.items() if isinstance(answer, NotAsked)}
    for number in (n for n in numbers if n not in failures):
      said = (note for note in found[number].notes if note.kind not in expected)
      counts.add(questions[number].item.id, said)
    scored = [
      n for n in numbers if asking.options_loglik and questions[n].options and n not in failures
    ]
    scores: dict[int, list[tuple[float, int]]] = {}
    if scored:
      options = [questions[n].options for n in scored]
      each = model.score([heard[n] for n in scored], options, batch_size=batch, room=room)
      scores = dict(zip(scored, each, strict=True))
    yield [_line(asking, n, questions[n], found[n], scores.get(n, [])) for n in numbers]


def _voted(asking: Asking, question: Question, answer: Answer | NotAsked) -> Answer | NotAsked:
  """After the vote, where there is one; free text has none."""
  if not asking.vote or question.item.kind == "text" or isinstance(answer, NotAsked):
    return answer
  shown = [question.item.choices[place] for place in question.order]
  return answer.vote(question.prompt, shown)


def _line(
  asking: Asking,
  number: int,
  question: Question,
  answer: Answer | NotAsked,
  scores: list[tuple[float, int]],
) -> Line:
  is_failure = isinstance(answer, NotAsked)
  prediction = Prediction(
    item=question.item,
    benchmark=asking.benchmark,
    prompt=question.prompt,
    prediction="" if is_failure else answer.text,
    order=question.order,
    option_log_probs=tuple(scores),
    heard=asking.slots.heard,
    failure=answer.message if is_failure else "",
    samples=() if is_failure or answer.agreed is None else answer.texts,
    agreed=None if is_failure else answer.agreed,
  )
  return {"row": number, **dataclasses.asdict(prediction)}


# --- Who answers what ----------------------------------------------------------------------------


def begin(
  output: Predictions, settings: dict[str, Any], about: dict[str, Any]
) -> Int[np.ndarray, "rows"]:
  """The states of the rows, as the first process finds them; all processes must ask.

  Raises PredictionsError in each of them where the first cannot begin.
  """
  states, failure = np.zeros(len(output.keys) + 1, np.int32), None  # at the end: whether it failed
  if parallel.is_first():
    try:
      states[:-1] = output.begin(settings, about)
    except PredictionsError as error:
      states[-1], failure = 1, error
  states = parallel.sum_over_processes(states)
  if states[-1]:
    raise failure or PredictionsError("the first process stopped: its message says why")
  return states[:-1]


def answer(
  model: Mellow,
  asking: Asking,
  questions: Sequence[Question],
  output: Predictions,
  states: Int[np.ndarray, "rows"],
  batch: int,
) -> tuple[list[Line], NoteCounts]:
  """Adds the predictions that are absent, shared among all processes; the first one finishes.

  In each round every process answers one batch. They all wait for the last, so that none runs far
  ahead and each learns of the others' errors. Returns the lines of items that could not be asked,
  to the first process, and the notes on this process's answers.

  Raises PredictionsError, and where strict AudioError or QuestionError naming the item; in the
  processes that met no error themselves the former.
  """
  left = predictions.to_ask(states)
  starts = range(0, len(left), batch * jax.process_count())
  skip = batch * jax.process_index()
  mine = [row for start in starts for row in left[start + skip : start + skip + batch]]
  counts = NoteCounts()
  batches = _batches(model, asking, questions, mine, output.keys, batch, counts)
  with progress.Bar(
    total=len(questions),
    initial=len(questions) - len(left),
    unit="row",
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
  return output.finish() if parallel.is_first() else [], counts
