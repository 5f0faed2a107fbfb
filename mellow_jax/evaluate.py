"""Evaluation on benchmarks, one command for each step.

  mellow evaluate predict   answers a benchmark's questions with a model
  mellow evaluate score     scores a file of answers, and reports
  mellow evaluate compare   two models on the same items, with a paired test
  mellow evaluate doctor    says which metrics and data work here
  mellow evaluate picture   a training run's answers, loss and accuracy, drawn
  mellow evaluate export    writes answers as other evaluations read them

`COMMAND --help` shows a command's flags.
"""

import sys
from collections.abc import Sequence

from mellow_jax import cli


def main(argv: Sequence[str]) -> int:
  """The exit status of the command that argv names."""
  name = argv[1] if len(argv) > 1 else ""
  # Imported where it is called: predict and picture need JAX, and the others must start without it.
  if name == "predict":
    from mellow_jax.evaluation.commands import predict as command
  elif name == "score":
    from mellow_jax.evaluation.commands import score as command
  elif name == "compare":
    from mellow_jax.evaluation.commands import compare as command
  elif name == "doctor":
    from mellow_jax.evaluation.commands import doctor as command
  elif name == "picture":
    from mellow_jax.evaluation.commands import picture as command
  elif name == "export":
    from mellow_jax.evaluation.external import export as command
  elif name in ("--help", "-h", "help"):
    print(__doc__)
    return 0
  else:
    fault = f"{name!r} is no command" if name else "a command is missing"
    commands = "predict, score, compare, doctor, picture or export"
    print(f"error: {fault}: write {commands}", file=sys.stderr)
    return 1
  return command.main([f"{argv[0]} {name}", *argv[2:]])


if __name__ == "__main__":
  with cli.ending_in_a_line():
    status = main(sys.argv)
  sys.exit(status)
