"""The only file that knows Orbax: model folders and training checkpoints.

A model folder is what the converter writes and what generate, evaluate and train read:

  config.json      model configuration, preset of preprocessing and prompts, digests
  params/          parameters, an Orbax checkpoint with one entry a leaf
  tokenizer.json   of the `tokenizers` library

A training run's folder `checkpoints/` holds one Orbax step a save, and beside the state the SHA-256
of every leaf: Orbax itself restores flipped bits without a word.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tokenizers
from absl import logging
from jaxtyping import PyTree
from orbax.checkpoint import options as ocp_options

from mellow_jax import config as config_lib
from mellow_jax.config import ModelConfig
from mellow_jax.models import mellow

FORMAT = 1


class CheckpointError(ValueError):
  """A checkpoint that cannot be written or must not be used; the message names path and remedy."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """What a model folder holds."""

  params: PyTree
  config: ModelConfig
  preset: str
  tokenizer: tokenizers.Tokenizer


def digest(flat: dict[str, Any]) -> dict[str, str]:
  """SHA-256 of every leaf's type, shape and bytes."""
  result = {}
  for name, leaf in flat.items():
    array = np.asarray(leaf)
    sha = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    sha.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    result[name] = sha.hexdigest()
  return result


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [repr(error)])[0][:300]


