"""What the commands share: flags, --help, and one line for what the caller can mend."""

import ast
import contextlib
import errno
import functools
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import config_flags

from mellow_jax import config_help, files, progress
from mellow_jax.data import presets
from mellow_jax.errors import FlagsError, LateError, UserError, first_line

CONFIGS = Path(__file__).parent / "configs"  # of the checkout, or as installed
CHECKPOINT = "MELLOW_CHECKPOINT"  # the environment variable
COLUMNS = 100
SEEDS = -(2**63), 2**63 - 1  # the lowest and the highest of JAX
MOST_TOKENS = 100_000  # of an answer
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}  # --device to JAX_PLATFORMS


def flag_values() -> flags.FlagValues:
  """The flags of one command; absl's global ones would change when a command is imported."""
  f = flags.FlagValues()
  flags.DEFINE_bool("help", False, "Show this.", flag_values=f, short_name="h")
  return f


def define_old_name(f: flags.FlagValues, old: str, name: str) -> None:
  """Lets --old, which users may have in scripts, stand for --name; --help does not show it."""
  flags.DEFINE_alias(old, name, flag_values=f)


def define_checkpoint(f: flags.FlagValues, what: str = "Model folder") -> None:
  """Defines --checkpoint, which `run` takes from the variable CHECKPOINT where it is absent."""
  text = f"{what}; the variable {CHECKPOINT} if absent."
  flags.DEFINE_string("checkpoint", None, text, flag_values=f)


def require(f: flags.FlagValues, *names: str) -> None:
  """Raises FlagsError for the first flag of these that has no value."""
  for name in names:
    if not f[name].value:
      what = f"name a model folder, here or in the variable {CHECKPOINT}"
      raise FlagsError(f"--{name} is missing: {what if name == 'checkpoint' else f[name].help}")


def define_clips(f: flags.FlagValues, question: str, other: str, text: str) -> None:
  """Defines --audio and the flag of the question with its help, also by another command's name."""
  clips = "Audio file, if no argument names it; twice for two that are asked about together."
  flags.DEFINE_multi_string("audio", [], clips, flag_values=f)
  flags.DEFINE_string(question, None, text, flag_values=f)
  define_old_name(f, other, question)


def clips_and_question(
  audio: Sequence[str], question: str | None, words: Sequence[str], root: str = ""
) -> tuple[list[str], str | None]:
  """The clips and the question that flags name, or the words beside them: clips, then a question.

  Paths start from root. Raises FlagsError where both name clips, and for a word that can be neither
  a file nor the whole question: the shell takes apart what stands in no quotes.
  """
  clips = [*words]
  if question is None and clips and not _can_be_file(root, clips[-1]):
    question = clips.pop()
  if stray := next((word for word in clips if not _can_be_file(root, word)), None):
    example = 'clip.wav "what is heard?"'
    remedy = f"check the path, and put the question between quotes, as {example}"
    raise FlagsError(f"{stray!r} is no file or folder: {remedy}")
  if audio and clips:
    raise FlagsError(f"--audio and {clips[0]} both name clips: give all in one of the two ways")
  return [*audio] or clips, question


def _can_be_file(root: str, word: str) -> bool:
  """Whether a word is the path of something, or ends as a file's name does."""
  if re.fullmatch(r"\S+\.[A-Za-z]\w{1,4}", word):
    return True
  try:
    return Path(root, word).exists()
  except (OSError, ValueError):  # a question may be too long for a path
    return False


def define_device(f: flags.FlagValues) -> None:
  """Defines --device, which `run` hands to JAX; parallel.require_device checks that it is there."""
  flags.DEFINE_enum(
    "device", None, list(PLATFORMS), "Where the model runs; by default JAX chooses.", flag_values=f
  )


def define_preset(f: flags.FlagValues) -> None:
  """Defines --preset; what there is to choose stands in data/presets.py."""
  text = "Input preparation; by default the model's."
  flags.DEFINE_enum("preset", None, [*presets.PRESETS], text, flag_values=f)


