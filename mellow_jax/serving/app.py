"""The HTTP application: routes, order of checks, and what becomes of errors.

A request passes, in this order: the key, the model's being ready, the size of its body while it is
read, its form, its audio, the queue. Threads decode audio; the engine's thread owns the device; the
event loop only passes on.
"""

import asyncio
import contextlib
import functools
import hmac
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import mellow_jax
from mellow_jax.data.audio import Clip
from mellow_jax.errors import AudioError, BusyError, QuestionError, RequestError, UserError
from mellow_jax.inference.api import Prompt
from mellow_jax.inference.engine import Engine, Request, Token
from mellow_jax.inference.notes import Note, describe
from mellow_jax.inference.text_stream import StopTexts, TextStream
from mellow_jax.serving import chat, examples, limits, systemone, timeline
from mellow_jax.serving.chat import ChatRequest
from mellow_jax.serving.limits import Limits
from mellow_jax.serving.metrics import Clock, ServerMetrics

PAGE = Path(__file__).parent / "static"
DECODERS = 2  # threads that decode audio; more would hold more clips in memory
RETRY_SECONDS = 1
logger = logging.getLogger("mellow_jax")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
  """How the model is served."""

  names: tuple[str, ...] = ("mellow",)  # that requests may call the model by; the first is its own
  api_key: str = ""  # "": anyone may ask
  limits: Limits = field(default_factory=Limits)


def _log_failure(failure: Exception | None) -> None:
  if failure is not None:
    logger.error("the model could not be loaded: %s", failure)


