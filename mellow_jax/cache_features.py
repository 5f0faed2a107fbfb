"""Keeps what a run's frozen encoder makes of its clips, so that training reads no audio.

  mellow cache-features --config=mellow --output=features [--windows=8] [--config.FIELD=VALUE ...]
  mellow train --config=mellow --config.data.features=features ...

The run must leave its encoder as it is: frozen, and without random parts. A clip takes 36 KB for
each window, or 72 KB in float32; one that the preset crops at random has --windows of them. Where
weights, preset, code or a clip have changed since, training refuses the folder.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from mellow_jax import cli
from mellow_jax.errors import FlagsError


def _flags(argv: Sequence[str]) -> flags.FlagValues:
  f = cli.flag_values()
  cli.define_config(f, argv)
  flags.DEFINE_string("output", None, "Folder to write.", flag_values=f)
  cli.define_device(f)
  text = "Random windows of a clip that is longer than the model's input."
  flags.DEFINE_integer("windows", 8, text, lower_bound=1, flag_values=f)
  flags.DEFINE_integer("batch", 16, "Windows at a time.", lower_bound=1, flag_values=f)
  return f


def _cache(f: flags.FlagValues) -> None:
  if not f.config:
    raise FlagsError("--config is missing: name a config, such as --config=mellow")
  if not f.output:
    raise FlagsError("--output is missing: name a folder to write")
  # Imported here, so that --help does not wait for JAX.
  from mellow_jax import config, parallel
  from mellow_jax.training import features, init

  parallel.use_compilation_cache()
  parallel.keep_freed_memory()
  parallel.require_device(f.device)
  cfg = init.adopt(f.config, f["config"].override_values)
  config.validate(cfg)
  rows, bad = features.write(
    cfg, pathlib.Path(f.output), windows=f.windows, batch=f.batch, log=parallel.log
  )
  print(f"{f.output}: {rows} windows, {bad} clips that cannot be used")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  how = {"example": "--config=mellow --output=features", "waits_for": "computing features"}
  return cli.run(argv, _flags(argv), __doc__, _cache, **how)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
