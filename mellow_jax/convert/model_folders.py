"""Model folders from PyTorch weights, and PyTorch weights from model folders."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import huggingface_hub
import numpy as np
import tokenizers
from safetensors.numpy import save

from mellow_jax import checkpoint, files
from mellow_jax.config import ModelConfig
from mellow_jax.convert import convert, file_kinds, gguf_files, peft, sources, torch_files
from mellow_jax.data.tokenizer import load_tokenizer
from mellow_jax.errors import CheckpointError, first_line
from mellow_jax.models import lora


def find_tokenizer(source: str) -> tokenizers.Tokenizer:
  """The tokenizer of a file, a folder or a hub repository, hf://OWNER/REPO.

  Raises CheckpointError saying what to give instead.
  """
  path = pathlib.Path(source)
  if path.is_file() or checkpoint.has_tokenizer(path):
    return load_tokenizer(path)
  repo = source.removeprefix("hf://")
  try:
    if path.is_dir():  # an older repository's, with vocab.json and merges.txt
      return _auto_tokenizer(source)
    with sources.one_retry_line(source):
      return load_tokenizer(huggingface_hub.hf_hub_download(repo, "tokenizer.json"))
  except CheckpointError:
    raise
  except huggingface_hub.errors.RemoteEntryNotFoundError:
    return _auto_tokenizer(repo)
  except Exception as error:  # The hub's library passes on the errors of its HTTP library.
    raise _no_tokenizer(source, error) from error


def _auto_tokenizer(source: str) -> tokenizers.Tokenizer:
  """The tokenizer of a repository without tokenizer.json, as transformers makes it."""
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is absent
  from transformers import AutoTokenizer  # takes seconds, and is seldom needed

  try:
    return AutoTokenizer.from_pretrained(source).backend_tokenizer
  except Exception as error:  # of transformers, tokenizers and the hub
    raise _no_tokenizer(source, error) from error


def _no_tokenizer(source: str, error: Exception) -> CheckpointError:
  return CheckpointError(
    f"{source}: no tokenizer found ({first_line(error)}); give --tokenizer=PATH, a tokenizer.json "
    "or a folder that holds one"
  )


def _choose_tokenizer(weights: pathlib.Path, cfg: ModelConfig) -> tokenizers.Tokenizer:
  """The one within or beside the weights, else the decoder's on the hub; says which."""
  if file_kinds.told(weights) == file_kinds.GGUF:
    print(f"tokenizer: within {weights}")
    return gguf_files.read_tokenizer(weights)
  beside = weights.parent if checkpoint.has_tokenizer(weights.parent) else None
  source = str(beside or f"hf://{peft.BASES[cfg.decoder.kind]}")
  print(f"tokenizer: of {source}")
  return find_tokenizer(source)


def _print_plan(kind: str, lines: list[convert.Line]) -> None:
  for line in lines:
    print(f"{line.key}  {list(line.shape)} {line.dtype}  ->  {line.path or 'computed, dropped'}")
  print(f"{kind}: {len(lines)} entries, {sum(line.path is not None for line in lines)} kept")


class _Weights(NamedTuple):
  """Weights that have been read, with what they are of."""

  path: pathlib.Path
  kind: str  # a key of rules.MARKERS
  cfg: ModelConfig
  lines: list[convert.Line]
  flat: dict[str, np.ndarray]


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
  """Puts the file before what CheckpointErrors of its content say."""
  try:
    yield
  except CheckpointError as error:
    raise CheckpointError(f"{path}: {error}") from error


def _read(weights: str, like: ModelConfig | None, *, print_plan: bool) -> _Weights:
  """Reads weights of the architecture `like`, by default of the released sizes.

  Names and shapes are checked before the values of large files are read.
  """
  decoder = like and like.decoder
  names, path = sources.load_state_dict(weights, decoder, names_only=True)
  with _naming(path):
    kind, names, renamed = convert.recognise(names)
    if renamed:
      print(f"{path}: prefixes of keys are taken off: {renamed[0]} is read as {renamed[1]}")
    cfg = like or convert.config_of(names)
    lines = convert.plan(names, cfg)
  if print_plan:
    _print_plan(kind, lines)
  state_dict, _ = sources.load_state_dict(str(path), decoder)
  with _naming(path):
    return _Weights(path, kind, cfg, lines, convert.convert(state_dict, cfg))


