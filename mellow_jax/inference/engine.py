"""Many requests at once on one model: a table of rows that are decoded together.

Every prompt has the same length, so a row is a fixed share of memory, and needs no paging:

  submit  ->  queue  ->  encode the clips, read them and the question  ->  insert into a free row
                         step, step, ... all rows together  ->  tokens, to whoever waits for them

A request joins while others are decoded, and makes room when it ends. One thread owns the device;
the others only wait. What a clip becomes is kept by its content: the encoder's output, and the
decoder's cache of a pair of clips, which all questions about the pair share.
"""

import collections
import contextlib
import functools
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mellow_jax.data.audio import Clip, Window
from mellow_jax.errors import BusyError, QuestionError
from mellow_jax.inference import decide, decode
from mellow_jax.inference.api import (
  GREEDY,
  Answer,
  Mellow,
  NotAsked,
  Prompt,
  Row,
  announced,
  check_seed,
  numbered,
)
from mellow_jax.inference.decide import Decision, Question
from mellow_jax.inference.decode import DecodeState, RowSampling, SampleState, Sampling
from mellow_jax.models import mellow
from mellow_jax.models.decoder import Cache

BURST = 4  # most steps between two looks at the queue: a host's wait for each would cost more
OPTIONS = (4, 16)  # that are scored at a time; long ones by 4
SAMPLES = 8  # of a question, whose random keys are compiled at the start
TOP = 20  # tokens beside the chosen one, where a request asks for their log-probabilities
FinishReason = Literal["stop", "length", "cancelled"]
logger = logging.getLogger("mellow_jax")


class Token(NamedTuple):
  """A token of an answer, as it is chosen."""

  id: int
  log_prob: float  # natural, at temperature 1
  top: tuple[tuple[int, float], ...]  # the most probable tokens, where the request asked for them


@dataclass(eq=False)
class Request:
  """One answer that is wanted. Its callbacks run in the engine's thread, and must not wait."""

  prompt: Prompt
  max_new_tokens: int
  temperature: float = 0.0
  top_p: float = 1.0
  seed: int = 0
  sample: int = 0  # which of several answers to the same question and seed
  number: int = 0  # of its row, where several rows share a seed
  top: int = 0  # so many of the most probable tokens at each step, up to TOP
  on_token: Callable[[Token], None] = lambda token: None
  on_end: Callable[[FinishReason | Exception], None] = lambda reason: None
  cancelled: bool = False  # set by any thread: the row is freed within a burst
  tokens: int = field(default=0, init=False)  # given to on_token so far
  log_prob: float = field(default=0.0, init=False)  # natural, of all tokens and the end so far


@dataclass(eq=False)
class Job:
  """Anything else that needs the device, run between two bursts in the engine's thread."""

  call: Callable[[], Any]
  cancel: threading.Event  # set by any thread: it is dropped, if it has not begun
  ended: Future = field(default_factory=Future, init=False)  # what call returns or raises

  def run(self) -> None:
    """Calls it, or drops it: whoever waits gets a CancelledError."""
    if self.cancel.is_set():
      self.ended.cancel()
      return
    try:
      self.ended.set_result(self.call())
    except Exception as error:
      self.ended.set_exception(error)


@dataclass
class _AskedRow:
  """A row of questions whose answer is awaited."""

  prompt: Prompt | NotAsked
  requests: list[Request] = field(default_factory=list)  # of each sample
  tokens: list[Future[list[int]]] = field(default_factory=list)  # of each sample, when it has ended

  def collecting(self, request: Request) -> Request:
    """The request of another sample, whose tokens are kept here."""
    ids, ended = [], Future()

    def end(reason: FinishReason | Exception) -> None:
      if isinstance(reason, Exception):
        ended.set_exception(reason)
      else:
        ended.set_result(ids)

    request.on_token, request.on_end = lambda token: ids.append(token.id), end
    self.requests.append(request)
    self.tokens.append(ended)
    return request

  @property
  def has_ended(self) -> bool:
    return all(ended.done() for ended in self.tokens)

  def cancel(self) -> None:
    for request in self.requests:
      request.cancelled = True

  def answer(self, model: Mellow, sampling: Sampling) -> Answer | NotAsked:
    """Waits for all samples. Raises what ended one, if an error."""
    if isinstance(self.prompt, NotAsked):
      return self.prompt
    ids = [ended.result() for ended in self.tokens]
    log_probs = np.array([request.log_prob for request in self.requests], np.float32)
    return model.whole_answer(self.prompt, ids, log_probs, sampling)


