"""Processes and devices: start of several processes, mesh, shardings, collectives on the host."""

import contextlib
import ctypes
import importlib.util
import itertools
import os
import pathlib
import platform
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import distributed, xla_bridge
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from mellow_jax.config import Config, ModelConfig
from mellow_jax.errors import ConfigError, LateError, first_line, how_to_install

_CACHE_SECONDS = 2.0  # most that reading a compiled program takes
_STORE_MS = 10**9  # to wait for other processes: whether they live, heartbeats tell
# Source: DebugOptions of openxla/xla, xla.proto.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
MALLOPT = {"M_TRIM_THRESHOLD": -1, "M_MMAP_MAX": -4, "M_ARENA_MAX": -8}  # of glibc's malloc.h
# How JAX says that a process was late, where it does not abort: its coordination service, and the
# clusters in which the host of process 0 has no address before it starts.
_LATE = re.compile(
  "DEADLINE_EXCEEDED|UNAVAILABLE|Failed to recognize coordinator address|Retry failed with all"
)


class Cluster(NamedTuple):
  """The launcher of this run's processes, and what JAX has to be told about them."""

  name: str
  arguments: dict[str, Any]  # of jax.distributed.initialize; JAX finds the others itself


def detect_cluster(environ: Mapping[str, str]) -> Cluster | None:
  """The launcher that the environment variables name; None for a process that runs alone.

  JAX reads the variables of SLURM, Open MPI, Kubernetes and TPU pods itself, but checks neither
  whether there is a second process to wait for nor how many GPUs each process shall have.

  Raises ConfigError where there are other processes and their address cannot be found.
  """

  def number(name: str, default: int = 1) -> int:
    return int(environ.get(name) or default)

  slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
  if all(name in environ for name in slurm):
    # Of this job step: a shell that salloc opens is one task, whatever the job has room for.
    tasks = number("SLURM_STEP_NUM_TASKS", number("SLURM_NTASKS"))
    gpus = [name for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    local_tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "").split("(")[0].split(",")[0]
    arguments: dict[str, Any] = {"num_processes": tasks}
    if len(gpus) == 1 or (gpus and local_tasks == "1"):
      # JAX takes the GPU with the task's number on its node: with one task on a node only the first
      # of all its GPUs, and with one GPU bound to each task a GPU that the task does not see.
      arguments["local_device_ids"] = list(range(len(gpus)))
    return Cluster("SLURM", arguments) if tasks > 1 else None
  if number("OMPI_COMM_WORLD_SIZE") > 1:
    arguments = {
      "num_processes": number("OMPI_COMM_WORLD_SIZE"),
      "process_id": number("OMPI_COMM_WORLD_RANK", 0),
    }
    return Cluster("Open MPI", arguments)
  hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
  if hosts:
    several = "," in hosts or number("MEGASCALE_NUM_SLICES") > 1
    return Cluster("the TPU's node pool", {}) if several else None
  # JAX sets TPU_ML_PLATFORM when it is imported where there are TPUs and their library.
  has_tpu = environ.get("TPU_ML_PLATFORM") == "JAX" and "TPU_SKIP_MDS_QUERY" not in environ
  if has_tpu and "tpu" in (environ.get("JAX_PLATFORMS") or "tpu"):
    return Cluster("the TPU VM's metadata", {})  # also with a single host
  if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
    if importlib.util.find_spec("kubernetes"):
      return Cluster("Kubernetes", {})
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
  """Connects this process to the others of its run; does nothing where there are none.

  coordinator is HOST:PORT of process 0, by default JAX_COORDINATOR_ADDRESS, and without that what
  `detect_cluster` finds; "none" is a process alone. Must be called before any device is used. All
  processes must see the same files.

  start_seconds is how long to wait for the others, until an error or an abort by JAX. A process
  without a sign of life for heartbeat_seconds counts as dead, and the others abort: no collective
  could ever end.

  Raises ConfigError where flags and environment do not suffice, and for a coordinator without an
  address; LateError where the others did not start in time.
  """
  coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
  if coordinator == "none":
    return
  if coordinator and not re.fullmatch(r".+:\d+", coordinator):
    raise ConfigError(f"--coordinator={coordinator}: give HOST:PORT, or none for a process alone")
  cluster = detect_cluster(os.environ)
  if not coordinator and cluster is None:
    if processes is not None or process_id is not None:
      raise ConfigError("--processes and --process_id go with --coordinator=HOST:PORT")
    return
  arguments = dict(cluster.arguments) if cluster else {}
  given = {
    "coordinator_address": coordinator or None,
    "num_processes": processes,
    "process_id": process_id,
  }
  arguments |= {name: value for name, value in given.items() if value is not None}
  if coordinator:
    _find(coordinator, start_seconds)
  source = f"--coordinator={coordinator}" if coordinator else cluster.name
  try:
    jax.distributed.initialize(
      **arguments,
      initialization_timeout=start_seconds,
      heartbeat_timeout_seconds=heartbeat_seconds,
    )
  except (ValueError, RuntimeError, OSError) as error:
    if _LATE.search(str(error)):
      raise LateError(
        f"{source}: not all processes had started after {start_seconds} s: give the same command "
        f"again; `mellow train` waits longer with --start_seconds ({first_line(error)})"
      ) from error
    raise ConfigError(
      f"{source}: {first_line(error)} Give --coordinator=HOST:PORT --processes=N "
      "--process_id=I, or --coordinator=none for this process alone"
    ) from error
  log(f"{jax.process_count()} processes, from {source}")


