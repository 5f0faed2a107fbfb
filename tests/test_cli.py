"""One line for what the caller can mend, for Ctrl-C, and for a reader of stdout that has gone."""

import os
import subprocess
import sys

import pytest

from mellow_jax import cli


@pytest.mark.parametrize(
  ("flag", "line"),
  [
    ("--config.stepz=3", "unknown config field --config.stepz: mellow_jax/config.py lists"),
    ("--config.optim.rate=3", "unknown config field --config.optim.rate: mellow_jax/config.py"),
    ("--bogus", "Unknown command line flag 'bogus'; --help lists the flags"),
    ("word", "'word' is no flag: write --config=NAME"),
  ],
)
def test_a_wrong_flag_is_named_with_a_remedy(capsys, flag, line):
  f, argv = cli.flag_values(), ["mellow x", "--config=demo", flag]
  cli.define_config(f, argv)
  assert cli.run(argv, f, "Doc.", lambda f: 0, example="--config=NAME") == 1
  assert capsys.readouterr().err.startswith(f"error: {line}")


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("x =", "mend the file: SyntaxError: invalid syntax"),
    ("x = 1", "mend the file: AttributeError: "),
    ("def get_config(): return int('y')", "mend the file: ValueError: invalid literal"),
  ],
)
def test_a_broken_config_file_is_told_in_one_line(tmp_path, capsys, monkeypatch, text, line):
  monkeypatch.delitem(sys.modules, "config_config", raising=False)  # loaded by another test
  path = tmp_path / "own.py"
  path.write_text(text)
  assert _read_config(str(path)) == 1
  assert capsys.readouterr().err.startswith(f"error: flag --config={path}: {line}")


@pytest.mark.parametrize("name", ["finetune", "mellow", "esc10", "ablations"])
def test_an_unknown_argument_of_a_config_is_refused(capsys, name):
  assert _read_config(f"{name}:nope") == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"error: flag --config={name}:nope: {name}:nope: ")


def _read_config(value):
  f, argv = cli.flag_values(), ["mellow x", f"--config={value}"]
  cli.define_config(f, argv)
  return cli.run(argv, f, "Doc.", lambda f: 0, example="--config=NAME")


def test_ctrl_c_ends_in_a_line(capsys):
  def interrupted(f):
    raise KeyboardInterrupt

  with pytest.raises(SystemExit, match="130"):
    cli.run(["mellow x"], cli.flag_values(), "Doc.", interrupted, example="--config=NAME")
  assert capsys.readouterr().err == "error: stopped by Ctrl-C\n"


def test_a_stdout_that_nobody_reads_ends_in_a_line():
  reader, writer = os.pipe()
  os.close(reader)
  command = [sys.executable, "-m", "mellow_jax", "--help"]
  done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
  os.close(writer)
  assert done.returncode == 1
  assert done.stderr == "error: the output was closed before its end\n"