class Service:
  """One model behind the routes.

  load gives its engine, in a thread of its own; on_start is then told that the server is ready, by
  None, or why it never will be.
  """

  def __init__(
    self,
    load: Callable[[], Engine],
    settings: ServerSettings,
    on_start: Callable[[Exception | None], None],
  ):
    self.settings, self.metrics = settings, ServerMetrics()
    self._load, self._on_start, self._engine = load, on_start, None
    self.failure: Exception | None = None
    self._bodies = limits.Bodies(settings.limits)

  # --- Life --------------------------------------------------------------------------------------

  @contextlib.asynccontextmanager
  async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
    """Loads while the server already tells that it is not ready; finishes requests at the end."""
    self._decoders = anyio.CapacityLimiter(DECODERS)
    self._waiters = anyio.CapacityLimiter(256)  # threads that wait for the engine
    thread = threading.Thread(target=self._start, name="load", daemon=True)
    thread.start()
    yield
    if self._engine:
      await anyio.to_thread.run_sync(self._engine.close)

  def _start(self) -> None:
    engine = None
    try:
      engine = self._load()
      engine.prepare_decisions()
      self.timeline = engine.call(functools.partial(timeline.make, engine.model))
    except Exception as error:
      if engine:
        engine.close()
      self.failure = error
      self._on_start(error)
      return
    self.metrics.watch(engine)
    self._engine = engine
    self._on_start(None)

  def engine(self) -> Engine:
    """Raises RequestError until the model is loaded and compiled, and after its thread failed."""
    if self._engine is None:
      raise RequestError(503, "the model is not ready: it is loaded and compiled, try again soon")
    if not self._engine.is_alive:
      raise RequestError(503, "the engine has failed, as its log describes: restart the server")
    return self._engine

  # --- Steps of a request ------------------------------------------------------------------------

  def admit(self, request: HttpRequest) -> None:
    """Raises RequestError without the key, where one is set, and until the model is ready."""
    if key := self.settings.api_key:
      kind, _, given = request.headers.get("authorization", "").partition(" ")
      if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise RequestError(401, "the key is missing or wrong: send Authorization: Bearer KEY")
    self.engine()

  def check_name(self, name: str, aliases: Sequence[str] = ()) -> None:
    """Raises RequestError for a model that is not served."""
    known = (*self.settings.names, *aliases)
    if name not in known:
      raise RequestError(404, f"model {name!r} is not served here: use {known[0]}", "model")

  async def read(self, request: HttpRequest, parse: Callable[[bytes], T]) -> T:
    """What parse makes of the body, in a thread that may take its time."""
    async with self._bodies.read(request) as body:
      return await anyio.to_thread.run_sync(parse, body, limiter=self._decoders)

  def clips(self, audio: Sequence[bytes], window: str = "first") -> tuple[Clip, Clip]:
    """The one or two clips of a request. Raises RequestError."""
    model, found = self.engine().model, []
    for number, data in enumerate(audio, 1):
      name = f"audio {number}"
      limits.check_audio(data, name, self.settings.limits)
      try:
        found.append(model.clip(data, window, name=name))
      except AudioError as error:
        raise RequestError(400, str(error), name) from None
    if not found:
      samples = np.zeros(model.cfg.audio.clip_samples, np.float32)
      found = [Clip(samples, 0.0, 0.0, 0.0)]
    self.metrics.audio_seconds.inc(sum(clip.seconds_used for clip in found))
    return found[0], found[-1]

  async def wait_for(self, request: HttpRequest, work: Callable[[threading.Event], T]) -> T:
    """What work returns, in a thread that waits for the engine.

    Its event is set where nobody waits any more: the engine is then not to begin what it has not.
    """
    cancel = threading.Event()
    working = anyio.to_thread.run_sync(work, cancel, limiter=self._waiters)
    try:
      return await _while_connected(request, working, self.settings.limits)
    finally:
      cancel.set()

  async def tokens(self, request: Request) -> AsyncIterator[Token | str]:
    """Tokens of the engine's answer, then why it ended; cancels it where nobody waits any more."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue()

    def put(event: Any) -> None:
      loop.call_soon_threadsafe(events.put_nowait, event)

    request.on_token = request.on_end = put
    self.engine().submit(request)
    try:
      while isinstance(event := await events.get(), Token):
        yield event
    finally:
      request.cancelled = True
    if isinstance(event, Exception):
      raise event
    yield event

  async def pieces(
    self, wanted: ChatRequest, prompt: Prompt, sample: int
  ) -> AsyncIterator[tuple[str, list[Token], str | None]]:
    """Pieces of one answer: text, the tokens that it came of, and at the end the reason."""
    engine = self.engine()
    stream, stops = TextStream(engine.model.tokenizer), StopTexts(wanted.stop)
    clock, since = Clock(self.metrics), []
    request = Request(
      prompt,
      wanted.max_tokens,
      temperature=wanted.temperature,
      top_p=wanted.top_p,
      seed=wanted.seed,
      sample=sample,
      top=max(wanted.top, 0),
    )
    self.metrics.prompt_tokens.inc(engine.model.cfg.prefix_tokens)
    reason = "stop"
    async with contextlib.aclosing(self.tokens(request)) as events:
      async for event in events:
        if isinstance(event, str):
          reason = event
          break
        clock.token()
        since.append(event)
        text = stops.add(stream.add(event.id))
        if stops.found:
          break
        if text:
          yield text, since, None
          since = []
    clock.end(reason)
    text = text if stops.found else stops.add(stream.end()) + stops.end()
    yield text, since, reason

  async def answer(
    self, wanted: ChatRequest, prompt: Prompt, sample: int
  ) -> tuple[str, list[Token], str]:
    """One whole answer: text, tokens, and why it ended."""
    texts, tokens, reason = [], [], "stop"
    async for text, some, ended in self.pieces(wanted, prompt, sample):
      texts.append(text)
      tokens += some
      reason = ended or reason
    return "".join(texts), tokens, reason

  async def merged(
    self, wanted: ChatRequest, prompt: Prompt
  ) -> AsyncIterator[tuple[int, str, list[Token], str | None]]:
    """Pieces of all answers as they come, each after its answer's number.

    Raises what ends one of them, and TimeoutError after the time for a request.
    """
    found: asyncio.Queue[tuple | Exception] = asyncio.Queue()

    async def run(index: int) -> None:
      try:
        async for piece in self.pieces(wanted, prompt, index):
          found.put_nowait((index, *piece))
      except Exception as error:
        found.put_nowait(error)

    clock = asyncio.get_running_loop().time
    end, left = clock() + self.settings.limits.request_seconds, wanted.n
    tasks = [asyncio.create_task(run(i)) for i in range(wanted.n)]
    try:
      while left:
        piece = await asyncio.wait_for(found.get(), max(end - clock(), 0))
        if isinstance(piece, Exception):
          raise piece
        left -= piece[-1] is not None
        yield piece
    finally:
      for task in tasks:
        task.cancel()
      await asyncio.gather(*tasks, return_exceptions=True)


# --- Routes --------------------------------------------------------------------------------------


async def completions(request: HttpRequest) -> Response:
  """OpenAI's chat completions; see `chat`."""
  service: Service = request.app.state.service
  service.admit(request)
  wanted, prompt, notes = await service.read(request, lambda body: _read_chat(service, body))
  writer = chat.Writer(
    wanted, service.engine().model.tokenizer, service.engine().model.cfg.prefix_tokens
  )
  # Greedy answers to one question are all the same.
  samples = range(wanted.n if wanted.temperature else 1)
  if wanted.stream:
    # What can be refused is refused before the first byte: a full queue is known by then.
    return await _streamed(service, wanted, prompt, writer, notes)
  answering = asyncio.gather(*(service.answer(wanted, prompt, i) for i in samples))
  answers = await _while_connected(request, answering, service.settings.limits)
  answers *= wanted.n // len(answers)
  return JSONResponse(writer.whole(answers, *notes))


