"""Questions about audio, answered: the class `Mellow`."""

import functools
import itertools
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from mellow_jax import checkpoint, parallel
from mellow_jax.checkpoint import LoadedModel
from mellow_jax.data import audio, presets, prompts
from mellow_jax.data.audio import Clip, Source
from mellow_jax.errors import QuestionError
from mellow_jax.inference import decode
from mellow_jax.inference.decode import Generation, Sampling
from mellow_jax.models import mellow

GREEDY = Sampling()
OPTION_BUCKET = 8  # options are padded to a multiple of so many tokens, so that few sizes compile

Row = tuple[Source | Clip, Source | Clip | None, str]  # first clip, second or None, question


@dataclass(frozen=True)
class Answer:
  """What the model says to one question: one answer, or several from samples or beams."""

  texts: tuple[str, ...]
  log_probs: tuple[float, ...]  # natural, of each answer with its end token
  tokens: tuple[int, ...]  # in each answer, without its end token
  heard: tuple[str, ...]  # of each clip, such as "0.0-10.0 s of 62.3 s"

  @property
  def text(self) -> str:
    """The first answer; from beams, the most probable."""
    return self.texts[0]

  def __str__(self) -> str:
    return self.text


@dataclass(frozen=True)
class _Question:
  """A row made ready for the model."""

  clips: tuple[Clip, Clip]
  ids: np.ndarray  # [L]
  length: int


class _Batch(NamedTuple):
  audio1: Float[Array, "B A D"]
  audio2: Float[Array, "B A D"]
  text_ids: Int[Array, "B L"]
  text_lengths: Int[Array, "B"]


def describe(clip: Clip) -> str:
  """Which part of a clip is heard."""
  end = clip.start_seconds + clip.seconds_used
  return f"{clip.start_seconds:.1f}-{end:.1f} s of {clip.total_seconds:.1f} s"


