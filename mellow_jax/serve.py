"""Serves a model over HTTP: OpenAI's chat completions, typed decisions, and a page.

  mellow serve --checkpoint=runs/demo/model

Then open http://127.0.0.1:8000, or send requests as docs/serving.md shows. The server answers
/health with 503 until the model is loaded and compiled, and ends where that fails. SIGTERM and
Ctrl-C let it finish the requests that it has. It needs the extra `serve`: in the checkout,
pip install -e '.[serve]'.
"""

import contextlib
import errno
import functools
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mellow_jax import cli
from mellow_jax.errors import FlagsError, how_to_install

DRAIN_SECONDS = 60
NEEDED = ("starlette", "uvicorn", "prometheus_client", "orjson", "pybase64")  # the extra `serve`


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, flag_values=f)
  number = functools.partial(flags.DEFINE_integer, flag_values=f, lower_bound=1)
  cli.define_checkpoint(f)
  text("host", "127.0.0.1", "Address to listen at; 0.0.0.0 is every one of the machine.")
  number("port", 8000, "Port to listen at.", upper_bound=65_535)
  number("slots", 4, "Requests that are decoded at once.")
  number("max_new_tokens", 300, "Most tokens of an answer.")
  number("max_queue", 64, "Requests that may wait; more are refused with status 429.")
  number("cache_mib", 512, "Memory for clips that have been read.")
  text("name", None, "Name of the model for clients; by default mellow.")
  text("api_key", None, "Key that clients must send; by default $MELLOW_API_KEY, or none.")
  cli.define_preset(f)
  cli.define_device(f)
  return f


def _listen(host: str, port: int) -> socket.socket:
  """A socket that listens; raises FlagsError for an address that is taken or not to be had."""
  here = "give one of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
  try:
    family, *_, address = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))  # IPv4 first
    return socket.create_server(address[:2], family=family)
  except socket.gaierror as error:
    raise FlagsError(f"--host={host}: is no address ({error.strerror}): {here}") from None
  except OSError as error:
    match error.errno:
      case errno.EADDRINUSE:
        fault = f"--port={port}: another program listens there: end it, or give another port"
      case errno.EACCES | errno.EPERM:
        fault = f"--port={port}: may not be used by this user: give one from 1024 on"
      case errno.EADDRNOTAVAIL:
        fault = f"--host={host}: is no address of this machine: {here}"
      case _:
        fault = f"--host={host} --port={port}: {os.strerror(error.errno)}: give others"
    raise FlagsError(fault) from None


def _serve(f: flags.FlagValues) -> int:
  cli.require(f, "checkpoint")
  if not (Path(f.checkpoint) / "config.json").is_file():
    raise FlagsError(f"--checkpoint={f.checkpoint}: is no model folder")
  lacking = [n for n in NEEDED if not _has(n)]
  if lacking:
    raise FlagsError(f"{lacking[0]} is not installed: {how_to_install('serve')}")
  listener = _listen(f.host, f.port)  # before anything is loaded
  import uvicorn  # here, so that --help needs none of it

  from mellow_jax import parallel
  from mellow_jax.inference.api import Mellow
  from mellow_jax.inference.engine import Engine
  from mellow_jax.serving import app

  parallel.require_device(f.device)

  def load() -> Engine:
    model = Mellow.load(f.checkpoint, f.preset)
    model.warns = False  # responses do
    return Engine(
      model,
      slots=f.slots,
      max_new_tokens=f.max_new_tokens,
      max_queue=f.max_queue,
      cache_bytes=f.cache_mib * 2**20,
    )

  failures: list[Exception] = []

  def on_start(failure: Exception | None) -> None:
    if failure is None:
      print(f"ready: http://{f.host}:{f.port}", flush=True)
    else:  # a server without a model would never answer, and nothing would start it anew
      failures.append(failure)
      server.should_exit = True

  settings = app.ServerSettings(
    names=tuple(dict.fromkeys([f.name or "mellow", "mellow"])),
    api_key=f.api_key or os.environ.get("MELLOW_API_KEY", ""),
  )
  how = uvicorn.Config(
    app.create_app(load, settings, on_start),
    log_level="warning",
    server_header=False,
    timeout_graceful_shutdown=DRAIN_SECONDS,
    http="h11",  # httptools, which is taken where it is installed, has no limit of the headers
    h11_max_incomplete_event_size=32_768,
  )
  server = uvicorn.Server(how)
  with contextlib.suppress(KeyboardInterrupt):  # once all requests are finished
    server.run(sockets=[listener])
  if failures:
    raise failures[0]
  if {thread.name for thread in threading.enumerate()} & {"load", "engine"}:
    # Ctrl-C came while the model was loaded, or twice: an ordinary exit would abort within XLA.
    print("error: stopped by Ctrl-C", file=sys.stderr, flush=True)
    os._exit(130)
  return 0 if server.started else 1


def _has(name: str) -> bool:
  return importlib.util.find_spec(name) is not None


def main(argv: Sequence[str]) -> int:
  """The command; its exit status."""
  return cli.run(argv, _flags(), __doc__, _serve, example="--checkpoint=DIR")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