def _free_space(path: pathlib.Path) -> str:
  while not path.exists():
    path = path.parent
  return f"{shutil.disk_usage(path).free / 2**20:.0f} MiB free"


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

  params may be a part of the model's, such as a pretrained encoder alone; such a folder is for
  `init_from`, not for answering. Raises CheckpointError where the folder holds something and
  overwrite is False, and where the disk is full.
  """
  folder = pathlib.Path(folder).absolute()
  if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
    raise CheckpointError(f"{folder} exists and is not empty: name a new folder or remove it")
  part = folder.with_name(folder.name + ".part")
  shutil.rmtree(part, ignore_errors=True)
  try:
    part.mkdir(parents=True)
    flat = mellow.flatten(params)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(part / "params", flat)
    content = {
      "format": FORMAT,
      "preset": preset,
      "model": dataclasses.asdict(config),
      "sha256": digest(flat),
    }
    (part / "config.json").write_text(json.dumps(content, indent=1))
    if tokenizer is not None:
      tokenizer.save(str(part / "tokenizer.json"))
    if folder.exists():
      shutil.rmtree(folder)
    part.rename(folder)
  except Exception as error:  # a full disk arrives as OSError, ValueError or plain Exception
    shutil.rmtree(part, ignore_errors=True)
    raise CheckpointError(
      f"{folder}: could not be written ({_free_space(folder)}): {_first_line(error)}"
    ) from error


def _read_config(folder: pathlib.Path) -> dict:
  try:
    content = json.loads((folder / "config.json").read_text())
  except (OSError, ValueError) as error:
    raise CheckpointError(
      f"{folder}: no readable config.json; a model folder is written by "
      f"`python -m tools.convert_weights` or by training ({error})"
    ) from error
  if content.get("format") != FORMAT:
    raise CheckpointError(f"{folder}: format {content.get('format')}, this version reads {FORMAT}")
  return content


def load_params(folder: str | pathlib.Path) -> tuple[dict[str, Any], ModelConfig, str]:
  """(parameters by path, configuration, preset) of a model folder, checked against its digests.

  Raises CheckpointError where a part is missing, damaged or of another architecture than
  config.json says.
  """
  folder = pathlib.Path(folder).absolute()
  content = _read_config(folder)
  try:
    config = config_lib.from_dict(ModelConfig, content["model"])
    config_lib.validate(config)
    names, preset = content["sha256"], content["preset"]
  except (KeyError, TypeError, ValueError) as error:
    raise CheckpointError(f"{folder}/config.json: {error}") from error
  abstract = mellow.flatten(mellow.abstract(config)[1])
  unknown = sorted(set(names) - set(abstract))
  if unknown:
    raise CheckpointError(f"{folder}/config.json: {unknown[0]} is no parameter of this model")
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = {
    name: jax.ShapeDtypeStruct(abstract[name].shape, abstract[name].dtype, sharding=device)
    for name in names
  }
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      flat = checkpointer.restore(folder / "params", target)
  except Exception as error:  # Orbax raises plain Exception and many others for damage
    raise CheckpointError(
      f"{folder}/params: damaged, or not of the architecture in config.json: {_first_line(error)}"
    ) from error
  _check_digest(f"{folder}/params", flat, names)
  return flat, config, preset


def load_tokenizer(path: str | pathlib.Path) -> tokenizers.Tokenizer:
  """The tokenizer of a tokenizer.json or of the folder that holds one.

  Raises CheckpointError naming the file.
  """
  path = pathlib.Path(path)
  path = path / "tokenizer.json" if path.is_dir() else path
  try:
    return tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # tokenizers raises plain Exception
    raise CheckpointError(f"{path}: no readable tokenizer: {_first_line(error)}") from error


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
  tokenizer = load_tokenizer(folder)
  return LoadedModel(mellow.unflatten(flat, abstract), config, preset, tokenizer)


def _check_digest(where: str, flat: dict[str, Any], expected: dict[str, str]) -> None:
  actual = digest(flat)
  wrong = sorted(k for k in actual.keys() | expected.keys() if actual.get(k) != expected.get(k))
  if wrong:
    raise CheckpointError(
      f"{where}: {len(wrong)} arrays differ from their SHA-256, first {wrong[0]}: the files are "
      "damaged; restore them from a copy or convert again"
    )


class TrainCheckpoints:
  """The checkpoints of one training run, newest last.

  A step counts only once its commit marker is written, so a kill at any moment leaves the steps
  before it whole.
  """

  def __init__(self, folder: str | pathlib.Path, *, keep: int):
    self.folder = pathlib.Path(folder).absolute()
    atomicity = ocp_options.AtomicityOptions(ocp_options.AtomicityMode.COMMIT_FILE)
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        # With one kept step, a failed save would leave none.
        max_to_keep=max(keep, 2),
        cleanup_tmp_directories=True,
        atomicity_options=atomicity,
      ),
    )

  def save(self, step: int, state: PyTree, meta: dict[str, Any]) -> None:
    """Starts writing a step in the background; waits for the one before it.

    Raises CheckpointError with path and free space where this or the last save failed.
    """
    # A copy: the step after this one reuses the state's own buffers.
    flat = {name: np.array(leaf) for name, leaf in mellow.flatten(state).items()}
    meta = {**meta, "step": step, "sha256": digest(flat)}
    args = ocp.args.Composite(state=ocp.args.StandardSave(flat), meta=ocp.args.JsonSave(meta))
    try:
      self._manager.save(step, args=args, force=True)
    except Exception as error:  # a full disk arrives as ValueError, OSError or plain Exception
      raise self._failed(error) from error

  def wait(self) -> None:
    """Returns once the last save is on disk; raises CheckpointError where it failed."""
    try:
      self._manager.wait_until_finished()
    except Exception as error:  # as in save
      raise self._failed(error) from error

  def _failed(self, error: Exception) -> CheckpointError:
    return CheckpointError(
      f"{self.folder}: saving failed ({_free_space(self.folder)}); earlier steps "
      f"{self._manager.all_steps()} are kept: {_first_line(error)}"
    )

  def restore(self, like: PyTree, meta: dict[str, Any]) -> tuple[PyTree, dict] | None:
    """The newest sound step and its meta data; None where no step was ever written.

    like holds ShapeDtypeStructs with their shardings. Each entry of meta must equal the saved one.
    Raises CheckpointError where the run was started with other settings, or where steps exist and
    none is sound: training never silently starts from zero.
    """
    failures = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        return self._restore_step(step, like, meta)
      except _OtherRunError as error:
        raise CheckpointError(f"{self.folder}/{step}: {error}") from error
      except Exception as error:  # Orbax raises plain Exception and many others for damage
        failures.append(f"step {step}: {_first_line(error)}")
        logging.warning("checkpoint %s is unusable, trying an older one: %s", step, error)
    leftover = [p.name for p in self.folder.glob("*") if p.name.isdigit()]
    if failures or leftover:
      detail = "; ".join(failures) or f"folders {sorted(leftover)} have no commit marker"
      raise CheckpointError(
        f"{self.folder}: no usable checkpoint ({detail}). Restore one from a copy, or remove the "
        "folder to start from the beginning"
      )
    return None

  def _restore_step(self, step: int, like: PyTree, meta: dict) -> tuple[PyTree, dict]:
    saved = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
    saved_meta = saved["meta"]
    for key, value in meta.items():
      if saved_meta.get(key) != value:
        raise _OtherRunError(
          f"was saved with {key} = {saved_meta.get(key)!r}, this run has {value!r}; "
          "use another --workdir or the same settings"
        )
    args = ocp.args.Composite(state=ocp.args.StandardRestore(mellow.flatten(like)))
    flat = self._manager.restore(step, args=args)["state"]
    _check_digest(f"{self.folder}/{step}", flat, saved_meta["sha256"])
    return mellow.unflatten(flat, like), saved_meta

  def close(self) -> None:
    """Waits for the last save and lets go of Orbax's threads."""
    self._manager.close()


class _OtherRunError(Exception):
  """A sound checkpoint of a run with other settings."""
