"""Set up for every test: shapes and types are checked, and the reference's data is found."""

import os
from pathlib import Path

import pytest
from absl import flags
from jaxtyping import install_import_hook

# Before anything imports the package: every jaxtyping signature is checked, in tests only.
install_import_hook("mellow_jax", "beartype.beartype")

# Grain reads its flags when it starts workers, which absl forbids before they are parsed.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def reference_data() -> Path:
  """The folder of real clips and tokenizers, which is not part of the repository."""
  default = Path(__file__).parents[1] / ".." / "shared"
  folder = Path(os.environ.get("MELLOW_REFERENCE_DATA", default)).resolve()
  if not folder.is_dir():
    pytest.skip(f"no reference data in {folder}: set MELLOW_REFERENCE_DATA to its folder")
  return folder
