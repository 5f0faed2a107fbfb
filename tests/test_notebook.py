"""The notebook of the docs runs from its first cell to its last, on a model of random weights."""

from pathlib import Path

import docs_folder
import notebook
import pytest

PATH = Path(__file__).parents[1] / "docs/quickstart.ipynb"


def test_the_notebook_has_what_its_cells_print():
  cells = notebook.code_cells(notebook.read(PATH))
  assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
  printing = [cell for cell in cells if "print(" in "".join(cell["source"])]
  assert all(cell["outputs"] for cell in printing)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  docs_folder.write_models(tmp_path)
  printed = notebook.run(notebook.read(PATH), STEPS=2)
  assert "right:" in printed[-2] and "report.html" in printed[-1]
