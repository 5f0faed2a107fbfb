"""What the planner reads out of compiled programs; one compilation for a TPU, one for GPUs."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tiny

from mellow_jax import parallel, plan
from mellow_jax.errors import ConfigError
from mellow_jax.training import device_plan

ROOT = Path(__file__).parents[1]
GPU_COMPILER = parallel.has_gpu_plugin()
# Of programs that XLA compiled for v5e:2x4, shortened.
PROGRAM = """
  %all-reduce.1 = (f32[576,192]{0,1:T(8,128)}, f32[]{:T(128)}) all-reduce(%a, %b), channel_id=1
  %all-reduce-start = (bf16[64]{0}, bf16[8,2]{1,0}) all-reduce-start(%c, %d), channel_id=2
  %all-reduce-done = (bf16[64]{0}, bf16[8,2]{1,0}) all-reduce-done(%all-reduce-start)
  %ag = (s32[8]{0}, s32[64]{0}) all-gather-start(%e), channel_id=3, dimensions={0}
  %fusion = f32[8]{0} fusion(%all-reduce.1), kind=kLoop, calls=%fused
  %rs = bf16[4,4]{1,0} reduce-scatter(%f), channel_id=4
"""


def command(*arguments, seconds=60):
  return subprocess.run(
    [sys.executable, "-m", "mellow_jax.plan", *arguments],
    capture_output=True,
    text=True,
    timeout=seconds,
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
  )


def test_collectives_are_counted_with_their_bytes():
  found = device_plan.collectives(PROGRAM)
  assert found == [
    {"kind": "all-reduce", "tensors": 2, "bytes": {"f32": 4 * (576 * 192 + 1)}},
    {"kind": "all-reduce", "tensors": 2, "bytes": {"bf16": 2 * (64 + 16)}},
    {"kind": "all-gather", "tensors": 1, "bytes": {"s32": 4 * 64}},
    {"kind": "reduce-scatter", "tensors": 1, "bytes": {"bf16": 2 * 16}},
  ]
  text = device_plan.summary(found)
  assert text.startswith("2 all-reduce bf16 0.0 MB f32 0.4 MB, 1 all-gather s32 0.0 MB")
  assert device_plan.summary([]) == "none"


@pytest.mark.parametrize(
  ("generation", "axes", "milliseconds"),
  [
    # 270 MB over two rings of 90 GB/s, three and two of 180 GB/s.
    ("v5e", (16, 16), 3.0),
    ("v5p", (4, 8, 8), 1.0),
    ("v6e", (16, 16), 1.5),
    ("v5e", (2, 4), 6.0),  # no rings
    ("v5e", (16, 4), 4.0),  # one
    ("v5e", (1, 1), 0.0),
    ("h200", (8,), 1.2),  # 450 GB/s to the switch
    ("h200", (1,), 0.0),
  ],
)
def test_the_time_of_an_all_reduce(generation, axes, milliseconds):
  chip = (device_plan.CHIPS | device_plan.GPUS)[generation]
  found = device_plan.all_reduce_seconds(270_000_000, chip, axes)
  assert 1e3 * found == pytest.approx(milliseconds)


@pytest.mark.parametrize(
  ("topology", "batch_per_chip", "utilisation", "message"),
  [
    ("v9:2x4", 8, 0.5, "--topology=v9:2x4: use GENERATION:AxB or AxBxC"),
    ("v5e:16", 8, 0.5, "--topology=v5e:16: use GENERATION:AxB or AxBxC"),
    ("h200:9", 8, 0.5, "or up to 8 GPUs of a machine, such as h200:8; h100, h200"),
    ("v5e:2x4", 0, 0.5, "--batch_per_chip must be at least 1"),
    ("v5e:2x4", 8, 1.1, "--utilisation above 0 and at most 1"),
  ],
)
def test_what_cannot_be_planned_is_an_error(topology, batch_per_chip, utilisation, message):
  with pytest.raises(ConfigError, match=message) as caught:
    device_plan.plan(tiny.run(), topology, batch_per_chip, utilisation, print)
  assert "\n" not in str(caught.value)


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is not None, reason="the TPU compiler is here"
)
def test_without_the_tpu_compiler_a_line_says_how_to_get_it():
  found = command("--config=configs/mellow.py", "--topology=v5e:2x4")
  assert (found.returncode, found.stdout) == (1, "")
  *waiting, last = found.stderr.splitlines()
  assert last == "error: the TPU compiler is missing: in the checkout, pip install -e '.[tpu]'"
  assert set(waiting) <= {"compiling ..."}  # where the start takes more than a second


@pytest.mark.skipif(GPU_COMPILER, reason="the GPU compiler is here")
def test_without_the_gpu_compiler_a_line_says_how_to_get_it():
  says = r"the GPU compiler is missing: in the checkout, pip install -e '\.\[cuda\]'"
  with pytest.raises(ConfigError, match=says):
    device_plan.load_topology("h200:8")


def test_the_plan_is_of_the_model_of_the_folder_that_a_run_adopts(
  tiny_model_folder, tiny_config, tmp_path, monkeypatch, capsys
):
  def planned(cfg, *_):
    return {"width": cfg.model.encoder.width, "answer_tokens": cfg.model.answer_tokens}

  monkeypatch.setattr(device_plan, "plan", planned)
  folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
  shutil.rmtree(folder / "params")  # a plan needs no weights
  words = ["mellow plan", "--config=finetune", "--topology=v5e:2x4", "--json"]
  asked = [*words, f"--config.init_from={folder}", "--config.model.answer_tokens=9"]
  assert plan.main(asked) == 0
  found = json.loads(capsys.readouterr().out)
  assert found == {"width": tiny_config.encoder.width, "answer_tokens": 9}
  assert plan.main([*words, f"--config.init_from={tmp_path}/absent"]) == 1
  line = capsys.readouterr().err.splitlines()[-1]
  assert line.startswith(f"error: {tmp_path}/absent: there is no such folder")


def test_what_does_not_fit_is_compiled_again_with_recomputation(monkeypatch):
  """Of GPUs no compiler says so; here a CPU stands for a chip with a byte of memory."""
  chip = device_plan.Chip(flops=1e12, memory=1, memory_rate=1e9, link_rate=1e9, ring=1)
  found = (chip, (1,), jax.devices()[:1])
  monkeypatch.setattr(device_plan, "load_topology", lambda topology: found)

  def plan(**fields):
    said, cfg = [], tiny.run(**fields)
    assert not device_plan.plan(cfg, "h200:1", 1, 0.5, said.append)["fits"]
    return "it does not fit: compiling it with config.model.decoder.remat" in said, cfg

  again, cfg = plan(auto_remat=True)
  assert again and cfg.model.decoder.remat
  again, cfg = plan()
  assert not again and not cfg.model.decoder.remat


@pytest.mark.tpu_aot
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="no TPU compiler: pip install -e '.[tpu]'",
)
def test_a_small_run_is_compiled_for_a_tpu(run_config):
  found = command(f"--config={run_config}", "--topology=v5e:2x4", "--json", seconds=600)
  assert found.returncode == 0, found.stderr
  made = json.loads(found.stdout)
  assert (made["chips"], made["mesh"]) == (8, {"data": 8, "fsdp": 1})
  assert made["fits"]
  # One sum over the devices is all that they tell each other.
  (collective,) = made["train"]["collectives"]
  assert collective["kind"] == "all-reduce"
  assert made["train"]["flops"] > made["answer"]["flops"] > 0
  assert 0 < made["efficiency_of_computing_alone"] <= made["efficiency"] < 1


@pytest.mark.gpu_aot
@pytest.mark.skipif(not GPU_COMPILER, reason="no GPU compiler: pip install -e '.[cuda]'")
def test_a_small_run_is_compiled_for_gpus(run_config):
  """The decoder of SmolLM2's heads, in bfloat16: cuDNN's attention is part of what is compiled."""
  heads = "--config.model.decoder.head_size=64"
  flags = [f"--config={run_config}", heads, "--config.model.dtype=bfloat16", "--topology=h200:2"]
  found = command(*flags, "--json", seconds=600)
  assert found.returncode == 0, found.stderr
  made = json.loads(found.stdout)
  assert (made["chips"], made["mesh"], made["fits"]) == (2, {"data": 2, "fsdp": 1}, True)
  assert {each["kind"] for each in made["train"]["collectives"]} == {"all-reduce"}
  assert made["train"]["flops"] > made["answer"]["flops"] > 0
  assert made["train"]["operations"] > 100 and made["step_seconds"] > 0
