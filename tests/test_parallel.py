"""The same numbers on every mesh and in two processes, and one all-reduce to pay for it."""

import dataclasses
import functools
import itertools
import json
import math
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import processes
import pytest
import systems
import tiny

from mellow_jax import checkpoint, parallel
from mellow_jax.errors import ConfigError, LateError
from mellow_jax.training import device_plan, programs

TOPOLOGY = Path(__file__).parent / "topology.py"
ONE, EIGHT = ("1,1",), ("8,1", "4,2", "8,1,2")


# --- Meshes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compile_cache):
  """The folder with losses and parameters after three steps on each mesh, and the programs."""
  folder = tmp_path_factory.mktemp("meshes")
  processes.finish(
    *(
      processes.start([TOPOLOGY, folder / str(devices), *meshes], compile_cache, devices)
      for devices, meshes in ((1, ONE), (8, EIGHT))
    )
  )
  return folder


@pytest.mark.parametrize("mesh", EIGHT)
def test_losses_and_parameters_are_the_same_on_every_mesh(trained, mesh):
  with np.load(trained / "1/1,1.npz") as one, np.load(trained / f"8/{mesh}.npz") as eight:
    assert {"losses", "eval_step 0", "answer 0"} <= set(one)
    assert set(eight) == {name for name in one if mesh != "8,1,2" or " " not in name}
    for name in eight:
      # Also dropout: what is drawn for an example does not depend on where it lies.
      np.testing.assert_allclose(eight[name], one[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_batchs_statistics_are_those_of_all_devices(tmp_path, compile_cache):
  processes.finish(
    processes.start([TOPOLOGY, tmp_path / "1", "1,1,1,1"], compile_cache, 1),
    processes.start([TOPOLOGY, tmp_path / "8", "4,2,1,1"], compile_cache, 8),
  )
  with np.load(tmp_path / "1/1,1,1,1.npz") as one, np.load(tmp_path / "8/4,2,1,1.npz") as eight:
    assert not np.array_equal(one["encoder/bn0/var"], np.ones(16))
    for name in one:
      np.testing.assert_allclose(eight[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)


def all_reduces(program):
  """The shapes that each all-reduce of a compiled program carries."""
  found = re.findall(r"= (.*?) all-reduce(?:-start)?\(", program)
  return [re.findall(r"(\w+)\[([\d,]*)\]", shapes) for shapes in found]


@pytest.mark.parametrize("mesh", ["8,1", "8,1,2"])
def test_data_parallel_training_needs_one_all_reduce(trained, mesh):
  program = (trained / f"8/{mesh}.train.hlo").read_text()
  assert " while(" in program or mesh == "8,1"  # what follows is no matter of course in a loop
  (shapes,) = all_reduces(program)
  others = r" (all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
  assert not re.findall(others, program)  # every clip is heard where it lies
  assert {kind for kind, _ in shapes} == {"f32"}
  carried = sum(math.prod(map(int, filter(None, size.split(",")))) for _, size in shapes)
  unlearnt = ("encoder/bn0/mean", "encoder/bn0/var")
  with np.load(trained / "1/1,1.npz") as params:
    learnt = sum(
      params[name].size
      for name in params
      # The last is in the reference's checkpoints and used by nothing: it has no gradient.
      if "/" in name and name not in unlearnt and not name.startswith("encoder/head")
    )
  assert carried == learnt + 2  # beside the gradients, loss and number of tokens


@pytest.mark.slow
def test_every_system_needs_one_all_reduce(tmp_path, compile_cache):
  processes.finish(processes.start([TOPOLOGY, tmp_path / "found", "systems"], compile_cache, 8))
  found = json.loads((tmp_path / "found").read_text())
  assert found == {name: ["all-reduce"] for name in systems.NAMES}


SPECTRA = """
import jax
from mellow_jax import parallel
from mellow_jax.config import AudioConfig
from mellow_jax.models import logmel
from mellow_jax.training import device_plan
divided = jax.NamedSharding(parallel.make_mesh((8, 1)), jax.P("data"))
clips = jax.ShapeDtypeStruct((8, 16_000), "float32")
for stft in ("convolution", "fft"):
  def hear(wav):
    return logmel.log_mel(wav, AudioConfig(sample_rate=16_000, f_max=8000.0, stft=stft))
  program = jax.jit(hear, in_shardings=divided, out_shardings=divided).lower(clips).compile()
  print(stft, device_plan.collectives(program.as_text()))
"""


def test_every_clips_spectrum_is_computed_where_the_clip_lies(compile_cache):
  (out,) = processes.finish(processes.start(["-c", SPECTRA], compile_cache, 8))
  assert "convolution []\nfft []\n" in out


@pytest.mark.parametrize("name", ["eval_step", "answer"])
def test_evaluation_is_divided_as_training_is(trained, name):
  found = device_plan.collectives((trained / f"8/8,1.{name}.hlo").read_text())
  # Sums, and what is answered, for all to see. The audio of one clip alone is more.
  assert found and sum(sum(c["bytes"].values()) for c in found) < 4000


def test_fsdp_divides_the_state_over_the_devices(tmp_path, compile_cache):
  processes.finish(processes.start([TOPOLOGY, tmp_path / "shares", "shares"], compile_cache, 8))
  total, held = json.loads((tmp_path / "shares").read_text())
  assert total > 1.6e9  # the paper's: parameters and two moments of what is trained
  assert held <= total / 7


def test_a_mesh_that_does_not_fit_is_refused():
  # One device here.
  assert dict(parallel.make_mesh((-1, 1)).shape) == {"data": 1, "fsdp": 1}
  for shape in ((2, 1), (-1, 2), (0, -1), (-1, -1)):
    with pytest.raises(ConfigError, match=r"config.mesh .* does not cover the 1 devices"):
      parallel.make_mesh(shape)
  with pytest.raises(ConfigError, match="must be two numbers"):
    parallel.make_mesh((1,))


def devices(*of, platform="tpu"):
  """Made-up devices by the process of each, in the order of their ids."""
  kind = functools.partial(mock.Mock, spec=jax.Device, platform=platform)
  return [kind(id=i, process_index=process) for i, process in enumerate(of)]


@pytest.mark.parametrize("shape", [(-1, 1), (4, 2), (2, 4), (1, -1)])
def test_the_devices_of_a_process_lie_together_in_a_mesh(shape):
  # A slice of 4 x 2 chips, of which each host has 2 x 2: ids follow its rows of 4.
  found = parallel.make_mesh(shape, devices(0, 0, 1, 1, 0, 0, 1, 1)[::-1])
  assert [device.id for device in found.devices.flat] == [0, 1, 4, 5, 2, 3, 6, 7]
  assert len(found.devices) == {-1: 8}.get(shape[0], shape[0])


def attention(choice, platform, head_size=64, **fields):
  """How a decoder of such a model attends in training on a kind of device."""
  cfg = tiny.run(attention=choice)
  decoder = dataclasses.replace(cfg.model.decoder, head_size=head_size)
  fields = {"mask_padding": False, "dtype": "auto", "decoder": decoder, **fields}
  cfg.model = dataclasses.replace(cfg.model, **fields)
  mesh = parallel.make_mesh((1, 1), devices(0, platform=platform))
  return parallel.decoder_ways(cfg, mesh).attention


@pytest.mark.parametrize(
  ("kernel", "platform", "fields", "message"),
  [
    ("cudnn", "gpu", {}, ""),
    ("cudnn", "gpu", {"dtype": "bfloat16"}, ""),
    ("cudnn", "gpu", {"mask_padding": True}, "would attend to the padding that .*mask_padding"),
    ("cudnn", "gpu", {"dtype": "float32"}, "does not compute in float32, as config.model.dtype"),
    ("cudnn", "gpu", {"head_size": 24}, "is for heads whose size is a multiple of 64, not 24"),
    ("cudnn", "cpu", {}, "is a kernel of GPUs, and the run is on a CPU"),
    ("cudnn", "tpu", {}, "is a kernel of GPUs, and the run is on a TPU"),
    ("splash", "tpu", {"mask_padding": True, "dtype": "float32"}, ""),
    ("splash", "tpu", {"head_size": 32}, "is for heads whose size is a multiple of 64, not 32"),
    ("splash", "gpu", {}, "is a kernel of TPUs, and the run is on a GPU"),
  ],
)
def test_a_kernel_of_attention_is_used_where_it_computes_what_the_others_do(
  kernel, platform, fields, message
):
  for choice in ("scores", "pieces"):
    assert attention(choice, platform, **fields) == choice
  if not message:
    assert attention("auto", platform, **fields) == attention(kernel, platform, **fields) == kernel
    return
  assert attention("auto", platform, **fields) != kernel
  with pytest.raises(
    ConfigError, match=f"config.attention '{kernel}' {message}.*: give --"
  ) as caught:
    attention(kernel, platform, **fields)
  assert "\n" not in str(caught.value)


def test_a_kernel_that_cannot_be_used_is_told_before_anything_is_compiled():
  cfg = tiny.run(attention="cudnn")
  with pytest.raises(ConfigError, match="is a kernel of GPUs, and the run is on a CPU"):
    programs.make(cfg, parallel.make_mesh((1, 1)))


# What the compiler was told is in its dump.
DETERMINISTIC = """
import os, sys, jax
from mellow_jax import parallel
from mellow_jax.errors import ConfigError
os.environ["XLA_FLAGS"] += f" --xla_dump_to={sys.argv[1]} --xla_dump_hlo_as_text"
parallel.make_deterministic()
jax.jit(lambda x: x + 1)(1.0)
try:
  parallel.make_deterministic()
except ConfigError as error:
  print(error)
"""


def test_deterministic_programs_are_asked_for_before_any_device_is_used(tmp_path, compile_cache):
  (out,) = processes.finish(processes.start(["-c", DETERMINISTIC, tmp_path], compile_cache))
  told = "".join(path.read_text() for path in tmp_path.glob("*.debug_options"))
  assert "xla_gpu_deterministic_ops: true" in told
  assert "comes too late" in out


FREED = """
import resource, sys, jax
from mellow_jax import parallel
if sys.argv[1] == "kept":
  parallel.keep_freed_memory()
run = jax.jit(lambda x: jax.numpy.sort(jax.numpy.sin(x)[::-1] + x))
x = jax.numpy.ones(2**23)
for _ in range(12):
  run(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
  run(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_stays_with_the_process(compile_cache):
  faults = {}
  for name in ("kept", "given back"):
    (out,) = processes.finish(processes.start(["-c", FREED, name], compile_cache))
    faults[name] = int(out)
  assert faults["given back"] > 10_000  # pages of 4 KiB, of 32 MiB or more in each of four runs
  assert faults["kept"] < 0.3 * faults["given back"]


# --- Processes -----------------------------------------------------------------------------------


SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NODELIST": "node[1-2]",
  "SLURM_NTASKS": "4",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "1",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}
TPU_VM = {"TPU_ML_PLATFORM": "JAX"}  # written by JAX, once it has found TPUs
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
  ("environ", "name", "known"),
  [
    (SLURM, "SLURM", {"num_processes": 4}),
    (SLURM | {"SLURM_STEP_NUM_TASKS": "2"}, "SLURM", {"num_processes": 2}),
    # Four GPUs for the one task of each node; and one GPU that alone is seen by each task.
    (
      SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "1(x4)"},
      "SLURM",
      {"num_processes": 4, "local_device_ids": [0, 1, 2, 3]},
    ),
    (
      SLURM | {"CUDA_VISIBLE_DEVICES": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
      "SLURM",
      {"num_processes": 4, "local_device_ids": [0]},
    ),
    # One of four for each of four tasks: JAX does that itself.
    (
      SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "4"},
      "SLURM",
      {"num_processes": 4},
    ),
    (OPEN_MPI, "Open MPI", {"num_processes": 4, "process_id": 0}),
    (TPU_VM, "the TPU VM's metadata", {}),
    (TPU_VM | {"TPU_WORKER_HOSTNAMES": "a,b"}, "the TPU's node pool", {}),
    (
      TPU_VM | {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"},
      "the TPU's node pool",
      {},
    ),
  ],
)
def test_what_started_the_processes_is_found(environ, name, known):
  assert parallel.detect_cluster(environ) == (name, known)


@pytest.mark.parametrize(
  "environ",
  [
    {},
    SLURM | {"SLURM_NTASKS": "1"},
    SLURM | {"SLURM_STEP_NUM_TASKS": "1"},  # the shell of salloc
    {name: value for name, value in SLURM.items() if "STEP" not in name},  # an sbatch script
    OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"},
    TPU_VM | {"TPU_WORKER_HOSTNAMES": "localhost"},
    TPU_VM | {"JAX_PLATFORMS": "cpu"},
    TPU_VM | {"TPU_SKIP_MDS_QUERY": "1"},
    POD,  # a notebook, for example
    POD | {"JOB_COMPLETION_INDEX": "0"},
  ],
)
def test_one_process_alone_is_left_alone(environ):
  assert parallel.detect_cluster(environ) is None


def test_what_cannot_be_found_is_an_error_that_says_what_to_give(monkeypatch):
  with pytest.raises(ConfigError, match="package kubernetes: install it, or give --coordinator"):
    parallel.detect_cluster(POD | {"JOB_COMPLETION_INDEX": "1"})
  monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
  parallel.initialize()
  with pytest.raises(ConfigError, match="--processes and --process_id go with --coordinator"):
    parallel.initialize("", 2, 0)
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")  # of Open MPI 5, which names no address
  parallel.initialize("none")
  monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
  with pytest.raises(ConfigError, match=r"Open MPI: coordinator_address .* Give --coordinator"):
    parallel.initialize()


def both(program, compile_cache, *arguments):
  """What each of two processes says that run a program; its last argument is their number."""
  address = f"127.0.0.1:{processes.free_port()}"
  flags = [f"--coordinator={address}", "--processes=2"]
  started = [
    processes.start(["-c", program, *arguments, *flags, f"--process_id={i}"], compile_cache)
    for i in range(2)
  ]
  return [out.splitlines() for out in processes.finish(*started, seconds=120)]


REMAT = """
import sys
from mellow_jax import parallel, train
from mellow_jax.training import programs
if sys.argv[-1] == "--process_id=0":
  parallel.device_memory = lambda mesh: 0
make = programs.make
def told(cfg, *args, **kwargs):
  print("recomputes", cfg.model.decoder.remat)
  return make(cfg, *args, **kwargs)
programs.make = told
sys.exit(train.main(sys.argv))
"""


def test_processes_agree_whether_a_step_fits_their_memory(run_config, compile_cache, tmp_path):
  flags = [f"--config={run_config}", f"--workdir={tmp_path / 'run'}", "--config.mesh=(2,1)"]
  flags += ["--config.auto_remat=true", "--config.steps=1", "--config.save_every=9"]
  flags += ["--config.eval_batches=0", "--config.sample_answers=0"]
  for said in both(REMAT, compile_cache, *flags):
    found = [line for line in said if line.startswith("recomputes")]
    assert found == ["recomputes False", "recomputes True"]
  assert json.loads((tmp_path / "run/run.json").read_text())["model"]["decoder"]["remat"]


GATHERED = """
import sys
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from mellow_jax import parallel
_, coordinator, _, number = (flag.partition("=")[2] for flag in sys.argv)
this = int(number)
parallel.initialize(coordinator, 2, this)
del multihost_utils.process_allgather  # which waits for what the devices compute
for n in range(3):
  largest = parallel.max_over_processes(np.array([n, this, -this]))
  total = parallel.sum_over_processes(np.array([[n, 10 + this]], np.int32))
  print("found", largest.tolist(), total.tolist())
parallel.barrier()
kept = distributed.global_state.client.key_value_dir_get_bytes("mellow_jax/gathered/")
print("found", *sorted(name for name, _ in kept))
"""


def test_the_hosts_agree_without_their_devices_and_leave_nothing_behind(compile_cache):
  for said in both(GATHERED, compile_cache):
    *found, kept = [line for line in said if line.startswith("found")]
    assert found == [f"found [{n}, 1, 0] [[{2 * n}, 21]]" for n in range(3)]
    assert kept == "found mellow_jax/gathered/5/1 mellow_jax/gathered/5/all"


# What JAX says of processes that are late: its own service, a node pool of TPUs, Kubernetes.
LATE = [
  "DEADLINE_EXCEEDED: Barrier timed out. Id: [Init]Wait_for_all_tasks_to_register",
  "UNAVAILABLE: failed to connect to all addresses",
  "Failed to recognize coordinator address mellow-slice-0-0.mellow",
  "Retry failed with all attempts exhausted",
]


def failing_with(message):
  def initialize(**_):
    raise RuntimeError(message)

  return initialize


@pytest.mark.parametrize("message", LATE)
@pytest.mark.parametrize("coordinator", ["", "127.0.0.1:7", "[::1]:7"])
def test_processes_that_start_late_may_come_when_all_are_started_again(
  monkeypatch, coordinator, message
):
  monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
  monkeypatch.setattr("jax.distributed.initialize", failing_with(message))
  with pytest.raises(LateError, match="started after 7 s: give the same command again") as caught:
    parallel.initialize(coordinator, 2, 1, start_seconds=7)
  assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_coordinator_that_nobody_can_find_must_be_mended(monkeypatch):
  def unknown(*_):
    raise socket.gaierror("Name or service not known")

  monkeypatch.setattr(socket, "getaddrinfo", unknown)
  message = r"--coordinator=nowhere:7: nowhere has no address .*: give the host of process 0"
  with pytest.raises(ConfigError, match=message):
    parallel.initialize("nowhere:7", 2, 1, start_seconds=0)
  for wrong in ("nowhere", "nowhere:", ":7", "nowhere:http"):
    with pytest.raises(ConfigError, match=f"--coordinator={wrong}: give HOST:PORT, or none"):
      parallel.initialize(wrong, 2, 1)


def test_a_coordinator_whose_pod_starts_late_is_waited_for(monkeypatch):
  tries = iter([socket.gaierror("not yet"), socket.gaierror("not yet"), None])

  def address(*_):
    if error := next(tries):
      raise error

  monkeypatch.setattr(socket, "getaddrinfo", address)
  monkeypatch.setattr(time, "sleep", lambda seconds: None)
  monkeypatch.setattr("jax.distributed.initialize", failing_with("reached"))
  with pytest.raises(ConfigError, match="reached"):
    parallel.initialize("pod-0:7", 2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("present", [0, 1])
def test_a_process_whose_others_do_not_come_asks_for_another_start(
  run_config, compile_cache, tmp_path, present
):
  flags = [f"--coordinator=127.0.0.1:{processes.free_port()}", "--processes=2", "--start_seconds=5"]
  run = processes.train(
    tmp_path / "run", run_config, compile_cache, *flags, f"--process_id={present}"
  )
  _, err = run.communicate(timeout=120)
  # JAX 0.10 aborts by itself. Launchers answer both.
  assert run.returncode in (75, -signal.SIGABRT), err


HEARTBEAT = 10  # seconds


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_one_process_ends_the_others(run_config, compile_cache, tmp_path, victim):
  flags = [f"--coordinator=127.0.0.1:{processes.free_port()}", "--processes=2"]
  flags += ["--config.steps=1000000", f"--heartbeat_seconds={HEARTBEAT}", "--config.mesh=(2,1)"]
  started = [
    processes.train(tmp_path / "run", run_config, compile_cache, *flags, f"--process_id={i}")
    for i in range(2)
  ]
  try:
    heard = "".join(itertools.takewhile(lambda line: "step 3/" not in line, started[0].stdout))
    assert f"2 processes, from {flags[0]}" in heard and "step 2/" in heard
    started[victim].kill()
    began = time.monotonic()
    started[1 - victim].communicate(timeout=HEARTBEAT + 30)
    assert time.monotonic() - began < HEARTBEAT + 10
    assert started[1 - victim].returncode not in (0, 75)
    print(f"the other ended with status {started[1 - victim].returncode}")
  finally:
    for process in started:
      process.kill()


def ended(workdir):
  """Losses of a run, by step and kind, and the parameters it ended with."""
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  losses = {
    (line["step"], kind): line[kind]
    for line in lines
    for kind in ("loss", "val_loss")
    if kind in line
  }
  return losses, checkpoint.load_params(workdir / "model")[0]


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_one_resumes_what_they_saved(
  run_config, compile_cache, tmp_path
):
  def run(name, *flags):
    return processes.train(tmp_path / name, run_config, compile_cache, *flags)

  together = [f"--coordinator=127.0.0.1:{processes.free_port()}", "--processes=2"]
  together += ["--config.mesh=(1,2)"]
  first, second, _ = processes.finish(
    *(run("two", *together, f"--process_id={i}") for i in range(2)), run("one")
  )
  assert "mesh {'data': 1, 'fsdp': 2}" in first and "step 4/4" in first
  assert "step" not in second  # one speaks for both
  losses, params = ended(tmp_path / "one")
  assert set(losses) == {(1, "loss"), (2, "loss"), (3, "loss"), (4, "loss"), (4, "val_loss")}

  def assert_same(workdir):
    found_losses, found_params = ended(workdir)
    assert found_losses == pytest.approx(losses, rel=1e-5)
    for name in params:
      np.testing.assert_allclose(found_params[name], params[name], atol=1e-5, err_msg=name)

  assert_same(tmp_path / "two")
  shutil.rmtree(tmp_path / "two/checkpoints/4")
  (out,) = processes.finish(run("two"))
  assert "resumed from step 2" in out
  assert_same(tmp_path / "two")


def test_ctrl_c_is_answered_while_the_main_thread_computes_and_a_second_one_ends_it():
  # Ready is said by another thread, which the interpreter lets run only once the main thread
  # computes outside of it. Said before, both signals may come while that thread can still hear.
  code = """
import hashlib, sys, threading
from mellow_jax import parallel
parallel.StopSignal()
computing = threading.Lock()
computing.acquire()
def tell():
  with computing:
    print("ready", flush=True)
threading.Thread(target=tell, daemon=True).start()
sys.setswitchinterval(1000)
computing.release()
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    first = process.stderr.readline() + process.stderr.readline()
    assert first == "\nstops after the next step; Ctrl-C again ends at once\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert process.stderr.read() == "error: stopped by Ctrl-C\n"