def define_sampling(f: flags.FlagValues, samples: str) -> None:
  """Defines how tokens are chosen, for inference.answering.sampling_of; samples is their help."""
  kinds = ["greedy", "sample", "beam"]
  flags.DEFINE_enum("sampling", "greedy", kinds, "How tokens are chosen.", flag_values=f)
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  number("max_new_tokens", 300, "Tokens after which an answer is cut off.", 1, MOST_TOKENS)
  number("top_k", 0, "Sample from the k most probable tokens; 0: from all.")
  number("samples", 1, samples)
  number("beams", 4, "Beams of --sampling=beam.")
  share = functools.partial(flags.DEFINE_float, flag_values=f)
  share("temperature", 1.0, "Of --sampling=sample: below 1 for more probable tokens.")
  share("top_p", 1.0, "Sample from the fewest tokens of this total probability.")
  vote = "Of several samples keep one that most agree with, by option or by yes and no."
  flags.DEFINE_bool("vote", False, vote, flag_values=f)


def _use_device(device: str) -> None:
  os.environ["JAX_PLATFORMS"] = PLATFORMS[device]
  if "jax" in sys.modules:  # it has read the environment already
    sys.modules["jax"].config.update("jax_platforms", PLATFORMS[device])


def _with_underscores(argv: Sequence[str]) -> list[str]:
  """argv with --dry_run for --dry-run: in the name of each flag, an underscore for a dash."""

  def name(word: str) -> str:
    return re.sub(r"(?<=\w)-(?=\w)", "_", word) if word.startswith("--") else word

  return ["".join((name(word.partition("=")[0]), *word.partition("=")[1:])) for word in argv]


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
    """The config that the file returns; FlagsError for whatever goes wrong in the file."""
    path = config_path(argument)
    try:
      return self._load(path)
    except Exception as error:  # the file is the user's own Python
      cause = error.__context__ or error  # ml_collections puts a traceback into the message
      kind = "" if isinstance(cause, UserError) else f"mend the file: {type(cause).__name__}: "
      raise FlagsError(f"{kind}{first_line(cause)}") from None


class _NumbersParser(flags.ArgumentParser):
  """Parses a dict of numbers by name, such as config.data.mix."""

  def parse(self, argument: str | dict[str, float]) -> dict[str, float]:
    """The dict; ValueError where the text is none."""
    if isinstance(argument, dict):
      return argument  # the config's own
    try:
      found = dict(ast.literal_eval(argument))
      if all(isinstance(name, str) and isinstance(x, int | float) for name, x in found.items()):
        return {name: float(x) for name, x in found.items()}
    except (SyntaxError, TypeError, ValueError):
      pass
    raise ValueError("write \"{'NAME': NUMBER}\", or {} for none")


def define_config(f: flags.FlagValues, argv: Sequence[str]) -> None:
  """Defines --config=NAME in f, and --config.FIELD=VALUE for the fields that argv sets."""
  text = "Config of the package, or path of a .py file with get_config(); :ARG goes to get_config."
  words = _with_underscores(argv)
  config_flags.register_flag_parser_for_type(dict, _NumbersParser())
  config_flags.DEFINE_config_file("config", None, text, flag_values=f, sys_argv=words)
  f["config"].parser = _ConfigParser(f["config"].parser.parse)
  fields = "List the fields of --config with type, value, unit and source."
  flags.DEFINE_bool("help_config", False, fields, flag_values=f)


def help_text(doc: str, f: flags.FlagValues) -> str:
  """The doc of a command, then its flags in the order of their definition.

  A flag without a help text is one that the doc explains.
  """
  lines = [doc.strip(), "", "Flags:"]
  for flag in (flag for group in f.flags_by_module_dict().values() for flag in group):
    if flag.name == "help" or flag.help.startswith(("Alias for --", "(no help")):
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


def _field_fault(error: KeyError, argv: Sequence[str]) -> str:
  """The --config.FIELD of argv that ml_collections did not find, and where fields are listed."""
  lacking = re.search(r"Field (\w+) not found", str(error))
  if not lacking:
    return str(error.args[0])
  names = (word.removeprefix("-").removeprefix("-").partition("=")[0] for word in argv)
  fields = [name for name in names if name.startswith("config.")]
  given = next((name for name in fields if lacking[1] in name.split(".")), lacking[1])
  return f"--{given}: --help_config lists the fields"


