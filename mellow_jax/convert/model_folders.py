"""Model folders from PyTorch weights, and PyTorch weights from model folders."""

import pathlib

import numpy as np
import tokenizers
from safetensors.numpy import save

from mellow_jax import checkpoint, files
from mellow_jax.config import ModelConfig
from mellow_jax.convert import convert, gguf_files, sources, torch_files
from mellow_jax.data.tokenizer import load_tokenizer
from mellow_jax.errors import CheckpointError

SMOLLM2 = "hf://HuggingFaceTB/SmolLM2-135M"  # whose tokenizer the released Mellow uses


def find_tokenizer(source: str) -> tokenizers.Tokenizer:
  """The tokenizer of a folder or of a hub repository.

  Raises CheckpointError saying what to give instead.
  """
  if not source.startswith("hf://") and pathlib.Path(source, "tokenizer.json").exists():
    return load_tokenizer(source)
  from transformers import AutoTokenizer  # takes a second, and is seldom needed

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


def to_model_folder(
  weights: str, folder: str | None, *, tokenizer_source: str | None, preset: str, dry_run: bool
) -> None:
  """Converts PyTorch weights; with dry_run it prints the table and writes nothing."""
  cfg = ModelConfig()
  state_dict, path = sources.load_state_dict(weights)
  try:
    kind = convert.kind_of(state_dict)
    lines = convert.plan(state_dict, cfg)
    if dry_run:
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
    tokenizer = _choose_tokenizer(tokenizer_source, path)
  checkpoint.save_model(folder, flat, cfg, preset, tokenizer)
  dropped = sorted(line.key for line in lines if line.path is None)
  print(f"{path} ({kind}) -> {folder}: {len(flat)} arrays")
  if dropped:
    print(f"computed anew when needed, not stored: {', '.join(dropped)}")


def to_pytorch(folder: str, weights: str | None, *, dry_run: bool) -> None:
  """Converts a model folder to a .pt or .safetensors file; with dry_run it prints the keys."""
  flat, cfg, _ = checkpoint.load_params(folder)
  state_dict = convert.reverse({name: np.asarray(x) for name, x in flat.items()}, cfg)
  if dry_run:
    for key, array in state_dict.items():
      print(f"{key}  {list(array.shape)} {array.dtype}")
    return
  output = pathlib.Path(weights)
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
  print(f"{folder} -> {output}: {len(state_dict)} entries")
