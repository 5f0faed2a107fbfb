"""Batches with bad clips end complete, however often they are killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Tables that are answered under kills; 100 of them were once, by MELLOW_KILLED_BATCHES=100.
TABLES = os.environ.get("MELLOW_KILLED_BATCHES")


def end_complete(folder: Path, model: str | Path, tables: str, seconds: str) -> None:
  program = Path(__file__).with_name("kill_batches.py")
  result = subprocess.run(
    [sys.executable, program, folder, model, tables, seconds],
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  assert result.stdout.startswith(f"{tables} tables, ") and "named as bad once" in result.stdout


def test_killed_at_random_they_end_complete(tmp_path):
  end_complete(tmp_path / "tables", "none", TABLES or "8", "0.05")


@pytest.mark.slow
def test_killed_at_random_they_end_complete_with_a_network(tiny_model_folder, tmp_path):
  end_complete(tmp_path / "tables", tiny_model_folder, TABLES or "3", "0.3")
