"""The Python API: the class `Mellow` answers questions about audio.

What takes long is logged to the logger "mellow_jax": see `log_progress`.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from mellow_jax import checkpoint, parallel, progress
from mellow_jax.checkpoint import LoadedModel
from mellow_jax.data import audio, choices, presets, prompts
from mellow_jax.data.audio import Clip, Source
from mellow_jax.data.presets import Preset
from mellow_jax.data.prompts import Unread
from mellow_jax.errors import AudioError, CheckpointError, QuestionError
from mellow_jax.inference import decide, decode, notes, text_stream
from mellow_jax.inference.decide import Asked, Decision, Question
from mellow_jax.inference.decode import DecodeState, SampleState, Sampling
from mellow_jax.inference.notes import Note, NoteKind
from mellow_jax.models import mellow
from mellow_jax.models.mellow import MellowModel

GREEDY = Sampling()
logger = logging.getLogger("mellow_jax")
# Options are padded to one of these numbers of tokens, or to all that a model reads of one: each is
# compiled, at full size for seconds to a minute.
OPTION_LENGTHS = (16, 64, 256)

# First clip, second or None, question. In the place of a clip that could not be read may stand its
# error, which is raised, or recorded, when it is the row's turn.
Row = tuple[Source | Clip | AudioError, Source | Clip | AudioError | None, str]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Answer:
  """The answer to one question, or several answers from samples or beams."""

  texts: tuple[str, ...]
  log_probs: tuple[float, ...]  # natural, of each text with its end token
  tokens: tuple[int, ...]  # in each text, without its end token
  heard: tuple[str, ...]  # the part of each clip that was used, such as "0.0-10.0 s of 62.3 s"
  finish_reasons: tuple[FinishReason, ...]  # of each text: its end, or max_new_tokens
  notes: tuple[Note, ...]  # on the clips, the question and the first answer
  agreed: int | None = None  # texts that come to the same as the first one; None without a vote

  @property
  def text(self) -> str:
    """The first answer; from beams, the most probable."""
    return self.texts[0]

  @property
  def log_prob(self) -> float:
    """Natural log-probability of the first answer with its end token, summed over its tokens."""
    return self.log_probs[0]

  @property
  def finish_reason(self) -> FinishReason:
    """Why the first answer ended: "stop" for its end token, "length" for max_new_tokens."""
    return self.finish_reasons[0]

  def __str__(self) -> str:
    return self.text

  def vote(self, question: str, options: Sequence[str] | None = None) -> "Answer":
    """The same answers, first one that most of them agree with: self-consistency.

    Answers agree on one of the options, by default those that the question lists as "a) dog b)
    cat", or without any on yes or no. See `data.choices.vote` for ties and answers that cannot be
    read. The order of the others stays.
    """
    if options is None:
      options = choices.split_options(question)[1]
    place, agreed = choices.vote(self.texts, options)
    order = [place, *(i for i in range(len(self.texts)) if i != place)]
    lists = ("texts", "log_probs", "tokens", "finish_reasons")
    found = {name: tuple(getattr(self, name)[i] for i in order) for name in lists}
    of_prompt = tuple(note for note in self.notes if note.kind not in notes.OF_ANSWERS)
    of_answer = notes.of_answer(found["texts"][0], found["finish_reasons"][0] == "length")
    changed = {**found, "agreed": agreed, "notes": (*of_prompt, *of_answer)}
    return dataclasses.replace(self, **changed)


@dataclass(frozen=True)
class NotAsked:
  """Stands in the place of the answer to a question that could not be asked."""

  reason: str  # one word, for counting: one of audio.REASONS, or "question"
  message: str  # one line that names the clip and says what to do


class AnswerStream(Iterator[str]):
  """The pieces of an answer, each as soon as its tokens are decoded."""

  def __init__(self, pieces: Iterator[str], whole: Callable[[], Answer]):
    self._pieces, self._whole = pieces, whole

  def __next__(self) -> str:
    return next(self._pieces)

  @functools.cached_property
  def answer(self) -> Answer:
    """The whole answer; decodes what is left of it."""
    collections.deque(self._pieces, maxlen=0)
    return self._whole()


@dataclass(frozen=True)
class Prompt:
  """A row after audio preprocessing and tokenization."""

  clips: tuple[Clip, Clip]
  ids: np.ndarray  # [L]
  length: int
  notes: tuple[Note, ...] = ()


class _Inputs(NamedTuple):
  """What the model gets of a batch of prompts."""

  audio1: Float[Array, "B A D"]
  audio2: Float[Array, "B A D"]
  text_ids: Int[Array, "B L"]
  text_lengths: Int[Array, "B"]


class _ProgressHandler(logging.Handler):
  """Writes to stderr, above a progress bar if there is one."""

  def emit(self, record: logging.LogRecord) -> None:
    tqdm.tqdm.write(self.format(record), file=sys.stderr)


def log_progress() -> None:
  """Shows the package's log on stderr, from level INFO on, unless the program decides otherwise.

  A level or a handler that the logger "mellow_jax" has already stays: to have silence, or a file,
  set them. Only the first of several processes shows its log.
  """
  if logger.level == logging.NOTSET and not logger.handlers and parallel.is_first():
    logger.addHandler(_ProgressHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some libraries give the root logger a handler


@contextlib.contextmanager
def announced(what: str) -> Iterator[None]:
  """Logs that the block compiles something: it is easily taken for slowness."""
  told = parallel.told_of_compilation(lambda: logger.info("compiling, once: %s", what))
  with told, progress.stage("preparing", logger.info, is_said=True):
    yield


def say_unheard(windows: Sequence[Clip]) -> None:
  """Says in the log where the end of a clip is in none of its windows."""
  if (rest := audio.unheard(windows)) >= 0.01:
    says = "the last %.2f of %.2f s are not heard: windows are no shorter than %.0f s"
    logger.warning(says, rest, windows[-1].total_seconds, audio.MIN_WINDOW_SECONDS)


def check_seed(seed: int) -> None:
  """Raises QuestionError where JAX can make no random key of it."""
  if not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**63:
    raise QuestionError(f"seed {seed!r:.60}: give a whole number of 64 bits")


def _random_key(seed: int, sampling: Sampling) -> Key[Array, ""]:
  """The key of a seed; raises QuestionError where either is of another type."""
  if not isinstance(sampling, Sampling):
    raise QuestionError(f"sampling {sampling!r:.60}: give a Sampling, such as Sampling(top_p=0.9)")
  check_seed(seed)
  return jax.random.key(seed)


def numbered(rows: Iterable[Row], numbers: Sequence[int] | None) -> Iterator[Row]:
  """The rows, where there is one for each of the numbers; None: any rows.

  Raises QuestionError for what is no rows at all, and, after what fits, for a row without a number
  or a number without a row.
  """
  if not isinstance(rows, Iterable):
    raise QuestionError(f"rows {rows!r:.60}: give rows of (clip, second clip or None, question)")
  if numbers is None:
    yield from rows
    return
  left = len(numbers)
  for row in rows:
    if not left:
      raise QuestionError(f"numbers: {len(numbers)} for more rows: give each row one")
    left -= 1
    yield row
  if left:
    given = f"numbers: {len(numbers)} for {len(numbers) - left} rows"
    raise QuestionError(f"{given}: give each row one")


def _are_texts(options: Any) -> bool:
  """Whether these are the options of a question: texts, at least one."""
  is_list = isinstance(options, Sequence) and not isinstance(options, str)
  return is_list and bool(options) and all(isinstance(text, str) for text in options)


def _preset_of(name: str) -> Preset:
  if name not in presets.PRESETS:
    raise QuestionError(f"preset {name!r} is unknown: one of {', '.join(presets.PRESETS)}")
  return presets.PRESETS[name]


def _check_readable(options: Sequence[str]) -> None:
  for option in options:
    try:
      prompts.check(option)
    except ValueError as error:
      raise QuestionError(f"option {notes.quoted(option)}: {error}") from None


class Mellow:
  """A loaded model and its preprocessing.

  Every batch size is compiled at its first use, which takes from seconds to a minute and is logged.
  A single clip is given to the model twice, as callers of the reference do.

  Batches are divided over the devices given, by default one of this process: their size must be a
  multiple of the number of devices.
  """

  def __init__(
    self,
    loaded: LoadedModel,
    preset: str | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
  ):
    log_progress()
    if not isinstance(loaded, LoadedModel):
      raise CheckpointError(f"{loaded!r:.80} is no loaded model: use Mellow.load(FOLDER)")
    self.preset = _preset_of(loaded.preset if preset is None else preset)
    self.cfg, self.tokenizer, self._compiled = loaded.config, loaded.tokenizer, set()
    most = self.cfg.answer_tokens
    self.option_lengths = (*(n for n in OPTION_LENGTHS if 2 * n <= most), most)
    # Of long clips, and of the first question and option that are cut; commands count them instead.
    self.warns, self._warned = True, set[NoteKind]()
    graphdef, params = mellow.fuse(self.cfg, loaded.params)
    self.graphdef, self.temperature = graphdef, loaded.temperature
    mesh = parallel.make_mesh((-1, 1), devices or jax.local_devices()[:1])
    self.params = jax.device_put(params, parallel.replicated(mesh))
    self._place = functools.partial(jax.device_put, device=parallel.batch_sharding(mesh))

    # Merged inside: parameters stay a plain pytree outside, which costs nothing to pass.
    exactly = mellow.exactly(self.cfg)

    @jax.jit
    @exactly
    def encode(params: PyTree, wav: Float[Array, "B S"]) -> Float[Array, "B A D"]:
      return nnx.merge(graphdef, params).encode(wav)

    def read(params: PyTree, inputs: _Inputs) -> tuple[MellowModel, Array, Array]:
      model = nnx.merge(graphdef, params)
      prefix = model.prefix(inputs.audio1, inputs.audio2, inputs.text_ids)
      return model, prefix, inputs.text_lengths

    def with_row_keys(function: Callable) -> Callable:
      """decode.generate or decode.begin, with random numbers that follow from a row's number."""

      def run(
        params: PyTree,
        inputs: _Inputs,
        key: Key[Array, ""],
        rows: Int[Array, "B"],
        sampling: Sampling,
      ) -> tuple:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        return function(*read(params, inputs), keys, sampling)

      return jax.jit(exactly(run), static_argnums=4)

    @functools.partial(jax.jit, static_argnums=3, donate_argnums=(1, 2))
    @exactly
    def advance(
      params: PyTree, sampled: SampleState, state: DecodeState, sampling: Sampling
    ) -> tuple[SampleState, DecodeState]:
      logits, state = decode.step(nnx.merge(graphdef, params), sampled.token, state)
      return decode.append(sampled, logits, sampling, self.cfg.end_id), state

    @jax.jit
    @exactly
    def score(
      params: PyTree, inputs: _Inputs, options: Int[Array, "B O R"], lengths: Int[Array, "B O"]
    ) -> Float[Array, "B O"]:
      return decode.score(*read(params, inputs), options, lengths)

    self._encode, self._score, self._advance = encode, score, advance
    self._generate, self._begin = with_row_keys(decode.generate), with_row_keys(decode.begin)

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike,
    preset: str | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
  ) -> "Mellow":
    """The model of a folder, by default with the preset that it was trained with.

    Raises CheckpointError for a folder that is no sound model, QuestionError for a wrong preset.
    """
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
      raise CheckpointError(f"{folder!r:.80} is no path of a model folder: name one")
    if preset is not None:
      _preset_of(preset)  # before what takes long
    parallel.use_compilation_cache()
    log_progress()
    devices = devices or jax.local_devices()[:1]
    many = f"{len(devices)} x " if len(devices) > 1 else ""
    device = f"{many}{devices[0].platform} ({devices[0].device_kind})"
    logger.info("device: %s, loading %s", device, os.fspath(folder))
    with progress.stage("loading", logger.info, is_said=True):
      return cls(checkpoint.load_model(folder), preset, devices=devices)

  # --- Questions ---------------------------------------------------------------------------------

  def answer(
    self,
    clip: Source,
    question: str,
    *,
    audio2: Source | None = None,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    window: audio.Window = "first",
  ) -> Answer:
    """The answer to a question about one clip or two.

    A clip is the path of a sound file, an open file, its bytes, (samples, sample rate) with samples
    as floats in [-1, 1], in either order and channels first or last, or Hugging Face's
    {"array": samples, "sampling_rate": rate}. Of a longer clip, window is used: its "first" seconds
    or those at its "center"; `answer_windows` uses all of it.

    Raises AudioError for audio, QuestionError for text and for rows that cannot be used.
    """
    rows = [(clip, audio2, question)]
    return self.answers(rows, sampling=sampling, seed=seed, window=window, batch_size=1)[0]

  def stream_answer(
    self,
    clip: Source,
    question: str,
    *,
    audio2: Source | None = None,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    window: audio.Window = "first",
  ) -> AnswerStream:
    """The text of `answer` in pieces, each as soon as its tokens are decoded.

    Raises as `answer` does, and QuestionError for several samples or beams.
    """
    if sampling.samples > 1 or sampling.beams > 1:
      raise QuestionError("only one answer can be streamed: set samples and beams to 1")
    prompt = self.prompt((clip, audio2, question), window)
    key, ids, states = _random_key(seed, sampling), [], []

    def tokens() -> Iterator[int]:
      with self._announced(("streamed answers", sampling), 1):
        inputs = self._inputs([prompt])
        sampled, state = self._begin(self.params, inputs, key, np.zeros(1, int), sampling)
      for left in reversed(range(sampling.max_new_tokens)):
        states[:] = [sampled]
        if sampled.has_ended[0]:
          return
        ids.append(int(sampled.token[0]))
        yield ids[-1]
        if left:
          sampled, state = self._advance(self.params, sampled, state, sampling)

    def whole() -> Answer:
      return self.whole_answer(prompt, [ids], np.asarray(states[0].log_probs), sampling)

    return AnswerStream(text_stream.pieces(self.tokenizer, tokens()), whole)

  def answer_windows(
    self, clip: Source, question: str, *, sampling: Sampling = GREEDY, seed: int = 0
  ) -> list[Answer]:
    """An answer for each consecutive window of a clip; raises as `answer` does.

    A rest of less than a second is no window; a line of the log says where one is left out.
    """
    windows = audio.load_windows(clip, self.cfg.audio, self.preset)
    say_unheard(windows)
    rows = [(window, None, question) for window in windows]
    return self.answers(rows, sampling=sampling, seed=seed, batch_size=min(len(rows), 8))

  def compare(
    self,
    clip: Source,
    audio2: Source,
    question: str = "explain the difference in few words",
    **how: Any,
  ) -> Answer:
    """How two clips differ; `how` is what `answer` takes."""
    return self.answer(clip, question, audio2=audio2, **how)

  def caption(self, clip: Source, question: str = "caption the audio", **how: Any) -> Answer:
    """A description of a clip; `how` is what `answer` takes."""
    return self.answer(clip, question, **how)

  def answers(self, rows: Sequence[Row], **how: Any) -> list[Answer | NotAsked]:
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
    numbers: Sequence[int] | None = None,
    strict: bool = True,
  ) -> Iterator[Answer | NotAsked]:
    """Answers in the order of the rows, each as soon as its batch is done.

    A row's samples depend on the seed and the row's number, counted from first_row or one of
    numbers, whatever its batch is. The clips of a batch are encoded once each, however many rows
    ask about them.

    A row that cannot be asked raises AudioError or QuestionError after the answers before it; where
    strict is False, NotAsked takes its place.

    Raises AudioError and QuestionError, as `answer` does, for the rows it comes to, and
    QuestionError where numbers are not as many as the rows.
    """
    key = _random_key(seed, sampling)
    own = None if numbers is None else np.array(numbers, np.int32)

    def compute(inputs: _Inputs, places: np.ndarray) -> tuple[Array, Array, Array]:
      rows = first_row + places if own is None else own[places]
      found = self._generate(self.params, inputs, key, rows, sampling)
      return found.tokens, found.lengths, found.log_probs

    program = ("answers", sampling)
    rows = numbered(rows, numbers)
    for prompt, arrays in self._run(rows, window, batch_size, compute, program, strict):
      if isinstance(prompt, NotAsked):
        yield prompt
        continue
      tokens, lengths, log_probs = arrays
      ids = [t[:n].tolist() for t, n in zip(tokens, lengths, strict=True)]
      yield self.whole_answer(prompt, ids, log_probs, sampling)

  def whole_answer(
    self,
    prompt: Prompt,
    ids: Sequence[Sequence[int]],
    log_probs: Float[np.ndarray, "n"],
    sampling: Sampling,
  ) -> Answer:
    """The answer to a prompt from the tokens of its samples, without their ends."""
    texts = tuple(self.tokenizer.decode(i).strip() for i in ids)
    is_full = [len(i) == sampling.max_new_tokens for i in ids]
    return Answer(
      texts=texts,
      log_probs=tuple(log_probs.tolist()),
      tokens=tuple(map(len, ids)),
      heard=tuple(notes.describe(clip) for clip in prompt.clips),
      finish_reasons=tuple("length" if full else "stop" for full in is_full),
      notes=(*prompt.notes, *notes.of_answer(texts[0], is_full[0])),
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
    """Natural log-likelihood and number of tokens of each question's options.

    Options are ended as the preset ends answers; the end counts in both. So a multiple choice is
    decided without parsing generated text. room is the least number of options and of tokens an
    option that is computed: calls of one size are compiled once.

    Raises as `answers` does, and QuestionError where not every row has options, for options that no
    model reads, and for different ones that become the same where they are cut.
    """
    if len(rows) != len(options) or not all(map(_are_texts, options)):
      raise QuestionError(
        f"options of {len(options)} rows for {len(rows)} rows: give each row a list of texts"
      )
    found = self._scores(rows, options, window, batch_size, room) if rows else ()
    return [scores for _, scores in found]

  def _scores(
    self,
    rows: Sequence[Row],
    options: Sequence[Sequence[str]],
    window: audio.Window,
    batch_size: int,
    room: tuple[int, int] = (0, 0),
  ) -> Iterator[tuple[Prompt, list[tuple[float, int]]]]:
    """Each row's prompt, and what `score` returns of it."""
    ids, lengths = self.encode_options(options, room=room)

    def compute(inputs: _Inputs, numbers: np.ndarray) -> tuple[Array]:
      return (self._score(self.params, inputs, ids[numbers], lengths[numbers]),)

    found = self._run(rows, window, batch_size, compute, ("scores", ids.shape[1:]))
    for r, (row, (prompt, (scores,))) in enumerate(zip(options, found, strict=True)):
      yield prompt, list(zip(scores.tolist()[: len(row)], lengths[r].tolist(), strict=False))

  def encode_options(
    self, options: Sequence[Sequence[str]], *, room: tuple[int, int] = (0, 0)
  ) -> tuple[Int[np.ndarray, "B O R"], Int[np.ndarray, "B O"]]:
    """Tokens and lengths of each question's options, padded to one size; see `score`."""
    for r, row in enumerate(options):
      try:
        self.check_options(row)
      except QuestionError as error:
        raise QuestionError(f"row {r}: {error}" if len(options) > 1 else str(error)) from None
    encoded = [[self._encode_option(option) for option in row] for row in options]
    longest = max(room[1], *(length for row in encoded for _, length in row))
    most = max(room[0], *map(len, encoded))
    padded = next((n for n in self.option_lengths if n >= longest), longest)
    shape = (len(options), most, padded)
    ids, lengths = np.full(shape, self.cfg.pad_id, np.int32), np.zeros(shape[:2], np.int32)
    for r, row in enumerate(encoded):
      for o, (tokens, length) in enumerate(row):
        ids[r, o, :length], lengths[r, o] = tokens[:length], length
    return ids, lengths

  def _encode_option(self, option: str) -> tuple[Int[np.ndarray, "R"], int]:
    cfg, end = self.cfg, self.preset.answer_end
    return prompts.encode(self.tokenizer, option, end, cfg.answer_tokens, cfg.pad_id, cfg.end_id)

  def check_options(self, options: Sequence[str]) -> list[Unread]:
    """What the model does not read of each of a question's options.

    Raises QuestionError for a text that no model reads, and for different options that become the
    same where they are cut: their probabilities would tell nothing.
    """
    _check_readable(options)
    slots, end = self.cfg.answer_tokens, self.preset.answer_end
    unread = [prompts.unread(self.tokenizer, option, end, slots) for option in options]
    if not any(found.over for found in unread):
      return unread
    first: dict[bytes, int] = {}
    for place, (option, found) in enumerate(zip(options, unread, strict=True)):
      self._warn_of_cut("option_cut", "options", option, found)
      ids, length = self._encode_option(option)
      other = first.setdefault(ids[:length].tobytes(), place)
      if options[other] != option and (found.over or unread[other].over):
        both = f"{notes.quoted(options[other])} and {notes.quoted(option)}"
        raise QuestionError(
          f"options {other + 1} and {place + 1}, {both}, are the same in the {length} tokens that "
          "the model reads of an option: shorten them"
        )
    return unread

  def _warn_of_cut(self, kind: NoteKind, name: str, text: str, unread: Unread) -> None:
    """Logs the first text of a kind that is cut."""
    if unread.over and self.warns and kind not in self._warned:
      self._warned.add(kind)
      room = unread.tokens - unread.over
      logger.warning("%s are cut after %d tokens, the first is: %.40s...", name, room, text)

  def decide(
    self,
    clip: Source | Clip,
    questions: Mapping[str, Question],
    *,
    audio2: Source | Clip | None = None,
    state: str = "",
    window: audio.Window = "first",
  ) -> dict[str, Decision]:
    """Typed questions about one clip or two, each answered by its options' probabilities.

    Each is asked alone, with the text of state before it. See `mellow_jax.inference.decide`.
    Raises as `answer` does, and QuestionError as `score` does.
    """
    if not isinstance(questions, Mapping):
      raise QuestionError(f"questions {questions!r:.60}: give a dict of questions by their names")
    first = self.clip(clip, window)
    second = first if audio2 is None else self.clip(audio2, window)
    found = {}
    for name, question in questions.items():
      try:
        asked = self.phrase(question, state)
        ((prompt, scores),) = self._scores(
          [(first, second, asked.text)], [asked.answers], window, batch_size=1
        )
      except QuestionError as error:
        raise QuestionError(f"{name}: {error}" if name else str(error)) from None
      log_likelihoods = [log_likelihood for log_likelihood, _ in scores]
      lost = (*prompt.notes, *asked.notes)
      found[name] = decide.decision(question, log_likelihoods, self.temperature, lost)
    return found

  def phrase(self, question: Question, state: str = "") -> Asked:
    """A typed question as this model is asked it. Raises QuestionError, as `check_options` does."""
    if not isinstance(question, Question):
      raise QuestionError(f"{question!r:.60} is no question: give a YesNo, a Choice or a Rating")
    if not isinstance(state, str):
      raise QuestionError(f"state {state!r:.60} is {type(state).__name__}: give a str")
    _check_readable(question.options)

    def fits(text: str) -> bool:
      asked = prompts.question(f"{state} {text}".strip(), self.preset)
      if len(asked) > prompts.MAX_CHARACTERS:
        return False
      try:
        prompts.check(asked)
      except ValueError as error:
        raise QuestionError(f"question: {error}") from None
      end, room = self.preset.question_end, self.cfg.text_tokens
      return not prompts.unread(self.tokenizer, asked, end, room).over

    text, answers, lost = decide.phrase(question, fits)
    # Where options are listed, the notes on the question tell of their unknown words.
    is_listed = answers != list(question.options)
    answers = [prompts.question(answer, self.preset) for answer in answers]
    unread = self.check_options(answers)
    if is_listed:
      unread = [found._replace(unknown=()) for found in unread]
    lost = (*lost, *notes.of_options(question.options, unread))
    return Asked(f"{state} {text}".strip(), answers, lost)

  def encode(self, wav: Float[np.ndarray, "B S"]) -> Float[Array, "B A D"]:
    """Audio tokens of clips that are preprocessed, as `Clip.wav` is."""
    return self._encode(self.params, self._place(wav))

  # --- Batches -----------------------------------------------------------------------------------

  @contextlib.contextmanager
  def _announced(self, program: tuple[str, Hashable], batch_size: int) -> Iterator[None]:
    """Logs that the block compiles a program: it is easily taken for slowness."""
    if (program, batch_size) in self._compiled:
      yield
      return
    with announced(f"{program[0]} in batches of {batch_size}"):
      yield
    self._compiled.add((program, batch_size))

  def clip(
    self,
    source: Source | Clip | AudioError,
    window: audio.Window = "first",
    *,
    name: str | None = None,
  ) -> Clip:
    """A source as the model gets it; name is what messages call it. Raises AudioError."""
    if isinstance(source, Clip):
      return source
    if isinstance(source, AudioError):
      raise source
    if window not in ("first", "center"):
      raise QuestionError(f'window {window!r}: choose "first" or "center", or answer_windows')
    clip = audio.load(source, self.cfg.audio, self.preset, window=window, name=name)
    if clip.seconds_used < clip.total_seconds and self.warns:
      name = name or (os.fspath(source) if isinstance(source, str | os.PathLike) else "clip")
      logger.info("%s: heard %s", name, notes.describe(clip))
    return clip

  def prompt(self, row: Row, window: audio.Window = "first") -> Prompt:
    """A row as the model gets it; raises AudioError or QuestionError."""
    try:
      first, second, text = row
    except (TypeError, ValueError):
      raise QuestionError(
        f"row {row!r:.60}: give (first clip, second clip or None, question)"
      ) from None
    if not isinstance(text, str):
      raise QuestionError(f"the question is {type(text).__name__} {text!r:.60}: give a str")
    clip1 = self.clip(first, window)
    clip2 = clip1 if second is None or second is first else self.clip(second, window)
    if not text.strip():
      raise QuestionError("the question is empty: ask something")
    cfg = self.cfg
    try:
      asked = prompts.question(text, self.preset)
      ids, length = prompts.encode(
        self.tokenizer, asked, self.preset.question_end, cfg.text_tokens, cfg.pad_id, cfg.end_id
      )
    except ValueError as error:
      raise QuestionError(f"question: {error}") from None
    unread = prompts.unread(self.tokenizer, asked, self.preset.question_end, cfg.text_tokens)
    self._warn_of_cut("question_cut", "questions", text, unread)
    clips = (clip1, clip2)
    return Prompt(clips, ids, length, (*notes.of_clips(clips), *notes.of_question(unread)))

  def _inputs(self, batch: list[Prompt]) -> _Inputs:
    """Encodes each distinct clip once, in batches of the one size that is compiled."""
    size = len(batch)
    clips = {id(clip): clip.wav for prompt in batch for clip in prompt.clips}
    index = {name: i for i, name in enumerate(clips)}
    wavs = list(clips.values())
    wavs += wavs[:1] * (-len(wavs) % size)
    encoded = [
      self._encode(self.params, self._place(np.stack(wavs[i : i + size])))
      for i in range(0, len(wavs), size)
    ]
    tokens = encoded[0] if len(encoded) == 1 else jnp.concatenate(encoded)

    def of(number: int) -> Float[Array, "B A D"]:
      places = [index[id(prompt.clips[number])] for prompt in batch]
      # Nothing is computed where all stand in their places, as one clip does.
      return tokens if places == [*range(len(tokens))] else tokens[np.array(places)]

    inputs = _Inputs(
      audio1=of(0),
      audio2=of(1),
      text_ids=np.stack([p.ids for p in batch]),
      text_lengths=np.array([p.length for p in batch], np.int32),
    )
    return self._place(inputs)

  def _run(
    self,
    rows: Iterable[Row],
    window: audio.Window,
    batch_size: int,
    compute: Callable[[_Inputs, np.ndarray], tuple[Array, ...]],
    program: tuple[str, Hashable],
    strict: bool = True,
  ) -> Iterator[tuple[Prompt | NotAsked, tuple[np.ndarray, ...]]]:
    """Each row's prompt, and its part of the arrays that compute returns for its batch.

    compute gets a batch and the places of its rows. program names what it compiles, and what that
    depends on besides the batch size. Unless strict, a row that cannot be asked has no arrays.
    """
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
      raise QuestionError(f"batch_size {batch_size!r}: give 1 or more")
    rows, start, running = iter(rows), 0, []

    def finish() -> Iterator[tuple[Prompt | NotAsked, tuple[np.ndarray, ...]]]:
      for batch, arrays in running:
        parts = zip(*map(np.asarray, arrays), strict=True)
        yield from ((p, next(parts) if isinstance(p, Prompt) else ()) for p in batch)
      running.clear()

    fault = None
    while not fault:
      batch = []
      # The next clips are read while the device is busy with the last batch.
      try:
        for row in itertools.islice(rows, batch_size):
          batch.append(self.prompt_or_reason(row, window, strict))
      except ValueError as error:  # of a row; the answers before it come first
        fault = error
      yield from finish()
      if not batch:
        break
      asked = [place for place, prompt in enumerate(batch) if isinstance(prompt, Prompt)]
      # The batch is filled up with its last row: another size would compile again.
      asked += asked[-1:] * (batch_size - len(asked))
      with self._announced(program, batch_size):
        inputs = [batch[place] for place in asked]
        arrays = compute(self._inputs(inputs), start + np.array(asked)) if asked else ()
      running.append((batch, arrays))
      start += len(batch)
    yield from finish()
    if fault:
      raise fault

  def prompt_or_reason(self, row: Row, window: audio.Window, strict: bool) -> Prompt | NotAsked:
    """A row as the model gets it; unless strict, why it cannot be asked takes its place."""
    try:
      return self.prompt(row, window)
    except (AudioError, QuestionError) as error:
      if strict:
        raise
      return NotAsked(getattr(error, "reason", "question"), str(error))
