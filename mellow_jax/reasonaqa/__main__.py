"""Builds the dataset ReasonAQA, checks it and counts what it holds.

  mellow reasonaqa build --data=DIR --audio_root=DIR --output=DIR
  mellow reasonaqa synthesize --data=FILE --endpoint=URL --model=NAME ...
  mellow reasonaqa filter --data=FILE --output=DIR
  mellow reasonaqa stats --data=DIR
  mellow reasonaqa check --data=DIR --audio_root=DIR
  mellow reasonaqa tfds --data=DIR --output=DIR

`mellow reasonaqa COMMAND --help` shows the flags of each; `python -m mellow_jax.reasonaqa` is the
same command.
"""

import sys
from collections.abc import Sequence

from mellow_jax import cli


def main(argv: Sequence[str]) -> int:
  """Runs the command that argv[1] names; returns its exit status."""
  name = argv[1] if len(argv) > 1 else ""
  # Imported where it is called: processes that check audio need none of the others' imports.
  match name:
    case "build":
      from mellow_jax.reasonaqa.commands import build as command
    case "synthesize":
      from mellow_jax.reasonaqa.commands import synthesize as command
    case "filter":
      from mellow_jax.reasonaqa.commands import filter as command
    case "stats":
      from mellow_jax.reasonaqa.commands import stats as command
    case "check":
      from mellow_jax.reasonaqa.commands import check as command
    case "tfds":
      from mellow_jax.reasonaqa import tfds as command
    case "-h" | "--help":
      print(__doc__.strip())
      return 0
    case _:
      fault = f"{name!r} is no command" if name else "a command is missing"
      print(
        f"error: {fault}: write build, synthesize, filter, stats, check or tfds", file=sys.stderr
      )
      return 1
  return command.main(argv[1:])


if __name__ == "__main__":
  with cli.ending_in_a_line():
    status = main(sys.argv)
  sys.exit(status)
