"""Where weights come from: a file, a folder laid out as on the Hugging Face hub, or the hub.

All give the same thing, a flat state_dict of numpy arrays, and the path it was read from.
"""

import contextlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
import ml_dtypes  # Importing it teaches numpy, and thereby safetensors, bfloat16.
import numpy as np
from safetensors import SafetensorError, safe_open

from mellow_jax.config import SmolLM2Config
from mellow_jax.convert import file_kinds, gguf_files, torch_files
from mellow_jax.errors import CheckpointError

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ADAPTER_CONFIG = "adapter_config.json"  # of peft
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.(safetensors|bin)")
_OLDER = re.compile(
  r"(adapter|pytorch)_model\.bin.*"
)  # hold the same as the safetensors beside them
# Lightning's key, the one of CNN14's training code, and those of others.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
# What training leaves beside a model's weights.
_COMPANION = re.compile(r"(optimizer|scheduler|scaler|rng_state|random_states|training_args).*")
# Types as safetensors calls them; those of them that are not converted are refused by name.
_DTYPES = {
  **{"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64},
  **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8},
  **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "BOOL": np.bool_},
}
_HUB = "hf://"
_HUB_SYNTAX = "hf://owner/repo[/file][@revision]"


def load_state_dict(
  source: str, decoder: SmolLM2Config | None = None, *, names_only: bool = False
) -> tuple[dict[str, np.ndarray], Path]:
  """The tensors of a checkpoint by name, and the file they came from.

  `source` is a file of PyTorch, safetensors or GGUF, whatever its ending, the index of a sharded
  one, a folder that holds one checkpoint, or hf://owner/repo[/file][@revision]. Wrappers such as
  {"state_dict": ...} are taken off. `decoder` has the sizes that a GGUF file must have, by default
  SmolLM2-135M's. With names_only the values of large files stay unread, and are zeros here. Raises
  CheckpointError.
  """
  path = locate(source)
  tensors = _read(path, decoder, names_only=names_only)
  if not tensors:
    raise CheckpointError(f"{path}: holds no tensors")
  return tensors, path


def locate(source: str) -> Path:
  """The file that `load_state_dict` reads, fetched from the hub if need be."""
  path = _download(source) if source.startswith(_HUB) else Path(source).expanduser()
  if path.is_dir():
    path = path / _choose([entry.name for entry in path.iterdir() if entry.is_file()], str(path))
  if not path.is_file():
    raise CheckpointError(f"{path}: no such file or folder; give a checkpoint or {_HUB_SYNTAX}")
  return path


def _read(path: Path, decoder: SmolLM2Config | None, *, names_only: bool) -> dict[str, np.ndarray]:
  match file_kinds.told(path):
    case file_kinds.TORCH:
      return _unwrap(torch_files.read(path, names_only=names_only), path)
    case file_kinds.SAFETENSORS:
      return _read_safetensors(path, names_only=names_only)
    case file_kinds.GGUF:
      return gguf_files.read(path, decoder)
    case _:
      return _read_shards(path, names_only=names_only)


def _choose(names: list[str], place: str) -> str:
  """The one checkpoint among the files of a folder or repository."""
  shards = [name for name in names if _SHARD.fullmatch(name)]
  found = {name for name in names if Path(name).suffix.lower() in file_kinds.ENDINGS}
  found -= {*shards, *filter(_COMPANION.fullmatch, found)}
  found |= {name for name in names if name in _INDEXES}
  if any(re.fullmatch(r"(adapter_)?model\.safetensors.*", name) for name in found):
    found -= {*filter(_OLDER.fullmatch, found)}
  if len(found) == 1:
    return found.pop()
  if found:
    listed = ", ".join(sorted(found))
    raise CheckpointError(f"{place}: holds several checkpoints, name one of them: {listed}")
  if shards:
    index = _INDEXES[shards[0].endswith(".bin")]
    raise CheckpointError(f"{place}: has shards such as {shards[0]} but no {index}; add it")
  known = ", ".join(file_kinds.ENDINGS)
  raise CheckpointError(f"{place}: holds no checkpoint ({known} or {' or '.join(_INDEXES)})")


@contextlib.contextmanager
def one_retry_line(source: str) -> Iterator[None]:
  """Where the hub does not answer, one line takes the place of its library's many."""
  told = False

  def tell(record: logging.LogRecord) -> bool:
    nonlocal told
    if not told and "Retrying" in record.getMessage():
      told = True
      print(f"{source}: the hub does not answer, trying for half a minute", file=sys.stderr)
    return False

  log = logging.getLogger("huggingface_hub.utils._http")
  log.addFilter(tell)
  try:
    yield
  finally:
    log.removeFilter(tell)


