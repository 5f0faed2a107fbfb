"""docs/architecture.md names what is there, and its walks follow imports."""

import re
from pathlib import Path

import pytest
from test_house import ROOT, imports

PAGE = (ROOT / "docs/architecture.md").read_text()
MOST_FILES = {"One training step": 5, "One answer": 4, "One score": 5}


def walk(title: str) -> list[Path]:
  section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
  return [ROOT / path for path in re.findall(r"^\d\. `([^`]+)`", section, re.MULTILINE)]


def test_every_file_and_folder_that_the_page_names_exists():
  names = re.findall(r"`([\w/]+(?:\.py|/))`", PAGE)
  assert len(names) > 40
  for name in names:
    inside = list((ROOT / "mellow_jax").glob(f"**/{name}"))
    assert (ROOT / name).exists() or inside, f"docs/architecture.md names {name}"


@pytest.mark.parametrize(("title", "most"), MOST_FILES.items())
def test_each_walk_is_short_and_goes_from_a_file_to_what_it_imports(title, most):
  files = walk(title)
  assert 2 < len(files) <= most
  known = set()
  for path in files:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert not known or any(name == module or name.startswith(f"{module}.") for name in known), path
    known |= imports(path)
