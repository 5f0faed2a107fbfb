"""The fields of a config with type, value and comment, for --help_config."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

HEADER = """\
Each field can be set on the command line, as in --config.batch_size=8. A comment ends with the
source of the default: "release" is the reference's inference code, "training" its training code,
"paper" the publication of 2025.
"""


class ConfigField(NamedTuple):
  """One field that a command line can set."""

  flag: str  # such as --config.optim.learning_rate
  type: str
  value: object
  comment: str  # what stands beside it in its class: meaning, unit, source


def fields(cfg: object, path: str = "config") -> Iterator[ConfigField]:
  """The fields of a config dataclass and of those within it, in the order of their definition."""
  comments: dict[str, tuple[str, str]] = {}
  for cls in reversed(type(cfg).__mro__):
    if dataclasses.is_dataclass(cls):
      comments |= _comments(cls)
  for field in dataclasses.fields(cfg):
    value, (kind, comment) = getattr(cfg, field.name), comments.get(field.name, ("", ""))
    if dataclasses.is_dataclass(value):
      yield from fields(value, f"{path}.{field.name}")
    elif field.name != "kind":  # it follows from the class, and cannot be set
      yield ConfigField(f"--{path}.{field.name}", kind, value, comment)


def _comments(cls: type) -> dict[str, tuple[str, str]]:
  """Type and comment of each field that a class defines: on its line, or on the lines above it."""
  lines = textwrap.dedent(inspect.getsource(cls)).splitlines()
  found = {}
  for node in ast.parse("\n".join(lines)).body[0].body:
    if isinstance(node, ast.AnnAssign):
      comment = lines[node.end_lineno - 1].partition("  # ")[2]
      if not comment:
        before = (line.strip() for line in reversed(lines[: node.lineno - 1]))
        above = itertools.takewhile(lambda line: line.startswith("# "), before)
        comment = " ".join(line.removeprefix("# ") for line in reversed([*above]))
      found[node.target.id] = (ast.unparse(node.annotation), comment)
  return found


def text(cfg: object) -> str:
  """All fields, two lines or more for each: flag, type and value; then the comment."""
  lines = [HEADER]
  for field in fields(cfg):
    lines.append(f"{field.flag}  {field.type} = {field.value!r}")
    lines += textwrap.wrap(field.comment, 96, initial_indent="    ", subsequent_indent="    ")
  return "\n".join(lines)
