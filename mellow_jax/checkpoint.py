"""The only file that knows Orbax: model folders and training checkpoints.

A model folder is what the converter writes and what generate, evaluate and train read:

  config.json      model configuration, preset of preprocessing and prompts, digests
  params/          parameters, an Orbax checkpoint with one entry a leaf
  tokenizer.json   of the `tokenizers` library

A training run's folder `checkpoints/` holds one Orbax step a save, and beside the state the run's
settings and the SHA-256 of every leaf: Orbax itself restores flipped bits without a word.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tokenizers
from absl import logging
from jaxtyping import PyTree
from orbax.checkpoint import options as ocp_options

from mellow_jax import config as config_lib
from mellow_jax import parallel
from mellow_jax.config import ModelConfig
from mellow_jax.models import lora, mellow

FORMAT = 1
COMMITTED = "commit_success.txt"  # the file that Orbax writes last into a step's folder


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
  """SHA-256 of every leaf's type, shape and bytes; the same in every process."""
  result = {}
  for name, leaf in flat.items():
    array = parallel.to_host(leaf)
    sha = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    sha.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    result[name] = sha.hexdigest()
  return result


def _digest_json(values: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [repr(error)])[0][:300]


def _free_bytes(path: pathlib.Path) -> int:
  while not path.exists():
    path = path.parent
  return shutil.disk_usage(path).free


def _unwritten(path: pathlib.Path, what: str, error: Exception) -> CheckpointError:
  free = f"{_free_bytes(path) / 2**20:.0f} MiB free"
  return CheckpointError(f"{path}: {what} ({free}): {_first_line(error)}")


def _lack_of_room(path: pathlib.Path, flat: dict[str, Any]) -> str:
  """Why the disk cannot take the arrays, "" if it can: Orbax notices late, and in many words."""
  needed = sum(leaf.nbytes for leaf in flat.values())
  return f"{needed / 2**20:.1f} MiB are needed" if needed > _free_bytes(path) else ""


