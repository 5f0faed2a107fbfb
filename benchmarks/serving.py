"""What the server costs beside its engine, and what the engine saves, in turns on one machine.

  python -m benchmarks.serving --checkpoint=runs/demo/model --output=serving.json
  python -m benchmarks.serving --full_size
  python -m benchmarks.serving --checkpoint=runs/demo/model --soak_minutes=30

Rows: a request over HTTP beside the same one in the engine; tokens a second of one stream and of
eight; ten questions about one clip beside ten about fresh clips; the first word over HTTP. Beside
times of a clock stand those of the CPU, which other work on the machine changes less. Figures are
medians of --rounds rounds, in which all contestants take turns. --full_size takes the paper's model
with random weights.

--soak_minutes measures something else: whether `mellow serve` in a process of its own holds out.
Requests about new and known clips, with answers of random lengths, come at random times at 80% of
the rate that eight clients get who ask without a pause. Each minute has a line: requests, those
refused and those lost, seconds until the whole answer, memory of the server.
"""

import argparse
import base64
import collections
import functools
import http.client
import io
import itertools
import json
import math
import multiprocessing
import os
import queue
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import numpy as np
import uvicorn

from mellow_jax import parallel
from mellow_jax.checkpoint import LoadedModel
from mellow_jax.config import ModelConfig
from mellow_jax.data import tokenizer
from mellow_jax.inference.api import Mellow
from mellow_jax.inference.engine import Engine, Request
from mellow_jax.models import mellow
from mellow_jax.serving import app


def clip(seed: int, seconds: float) -> bytes:
  """A wav file of noise."""
  samples = np.random.default_rng(seed).normal(0, 3000, int(32_000 * seconds)).astype("<i2")
  file = io.BytesIO()
  with wave.open(file, "wb") as writer:
    writer.setnchannels(1)
    writer.setsampwidth(2)
    writer.setframerate(32_000)
    writer.writeframes(samples.tobytes())
  return file.getvalue()


def body(data: bytes, question: str, **fields) -> bytes:
  """A chat completion's body."""
  audio = {"data": base64.b64encode(data).decode(), "format": "wav"}
  content = [{"type": "text", "text": question}, {"type": "input_audio", "input_audio": audio}]
  message = {"role": "user", "content": content}
  return json.dumps({"model": "mellow", "messages": [message], **fields}).encode()


@functools.cache
def connected(port: int) -> http.client.HTTPConnection:
  """A connection that is kept, as clients' libraries do."""
  return http.client.HTTPConnection("127.0.0.1", port)


def send(method: str, path: str, data: bytes | None, port: int) -> tuple[int, float]:
  """Status, and seconds until the first byte of the answer."""
  connection, begin = connected(port), time.perf_counter()
  connection.request(method, path, data)
  response = connection.getresponse()
  response.read(1)
  first = time.perf_counter() - begin
  response.read()
  return response.status, first


def cpu_milliseconds(call: Callable[[], object]) -> float:
  """What a call takes of the CPU, in all threads of this process."""
  begin = time.process_time()
  call()
  return 1e3 * (time.process_time() - begin)


def full_size() -> Mellow:
  """The paper's model with random weights, which seldom end an answer, and a small tokenizer."""
  parallel.use_compilation_cache()
  cfg = ModelConfig(dtype="float32")
  words = tokenizer.build_tokenizer(["caption the audio ! is there a bell yes ?"])
  return Mellow(LoadedModel(mellow.init_params(cfg, 0), cfg, "release", words))


# Ten questions: name, most tokens of an answer, and whether none waits for the one before.
TEN = (("ten in turn, two tokens", 2, False), ("ten at once, four tokens", 4, True))
TURNS = 15  # of a request in the engine and over HTTP, in each round


