"""Checkpoints of a training run: saved in the background, verified when they are restored.

The folder `checkpoints/` of a run holds a folder for each saved step:

  state/               the training state, an Orbax checkpoint with one entry a leaf
  meta/                the run's settings, its counters, and the SHA-256 of every leaf
  commit_success.txt   written last: without it the step does not count

Orbax restores flipped bits without an error; the digests reveal them.
"""

import dataclasses
import json
import logging as python_logging
import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jaxtyping import PyTree
from orbax.checkpoint import options as ocp_options

from mellow_jax import array_folder, checkpoint, files, parallel
from mellow_jax.config import Config
from mellow_jax.errors import CheckpointError, first_line
from mellow_jax.models import mellow

COMMITTED = "commit_success.txt"  # the file that Orbax writes last into a step's folder
IN_PLACE = ocp_options.AtomicityOptions(ocp_options.AtomicityMode.COMMIT_FILE)

# Among the settings, of content whose path may change.
DIGEST = "the digest of its rows"
TOKENIZER = "the digest of its tokenizer"
WINDOWS = "the windows of its features"
Counters = dict[str, int | float]
# Config fields that may differ when a run is resumed: they change rounding at most, or what is done
# beside the steps, but for those that `_decided_by` adds to a run. Of paths, whose content does
# change a step, the settings have the digests above.
CHANGEABLE = (
  *("mesh", "save_every", "keep", "eval_every", "eval_batches", "sample_answers", "log_every"),
  *("init_from", "data.train", "data.val", "data.audio_root", "data.tokenizer", "data.threads"),
  *("data.quarantine", "data.answer_lengths", "data.features"),
  *("data.cache_clips", "data.max_bad_fraction", "data.workers", "data.timeout_seconds"),
  *("optim.max_skipped", "accumulate", "attention", "keep_best", "audit", "deterministic"),
  *("auto_remat", "model.decoder.remat"),
)
# A saved step or a run may be without them: see `TrainCheckpoints.restore`.
OPTIONAL = frozenset({*CHANGEABLE, TOKENIZER, WINDOWS})


def run_settings(cfg: Config, rows: int, content: Mapping[str, str]) -> dict[str, Any]:
  """Settings by field that must be equal for one run to resume another.

  rows is the number of training rows, content has the digest of these and of other files.
  """
  plain = json.loads(json.dumps(dataclasses.asdict(cfg)))
  leaves = jax.tree_util.tree_leaves_with_path(plain, is_leaf=lambda x: not isinstance(x, dict))
  named = {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}
  free = set(CHANGEABLE) - _decided_by(cfg)
  return {"rows": rows, **content, **{name: x for name, x in named.items() if name not in free}}


def _decided_by(cfg: Config) -> set[str]:
  """The fields among CHANGEABLE that do change what a step of this run computes."""
  found: set[str] = set()
  if cfg.data.group_answers:
    found.add("data.answer_lengths")  # which rows share a batch follows from them
  if cfg.encoder_train_mode and cfg.model.encoder.batch_statistics:
    found.add("accumulate")  # a batch norm has the statistics of a part
    if cfg.accumulate > 1:
      found.add("data.answer_lengths")  # parts are by length where there are several
  if getattr(cfg.model.decoder, "dropout", 0.0):
    # What is drawn for attention's weights follows from how many there are.
    found.add("data.answer_lengths")
    if cfg.data.answer_lengths > 1:
      found.add("accumulate")  # each part has its own length
  return found


def _may_go_on(run: dict[str, Any]) -> bool:
  """Whether no step of a run depends on how many there are, so that more can follow."""
  return run.get("optim.schedule") == "constant" and run.get("data.source") == "files"


# An older version that lacks a field computed what the field's default does.
_DEFAULTS = run_settings(Config(), 0, {DIGEST: ""})


def silence_orbax() -> None:
  """Keeps Orbax's 800 lines about a failed save off stderr; CheckpointError has one."""
  logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
  # After the first array that fails, the exceptions of the others are never retrieved.
  python_logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.msg)
  show = sys.unraisablehook

  def show_others(unraisable: Any) -> None:
    # For each array TensorStore calls an event loop that the first failure has closed.
    if "Event loop is closed" not in str(unraisable.exc_value):
      show(unraisable)

  sys.unraisablehook = show_others


