"""Plan of a run for a TPU slice or GPUs: compile its programs ahead of time, predict a step's time.

The compilers, from the extras `tpu` and `cuda`, need no TPU and no GPU. Slices are named as by
Google Cloud, v5e:2x4, v5e:16x16, v5p:4x4x4, v6e:16x16; GPUs of one machine by their number, h200:8.
"""

import importlib.util
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.stages import Compiled

from mellow_jax import config, parallel
from mellow_jax.config import Config
from mellow_jax.errors import ConfigError, how_to_install
from mellow_jax.training import program_costs, programs


class Chip(NamedTuple):
  """One chip of a TPU generation, or one GPU."""

  flops: float  # FLOP/s in bfloat16
  memory: float  # bytes of HBM
  memory_rate: float  # bytes/s of HBM
  link_rate: float  # bytes/s along one axis of the torus, both directions together
  ring: int  # an axis whose number of chips divides by this closes to a ring


# Sources: cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e ("System architecture"); link rates
# and the lengths of rings: jax-ml.github.io/scaling-book/tpus, table "TPU specs".
CHIPS = {
  "v4": Chip(275e12, 32 * 2**30, 1228e9, 90e9, 4),
  "v5e": Chip(197e12, 16 * 2**30, 819e9, 90e9, 16),
  "v5p": Chip(459e12, 95 * 2**30, 2765e9, 180e9, 4),
  "v6e": Chip(918e12, 32 * 2**30, 1640e9, 180e9, 16),
}
# Sources: NVIDIA's data sheets H100 and H200, of SXM boards and without sparsity. In an all-reduce
# the links of a GPU to the switch carry its bytes in one direction, those of the sum in the other.
GPUS = {
  "h100": Chip(989e12, 80e9, 3350e9, 450e9, 1),
  "h200": Chip(989e12, 141e9, 4800e9, 450e9, 1),
}
# What XLA asks about a GPU: both are of compute capability 9.0, with 132 multiprocessors.
HOPPER = """
platform_name: "CUDA"
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_core: 233472 shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448 l2_cache_size: 52428800
  memory_bandwidth: {rate:.0f} device_memory_size: {memory:.0f}
}}
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "NVIDIA {name}"
"""
# Which of Triton's products is the fastest is found out on a GPU alone; cuBLAS needs no choice.
OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}}
# libtpu reads these on a TPU host. Here there is none, and several processes may load it.
HOST_VARIABLES = {
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def collectives(program: str) -> list[dict[str, Any]]:
  """Kind, number of tensors and bytes by type of each collective in a compiled program's text."""
  found = []
  # Asynchronous collectives are two operations, of which the start has the shapes.
  for shapes, kind, start in re.findall(rf" = (.*?) ({KINDS})(-start)?\(", program):
    tensors = re.findall(r"\b[a-z]+\d*\[[\d,]*\]", shapes)
    if start and kind != "all-reduce":
      tensors = tensors[len(tensors) // 2 :]  # the first half are the operands
    sizes = program_costs.sizes(" ".join(tensors))
    found.append({"kind": kind, "tensors": len(tensors), "bytes": sizes})
  return found


def all_reduce_seconds(size: int, chip: Chip, axes: tuple[int, ...]) -> float:
  """Lower bound of the time of an all-reduce of `size` bytes over all chips.

  Twice the bytes over the links of all axes: both directions of an axis that closes to a ring, one
  direction of any other. Latency, about 1 us a hop, is neglected.

  Source: jax-ml.github.io/scaling-book/sharding, "AllReduce".
  """
  rate = sum(chip.link_rate if n % chip.ring == 0 else chip.link_rate / 2 for n in axes if n > 1)
  return 2 * size / rate if rate else 0.0


def analyse(program: Callable, platform: str, *arguments: Any) -> dict[str, Any]:
  """Compiles a jitted function; its memory, arithmetic and collectives on one chip.

  platform: JAX's name of what is compiled for, "tpu" or "gpu".

  Raises ConfigError where the program needs more memory than a chip has.
  """
  began = time.monotonic()
  try:
    traced = program.trace(*arguments)
    compiled: Compiled = traced.lower().compile(OPTIONS.get(platform))
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    used = re.search(r"Used \S+ of \S+ hbm", str(error))
    raise ConfigError(
      f"does not fit the memory of a chip ({used[0] if used else str(error).splitlines()[0]}): "
      "lower --batch_per_chip, or set --config.auto_remat=true"
    ) from error
  parts, text = programs.memory(compiled), compiled.as_text()
  return {
    "compile_seconds": round(time.monotonic() - began, 1),
    "memory": {**parts, "total": sum(parts.values())},
    "flops": program_costs.flops(traced.jaxpr),
    "memory_traffic": program_costs.traffic(text),
    # As the TPU's compiler counts it: also on the chip, and the body of a loop once.
    "compilers_traffic": (compiled.cost_analysis() or {}).get("bytes accessed"),
    "operations": program_costs.operations(text),
    "collectives": collectives(text),
  }


def plan(
  cfg: Config, topology: str, batch_per_chip: int, utilisation: float, log: Callable[[str], None]
) -> dict[str, Any]:
  """Compiles a run's programs for a topology and predicts the time of its step.

  utilisation is the assumed share of the peak FLOP/s, in (0, 1]. Raises ConfigError for what cannot
  be planned.
  """
  if batch_per_chip < 1 or not 0 < utilisation <= 1:
    raise ConfigError("--batch_per_chip must be at least 1, --utilisation above 0 and at most 1")
  chip, axes, devices = load_topology(topology)
  cfg.batch_size = batch_per_chip * len(devices)
  config.validate(cfg, devices=len(devices), reads_data=False)
  if cfg.model.dtype == "auto":
    cfg.model.dtype = "bfloat16"  # as "auto" is there; the compiling host is a CPU
  mesh, platform = parallel.make_mesh(cfg.mesh, devices), devices[0].platform
  compiled = programs.make(cfg, mesh)
  batch = programs.abstract_batch(cfg, cfg.data.share_prefix)
  state = compiled.abstract
  log(f"{topology}: {len(devices)} x {devices[0].device_kind}, mesh {dict(mesh.shape)}")
  log(f"compiling the training step for {topology}, some minutes on two cores")
  may_recompute = cfg.auto_remat and not cfg.model.decoder.remat
  try:
    train = analyse(compiled.train_step, platform, state, batch)
    # Of the compilers, the TPU's alone refuses what does not fit.
    recompute = may_recompute and train["memory"]["total"] > chip.memory
  except ConfigError:
    if not may_recompute:
      raise
    recompute = True
  if recompute:
    log("it does not fit: compiling it with config.model.decoder.remat")
    cfg.model.decoder.remat = True
    compiled = programs.make(cfg, mesh)
    train = analyse(compiled.train_step, platform, state, batch)
  log(f"compiling the decoding of a batch for {topology}")
  answers = analyse(compiled.answer, platform, state, programs.abstract_batch(cfg))
  answers["flops"] /= len(devices)  # traced for all of them, a training step for each
  found = {
    "topology": topology,
    "chips": len(devices),
    "mesh": dict(mesh.shape),
    "batch_per_chip": batch_per_chip,
    "memory_of_a_chip": chip.memory,
    "fits": max(p["memory"]["total"] for p in (train, answers)) <= chip.memory,
    "gradient_bytes": sum(x.size * x.dtype.itemsize for x in state.trainable.values()),
    "train": train,
    "answer": answers,
  }
  if mesh.shape["fsdp"] > 1:
    return found  # the time of gathering parameters in each step is not modelled
  return found | predict(train, chip, axes, utilisation)


def load_topology(topology: str) -> tuple[Chip, tuple[int, ...], Sequence[jax.Device]]:
  """(chip, chips along each axis, devices to compile for) of a topology: v5e:16x16, h200:8.

  Raises ConfigError for an unknown topology, and where its compiler is not installed.
  """
  name, _, size = topology.partition(":")
  if name in GPUS and re.fullmatch(r"[1-8]", size):
    return GPUS[name], (int(size),), _gpus(name, int(size))
  if name not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", size):
    known = ", ".join(CHIPS)
    raise ConfigError(
      f"--topology={topology}: use GENERATION:AxB or AxBxC, such as v5e:2x4; {known}; "
      f"or up to 8 GPUs of a machine, such as h200:8; {', '.join(GPUS)}"
    )
  if importlib.util.find_spec("libtpu") is None:
    raise ConfigError(f"the TPU compiler is missing: {how_to_install('tpu')}")
  os.environ.update(HOST_VARIABLES)
  try:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  except jax.errors.JaxRuntimeError as error:
    raise ConfigError(f"--topology={topology}: {str(error).splitlines()[0]}") from error
  return CHIPS[name], tuple(map(int, size.split("x"))), devices


def _gpus(name: str, count: int) -> Sequence[jax.Device]:
  """GPUs of one machine, to compile for."""
  if not parallel.has_gpu_plugin():
    raise ConfigError(f"the GPU compiler is missing: {how_to_install('cuda')}")
  chip = GPUS[name]
  target = HOPPER.format(rate=chip.memory_rate, memory=chip.memory, name=name.upper())
  asked = {"topology": f"1x1x{count}", "target_config": target}
  return topologies.get_topology_desc(platform="cuda", **asked).devices


def predict(
  train: dict[str, Any], chip: Chip, axes: tuple[int, ...], utilisation: float
) -> dict[str, Any]:
  """Predicted time of a training step: the longer of compute and memory, plus the all-reduce."""
  reduced = sum(sum(collective["bytes"].values()) for collective in train["collectives"])
  compute = train["flops"] / (chip.flops * utilisation)
  traffic = train["memory_traffic"] / chip.memory_rate
  communication = all_reduce_seconds(reduced, chip, axes)

  def efficiency(alone: float) -> float:
    return alone / (alone + communication)

  return {
    "utilisation": utilisation,
    "compute_seconds": compute,
    "memory_seconds": traffic,
    "all_reduce_bytes": reduced,
    "all_reduce_seconds": communication,
    "step_seconds": max(compute, traffic) + communication,
    "efficiency": efficiency(max(compute, traffic)),
    # If memory traffic cost no time, the all-reduce would be a larger part of the step.
    "efficiency_of_computing_alone": efficiency(compute),
  }


def summary(collectives: list[dict[str, Any]]) -> str:
  """Number and bytes of each kind of collective in a line."""
  kinds: dict[str, list[dict[str, int]]] = {}
  for found in collectives:
    kinds.setdefault(found["kind"], []).append(found["bytes"])
  lines = []
  for kind, sizes in kinds.items():
    types = {item for size in sizes for item in size}
    megabytes = {t: sum(size.get(t, 0) for size in sizes) / 1e6 for t in sorted(types)}
    lines.append(
      f"{len(sizes)} {kind} " + " ".join(f"{t} {m:.1f} MB" for t, m in megabytes.items())
    )
  return ", ".join(lines) or "none"


def table(found: dict[str, Any]) -> str:
  """A plan as text."""
  rows = [("of a chip", "training step", "answers to a batch")]
  both = (found["train"], found["answer"])
  for name in both[0]["memory"]:
    rows.append((f"memory, {name}", *(f"{p['memory'][name] / 2**30:.2f} GiB" for p in both)))
  rows.append(("arithmetic", *(f"{p['flops'] / 1e12:.2f} TFLOP" for p in both)))
  rows.append(("memory traffic", *(f"{p['memory_traffic'] / 1e9:.1f} GB" for p in both)))
  if both[0]["compilers_traffic"]:
    rows.append(("the compiler's", *(f"{p['compilers_traffic'] / 1e9:.1f} GB" for p in both)))
  rows.append(("operations", *(f"{p['operations']:,}" for p in both)))
  rows.append(("compiled in", *(f"{p['compile_seconds']:.0f} s" for p in both)))
  lines = [f"{row[0]:20}{row[1]:>16}{row[2]:>22}" for row in rows]
  lines += [f"collectives, training step: {summary(both[0]['collectives'])}"]
  lines += [f"collectives, answers:       {summary(both[1]['collectives'])}"]
  fits = "fits" if found["fits"] else "does not fit"
  lines += [f"{fits} the {found['memory_of_a_chip'] / 2**30:.0f} GiB of a chip"]
  if "step_seconds" not in found:
    return "\n".join([*lines, "no prediction of the step's time with fsdp above 1"])
  computing, memory, links, whole = (
    f"{1e3 * found[f'{name}_seconds']:.1f} ms"
    for name in ("compute", "memory", "all_reduce", "step")
  )
  gradient, reduced = (found[f"{name}_bytes"] / 1e6 for name in ("gradient", "all_reduce"))
  lines += [
    "a step, by arithmetic and not by measurement:",
    f"  {computing} of computing at {found['utilisation']:.0%} of the peak; {memory} of memory "
    "traffic, without what stays on the chip, which the compiler counts as well",
    f"  {links} of all-reduce over the links, not overlapped ({reduced:.1f} MB, the gradient has "
    f"{gradient:.1f} MB)",
    f"  at most {whole} in all",
    f"scaling efficiency at {found['chips']} chips: {found['efficiency']:.1%} with that traffic, "
    f"{found['efficiency_of_computing_alone']:.1%} if memory cost no time",
  ]
  return "\n".join(lines)
