"""The server over real sockets: what clients send, what they get, and what hostile ones do not."""

import base64
import collections
import contextlib
import dataclasses
import http.client
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
import tiny

from mellow_jax import checkpoint, serve
from mellow_jax.errors import RequestError
from mellow_jax.inference.api import Mellow
from mellow_jax.inference.decode import Sampling
from mellow_jax.inference.engine import Engine

uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from mellow_jax.serving import app as app_lib  # noqa: E402
from mellow_jax.serving import limits as limits_lib  # noqa: E402
from mellow_jax.serving.limits import Limits  # noqa: E402

MOST, RATE = 12, 16_000
LIMITS = Limits(body_bytes=200_000, body_seconds=2.0, request_seconds=30.0)


def wav(seed: int = 0, seconds: float = 1.0, rate: int = RATE) -> bytes:
  samples = np.random.default_rng(seed).normal(0, 3000, int(seconds * rate)).astype("<i2")
  file = io.BytesIO()
  with wave.open(file, "wb") as writer:
    writer.setnchannels(1)
    writer.setsampwidth(2)
    writer.setframerate(rate)
    writer.writeframes(samples.tobytes())
  return file.getvalue()


def encoded(data: bytes) -> str:
  return base64.b64encode(data).decode()


def audio_part(data: bytes) -> dict:
  return {"type": "input_audio", "input_audio": {"data": encoded(data), "format": "wav"}}


def chat(question: str, *clips: bytes, **fields) -> dict:
  content = [{"type": "text", "text": question}, *map(audio_part, clips)]
  return {"model": "mellow", "messages": [{"role": "user", "content": content}], **fields}


@pytest.fixture(scope="module")
def model(tiny_config, tmp_path_factory) -> Mellow:
  folder = tmp_path_factory.mktemp("serving") / "model"
  checkpoint.save_model(folder, tiny.params(tiny_config), tiny_config, "training", tiny.tokenizer())
  return Mellow.load(folder)


class Running:
  """A server in a thread."""

  def __init__(self, server, port: int, engine: Engine):
    self.server, self.port, self.engine = server, port, engine

  def send(self, method: str, path: str, body: bytes | None = None, **headers: str):
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    found = response.status, response.read(), dict(response.getheaders())
    connection.close()
    return found

  def post(self, path: str, value, **headers: str) -> tuple[int, dict]:
    status, body, _ = self.send("POST", path, json.dumps(value).encode(), **headers)
    return status, json.loads(body)

  def chat(self, *args, **fields) -> dict:
    status, body = self.post("/v1/chat/completions", chat(*args, **fields))
    assert status == 200, body
    return body


@contextlib.contextmanager
def serving(model: Mellow, *, limits: Limits = LIMITS, **settings) -> Iterator[Running]:
  engine = Engine(model, slots=3, max_new_tokens=MOST)
  app = app_lib.create_app(lambda: engine, app_lib.ServerSettings(limits=limits, **settings))
  listener = socket.socket()
  listener.bind(("127.0.0.1", 0))
  server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
  thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
  thread.start()
  found = Running(server, listener.getsockname()[1], engine)
  while not server.started or found.send("GET", "/health")[0] != 200:
    time.sleep(0.02)
  yield found
  server.should_exit = True
  thread.join()


@pytest.fixture(scope="module")
def server(model) -> Iterator[Running]:
  with serving(model) as found:
    yield found


def refusals(server: Running, status: int) -> float:
  text = server.send("GET", "/metrics")[1].decode()
  found = re.search(rf'mellow:request_refused_total{{status="{status}"}} (\S+)', text)
  return float(found[1]) if found else 0.0


def until(holds) -> None:
  deadline = time.monotonic() + 30
  while not holds():
    assert time.monotonic() < deadline
    time.sleep(0.02)


# --- Chat completions ----------------------------------------------------------------------------


