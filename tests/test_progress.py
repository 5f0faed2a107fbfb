"""Whoever waits is told what is being done, and a quick command says nothing."""

import io
import itertools
import sys
import time
from pathlib import Path

import pytest
import test_help

from mellow_jax import __main__, cli, progress


def test_a_long_block_is_named_soon_and_then_again_and_again(monkeypatch):
  monkeypatch.setattr(progress, "FIRST_S", 0.05)
  monkeypatch.setattr(progress, "EVERY_S", 0.1)
  said, start = [], time.monotonic()
  with progress.stage("counting", lambda line: said.append((line, time.monotonic() - start))):
    time.sleep(0.6)
  lines, times = zip(*said, strict=True)
  assert lines[0] == "counting ..." and all(line.endswith(" s") for line in lines[1:])
  assert len(lines) >= 3
  assert max(b - a for a, b in itertools.pairwise((0, *times))) < 0.4
  time.sleep(0.2)
  assert len(said) == len(lines)  # and no more once it is done


def test_a_quick_block_says_nothing(capsys):
  with progress.stage("counting"):
    pass
  assert capsys.readouterr() == ("", "")


def test_the_first_word_comes_within_two_seconds_and_each_next_one_within_ten():
  assert progress.FIRST_S < 2 and progress.EVERY_S < 10


@pytest.mark.parametrize("waits_for", ["scoring", None])
def test_a_command_that_names_its_stage_is_never_silent(monkeypatch, waits_for):
  monkeypatch.setattr(progress, "FIRST_S", 0.02)
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  do = lambda f: time.sleep(0.2)  # noqa: E731
  how = {"example": "", "waits_for": waits_for}
  assert cli.run(["mellow x"], cli.flag_values(), "Doc.", do, **how) == 0
  assert sys.stderr.getvalue().startswith("scoring ...") == (waits_for is not None)


def test_of_two_stages_the_inner_one_speaks(monkeypatch):
  monkeypatch.setattr(progress, "FIRST_S", 0.05)
  monkeypatch.setattr(progress, "EVERY_S", 0.1)
  said = []
  with progress.stage("outer", said.append), progress.stage("inner", said.append):
    time.sleep(0.4)
    inner = len(said)
  assert inner >= 3 and said[0].endswith(" ...")
  assert {line for line in said if line.startswith("outer")} <= {"outer ..."}


def test_the_clock_of_a_bar_goes_on_while_a_step_takes_long(monkeypatch):
  monkeypatch.setattr(progress, "FIRST_S", 0.05)
  monkeypatch.setattr(progress, "EVERY_S", 0.1)
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  said = []
  with progress.stage("outer", said.append):
    for _ in progress.Bar(range(2), "rows"):
      drawn = len(sys.stderr.getvalue())
      time.sleep(0.4)
      assert len(sys.stderr.getvalue()) > drawn
  assert said == [] and not progress._open


# What keeps commands from being silent, by the file of the package that has it, where it is not the
# line that cli.run prints.
OWN = {
  "train": ("train.py", 'print("loading JAX"'),  # then training/loop.py: stages and steps
  "generate": ("generate.py", "progress.stage("),
  "evaluate predict": ("evaluation/commands/predict.py", "progress.stage("),
  "inspect": ("inspect.py", "progress.stage("),
  "ablate": ("ablate.py", "of {len(chosen)}"),  # then those of train, predict and score
  "serve": ("serve.py", 'print(f"ready'),
  "evaluate": None,  # of these two each command has its own
  "reasonaqa": None,
}


@pytest.mark.parametrize("command", [name for name in test_help.commands() if name])
def test_every_command_has_a_word_for_whoever_waits(command, monkeypatch, capsys):
  told = {}
  monkeypatch.setattr(cli, "run", lambda *_, **how: told.update(how) or 0)
  if command in OWN:
    if OWN[command]:
      file, text = OWN[command]
      assert text in (Path(cli.__file__).parent / file).read_text()
    return
  assert __main__.main(["mellow", *command.split(), "--help"]) == 0
  assert told["waits_for"], f"{command}: give cli.run waits_for, or list it in OWN"
