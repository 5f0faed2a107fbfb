"""A run that is killed again and again ends as one that was left in peace."""

import argparse
import signal

import audio_rows
import kill_and_resume
import pytest


@pytest.fixture
def options(run_config, compile_cache):
  def make(**changes):
    fields = {"kills": 1, "signal": signal.SIGKILL, "workers": 0, "processes": 1, "seed": 0}
    fields |= {"sources": None, "savings": None}
    return argparse.Namespace(config=run_config, cache=compile_cache, **fields | changes)

  return make


@pytest.mark.slow
def test_ten_kills_leave_no_trace(options, tmp_path):
  tally = kill_and_resume.survive(
    tmp_path, options(kills=10)
  )  # an error shows the options and the seed
  assert tally.strikes == 10 and tally.in_save >= 5


@pytest.mark.slow
def test_of_two_processes_one_is_signalled_and_both_stop_at_the_same_step(options, tmp_path):
  tally = kill_and_resume.survive(tmp_path, options(signal=signal.SIGTERM, processes=2))
  assert tally.slowest_stop < kill_and_resume.STOP_SECONDS


@pytest.mark.slow
def test_each_life_may_read_the_same_rows_from_another_kind_of_source(options, tmp_path):
  sources = audio_rows.write_all(tmp_path / "heard")
  assert kill_and_resume.survive(tmp_path, options(kills=6, sources=sources)).strikes == 6


@pytest.mark.slow
def test_lengths_of_answers_and_kept_features_resume_bit_for_bit(
  options, tmp_path, run_config, compile_cache
):
  savings = kill_and_resume.write_savings(tmp_path / "heard", run_config, compile_cache)
  assert kill_and_resume.survive(tmp_path, options(kills=4, savings=savings)).strikes == 4