def test_an_answer_is_that_of_the_api_streamed_and_whole(server, model):
  first, second = wav(1), wav(2)
  sampling = Sampling(max_new_tokens=MOST)
  for clips in ([first], [first, second]):
    expected = model.answer(
      first, "a dog barks", audio2=clips[-1] if clips[1:] else None, sampling=sampling
    )
    body = server.chat("a dog barks", *clips)
    choice = body["choices"][0]
    assert choice["message"]["content"] == expected.text
    assert choice["finish_reason"] == ("length" if expected.tokens[0] == MOST else "stop")
    assert body["usage"]["completion_tokens"] == expected.tokens[0]
    assert body["mellow"]["clips"] == ["0.0-1.0 s of 1.0 s"] * len(clips)
    status, stream, headers = server.send(
      "POST",
      "/v1/chat/completions",
      json.dumps(
        chat("a dog barks", *clips, stream=True, stream_options={"include_usage": True})
      ).encode(),
    )
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = stream.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
    assert "".join(pieces) == expected.text
    assert chunks[-2]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert chunks[-1]["usage"] == body["usage"] and chunks[-1]["choices"] == []


def test_samples_are_those_of_the_seed_and_greedy_ones_are_all_the_same(server, model):
  clip = wav(3)
  sampling = Sampling(max_new_tokens=MOST, temperature=1.5, top_p=0.9, samples=3)
  expected = model.answer(clip, "rain falls", sampling=sampling, seed=7)
  for _ in range(2):
    body = server.chat("rain falls", clip, n=3, temperature=1.5, top_p=0.9, seed=7)
    assert tuple(c["message"]["content"] for c in body["choices"]) == expected.texts
  body = server.chat("rain falls", clip, n=2, temperature=0)
  assert body["choices"][0]["message"] == body["choices"][1]["message"]
  assert [c["index"] for c in body["choices"]] == [0, 1]


def test_a_field_that_is_null_is_as_if_it_were_left_out(server):
  clip = wav(4)
  expected = server.chat("what is heard", clip, max_tokens=2)
  assert expected["usage"]["completion_tokens"] == 2
  names = ("max_completion_tokens", "temperature", "top_p", "n", "seed", "stop", "logprobs")
  names += ("top_logprobs", "stream", "stream_options", "mellow", "tools", "response_format")
  found = server.chat("what is heard", clip, max_tokens=2, **dict.fromkeys(names))
  assert found["choices"] == expected["choices"] and found["usage"] == expected["usage"]
  found = server.chat("what is heard", clip, max_completion_tokens=2, max_tokens=None)
  assert found["choices"] == expected["choices"]
  window = server.chat("what is heard", clip, max_tokens=2, mellow={"window": None})
  assert window["choices"] == expected["choices"]
  data = f"data:audio/wav;base64,{encoded(clip)}"
  body = {"model": "mellow", "questions": {"q": {"type": "noul", "instructions": "a dog"}}}
  answers = []
  for state in ({"audio": data}, {"audio": data, "audio2": None}, {"audio": None, "audio2": data}):
    status, found = server.post("/v1/systemone", {**body, "state": state})
    assert status == 200, found
    answers.append(found["answers"])
  assert answers[0] == answers[1] == answers[2]


def test_a_stop_text_ends_the_answer_before_it(server):
  clip = wav(4)
  whole = server.chat("what is heard", clip)["choices"][0]["message"]["content"]
  stop = whole.split()[2]
  body = server.chat("what is heard", clip, stop=[stop])
  text = body["choices"][0]["message"]["content"]
  assert text == whole[: whole.index(stop)] and body["choices"][0]["finish_reason"] == "stop"


def test_log_probabilities_come_with_the_most_probable_tokens(server):
  body = server.chat("what is heard", wav(5), logprobs=True, top_logprobs=3)
  content = body["choices"][0]["logprobs"]["content"]
  assert len(content) == body["usage"]["completion_tokens"]
  for token in content:
    assert len(token["top_logprobs"]) == 3
    assert token["top_logprobs"][0]["token"] == token["token"]
    assert token["logprob"] == pytest.approx(token["top_logprobs"][0]["logprob"], abs=1e-4)


