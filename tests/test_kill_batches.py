"""Batches with bad clips end complete, however often they are killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Tables that are answered under kills; 100 of them were once, by MELLOW_KILLED_BATCHES=100.
TABLES = os.environ.get("MELLOW_KILLED_BATCHES", "3")


@pytest.mark.slow
def test_batches_with_bad_clips_that_are_killed_at_random_end_complete(
  tiny_model_folder, compile_cache, tmp_path
):
  program = Path(__file__).with_name("kill_batches.py")
  result = subprocess.run(
    [sys.executable, program, tmp_path / "tables", tiny_model_folder, TABLES, "0.3"],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, "MELLOW_CACHE": str(compile_cache)},
  )
  assert result.returncode == 0, result.stderr[-3000:]
  assert result.stdout.startswith(f"{TABLES} tables, ") and "named as bad once" in result.stdout