def to_model_folder(
  weights: str,
  folder: str | None,
  *,
  adapter: str | None = None,
  lora_alpha: float | None = None,
  like: str | None = None,
  tokenizer_source: str | None,
  preset: str | None,
  dry_run: bool,
) -> None:
  """Converts PyTorch weights; with dry_run it prints the table and writes nothing.

  LoRA's factors in a whole checkpoint go to the folder `adapter`, or into the kernels without one.
  The model folder `like` has the architecture, and preset and tokenizer where none are given; by
  default they are the released ones. Raises CheckpointError.
  """
  cfg, like_preset = checkpoint.read_config(like) if like else (None, "release")
  if dry_run:
    _read(weights, cfg, print_plan=True)
    return
  for place in filter(None, (folder, adapter)):
    checkpoint.check_free(place)
  if adapter and pathlib.Path(adapter).resolve() == pathlib.Path(folder).resolve():
    raise CheckpointError(f"--adapter={adapter} must be another folder than --output")
  given = tokenizer_source or (like if like and checkpoint.has_tokenizer(like) else None)
  tokenizer = find_tokenizer(given) if given else None

  read = _read(weights, cfg, print_plan=False)
  contents = _contents(read, folder, adapter, lora_alpha)
  if read.kind in ("htsat", "cnn14"):
    tokenizer = None
  elif not tokenizer:
    tokenizer = _choose_tokenizer(read.path, read.cfg)
  for place, content in contents.items():
    checkpoint.save_model(place, content, read.cfg, preset or like_preset, tokenizer)
    print(f"{read.path} ({read.kind}) -> {place}: {len(content)} arrays")
  if dropped := sorted(line.key for line in read.lines if line.path is None):
    print(f"computed anew when needed, not stored: {', '.join(dropped)}")


def _contents(
  read: _Weights, folder: str, adapter: str | None, lora_alpha: float | None
) -> dict[str, dict[str, np.ndarray]]:
  """The parameters that each folder gets."""
  path, flat = read.path, read.flat
  is_whole = read.kind == "mellow with LoRA"
  has_lora = any(map(peft.is_factor, flat))
  if adapter and not (has_lora and is_whole):
    raise CheckpointError(f"{path}: it is no whole model with LoRA: leave out --adapter")
  if has_lora:
    flat = lora.scaled(flat, _scale(flat, lora_alpha, path))
  elif lora_alpha is not None:
    raise CheckpointError(f"{path}: it holds no LoRA: leave out --lora_alpha")
  if adapter:
    base = {name: x for name, x in flat.items() if not peft.is_factor(name)}
    return {folder: base, adapter: {n: x for n, x in flat.items() if n not in base}}
  return {folder: lora.merge(flat, 1.0) if is_whole else flat}


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
  if not dry_run:
    _check_output(pathlib.Path(weights))
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
  if rank and convert.recognise(state_dict).kind == "adapter":
    peft.write_config(output, state_dict, cfg, rank, alpha)
  print(f"{folder} -> {output}: {len(state_dict)} entries")
  if cfg != convert.config_of(state_dict):
    print(f"of other sizes than the released: back with `mellow convert --like={folder}`")


def _check_output(output: pathlib.Path) -> None:
  if output.suffix not in (".pt", ".safetensors"):
    raise CheckpointError(f"--output={output}: its ending must be .pt or .safetensors")
  if output.is_dir() or not output.parent.is_dir():
    what = "is a folder" if output.is_dir() else f"{output.parent} is not a folder"
    raise CheckpointError(f"--output={output}: {what}: name a file in a folder that exists")


def _write(output: pathlib.Path, state_dict: dict[str, np.ndarray]) -> None:
  if output.suffix == ".pt":
    torch_files.write(output, state_dict)
  else:
    try:
      with files.replacing(output, "wb") as file:
        file.write(save({k: np.asarray(v, order="C") for k, v in state_dict.items()}))
    except Exception as error:  # safetensors raises its own error for a full disk
      raise CheckpointError(f"{output}: could not be written: {error}") from error
