"""--help of every command: at once, since nothing heavy is imported, and on one screen."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mellow_jax import __main__, evaluate
from mellow_jax.reasonaqa import __main__ as reasonaqa

ROOT = Path(__file__).parents[1]
LINES = 40
BENCHMARKS = ["__main__", "accelerator", "check", "decode", "encoder", "pipeline", "sources"]
BENCHMARKS += ["startup", "train"]
HEAVY = "flax grain jax librosa matplotlib orbax pandas scipy sklearn tensorflow torch transformers"


def commands():
  """The words of every command and subcommand, read from what the commands list themselves."""
  names = re.findall(r"^  mellow (\w+)  ", __main__.__doc__, re.MULTILINE)
  assert len(names) >= 8
  inner = [f"evaluate {n}" for n in re.findall(r"^  mellow evaluate (\w+)", evaluate.__doc__, 8)]
  inner += [
    f"reasonaqa {n}" for n in re.findall(r"^  mellow reasonaqa (\w+)", reasonaqa.__doc__, 8)
  ]
  assert len(inner) >= 11
  return ["", *names, *inner]


@pytest.mark.parametrize("command", commands())
def test_help_imports_nothing_heavy_and_fits_a_screen(command):
  code = (
    "import sys; from mellow_jax.__main__ import main; status = main(['mellow', *sys.argv[1:]]);"
    f"print(*set({HEAVY.split()}).intersection(sys.modules), file=sys.stderr); sys.exit(status)"
  )
  argv = [sys.executable, "-c", code, *command.split(), "--help"]
  done = subprocess.run(argv, capture_output=True, text=True, check=True)
  assert done.stderr.split() == []
  lines = done.stdout.splitlines()
  assert 5 < len(lines) <= LINES and max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_of_a_benchmark_needs_no_pytorch(name):
  code = (
    "import sys, runpy; sys.modules['torch'] = None; sys.argv = ['x', '--help'];"
    f"runpy.run_module('benchmarks.{name}', run_name='__main__')"
  )
  argv = [sys.executable, "-c", code]
  done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.startswith("usage: ")