def test_clients_forms_are_read(server):
  """As AU-Harness, lmms-eval and sglang's clients send it: text first, data URIs, large limits."""
  clip = wav(6)
  expected = server.chat("a dog barks", clip)["choices"][0]["message"]["content"]
  data = f"data:audio/wav;base64,{encoded(clip)}"
  forms = [
    [{"role": "user", "content": [audio_part(clip), {"type": "text", "text": "a dog barks"}]}],
    [
      {"role": "system", "content": "a"},
      {"role": "user", "content": [{"type": "text", "text": "dog barks"}, audio_part(clip)]},
    ],
    [
      {
        "role": "user",
        "content": [
          {"type": "audio_url", "audio_url": {"url": data}},
          {"type": "text", "text": "a dog barks"},
        ],
      }
    ],
  ]
  for messages in forms:
    body = {"model": "mellow", "messages": messages, "max_tokens": 4096, "temperature": 0, "n": 1}
    status, found = server.post("/v1/chat/completions", body)
    assert status == 200 and found["choices"][0]["message"]["content"] == expected


@pytest.mark.parametrize(
  ("method", "path"),
  [
    ("POST", "/v1/responses"),
    ("POST", "/v1/audio/transcriptions"),
    ("GET", "/v1/chat/completions"),
    ("GET", "/nothing.html"),
    ("DELETE", "/v1/models"),
  ],
)
def test_what_is_not_served_is_404_in_openais_form(server, method, path):
  status, body, headers = server.send(method, path)
  error = json.loads(body)["error"]
  assert (status, error["code"], error["type"]) == (404, 404, "not_found_error")
  assert headers["content-type"] == "application/json"
  assert error["message"].startswith(f"{method} {path} is not served here: ask POST /v1/chat/")


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    ("--port={port}", "--port={port}: another program listens there: end it, or give another port"),
    ("--host=192.0.2.1", "--host=192.0.2.1: is no address of this machine: give one of this"),
    ("--host=no.such.invalid", "--host=no.such.invalid: is no address ("),
    ("--port=99999", "flag --port=99999: "),
  ],
)
def test_an_address_that_is_not_to_be_had_is_one_line_before_the_model_is_loaded(
  flags, line, tmp_path, capsys, monkeypatch
):
  (tmp_path / "config.json").write_text("no model")  # that would be told if it were read
  monkeypatch.setattr(Mellow, "load", None)
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    assert serve.main(["serve", f"--checkpoint={tmp_path}", flags.format(port=port)]) == 1
  error = capsys.readouterr().err
  assert error.startswith(f"error: {line.format(port=port)}") and error.count("\n") == 1


@pytest.mark.parametrize(
  ("change", "status", "text"),
  [
    ({"model": "gpt-4o"}, 404, "not served here"),
    ({"model": None}, 400, "GET /v1/models"),
    ({"messages": []}, 400, "exactly one user message"),
    ({"messages": "hello"}, 400, "list of objects"),
    ({"messages": [{"role": "user", "content": "hello"}]}, 400, "0 clips"),
    ({"messages": [{"role": "assistant", "content": "hello"}]}, 400, "single turn"),
    ({"temperature": 3}, 400, "from 0 to 2"),
    ({"temperature": "hot"}, 400, "give a number"),
    ({"temperature": float("nan")}, 400, "no JSON"),
    ({"top_p": 0}, 400, "above 0"),
    ({"n": 1.5}, 400, "whole number"),
    ({"n": 1000}, 400, "to 8"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"tools": [{}]}, 400, "leave it out"),
    ({"stop": 3}, 400, "string"),
    ({"stop": list("abcde")}, 400, "at most 4"),
    ({"stream": "yes"}, 400, "true or false"),
    ({"stream": 1}, 400, "true or false"),
    ({"stream_options": {"include_usage": "no"}}, 400, "include_usage: true or false"),
    ({"max_completion_tokens": 0, "max_tokens": 5}, 400, "max_completion_tokens 0: give a number"),
    ({"mellow": {"window": "last"}}, 400, "first, center"),
    ({"mellow": {"windw": "center"}}, 400, "mellow.windw: there is only mellow.window"),
    ({"top_logprobs": 3}, 400, "set logprobs to true"),
    ({"max_tokens": 0}, 400, "max_tokens 0: give a number from 1 on"),
  ],
)
def test_a_wrong_field_is_named(server, change, status, text):
  found, body = server.post("/v1/chat/completions", {**chat("a dog", wav()), **change})
  assert found == status and text in body["error"]["message"]
  assert set(body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
  ("part", "text"),
  [
    (audio_part(b"RIFF no audio"), "audio 1"),
    (audio_part(b""), "is empty"),
    (audio_part(b"\0\0\0\x18ftypM4A "), "ffmpeg"),
    (audio_part(wav(rate=1000)), "1000"),
    (audio_part(wav(seconds=4, rate=4000) * 3), "audio 1"),
    ({"type": "input_audio", "input_audio": {"data": "%%%"}}, "no base64"),
    ({"type": "input_audio", "input_audio": {"data": 3}}, "string of base64"),
    ({"type": "audio_url", "audio_url": {"url": "http://127.0.0.1/x.wav"}}, "no URL is fetched"),
    ({"type": "audio_url", "audio_url": {"url": "data:audio/wav,abc"}}, "base64"),
    ({"type": "image_url", "image_url": {}}, "image_url"),
  ],
)
def test_wrong_audio_is_refused_in_a_sentence(server, part, text):
  body = chat("a dog")
  body["messages"][0]["content"].append(part)
  status, found = server.post("/v1/chat/completions", body)
  if status == 200:  # a wav with more behind it is still a wav
    assert text == "audio 1"
  else:
    assert status == 400 and text in found["error"]["message"]


