"""README and docs: every command line runs, or is listed here with what it needs."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import chat_server
import docs_folder
import pytest

from mellow_jax.__main__ import main
from mellow_jax.data import records

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# In a text, a span is a command if it has an argument: `mellow train` alone is a name.
COMMAND = re.compile(r"mellow .*=|make \S+ \S+=|(python|pip|sbatch|launch/\S+) \S|source ")

# What is not run here, by the beginning of the command, and why.
NOT_RUN = {
  "make demo": "installs from the package index, trains for minutes; test_first_hour.py does",
  "make test": "this is the test suite",
  "make lint": "runs ruff on the checkout, which .ci/run does beside the tests",
  ".ci/run": "runs the test suite",
  "source ": "changes the shell that reads it",
  "pip install": "needs the package index; test_packaging.py installs the wheel",
  "python -m pytest": "is itself a run of tests",
  "MELLOW_PAGE_MODEL=": "needs Chromium, and is itself a run of tests",
  "python tests/kill_and_resume.py": "takes minutes; test_kill_and_resume.py has few kills",
  "git clone": "needs the network",
  "python -m benchmarks": "a measurement, of minutes or with PyTorch or a GPU",
  "python -m lmms_eval": "needs lmms-eval; test_harness.py calls the plug-in as it does",
  "docker ": "needs Docker; test_packaging.py checks what the file installs",
  "sbatch ": "needs SLURM; test_launch.py runs the script with a substitute",
  "mellow serve": "runs until it is stopped; tests/serving asks it",
  "make serve": "runs until it is stopped; tests/serving asks it",
  "mellow calibrate": "needs 20 choices or more; test_calibration.py has them",
  "make real-lm": "needs the package index; test_real_lm.py reads the file that it fetches",
  "mellow train --config=esc10:smollm2": "needs that language model; test_config.py has its config",
  "mellow cache-features": "needs published weights; test_features.py writes small features",
  "mellow plan": "needs a compiler; test_plan.py has it with the markers tpu_aot and gpu_aot",
  "mellow convert --input=": "needs published weights; tests/convert makes files like them",
  "mellow reasonaqa synthesize --type=4": "needs three results; test_synthesize.py composes some",
  "mellow ablate --workdir": "trains for an hour; test_ablate.py replaces the training",
}
# What a command gets in addition here, by its beginning, so that it is done in seconds.
FEW_STEPS = [
  "--config.steps=2",
  "--config.batch_size=4",
  "--config.eval_batches=1",
  "--config.sample_answers=1",
  "--config.calibrate_batches=0",
  "--config.data.max_bad_fraction=1",
]
FULL_SIZE = [
  *docs_folder.model_flags(),
  *FEW_STEPS,
  "--config.data.tokenizer=runs/demo/model",
  "--config.init_from=weights/mellow",
]
SMALLER = {
  "mellow train --config=mellow": FULL_SIZE,
  "mellow train --config=esc10": [*FULL_SIZE, "--config.data.mix={}"],
  "mellow train --config=finetune": FEW_STEPS,
  "mellow generate": ["--max_new_tokens=4"],
  "mellow evaluate predict": ["--max_new_tokens=4", "--batch_size=4"],
  "mellow reasonaqa build --data": ["--output=built"],  # the folder's reasonaqa/ stays
  "launch/": ["--dry_run"],
  "python -m mellow_jax.evaluation.linear_probe": ["--batch_size=12"],
}
PYTHON_NOT_RUN = {"docs/serving.md": "asks a server with OpenAI's package; tests/serving asks it"}
# Exit statuses other than 0: of 24 generated rows some questions are in two splits.
STATUS = {"mellow reasonaqa check": 1}


def commands(text):
  """The commands of a page: lines and loops of its bash blocks, and spans that have arguments."""
  found = []
  for language, block in FENCE.findall(text):
    if language == "bash":
      lines = re.sub(r"(^|\s)#.*", "", block.replace("\\\n", " "), flags=re.MULTILINE)
      loops = re.sub(r"^for .*?^done", lambda m: m[0].replace("\n", " "), lines, flags=re.M | re.S)
      found += loops.splitlines()
    elif not language:
      assert not any(map(COMMAND.match, block.splitlines())), f"a command without bash: {block}"
  spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
  found += filter(COMMAND.match, (" ".join(span.split()) for span in spans))
  return list(dict.fromkeys(" ".join(line.split()) for line in found if line.strip()))


def pages():
  return {page: commands((ROOT / page).read_text()) for page in PAGES}


def found_commands():
  return [command for page in pages().values() for command in page]


def beginning(command, table):
  """The longest key of the table that the command begins with, or None."""
  return max((key for key in table if command.startswith(key)), key=len, default=None)


def words_of(command):
  """The words of a command, or those of each round of a loop: `for a in x y; do ...; done`."""
  loop = re.fullmatch(r"for (\w+) in ([^;]+); do (.*) done", command)
  if not loop:
    return [shlex.split(command)]
  name, values, body = loop.groups()
  return [shlex.split(body.replace(f"${name}", value)) for value in values.split()]


def call(words):
  """Runs a command of the package in this process, or a launcher; its exit status."""
  if words[0] == "mellow":
    return main(words)
  if words[:2] == ["python", "-m"] and words[2].startswith("mellow_jax."):
    return importlib.import_module(words[2]).main(words[2:])
  if words[0].startswith("launch/"):
    return subprocess.run([ROOT / words[0], *words[1:]], check=False).returncode
  raise AssertionError(words)


def is_placeholder(command):
  """DIR, FILE and ... stand for what a reader has."""
  return bool(re.search(r"=(DIR|FILE)\b|\.\.\.", command))


@pytest.mark.parametrize("page", PAGES)
def test_the_flags_and_subcommands_of_every_command_exist(page, capsys):
  for command in pages()[page]:
    for words in words_of(command):
      if words[0] == "mellow" and "--help" not in words:
        flags = [word.replace("...", "demo") for word in words if word != "--benchmark=NAME"]
        assert main([*flags, "--help"]) == 0, (command, capsys.readouterr().err)


def test_extras_are_installed_from_the_checkout_as_there_is_no_package_on_an_index():
  places = [*ROOT.glob("docs/*.*"), *ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.py")]
  places += ROOT.glob("mellow_jax/**/*.py")
  texts = {path: path.read_text() for path in places if path.suffix in (".md", ".py", ".ipynb")}
  assert [path for path, text in texts.items() if re.search(r"[ ']mellow_jax\[", text)] == []


def test_every_command_has_a_runner_or_a_reason():
  for command in found_commands():
    runs = command.startswith(("mellow ", "python -m mellow_jax.", "launch/", "for "))
    assert runs or beginning(command, NOT_RUN), (
      f"{command}: run it in `call`, or list it in NOT_RUN with the reason"
    )


def test_what_is_listed_here_stands_in_the_docs():
  found = found_commands()
  assert len(found) > 60
  for key in (*NOT_RUN, *SMALLER, *STATUS):
    assert any(beginning(command, [key]) for command in found), f"no page has {key!r}: remove it"


def test_the_readme_is_short():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page):
  links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
  for link in links:
    assert "://" in link or ((ROOT / page).parent / link).exists(), f"{page}: {link}"


HELP = (
  "cache-features",
  *("train", "generate", "convert", "inspect", "plan", "ablate", "serve", "decide", "calibrate"),
  *(f"evaluate {name}" for name in ("predict", "score", "compare", "doctor", "picture", "export")),
  *(f"reasonaqa {name}" for name in ("build", "synthesize", "stats", "check", "tfds")),
)
# Flags of something else, or of all.
OTHERS = {"version", "help", "xla_gpu_deterministic_ops", "xla_cpu_use_fusion_emitters"}


def test_every_flag_in_a_text_exists(capsys):
  for name in HELP:
    assert main(["mellow", *name.split(), "--help"]) == 0
  texts = [capsys.readouterr().out, *(p.read_text() for p in ROOT.glob("launch/*.sh"))]
  benchmarks = "".join(p.read_text() for p in ROOT.glob("benchmarks/*.py"))
  own = re.findall(r'add_argument\("--(\w+)"', benchmarks)
  known = {*re.findall(r"--(\w+)", "".join(texts)), *own, *OTHERS}
  for page in PAGES:
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", (ROOT / page).read_text()))
    ours = [span for span in spans if not re.match(r"python |pip |tfds ", span)]
    found = {name for span in ours for name in re.findall(r"(?<![\w-])--([a-z]\w+)", span)}
    assert found <= known | {"config"}, f"{page}: {sorted(found - known)}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("docs") / "prepared"
  docs_folder.write(folder)
  return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
  shutil.copytree(prepared, tmp_path / "run")
  monkeypatch.chdir(tmp_path / "run")
  return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page, folder, capfd):
  with chat_server.serving("mcq", script=lambda number, attempt: "") as server:
    for command in pages()[page]:
      if beginning(command, NOT_RUN) or is_placeholder(command):
        continue
      prepare(command, folder)
      for words in words_of(command):
        words = [word.replace("http://localhost:8000/v1", server.url) for word in words]
        status = call([*words, *SMALLER.get(beginning(" ".join(words), SMALLER), ())])
        said = capfd.readouterr()
        expected = STATUS.get(beginning(command, STATUS), 0)
        assert status == expected, f"{command}\n{said.out[-2000:]}{said.err[-2000:]}"


def python_of(page):
  if page in PYTHON_NOT_RUN:
    return ""
  return "\n".join(
    block for language, block in FENCE.findall((ROOT / page).read_text()) if language == "python"
  )


@pytest.mark.slow
@pytest.mark.parametrize("page", [*filter(python_of, PAGES)])
def test_the_python_of_a_page_runs(page, folder):
  if page in PYTHON_NOT_RUN:
    pytest.skip(PYTHON_NOT_RUN[page])
  code = re.sub(r"^config.steps = .*", "config.steps = 2", python_of(page), flags=re.MULTILINE)
  exec(compile(code, page, "exec"), {})


def prepare(command, folder):
  """What a command needs that the commands before it on its page do not leave."""
  if found := re.match(r"mellow train .*--workdir=(\S+)", command):
    shutil.rmtree(folder / found[1], ignore_errors=True)  # a page may train there with two configs
  if command.startswith("mellow reasonaqa synthesize"):
    path = folder / "reasonaqa/train.json"
    rows = json.loads(path.read_text())
    for i, row in enumerate(rows):
      row["caption1"] = row["answer"] = f"A dog barks at sound number {i}"
    path.write_text(json.dumps(rows))
    assert list(records.read(path))
