"""Set up for every test: shapes and types are checked, and the reference's data is found."""

import os
from pathlib import Path

import pytest
from absl import flags
from jaxtyping import install_import_hook

# Most programs of the tests are tiny: unoptimised they compile in half the time, and run as fast.
# What the large ones spend their time on, products of matrices, is called and not compiled.
FLAGS = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{FLAGS} --xla_backend_optimization_level=0".strip()

# Before anything imports the package: every jaxtyping signature is checked, in tests only.
# But for the converter's readers, whose bars on hostile files are seconds.
ROOMS = (p.stem for p in Path(__file__).parents[1].glob("mellow_jax/[a-z]*"))
install_import_hook(
  [f"mellow_jax.{room}" for room in ROOMS if room != "convert"], "beartype.beartype"
)

# Grain reads its flags when it starts workers, which absl forbids before they are parsed.
flags.FLAGS.mark_as_parsed()

import tiny  # noqa: E402  it imports the package, which only the hook above may precede

from mellow_jax import checkpoint  # noqa: E402
from mellow_jax.config import ModelConfig  # noqa: E402


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
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Folder in which the processes that tests start keep compiled programs for each other."""
  return tmp_path_factory.mktemp("compiled")


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