def test_base64_in_lines_is_read():
  data = bytes(range(256))
  for text in (base64.encodebytes(data), base64.encodebytes(data).replace(b"\n", b"\r\n ")):
    assert limits_lib.decode_base64(text.decode(), "input_audio", Limits()) == data


def test_a_stream_without_a_length_is_not_decoded_beyond_the_limit(monkeypatch):
  """Half an hour of silence in a few kilobytes: a little more than the limit is decoded of it."""
  file = io.BytesIO()
  with soundfile.SoundFile(file, "w", 48_000, 1, format="OGG", subtype="OPUS") as sound:
    for _ in range(60):
      sound.write(np.zeros(48_000 * 30, np.float32))
  pages = file.getvalue()
  last = pages.rindex(b"OggS")
  lost = pages[: last + 6] + b"\xff" * 8 + pages[last + 14 :]  # no length on the last page
  decoded, read = [], soundfile.SoundFile.read
  monkeypatch.setattr(
    soundfile.SoundFile,
    "read",
    lambda self, frames=-1, **how: decoded.append(frames) or read(self, frames, **how),
  )
  with pytest.raises(RequestError, match=r"audio 1"):
    limits_lib.check_audio(lost, "audio 1", Limits())
  assert sum(decoded) < 48_000 * 120


def test_silence_and_a_cut_question_are_told(server):
  silence = io.BytesIO()
  with wave.open(silence, "wb") as writer:
    writer.setnchannels(1)
    writer.setsampwidth(2)
    writer.setframerate(RATE)
    writer.writeframes(bytes(2 * RATE))
  body = server.chat("what is heard in the audio a dog barks then rain", silence.getvalue())
  assert len(body["mellow"]["warnings"]) == 2
  assert server.chat("a dog", wav())["mellow"]["warnings"] == []


# --- Decisions -----------------------------------------------------------------------------------


