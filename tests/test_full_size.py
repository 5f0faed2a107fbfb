"""The demo and the paper's configuration at full size: a SIGKILL, and the same parameters.

`python -m pytest -m slow -s tests/test_full_size.py` on CPUs, `-m gpu` on an NVIDIA GPU.
"""

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
RIGHT = 0.9  # of multiple choice and of yes/no, after the demo

on_cpu = pytest.param("cpu", marks=pytest.mark.slow)
on_gpu = pytest.param("cuda,cpu", marks=pytest.mark.gpu)  # as launch/gpu.sh


def surroundings(platform, cache):
  """Those of a user's shell: the tests' own processes compile unoptimised."""
  return {**os.environ, "JAX_PLATFORMS": platform, "MELLOW_CACHE": str(cache), "XLA_FLAGS": ""}


def train(workdir, config, *flags):
  # Which GPUs need to give the same bits twice; CPUs do anyway.
  flags = (f"--config={config}", f"--workdir={workdir}", "--config.deterministic=true", *flags)
  return [sys.executable, "-m", "mellow_jax.train", *flags]


def last_step(workdir):
  """The newest step that a run wrote down whole."""
  path = workdir / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def kill_and_resume(command, workdir, env, step):
  """Runs a training command that dies once it has written down a step, and runs it again."""
  process = subprocess.Popen(command, cwd=ROOT, env=env)
  while process.poll() is None:
    if last_step(workdir) >= step:
      process.send_signal(signal.SIGKILL)
    time.sleep(0.05)
  assert process.wait() == -signal.SIGKILL
  print(f"killed after step {last_step(workdir)}", flush=True)
  subprocess.run(command, cwd=ROOT, env=env, check=True)


def digests(workdir):
  return json.loads((workdir / "model" / "config.json").read_text())["sha256"]


def assert_killed_run_ends_as_the_whole_one(folder, env, step, config, *flags):
  whole, killed = folder / "whole", folder / "killed"
  subprocess.run(train(whole, config, *flags), cwd=ROOT, env=env, check=True)
  kill_and_resume(train(killed, config, *flags), killed, env, step)
  assert digests(killed) == digests(whole)
  print(f"{len(digests(whole))} arrays are the same to the bit", flush=True)


ON_SCENES = """
import runpy

def get_config():
  cfg = runpy.run_path("configs/mellow.py")["get_config"]("random")
  cfg.data.source, cfg.data.mix = "scenes", {"caption": 0.5, "binary": 0.5}
  cfg.model.sep_id, cfg.model.end_id, cfg.model.pad_id = 0, 0, 1  # of the scenes' tokenizer
  return cfg
"""


def full_size(platform, request, folder):
  """Config and flags: real clips where the reference's data is; scenes go wherever a GPU is."""
  if platform != "cpu":
    path = folder / "on_scenes.py"
    path.write_text(ON_SCENES)
    return path, []
  reference_data = request.getfixturevalue("reference_data")
  rows = reference_data / "esc10"
  return "configs/mellow.py:random", [
    f"--config.data.train={rows / 'train.json'}",
    f"--config.data.val={rows / 'val.json'}",
    f"--config.data.audio_root={rows}",
    f"--config.data.tokenizer={reference_data / 'tokenizers' / 'smollm2'}",
  ]


@pytest.mark.parametrize("platform", [on_cpu, on_gpu])
def test_killed_and_resumed_at_full_size_bit_for_bit(platform, request, tmp_path):
  config, flags = full_size(platform, request, tmp_path)
  flags += ["--config.batch_size=4", "--config.steps=3", "--config.save_every=1"]
  flags += ["--config.eval_batches=0", "--config.sample_answers=0", "--config.log_every=1"]
  flags += ["--config.model.decoder.remat=true"]
  env = surroundings(platform, tmp_path / "cache")
  assert_killed_run_ends_as_the_whole_one(tmp_path, env, 2, config, *flags)
  assert len(digests(tmp_path / "whole")) == 457
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
  print(f"peak memory {peak:.1f} GiB")
  assert peak < MEMORY_GIB


@pytest.mark.parametrize("platform", [on_cpu, on_gpu])
def test_the_demo_killed_and_resumed_learns_to_listen(platform, tmp_path):
  env = surroundings(platform, tmp_path / "cache")
  assert_killed_run_ends_as_the_whole_one(tmp_path, env, 2600, "configs/demo.py")
  run, command = tmp_path / "killed", [sys.executable, "-m", "mellow_jax.evaluate"]
  predict = ["predict", f"--checkpoint={run / 'model'}", "--benchmark=scenes", f"--data={run}"]
  predict += ["--batch_size=50", "--max_new_tokens=22", f"--output={run / 'clips.jsonl'}"]
  score = ["score", f"--predictions={run / 'clips.jsonl'}", f"--output={run / 'score'}"]
  for arguments in (predict, score):
    subprocess.run([*command, *arguments], cwd=ROOT, env=env, check=True)
  found = json.loads((run / "score" / "report.json").read_text())["sections"]
  leading = {section["name"]: section["lines"][0]["value"] for section in found}
  assert leading["multiple choice"] >= 100 * RIGHT
  assert leading["yes/no"] >= 100 * RIGHT
