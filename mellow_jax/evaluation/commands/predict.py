"""Answers a benchmark's questions, on all devices and by any number of processes.

  mellow evaluate predict --checkpoint=DIR --benchmark=mmau --data=DIR --output=clips.jsonl

A rerun goes on where the last run was stopped, also with other items; the output appears when it is
complete. An item whose clip cannot be read is recorded, counts as wrong and is tried again by a
rerun; the exit status is then 2. Several processes share the work: by SLURM, Open MPI or on a TPU
pod each finds the others, elsewhere give --coordinator=HOST:PORT --processes=N --process_id=I.
"""

import functools
from collections.abc import Sequence

from absl import flags

from mellow_jax import cli, progress
from mellow_jax.evaluation.benchmarks import catalogue, prompt_styles

SHOWN = 5  # prompts that --show_prompts prints unless --limit says otherwise


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  choice = functools.partial(flags.DEFINE_enum, flag_values=f)
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  switch = functools.partial(flags.DEFINE_bool, default=False, flag_values=f)
  cli.define_checkpoint(f)
  choice("benchmark", None, list(catalogue.BENCHMARKS), "What is asked.")
  text("data", help="Folder of the benchmark's published files, or the file of its questions.")
  text("audio_root", help="Folder below which the clips are; by default that of the questions.")
  text("output", help="JSONL file for the answers; a rerun goes on where it stopped.")
  cli.define_device(f)
  cli.define_preset(f)
  styles = list(prompt_styles.STYLES)
  choice("prompt_style", None, styles, "By default the model's.")
  switch("show_prompts", help=f"Print the first prompts, {SHOWN} or --limit, and stop.")
  number("limit", 0, "Ask only about so many items, the first; 0: about all.", lower_bound=0)
  text("quarantine", help="File of rows to leave out, from `mellow reasonaqa check`.")
  switch("allow_missing", help="Leave out the items whose audio is not there.")
  switch("strict", help="Stop at the first clip that cannot be read.")
  switch("options_loglik", help="Score each choice by its log-likelihood, too.")
  choice("audio", "clips", ["clips", "noise", "silence", "shuffled"], "What is heard.")
  seconds = ["none", "same", "random"]
  choice("audio2", "same", seconds, "Heard after one clip; none: silence.")
  number("permute_options", 1, "Orders in which the choices are shown.", lower_bound=1)
  number("redraw_options", 0, "Option sets drawn anew for multiple choices alone.", lower_bound=0)
  choice("window", "first", ["first", "center"], "Part of a long clip that is heard.")
  number("seed", 0, "What probes and samples draw depends on it.", 0, cli.SEEDS[1])
  cli.define_sampling(f, "Answers an item, from sample; they need --vote.")
  number("batch_size", 8, "Items answered together, on each device.", lower_bound=1)
  text("coordinator", help="")  # the doc says what these three are
  number("processes", None, "")
  number("process_id", None, "")
  return f


def _command(f: flags.FlagValues) -> int:
  with progress.stage("starting"):
    from mellow_jax.evaluation.benchmarks import predicting  # not before it is asked: JAX

  return predicting.predict(f, SHOWN)


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _command, example="--benchmark=NAME, --data=DIR ...")