def _find(coordinator: str, seconds: int) -> None:
  """Waits until the host of HOST:PORT has an address, which a pod has none of before it starts.

  JAX would abort the process as if others were late. Raises ConfigError after so many seconds.
  """
  host, end = coordinator.rpartition(":")[0].strip("[]"), time.monotonic() + seconds
  while True:
    try:
      socket.getaddrinfo(host, None)
      return
    except (OSError, UnicodeError) as error:
      if time.monotonic() > end:
        why = f"{host} has no address ({first_line(error)})"
        raise ConfigError(
          f"--coordinator={coordinator}: {why}: give the host of process 0"
        ) from None
    time.sleep(1)


def require_device(kind: str | None) -> None:
  """Checks that JAX runs on the cpu, gpu or tpu that --device named; None: on whatever there is.

  Must be called after `initialize`. Raises ConfigError with the remedy where there is no such
  device.
  """
  remedies = {
    "gpu": f"on a machine with an NVIDIA GPU, {how_to_install('cuda')}; or give --device=cpu",
    "tpu": f"on a TPU VM, {how_to_install('tpu')}; or give --device=cpu",
    "cpu": "a device is in use already",
  }
  if kind is None:
    return
  reason = ""
  try:
    found = jax.default_backend()
  except (RuntimeError, AssertionError) as error:  # the latter of JAX 0.10 where no GPU is visible
    found, reason = None, f" ({first_line(error)})" if str(error) else ""
  if found != kind:
    raise ConfigError(f"--device={kind}: JAX finds none here{reason}: {remedies[kind]}")


def make_deterministic() -> None:
  """Makes programs compiled from now on give the same bits in every run.

  Only programs for GPUs change: the flag excludes kernels whose atomic additions come in any order,
  and autotuning, which may choose another kernel each time. On CPUs and TPUs the program fixes the
  order of additions.

  Must be called before any device is used. Raises ConfigError where that is too late.
  """
  if xla_bridge.backends_are_initialized():
    raise ConfigError(
      "config.deterministic comes too late, devices are in use already: start with "
      f"XLA_FLAGS={DETERMINISTIC}"
    )
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()


def has_gpu_plugin() -> bool:
  """Whether JAX's plugin for NVIDIA GPUs, with their compiler, is installed here."""
  return any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin")))