def _download(source: str) -> Path:
  """Brings a checkpoint from the hub, or finds it in the hub's cache when offline."""
  name, _, revision = source.removeprefix(_HUB).partition("@")
  parts = name.split("/")
  if len(parts) < 2 or not all(parts) or ".." in parts or "@" in revision:
    raise CheckpointError(f"{source}: not of the form {_HUB_SYNTAX}")
  repo, file = "/".join(parts[:2]), "/".join(parts[2:])
  revision = revision or None
  try:
    with one_retry_line(source):
      return _fetch(source, repo, file, revision)
  except CheckpointError:
    raise
  except Exception as error:  # The hub's library passes on the errors of its HTTP library.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise CheckpointError(
      f"{source}: cannot be fetched ({reason}); check the name and the connection, log in with "
      "`hf auth login` if it is private, or give a local file"
    ) from error


def _fetch(source: str, repo: str, file: str, revision: str | None) -> Path:
  """The file, or that of the repository, with what belongs to it beside it; see `_list`."""
  if not file:
    folder_or_names = _list(repo, revision)
    if isinstance(folder_or_names, Path):
      return folder_or_names
    file = _choose(folder_or_names, source)
  path = Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))

  def fetch(name: str) -> None:
    beside = (PurePosixPath(file).parent / name).as_posix()
    huggingface_hub.hf_hub_download(repo, beside, revision=revision)

  if path.name.endswith(".index.json"):
    for shard in sorted(set(_read_index(path).values())):
      fetch(shard)
  if path.name in _ADAPTERS:
    fetch(ADAPTER_CONFIG)
  with contextlib.suppress(huggingface_hub.errors.EntryNotFoundError):  # most have none
    fetch("tokenizer.json")
  return path


def _list(repo: str, revision: str | None) -> list[str] | Path:
  """The files at the top of a repository, or its folder in the cache where the hub is away."""
  try:
    names = huggingface_hub.HfApi().list_repo_files(repo, revision=revision)
  except Exception as unreachable:
    try:
      cached = huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
    except OSError:  # Nothing is cached: why the hub was not reached is the better news.
      raise unreachable from None
    return Path(cached)
  return [name for name in names if "/" not in name]


def _unwrap(tree: dict, path: Path) -> dict[str, np.ndarray]:
  while wrappers := [key for key in _WRAPPERS if isinstance(tree.get(key), dict)]:
    if len(wrappers) > 1:
      raise CheckpointError(f"{path}: holds both {' and '.join(wrappers)}; save one of them alone")
    tree = tree[wrappers[0]]
  for key, value in tree.items():
    if not isinstance(key, str) or not isinstance(value, np.ndarray):
      raise CheckpointError(
        f"{path}: {key!r} is a {type(value).__name__}, not a tensor; "
        f"save the state_dict alone, or under one of the keys {', '.join(_WRAPPERS)}"
      )
  return dict(tree)


def _read_safetensors(path: Path, *, names_only: bool) -> dict[str, np.ndarray]:
  try:
    with safe_open(path, framework="np") as file:
      if names_only:
        return {key: _zeros(file.get_slice(key)) for key in file.keys()}  # noqa: SIM118
      return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  It is no dict.
  # Unknown dtypes surface as KeyError or TypeError, from the depths of the binding.
  except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
    raise CheckpointError(
      f"{path}: no readable safetensors file ({error}); download it again"
    ) from error


def _zeros(stored: Any) -> np.ndarray:
  """Of the shape and type of a tensor of safetensors, without memory."""
  zero = np.zeros((), _DTYPES[stored.get_dtype()])
  return np.broadcast_to(zero, stored.get_shape())


def _read_shards(index: Path, *, names_only: bool) -> dict[str, np.ndarray]:
  places = _read_index(index)
  tensors: dict[str, np.ndarray] = {}
  for shard in sorted(set(places.values())):
    path = index.parent / shard
    if not path.is_file():
      raise CheckpointError(f"{path}: missing, though {index.name} names it; download it too")
    if file_kinds.told(path) == file_kinds.INDEX:
      raise CheckpointError(f"{path}: it is JSON, not a shard of {index.name}; download it again")
    content = _read(path, None, names_only=names_only)
    expected = {key for key, place in places.items() if place == shard}
    if odd := sorted(content.keys() ^ expected):
      raise CheckpointError(f"{path}: {index.name} disagrees with it about {_some(odd)}")
    tensors |= content
  return tensors


def _read_index(path: Path) -> dict[str, str]:
  """Which shard beside the index holds each tensor."""
  try:
    places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    # A shard lies beside its index: no path in its name may lead elsewhere.
    is_valid = bool(places) and all(_SHARD.fullmatch(n) and "/" not in n for n in places.values())
  except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
    is_valid = False
  if not is_valid:
    raise CheckpointError(f"{path}: not an index of a checkpoint's shards; download it again")
  return places


def _some(keys: list[str]) -> str:
  return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
