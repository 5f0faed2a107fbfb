"""Plan of a run for a TPU slice or GPUs: compiled ahead of time, on a machine without them.

  mellow plan --config=mellow --topology=v5e:16x16 --batch_per_chip=8 \\
    [--config.FIELD=VALUE ...] [--utilisation=0.5] [--json]

The compiler for TPUs, from the extra `tpu`, or for GPUs, from `cuda`, compiles the training step
and the decoding of a batch in some minutes. The command prints the memory of a chip, the
collectives in the compiled programs with their bytes, the arithmetic, the operations (on a GPU
about its kernels), and a predicted step time. Slices are named as by Google Cloud, v5e:2x4,
v5e:16x16, v5p:4x4x4, v6e:16x16; GPUs of one machine by their number, h100:1, h200:8.
"""

import functools
import json
import sys
from collections.abc import Sequence

from absl import flags

from mellow_jax import cli
from mellow_jax.errors import FlagsError


def _flags(argv: Sequence[str]) -> flags.FlagValues:
  f = cli.flag_values()
  cli.define_config(f, argv)
  flags.DEFINE_string(
    "topology", None, "TPU slice or GPUs, such as v5e:16x16 or h200:8.", flag_values=f
  )
  flags.DEFINE_integer("batch_per_chip", 8, "Examples a step on each chip.", flag_values=f)
  share = "Assumed share of the chip's peak while computing."
  flags.DEFINE_float("utilisation", 0.5, share, flag_values=f)
  flags.DEFINE_bool("json", False, "Print JSON alone.", flag_values=f)
  return f


def _plan(f: flags.FlagValues) -> None:
  if not f.config:
    raise FlagsError("--config is missing: name a config, such as --config=mellow")
  if not f.topology:
    raise FlagsError("--topology is missing: name chips, such as --topology=v5e:16x16 or h200:8")
  # Imported here, so that --help does not wait for JAX.
  import jax

  from mellow_jax.training import device_plan, init

  jax.config.update("jax_platforms", "cpu")  # the compilers need no device
  log = functools.partial(print, file=sys.stderr if f.json else sys.stdout, flush=True)
  cfg = init.adopt(f.config, f["config"].override_values, log)
  found = device_plan.plan(cfg, f.topology, f.batch_per_chip, f.utilisation, log)
  print(json.dumps(found, indent=1) if f.json else device_plan.table(found))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  example = "--config=mellow --topology=v5e:16x16"
  return cli.run(argv, _flags(argv), __doc__, _plan, example=example, waits_for="compiling")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
