"""What a run would need on a TPU slice: compiled for it, on a machine that has none.

  mellow plan --config=mellow --topology=v5e:16x16 --batch_per_chip=8 \\
    [--config.FIELD=VALUE ...] [--utilisation=0.5] [--json]

The training step and the answering of a batch are compiled ahead of time by the TPU compiler, from
the extra `tpu`, in some minutes. Printed are the memory of a chip, the collectives in the compiled
programs with their bytes, the arithmetic, and a prediction of the step's time from them. Topologies
are named as Google Cloud names them: v5e:2x4, v5e:16x16, v5p:4x4x4, v6e:16x16.
"""

import functools
import importlib.util
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from jax.experimental import topologies
from jax.stages import Compiled

from mellow_jax import cli, config, parallel
from mellow_jax.config import Config
from mellow_jax.errors import ConfigError, FlagsError
from mellow_jax.training import programs, step


class Chip(NamedTuple):
  """A generation of TPUs."""

  flops: float  # a second, bfloat16
  memory: float  # bytes
  memory_rate: float  # bytes a second
  link_rate: float  # bytes a second along one axis of the torus, both directions together
  ring: int  # chips along an axis from which on (or, v5p, in multiples of which) it is a ring


# Sources: cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e ("System architecture"); link rates
# and the lengths of rings: jax-ml.github.io/scaling-book/tpus, table "TPU specs".
CHIPS = {
  "v4": Chip(275e12, 32 * 2**30, 1228e9, 90e9, 4),
  "v5e": Chip(197e12, 16 * 2**30, 819e9, 90e9, 16),
  "v5p": Chip(459e12, 95 * 2**30, 2765e9, 180e9, 4),
  "v6e": Chip(918e12, 32 * 2**30, 1640e9, 180e9, 16),
}
ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8}  # others: 4
# What the library asks of the host it runs on. It runs on none, and may be loaded several times.
NO_HOST = {
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def collectives(program: str) -> list[dict[str, Any]]:
  """Each collective operation of a compiled program's text: kind, tensors, bytes by type."""
  found = []
  # With operations of their own for start and end, the start carries the shapes.
  for shapes, kind, start in re.findall(rf" = (.*?) ({KINDS})(-start)?\(", program):
    tensors = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)
    if start and kind != "all-reduce":
      tensors = tensors[len(tensors) // 2 :]  # the first half are the operands
    sizes: dict[str, int] = {}
    for item, shape in tensors:
      count = math.prod(int(n) for n in shape.split(",") if n)
      sizes[item] = sizes.get(item, 0) + count * ITEM_BYTES.get(item, 4)
    found.append({"kind": kind, "tensors": len(tensors), "bytes": sizes})
  return found


def all_reduce_seconds(size: float, chip: Chip, axes: tuple[int, ...]) -> float:
  """The least time in which all chips sum `size` bytes with each other, without overlap.

  Twice the bytes over the links of all axes: an axis that closes to a ring counts with both
  directions, another with one. Latency, about 1 us a hop, is left out.

  Source: jax-ml.github.io/scaling-book/sharding, "AllReduce".
  """
  rate = sum(chip.link_rate if n % chip.ring == 0 else chip.link_rate / 2 for n in axes if n > 1)
  return 2 * size / rate if rate else 0.0


def batch_like(cfg: Config) -> step.Batch:
  """The abstract batch of a step."""
  rows, model = cfg.batch_size, cfg.model

  def leaf(*shape: int, dtype: str = "int32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *shape), dtype)

  return step.Batch(
    wav1=leaf(model.audio.clip_samples, dtype="float32"),
    wav2=leaf(model.audio.clip_samples, dtype="float32"),
    text_ids=leaf(model.text_tokens),
    text_lengths=leaf(),
    answer_ids=leaf(model.answer_tokens),
    loss_mask=leaf(model.answer_tokens, dtype="bool"),
  )


def measure(lower: Callable[[], Any]) -> dict[str, Any]:
  """What the compiler says of a program, for one chip.

  Raises ConfigError where the program needs more memory than a chip has.
  """
  began = time.monotonic()
  try:
    compiled: Compiled = lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    used = re.search(r"Used \S+ of \S+ hbm", str(error))
    raise ConfigError(
      f"does not fit the memory of a chip ({used[0] if used else str(error).splitlines()[0]}): "
      "lower --batch_per_chip, or set --config.model.decoder.remat=true"
    ) from error
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  parts = {
    "arguments": memory.argument_size_in_bytes,
    "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,  # not in place
    "temporary": memory.temp_size_in_bytes,
    "code": memory.generated_code_size_in_bytes,
  }
  return {
    "compile_seconds": round(time.monotonic() - began, 1),
    "memory": {**parts, "total": sum(parts.values())},
    "flops": cost["flops"],
    "memory_traffic": cost["bytes accessed"],
    "collectives": collectives(compiled.as_text()),
  }


def plan(
  cfg: Config, topology: str, batch_per_chip: int, utilisation: float, say: Callable[[str], None]
) -> dict[str, Any]:
  """Compiles a run's programs for a topology and predicts the time of its step.

  Raises ConfigError for what cannot be planned.
  """
  name, _, size = topology.partition(":")
  if name not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", size):
    known = ", ".join(CHIPS)
    raise ConfigError(
      f"--topology={topology}: use GENERATION:AxB or AxBxC, such as v5e:2x4; {known}"
    )
  if batch_per_chip < 1 or not 0 < utilisation <= 1:
    raise ConfigError("--batch_per_chip must be at least 1, --utilisation above 0 and at most 1")
  if importlib.util.find_spec("libtpu") is None:
    raise ConfigError("the TPU compiler is missing: in the checkout, pip install '.[tpu]'")
  os.environ.update(NO_HOST)
  axes, chip = tuple(map(int, size.split("x"))), CHIPS[name]
  try:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  except jax.errors.JaxRuntimeError as error:
    raise ConfigError(f"--topology={topology}: {str(error).splitlines()[0]}") from error
  cfg.batch_size = batch_per_chip * len(devices)
  config.validate(cfg, devices=len(devices), reads_data=False)
  if cfg.model.dtype == "auto":
    cfg.model.dtype = "bfloat16"  # what "auto" is on a TPU; here it would be the CPU's
  mesh = parallel.make_mesh(cfg.mesh, devices)
  compiled, batch = programs.make(cfg, mesh), batch_like(cfg)
  state = compiled.abstract
  say(f"{topology}: {len(devices)} x {devices[0].device_kind}, mesh {dict(mesh.shape)}")
  say(f"compiling the training step for {topology}, some minutes on two cores")
  train = measure(lambda: compiled.train_step.lower(state, batch))
  say(f"compiling the answering of a batch for {topology}")
  answers = measure(lambda: compiled.answer.lower(state, batch))

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
    return found  # what is gathered for each step takes time that nothing here predicts
  reduced = sum(sum(collective["bytes"].values()) for collective in train["collectives"])
  compute = train["flops"] / (chip.flops * utilisation)
  traffic = train["memory_traffic"] / chip.memory_rate
  communication = all_reduce_seconds(reduced, chip, axes)

  def efficiency(alone: float) -> float:
    return alone / (alone + communication)

  return {
    **found,
    "utilisation": utilisation,
    "compute_seconds": compute,
    "memory_seconds": traffic,
    "all_reduce_bytes": reduced,
    "all_reduce_seconds": communication,
    "step_seconds": max(compute, traffic) + communication,
    "efficiency": efficiency(max(compute, traffic)),
    # Were no time lost to memory, the same all-reduce would be a larger part of the step.
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
  """The plan for a reader."""
  rows = [("of a chip", "training step", "answers to a batch")]
  programs = (found["train"], found["answer"])
  for name in programs[0]["memory"]:
    rows.append((f"memory, {name}", *(f"{p['memory'][name] / 2**30:.2f} GiB" for p in programs)))
  rows.append(("arithmetic", *(f"{p['flops'] / 1e12:.2f} TFLOP" for p in programs)))
  rows.append(("memory traffic", *(f"{p['memory_traffic'] / 1e9:.1f} GB" for p in programs)))
  rows.append(("compiled in", *(f"{p['compile_seconds']:.0f} s" for p in programs)))
  lines = [f"{row[0]:20}{row[1]:>16}{row[2]:>22}" for row in rows]
  lines += [f"collectives, training step: {summary(programs[0]['collectives'])}"]
  lines += [f"collectives, answers:       {summary(programs[1]['collectives'])}"]
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
    "traffic as the compiler counts it, also where data stay on the chip",
    f"  {links} of all-reduce over the links, not overlapped ({reduced:.1f} MB, the gradient has "
    f"{gradient:.1f} MB)",
    f"  at most {whole} in all",
    f"scaling efficiency at {found['chips']} chips: {found['efficiency']:.1%} with that traffic, "
    f"{found['efficiency_of_computing_alone']:.1%} if memory cost no time",
  ]
  return "\n".join(lines)


def _flags(argv: Sequence[str]) -> flags.FlagValues:
  f = cli.flag_values()
  cli.define_config(f, argv)
  flags.DEFINE_string("topology", None, "TPU slice, such as v5e:16x16.", flag_values=f)
  flags.DEFINE_integer("batch_per_chip", 8, "Examples a step on each chip.", flag_values=f)
  share = "Assumed share of the chip's peak while computing."
  flags.DEFINE_float("utilisation", 0.5, share, flag_values=f)
  flags.DEFINE_bool("json", False, "Print JSON alone.", flag_values=f)
  return f


def _plan(f: flags.FlagValues) -> None:
  if not f.config:
    raise FlagsError("--config is missing: name a config, such as --config=mellow")
  if not f.topology:
    raise FlagsError("--topology is missing: name a TPU slice, such as --topology=v5e:16x16")
  jax.config.update("jax_platforms", "cpu")  # no TPU is looked for: it is compiled for one
  say = functools.partial(print, file=sys.stderr if f.json else sys.stdout, flush=True)
  found = plan(f.config, f.topology, f.batch_per_chip, f.utilisation, say)
  print(json.dumps(found, indent=1) if f.json else table(found))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  example = "--config=mellow --topology=v5e:16x16"
  return cli.run(argv, _flags(argv), __doc__, _plan, example=example)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
