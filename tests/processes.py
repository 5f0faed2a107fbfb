"""Programs in processes of their own: the number of devices and the end of a run are theirs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import compiling

TESTS = Path(__file__).parent


def free_port():
  """A port of this machine on which nobody listens."""
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


def start(arguments, cache, devices=1, log=None):
  """Starts Python with a number of CPU devices; cache is the folder of compiled programs.

  What it writes can be read from the process, or goes to a log file.
  """
  flags = f"--xla_force_host_platform_device_count={devices} {compiling.flags()}"
  out = log.open("w") if log else subprocess.PIPE
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "MELLOW_CACHE": str(cache),
      "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
      "XLA_FLAGS": flags,
    },
    stdout=out,
    stderr=subprocess.STDOUT if log else subprocess.PIPE,
    text=True,
  )


def finish(*processes, seconds=300):
  """What each process wrote to stdout; all must end well."""
  try:
    outputs = [process.communicate(timeout=seconds) for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, (out, err) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, out + err
  return [out for out, _ in outputs]


def train(workdir, config, cache, *flags, devices=1, log=None):
  """Starts the training command on a config file."""
  module = ["-m", "mellow_jax.train", f"--config={config}", f"--workdir={workdir}"]
  return start([*module, *flags], cache, devices, log)