class _Rows(NamedTuple):
  """The table: of each row what is decoded and how."""

  sampled: SampleState
  state: DecodeState
  sampling: RowSampling
  wants_top: Bool[Array, "rows"]


class _Steps(NamedTuple):
  """The tokens of some steps; their first axes are steps and rows."""

  token: Int[Array, "*s rows"]
  log_prob: Float[Array, "*s rows"]
  has_ended: Bool[Array, "*s rows"]
  top_ids: Int[Array, "*s rows n"]
  top_log_probs: Float[Array, "*s rows n"]


class _ByContent:
  """The most recently used arrays, by a key, up to a number of bytes."""

  def __init__(self, max_bytes: int):
    self.max_bytes, self.bytes = max_bytes, 0
    self.queries, self.hits = 0, 0
    self._found: collections.OrderedDict[Hashable, PyTree] = collections.OrderedDict()

  def get(self, key: Hashable, make: Callable[[], PyTree]) -> PyTree:
    self.queries += 1
    if key in self._found:
      self.hits += 1
      self._found.move_to_end(key)
      return self._found[key]
    made = jax.block_until_ready(make())  # what fails on the device must not be kept
    self._found[key] = made
    self.bytes += _size(made)
    while self.bytes > self.max_bytes and len(self._found) > 1:
      self.bytes -= _size(self._found.popitem(last=False)[1])
    return made


def _size(tree: PyTree) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


