"""Answers questions about audio: about clips, folders of clips, or the rows of a table.

  mellow generate --checkpoint=DIR clip.wav "what is heard?"
  mellow generate --checkpoint=DIR a.wav b.wav folder "what is heard?" [--output=answers.jsonl]
  mellow generate --checkpoint=DIR rows.csv --output=answers.jsonl
  mellow generate --checkpoint=DIR --audio=a.wav --audio=b.wav --prompt="what differs?"

Each clip is asked the question that follows it, a folder stands for the audio files in it, and two
--audio are asked about together. A table has the columns file and question, and if wanted file2,
answer and caption: CSV, TSV, JSON or JSON lines.

A clip that cannot be read is recorded with its reason and the others are answered. The same command
again asks only what has no answer yet. The exit status is 0 where all is answered, 2 where it is
but for some clips, and 1 after an error.
"""

import functools
import sys
from collections.abc import Sequence

from absl import flags

from mellow_jax import cli, progress


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  f.set_gnu_getopt(True)  # flags may follow the clips and the question
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  cli.define_checkpoint(f)
  cli.define_clips(f, "prompt", "question", "The question, where it does not follow the clips.")
  text("data", help="Table of clips and questions, or rows of ReasonAQA.")
  cli.define_old_name(f, "manifest", "data")
  cli.define_device(f)
  text("audio_root", help="Folder below which the clips are; by default that of --data.")
  text("output", help="JSONL file for the answers; a rerun goes on where it stopped.")
  flags.DEFINE_bool("json", False, "Print answers as JSON lines.", flag_values=f)
  strict = "Stop at the first clip that cannot be read."
  flags.DEFINE_bool("strict", False, strict, flag_values=f)
  cli.define_preset(f)
  windows = ["first", "center", "all"]
  flags.DEFINE_enum(
    "window",
    "first",
    windows,
    "Part of a long clip that is used; all: one after another.",
    flag_values=f,
  )
  cli.define_sampling(f, "Answers a question, from sample or beam.")
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  number("seed", 0, "Seed of --sampling=sample.", *cli.SEEDS)
  number("batch_size", 8, "Rows answered together.", lower_bound=1)
  return f


def _generate(f: flags.FlagValues, *words: str) -> int:
  with progress.stage("starting"):
    from mellow_jax.inference import answering  # not before it is asked: JAX takes a second

  return answering.answer(f, words)


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _generate, example=None)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