def keep_freed_memory() -> None:
  """Lets this process keep the memory that it has freed, where JAX runs on the CPU alone.

  XLA takes gigabytes for a step and frees them. The C library of Linux, glibc, gives them back to
  the system, which clears each page before the next step has it: a seventh of the time of a
  full-size training step on two cores, and a tenth of the encoder's. For commands that compute
  batch after batch: in a program of others it would decide about their memory, too.

  Does nothing once a device is in use: a thread's first allocation decides where its others are.
  Source: mallopt(3).
  """
  if xla_bridge.backends_are_initialized():
    return
  platforms = jax.config.jax_platforms
  may_be_another = platforms or has_gpu_plugin() or importlib.util.find_spec("libtpu")
  if platforms != "cpu" and may_be_another:
    return
  if platform.libc_ver()[0] == "glibc":
    mallopt = ctypes.CDLL(None).mallopt
    # One arena, whose memory is contiguous; nothing outside it; and nothing of it given back.
    for name, value in (("M_ARENA_MAX", 1), ("M_MMAP_MAX", 0), ("M_TRIM_THRESHOLD", -1)):
      mallopt(MALLOPT[name], value)


class StopSignal:
  """Turns SIGTERM, which schedulers send, and Ctrl-C into a request to stop after this step.

  The signals then no longer end the process, but a second Ctrl-C does. Must be made after
  `initialize`, in the main thread. That thread hears of a signal only between instructions of
  Python, in a compilation a minute later: another one answers at once.
  """

  GRACE_SECONDS = 3.0  # after a second Ctrl-C, for the main thread to clean up
  is_heard = False  # whether there is one in this process

  def __init__(self):
    self._received, self._calls = False, 0
    # Only one of several processes may get the signal: JAX catches SIGTERM in each and agrees.
    if jax.process_count() == 1:
      signal.signal(signal.SIGTERM, self._terminate)
    signal.signal(signal.SIGINT, self._interrupt)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # it gets each signal's number at once
    threading.Thread(target=self._watch, args=(reader,), daemon=True, name="signals").start()
    StopSignal.is_heard = True

  def _watch(self, reader: int) -> None:
    presses = 0
    while presses < 2:
      if os.read(reader, 1)[0] != signal.SIGINT:
        continue
      presses += 1
      if presses == 1:
        _say_at_once("\nstops after the next step; Ctrl-C again ends at once\n")
    time.sleep(self.GRACE_SECONDS)
    _say_at_once("error: stopped by Ctrl-C\n")
    os._exit(130)

  def _terminate(self, *_: object) -> None:
    self._received = True

  def _interrupt(self, *_: object) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGTERM)

  def requested(self) -> bool:
    """Must be called by all processes before each step; turns true in all before the same one."""
    self._calls += 1  # JAX wants numbers that start at 1 in every process, resumed or not
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(self._calls)
    return self._received


def _say_at_once(text: str) -> None:
  """Writes to stderr past Python's buffer, which another thread may hold, if it has a reader."""
  with contextlib.suppress(OSError):
    os.write(2, text.encode())


def is_first() -> bool:
  """Whether this process is the one that prints and writes files."""
  return jax.process_index() == 0


_logged = time.monotonic()  # when the last line was


def log(text: str) -> None:
  """Prints a line, in the first process only."""
  global _logged
  _logged = time.monotonic()
  if not is_first():
    return
  try:
    print(text, flush=True)
  except BrokenPipeError:
    if not StopSignal.is_heard:
      raise
    _without_reader()


def _without_reader() -> None:
  """Goes on where stdout's reader is gone, and asks for the stop that saves the run.

  Ctrl-C ends `| tee`, too, and a run must not be lost with what it prints.
  """
  null = os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, 1)
  try:
    os.write(2, b"stdout was closed: stops after the next step\n")
  except OSError:  # stderr goes the same way
    os.dup2(null, 2)
  os.close(null)
  signal.raise_signal(signal.SIGTERM)


