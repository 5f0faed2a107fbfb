"""The training command.

  mellow train --config=demo --workdir=runs/demo [--config.FIELD=VALUE ...]

The same command again resumes from the last checkpoint. The workdir gets checkpoints/, the model
folders best/ (lowest validation loss so far) and model/ (the last step's), the page report.html,
run.json, TensorBoard files, and the logs that mellow_jax/training/metrics.py lists.
--profile=100:5 writes a trace of steps 100 to 104 to profile/.

SIGTERM and Ctrl-C save the current step and end with exit status 75: start the same command again.
A second Ctrl-C ends at once, with status 130. Otherwise the status is 0 when all steps are done, or
1 after an error of one line. Where other processes do not start within --start_seconds it is 75, or
134 where JAX aborts: start them all again.

Several processes find each other on TPU pods, SLURM, Open MPI and Kubernetes; elsewhere each is
given --coordinator=HOST:PORT --processes=N --process_id=I, with I from 0 to N - 1. All must see the
same files. The folder launch/ has a script for each place.
"""

import faulthandler
import functools
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence

from absl import flags, logging

from mellow_jax import cli
from mellow_jax.errors import ConfigError, FlagsError, StalledError


def parse_profile(text: str) -> range:
  """The steps to trace, from --profile=STEP:COUNT; none from "".

  Raises ConfigError for anything else.
  """
  if not text:
    return range(0)
  first, _, count = text.partition(":")
  if not (first.isdecimal() and count.isdecimal() and int(first) and int(count)):
    raise ConfigError(f"--profile={text}: give STEP:COUNT, such as 100:5")
  return range(int(first), int(first) + int(count))


def _flags(argv: Sequence[str]) -> flags.FlagValues:
  f = cli.flag_values()
  cli.define_config(f, argv)
  text = functools.partial(flags.DEFINE_string, flag_values=f)
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  text("workdir", None, "Folder of this run: checkpoints and metrics; also --output.")
  cli.define_old_name(f, "output", "workdir")
  cli.define_device(f)
  text("coordinator", "", "HOST:PORT of process 0; none: this process is alone.")
  number("processes", None, "Processes of this run.")
  number("process_id", None, "Number of this one, from 0.")
  text("profile", "", "STEP:COUNT, the first step to trace and how many.")
  number("start_seconds", 300, "How long processes wait for each other to start.")
  number("heartbeat_seconds", 100, "Silence after which a process counts as dead.")
  levels = ["debug", "info", "warning", "error"]
  logged = "What libraries log; warning if absent."
  flags.DEFINE_enum("verbosity", None, levels, logged, flag_values=f, case_sensitive=False)
  return f


def _train(f: flags.FlagValues) -> int:
  if not f.config:
    raise FlagsError("--config is missing: name a config, such as --config=demo")
  if not f.workdir:
    raise FlagsError("--workdir is missing: name a folder for this run")
  if not f.process_id:
    print("loading JAX", flush=True)
  # Imported here, so that --help does not wait for JAX.
  import jax

  from mellow_jax import parallel
  from mellow_jax.training import checkpoints, init, loop

  flags.FLAGS.mark_as_parsed()  # Grain reads its flags there when it starts workers
  faulthandler.enable()
  logging.use_absl_handler()
  logging.set_verbosity(f.verbosity or logging.WARNING)
  if not f.verbosity:
    checkpoints.silence_orbax()  # Orbax reports every phase of every save at INFO
  workdir, profile = pathlib.Path(f.workdir).absolute(), parse_profile(f.profile)
  parallel.use_compilation_cache()
  parallel.keep_freed_memory()
  if f.config.deterministic:
    parallel.make_deterministic()
  place = (f.coordinator, f.processes, f.process_id)
  parallel.initialize(*place, f.start_seconds, f.heartbeat_seconds)
  parallel.require_device(f.device)
  stop = parallel.StopSignal()
  try:
    cfg = init.adopt(f.config, f["config"].override_values)
    state = loop.train(cfg, workdir, profile, stop.requested)
  except StalledError as error:
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(1)  # an ordinary exit would wait for the thread that hangs
  except jax.errors.JaxRuntimeError:
    if jax.process_count() == 1:
      raise
    # Another process has probably died. JAX aborts after --heartbeat_seconds without a sign of it;
    # a collective may fail earlier, and then this process aborts as well.
    traceback.print_exc()
    os.abort()
  # EX_TEMPFAIL is 75, which launchers answer with the same command.
  return os.EX_TEMPFAIL if int(state.step) < cfg.steps else 0


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  example = "--config=demo --workdir=DIR"
  return cli.run(argv, _flags(argv), __doc__, _train, example=example)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
