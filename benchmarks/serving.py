"""What the server costs beside its engine, and what the engine saves, in turns on one machine.

  python -m benchmarks.serving --checkpoint=runs/demo/model --output=serving.json

Rows: a request over HTTP beside the same one in the engine; tokens a second of one stream and of
eight; ten questions about one clip beside ten about fresh clips; the first word over HTTP. Figures
are medians of --rounds rounds, in which all contestants take turns.
"""

import argparse
import base64
import http.client
import io
import itertools
import json
import socket
import statistics
import sys
import threading
import time
import wave
from pathlib import Path

import numpy as np
import uvicorn

from mellow_jax.inference.api import Mellow
from mellow_jax.inference.engine import Engine, Request
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


class Contest:
  """An engine and a server on it."""

  def __init__(self, model: Mellow, tokens: int):
    self.model, self.tokens = model, tokens
    self.engine = Engine(model, slots=8, max_new_tokens=tokens)
    self.seconds, self.seeds = model.cfg.audio.clip_seconds, itertools.count(1)
    self.known = clip(0, self.seconds)
    self.port = self._start()

  def _start(self) -> int:
    """Serves the engine in a thread; the port, once it answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app.create_app(lambda: self.engine), log_level="error")
    server, port = uvicorn.Server(config), listener.getsockname()[1]
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    while not server.started or self._send("GET", "/health", None, port)[0] != 200:
      time.sleep(0.05)
    return port

  def _send(self, method: str, path: str, data: bytes | None, port: int) -> tuple[int, float]:
    """Status, and seconds until the first byte of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    begin = time.perf_counter()
    connection.request(method, path, data)
    response = connection.getresponse()
    response.read(1)
    first = time.perf_counter() - begin
    response.read()
    connection.close()
    return response.status, first

  def over_http(self, data: bytes, **fields) -> float:
    """Milliseconds until the first byte of an answer about a clip."""
    request = body(data, "caption the audio", **fields)
    status, seconds = self._send("POST", "/v1/chat/completions", request, self.port)
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

  def ten(self, clips: list[bytes]) -> float:
    """Seconds of a question about each clip, one after the other."""
    begin = time.perf_counter()
    for number, data in enumerate(clips):
      prompt = self.model.prompt((data, None, f"is there a bell? {'yes ' * number}"))
      list(self.engine.stream(Request(prompt, 4)))
    return time.perf_counter() - begin

  def round(self) -> dict[str, float]:
    """One figure of each row."""
    return {
      "engine, one token, ms": self.in_engine(),
      "http, one token, ms": self.over_http(self.known, max_tokens=1),
      "http, first word of a fresh clip, ms": self.over_http(self.fresh(), stream=True),
      "1 stream, tokens/s": self.speed(1),
      "8 streams, tokens/s": self.speed(8),
      "ten questions on one clip, s": self.ten([self.fresh()] * 10),
      "ten questions on ten clips, s": self.ten([self.fresh() for _ in range(10)]),
    }


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--checkpoint", required=True)
  parser.add_argument("--output")
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--tokens", type=int, default=64)
  args = parser.parse_args(argv)
  contest = Contest(Mellow.load(args.checkpoint), args.tokens)
  contest.round()  # compiles
  rounds = [contest.round() for _ in range(args.rounds)]
  rows = {name: [one[name] for one in rounds] for name in rounds[0]}
  found = {name: statistics.median(values) for name, values in rows.items()}
  for name, values in rows.items():
    print(f"{name:<40} {found[name]:10.2f}   {min(values):.2f} to {max(values):.2f}")
  one, ten = found["ten questions on one clip, s"], found["ten questions on ten clips, s"]
  ratios = {
    "http over engine, ms": found["http, one token, ms"] - found["engine, one token, ms"],
    "8 streams over 1": found["8 streams, tokens/s"] / found["1 stream, tokens/s"],
    "one clip over ten": one / ten,
  }
  for name, value in ratios.items():
    print(f"{name:<40} {value:10.2f}")
  if args.output:
    Path(args.output).write_text(json.dumps({"rows": rows, "ratios": ratios}, indent=1))


if __name__ == "__main__":
  main(sys.argv[1:])
