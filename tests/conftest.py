"""Set up for every test: shapes and types are checked, and the reference's data is found."""

import os
import tempfile
from pathlib import Path

import compiling
import jax
import pytest
from absl import flags
from jaxtyping import install_import_hook

# The last of several values counts: what the shell says goes before what the tests choose.
os.environ["XLA_FLAGS"] = f"{compiling.flags()} {os.environ.get('XLA_FLAGS', '')}".strip()

# Before anything imports the package: every jaxtyping signature is checked, in tests only.
# But for the converter's readers, whose bars on hostile files are seconds.
ROOMS = (p.stem for p in Path(__file__).parents[1].glob("mellow_jax/[a-z]*"))
install_import_hook(
  [f"mellow_jax.{room}" for room in ROOMS if room != "convert"], "beartype.beartype"
)

# Grain reads its flags when it starts workers, which absl forbids before they are parsed.
flags.FLAGS.mark_as_parsed()

import tiny  # noqa: E402  it imports the package, which only the hook above may precede

from mellow_jax import checkpoint, parallel  # noqa: E402
from mellow_jax.config import ModelConfig  # noqa: E402


def pytest_configure(config):
  """Each program is compiled once for all tests, in whichever process they need it.

  Its folder is that of MELLOW_CACHE or, without it, one that goes at the end.
  """
  if not os.environ.get("MELLOW_CACHE"):  # pytest-xdist's workers have it from their parent
    folder = tempfile.TemporaryDirectory(prefix="mellow-compiled-", ignore_cleanup_errors=True)
    os.environ["MELLOW_CACHE"] = folder.name
    config.add_cleanup(folder.cleanup)
  parallel.use_compilation_cache()


@pytest.fixture(params=["cpu", "another"])
def each_device(request, monkeypatch) -> None:
  """What the package computes otherwise where it is not on a CPU, it computes so here."""
  if request.param == "another":

    def default(*arguments, default, **_):
      return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", default)


@pytest.fixture(scope="session")
def reference_data() -> Path:
  """The folder of real clips and tokenizers, which is not part of the repository."""
  default = Path(__file__).parents[1] / ".." / "shared"
  folder = Path(os.environ.get("MELLOW_REFERENCE_DATA", default)).resolve()
  if not folder.is_dir():
    pytest.skip(f"no reference data in {folder}: set MELLOW_REFERENCE_DATA to its folder")
  return folder


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
  """The smallest Mellow with every part of the real one."""
  return tiny.config()


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A model folder of random weights."""
  folder = tmp_path_factory.mktemp("tiny") / "model"
  params, tokenizer = tiny.params(tiny_config), tiny.tokenizer()
  checkpoint.save_model(folder, params, tiny_config, "training", tokenizer)
  return folder


@pytest.fixture(scope="session")
def compile_cache() -> Path:
  """Folder in which all tests, and the processes that they start, keep compiled programs."""
  return Path(os.environ["MELLOW_CACHE"])


@pytest.fixture(scope="session")
def run_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The file of a tiny training run on generated scenes, and with ":files" on files."""
  path = tmp_path_factory.mktemp("config") / "tiny_run.py"
  path.write_text("import tiny\nget_config = tiny.get_config\n")
  return path


def pytest_runtest_setup(item):
  """Tests marked gpu are skipped where there is no NVIDIA GPU, whatever -m asks for."""
  if item.get_closest_marker("gpu") and not Path("/dev/nvidiactl").exists():
    pytest.skip("there is no NVIDIA GPU here")


# Files with the longest tests: begun last, one would keep a worker alone at the end.
LONGEST = (
  "test_kill_and_resume",
  "test_golden",
  "test_parallel",
  "test_resharding",
  "test_train",
  "test_systems",
  "test_launch",
  "test_docs",
  "test_convert",
  "test_step",
)


def pytest_collection_modifyitems(items):
  """The longest files come first, each in one piece: its tests share fixtures."""
  places = {name: place for place, name in enumerate(LONGEST)}
  items.sort(key=lambda item: places.get(item.path.stem, len(places)))
