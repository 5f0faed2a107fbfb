"""What is installed: one package and one command that work wherever they are started."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import mellow_jax
from mellow_jax import __main__ as mellow
from mellow_jax import cli
from mellow_jax.errors import FlagsError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
LINES = 40  # of a screen


def run(*command, **options):
  env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return subprocess.run(command, capture_output=True, text=True, env=env, **options)


# --- The wheel -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The wheel of this checkout, built in a folder of its own."""
  folder = tmp_path_factory.mktemp("wheel")
  for name in ("setup.py", "README.md"):
    shutil.copy(ROOT / name, folder)
  for name in ("mellow_jax", "configs", "tools"):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
  pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
  made = run(*pip, "--wheel-dir", folder / "dist", folder, cwd=folder)
  assert made.returncode == 0, made.stderr
  (path,) = (folder / "dist").glob("*.whl")
  return path


def test_the_wheel_holds_mellow_jax_alone(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.split("/")[0] for name in names} == {
    "mellow_jax",
    f"mellow_jax-{mellow_jax.__version__}.dist-info",
  }
  assert {f"mellow_jax/configs/{name}.py" for name in CONFIGS} <= set(names)
  assert "mellow_jax/py.typed" in names
  modules = {str(path.relative_to(ROOT)) for path in (ROOT / "mellow_jax").rglob("*.py")}
  assert modules <= set(names)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
  """A virtual environment with the wheel; all other packages are those of the running one."""
  folder = tmp_path_factory.mktemp("installed")
  assert run(sys.executable, "-m", "venv", "--without-pip", folder).returncode == 0
  python = folder / "bin/python"
  pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
  made = run(*pip, wheel)
  assert made.returncode == 0, made.stderr
  site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
  Path(site, "rest.pth").write_text(sysconfig.get_path("purelib"))
  return folder / "bin"


@pytest.mark.slow
def test_the_installed_command_works_in_an_empty_folder_beside_another_tools(installed, tmp_path):
  (tmp_path / "tools").mkdir()
  (tmp_path / "tools/__init__.py").write_text("raise ImportError('another tools')")
  clip = 0.1 * np.random.default_rng(0).standard_normal(16_000)
  soundfile.write(tmp_path / "clip.wav", clip, 16_000)

  def mellow(*words):
    found = run(installed / "mellow", *words, cwd=tmp_path, timeout=500)
    assert found.returncode == 0, found.stderr
    return found.stdout

  assert mellow("--version") == f"mellow {mellow_jax.__version__}\n"
  module = run(installed / "python", "-m", "mellow_jax", "--version", cwd=tmp_path)
  assert module.stdout == f"mellow {mellow_jax.__version__}\n", module.stderr
  where = "import mellow_jax; print(mellow_jax.__file__)"
  assert str(ROOT) not in run(installed / "python", "-c", where, cwd=tmp_path).stdout
  mellow("train", "--config=demo", "--config.steps=20", "--workdir=run")
  answer = mellow(
    "generate", "--checkpoint=run/model", "--audio=clip.wav", "--prompt=is there a bell?"
  )
  assert answer.endswith("\n")
  assert "--input" in mellow("convert", "--help")


# --- The command ---------------------------------------------------------------------------------

