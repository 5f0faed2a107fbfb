"""Devices and processes: how a run starts, the mesh, where each array lies, and the way back."""

import os
import pathlib
import signal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from mellow_jax.config import ConfigError


def initialize(
  coordinator: str = "", processes: int | None = None, process_id: int | None = None
) -> None:
  """Joins this process to the others of its run; where nothing asks for it, nothing is done.

  coordinator is HOST:PORT of process 0, or "auto" where the surroundings tell everything (SLURM,
  Open MPI, Kubernetes, TPU pods); without it JAX_COORDINATOR_ADDRESS counts. To be called before
  any device is used. All processes must see the same files.

  Raises ConfigError where the flags do not say enough.
  """
  coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
  if not coordinator:
    if processes is not None or process_id is not None:
      raise ConfigError("--processes and --process_id go with --coordinator=HOST:PORT")
    return
  try:
    jax.distributed.initialize(
      None if coordinator == "auto" else coordinator, processes, process_id
    )
  except (ValueError, RuntimeError) as error:
    raise ConfigError(f"--coordinator={coordinator}: {str(error).splitlines()[0]}") from error


class Stop:
  """Whether the run was asked to stop: by SIGTERM, as schedulers do, or by Ctrl-C.

  From then on the signals no longer end the process; a second Ctrl-C does. To be made after
  `initialize`, in the main thread.
  """

  def __init__(self):
    self._heard, self._times = False, 0
    # Of several processes one may be signalled: JAX listens for SIGTERM in each and agrees.
    if jax.process_count() == 1:
      signal.signal(signal.SIGTERM, self._hear)
    signal.signal(signal.SIGINT, self._interrupt)

  def _hear(self, *_: object) -> None:
    self._heard = True

  def _interrupt(self, *_: object) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGTERM)

  def asked(self) -> bool:
    """To be called by all processes before each step; becomes true for all before the same one."""
    self._times += 1  # JAX wants numbers that start at 1 in every process, resumed or not
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(self._times)
    return self._heard


def is_first() -> bool:
  """Whether this process is the one that speaks and writes."""
  return jax.process_index() == 0


def say(text: str) -> None:
  """A line for the person who watches, from the first process alone."""
  if is_first():
    print(text, flush=True)


def from_first(value: int) -> int:
  """The first process's number, in every process; a point that all of them reach."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_process(value: bool) -> bool:
  """Whether it is true in one of the processes; a point that all of them reach."""
  return bool(np.any(multihost_utils.process_allgather(np.bool_(value))))


def make_mesh(shape: tuple[int, ...]) -> Mesh:
  """All devices as (data, fsdp); one of the two sizes may be -1, meaning what is left.

  Raises ConfigError where the shape does not use every device.
  """
  devices = jax.device_count()
  if len(shape) != 2:
    raise ConfigError(f"config.mesh {tuple(shape)} must be two numbers: data, fsdp")
  data, fsdp = shape
  if data == -1:
    data = devices // max(fsdp, 1)
  elif fsdp == -1:
    fsdp = devices // max(data, 1)
  if data < 1 or fsdp < 1 or data * fsdp != devices:
    raise ConfigError(f"config.mesh {tuple(shape)} does not cover the {devices} devices present")
  return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
  """A NamedSharding for each array of the abstract state.

  Every array is divided along its largest axis that the fsdp axis divides; small ones and those
  that no axis fits are copied to every device.
  """
  parts = mesh.shape["fsdp"]

  def place(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    fitting = [i for i, size in enumerate(leaf.shape) if size % parts == 0 and size >= parts]
    if parts == 1 or not fitting or np.prod(leaf.shape) < 2**10:
      return NamedSharding(mesh, PartitionSpec())
    axis = max(fitting, key=lambda i: leaf.shape[i])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

  return jax.tree.map(place, tree)


def replicated(mesh: Mesh) -> NamedSharding:
  """On every device a copy."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The examples of a batch, divided over all devices."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree:
  """This process's rows of a batch as one global array over all processes' devices."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def to_host(leaf: jax.Array | np.ndarray) -> np.ndarray:
  """The whole array in every process; where devices of others hold a part, all must ask for it."""
  if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
    leaf = multihost_utils.process_allgather(leaf, tiled=True)
  return np.asarray(leaf)


def total(counts: np.ndarray) -> np.ndarray:
  """The sum of an array over all processes, which must all ask for it."""
  if jax.process_count() == 1:
    return counts
  return np.asarray(multihost_utils.process_allgather(counts)).sum(axis=0)


def enable_compilation_cache() -> pathlib.Path:
  """Keeps compiled programs on disk, so that a second start does not compile again.

  The folder is MELLOW_CACHE, or ~/.cache/mellow_jax.
  """
  folder = pathlib.Path(os.environ.get("MELLOW_CACHE", "~/.cache/mellow_jax")).expanduser()
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  return folder
