"""The paper's configuration at full size: three steps, a SIGKILL, the same parameters."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MEMORY_GIB = 16


def command(workdir, reference_data):
  rows = reference_data / "esc10"
  return [
    *(sys.executable, "-m", "mellow_jax.train", "--config=configs/mellow.py:random"),
    f"--workdir={workdir}",
    f"--config.data.train={rows / 'train.json'}",
    f"--config.data.val={rows / 'val.json'}",
    f"--config.data.audio_root={rows}",
    f"--config.data.tokenizer={reference_data / 'tokenizers' / 'smollm2'}",
    *("--config.batch_size=4", "--config.steps=3", "--config.save_every=1"),
    "--config.model.decoder.remat=true",
    *("--config.eval_batches=0", "--config.sample_answers=0", "--config.log_every=1"),
  ]


def digests(workdir):
  return json.loads((workdir / "model" / "config.json").read_text())["sha256"]


@pytest.mark.slow
def test_killed_and_resumed_at_full_size_bit_for_bit(reference_data, tmp_path):
  # As a user runs it: the tests' own processes compile unoptimised.
  env = {**os.environ, "MELLOW_CACHE": str(tmp_path / "cache"), "XLA_FLAGS": ""}
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  subprocess.run(command(whole, reference_data), cwd=ROOT, env=env, check=True)
  process = subprocess.Popen(command(killed, reference_data), cwd=ROOT, env=env)
  metrics = killed / "metrics.jsonl"
  while process.poll() is None:
    if metrics.exists() and len(metrics.read_text().splitlines()) == 2:
      process.send_signal(signal.SIGKILL)
    time.sleep(0.05)
  assert process.wait() == -signal.SIGKILL
  subprocess.run(command(killed, reference_data), cwd=ROOT, env=env, check=True)
  assert digests(killed) == digests(whole)
  assert len(digests(whole)) == 457
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
  print(f"peak memory {peak:.1f} GiB")
  assert peak < MEMORY_GIB