COMMANDS = [
  *([name] for name in ("train", "generate", "convert", "inspect", "plan", "evaluate")),
  *(["evaluate", name] for name in ("predict", "score", "compare", "doctor", "picture", "export")),
  ["reasonaqa"],
  *(["reasonaqa", name] for name in ("build", "synthesize", "filter", "stats", "check", "tfds")),
  [],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_ends_well_and_fits_a_screen(words, capsys):
  try:
    status = mellow.main(["mellow", *words, "--help"])
  except SystemExit as ended:  # argparse
    status = ended.code
  out, err = capsys.readouterr()
  assert (status or 0, err) == (0, "")
  assert len(out.splitlines()) <= LINES, out
  assert max(map(len, out.splitlines())) <= cli.COLUMNS


def test_a_word_that_is_no_command_is_an_error_of_one_line(capsys):
  for argv, told in (["mellow"], "a command is missing"), (["mellow", "hear"], "'hear' is no"):
    assert mellow.main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert "mellow --help lists them" in line


def test_the_version(capsys):
  assert mellow.main(["mellow", "--version"]) == 0
  assert capsys.readouterr().out == f"mellow {mellow_jax.__version__}\n"


@pytest.mark.parametrize("module", ["tools.convert_weights", "mellow_jax.convert", "mellow_jax"])
def test_the_other_ways_to_start_it(module):
  found = subprocess.run(
    [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
  )
  assert found.returncode == 0, found.stderr
  assert "convert" in found.stdout


# --- Configs by name -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_found_by_its_name(name, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  path, _, argument = cli.config_path(f"{name}:argument").partition(":")
  assert Path(path).samefile(ROOT / "configs" / f"{name}.py")
  assert argument == "argument"


def test_a_path_of_a_config_stays_one(monkeypatch):
  monkeypatch.chdir(ROOT)
  for value in ("configs/mellow.py", "configs/finetune.py:lora", str(ROOT / "configs/demo.py")):
    assert cli.config_path(value) == value
  with pytest.raises(FlagsError, match="no such file"):
    cli.config_path("configs/none.py")


def test_an_unknown_config_is_told_with_those_there_are():
  with pytest.raises(FlagsError, match=f"choose {', '.join(CONFIGS)}, or give the path") as caught:
    cli.config_path("paper")
  assert "\n" not in str(caught.value)


# --- Imports -------------------------------------------------------------------------------------

IMPORT_ALL = """
import importlib, pathlib, pkgutil
import matplotlib
from absl import flags
import mellow_jax

names = [found.name for found in pkgutil.walk_packages(mellow_jax.__path__, "mellow_jax.")]
configs = pathlib.Path(mellow_jax.__path__[0], "configs").glob("*.py")
names += [f"mellow_jax.configs.{path.stem}" for path in configs]
before = matplotlib.get_backend(auto_select=False)
for name in names:
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as error:
    assert error.name.split(".")[0] == "lmms_eval", name  # that evaluation alone imports this
modules = flags.FLAGS.flags_by_module_dict()
print(len(names), [name for name in modules if name.startswith("mellow_jax")])
print(before == matplotlib.get_backend(auto_select=False))
"""


def test_importing_a_module_defines_no_flags_and_changes_no_backend():
  found = subprocess.run(
    [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True
  )
  assert found.returncode == 0, found.stderr
  flags, backend = found.stdout.splitlines()
  count, _, defined = flags.partition(" ")
  assert int(count) > 100
  assert (defined, backend) == ("[]", "True")


# --- CI and the image ----------------------------------------------------------------------------


def test_make_takes_the_python_that_ci_has_set_up():
  """Its own choice is the newest: on a machine with 3.12, the job of 3.11 would test that."""
  jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
  made = 0
  for name, job in jobs.items():
    steps = [step.get("run", "") for step in job["steps"]]
    if any(step.startswith(("make ", ".ci/run")) for step in steps):
      assert job.get("env", {}).get("PYTHON") == "python", name
      made += 1
  assert made == 2


def test_the_image_is_for_what_the_extras_are_for():
  text = (ROOT / "launch/Dockerfile").read_text()
  known = importlib.metadata.metadata("jax").get_all("Provides-Extra")
  (listed,) = re.findall(r"^# An extra of jax.*: (.+)\.\nARG JAX=cpu$", text, re.MULTILINE)
  assert set(listed.split(", ")) <= {*known}
  ours = re.findall(r'"jax\[(\w+)\]', (ROOT / "setup.py").read_text())
  assert {*ours, "cpu"} == set(listed.split(", "))
  assert 'pip install --no-cache-dir "jax[$JAX]"' in text