async def decisions(request: HttpRequest) -> Response:
  """Typed decisions; see `systemone`."""
  service: Service = request.app.state.service
  service.admit(request)
  wanted, clips, fit = await service.read(request, lambda body: _read_decisions(service, body))
  engine = service.engine()

  def decide(cancel: threading.Event) -> dict[str, dict[str, Any]]:
    return {
      key: systemone.answer(question, engine.decide(clips, question, wanted.state, cancel))
      for key, question in wanted.questions.items()
    }

  answers = await service.wait_for(request, decide)
  positions = engine.model.cfg.prefix_tokens * len(answers)
  service.metrics.prompt_tokens.inc(positions)
  service.metrics.success.labels("stop").inc()
  body = {
    "model": service.settings.names[0],
    "answers": answers,
    "usage": {"input_tokens": positions, "output_tokens": 0},
    "x_clips": [describe(clip) for clip in clips[: max(len(wanted.audio), 1)]],
    "x_warnings": fit,
  }
  return JSONResponse(body)


async def events(request: HttpRequest) -> Response:
  """What the encoder detects in a clip; see `timeline`."""
  service: Service = request.app.state.service
  service.admit(request)
  clip = await service.read(request, lambda body: _read_clip(service, body))
  engine, detect = service.engine(), functools.partial(service.timeline, clip)
  found = await service.wait_for(request, lambda cancel: engine.call(detect, cancel))
  return JSONResponse({"clip": describe(clip), **found})


async def listed(request: HttpRequest) -> Response:
  """The examples of the page."""
  return JSONResponse(await anyio.to_thread.run_sync(examples.listed))


async def example(request: HttpRequest) -> Response:
  """An example's wav file."""
  number = request.path_params["number"]
  if number >= len(examples.TASKS):
    raise RequestError(404, f"there is no example {number}")
  data = await anyio.to_thread.run_sync(examples.clip, number)
  return Response(data, media_type="audio/wav")


def _openai_model(name: str) -> dict[str, Any]:
  return {"id": name, "object": "model", "created": 0, "owned_by": "mellow_jax"}