def test_decisions_are_those_of_the_api_whatever_their_names_and_order(server, model):
  from mellow_jax.inference.decide import Choice, Rating, YesNo

  clip = wav(8)
  questions = {
    "dog": {"type": "noul", "instructions": "a dog barks"},
    "what": {"type": "choice", "instructions": "what", "criteria": {"dog": None, "rain": "falls"}},
    "much": {"type": "score", "instructions": "is", "criteria": ["one", "two", "three"]},
  }
  state = {"audio": f"data:audio/wav;base64,{encoded(clip)}"}
  body = {"model": "mellow", "state": state, "questions": questions}
  status, found = server.post("/v1/systemone", body)
  assert status == 200
  expected = model.decide(
    clip,
    {
      "dog": YesNo("a dog barks"),
      "what": Choice("what", ("dog", "rain"), {"rain": "falls"}),
      "much": Rating("is", ("one", "two", "three")),
    },
  )
  answers = found["answers"]
  assert answers["dog"]["noul"] == pytest.approx(expected["dog"].probabilities[0], abs=1e-5)
  assert answers["what"]["choice"] == expected["what"].best
  assert list(answers["what"]["probabilities"].values()) == pytest.approx(
    expected["what"].probabilities, abs=1e-5
  )
  assert answers["much"]["score"] == pytest.approx(expected["much"].expected, abs=1e-4)
  assert answers["much"]["legend"] == {"0": "one", "1": "two", "2": "three"}
  renamed = {"zz": questions["what"], "aa": questions["dog"]}
  _, again = server.post("/v1/systemone", {**body, "questions": renamed})
  assert again["answers"] == {"zz": answers["what"], "aa": answers["dog"]}


def test_255_options_and_no_clip(server):
  options = {f"dog {i}": None for i in range(255)}
  body = {
    "model": "jev-latest",
    "state": "a dog barks",
    "questions": {"q": {"type": "choice", "criteria": options}},
  }
  status, found = server.post("/v1/systemone", body)
  probabilities = found["answers"]["q"]["probabilities"]
  assert status == 200 and list(probabilities) == list(options)
  assert sum(probabilities.values()) == pytest.approx(1)
  assert found["x_warnings"][0] == "no clip: silence is judged"


@pytest.mark.parametrize(
  ("body", "status"),
  [
    ([], 422),
    ({"model": "mellow", "state": "x"}, 422),
    ({"model": "mellow", "state": 3, "questions": {"q": {"type": "noul"}}}, 422),
    ({"model": "mellow", "state": "x", "questions": {}}, 422),
    ({"model": "mellow", "state": "x", "questions": {"q": {}}}, 422),
    ({"model": "mellow", "state": "x", "questions": {"q": {"type": "boolean"}}}, 422),
    (
      {"model": "mellow", "state": "x", "questions": {"q": {"type": "choice", "criteria": {}}}},
      422,
    ),
    ({"model": "mellow", "state": "x", "questions": {"q": {"type": "score", "criteria": {}}}}, 422),
    (
      {
        "model": "mellow",
        "state": "x",
        "questions": {"q": {"type": "score", "criteria": ["a", "a"]}},
      },
      422,
    ),
    ({"model": "other", "state": "x", "questions": {"q": {"type": "noul"}}}, 404),
    ({"model": "mellow", "state": {"audio": "abc"}, "questions": {"q": {"type": "noul"}}}, 400),
  ],
)
def test_wrong_decisions_are_refused_in_their_own_form(server, body, status):
  found, error = server.post("/v1/systemone", body)
  assert found == status
  detail = error["detail"]
  if status == 422:
    assert detail[0]["loc"][0] == "body" and detail[0]["msg"] and detail[0]["type"]
  else:
    assert set(detail) == {"error_type", "message"}


@pytest.mark.parametrize("kind", ["choice", "score"])
def test_options_that_no_model_reads_are_refused(server, kind):
  long, alike = "a" * 10_001, [f"{'rain ' * 8}one", f"{'rain ' * 8}two"]
  for texts, says in (([long, "b"], "10001 characters"), (alike, "are the same in the 8 tokens")):
    criteria = dict.fromkeys(texts) if kind == "choice" else texts
    questions = {"q": {"type": kind, "instructions": "what", "criteria": criteria}}
    body = {"model": "mellow", "state": "x", "questions": questions}
    status, error = server.post("/v1/systemone", body)
    assert status == 422, error
    assert error["detail"][0]["loc"] == ["body", "questions", "q"]
    assert says in error["detail"][0]["msg"]


def test_what_is_lost_of_options_is_told(server):
  criteria = {f"{'rain ' * 8}one": "a storm", "dog": None}
  questions = {"q": {"type": "choice", "instructions": "what", "criteria": criteria}}
  body = {"model": "mellow", "state": "x", "questions": questions}
  status, found = server.post("/v1/systemone", body)
  assert status == 200
  told = {warning.split(":")[0] for warning in found["x_warnings"]}
  assert {"option_cut", "descriptions_dropped"} <= told


