"""The conversion command; `mellow convert --help`."""

import argparse
import pathlib
import sys

import numpy as np
import tokenizers
from safetensors.numpy import save
from transformers import AutoTokenizer

from mellow_jax import checkpoint, files
from mellow_jax.config import ModelConfig
from mellow_jax.convert import convert, gguf_files, sources, torch_files
from mellow_jax.data import presets
from mellow_jax.data.tokenizer import load_tokenizer
from mellow_jax.errors import CheckpointError, UserError

SMOLLM2 = "hf://HuggingFaceTB/SmolLM2-135M"  # whose tokenizer the released Mellow uses


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    prog="mellow convert",
    description="Converts PyTorch weights to a model folder and back, exactly.",
  )
  parser.add_argument(
    "--input",
    required=True,
    help="a .ckpt, .pt, .pth, .safetensors or .gguf file, a folder that holds one, or "
    "hf://OWNER/REPO/FILE, of Mellow, HTSAT or SmolLM2; with --reverse a model folder",
  )
  parser.add_argument("--output", help="model folder to write; with --reverse a file")
  parser.add_argument("--tokenizer", help=f"folder or hf://OWNER/REPO; default {SMOLLM2}")
  parser.add_argument("--preset", default="release", choices=sorted(presets.PRESETS))
  parser.add_argument(
    "--reverse", action="store_true", help="write a .safetensors or .pt file for the PyTorch code"
  )
  parser.add_argument("--dry-run", action="store_true", help="print the table and write nothing")
  args = parser.parse_args(argv)
  if not args.output and not args.dry_run:
    parser.error("--output is required unless --dry-run is given")
  return args


def find_tokenizer(source: str) -> tokenizers.Tokenizer:
  """The tokenizer of a folder or of a hub repository.

  Raises CheckpointError saying what to give instead.
  """
  if not source.startswith("hf://") and pathlib.Path(source, "tokenizer.json").exists():
    return load_tokenizer(source)
  try:
    return AutoTokenizer.from_pretrained(source.removeprefix("hf://")).backend_tokenizer
  except (OSError, ValueError) as error:
    reason = str(error).strip().splitlines()[0]
    raise CheckpointError(
      f"{source}: no tokenizer found ({reason}); give --tokenizer=FOLDER with a tokenizer.json"
    ) from error


def _choose_tokenizer(given: str | None, weights: pathlib.Path) -> tokenizers.Tokenizer:
  """The one asked for, else that within or beside the weights, else the hub's."""
  if not given and weights.suffix == ".gguf":
    return gguf_files.read_tokenizer(weights)
  beside = weights.parent if (weights.parent / "tokenizer.json").exists() else None
  return find_tokenizer(given or str(beside or SMOLLM2))


def forward(args: argparse.Namespace) -> None:
  """PyTorch to a model folder."""
  cfg = ModelConfig()
  state_dict, path = sources.load_state_dict(args.input)
  try:
    kind = convert.kind_of(state_dict)
    lines = convert.plan(state_dict, cfg)
    if args.dry_run:
      for line in lines:
        print(
          f"{line.key}  {list(line.shape)} {line.dtype}  ->  {line.path or 'computed, dropped'}"
        )
      print(f"{kind}: {len(lines)} entries, {sum(line.path is not None for line in lines)} kept")
      return
    flat = convert.convert(state_dict, cfg)
  except CheckpointError as error:
    raise CheckpointError(f"{path}: {error}") from error
  tokenizer = None
  if kind != "htsat":
    tokenizer = _choose_tokenizer(args.tokenizer, path)
  checkpoint.save_model(args.output, flat, cfg, args.preset, tokenizer)
  dropped = sorted(line.key for line in lines if line.path is None)
  print(f"{path} ({kind}) -> {args.output}: {len(flat)} arrays")
  if dropped:
    print(f"computed anew when needed, not stored: {', '.join(dropped)}")


def backward(args: argparse.Namespace) -> None:
  """A model folder to PyTorch."""
  flat, cfg, _ = checkpoint.load_params(args.input)
  state_dict = convert.reverse({name: np.asarray(x) for name, x in flat.items()}, cfg)
  if args.dry_run:
    for key, array in state_dict.items():
      print(f"{key}  {list(array.shape)} {array.dtype}")
    return
  output = pathlib.Path(args.output)
  if output.suffix == ".pt":
    torch_files.write(output, state_dict)
  elif output.suffix == ".safetensors":
    try:
      with files.replacing(output, "wb") as file:
        file.write(save({k: np.asarray(v, order="C") for k, v in state_dict.items()}))
    except Exception as error:  # safetensors raises its own error for a full disk
      raise CheckpointError(f"{output}: could not be written: {error}") from error
  else:
    raise CheckpointError(f"--output={output}: its ending must be .pt or .safetensors")
  print(f"{args.input} -> {output}: {len(state_dict)} entries")


def main(argv: list[str] | None = None) -> None:
  """Runs the command; what goes wrong is one line and exit status 1."""
  args = parse(argv)
  try:
    backward(args) if args.reverse else forward(args)
  except (UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  main()