@contextlib.contextmanager
def ending_in_a_line() -> Iterator[None]:
  """Turns Ctrl-C and a stdout whose reader is gone, as of `| head`, into a line and SystemExit.

  So it does with a full disk under stdout, or under another file that the error does not name.
  """
  if sys.stdout is None:  # closed by the shell, as `>&-` does
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
  try:
    yield
    sys.stdout.flush()
  except KeyboardInterrupt:
    print("error: stopped by Ctrl-C", file=sys.stderr, flush=True)
    raise SystemExit(130) from None  # as shells count it
  except BrokenPipeError:
    _give_up_stdout("the output was closed before its end")
  except OSError as error:
    if error.errno not in files.FULL or error.filename is not None:
      raise
    _give_up_stdout(_REMEDIES[error.errno])


def _give_up_stdout(fault: str) -> NoReturn:
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left cannot be written at exit either
  print(f"error: {fault}", file=sys.stderr, flush=True)
  raise SystemExit(1) from None


def read(argv: Sequence[str], f: flags.FlagValues, example: str | None) -> list[str]:
  """Reads argv into f and returns its arguments; raises FlagsError and flags.Error."""
  try:
    extra = f(_with_underscores(argv))[1:]
  except KeyError as error:  # of ml_collections
    raise FlagsError(f"unknown config field {_field_fault(error, argv)}") from None
  except flags.UnrecognizedFlagError as error:
    raise FlagsError(f"{error}; --help lists the flags") from None
  if extra and example:
    raise FlagsError(f"{extra[0]!r} is no flag: write {example}")
  return extra


# By the system's number of an error.
_REMEDIES = {
  errno.EEXIST: "a file is there, where a folder is needed: name another folder",
  errno.ENOTDIR: "a file is there, where a folder is needed: name another folder",
  errno.EISDIR: "it is a folder, where a file is needed: name a file",
  errno.ENOENT: "there is no such file or folder: check the path",
  errno.EACCES: "it may not be used: check its permissions, or name another place",
  errno.EPERM: "it may not be used: check its permissions, or name another place",
  errno.EROFS: "nothing can be written there: name another place",
  errno.ENOSPC: "the disk is full: make room, or name another place",
  errno.EDQUOT: "the quota of the disk is used up: make room, or name another place",
  errno.EFBIG: "no file may be so large there: raise the limit, or name another place",
  errno.ENAMETOOLONG: "the name is too long: give a shorter one",
}


def _os_fault(error: OSError) -> str:
  """What the system refused, and the remedy."""
  remedy, path = _REMEDIES.get(error.errno), error.filename2 or error.filename
  if not remedy or not isinstance(path, str | bytes | os.PathLike):
    return str(error)
  return f"{os.fsdecode(path)}: {remedy}"


def run(
  argv: Sequence[str],
  f: flags.FlagValues,
  doc: str,
  do: Callable[..., int | None],
  *,
  example: str | None,
  waits_for: str | None = None,
) -> int:
  """Parses argv into f and calls do(f); with --help it prints doc and the flags instead.

  Returns the exit status: that of `do`, 0 for None, or 1 after one line on stderr for a UserError,
  an OSError, a lack of memory or wrong flags; for a LateError 75, which asks for the same command
  again. Arguments that are no flags are an error that suggests `example`; where that is None, `do`
  gets them after f. While a command is silent for long, lines say that it `waits_for` something;
  None: it has a progress bar or lines of its own.
  Raises SystemExit, after a line on stderr, as ending_in_a_line does.
  """
  try:
    with ending_in_a_line():
      arguments = read(argv, f, example)
      if f.help:
        print(help_text(doc, f))
        return 0
      if "help_config" in f and f.help_config:
        if not f.config:
          raise FlagsError("--config is missing: name the config whose fields are listed")
        print(config_help.text(f.config))
        return 0
      if "checkpoint" in f and not f.checkpoint:
        f.checkpoint = os.environ.get(CHECKPOINT)
      if "device" in f and f.device:
        _use_device(f.device)
      with progress.stage(waits_for) if waits_for else contextlib.nullcontext():
        return do(f, *arguments) or 0
  except (flags.Error, UserError, OSError) as error:
    text = _os_fault(error) if isinstance(error, OSError) else str(error)
    status = os.EX_TEMPFAIL if isinstance(error, LateError) else 1
  except RuntimeError as error:  # JAX's is one, and is not imported for --help
    if not re.search("RESOURCE_EXHAUSTED|Out of memory", str(error)):
      raise
    remedy = "lower the batch size or the length of answers, or take a device with more"
    text = f"the device has too little memory: {remedy} ({first_line(error)})"
    status = 1
  print(f"error: {text}", file=sys.stderr, flush=True)
  return status