def silent_seconds() -> float:
  """How long nothing was logged."""
  return time.monotonic() - _logged


def from_first(value: int) -> int:
  """The first process's value, in every process; all must call it."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def barrier() -> None:
  """Returns once every process has called it."""
  from_first(0)


def any_process(value: bool) -> bool:
  """Whether it is true in one of the processes; all must call it."""
  return bool(np.any(multihost_utils.process_allgather(np.bool_(value))))


def make_mesh(shape: tuple[int, ...], devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh (data, fsdp) of all devices, or of those given; a size of -1 takes what is left.

  The devices of a process follow each other, in the order of the processes, so that its rows of a
  batch do so, too: `place_batch` and the numbers of rows rely on it. `jax.make_mesh` would follow
  the places of a TPU's chips, among which a host's may lie apart.

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
  in_order = sorted(devices, key=lambda device: (device.process_index, device.id))
  names, types = ("data", "fsdp"), (AxisType.Auto,) * 2
  return Mesh(np.array(in_order).reshape(data, fsdp), names, axis_types=types)


def one_all_reduce(mesh: Mesh) -> dict[str, int]:
  """Compiler options that sum all gradients in one all-reduce.

  By default the TPU's compiler makes several, one after the other; the others make one anyway.
  """
  if mesh.devices.flat[0].platform != "tpu":
    return {}
  prefix = "xla_jf_crs_combiner_threshold_"
  return {f"{prefix}in_bytes": 2**31 - 1, f"{prefix}count": 10_000}


class DecoderWays(NamedTuple):
  """In what ways a decoder in training computes the same: what a kind of device is fastest at."""

  attention: str = "scores"  # as config.attention, without "auto"
  logits_bytes: int | None = None  # of a piece of the loss; None: as few as suit a CPU


# A CPU keeps a small piece of the loss in its cache. Elsewhere it pays to have few: each reads the
# whole embedding, and adds to the whole of its gradient. One alone computes its logits once, too.
LOGITS_BYTES = {"gpu": 2**32, "tpu": 2**29}


KERNELS = {"splash": "tpu", "cudnn": "gpu"}  # of attention, and where each runs


def _misfit(kernel: str, model: ModelConfig, platform: str) -> str:
  """Why a kernel of attention cannot train a model on a kind of device; "" where it can.

  The kernels are for heads as wide as half of a TPU's registers, and cuDNN's for masks that hide
  nothing but later positions, and not for float32.
  """
  if platform != KERNELS[kernel]:
    return f"is a kernel of {KERNELS[kernel].upper()}s, and the run is on a {platform.upper()}"
  if model.decoder.head_size % 64:
    return f"is for heads whose size is a multiple of 64, not {model.decoder.head_size}"
  if kernel == "cudnn" and model.mask_padding:
    return "would attend to the padding that config.model.mask_padding hides"
  if kernel == "cudnn" and model.dtype == "float32":
    return "does not compute in float32, as config.model.dtype asks for"
  return ""


def decoder_ways(cfg: Config, mesh: Mesh | None) -> DecoderWays:
  """Those of a config on the devices of a mesh; None: on those of this process.

  Raises ConfigError where config.attention names a kernel that cannot train the model there.
  """
  platform = mesh.devices.flat[0].platform if mesh else jax.default_backend()
  attention = cfg.attention
  if attention == "auto":
    fitting = (kernel for kernel in KERNELS if not _misfit(kernel, cfg.model, platform))
    attention = next(fitting, "pieces")
  elif attention in KERNELS and (why := _misfit(attention, cfg.model, platform)):
    raise ConfigError(f"config.attention {attention!r} {why}: give --config.attention=auto")
  return DecoderWays(attention, LOGITS_BYTES.get(platform))


def device_memory(mesh: Mesh) -> int:
  """Bytes of memory of a device of the mesh; of a CPU, those of the machine."""
  found = mesh.local_devices[0].memory_stats()  # other processes' devices do not tell
  if found and "bytes_limit" in found:
    return found["bytes_limit"]
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
  """A NamedSharding for each array of an abstract state.

  Each array is sharded along its largest axis that divides by the fsdp axis; small arrays and those
  without such an axis are replicated.
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
  """The sharding of an array that every device holds in full."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch: its examples divided over all devices."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree:
  """Global arrays over all processes' devices from this process's rows of a batch."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def to_host(leaf: jax.Array | np.ndarray) -> np.ndarray:
  """The whole array, on the host; all processes must call it, as each may hold a part."""
  if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
    leaf = multihost_utils.process_allgather(leaf, tiled=True)
  return np.asarray(leaf)


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """The sum of an array over all processes; all must call it."""
  return counts if jax.process_count() == 1 else _gather(counts).sum(axis=0)