class Engine:
  """Answers requests of any number of threads, as `Mellow` answers one at a time.

  Greedy answers are those of `Mellow.answer`, but where two tokens are equally probable to a
  float's last digits: a batch sums in another order. Use it as a context, or call `close`.
  """

  def __init__(
    self,
    model: Mellow,
    *,
    slots: int = 4,
    max_new_tokens: int = 300,
    max_queue: int = 64,
    cache_bytes: int = 2**29,
  ):
    """A table of slots rows; at most max_queue requests wait. Compiles all it needs.

    max_new_tokens is the most of any request. cache_bytes bounds what is kept of clips.
    Raises ConfigError where the decoder has fewer positions.
    """
    model.cfg.check_length(max_new_tokens)
    self.model, self.slots, self.max_new_tokens = model, slots, max_new_tokens
    self.max_queue = max_queue
    self.clips = _ByContent(cache_bytes // 4)  # the encoder's output
    self.pairs = _ByContent(cache_bytes - cache_bytes // 4)  # the decoder's caches
    self._queue: queue.SimpleQueue[Request | Job | None] = queue.SimpleQueue()
    self._waiting = threading.Semaphore(max_queue)
    self._rows: list[Request | None] = [None] * slots
    self._is_closed, self._lock = False, threading.Lock()
    self._why_closed = "the engine is closed"
    self._compile()
    self._table: _Rows | None = self._empty()  # None: lost with a program that failed
    self._no_key = jax.random.split(jax.random.key(0), 1)
    self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
    self.compile_seconds = 0.0
    with self._preparing(f"answers in a table of {slots} rows"):
      self._thread.start()
      self._warm_up()

  # --- Requests: from any thread -----------------------------------------------------------------

  def submit(self, request: Request | Job, *, wait: bool = False) -> None:
    """Puts a request into the queue. Raises BusyError where it is full or the engine has ended.

    With wait, a full queue is waited for.
    """
    if isinstance(request, Request):
      if not 1 <= request.max_new_tokens <= self.max_new_tokens:
        raise QuestionError(
          f"max_new_tokens {request.max_new_tokens}: from 1 to {self.max_new_tokens} here"
        )
      check_seed(request.seed)
    if not self._waiting.acquire(blocking=wait):
      raise BusyError(f"{self.max_queue} requests are waiting: try again later")
    with self._lock:  # none is put behind the word that ends the thread
      if self._is_closed:
        self._waiting.release()
        raise BusyError(self._why_closed)
      self._queue.put(request)

  def stream(self, request: Request) -> Iterator[Token]:
    """Submits a request, and gives its tokens as they come. Raises what ended it, if an error."""
    events: queue.SimpleQueue[Token | FinishReason | Exception] = queue.SimpleQueue()
    request.on_token = request.on_end = events.put
    self.submit(request)
    try:
      while isinstance(event := events.get(), Token):
        yield event
    finally:
      request.cancelled = True
    if isinstance(event, Exception):
      raise event

  def answers(
    self,
    rows: Iterable[Row],
    *,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    window: Window = "first",
    numbers: Sequence[int] | None = None,
    strict: bool = True,
  ) -> Iterator[Answer | NotAsked]:
    """Answers in the order of the rows, those of `Mellow.stream`, which says what it takes.

    The next clips are read while answers are decoded. Raises QuestionError for beams and top_k.
    """
    if sampling.beams > 1 or sampling.top_k:
      raise QuestionError("beams and top_k: ask Mellow.stream, which answers batch by batch")
    rows, places = numbered(rows, numbers), itertools.count() if numbers is None else iter(numbers)
    asked: collections.deque[_AskedRow] = collections.deque()
    fault, is_open = None, True
    try:
      while is_open or asked:
        try:
          if is_open:
            prompt = self.model.prompt_or_reason(next(rows), window, strict)
            asked.append(self._ask_row(prompt, sampling, seed, next(places)))
        except StopIteration:
          is_open = False
        except ValueError as error:  # of a row; the answers before it come first
          is_open, fault = False, error
        most = self.slots + self.max_queue if is_open else 0  # else memory follows the slowest
        while asked and (len(asked) > most or asked[0].has_ended):
          yield asked.popleft().answer(self.model, sampling)
    finally:
      for row in asked:
        row.cancel()
    if fault:
      raise fault

  def call(self, f: Callable[[], Any], cancel: threading.Event | None = None) -> Any:
    """What f returns or raises, in the engine's thread: it may use the device meanwhile.

    Raises CancelledError where cancel is set, by any thread, before f has begun.
    """
    job = Job(f, cancel or threading.Event())
    self.submit(job)
    return job.ended.result()

  def score(
    self,
    prompt: Prompt,
    options: Int[np.ndarray, "O R"],
    lengths: Int[np.ndarray, "O"],
    cancel: threading.Event | None = None,
  ) -> Float[np.ndarray, "O"]:
    """Natural log-likelihoods of options, as `Mellow.encode_options` pads them; see `decode.score`.

    The options are scored some at a time; cancel is that of `call`, for each time.
    """
    found, sizes = [], self._option_counts(options.shape[1])
    size = next((n for n in sizes if n >= len(options)), sizes[-1])
    for first in range(0, len(options), size):
      ids, counts = options[first : first + size], lengths[first : first + size]
      room = size - len(ids)
      ids, counts = np.pad(ids, ((0, room), (0, 0))), np.pad(counts, (0, room))
      part = self.call(functools.partial(self._options, prompt, ids, counts), cancel)
      found.append(part[: size - room])
    return np.concatenate(found)

  def decide(
    self,
    clips: tuple[Clip, Clip],
    question: Question,
    state: str = "",
    cancel: threading.Event | None = None,
  ) -> Decision:
    """The decision on a typed question about clips; state is text before it. See `decide`.

    cancel is that of `call`.
    """
    asked = self.model.phrase(question, state)
    ids, lengths = self.model.encode_options([asked.answers])
    prompt = self.model.prompt((*clips, asked.text))
    found, lost = self.score(prompt, ids[0], lengths[0], cancel), (*prompt.notes, *asked.notes)
    return decide.decision(question, found, self.model.temperature, lost)

  def prepare_decisions(self) -> None:
    """Compiles all that decisions need: the first ones would else make all requests wait."""
    for length in self.model.option_lengths:
      for count in self._option_counts(length):
        ids = np.full((count, length), self.model.cfg.pad_id, np.int32)
        with self._preparing(f"decisions, {count} options of up to {length} tokens at a time"):
          self.score(self._nothing(), ids, np.ones(count, np.int32))

  @property
  def is_alive(self) -> bool:
    """Whether its thread runs: after it, no request is answered any more."""
    return self._thread.is_alive()

  @property
  def running(self) -> int:
    """Requests that are decoded now."""
    return sum(row is not None for row in self._rows)

  @property
  def waiting(self) -> int:
    """Requests in the queue."""
    return self._queue.qsize()

  def close(self) -> None:
    """Finishes what is submitted, and ends the thread."""
    with self._lock:
      if not self._is_closed:
        self._is_closed = True
        self._queue.put(None)
    self._thread.join()

  def __enter__(self) -> "Engine":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def _option_counts(self, length: int) -> Sequence[int]:
    """How many options of a length are scored at a time: few numbers, for each is a program.

    Many long ones would take much memory for their attention.
    """
    return OPTIONS if length <= self.model.option_lengths[0] else OPTIONS[:1]

  def _ask_row(
    self, prompt: Prompt | NotAsked, sampling: Sampling, seed: int, number: int
  ) -> "_AskedRow":
    """Submits the samples of a row, as soon as the queue has room; none where it was not asked."""
    row = _AskedRow(prompt)
    how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}
    for sample in range(sampling.samples if isinstance(prompt, Prompt) else 0):
      request = Request(prompt, sampling.max_new_tokens, **how, sample=sample, number=number)
      self.submit(row.collecting(request), wait=True)
    return row

  # --- Programs ----------------------------------------------------------------------------------

  def _compile(self) -> None:
    cfg, graphdef = self.model.cfg, self.model.graphdef
    most, exactly = min(TOP, cfg.decoder.vocab), mellow.exactly(cfg)

    def chosen(
      before: SampleState, after: SampleState, logits: Array, wants_top: Bool[Array, "rows"]
    ) -> _Steps:
      def top() -> tuple[Array, Array]:
        return tuple(jax.lax.top_k(jax.nn.log_softmax(logits), most))

      shape = (*logits.shape[:-1], most)
      none = (jnp.zeros(shape, logits.dtype), jnp.zeros(shape, jnp.int32))
      log_probs, ids = jax.lax.cond(jnp.any(wants_top), top, lambda: none)
      return _Steps(
        token=after.token,
        log_prob=after.log_probs - before.log_probs,
        has_ended=after.has_ended,
        top_ids=ids,
        top_log_probs=log_probs,
      )

    @jax.jit
    @exactly
    def read_audio(params: PyTree, first: Array, second: Array) -> Cache:
      return nnx.merge(graphdef, params).read_audio(first, second)

    @functools.partial(jax.jit, donate_argnums=1)
    @exactly
    def join(
      params: PyTree,
      table: _Rows,
      row: Int[Array, ""],
      audio: Cache,
      ids: Int[Array, "1 L"],
      length: Int[Array, "1"],
      key: Key[Array, "1"],
      sampling: RowSampling,
      wants_top: Bool[Array, "1"],
    ) -> tuple[_Rows, _Steps]:
      """Reads a question about clips, and writes the request over a row of the table."""
      model = nnx.merge(graphdef, params)
      logits, state = decode.prefill(model, model.decoder.embed(ids), length, 1, audio=audio)
      before = decode.no_answer(key)
      sampled = decode.append(before, logits, sampling, cfg.end_id)
      new = _Rows(sampled, state, sampling, wants_top)
      return decode.insert(table, row, new), chosen(before, sampled, logits, wants_top)

    @functools.partial(jax.jit, donate_argnums=1)
    @exactly
    def advance(params: PyTree, table: _Rows, left: Int[Array, "rows"]) -> tuple[_Rows, _Steps]:
      """BURST steps, or fewer where each row has ended or has no tokens left before."""
      model = nnx.merge(graphdef, params)

      def one(table: _Rows) -> tuple[_Rows, _Steps]:
        logits, state = decode.step(model, table.sampled.token, table.state)
        sampled = decode.append(table.sampled, logits, table.sampling, cfg.end_id)
        steps = chosen(table.sampled, sampled, logits, table.wants_top)
        return table._replace(sampled=sampled, state=state), steps

      Loop = tuple[Int[Array, ""], _Rows, _Steps]

      def goes_on(loop: Loop) -> Bool[Array, ""]:
        i, table, _ = loop
        return (i < BURST) & jnp.any((i < left) & ~table.sampled.has_ended)

      def go_on(loop: Loop) -> Loop:
        i, table, steps = loop
        table, new = one(table)
        return i + 1, table, jax.tree.map(lambda all, x: all.at[i].set(x), steps, new)

      shapes = jax.eval_shape(one, table)[1]
      none = jax.tree.map(lambda x: jnp.zeros((BURST, *x.shape), x.dtype), shapes)
      return jax.lax.while_loop(goes_on, go_on, (jnp.int32(0), table, none))[1:]

    @jax.jit
    @exactly
    def score(
      params: PyTree,
      audio: Cache,
      ids: Int[Array, "1 L"],
      length: Int[Array, "1"],
      options: Int[Array, "1 O R"],
      lengths: Int[Array, "1 O"],
    ) -> Float[Array, "1 O"]:
      model = nnx.merge(graphdef, params)
      return decode.score(model, model.decoder.embed(ids), length, options, lengths, audio)

    self._read_audio, self._join, self._advance, self._score = read_audio, join, advance, score

  def _empty(self) -> _Rows:
    """A table of free rows: they decode with the others, and nobody reads what."""
    cfg = self.model.cfg

    def prefill(params: PyTree) -> DecodeState:
      model = nnx.merge(self.model.graphdef, params)
      prefix = jnp.zeros((self.slots, cfg.prefix_tokens, cfg.decoder.width))
      lengths = jnp.full(self.slots, cfg.text_tokens)
      return decode.prefill(model, prefix, lengths, self.max_new_tokens)[1]

    shapes = jax.eval_shape(prefill, self.model.params)  # computing it would be compiled for long
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    sampled = decode.no_answer(jax.random.split(jax.random.key(0), self.slots))
    zeros = jnp.zeros(self.slots)
    return _Rows(
      sampled=sampled._replace(has_ended=jnp.ones(self.slots, bool)),
      state=state._replace(attention_mask=jnp.ones_like(state.attention_mask)),
      sampling=RowSampling(temperature=zeros, top_p=zeros + 1),
      wants_top=jnp.zeros(self.slots, bool),
    )

  @contextlib.contextmanager
  def _preparing(self, what: str) -> Iterator[None]:
    """Says what the block compiles, and counts its time; where that fails, the engine ends."""
    started = time.monotonic()
    try:
      with announced(what):
        yield
    except Exception:
      self.close()
      raise
    self.compile_seconds += time.monotonic() - started

  def _warm_up(self) -> None:
    """Compiles by answering nothing about silence, and by no step: that answer may end at once."""
    nothing = self._nothing()
    drawn = [Request(nothing, 1, temperature=1.0, sample=i) for i in range(SAMPLES)]
    for request in (Request(nothing, 1), drawn[0]):
      for _ in self.stream(request):
        pass
    self.call(lambda: [self._key(request) for request in drawn])
    self.call(self._burst)

  def _nothing(self) -> Prompt:
    """No question about silence."""
    cfg = self.model.cfg
    samples = np.zeros(round(cfg.audio.clip_seconds * cfg.audio.sample_rate), np.float32)
    silence = Clip(samples, 0.0, 0.0, 0.0)
    return Prompt((silence, silence), np.full(cfg.text_tokens, cfg.pad_id, np.int32), 1)

  # --- The engine's thread -----------------------------------------------------------------------

  def _run(self) -> None:
    """Until it is closed and all is answered; where it fails, nobody waits for ever."""
    try:
      self._answer_all()
    except Exception as error:
      logger.exception("the engine has failed")
      with self._lock:
        self._is_closed, self._why_closed = True, "the engine has failed, as its log describes"
      self._drop_rows(error)
      with contextlib.suppress(queue.Empty):
        while True:
          if request := self._queue.get_nowait():
            self._waiting.release()
            _fail(request, error)

  def _answer_all(self) -> None:
    """Requests join, then all rows go on for a burst, until it is closed and nobody waits.

    A burst takes as long for one row as for many, so several join while less than half are taken.
    Above, one joins at a time: each makes the others wait.
    """
    is_open = True
    while is_open or self.running:
      for _ in range(max(1, self.slots // 2 - self.running)):
        if is_open and None in self._rows:
          with contextlib.suppress(queue.Empty):
            request = self._queue.get(block=not self.running)
            if request is None:
              is_open = False
            else:
              self._waiting.release()
              self._start(request)
      if self.running:
        self._continue()

  def _start(self, request: Request | Job) -> None:
    if isinstance(request, Job):
      request.run()
      return
    if request.cancelled:
      _tell(request, request.on_end, "cancelled")
      return
    try:
      self._insert(request)
    except Exception as error:  # one request's fault, such as memory, ends no other
      _fail(request, error)

  def _audio(self, prompt: Prompt) -> Cache:
    """The decoder's cache of a prompt's clips."""

    def encode(clip: Clip) -> Array:
      return self.clips.get(clip.digest, lambda: self.model.encode(clip.wav[None]))

    def read() -> Cache:
      return self._read_audio(self.model.params, *map(encode, prompt.clips))

    return self.pairs.get(tuple(clip.digest for clip in prompt.clips), read)

  def _options(
    self, prompt: Prompt, options: Int[np.ndarray, "O R"], lengths: Int[np.ndarray, "O"]
  ) -> Float[np.ndarray, "O"]:
    length = np.array([prompt.length], np.int32)
    audio, ids = self._audio(prompt), prompt.ids[None]
    found = self._score(self.model.params, audio, ids, length, options[None], lengths[None])
    return np.asarray(found)[0]

  def _insert(self, request: Request) -> None:
    prompt, row = request.prompt, self._rows.index(None)
    sampling = RowSampling(
      np.array([request.temperature], np.float32), np.array([request.top_p], np.float32)
    )
    audio = self._audio(prompt)
    if self._table is None:
      self._table = self._empty()
    try:
      table, steps = self._join(
        self.model.params,
        self._table,
        np.int32(row),
        audio,
        prompt.ids[None],
        np.array([prompt.length], np.int32),
        self._key(request),
        sampling,
        np.array([request.top > 0]),
      )
      steps = jax.device_get(steps)
    except Exception as error:
      if any(x.is_deleted() for x in jax.tree.leaves(self._table)):  # it was donated
        self._drop_rows(error)
      raise
    self._table = table
    self._rows[row] = request
    self._give(row, 0, steps)

  def _key(self, request: Request) -> Key[Array, "1"]:
    """Where its random numbers come from, as Mellow.stream makes it; a greedy one uses none."""
    if not request.temperature:
      return self._no_key
    # That of a sample is the same among any number of them: few numbers, few programs.
    count = 1 << request.sample.bit_length()
    return _row_key(jax.random.key(request.seed), request.number, request.sample, count)

  def _burst(self) -> _Steps:
    """The next steps of all rows."""
    left = [row.max_new_tokens - row.tokens if row else 0 for row in self._rows]
    self._table, steps = self._advance(self.model.params, self._table, np.array(left, np.int32))
    return jax.device_get(steps)

  def _continue(self) -> None:
    try:
      steps = self._burst()
    except Exception as error:
      self._drop_rows(error)
      return
    by_step = [_Steps(*(x[i] for x in steps)) for i in range(BURST)]
    for row in (row for row in range(self.slots) if self._rows[row] is not None):
      for one in by_step:
        self._give(row, row, one)

  def _drop_rows(self, error: Exception) -> None:
    """Ends all that is decoded: the table is lost with a program that failed.

    The next request makes another one. Here that might fail as well, such as for lack of memory.
    """
    rows, self._rows, self._table = self._rows, [None] * self.slots, None
    for request in filter(None, rows):
      _fail(request, error)

  def _give(self, row: int, column: int, steps: _Steps) -> None:
    """Hands a row's token to its request, and frees the row where that was the last."""
    request = self._rows[row]
    if request is None:
      return
    reason: FinishReason | None = None
    request.log_prob += float(steps.log_prob[column])
    if request.cancelled:
      reason = "cancelled"
    elif steps.has_ended[column]:
      reason = "stop"
    else:
      request.tokens += 1
      top_ids, top = (
        x[column, : request.top].tolist() for x in (steps.top_ids, steps.top_log_probs)
      )
      token = Token(
        id=int(steps.token[column]),
        log_prob=float(steps.log_prob[column]),
        top=tuple(zip(top_ids, top, strict=True)),
      )
      _tell(request, request.on_token, token)
      if request.tokens == request.max_new_tokens:
        reason = "length"
    if reason:
      self._rows[row] = None
      _tell(request, request.on_end, reason)


@functools.partial(jax.jit, static_argnames="count")
def _row_key(
  key: Key[Array, ""], number: Int[Array, ""] | int, sample: Int[Array, ""] | int, count: int
) -> Key[Array, "1"]:
  keys = jax.random.split(jax.random.fold_in(key, number), count)
  return jax.lax.dynamic_slice_in_dim(keys, sample, 1)


def _fail(request: Request | Job, error: Exception) -> None:
  """Tells whoever waits for a request that an error has ended it."""
  if isinstance(request, Job):
    request.ended.set_exception(error)
  else:
    _tell(request, request.on_end, error)


def _tell(request: Request, callback: Callable[[Any], None], event: Any) -> None:
  """Calls a callback; one that fails ends its own request, and not the engine's thread."""
  try:
    callback(event)
  except Exception:
    request.cancelled = True
    logger.exception("a request's callback failed")