async def models(request: HttpRequest) -> Response:
  """The one model, in the forms of both interfaces."""
  name = request.app.state.service.settings.names[0]
  described = {
    "name": name,
    "description": "Mellow, a small audio-language model",
    "release_date": "2025-03-11",
  }
  return JSONResponse({"object": "list", "data": [_openai_model(name)], "models": [described]})


async def model(request: HttpRequest) -> Response:
  """The model of a name, in OpenAI's form."""
  name = request.path_params["name"]
  if name not in request.app.state.service.settings.names:
    raise RequestError(404, f"there is no model {name!r}: see GET /v1/models")
  return JSONResponse(_openai_model(name))


async def health(request: HttpRequest) -> Response:
  """Status 200 while the model answers, 503 before, after and where it could not be loaded."""
  service: Service = request.app.state.service
  if service.failure:
    return JSONResponse({"status": "failed", "reason": str(service.failure)}, 503)
  service.engine()
  return JSONResponse({"status": "ready"})


async def metrics(request: HttpRequest) -> Response:
  """Prometheus' exposition."""
  service: Service = request.app.state.service
  return PlainTextResponse(service.metrics.text())


async def version(request: HttpRequest) -> Response:
  """The package's version."""
  return JSONResponse({"version": mellow_jax.__version__})


async def refused(request: HttpRequest, error: Exception) -> Response:
  """What becomes of an error."""
  return _refusal(request.app.state.service, request, error)


ROUTES = (
  Route("/v1/chat/completions", completions, methods=["POST"]),
  Route("/v1/systemone", decisions, methods=["POST"]),
  Route("/v1/events", events, methods=["POST"]),
  Route("/v1/models", models),
  Route("/v1/models/{name:path}", model),
  Route("/examples", listed),
  Route("/examples/{number:int}.wav", example),
  Route("/health", health),
  Route("/metrics", metrics),
  Route("/version", version),
  Mount("/", StaticFiles(directory=PAGE, html=True)),
)


_SERVED = "ask " + ", ".join(
  f"{'POST' if 'POST' in route.methods else 'GET'} {route.path}"
  for route in ROUTES
  if isinstance(route, Route) and route.path != "/examples" and "{" not in route.path
)


def create_app(
  load: Callable[[], Engine],
  settings: ServerSettings | None = None,
  on_start: Callable[[Exception | None], None] = _log_failure,
) -> Starlette:
  """The application; load is called once, in a thread, when the server starts. See `Service`."""
  service = Service(load, settings or ServerSettings(), on_start)
  app = Starlette(
    routes=ROUTES,
    exception_handlers=dict.fromkeys((HTTPException, UserError, TimeoutError, Exception), refused),
    lifespan=service.lifespan,
  )
  app.state.service = service
  return app


def _read_chat(
  service: Service, body: bytes
) -> tuple[ChatRequest, Prompt, tuple[list[str], list[str]]]:
  """A chat request, its prompt, and what to tell: which part of clips was used, and warnings."""
  limit, engine = service.settings.limits, service.engine()
  wanted = chat.parse(limits.read_json(body), limit, engine.max_new_tokens)
  service.check_name(wanted.model)
  clips = service.clips(wanted.audio, wanted.window)
  prompt = engine.model.prompt((*clips, wanted.text))
  described = [describe(clip) for clip in clips[: len(wanted.audio)]]
  return wanted, prompt, (described, _warnings(prompt.notes))


def _read_clip(service: Service, body: bytes) -> Clip:
  """The clip of {"audio": base64}."""
  limit = service.settings.limits
  value = limits.read_json(body)
  if not isinstance(value, dict) or "audio" not in value:
    raise RequestError(400, 'send {"audio": "data:audio/wav;base64,..."}', "audio")
  return service.clips([limits.decode_base64(value["audio"], "audio", limit)])[0]


