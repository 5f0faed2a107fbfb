"""The house stays as it is drawn: which room leads to which, nothing unused, nothing unpinned."""

import ast
import collections
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mellow_jax

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "mellow_jax").rglob("*.py"))
# Floors from the ground up; rooms between two bars share a floor. A module imports its own room
# and the floors below it, never what stands beside it or above.
ROOMS = """
  errors data.presets | config config_help | files progress array_folder | cli parallel
    | data models | checkpoint | inference convert | training
    | reasonaqa.splits reasonaqa.vocabulary
    | reasonaqa.paper reasonaqa.source_rows | reasonaqa.official | reasonaqa.own reasonaqa.llm
    | reasonaqa.check reasonaqa.stats reasonaqa.reasonaqa_dataset_builder
    | reasonaqa.commands reasonaqa.tfds
    | evaluation.benchmarks | evaluation.metrics | evaluation.report evaluation.inspection
    | evaluation.external evaluation.linear_probe | evaluation.commands
    | reasonaqa.__main__ demo_clips train generate evaluate inspect plan cache_features decide
    | ablate
    | serving
    | serve
    | __main__
"""


def name_of(path):
  return str(path.relative_to(ROOT))


def imports(path):
  """The modules that a file imports anywhere, as dotted names."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{name_of(path)} imports relatively"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def room_of(module):
  """The room of ROOMS that a dotted name below mellow_jax stands in, and its floor."""
  for floor, rooms in enumerate(ROOMS.split("|")):
    for room in rooms.split():
      if module == room or module.startswith(room + "."):
        return room, floor
  return None


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_one_way(path):
  if path.name == "__init__.py":
    inner = {n for n in imports(path) if n.startswith("mellow_jax.")}
    api = {"mellow_jax.inference", "mellow_jax.inference.api", "mellow_jax.inference.decode"}
    public = path.parent.name == "mellow_jax"  # `from mellow_jax import Mellow`
    assert {n.rpartition(".")[0] for n in inner} <= (api if public else set())
    return
  module = ".".join(path.relative_to(ROOT / "mellow_jax").with_suffix("").parts)
  assert room_of(module), f"{module} stands in no room: draw it first"
  room, floor = room_of(module)
  for name in imports(path):
    if name.startswith("mellow_jax.") and (other := room_of(name.removeprefix("mellow_jax."))):
      assert other[0] == room or other[1] < floor, f"{module} must not import {name}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_what_is_installed_needs_neither_torch_nor_what_stands_beside_it(path):
  found = {name.split(".")[0] for name in imports(path)}
  assert not found & {"torch", "tools", "benchmarks", "tests", "configs"}


def texts(path):
  nodes = ast.walk(ast.parse(path.read_text()))
  return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def calls(path):
  return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def is_rename(call):
  """os.replace and its like; path.rename(x) and path.replace(x), where text takes two arguments."""
  if not isinstance(call.func, ast.Attribute):
    return False
  module = getattr(call.func.value, "id", "")
  if module in ("os", "shutil"):
    return call.func.attr in ("rename", "renames", "replace", "move")
  return call.func.attr in ("rename", "replace") and len(call.args) == 1 and not call.keywords


# In a regex: a class of letters, and the bracket or full stop after it.
OPTION = re.compile(r"\[(?:A-[A-Z])?(?:a-[a-z])?\]\)?(?:\\\)|\[\)|\[\.\[?\))")
# What one module does, and files that are still to use it.
ONE_HOME = {
  "renames": (
    "mellow_jax/files.py",
    lambda path: any(map(is_rename, calls(path))),
    set(),
  ),
  "reads tables": (
    "mellow_jax/data/tables.py",
    lambda path: bool(re.search(r"csv\.(reader|DictReader)", path.read_text())),
    {"mellow_jax/evaluation/benchmarks/question_files.py"},
  ),
  # Not tokenizer.py, to which "a)" is a word.
  "reads lettered options": (
    "mellow_jax/data/choices.py",
    lambda path: path.name != "tokenizer.py" and any(map(OPTION.search, texts(path))),
    {
      "mellow_jax/evaluation/benchmarks/rows.py",
      "mellow_jax/evaluation/external/harness.py",
      "mellow_jax/evaluation/metrics/multiple_choice.py",
    },
  ),
}


@pytest.mark.parametrize("what", ONE_HOME)
def test_one_module_does_it(what):
  home, does, left = ONE_HOME[what]
  found = {name_of(path) for path in SOURCES if does(path)}
  assert home in found and found - {home} <= left


def test_no_two_classes_share_a_name():
  found = collections.Counter(
    node.name
    for path in SOURCES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ClassDef)
  )
  assert not [name for name, count in found.items() if count > 1]


def test_threads_open_no_sound_file_before_one_is_open():
  """sound_files.py opens one as it is imported; who reads audio reads it there."""
  users = {name_of(path) for path in SOURCES if "soundfile" in imports(path)}
  assert users == {"mellow_jax/data/sound_files.py", "mellow_jax/data/scenes.py"}


def config_fields():
  """(class, field, its line, the line before) of every choice in config.py."""
  path = ROOT / "mellow_jax/config.py"
  lines = path.read_text().splitlines()
  for node in ast.parse(path.read_text()).body:
    for item in node.body if isinstance(node, ast.ClassDef) else []:
      if isinstance(item, ast.AnnAssign):
        before, line = lines[item.lineno - 2 : item.lineno]
        yield node.name, item.target.id, line, before


def test_every_choice_is_read_and_explained():
  read = {
    node.attr
    for path in SOURCES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
  }
  fields = list(config_fields())
  assert len(fields) > 70
  for owner, name, line, before in fields:
    assert name in read, f"nothing reads {owner}.{name}"
    is_part = re.search(r": \w+Config( \| \w+Config)* = ", line)
    assert is_part or "  # " in line or before.strip().startswith("# "), f"{owner}.{name}: why?"


def pinned():
  """Name to (version, marker) of each pin of requirements.lock; hashes must follow each."""
  text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
  found = {}
  for line in text.splitlines():
    if line.strip() and not line.startswith("#"):
      requirement, *hashes = re.split(r"\s+--hash=", line.strip())
      pin = Requirement(requirement)
      (specifier,) = pin.specifier
      assert specifier.operator == "==", pin
      assert hashes, f"{pin.name} has no hash"
      assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h.strip()) for h in hashes)
      name = pin.name.lower().replace("_", "-")
      found.setdefault(name, []).append((specifier.version, pin.marker))
  return found


def setup_arguments():
  tree = ast.parse((ROOT / "setup.py").read_text())
  (call,) = (
    n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup"
  )
  return {keyword.arg: keyword.value for keyword in call.keywords}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_what_is_installed_is_pinned_by_hash_and_comes_from_no_named_place(python):
  text = (ROOT / "requirements.lock").read_text()
  assert not re.search(r"://|--index-url|--extra-index-url|--find-links|--trusted-host", text)
  pins, arguments = pinned(), setup_arguments()
  here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
  wanted = ast.literal_eval(arguments["install_requires"])
  wanted += ast.literal_eval(arguments["extras_require"])["dev"]
  for requirement in map(Requirement, wanted):
    if requirement.marker and not requirement.marker.evaluate(here):
      continue
    found = pins[requirement.name.lower().replace("_", "-")]
    (version,) = (v for v, marker in found if not marker or marker.evaluate(here))
    assert requirement.specifier.contains(version), requirement


def test_the_package_has_the_version_it_says():
  command = [sys.executable, "setup.py", "--version"]
  out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
  assert out.split()[-1] == mellow_jax.__version__
  assert re.fullmatch(r"\d+\.\d+\.\d+", mellow_jax.__version__)
