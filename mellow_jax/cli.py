"""What the commands share: flags, --help, and one line for what the caller can mend."""

import sys
from collections.abc import Callable, Sequence

from absl import flags

from mellow_jax.errors import FlagsError, UserError


def flag_values() -> flags.FlagValues:
  """A set of a command's own: absl's global one would be filled by whoever imports the command."""
  f = flags.FlagValues()
  flags.DEFINE_bool("help", False, "Show this.", flag_values=f, short_name="h")
  return f


def run(
  argv: Sequence[str],
  f: flags.FlagValues,
  doc: str,
  do: Callable[[flags.FlagValues], int | None],
  *,
  example: str,
) -> int:
  """Reads argv into f and does what it says; with --help it prints doc and the flags instead.

  Returns the exit status: what `do` returns, 0 for None; 1 after one line on stderr for flags that
  are wrong and for whatever else the caller can mend. `example` is a flag to write where an
  argument is none.
  """
  try:
    if extra := f(argv)[1:]:
      raise FlagsError(f"{extra[0]!r} is no flag: write {example}")
    if f.help:
      print(doc, f.get_help(), sep="\n")
      return 0
    return do(f) or 0
  except (flags.Error, UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