def _read_decisions(
  service: Service, body: bytes
) -> tuple[systemone.DecisionRequest, tuple[Clip, Clip], list[str]]:
  """A request for decisions, its clips, and warnings."""
  limit, model = service.settings.limits, service.engine().model
  try:
    value = limits.read_json(body)
  except RequestError as error:
    raise systemone.ValidationError((), str(error), "json_invalid") from None
  wanted = systemone.parse(value, limit)
  service.check_name(wanted.model, systemone.ALIASES)
  clips = service.clips(wanted.audio)
  warnings = [] if wanted.audio else ["no clip: silence is judged"]
  for name, question in wanted.questions.items():
    try:
      asked = model.phrase(question, wanted.state)
      prompt = model.prompt((*clips, asked.text))
    except QuestionError as error:
      raise systemone.ValidationError(("questions", name), str(error), "value_error") from None
    warnings += _warnings((*prompt.notes, *asked.notes))
  return wanted, clips, list(dict.fromkeys(warnings))


def _warnings(notes: Sequence[Note]) -> list[str]:
  """What a reader of the answer should know about its question."""
  return [f"{kind}: {detail}" if detail else kind for kind, detail in notes]


async def _while_connected(request: HttpRequest, answering: Awaitable[T], limit: Limits) -> T:
  """The answer, unless the client goes away or the time is over first."""

  async def gone() -> None:
    while (await request.receive())["type"] != "http.disconnect":
      pass

  watch, answer = asyncio.ensure_future(gone()), asyncio.ensure_future(answering)
  try:
    async with asyncio.timeout(limit.request_seconds):
      await asyncio.wait({watch, answer}, return_when=asyncio.FIRST_COMPLETED)
    if not answer.done():
      raise RequestError(499, "the client is gone")
    return answer.result()
  finally:
    for task in (watch, answer):
      task.cancel()
      with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


async def _streamed(
  service: Service,
  wanted: ChatRequest,
  prompt: Prompt,
  writer: chat.Writer,
  notes: tuple[list[str], list[str]],
) -> Response:
  """Server-sent events of all answers, each piece as it comes."""
  pieces = service.merged(wanted, prompt)
  try:
    first = await anext(pieces)  # what is refused is refused before the first byte
  except BaseException:
    await pieces.aclose()
    raise

  async def events() -> AsyncIterator[str]:
    async with contextlib.aclosing(pieces):
      try:
        yield writer.events(*first, mellow={"clips": notes[0], "warnings": notes[1]})
        async for piece in pieces:
          yield writer.events(*piece)
        yield writer.last()
      except Exception as error:  # too late for a status
        logger.warning("a stream ended: %s", error)
        yield chat.event({"error": _openai_error(str(error) or "the time is over", 503, None)})

  return StreamingResponse(
    events(), media_type="text/event-stream", headers={"cache-control": "no-store"}
  )


# --- Errors --------------------------------------------------------------------------------------


def _openai_error(message: str, status: int, field: str | None) -> dict[str, Any]:
  kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
  kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
  return {"message": message, "type": kind, "param": field, "code": status}


def _refusal(service: Service, request: HttpRequest, error: Exception) -> Response:
  """An error in the form of the interface that was called."""
  match error:
    case RequestError():
      status = error.status
    case HTTPException():  # of the mounted page, to which all goes that no route takes
      asked = f"{request.method} {request.url.path:.100}"
      status, error = 404, RequestError(404, f"{asked} is not served here: {_SERVED}")
    case BusyError():
      status = 429
    case QuestionError() | UserError():
      status = 400
    case TimeoutError():
      status, error = 503, RequestError(503, "the time for an answer is over: try again later")
    case _:
      logger.error("a request failed", exc_info=error)
      status, error = 500, RequestError(500, "an error of the server, which its log describes")
  service.metrics.refused.labels(str(status)).inc()
  if request.url.path == "/v1/systemone":
    body = systemone.error_json(error, status)
  else:
    body = {"error": _openai_error(str(error), status, getattr(error, "field", None))}
  headers = {"retry-after": str(RETRY_SECONDS)} if status in (429, 503) else None
  return JSONResponse(body, status, headers=headers)
