"""Whoever waits is told what is being done, and a quick command says nothing."""

import io
import itertools
import sys
import time

import pytest

from mellow_jax import cli, progress


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
