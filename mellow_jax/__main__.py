"""Mellow, a small audio-language model.

  mellow train       trains a model, or resumes a run
  mellow generate    answers questions about audio
  mellow convert     converts PyTorch weights to a model folder and back
  mellow evaluate    answers benchmarks, scores and compares the answers
  mellow inspect     plots the sound events that the encoder detects beside an answer
  mellow reasonaqa   builds the dataset ReasonAQA, checks it and counts what it holds
  mellow cache-features  keeps what a frozen encoder makes of clips, for training
  mellow plan        memory and step time of a run on a TPU slice or GPUs
  mellow ablate      trains and evaluates every system of the paper's ablations
  mellow serve       serves a model over HTTP, with a page
  mellow decide      gives probabilities of yes and no, of options, of levels
  mellow calibrate   makes those probabilities right as often as they say

`mellow COMMAND --help` shows the flags of each, `mellow --version` the version. Each is also
`python -m mellow_jax COMMAND`.
"""

import sys
from collections.abc import Callable, Sequence

import mellow_jax
from mellow_jax import cli


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command that argv, by default sys.argv, names; returns its exit status."""
  with cli.ending_in_a_line():  # Ctrl-C may come while a command is imported
    return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
  _, *words = sys.argv if argv is None else argv
  name = words[0] if words else ""
  if name == "--version":
    print(f"mellow {mellow_jax.__version__}")
    return 0
  if name in ("--help", "-h", "help"):
    print(__doc__.strip())
    return 0
  command = _command(name)
  if command is None:
    fault = f"{name!r} is no command" if name else "a command is missing"
    print(f"error: {fault}: mellow --help lists them", file=sys.stderr)
    return 1
  return command([f"mellow {name}", *words[1:]])


def _command(name: str) -> Callable[[Sequence[str]], int] | None:
  """The function of a command; None for a name that is none."""
  # Imported where it is called: the commands need different things, some of them JAX.
  match name:
    case "train":
      from mellow_jax.train import main as command
    case "generate":
      from mellow_jax.generate import main as command
    case "evaluate":
      from mellow_jax.evaluate import main as command
    case "inspect":
      from mellow_jax.inspect import main as command
    case "ablate":
      from mellow_jax.ablate import main as command
    case "serve":
      from mellow_jax.serve import main as command
    case "decide":
      from mellow_jax.decide import main as command
    case "calibrate":
      from mellow_jax.evaluation.commands.calibrate import main as command
    case _:
      return _preparation(name)
  return command


def _preparation(name: str) -> Callable[[Sequence[str]], int] | None:
  """The same of what is done before training."""
  match name:
    case "convert":
      from mellow_jax.convert.__main__ import main as command
    case "reasonaqa":
      from mellow_jax.reasonaqa.__main__ import main as command
    case "cache-features":
      from mellow_jax.cache_features import main as command
    case "plan":
      from mellow_jax.plan import main as command
    case _:
      return None
  return command


if __name__ == "__main__":
  sys.exit(main())
