"""Builds ReasonAQA and looks into it.

  python -m mellow_jax.reasonaqa build --sources=DIR --audio_root=DIR --output=DIR
  python -m mellow_jax.reasonaqa synthesize --captions=FILE --endpoint=URL --model=NAME ...
  python -m mellow_jax.reasonaqa stats --rows=DIR
  python -m mellow_jax.reasonaqa check --rows=DIR --audio_root=DIR
  python -m mellow_jax.reasonaqa tfds --manual_dir=DIR --data_dir=DIR

`... WORD --help` shows the flags of each.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
  """Gives the arguments from the word on to the command of that name; its exit status."""
  word = argv[1] if len(argv) > 1 else ""
  # Each brings what it alone needs; processes that check audio start with none of it.
  if word == "build":
    from mellow_jax.reasonaqa.commands import build as command
  elif word == "synthesize":
    from mellow_jax.reasonaqa.commands import synthesize as command
  elif word == "stats":
    from mellow_jax.reasonaqa.commands import stats as command
  elif word == "check":
    from mellow_jax.reasonaqa.commands import check as command
  elif word == "tfds":
    from mellow_jax.reasonaqa import tfds as command
  elif word in ("-h", "--help"):
    print(__doc__)
    return 0
  else:
    print(f"error: {word!r}: write build, synthesize, stats, check or tfds", file=sys.stderr)
    return 1
  return command.main(argv[1:])


if __name__ == "__main__":
  sys.exit(main(sys.argv))
