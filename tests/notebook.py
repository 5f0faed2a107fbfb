"""Runs the code cells of a notebook in this process, without Jupyter.

python tests/notebook.py docs/quickstart.ipynb    writes what the cells print into the notebook
"""

import contextlib
import io
import json
import re
import sys
from pathlib import Path


def read(path):
  return json.loads(Path(path).read_text(encoding="utf-8"))


def code_cells(notebook):
  return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook, **values):
  """What each code cell prints; values replace those that lines of the cells give to names."""
  scope, printed = {"__name__": "__main__"}, []
  for cell in code_cells(notebook):
    source = "".join(cell["source"])
    for name, value in values.items():
      source = re.sub(rf"^{name} = .*", f"{name} = {value!r}", source, flags=re.MULTILINE)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
      exec(compile(source, "quickstart.ipynb", "exec"), scope)
    printed.append(out.getvalue())
  return printed


# Lines of how long something takes, or will take.
PROGRESS = re.compile(r" \.\.\.( \d+ s)?$| left$|^compiled in ")


def main(path):
  notebook = read(path)
  for i, (cell, text) in enumerate(zip(code_cells(notebook), run(notebook), strict=True), 1):
    text = text.replace(f"{Path.cwd()}/", "")
    lines = [line for line in text.splitlines(keepends=True) if not PROGRESS.search(line)]
    output = {"name": "stdout", "output_type": "stream", "text": lines}
    cell |= {"execution_count": i, "outputs": [output] if lines else []}
  text = json.dumps(notebook, indent=1, ensure_ascii=False)
  Path(path).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
  main(sys.argv[1])
