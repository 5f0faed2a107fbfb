"""What the commands share: flags, --help, and one line for what the caller can mend."""

import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mellow_jax.errors import FlagsError, UserError

CONFIGS = Path(__file__).parent / "configs"  # of the checkout, or as installed
COLUMNS = 100


def flag_values() -> flags.FlagValues:
  """The flags of one command; absl's global ones would change when a command is imported."""
  f = flags.FlagValues()
  flags.DEFINE_bool("help", False, "Show this.", flag_values=f, short_name="h")
  return f


def config_path(value: str) -> str:
  """The value of --config, NAME or PATH.py and perhaps :ARGUMENT, with a name resolved to its path.

  Names are those of files in CONFIGS. Raises FlagsError where there is no such file.
  """
  name, colon, argument = value.partition(":")
  if name.endswith(".py") or "/" in name:
    path = Path(name)
    if not path.is_file():
      raise FlagsError("there is no such file")
  else:
    path = CONFIGS / f"{name}.py"
    if not path.is_file():
      names = ", ".join(sorted(known.stem for known in CONFIGS.glob("[a-z]*.py")))
      raise FlagsError(f"no config of that name: choose {names}, or give the path of a .py file")
  return f"{path}{colon}{argument}"


class _ConfigParser(flags.ArgumentParser):
  """Parses the value of --config."""

  def __init__(self, load: Callable[[str], object]):
    self._load = load

  def parse(self, argument: str) -> object:
    """The config that the file returns."""
    return self._load(config_path(argument))


def define_config(f: flags.FlagValues, argv: Sequence[str]) -> None:
  """Defines --config=NAME in f, and --config.FIELD=VALUE for the fields that argv sets."""
  text = "Config of the package, or path of a .py file with get_config(); :ARG goes to get_config."
  config_flags.DEFINE_config_file("config", None, text, flag_values=f, sys_argv=list(argv))
  f["config"].parser = _ConfigParser(f["config"].parser.parse)


def help_text(doc: str, f: flags.FlagValues) -> str:
  """The doc of a command, then its flags in the order of their definition."""
  lines = [doc.strip(), "", "Flags:"]
  for flag in (flag for group in f.flags_by_module_dict().values() for flag in group):
    if flag.name == "help":
      continue
    values = getattr(flag.parser, "enum_values", None) or []
    # What absl adds by itself goes: a list of values before, that a flag can be repeated after.
    text = flag.help.removeprefix(f"<{'|'.join(values)}>: ").split(";\n    repeat this")[0]
    text += f" One of {', '.join(values)}." if values else ""
    if flag.default is not None and flag.default is not False and flag.default not in ("", []):
      text += f" Default {flag.default}."
    lines += textwrap.wrap(
      f"{'--' + flag.name:<20} {text}",
      COLUMNS,
      initial_indent="  ",
      subsequent_indent=" " * 23,
      break_on_hyphens=False,
    )
  return "\n".join(lines)


def _read(argv: Sequence[str], f: flags.FlagValues, example: str | None) -> list[str]:
  """Reads argv into f and returns its arguments; raises FlagsError and flags.Error."""
  try:
    extra = f(argv)[1:]
  except KeyError as error:  # of ml_collections
    raise FlagsError(f"unknown config field ({error.args[0]})") from None
  if extra and example:
    raise FlagsError(f"{extra[0]!r} is no flag: write {example}")
  return extra


def run(
  argv: Sequence[str],
  f: flags.FlagValues,
  doc: str,
  do: Callable[..., int | None],
  *,
  example: str | None,
) -> int:
  """Parses argv into f and calls do(f); with --help it prints doc and the flags instead.

  Returns the exit status: that of `do`, 0 for None, or 1 after one line on stderr for a UserError,
  an OSError or wrong flags. Arguments that are no flags are an error that suggests `example`;
  where that is None, `do` gets them after f.
  """
  try:
    arguments = _read(argv, f, example)
    if f.help:
      print(help_text(doc, f))
      return 0
    return do(f, *arguments) or 0
  except (flags.Error, UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 1