class TrainCheckpoints:
  """The checkpoints of a training run, of which the newest `keep` are kept.

  A step counts only once its commit marker is written, and older steps are removed only after that:
  a kill at any moment leaves the steps before it intact.
  """

  def __init__(self, folder: str | pathlib.Path, *, keep: int):
    self.folder = pathlib.Path(folder).absolute()
    self._keep = keep
    self._step = 0  # of the newest save
    # Compression would need memory for another copy of the state, to make the files 8% smaller.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False)
    handlers = {"state": handler, "meta": ocp.JsonCheckpointHandler()}
    # Folders made in the background are announced under a number that every save counts up, also
    # one of the first process alone (best/): the others then write into a folder that the first
    # still removes and makes. So a save begins once its folders are there.
    at_once = ocp.AsyncOptions(create_directories_asynchronously=False)
    composite = ocp.CompositeOptions(async_options=at_once)
    self._writer = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(composite_options=composite, **handlers),
      async_options=at_once,
      atomicity_options=IN_PLACE,
    )
    # Each process reads by itself, so that one that fails does not block the others.
    alone = array_folder.this_process_alone()
    handlers = {
      "state": ocp.StandardCheckpointHandler(multiprocessing_options=alone),
      "meta": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    }
    self._reader = ocp.Checkpointer(
      ocp.CompositeCheckpointHandler(**handlers),
      multiprocessing_options=alone,
      atomicity_options=IN_PLACE,
    )
    if parallel.is_first():
      self.folder.mkdir(parents=True, exist_ok=True)
      for part in self._unfinished():
        logging.warning("%s was not finished: removed", part)
    self._tidy()
    parallel.barrier()  # the other processes list the folder after that

  def steps(self) -> list[int]:
    """The finished steps, oldest first."""
    return sorted(int(part.name) for part in self._folders() if (part / COMMITTED).exists())

  def _folders(self) -> list[pathlib.Path]:
    return [part for part in self.folder.glob("*") if part.name.isdigit()]

  def _unfinished(self) -> list[pathlib.Path]:
    return [part for part in self._folders() if not (part / COMMITTED).exists()]

  def _tidy(self) -> None:
    """Removes old steps and unfinished ones; must not be called during a save."""
    if parallel.is_first():
      old = [self.folder / str(step) for step in self.steps()[: -self._keep]]
      for part in [*self._unfinished(), *old]:
        shutil.rmtree(part, ignore_errors=True)

  def save(self, step: int, state: PyTree, run: dict[str, Any], counters: Counters) -> None:
    """Starts writing a step in the background, once the step before is on disk.

    run holds the settings of `run_settings`, counters what the host counts. Raises CheckpointError
    with path and free space where this save cannot start, and also where the last one failed; this
    one is then started all the same.
    """
    try:
      self.wait()
    finally:
      self._start(step, state, run, counters)

  def _start(self, step: int, state: PyTree, run: dict[str, Any], counters: Counters) -> None:
    flat, self._step = mellow.flatten(state), step
    meta = {"run": run, "step": step, "counters": counters, "sha256": checkpoint.digest(flat)}
    meta["check"] = checkpoint.digest_json(meta)
    args = ocp.args.Composite(state=ocp.args.PyTreeSave(flat), meta=ocp.args.JsonSave(meta))
    try:
      # The first process decides: a save that only some start would wait for the others forever.
      lack = checkpoint.lack_of_room(self.folder, flat)
      if parallel.from_first(bool(lack)):
        raise OSError(lack)
      self._writer.save(self.folder / str(step), args=args)
    except Exception as error:  # a full disk arrives as ValueError, OSError or plain Exception
      raise self._failed(error) from error

  def poll(self) -> None:
    """Raises CheckpointError if the save in the background has failed; does not wait for it."""
    try:
      self._writer.check_for_errors()
    except Exception as error:  # as in save
      raise self._failed(error) from error

  def wait(self) -> None:
    """Returns once the last save is on disk; raises CheckpointError where it failed."""
    failure = None
    try:
      self._writer.wait_until_finished()
    except Exception as error:  # as in save
      failure = error
    if parallel.any_process(failure is not None):
      failure = failure or OSError("another process could not write its part")
      raise self._failed(failure) from failure
    self._tidy()

  def _failed(self, error: Exception) -> CheckpointError:
    what = f"step {self._step} could not be saved, steps {self.steps()} are kept"
    failure = checkpoint.unwritten(self.folder, what, error)
    if jax.process_count() == 1:  # else others may still be writing: the next wait tidies
      self._tidy()
    return failure

  def restore(self, like: PyTree, run: dict[str, Any]) -> tuple[PyTree, Counters] | None:
    """(state, counters) of the newest intact step; None if no step was ever finished.

    like holds ShapeDtypeStructs with their shardings. A step is intact if every process can read
    it. Newer steps that are damaged are renamed, so that the run can save them again.
    Raises CheckpointError where the run was started with other settings, and where steps exist but
    none is intact: training never silently starts from zero.
    """
    failures: dict[int, str] = {}
    steps = self.steps()[::-1]
    # All processes go through the first one's list, so that they make the same collective calls.
    for i in range(parallel.from_first(len(steps))):
      step = parallel.from_first(steps[i] if parallel.is_first() else 0)
      try:
        meta = self._together(self._read_meta, step)
        saved = {name: x for name, x in _DEFAULTS.items() if name in run} | meta["run"]
        different = {key for key in saved | run if saved.get(key) != run.get(key)}
        # Where one of the two lacks such a one, either the field that adds it differs too, or an
        # older version has saved the step and did not write it down.
        different -= {key for key in OPTIONAL if key not in saved or key not in run}
        if _may_go_on(run):
          different -= {"steps"}
        if not different:
          flat = self._together(self._read_state, step, like)
          where = f"{self.folder}/{step}"
          self._together(checkpoint.check_digest, where, flat, meta["sha256"])
      except Exception as error:  # Orbax raises plain Exception and many others for damage
        failures[step] = first_line(error)
        logging.warning("%s/%s is damaged, an older step is tried: %s", self.folder, step, error)
        continue
      if different:
        raise CheckpointError(f"{self.folder}/{step}: {self._remedy(different, saved, run)}")
      self._set_aside(failures)
      return mellow.unflatten(flat, like), meta["counters"]
    if failures:
      detail = "; ".join(f"step {step}: {reason}" for step, reason in failures.items())
      raise CheckpointError(
        f"{self.folder}: no usable checkpoint ({detail}). Restore one from a copy, or remove the "
        "folder to start from the beginning"
      )
    return None

  def _remedy(self, different: set[str], saved: dict[str, Any], run: dict[str, Any]) -> str:
    """Which of the settings that differ stands in the way, and what to do."""
    source, schedule = (run.get(name) for name in ("data.source", "optim.schedule"))
    if "steps" in different and source == "scenes":
      different = different - {"rows", DIGEST}  # they follow from the number of steps
    key, remedy = min(different), "use another --workdir or the same settings"
    if different == {"steps"}:
      remedy = (
        f"the learning rate of optim.schedule = {schedule!r} and the order of scenes follow from "
        "the number of steps, and only a run on files with 'constant' goes on: to train on, use "
        f"another --workdir with --config.init_from={self.folder.parent / 'model'}"
      )
    return f"was saved with {key} = {saved.get(key)!r}, this run has {run.get(key)!r}; {remedy}"

  def _together(self, read: Any, *args: Any) -> Any:
    """The result of read; raises in every process if it raised in one."""
    found = failure = None
    try:
      found = read(*args)
    except Exception as error:  # as in restore
      failure = error
    if parallel.any_process(failure is not None):
      raise failure or ValueError("another process could not read it")
    return found

  def _set_aside(self, steps: Iterable[int]) -> None:
    for step in steps:
      if parallel.is_first():
        files.set_aside(self.folder / str(step), ".damaged")
    parallel.barrier()  # the other processes list the folder after that

  def _read_meta(self, step: int) -> dict[str, Any]:
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    meta = self._reader.restore(self.folder / str(step), args=args)["meta"]
    if meta.pop("check", None) != checkpoint.digest_json(meta):
      raise ValueError("its meta data differ from their SHA-256")
    return meta

  def _read_state(self, step: int, like: PyTree) -> dict[str, jax.Array]:
    args = ocp.args.Composite(state=ocp.args.StandardRestore(mellow.flatten(like)))
    return self._reader.restore(self.folder / str(step), args=args)["state"]

  def close(self) -> None:
    """Waits for the last save, as wait does, and ends Orbax's threads."""
    try:
      self.wait()
    finally:
      self._writer.close()
      self._reader.close()