# --- The rest ------------------------------------------------------------------------------------


def test_models_health_metrics_and_the_page(server):
  server.chat("a dog", wav())
  status, body, _ = server.send("GET", "/v1/models")
  models = json.loads(body)
  assert status == 200 and models["data"][0]["id"] == models["models"][0]["name"] == "mellow"
  status, body, _ = server.send("GET", "/v1/models/mellow")
  assert status == 200 and json.loads(body) == models["data"][0]
  status, body, _ = server.send("GET", "/v1/models/other/one")
  assert status == 404 and "there is no model 'other/one'" in json.loads(body)["error"]["message"]
  assert server.send("GET", "/health")[0] == 200
  text = server.send("GET", "/metrics")[1].decode()
  for name in (
    "mellow:num_requests_running 0.0",
    'mellow:request_success_total{finished_reason="',
    "mellow:time_to_first_token_seconds_bucket",
    "mellow:prefix_cache_hits_total",
  ):
    assert name in text
  status, page, headers = server.send("GET", "/")
  assert status == 200 and b"<html" in page and "access-control-allow-origin" not in headers


def test_a_key_is_asked_for(model):
  with serving(model, api_key="secret") as server:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
      status, body = server.post("/v1/chat/completions", chat("a dog", wav()), **headers)
      assert status == 401 and body["error"]["type"] == "authentication_error"
    status, body = server.post("/v1/systemone", {}, Authorization="Bearer wrong")
    assert status == 401 and body["detail"]["error_type"] == "authentication_error"
    key = {"Authorization": "Bearer secret"}
    assert server.post("/v1/chat/completions", chat("a dog", wav()), **key)[0] == 200


def test_until_the_model_is_there_requests_may_come_again(model):
  release = threading.Event()

  def load() -> Engine:
    release.wait()
    return Engine(model, slots=1, max_new_tokens=2)

  listener = socket.socket()
  listener.bind(("127.0.0.1", 0))
  config = uvicorn.Config(app_lib.create_app(load), log_level="error")
  uvicorn_server = uvicorn.Server(config)
  thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
  thread.start()
  server = Running(uvicorn_server, listener.getsockname()[1], None)
  while not uvicorn_server.started:
    time.sleep(0.02)
  status, _, headers = server.send("GET", "/health")
  assert status == 503 and headers["retry-after"]
  assert server.post("/v1/chat/completions", chat("a dog", wav()))[0] == 503
  release.set()
  while server.send("GET", "/health")[0] != 200:
    time.sleep(0.02)
  uvicorn_server.should_exit = True
  thread.join()


def test_no_request_makes_the_others_wait_for_a_compilation(tiny_config):
  encoder = dataclasses.replace(tiny_config.encoder, classes=527)  # AudioSet's, which have names
  cfg = dataclasses.replace(tiny_config, encoder=encoder, answer_tokens=40)
  named = Mellow(checkpoint.LoadedModel(tiny.params(cfg), cfg, "training", tiny.tokenizer()))
  data, compiled = f"data:audio/wav;base64,{encoded(wav(1))}", []
  with serving(named) as server:
    jax.monitoring.register_event_duration_secs_listener(
      lambda event, _, **__: compiled.append(event)
    )
    status, found = server.post("/v1/events", {"audio": data})
    assert status == 200 and len(found["events"]) == 8
    assert len(server.chat("a dog", wav(2), n=8, temperature=1.0)["choices"]) == 8
    for criteria in (MANY, {"rain " * 20: None, "dog": None}):
      questions = {"q": {"type": "choice", "criteria": criteria}}
      body = {"model": "mellow", "state": {"audio": data}, "questions": questions}
      assert server.post("/v1/systemone", body)[0] == 200
  assert not [event for event in compiled if "backend_compile" in event]


