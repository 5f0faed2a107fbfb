"""Converts PyTorch weights to a model folder and back, exactly.

mellow convert --input=FILE --output=DIR [--tokenizer=PATH] [--like=DIR] [--adapter=DIR]
mellow convert --reverse --input=DIR --output=FILE.safetensors [--adapter=DIR]
"""

import functools
import sys
from collections.abc import Sequence

from absl import flags

from mellow_jax import cli
from mellow_jax.data import presets
from mellow_jax.errors import FlagsError


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  switch = functools.partial(flags.DEFINE_bool, default=False, flag_values=f)
  text(
    "input",
    help="A file of PyTorch, safetensors or GGUF, a folder that holds one, or "
    "hf://OWNER/REPO/FILE, of Mellow, HTSAT, CNN14, SmolLM2, GPT-2 or a LoRA adapter of peft; with "
    "--reverse a model folder.",
  )
  text("output", help="Model folder to write; with --reverse a .safetensors or .pt file.")
  text(
    "tokenizer",
    help="A tokenizer.json, a folder with one, or hf://OWNER/REPO; by default that of --like, "
    "of the weights' folder, or the decoder's.",
  )
  text("like", help="Model folder whose architecture the weights have; by default the released.")
  text(
    "adapter",
    help="Model folder for the LoRA factors of a whole model, merged without one; with --reverse "
    "the folder they come from.",
  )
  alpha = "Alpha of LoRA, where no file tells it. Default: see docs/convert.md."
  flags.DEFINE_float("lora_alpha", None, alpha, lower_bound=1e-6, flag_values=f)
  names = sorted(presets.PRESETS)
  how = "How the model reads its input; by default that of --like, or release."
  flags.DEFINE_enum("preset", None, names, how, flag_values=f)
  switch("reverse", help="Write a file for the PyTorch code.")
  switch("dry_run", help="Print the table and write nothing.")
  return f


def _convert(f: flags.FlagValues) -> None:
  if not f.input:
    raise FlagsError("--input is missing: name the weights")
  dry_run = f.dry_run
  if not f.output and not dry_run:
    raise FlagsError("--output is missing: name what to write, or give --dry_run")
  # Here, as it takes seconds, which --help and wrong flags need not.
  from mellow_jax.convert import model_folders

  how = {"adapter": f.adapter, "lora_alpha": f.lora_alpha, "dry_run": dry_run}
  if f.reverse:
    if f.like or f.tokenizer or f.preset:
      raise FlagsError("--like, --tokenizer and --preset do nothing with --reverse: drop them")
    model_folders.to_pytorch(f.input, f.output, **how)
  else:
    model_folders.to_model_folder(
      f.input, f.output, like=f.like, tokenizer_source=f.tokenizer, preset=f.preset, **how
    )


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  how = {"example": "--input=FILE --output=DIR", "waits_for": "converting"}
  return cli.run(argv, _flags(), __doc__, _convert, **how)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