def _local_checkpointer() -> ocp.StandardCheckpointer:
  """For this process alone, which neither waits for the others nor is waited for."""
  this = jax.process_index()
  return ocp.StandardCheckpointer(
    multiprocessing_options=ocp_options.MultiprocessingOptions(
      primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process{this}"
    )
  )


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

  params may be a part of the model's, and low-rank parts, for `init_from`. One process writes.
  Raises CheckpointError where the folder is in use and not to be overwritten, or the disk full.
  """
  folder = pathlib.Path(folder).absolute()
  if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
    raise CheckpointError(f"{folder} exists and is not empty: name a new folder or remove it")
  part = folder.with_name(folder.name + ".part")
  shutil.rmtree(part, ignore_errors=True)
  try:
    part.mkdir(parents=True)
    flat = mellow.flatten(params)
    if lack := _lack_of_room(part, flat):
      raise OSError(lack)
    with _local_checkpointer() as checkpointer:
      checkpointer.save(part / "params", flat)
    content = {
      "format": FORMAT,
      "preset": preset,
      "model": dataclasses.asdict(config),
      "lora_rank": lora.rank(flat),
      "sha256": digest(flat),
    }
    (part / "config.json").write_text(json.dumps(content, indent=1))
    if tokenizer is not None:
      tokenizer.save(str(part / "tokenizer.json"))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
      folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
  except Exception as error:  # a full disk arrives as OSError, ValueError or plain Exception
    shutil.rmtree(part, ignore_errors=True)
    raise _unwritten(folder, "could not be written", error) from error


def _read_config(folder: pathlib.Path) -> dict:
  try:
    content = json.loads((folder / "config.json").read_text())
  except (OSError, ValueError) as error:
    raise CheckpointError(
      f"{folder}: no readable config.json; a model folder is written by "
      f"`python -m tools.convert_weights` or by training ({error})"
    ) from error
  found = content.get("format") if isinstance(content, dict) else None
  if found != FORMAT:
    raise CheckpointError(f"{folder}/config.json: format {found}, this version reads {FORMAT}")
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
    names, preset, rank = content["sha256"], content["preset"], content.get("lora_rank", 0)
    abstract = lora.abstract(mellow.flatten(mellow.abstract(config)[1]), names, rank)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise CheckpointError(f"{folder}/config.json: {_first_line(error)}") from error
  unknown = sorted(set(names) - set(abstract))
  if unknown:
    raise CheckpointError(f"{folder}/config.json: {unknown[0]} is no parameter of this model")
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = {
    name: jax.ShapeDtypeStruct(abstract[name].shape, abstract[name].dtype, sharding=device)
    for name in names
  }
  try:
    with _local_checkpointer() as checkpointer:
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
    self._options = ocp.CheckpointManagerOptions(
      max_to_keep=max(keep, 2),  # with one, a failed save would leave none
      atomicity_options=ocp_options.AtomicityOptions(ocp_options.AtomicityMode.COMMIT_FILE),
    )
    if parallel.is_first():
      # What a kill left of a save. It has no use, and it takes the room of the next one.
      for part in self.folder.glob("*"):
        if part.name.isdigit() and not (part / COMMITTED).exists():
          logging.warning("%s was not finished: removed", part)
          shutil.rmtree(part)
    parallel.from_first(0)  # the others look after that
    self._manager = ocp.CheckpointManager(self.folder, options=self._options)

  def save(self, step: int, state: PyTree, run: dict[str, Any]) -> None:
    """Starts writing a step in the background, once the one before it is on disk.

    run is what another run must share to go on from here. Raises CheckpointError with path and free
    space where this save cannot start, and where the last one failed, though this one is started.
    """
    try:
      self.wait()
    finally:
      self._start(step, state, run)

  def _start(self, step: int, state: PyTree, run: dict[str, Any]) -> None:
    flat = mellow.flatten(state)
    meta = {"run": run, "step": step, "sha256": digest(flat)}
    meta["check"] = _digest_json(meta)
    args = ocp.args.Composite(state=ocp.args.StandardSave(flat), meta=ocp.args.JsonSave(meta))
    try:
      # The first process decides: a save that only some begin would wait for the others for ever.
      lack = _lack_of_room(self.folder, flat)
      if parallel.from_first(bool(lack)):
        raise OSError(lack)
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
    # After a failed save, Orbax 0.12 forgets steps that are on disk: a new manager finds them.
    self._manager = ocp.CheckpointManager(self.folder, options=self._options)
    what = f"saving failed, steps {self._manager.all_steps()} are kept"
    return _unwritten(self.folder, what, error)

  def restore(self, like: PyTree, run: dict[str, Any]) -> PyTree | None:
    """The state of the newest sound step; None where no step was ever finished.

    like holds ShapeDtypeStructs with their shardings. Newer steps that are damaged get another
    name, so that the run can write them anew. Raises CheckpointError where the run was started with
    other settings, and where steps exist and none is sound: training never silently starts from
    zero.
    """
    failures = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        meta = self._restore_meta(step)
        state = self._restore_state(step, like, meta) if meta["run"] == run else None
      except Exception as error:  # Orbax raises plain Exception and many others for damage
        failures[step] = _first_line(error)
        logging.warning("%s/%s is damaged, an older step is tried: %s", self.folder, step, error)
        continue
      if state is None:
        saved = meta["run"]
        key = min(key for key in saved.keys() | run.keys() if saved.get(key) != run.get(key))
        raise CheckpointError(
          f"{self.folder}/{step}: was saved with {key} = {saved.get(key)!r}, this run has "
          f"{run.get(key)!r}; use another --workdir or the same settings"
        )
      self._set_aside(failures)
      return state
    if failures:
      detail = "; ".join(f"step {step}: {reason}" for step, reason in failures.items())
      raise CheckpointError(
        f"{self.folder}: no usable checkpoint ({detail}). Restore one from a copy, or remove the "
        "folder to start from the beginning"
      )
    return None

  def _set_aside(self, steps: Iterable[int]) -> None:
    for step in steps:
      if parallel.is_first():
        damaged = self.folder / f"{step}.damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        (self.folder / str(step)).rename(damaged)
    parallel.from_first(0)  # the others look after that
    self._manager.reload()

  def _restore_meta(self, step: int) -> dict[str, Any]:
    meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    if meta.pop("check", None) != _digest_json(meta):
      raise ValueError("its meta data differ from their SHA-256")
    return meta

  def _restore_state(self, step: int, like: PyTree, meta: dict[str, Any]) -> PyTree:
    args = ocp.args.Composite(state=ocp.args.StandardRestore(mellow.flatten(like)))
    flat = self._manager.restore(step, args=args)["state"]
    _check_digest(f"{self.folder}/{step}", flat, meta["sha256"])
    return mellow.unflatten(flat, like)

  def close(self) -> None:
    """Waits for the last save and lets go of Orbax's threads."""
    self._manager.close()