def test_a_model_that_cannot_be_loaded_ends_the_server_in_a_line(tiny_model_folder, tmp_path):
  folder = tmp_path / "damaged"
  shutil.copytree(tiny_model_folder, folder)
  for file in (path for path in (folder / "params").rglob("*") if path.is_file()):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  command = [sys.executable, "-m", "mellow_jax", "serve", f"--port={port}"]
  command += [f"--checkpoint={folder}"]
  done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
  assert done.returncode == 1 and "Traceback" not in done.stderr and "ready" not in done.stdout
  (line,) = (line for line in done.stderr.splitlines() if "error" in line or "could not" in line)
  assert line == done.stderr.splitlines()[-1] and line.startswith("error: ") and str(folder) in line


def test_an_engine_that_has_failed_is_not_ready(model, monkeypatch):
  def fails() -> None:
    raise RuntimeError("what nobody expected")

  with serving(model) as server:
    monkeypatch.setattr(server.engine, "_continue", fails)
    assert server.post("/v1/chat/completions", chat("what is heard", wav(4)))[0] == 500
    server.engine._thread.join(60)
    assert server.send("GET", "/health")[0] == 503
    status, body = server.post("/v1/chat/completions", chat("a dog", wav()))
    assert status == 503 and "restart the server" in body["error"]["message"]


# --- Hostile clients -----------------------------------------------------------------------------


def test_a_body_beyond_the_limit_is_refused_while_it_is_read(server):
  status, body, _ = server.send("POST", "/v1/chat/completions", b" " * 200_001)
  assert status == 413 and b"MiB" in body

  def endless() -> Iterator[bytes]:
    for _ in range(1000):
      yield b" " * 10_000

  connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
  with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is cut off while sending
    connection.request("POST", "/v1/chat/completions", endless(), encode_chunked=True)
  with contextlib.suppress(ConnectionError, http.client.BadStatusLine):
    assert connection.getresponse().status == 413
  connection.close()


def test_a_slow_sender_is_refused(server):
  with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
    slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert b" 408 " in slow.recv(1000)


def test_a_vanished_client_frees_its_row(server):
  body = json.dumps(chat("a dog", wav(), stream=True, temperature=2.0)).encode()
  head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
  for i in range(int(os.environ.get("MELLOW_VANISHING", "30"))):
    gone = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    gone.sendall(head.encode() + body)
    if i % 2:
      gone.recv(100)
    gone.close()
  deadline = time.monotonic() + 30
  while (server.engine.running or server.engine.waiting) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert server.engine.running == server.engine.waiting == 0
  server.chat("a dog", wav())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/systemone", "/v1/events"])
def test_a_client_that_goes_while_it_sends_is_no_error_of_the_server(server, path, caplog):
  before, errors = refusals(server, 499), refusals(server, 500)
  with socket.create_connection(("127.0.0.1", server.port), timeout=30) as gone:
    gone.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
  until(lambda: refusals(server, 499) + refusals(server, 500) > before + errors)
  assert (refusals(server, 499), refusals(server, 500)) == (before + 1, errors)
  assert "Traceback" not in caplog.text and "a request failed" not in caplog.text


MANY = {f"dog {i}": None for i in range(255)}
# By the route: a body that waits for the engine before any answer begins.
JOBS = {
  "/v1/events": {"audio": f"data:audio/wav;base64,{encoded(wav(1, 0.2))}"},
  "/v1/systemone": {
    "model": "mellow",
    "state": "x",
    "questions": {"q": {"type": "choice", "criteria": MANY}},
  },
}


@pytest.mark.parametrize("why", ["gone", "late"])
@pytest.mark.parametrize("path", JOBS)
def test_what_nobody_waits_for_is_not_begun(server, path, why, monkeypatch):
  service, engine = server.server.config.app.state.service, server.engine
  begun, holds, go = [], threading.Event(), threading.Event()
  monkeypatch.setattr(service, "timeline", lambda clip: begun.append(1) or {"events": []})
  monkeypatch.setattr(engine, "_options", lambda *_: begun.append(1) or np.zeros(16, np.float32))
  held = threading.Thread(target=engine.call, args=(lambda: holds.set() or go.wait(60),))
  held.start()
  assert holds.wait(60)
  body, before = json.dumps(JOBS[path]).encode(), refusals(server, 499)
  try:
    if why == "late":
      soon = dataclasses.replace(LIMITS, request_seconds=0.3)
      monkeypatch.setattr(service, "settings", dataclasses.replace(service.settings, limits=soon))
      assert server.send("POST", path, body)[0] == 503
    else:
      head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
      with socket.create_connection(("127.0.0.1", server.port), timeout=30) as gone:
        gone.sendall(head.encode() + body)
        until(lambda: engine.waiting == 1)
      until(lambda: refusals(server, 499) > before)
  finally:
    go.set()
    held.join()
  until(lambda: engine.waiting == 0)
  assert engine.call(lambda: "on") == "on" and not begun


