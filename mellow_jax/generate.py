"""Answers questions about audio: one, or a whole manifest of them.

  mellow generate --checkpoint=DIR --audio=a.wav [--audio=b.wav] --prompt="..."
  mellow generate --checkpoint=DIR --data=rows.json --audio_root=DIR \\
    --output=predictions.jsonl
"""

import functools
import sys
from collections.abc import Sequence

from absl import flags

from mellow_jax import cli
from mellow_jax.errors import FlagsError


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("checkpoint", help="Model folder, from the converter or from training.")
  flags.DEFINE_multi_string("audio", [], "Audio file; twice for two clips.", flag_values=f)
  text("prompt", help="The question about --audio.")
  text("data", help="ReasonAQA JSON file whose rows are answered.")
  cli.define_old_name(f, "manifest", "data")
  cli.define_device(f)
  text("audio_root", help="Folder below which the clips of --data are; its own folder if absent.")
  text("output", help="JSONL file for the answers to --data; a rerun goes on where it stopped.")
  text("preset", help="release, training or clean; by default the model folder's.")
  kinds = ["greedy", "sample", "beam"]
  flags.DEFINE_enum("sampling", "greedy", kinds, "How tokens are chosen.", flag_values=f)
  windows = ["first", "center", "all"]
  flags.DEFINE_enum(
    "window",
    "first",
    windows,
    "Part of a long clip that is used; all: one after another.",
    flag_values=f,
  )
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  number("max_new_tokens", 300, "Tokens after which an answer is cut off.")
  number("top_k", 0, "Sample from the k most probable tokens; 0: from all.")
  number("samples", 1, "Answers a question, from sample or beam.")
  number("beams", 4, "Beams of --sampling=beam.")
  number("seed", 0, "Seed of --sampling=sample.")
  number("batch_size", 8, "Rows of --data answered together.", lower_bound=1)
  share = functools.partial(flags.DEFINE_float, flag_values=f)
  share("temperature", 1.0, "Of --sampling=sample: below 1 for more probable tokens.")
  share("top_p", 1.0, "Sample from the fewest tokens that hold this share of the probability.")
  return f


def _generate(f: flags.FlagValues) -> None:
  if not f.checkpoint:
    raise FlagsError("--checkpoint is missing: name a model folder")
  if bool(f.data) == bool(f.audio):
    raise FlagsError("give either --audio and --prompt, or --data and --output")
  from mellow_jax.inference import answering  # not before it is asked: JAX takes a second

  answering.answer(f)


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _generate, example="--audio=FILE, --prompt='...'")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
