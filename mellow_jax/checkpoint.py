"""Model folders; this file and training/checkpoints.py are the only ones that know Orbax.

A model folder is what the converter writes and what generate, evaluate and train read:

  config.json      model configuration, preset of preprocessing and prompts, digests
  params/          parameters, an Orbax checkpoint with one entry a leaf
  tokenizer.json   of the `tokenizers` library, which data/tokenizer.py loads
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
import tokenizers
from jaxtyping import PyTree

from mellow_jax import files, parallel
from mellow_jax.config import ModelConfig, from_dict, validate_model
from mellow_jax.data.tokenizer import load_tokenizer
from mellow_jax.errors import CheckpointError, DataError, first_line
from mellow_jax.models import lora, mellow

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """What a model folder holds."""

  params: PyTree
  config: ModelConfig
  preset: str
  tokenizer: tokenizers.Tokenizer
  temperature: float = 1.0  # of decisions; see `save_calibration`


def digest(flat: dict[str, Any]) -> dict[str, str]:
  """SHA-256 of type, shape and bytes of each array, by path; the same in every process."""
  result = {}
  for name, leaf in flat.items():
    array = parallel.to_host(leaf)
    sha = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    sha.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    result[name] = sha.hexdigest()
  return result


def digest_json(values: dict[str, Any]) -> str:
  """SHA-256 of a dict of JSON values, whatever the order of its keys."""
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _free_bytes(path: pathlib.Path) -> int:
  while not path.exists():
    path = path.parent
  return shutil.disk_usage(path).free


def unwritten(path: pathlib.Path, what: str, error: Exception) -> CheckpointError:
  """The CheckpointError of a write that failed: path, free space and reason."""
  free = f"{_free_bytes(path) / 2**20:.0f} MiB free"
  return CheckpointError(f"{path}: {what} ({free}): {first_line(error)}")


def lack_of_room(path: pathlib.Path, flat: dict[str, Any]) -> str:
  """Why the arrays do not fit on the disk, "" if they do: Orbax notices late, in many words."""
  needed = sum(leaf.nbytes for leaf in flat.values())
  return f"{needed / 2**20:.1f} MiB are needed" if needed > _free_bytes(path) else ""


def check_free(folder: str | pathlib.Path) -> None:
  """Raises CheckpointError where no model folder can be written: before what takes long."""
  folder = pathlib.Path(folder).absolute()
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise CheckpointError(f"{folder} exists and is not empty: name a new folder or remove it")
  above = next(parent for parent in folder.parents if parent.exists())
  if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
    what = "is not a folder" if not above.is_dir() else "may not be written to"
    raise CheckpointError(f"{folder}: {above} {what}: name another folder")


def save_model(
  folder: str | pathlib.Path,
  params: PyTree,
  config: ModelConfig,
  preset: str,
  tokenizer: tokenizers.Tokenizer | None,
  *,
  overwrite: bool = False,
) -> None:
  """Writes a model folder; it appears whole or not at all.

  params may be some of the model's parameters, or LoRA factors, for `init_from`. One process
  writes. Raises CheckpointError where the folder has files and overwrite is off, or the disk is
  full.
  """
  from mellow_jax import array_folder  # Orbax, a quarter of a second that imports do not wait for

  folder = pathlib.Path(folder).absolute()
  if not overwrite:
    check_free(folder)
  flat = mellow.flatten(params)
  try:
    with files.replacing_folder(folder) as part:
      if lack := lack_of_room(part, flat):
        raise OSError(lack)
      array_folder.write(part / "params", flat)
      content = {
        "format": FORMAT,
        "preset": preset,
        "model": dataclasses.asdict(config),
        "lora_rank": lora.rank(flat),
        "sha256": digest(flat),
      }
      files.write_json(part / "config.json", content)
      if tokenizer is not None:
        tokenizer.save(str(part / "tokenizer.json"))
  except Exception as error:  # a full disk arrives as OSError, ValueError or plain Exception
    raise unwritten(folder, "could not be written", error) from error


def _read_config(folder: pathlib.Path) -> dict:
  path = folder / "config.json"
  if not path.is_file() and (folder / "model" / "config.json").is_file():
    raise CheckpointError(f"{folder} is the folder of a run: its model is {folder}/model")
  if not path.is_file():
    fault = "no readable config.json" if folder.is_dir() else "there is no such folder"
    raise CheckpointError(
      f"{folder}: {fault}; name a model folder, which `mellow convert` or training writes"
    )
  try:
    content = files.read_json(path, "a model's configuration")
  except DataError as error:
    raise CheckpointError(str(error)) from error
  found = content.get("format") if isinstance(content, dict) else None
  if found != FORMAT:
    raise CheckpointError(f"{folder}/config.json: format {found}, this version reads {FORMAT}")
  return content


def identity(folder: str | pathlib.Path) -> str:
  """SHA-256 of a folder's config.json, which has the digests of all parameters.

  Raises CheckpointError where the folder has none.
  """
  folder = pathlib.Path(folder)
  _read_config(folder)
  return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


class Contents(NamedTuple):
  """What a model folder says that it holds, known before its parameters are read."""

  config: ModelConfig
  preset: str
  arrays: dict[str, jax.ShapeDtypeStruct]  # by path
  sha256: dict[str, str]  # of each array


def contents(folder: str | pathlib.Path) -> Contents:
  """What a model folder says that it holds; raises CheckpointError where it cannot be read."""
  folder = pathlib.Path(folder).absolute()
  content = _read_config(folder)

  def fault(what: str) -> CheckpointError:
    return CheckpointError(
      f"{folder}/config.json: {what}: it is damaged or was changed; restore it from a copy, or "
      "write the folder again with `mellow convert` or training"
    )

  try:
    config = from_dict(ModelConfig, content["model"])
    validate_model(config)
    names, preset, rank = content["sha256"], content["preset"], content.get("lora_rank", 0)
    abstract = lora.abstract(mellow.flatten(mellow.abstract(config)[1]), names, rank)
  except KeyError as error:
    raise fault(f"{error} is missing") from error
  except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
    raise fault(first_line(error)) from error
  if not isinstance(preset, str):
    raise fault(f"preset is {preset!r}")
  if unknown := sorted(set(names) - set(abstract)):
    raise fault(f"{unknown[0]} is no parameter of this model")
  return Contents(config, preset, {name: abstract[name] for name in names}, names)


def read_config(folder: str | pathlib.Path) -> tuple[ModelConfig, str]:
  """(configuration, preset) of a model folder, without its parameters; raises CheckpointError."""
  return contents(folder)[:2]


def has_tokenizer(folder: str | pathlib.Path) -> bool:
  """Whether a folder holds a tokenizer.json, as whole models and decoders do."""
  return (pathlib.Path(folder) / "tokenizer.json").is_file()


def load_params(folder: str | pathlib.Path) -> tuple[dict[str, Any], ModelConfig, str]:
  """(parameters by path, configuration, preset) of a model folder, checked against its digests.

  Raises CheckpointError where a part is missing, damaged or of another architecture than
  config.json says.
  """
  from mellow_jax import array_folder  # Orbax, a quarter of a second that imports do not wait for

  folder = pathlib.Path(folder).absolute()
  config, preset, arrays, names = contents(folder)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device) for name, x in arrays.items()
  }
  try:
    flat = array_folder.read(folder / "params", target)
  except Exception as error:  # Orbax raises plain Exception and many others for damage
    raise CheckpointError(
      f"{folder}/params: damaged, or not of the architecture in config.json: {first_line(error)}; "
      "restore it from a copy, or write the folder again with `mellow convert` or training"
    ) from error
  check_digest(f"{folder}/params", flat, names)
  return flat, config, preset


def load_model(folder: str | pathlib.Path) -> LoadedModel:
  """A whole model folder.

  Raises CheckpointError as load_params does, and where parameters are missing.
  """
  flat, config, preset = load_params(folder)
  _, abstract = mellow.abstract(config)
  missing = sorted(set(mellow.flatten(abstract)) - set(flat))
  if missing:
    raise CheckpointError(
      f"{folder} holds a part of the model: {len(missing)} parameters are missing, first "
      f"{missing[0]}; train from it with --config.init_from"
    )
  return LoadedModel(
    params=mellow.unflatten(flat, abstract),
    config=config,
    preset=preset,
    tokenizer=load_tokenizer(folder),
    temperature=load_calibration(folder),
  )


def save_calibration(folder: str | pathlib.Path, temperature: float, **more: Any) -> None:
  """Keeps the temperature of a model's decisions in its folder, with what it was fitted on."""
  path = pathlib.Path(folder) / "calibration.json"
  files.write_json(path, {"temperature": temperature, **more})


def load_calibration(folder: str | pathlib.Path) -> float:
  """The temperature of decisions that a model folder keeps, or 1; raises CheckpointError."""
  path = pathlib.Path(folder) / "calibration.json"
  if not path.exists():
    return 1.0
  try:
    temperature = files.read_json(path, "a model's calibration")["temperature"]
    if not (isinstance(temperature, float | int) and 0 < temperature < float("inf")):
      raise ValueError(f"temperature {temperature!r} is no number above 0")
  except (DataError, KeyError, TypeError, ValueError) as error:
    raise CheckpointError(
      f"{path}: {first_line(error)}: remove it, or fit it anew with mellow calibrate"
    ) from None
  return float(temperature)


def check_digest(where: str, flat: dict[str, Any], expected: dict[str, str]) -> None:
  """Raises CheckpointError where an array differs from the digest of the one written."""
  actual = digest(flat)
  wrong = sorted(k for k in actual.keys() | expected.keys() if actual.get(k) != expected.get(k))
  if wrong:
    raise CheckpointError(
      f"{where}: {len(wrong)} arrays differ from their SHA-256, first {wrong[0]}: the files are "
      "damaged; restore them from a copy or convert again"
    )