def max_over_processes(values: np.ndarray) -> np.ndarray:
  """The maximum of an array over all processes; all must call it."""
  return values if jax.process_count() == 1 else _gather(values).max(axis=0)


_gathered = itertools.count()  # calls of _gather, as many in every process


def _gather(mine: np.ndarray) -> np.ndarray:
  """The arrays of all processes, stacked; all must call it, with the same shape and type.

  They meet in the store of jax.distributed and not on the devices, where the host would wait for
  the step that was dispatched before.
  """
  client, number, this = distributed.global_state.client, next(_gathered), jax.process_index()

  def place(number: int, name: object) -> str:
    return f"mellow_jax/gathered/{number}/{name}"

  def get(name: object) -> bytes:
    return client.blocking_key_value_get_bytes(place(number, name), _STORE_MS)

  if this:
    client.key_value_set_bytes(place(number, this), mine.tobytes())
    found = get("all")
  else:
    found = b"".join([mine.tobytes(), *map(get, range(1, jax.process_count()))])
    client.key_value_set_bytes(place(number, "all"), found)
    # The others have asked for this one: they have read the one before.
    for name in ("all", *range(1, jax.process_count())) if number else ():
      client.key_value_delete(place(number - 1, name))
  return np.frombuffer(found, mine.dtype).reshape(-1, *mine.shape)


@contextlib.contextmanager
def told_of_compilation(say: Callable[[], None]) -> Iterator[None]:
  """Calls say, at most once, where the block compiles a program that the cache does not hold.

  JAX tells of a hit at once, and of a miss only after the compilation: what takes longer than any
  reading of the cache is one.
  """
  if jax.config.jax_compilation_cache_dir is None:
    say()
    yield
    return
  timers, told = [], threading.Lock()

  def tell() -> None:
    if told.acquire(blocking=False):
      say()

  def listen(event: str, **_: object) -> None:
    name = event.removeprefix("/jax/compilation_cache/")
    if name in ("cache_hits", "compile_requests_use_cache"):
      for timer in timers:
        timer.cancel()
    if name == "compile_requests_use_cache":
      timers[:] = [threading.Timer(_CACHE_SECONDS, tell)]
      timers[0].daemon = True
      timers[0].start()
    elif name == "cache_misses":
      tell()

  jax.monitoring.register_event_listener(listen)
  try:
    yield
  finally:
    jax.monitoring.unregister_event_listener(listen)
    for timer in timers:
      timer.cancel()


def use_compilation_cache() -> None:
  """Keeps compiled programs for the next start, in MELLOW_CACHE or ~/.cache/mellow_jax.

  An empty MELLOW_CACHE keeps none. JAX_COMPILATION_CACHE_DIR takes precedence where it is set.
  """
  folder = os.environ.get("MELLOW_CACHE", "~/.cache/mellow_jax")
  if jax.config.jax_compilation_cache_dir is None and folder:
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # How a Fourier transform is partitioned (models/logmel.py) stands in the program as a memory
    # address, which differs in every process.
    jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True)
    compilation_cache.reset_cache()  # JAX reads the folder at its first compilation only
