"""An OpenAI-compatible server on this machine that misbehaves as it is told, and counts.

What it writes about a caption follows from the caption alone. How it fails follows from the caption
and the number of the attempt: too many requests, an error, an answer cut off on the way, a dropped
connection, an answer that takes too long.
"""

import collections
import contextlib
import json
import os
import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import completion_styles

SLOW_S = 4.0
SLOW = (22, 62)  # numbers of captions
STYLES = list(completion_styles.all_completions())
FAULTS = ("429", "500", "503", "cut", "drop", "not json", "no choices")


def number_of(prompt):
  return int(re.search(r"sound number (\d+)", prompt)[1])


def write_captions(path, count, first=0):
  """A table of captions that the server knows how to write about."""
  rows = [f"clips/{i}.wav,A dog barks at sound number {i}" for i in range(first, first + count)]
  path.write_text("file,caption\n" + "\n".join(rows) + "\n")
  return path


def as_json(pairs, kind):
  """A reply that keeps to the schema of a request."""
  items = []
  for question, options, answer in pairs:
    fields = {"question": question, "answer": answer}
    if kind == "mcq":
      letter = "abcd"[options.index(answer)]
      fields = {"question": question, "options": list(options), "answer": letter}
    items.append(fields)
  return json.dumps({"questions": items})


def completion(number, kind, schema=None):
  """(what the model writes, why it ends) about a caption: every style, refusals, wrong letters.

  Of a request with a schema, every second reply keeps to it.
  """
  styles = [case for case in STYLES if case[0] == kind]
  _, _, text, found = styles[number * 7 % len(styles)]
  if schema and number % 2:
    text = as_json(found, kind)
  if number % 11 == 3:
    return "I'm sorry, but I cannot help with this audio.", "stop"
  if number % 11 == 5:
    return re.sub(r"(?i)(answer: *\**\(?)[a-d]\b", r"\1x", text), "stop"
  if number % 11 == 7:
    return text[: len(text) * 2 // 3], "length"
  if number % 11 == 9:
    return None, "stop"
  return text, "stop"


def scripted(number, attempt):
  """The fault of an attempt, from 1; "" where the caption is answered."""
  faults = [FAULTS[number // 3 % len(FAULTS)], FAULTS[number // 5 % 4]][
    : (0, 0, 1, 0, 2)[number % 5]
  ]
  if number in SLOW:  # a few will do: they cost the tests time
    faults = ["slow"]
  return faults[attempt - 1] if attempt <= len(faults) else ""


class ChatServer(ThreadingHTTPServer):
  """Counts requests by caption; `strike` kills a process after a number of further requests."""

  daemon_threads = True
  request_queue_size = 128  # a short queue drops connections, which no script asked for

  def __init__(self, kind, script=scripted, delay_s=0.01):
    super().__init__(("127.0.0.1", 0), Handler)
    self.kind, self.script, self.delay_s = kind, script, delay_s
    self.lock = threading.Lock()
    self.attempts = collections.Counter()  # by caption
    self.log = []  # {"caption", "life", "outcome", "key", "schema"} a request
    self.life = 0
    self.target = None  # (pid, signal, requests until it is sent)

  @property
  def url(self):
    return f"http://127.0.0.1:{self.server_address[1]}/v1"

  def strike(self, pid, requests, number=signal.SIGKILL):
    with self.lock:
      self.target = pid, number, requests

  def count(self, number, key, schema):
    """Notes a request; its entry in the log and the number of its attempt."""
    with self.lock:
      self.attempts[number] += 1
      entry = {"caption": number, "life": self.life, "outcome": "", "key": key, "schema": schema}
      self.log.append(entry)
      if self.target:
        pid, sent, left = self.target
        self.target = (pid, sent, left - 1) if left > 1 else None
        if left <= 1:
          os.kill(pid, sent)
      return entry, self.attempts[number]

  def answered(self):
    """How often each caption was answered in full."""
    return collections.Counter(e["caption"] for e in self.log if e["outcome"] == "answered")


class Handler(BaseHTTPRequestHandler):
  """One connection."""

  def log_message(self, *_):
    pass

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    server, number = self.server, number_of(body["messages"][0]["content"])
    self.schema = body.get("response_format")
    entry, attempt = server.count(number, self.headers.get("Authorization", ""), self.schema)
    time.sleep(server.delay_s)
    entry["outcome"] = fault = server.script(number, attempt)
    with contextlib.suppress(OSError):  # the client may be gone
      entry["outcome"] = getattr(self, f"do_{fault.replace(' ', '_')}", self.status)(number, fault)

  def send(self, status, value, headers=(), cut=None):
    text = (value if isinstance(value, str) else json.dumps(value)).encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(text)))
    for name, content in headers:
      self.send_header(name, content)
    self.end_headers()
    self.wfile.write(text[:cut])
    self.wfile.flush()

  def answer(self, number):
    text, reason = completion(number, self.server.kind, self.schema)
    if text and number % 3 == 0:
      text = [{"type": "text", "text": text}]
    choice = {
      "index": 0,
      "message": {"role": "assistant", "content": text},
      "finish_reason": reason,
    }
    usage = {"prompt_tokens": 300 + number, "completion_tokens": 50}
    return {"choices": [choice], **({"usage": usage} if number % 13 else {})}

  def do_(self, number, _):
    self.send(200, self.answer(number))
    return "answered"

  def do_cut(self, number, fault):
    self.send(200, self.answer(number), cut=40)
    return fault

  def do_drop(self, number, fault):
    self.connection.close()
    return fault

  def do_slow(self, number, fault):
    time.sleep(SLOW_S)
    self.do_(number, fault)
    return fault

  def do_not_json(self, number, fault):
    self.send(200, "<html>a proxy's page</html>")
    return fault

  def do_no_choices(self, number, fault):
    self.send(200, {"error": {"message": "overloaded"}})
    return fault

  def status(self, number, fault):
    status, _, said = fault.partition(" ")
    said = said.replace("{key}", self.headers.get("Authorization", ""))
    wait = [("Retry-After", "0.2")] if status == "429" else []
    self.send(int(status), {"error": {"message": said or "no"}}, wait)
    return fault


@contextlib.contextmanager
def serving(kind, **options):
  """A server that runs for as long as the block."""
  server = ChatServer(kind, **options)
  threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
  try:
    yield server
  finally:
    server.shutdown()
    server.server_close()