class Contest:
  """An engine and a server on it."""

  def __init__(self, model: Mellow, tokens: int):
    self.model, self.tokens = model, tokens
    self.engine = Engine(model, slots=8, max_new_tokens=tokens)
    self.seconds, self.seeds = model.cfg.audio.clip_seconds, itertools.count(1)
    self.known = clip(0, self.seconds)
    self.port = self._start()
    # In a process of its own, as clients are: it does not share the server's Python.
    self.client = futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

  def _start(self) -> int:
    """Serves the engine in a thread; the port, once it answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    served = app.create_app(lambda: self.engine)
    config = uvicorn.Config(served, log_level="error", timeout_keep_alive=3600)
    server, port = uvicorn.Server(config), listener.getsockname()[1]
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    while not server.started or send("GET", "/health", None, port)[0] != 200:
      time.sleep(0.05)
    return port

  def over_http(self, request: bytes) -> float:
    """Milliseconds until the first byte of the answer to a body."""
    asked = ("POST", "/v1/chat/completions", request, self.port)
    status, seconds = self.client.submit(send, *asked).result()
    if status != 200:
      raise RuntimeError(f"the server answered with status {status}")
    return 1e3 * seconds

  def in_engine(self) -> float:
    """Milliseconds of one token about the known clip, its file decoded as the server does."""
    begin = time.perf_counter()
    prompt = self.model.prompt((self.known, None, "caption the audio"))
    list(self.engine.stream(Request(prompt, 1)))
    return 1e3 * (time.perf_counter() - begin)

  def speed(self, streams: int) -> float:
    """Tokens a second of so many streams at once, few of which end early."""
    prompt = self.model.prompt((self.known, None, "caption the audio"))
    done = []

    def one(seed: int) -> None:
      request = Request(prompt, self.tokens, temperature=100.0, seed=seed)
      done.append(sum(1 for _ in self.engine.stream(request)))

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(streams)]
    begin = time.perf_counter()
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    return sum(done) / (time.perf_counter() - begin)

  def fresh(self) -> bytes:
    """A clip that nobody has asked about."""
    return clip(next(self.seeds), self.seconds)

  def ten(self, clips: list[bytes], tokens: int, at_once: bool) -> tuple[float, float]:
    """Milliseconds of a question about each clip, asked at once or in turn: clock and CPU."""
    begin, cpu, asked = time.perf_counter(), time.process_time(), []
    for number, data in enumerate(clips):
      prompt = self.model.prompt((data, None, f"is there a bell? {'yes ' * number}"))
      ended: queue.SimpleQueue = queue.SimpleQueue()
      self.engine.submit(Request(prompt, tokens, on_end=ended.put))
      asked.append(ended)
      if not at_once:
        asked.pop().get()
    for ended in asked:
      ended.get()
    return 1e3 * (time.perf_counter() - begin), 1e3 * (time.process_time() - cpu)

  def requests(self) -> dict[str, float]:
    """Milliseconds of one token, in the engine and over HTTP: medians of TURNS that take turns."""
    asked, turns = (
      body(self.known, "caption the audio", max_tokens=1),
      collections.defaultdict(list),
    )
    for _ in range(TURNS):
      turns["engine, one token, ms"].append(self.in_engine())
      turns["http, one token, ms"].append(self.over_http(asked))
      turns["engine, one token, ms of CPU"].append(cpu_milliseconds(self.in_engine))
      turns["http, one token, ms of CPU"].append(cpu_milliseconds(lambda: self.over_http(asked)))
    return {name: statistics.median(figures) for name, figures in turns.items()}

  def round(self) -> dict[str, float]:
    """One figure of each row."""
    fresh = body(self.fresh(), "caption the audio", stream=True)
    ten = {}
    for name, tokens, at_once in TEN:
      one = self.ten([self.fresh()] * 10, tokens, at_once)
      fresh_ones = self.ten([self.fresh() for _ in range(10)], tokens, at_once)
      for kind, figures in (("one clip", one), ("ten clips", fresh_ones)):
        ten |= {f"{name}, {kind}, ms": figures[0], f"{name}, {kind}, ms of CPU": figures[1]}
    return {
      **self.requests(),
      "http, first word of a fresh clip, ms": self.over_http(fresh),
      "1 stream, tokens/s": self.speed(1),
      "8 streams, tokens/s": self.speed(8),
      **ten,
    }


# --- The soak ------------------------------------------------------------------------------------

LOAD = 0.8  # of the rate of CLIENTS who ask without a pause
CLIENTS, MEASURED_SECONDS, ASKERS = 8, 60, 128


class Soak:
  """A server in a process of its own, and what became of the requests to it."""

  def __init__(self, checkpoint: str, host: str = "127.0.0.1"):
    with socket.socket() as free:
      free.bind((host, 0))
      self.port = free.getsockname()[1]
    self.host, self.rng, self.lock = host, random.Random(0), threading.Lock()
    self.done: list[tuple[int, float]] = []  # status, 0 where there was none, and seconds
    self.known = [clip(seed, 5) for seed in range(4)]
    # A small cache is full soon: what grows afterwards is lost.
    flags = [f"--checkpoint={checkpoint}", f"--port={self.port}", "--slots=8", "--cache_mib=16"]
    self.server = subprocess.Popen([sys.executable, "-m", "mellow_jax.serve", *flags])
    while self._send("GET", "/health", None) != 200:
      if self.server.poll() is not None:
        raise RuntimeError("the server did not start")
      time.sleep(1)

  def _send(self, method: str, path: str, data: bytes | None) -> int:
    """The status of a whole answer; 0 where it did not come."""
    try:
      connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
      connection.request(method, path, data)
      response = connection.getresponse()
      response.read()
      connection.close()
      return response.status
    except (OSError, http.client.HTTPException):
      return 0

  def ask(self) -> None:
    """A request about a new clip or a known one, for an answer of random length."""
    with self.lock:
      seed = self.rng.getrandbits(32)
      data = clip(seed, 5) if self.rng.random() < 0.5 else self.rng.choice(self.known)
      most = self.rng.randint(1, 48)
    request = body(data, "caption the audio", max_tokens=most, temperature=2.0, seed=seed)
    begin = time.monotonic()
    status = self._send("POST", "/v1/chat/completions", request)
    self.done.append((status, time.monotonic() - begin))

  def capacity(self) -> float:
    """Requests a second of CLIENTS who ask without a pause."""
    self.ask()  # what is compiled at first
    begin, before = time.monotonic(), len(self.done)
    end = begin + MEASURED_SECONDS

    def client() -> None:
      while time.monotonic() < end:
        self.ask()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    answered = sum(status == 200 for status, _ in self.done[before:])
    return answered / (time.monotonic() - begin)

  def mebibytes(self) -> float:
    """Of the server's memory."""
    pages = int(Path(f"/proc/{self.server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

  def line(self, minute: object, done: list[tuple[int, float]]) -> dict[str, float]:
    """Prints and returns what became of some requests."""
    seconds = sorted(s for status, s in done if status == 200) or [math.nan]
    found = {
      "minute": minute,
      "requests": len(done),
      "refused": sum(status in (429, 503) for status, _ in done),
      "lost": sum(status not in (200, 429, 503) for status, _ in done),
      "p50 s": round(seconds[len(seconds) // 2], 3),
      "p99 s": round(seconds[int(0.99 * (len(seconds) - 1))], 3),
      "memory MiB": round(self.mebibytes(), 1),
    }
    print("  ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


def soak(checkpoint: str, minutes: int) -> list[dict[str, float]]:
  """A line for each minute at constant load, and one for all."""
  found = Soak(checkpoint)
  try:
    rate = LOAD * found.capacity()
    print(f"{rate:.2f} requests a second for {minutes} minutes", flush=True)
    lines = [found.line("before", found.done)]
    found.done, begin, sent = [], time.monotonic(), 0.0
    with futures.ThreadPoolExecutor(ASKERS) as askers:
      for minute in range(1, minutes + 1):
        first = len(found.done)
        while sent < 60 * minute:
          time.sleep(max(begin + sent - time.monotonic(), 0))
          askers.submit(found.ask)
          sent += random.expovariate(rate)
        lines.append(found.line(minute, found.done[first:]))
    return [*lines, found.line("all", found.done)]
  finally:
    found.server.terminate()
    print(f"the server ended with status {found.server.wait()}", flush=True)


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  model = parser.add_mutually_exclusive_group(required=True)
  model.add_argument("--checkpoint")
  model.add_argument("--full_size", action="store_true")
  parser.add_argument("--output")
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--tokens", type=int, default=64)
  parser.add_argument("--soak_minutes", type=int, default=0)
  args = parser.parse_args(argv)
  if args.soak_minutes:
    if not args.checkpoint:
      parser.error("--soak_minutes needs --checkpoint")
    lines = soak(args.checkpoint, args.soak_minutes)
    if args.output:
      Path(args.output).write_text(json.dumps(lines, indent=1))
    return
  contest = Contest(full_size() if args.full_size else Mellow.load(args.checkpoint), args.tokens)
  contest.round()  # compiles
  rounds = [contest.round() for _ in range(args.rounds)]
  rows = {name: [one[name] for one in rounds] for name in rounds[0]}
  found = {name: statistics.median(values) for name, values in rows.items()}
  for name, values in rows.items():
    print(f"{name:<46} {found[name]:10.2f}   {min(values):.2f} to {max(values):.2f}")
  ratios = {
    "http over engine, ms": found["http, one token, ms"] - found["engine, one token, ms"],
    "http over engine, ms of CPU": found["http, one token, ms of CPU"]
    - found["engine, one token, ms of CPU"],
    "8 streams over 1": found["8 streams, tokens/s"] / found["1 stream, tokens/s"],
  }
  for name, _, _ in TEN:
    for unit in ("ms", "ms of CPU"):
      one, ten = (found[f"{name}, {kind}, {unit}"] for kind in ("one clip", "ten clips"))
      ratios[f"{name}: one clip over ten, {unit}"] = one / ten
  for name, value in ratios.items():
    print(f"{name:<46} {value:10.2f}")
  if args.output:
    Path(args.output).write_text(json.dumps({"rows": rows, "ratios": ratios}, indent=1))


if __name__ == "__main__":
  main(sys.argv[1:])