class Mellow:
  """A model ready to be asked.

  Every size of batch is compiled at its first use, which takes from seconds to a minute and is
  said. A single clip stands in both slots of the model, as callers of the reference do.

  Batches are divided over the devices given, by default one of this process: their size must be a
  multiple of the number of devices.
  """

  def __init__(
    self,
    loaded: LoadedModel,
    preset: str | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
    say: Callable[[str], None] = logging.info,
  ):
    name = loaded.preset if preset is None else preset
    if name not in presets.PRESETS:
      raise QuestionError(f"preset {name!r} is unknown: one of {', '.join(presets.PRESETS)}")
    self.preset, self.cfg, self.say = presets.PRESETS[name], loaded.config, say
    self.tokenizer, self._compiled = loaded.tokenizer, set()
    graphdef, params = mellow.fuse(self.cfg, loaded.params)
    mesh = parallel.make_mesh((-1, 1), devices or jax.local_devices()[:1])
    self.params = jax.device_put(params, parallel.replicated(mesh))
    self._place = functools.partial(jax.device_put, device=parallel.batch_sharding(mesh))

    # Merged inside: parameters stay a plain pytree outside, which costs nothing to pass.
    @jax.jit
    def encode(params: PyTree, wav: Float[Array, "B S"]) -> Float[Array, "B A D"]:
      return nnx.merge(graphdef, params).encode(wav)

    @functools.partial(jax.jit, static_argnums=4)
    def generate(
      params: PyTree, batch: _Batch, key: Key[Array, ""], rows: Int[Array, "B"], sampling: Sampling
    ) -> Generation:
      model = nnx.merge(graphdef, params)
      prefix = model.prefix(batch.audio1, batch.audio2, batch.text_ids)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
      return decode.generate(model, prefix, batch.text_lengths, keys, sampling)

    @jax.jit
    def score(
      params: PyTree, batch: _Batch, options: Int[Array, "B O R"], lengths: Int[Array, "B O"]
    ) -> Float[Array, "B O"]:
      model = nnx.merge(graphdef, params)
      prefix = model.prefix(batch.audio1, batch.audio2, batch.text_ids)
      return decode.score(model, prefix, batch.text_lengths, options, lengths)

    self._encode, self._generate, self._score = encode, generate, score

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike,
    preset: str | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
    say: Callable[[str], None] = logging.info,
  ) -> "Mellow":
    """The model of a folder, with the preset of preprocessing and prompts it was trained with.

    say gets lines of progress: the device, what is compiled, which part of a long clip is heard.
    Raises CheckpointError for a folder that is no sound model, QuestionError for a wrong preset.
    """
    parallel.use_compilation_cache()
    devices = devices or jax.local_devices()[:1]
    many = f"{len(devices)} x " if len(devices) > 1 else ""
    say(f"device: {many}{devices[0].platform} ({devices[0].device_kind})")
    return cls(checkpoint.load_model(folder), preset, devices=devices, say=say)

  # --- Asking ------------------------------------------------------------------------------------

  def answer(
    self,
    clip: Source | Clip,
    question: str,
    *,
    audio2: Source | Clip | None = None,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    window: audio.Window = "first",
  ) -> Answer:
    """The answer to a question about one clip or two.

    Clips are paths, bytes of a file, or (samples, sample rate). Of a longer clip, window is heard:
    its "first" seconds or those at its "center"; `answer_windows` hears it all.

    Raises AudioError for audio, QuestionError for text that cannot be used.
    """
    rows = [(clip, audio2, question)]
    return self.answers(rows, sampling=sampling, seed=seed, window=window, batch_size=1)[0]

  def answer_windows(
    self, clip: Source, question: str, *, sampling: Sampling = GREEDY, seed: int = 0
  ) -> list[Answer]:
    """An answer for each consecutive window of a clip; raises as `answer` does."""
    rows = [(c, None, question) for c in audio.load_windows(clip, self.cfg.audio, self.preset)]
    return self.answers(rows, sampling=sampling, seed=seed, batch_size=min(len(rows), 8))

  def compare(
    self,
    clip: Source | Clip,
    audio2: Source | Clip,
    question: str = "explain the difference in few words",
    **how: Any,
  ) -> Answer:
    """How two clips differ; `how` is what `answer` takes."""
    return self.answer(clip, question, audio2=audio2, **how)

  def caption(self, clip: Source | Clip, question: str = "caption the audio", **how: Any) -> Answer:
    """What is heard in a clip; `how` is what `answer` takes."""
    return self.answer(clip, question, **how)

  def answers(self, rows: Sequence[Row], **how: Any) -> list[Answer]:
    """Answers to many questions; `how` is what `stream` takes."""
    return list(self.stream(rows, **how))

  def stream(
    self,
    rows: Iterable[Row],
    *,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    window: audio.Window = "first",
    batch_size: int = 8,
    first_row: int = 0,
  ) -> Iterator[Answer]:
    """Answers in the order of the rows, each as soon as its batch is done.

    What is drawn for a row follows from the seed and the row's number, first_row on, whatever
    batch it is in. The clips of a batch are encoded once each, however many rows ask about them.
    """
    key = jax.random.key(seed)

    def compute(batch: _Batch, numbers: np.ndarray) -> tuple[Array, Array, Array]:
      found = self._generate(self.params, batch, key, first_row + numbers, sampling)
      return found.tokens, found.lengths, found.log_probs

    for question, (tokens, lengths, log_probs) in self._run(
      rows, window, batch_size, compute, ("answers", sampling)
    ):
      ids = [t[:n].tolist() for t, n in zip(tokens, lengths, strict=True)]
      yield Answer(
        texts=tuple(self.tokenizer.decode(i).strip() for i in ids),
        log_probs=tuple(log_probs.tolist()),
        tokens=tuple(lengths.tolist()),
        heard=tuple(describe(clip) for clip in question.clips),
      )

  def score(
    self,
    rows: Sequence[Row],
    options: Sequence[Sequence[str]],
    *,
    window: audio.Window = "first",
    batch_size: int = 8,
    room: tuple[int, int] = (0, 0),
  ) -> list[list[tuple[float, int]]]:
    """Log-likelihood and number of tokens of each given answer to each question.

    Options are ended as the preset ends answers; the end counts in both. A multiple choice is so
    decided without parsing what the model would have written. Calls that make room for the same
    number of options and tokens, or for more, are compiled once.
    """
    cfg, preset = self.cfg, self.preset
    encoded = [
      [
        prompts.encode_answer(self.tokenizer, o, preset, cfg.answer_tokens, cfg.pad_id, cfg.end_id)
        for o in row
      ]
      for row in options
    ]
    longest = max(room[1], *(length for row in encoded for _, length in row))
    most = max(room[0], *map(len, encoded))
    shape = (len(rows), most, -(-longest // OPTION_BUCKET) * OPTION_BUCKET)
    ids, lengths = np.full(shape, cfg.pad_id, np.int32), np.zeros(shape[:2], np.int32)
    for r, row in enumerate(encoded):
      for o, (tokens, length) in enumerate(row):
        ids[r, o, :length], lengths[r, o] = tokens[:length], length

    def compute(batch: _Batch, numbers: np.ndarray) -> tuple[Array]:
      return (self._score(self.params, batch, ids[numbers], lengths[numbers]),)

    found = self._run(rows, window, batch_size, compute, ("scores", shape[1:]))
    return [
      list(zip(scores.tolist()[: len(row)], lengths[r].tolist(), strict=False))
      for r, (row, (_, (scores,))) in enumerate(zip(encoded, found, strict=True))
    ]

  # --- Batches -----------------------------------------------------------------------------------

  def _announce(self, program: tuple[str, Hashable], batch_size: int) -> None:
    """Says that a program is compiled, the first time: it is easily taken for slowness."""
    if (program, batch_size) not in self._compiled:
      self._compiled.add((program, batch_size))
      self.say(f"compiling, once: {program[0]} in batches of {batch_size}")

  def _clip(self, source: Source | Clip, window: audio.Window) -> Clip:
    if isinstance(source, Clip):
      return source
    clip = audio.load(source, self.cfg.audio, self.preset, window=window)
    if clip.seconds_used < clip.total_seconds:
      name = os.fspath(source) if isinstance(source, str | os.PathLike) else "clip"
      self.say(f"{name}: heard {describe(clip)}")
    return clip

  def _question(self, row: Row, window: audio.Window) -> _Question:
    first, second, text = row
    clip1 = self._clip(first, window)
    clip2 = clip1 if second is None or second is first else self._clip(second, window)
    if not text.strip():
      raise QuestionError("the question is empty: ask something")
    cfg = self.cfg
    try:
      asked = prompts.question(text, self.preset)
      ids, length = prompts.encode_question(
        self.tokenizer, asked, self.preset, cfg.text_tokens, cfg.pad_id, cfg.end_id
      )
    except ValueError as error:
      raise QuestionError(f"question: {error}") from None
    return _Question((clip1, clip2), ids, length)

  def _batch(self, questions: list[_Question]) -> _Batch:
    """Encodes each distinct clip once, in batches of the one size that is compiled."""
    size = len(questions)
    clips = {id(clip): clip.wav for q in questions for clip in q.clips}
    place = {name: i for i, name in enumerate(clips)}
    wavs = list(clips.values())
    wavs += wavs[:1] * (-len(wavs) % size)
    encoded = [
      self._encode(self.params, self._place(np.stack(wavs[i : i + size])))
      for i in range(0, len(wavs), size)
    ]
    tokens = jnp.concatenate(encoded)
    first, second = (np.array([place[id(q.clips[i])] for q in questions]) for i in range(2))
    batch = _Batch(
      audio1=tokens[first],
      audio2=tokens[second],
      text_ids=np.stack([q.ids for q in questions]),
      text_lengths=np.array([q.length for q in questions], np.int32),
    )
    return self._place(batch)

  def _run(
    self,
    rows: Iterable[Row],
    window: audio.Window,
    batch_size: int,
    compute: Callable[[_Batch, np.ndarray], tuple[Array, ...]],
    program: tuple[str, Hashable],
  ) -> Iterator[tuple[_Question, tuple[np.ndarray, ...]]]:
    """Each row's part of what compute makes of its batch and the numbers of the batch's rows.

    program names what compute compiles, and what it depends on besides the batch size.
    """
    rows, start, running = iter(rows), 0, []

    def finish() -> Iterator[tuple[_Question, tuple[np.ndarray, ...]]]:
      for questions, arrays in running:
        arrays = [np.asarray(array) for array in arrays]
        yield from ((q, tuple(a[i] for a in arrays)) for i, q in enumerate(questions))
      running.clear()

    while True:
      # The next clips are read while the device is busy with the last batch.
      try:
        questions = [self._question(row, window) for row in itertools.islice(rows, batch_size)]
      except ValueError:
        yield from finish()
        raise
      yield from finish()
      if not questions:
        return
      # The last batch is filled up with its last row: another size would compile again.
      filled = questions + questions[-1:] * (batch_size - len(questions))
      self._announce(program, batch_size)
      numbers = start + np.minimum(np.arange(batch_size), len(questions) - 1)
      running.append((questions, compute(self._batch(filled), numbers)))
      start += len(questions)