def hostile(rng: random.Random) -> bytes:
  """A body as no client should send it."""
  good = json.dumps(chat("a dog barks", wav(rng.randrange(3), 0.2), max_tokens=2)).encode()
  kind = rng.randrange(7)
  if kind == 0:  # bytes changed anywhere
    broken = bytearray(good)
    for _ in range(rng.randrange(1, 20)):
      broken[rng.randrange(len(broken))] = rng.randrange(256)
    return bytes(broken)
  if kind == 1:
    return good[: rng.randrange(len(good))]
  if kind == 2:  # a file changed behind its base64
    data = bytearray(wav(1, 0.2))
    for _ in range(rng.randrange(1, 30)):
      data[rng.randrange(60 if rng.random() < 0.7 else len(data))] = rng.randrange(256)
    return json.dumps(chat("a dog", bytes(data), max_tokens=2)).encode()
  if kind == 3:
    return b"[" * rng.randrange(1, 100_000)
  if kind == 4:
    return rng.randbytes(rng.randrange(5000))
  if kind == 5:  # a value of another type somewhere
    value = chat("a dog", wav(1, 0.1))
    odd = [None, 1e308, -1, "x", [], {}, [[]], True, "9" * 1000]
    value[rng.choice([*value, "n", "seed", "stop", "stream", "top_p"])] = rng.choice(odd)
    return json.dumps(value).encode()
  return json.dumps(
    {"model": "mellow", "messages": [{"role": "user", "content": [{}] * 999}]}
  ).encode()


def resident() -> int:
  """Bytes of memory of this process, server and engine in it."""
  pages = int(Path("/proc/self/statm").read_text().split()[1])
  return pages * resource.getpagesize()


def test_hostile_bodies_get_no_5xx_and_the_next_good_one_its_answer(server):
  """Some of them: MELLOW_HOSTILE sets how many; docs/serving.md tells of 5,000."""
  rng, count = random.Random(0), int(os.environ.get("MELLOW_HOSTILE", "150"))
  server.chat("a dog", wav())
  before, statuses = resident(), collections.Counter()
  for _ in range(count):
    path = rng.choice(["/v1/chat/completions", "/v1/systemone"])
    status, body, _ = server.send("POST", path, hostile(rng))
    assert status < 500, body
    statuses[status] += 1
  assert server.chat("a dog", wav())["choices"]
  grown = (resident() - before) / 2**20
  print(dict(statuses), f"{grown:.0f} MiB more")
  assert grown < 150


def test_200_connections_at_once_are_answered_or_asked_to_come_again(server):
  body, statuses = json.dumps(chat("a dog", wav(1, 0.2), max_tokens=2)).encode(), []

  def ask() -> None:
    statuses.append(server.send("POST", "/v1/chat/completions", body)[0])

  threads = [threading.Thread(target=ask) for _ in range(200)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(statuses) == 200 and set(statuses) <= {200, 429} and 200 in statuses


def test_ctrl_c_while_the_model_is_loaded_ends_in_a_line(tiny_model_folder):
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  argv = [sys.executable, "-m", "mellow_jax", "serve", f"--port={port}"]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
  with subprocess.Popen([*argv, f"--checkpoint={tiny_model_folder}"], **pipes) as server:
    lines = iter(server.stdout.readline, "")
    assert any("loading" in line for line in lines)
    server.send_signal(signal.SIGINT)
    last = [*lines][-1]
  # A machine that is fast enough is ready before the signal comes.
  assert (server.returncode, last) in [(130, "error: stopped by Ctrl-C\n"), (0, last)]
