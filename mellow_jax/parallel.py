"""Devices and processes: how a run starts, the mesh, where each array lies, and the way back."""

import importlib.util
import os
import pathlib
import signal
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import xla_bridge
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from mellow_jax.errors import ConfigError

# Source: DebugOptions of openxla/xla, xla.proto.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


class Surroundings(NamedTuple):
  """What starts the processes of a run, and what it leaves for us to tell JAX."""

  name: str
  known: dict[str, Any]  # arguments of jax.distributed.initialize; JAX finds the others itself


def surroundings(environ: Mapping[str, str]) -> Surroundings | None:
  """Whose processes this one belongs to, from the environment; None where it is alone.

  JAX can read the variables of SLURM, Open MPI, Kubernetes and TPU pods, but asks neither whether
  there is a second process to wait for nor how many GPUs each is to have.

  Raises ConfigError where there are others and they cannot be found.
  """

  def number(name: str, default: int = 1) -> int:
    return int(environ.get(name) or default)

  slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
  if all(name in environ for name in slurm):
    # Of this step: a shell that salloc opens is one task, whatever the job has room for.
    tasks = number("SLURM_STEP_NUM_TASKS", number("SLURM_NTASKS"))
    gpus = [name for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    local_tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "").split("(")[0].split(",")[0]
    known: dict[str, Any] = {"num_processes": tasks}
    if len(gpus) == 1 or (gpus and local_tasks == "1"):
      # JAX would take the GPU of the task's number on its node: with one task a node the first of
      # all, and with a GPU bound to each task one that the task does not see.
      known["local_device_ids"] = list(range(len(gpus)))
    return Surroundings("SLURM", known) if tasks > 1 else None
  if number("OMPI_COMM_WORLD_SIZE") > 1:
    known = {
      "num_processes": number("OMPI_COMM_WORLD_SIZE"),
      "process_id": number("OMPI_COMM_WORLD_RANK", 0),
    }
    return Surroundings("Open MPI", known)
  hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
  if hosts:
    several = "," in hosts or number("MEGASCALE_NUM_SLICES") > 1
    return Surroundings("the TPU's node pool", {}) if several else None
  # JAX, once imported, names itself where it finds TPUs and their library.
  has_tpu = environ.get("TPU_ML_PLATFORM") == "JAX" and "TPU_SKIP_MDS_QUERY" not in environ
  if has_tpu and "tpu" in (environ.get("JAX_PLATFORMS") or "tpu"):
    return Surroundings("the TPU VM's metadata", {})  # they say so, too, where there is one host
  if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
    if importlib.util.find_spec("kubernetes"):
      return Surroundings("Kubernetes", {})
    if number("JOB_COMPLETION_INDEX", 0):
      raise ConfigError(
        "this pod is one of several, which JAX finds with the Python package kubernetes: install "
        "it, or give --coordinator=HOST:PORT --processes=N --process_id=$(JOB_COMPLETION_INDEX)"
      )
  return None


def initialize(
  coordinator: str = "",
  processes: int | None = None,
  process_id: int | None = None,
  start_seconds: int = 300,
  heartbeat_seconds: int = 100,
) -> None:
  """Joins this process to the others of its run; where there are none, nothing is done.

  coordinator is HOST:PORT of process 0; without it JAX_COORDINATOR_ADDRESS counts, and without
  that what `surroundings` finds; "none" leaves the process alone. To be called before any device is
  used. All processes must see the same files.

  start_seconds is how long the others are waited for. A process that is not heard of for
  heartbeat_seconds is taken for dead: the others abort, since no collective could ever end.

  Raises ConfigError where the flags and the surroundings do not say enough.
  """
  coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
  if coordinator == "none":
    return
  found = surroundings(os.environ)
  if not coordinator and found is None:
    if processes is not None or process_id is not None:
      raise ConfigError("--processes and --process_id go with --coordinator=HOST:PORT")
    return
  known = dict(found.known) if found else {}
  given = {
    "coordinator_address": coordinator or None,
    "num_processes": processes,
    "process_id": process_id,
  }
  known |= {name: value for name, value in given.items() if value is not None}
  source = f"--coordinator={coordinator}" if coordinator else found.name
  try:
    jax.distributed.initialize(
      **known,
      initialization_timeout=start_seconds,
      heartbeat_timeout_seconds=heartbeat_seconds,
    )
  except (ValueError, RuntimeError, OSError) as error:
    raise ConfigError(
      f"{source}: {str(error).splitlines()[0]} Give --coordinator=HOST:PORT --processes=N "
      "--process_id=I, or --coordinator=none for this process alone"
    ) from error
  say(f"{jax.process_count()} processes, from {source}")


def make_deterministic() -> None:
  """Lets programs compiled from now on compute the same bits each time they run.

  That changes programs for GPUs alone. There the flag excludes kernels whose atomic additions come
  in any order, and the timing of kernels against each other, which may choose others each time. On
  CPUs and TPUs an operation adds in an order that its program fixes.

  To be called before any device is used. Raises ConfigError where that is too late.
  """
  if xla_bridge.backends_are_initialized():
    raise ConfigError(
      "config.deterministic comes too late, devices are in use already: start with "
      f"XLA_FLAGS={DETERMINISTIC}"
    )
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()


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


def make_mesh(shape: tuple[int, ...], devices: Sequence[jax.Device] | None = None) -> Mesh:
  """All devices, or those given, as (data, fsdp); a size may be -1, meaning what is left.

  Raises ConfigError where the shape does not use every device.
  """
  devices = jax.devices() if devices is None else devices
  if len(shape) != 2:
    raise ConfigError(f"config.mesh {tuple(shape)} must be two numbers: data, fsdp")
  data, fsdp = shape
  if data == -1:
    data = len(devices) // max(fsdp, 1)
  elif fsdp == -1:
    fsdp = len(devices) // max(data, 1)
  if data < 1 or fsdp < 1 or data * fsdp != len(devices):
    raise ConfigError(
      f"config.mesh {tuple(shape)} does not cover the {len(devices)} devices present"
    )
  names, types = ("data", "fsdp"), (AxisType.Auto,) * 2
  return jax.make_mesh((data, fsdp), names, axis_types=types, devices=devices)


def one_all_reduce(mesh: Mesh) -> dict[str, int]:
  """Options of the TPU's compiler, none elsewhere: all gradients are summed in one operation.

  By itself it makes several, one after the other; other compilers make one.
  """
  if mesh.devices.flat[0].platform != "tpu":
    return {}
  prefix = "xla_jf_crs_combiner_threshold_"
  return {f"{prefix}in_bytes": 2**31 - 1, f"{prefix}count": 10_000}


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


def use_compilation_cache() -> None:
  """Keeps compiled programs for the next start, in MELLOW_CACHE or ~/.cache/mellow_jax.

  An empty MELLOW_CACHE keeps none. JAX_COMPILATION_CACHE_DIR, where set, has the last word.
  """
  folder = os.environ.get("MELLOW_CACHE", "~/.cache/mellow_jax")
  if jax.config.jax_compilation_cache_dir is None and folder:
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # Of how a Fourier transform is divided (models/logmel.py) the program holds an address, which
    # is another in every process.
    jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True)
    compilation_cache.reset_cache()  # else JAX keeps to what it found at its first compilation
