"""Model folders from PyTorch weights, and PyTorch weights from model folders."""

import pathlib

import numpy as np
import tokenizers
from safetensors.numpy import save

from mellow_jax import checkpoint, files
from mellow_jax.config import ModelConfig
from mellow_jax.convert import convert, gguf_files, peft, sources, torch_files
from mellow_jax.data.tokenizer import load_tokenizer
from mellow_jax.errors import CheckpointError
from mellow_jax.models import lora


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


def _choose_tokenizer(
  given: str | None, weights: pathlib.Path, cfg: ModelConfig
) -> tokenizers.Tokenizer:
  """The one asked for, else that within or beside the weights, else the decoder's on the hub."""
  if not given and weights.suffix == ".gguf":
    return gguf_files.read_tokenizer(weights)
  beside = weights.parent if (weights.parent / "tokenizer.json").exists() else None
  return find_tokenizer(given or str(beside or f"hf://{peft.BASES[cfg.decoder.kind]}"))


def _print_plan(kind: str, lines: list[convert.Line]) -> None:
  for line in lines:
    print(f"{line.key}  {list(line.shape)} {line.dtype}  ->  {line.path or 'computed, dropped'}")
  print(f"{kind}: {len(lines)} entries, {sum(line.path is not None for line in lines)} kept")


def to_model_folder(
  weights: str,
  folder: str | None,
  *,
  adapter: str | None = None,
  lora_alpha: float | None = None,
  tokenizer_source: str | None,
  preset: str,
  dry_run: bool,
) -> None:
  """Converts PyTorch weights; with dry_run it prints the table and writes nothing.

  LoRA's factors in a whole checkpoint go to the folder `adapter`, or into the kernels without one.
  Raises CheckpointError.
  """
  state_dict, path = sources.load_state_dict(weights)
  try:
    kind, cfg = convert.kind_of(state_dict), convert.config_of(state_dict)
    lines = convert.plan(state_dict, cfg)
    if dry_run:
      _print_plan(kind, lines)
      return
    flat = convert.convert(state_dict, cfg)
  except CheckpointError as error:
    raise CheckpointError(f"{path}: {error}") from error
  has_lora = any(map(peft.is_factor, flat))
  if adapter and not (has_lora and kind == "mellow with LoRA"):
    raise CheckpointError(f"{path}: it is no whole model with LoRA: leave out --adapter")
  if adapter and pathlib.Path(adapter).resolve() == pathlib.Path(folder).resolve():
    raise CheckpointError(f"--adapter={adapter} must be another folder than --output")
  if has_lora:
    flat = lora.scaled(flat, _scale(flat, lora_alpha, path))
  elif lora_alpha is not None:
    raise CheckpointError(f"{path}: it holds no LoRA: leave out --lora_alpha")
  needs_tokenizer = kind not in ("htsat", "cnn14")
  tokenizer = _choose_tokenizer(tokenizer_source, path, cfg) if needs_tokenizer else None
  contents = {folder: flat}
  if adapter:
    base = {name: x for name, x in flat.items() if not peft.is_factor(name)}
    contents = {folder: base, adapter: {n: x for n, x in flat.items() if n not in base}}
  elif kind == "mellow with LoRA":
    contents = {folder: lora.merge(flat, 1.0)}
  for place, content in contents.items():
    checkpoint.save_model(place, content, cfg, preset, tokenizer)
    print(f"{path} ({kind}) -> {place}: {len(content)} arrays")
  dropped = sorted(line.key for line in lines if line.path is None)
  if dropped:
    print(f"computed anew when needed, not stored: {', '.join(dropped)}")


def _scale(flat: dict[str, np.ndarray], lora_alpha: float | None, path: pathlib.Path) -> float:
  """Alpha / rank, with alpha as given, as in the file beside the weights, or as is usual."""
  rank, whose = lora.rank(flat), "as given"
  alpha = lora_alpha
  if alpha is None:
    alpha, whose = peft.read_alpha(path, rank), f"of {sources.ADAPTER_CONFIG}"
  if alpha is None:
    alpha, whose = peft.default_alpha(flat)
    whose += "; the file does not tell it: --lora_alpha sets another"
  print(f"LoRA of rank {rank}, alpha {alpha:g} ({whose})")
  return alpha / rank


def to_pytorch(
  folder: str,
  weights: str | None,
  *,
  adapter: str | None = None,
  lora_alpha: float | None = None,
  dry_run: bool,
) -> None:
  """Converts a model folder, with an adapter's if one is given, to a .pt or .safetensors file.

  With dry_run it prints the keys. Raises CheckpointError.
  """
  flat, cfg, _ = checkpoint.load_params(folder)
  if adapter:
    flat = flat | checkpoint.load_params(adapter)[0]
  flat = {name: np.asarray(x) for name, x in flat.items()}
  rank = lora.rank(flat)
  if rank:
    # In our folders B holds the scale already.
    alpha = lora_alpha or peft.default_alpha(flat)[0]
    flat = lora.scaled(flat, rank / alpha)
    print(f"LoRA of rank {rank}: to be loaded with lora_alpha={alpha:g} (--lora_alpha)")
  elif adapter or lora_alpha is not None:
    raise CheckpointError(f"{adapter or folder}: it holds no LoRA")
  state_dict = convert.reverse(flat, cfg)
  if dry_run:
    for key, array in state_dict.items():
      print(f"{key}  {list(array.shape)} {array.dtype}")
    return
  output = pathlib.Path(weights)
  _write(output, state_dict)
  if rank and convert.kind_of(state_dict) == "adapter":
    peft.write_config(output, state_dict, cfg, rank, alpha)
  print(f"{folder} -> {output}: {len(state_dict)} entries")


def _write(output: pathlib.Path, state_dict: dict[str, np.ndarray]) -> None:
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
