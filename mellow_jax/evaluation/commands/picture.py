"""A training run in one picture: three held-out questions with answers, the loss, accuracy by task.

  mellow evaluate picture --workdir=runs/demo --predictions=clips.jsonl \\
    --probe=noise.jsonl --output=listening.png

Both files are of `evaluate predict`, over questions about the run's validation clips; the probe is
the same with noise, or any other --audio. Prints the three questions and answers as well.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mellow_jax import cli, files


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("workdir", help="Folder of the training run.")
  text("predictions", help="File of `evaluate predict` with the clips.")
  text("probe", help="The same with --audio=noise, or another probe.")
  text("output", help="PNG file to write.")
  return f


def _picture(f: flags.FlagValues) -> None:
  cli.require(f, "workdir", "predictions", "probe", "output")
  # Not before they are asked: JAX and Matplotlib take a second.
  from mellow_jax.evaluation.benchmarks import prediction_files
  from mellow_jax.evaluation.report import run_picture

  plain, probe = (prediction_files.read(path) for path in (f.predictions, f.probe))
  figure = run_picture.draw(Path(f.workdir), plain.predictions, probe.predictions, probe.heard)
  with files.replacing(f.output, "wb") as file:
    figure.savefig(file, dpi=110)
  print(f"\npicture: {f.output}")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _picture, example="--workdir=DIR", waits_for="drawing")
