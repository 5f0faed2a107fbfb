"""The paper's ablations, table 8: every system trained, evaluated and put beside the paper's.

  mellow ablate --workdir=runs/ablations [--rows=projection,decoder] [--config.FIELD=VALUE ...]
  mellow ablate --sizes

Systems are trained one after the other, each in a folder of the workdir and once, however many rows
it stands in; then they answer the benchmark with clips and with noise. The same command again goes
on where it was stopped, within a system as well; with other settings or another benchmark it is
refused, as one table would mix the two. The workdir gets ablations.md, the table with the paper's
figures and sizes, and curves.png. --sizes prints the parameters of the paper's systems.

Where clips cannot be read, the exit status is 2: their questions count as wrong until a rerun.

By default systems are as small as the demo and learn from generated scenes. With
--config=ablations:paper they are the paper's; configs/ablations.py says what those need, and
--benchmark and --data name what they answer.
"""

import dataclasses
import functools
import json
import runpy
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from mellow_jax import cli, files
from mellow_jax.config import Config
from mellow_jax.errors import FlagsError


class AblationRow(NamedTuple):
  """A line of the paper's table."""

  label: str
  system: str  # as configs/ablations.py names it
  size: str
  mmau: float  # average accuracy on MMAU test-mini, by letter, in percent
  audiocaps: float  # SPICE on AudioCaps


GPT2_FROZEN = AblationRow("GPT-2 frozen", "gpt2-nonlinear-frozen", "157M", 25.89, 4.79)
GPT2 = AblationRow("GPT-2 fine-tuned", "gpt2-nonlinear", "157M", 41.29, 10.51)
SMOLLM2_FROZEN = AblationRow("SmolLM2 frozen", "smollm2-frozen", "167M", 28.60, 5.26)
SMOLLM2 = AblationRow("SmolLM2 fine-tuned", "smollm2", "167M", 46.29, 18.60)

# Source: the paper's table 8; names of the blocks are those of --rows.
TABLE = {
  "projection": (
    AblationRow("linear, GPT-2 frozen", "gpt2-linear-frozen", "156M", 26.05, 4.53),
    GPT2_FROZEN._replace(label="non-linear, GPT-2 frozen"),
    AblationRow("transformer, GPT-2 frozen", "gpt2-transformer-frozen", "195M", 30.19, 10.26),
    AblationRow("linear, GPT-2 fine-tuned", "gpt2-linear", "156M", 40.01, 9.87),
    GPT2._replace(label="non-linear, GPT-2 fine-tuned"),
    AblationRow("transformer, GPT-2 fine-tuned", "gpt2-transformer", "195M", 41.36, 10.77),
  ),
  "decoder": (GPT2_FROZEN, SMOLLM2_FROZEN, GPT2, SMOLLM2),
  "method": (
    SMOLLM2_FROZEN._replace(label="prefix-tuning"),
    AblationRow("LoRA (8, 16)", "smollm2-lora8", "167M", 39.10, 18.53),
    AblationRow("LoRA (256, 512)", "smollm2-lora256", "181M", 44.40, 19.01),
    SMOLLM2._replace(label="fine-tuning"),
  ),
  "encoder": (
    AblationRow("CNN14", "cnn14-smollm2", "219M", 43.30, 15.97),
    SMOLLM2._replace(label="HTSAT"),
  ),
  "data": (
    SMOLLM2._replace(label="type 1"),
    AblationRow("type 2", "smollm2-type2", "167M", 46.70, 16.47),
    AblationRow("type 3", "smollm2-type3", "167M", 46.40, 17.43),
    AblationRow("type 4", "smollm2-type4", "167M", 48.40, 17.79),
    AblationRow("type 1 + WavCaps", "smollm2-wavcaps", "167M", 47.80, 14.83),
  ),
}
BLOCKS = tuple(TABLE)
AUDIO = ("clips", "noise")


def systems(blocks: Iterable[str]) -> list[str]:
  """The systems of blocks of the table, each once."""
  return list(dict.fromkeys(row.system for block in blocks for row in TABLE[block]))


def config_of(base: str, system: str) -> str:
  """The --config of a system; base is NAME or NAME:SCALE."""
  return f"{base}/{system}" if ":" in base else f"{base}:{system}"


def load(base: str, system: str) -> Config:
  """A system's configuration; raises FlagsError where there is no such file."""
  try:
    path, _, arg = cli.config_path(config_of(base, system)).partition(":")
  except FlagsError as error:
    raise FlagsError(f"--config={base}: {error}") from None
  return runpy.run_path(path)["get_config"](arg)


def configured(base: str, system: str, overrides: Sequence[str]) -> Config:
  """A system's configuration with the fields that the command line sets, as training reads it.

  Raises FlagsError and flags.Error for what training would refuse.
  """
  try:
    path = cli.config_path(config_of(base, system))
  except FlagsError as error:
    raise FlagsError(f"--config={base}: {error}") from None
  f, argv = cli.flag_values(), ["mellow ablate", f"--config={path}", *overrides]
  cli.define_config(f, argv)
  cli.read(argv, f, None)
  return f.config


def size(cfg: Config) -> int:
  """Parameters of a system as the paper counts them."""
  from mellow_jax.models import mellow  # not before it is asked: JAX

  return mellow.count_parameters(cfg.model, cfg.optim.lora)


# --- Work ----------------------------------------------------------------------------------------


def _do(command: Callable[[Sequence[str]], int], *argv: str, goes_on: int = 0) -> int:
  """Runs a command in this process, so that both end together; its status, 0 or goes_on.

  With any other the process leaves.
  """
  if (status := command(["mellow ablate", *argv])) not in (0, goes_on):
    raise SystemExit(status)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)  # training has handled it
  return status


def is_trained(folder: Path, cfg: Config) -> bool:
  """Whether a run's folder holds the model of this configuration after its last step.

  Where anything is absent or different, training goes on or refuses, by its checkpoints.
  """
  if not ((folder / "model").exists() and (folder / "run.json").exists()):
    return False
  plain = json.loads(json.dumps(dataclasses.asdict(cfg)))
  steps = files.read_lines(folder / "metrics.jsonl")
  # The settings of a run that was prolonged are there before its model is.
  is_done = bool(steps) and steps[-1].get("step") == cfg.steps
  return is_done and files.read_json(folder / "run.json", "the settings of a run") == plain


def run_system(f: flags.FlagValues, system: str, cfg: Config, overrides: Sequence[str]) -> int:
  """Trains a system and lets it answer, as far as that is not done yet.

  Returns 0, or INCOMPLETE where questions could not be asked.
  """
  from mellow_jax import train
  from mellow_jax.evaluation.commands import predict
  from mellow_jax.inference.predictions import INCOMPLETE

  folder = Path(f.workdir) / system
  if not is_trained(folder, cfg):
    _do(train.main, f"--config={config_of(f.config, system)}", f"--workdir={folder}", *overrides)
  status = 0
  for audio in AUDIO:
    # Also where all is answered: it refuses answers of another model or to another benchmark.
    found = _do(
      predict.main,
      *(f"--benchmark={f.benchmark}", f"--data={f.data or folder}", f"--audio={audio}"),
      *(f"--checkpoint={folder / 'model'}", f"--output={folder / audio}.jsonl"),
      *(f"--max_new_tokens={cfg.model.answer_tokens}", "--batch_size=50"),
      goes_on=INCOMPLETE,
    )
    status = max(status, found)
  return status


def check_benchmark(f: flags.FlagValues, chosen: Sequence[str], overrides: Sequence[str]) -> None:
  """Raises a UserError where systems would be trained that could not be asked or scored after."""
  from mellow_jax.evaluation.benchmarks import catalogue, prediction_files

  if f.benchmark not in catalogue.BENCHMARKS:
    known = ", ".join(catalogue.BENCHMARKS)
    raise FlagsError(f"--benchmark={f.benchmark} is unknown: one of {known}")
  if f.data:
    for item in catalogue.read(f.benchmark, f.data):
      if not item.answer:
        raise FlagsError(f"--data={f.data}: {prediction_files.no_answer(item, f.benchmark)}")
    return
  if f.benchmark != "scenes":
    raise FlagsError(f"--data is missing: name the files of --benchmark={f.benchmark}")
  given = [word.partition("=")[2] for word in overrides if word.startswith("--config.data.source=")]
  if given[-1:] != ["scenes"] and (given or load(f.config, chosen[0]).data.source != "scenes"):
    raise FlagsError(
      "these systems learn from files and have no scenes of their own to answer: name what they "
      "answer, such as --benchmark=mmau --data=MMAU"
    )


# --- Page ----------------------------------------------------------------------------------------


def figures(folder: Path) -> dict[str, tuple[float, ...]]:
  """Accuracy in percent of each section of a system's answers, to clips and to noise."""
  from mellow_jax.evaluation.benchmarks import prediction_files
  from mellow_jax.evaluation.report import sections

  found = []
  for audio in AUDIO:
    parts = sections.split(prediction_files.read(folder / f"{audio}.jsonl").predictions)
    found.append({part.name: float(sections.headline(part)[-1].values.mean()) for part in parts})
  return {name: tuple(one[name] for one in found) for name in found[0]}


def table(
  workdir: Path, blocks: Sequence[str], configs: Mapping[str, Config], done: Iterable[str]
) -> str:
  """The page's table in Markdown; of systems that are not done, blanks.

  What an earlier command left in their folders may be of other settings.
  """
  found = {system: figures(workdir / system) for system in done}
  sizes = {system: size(cfg) for system, cfg in configs.items()}
  names = list(dict.fromkeys(name for one in found.values() for name in one))
  head = ["system", "parameters", *names, "paper: size", "paper: MMAU", "paper: AudioCaps SPICE"]
  lines = []
  for block in blocks:
    lines += [f"\n## {block}\n", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in TABLE[block]:
      ours = (found.get(row.system, {}).get(name) for name in names)
      cells = ["" if one is None else f"{one[0]:.1f} ({one[1]:.1f})" for one in ours]
      paper = (row.size, f"{row.mmau:.2f}", f"{row.audiocaps:.2f}")
      lines.append("| " + " | ".join([row.label, f"{sizes[row.system]:,}", *cells, *paper]) + " |")
  return "\n".join(lines).strip() + "\n"


def draw_curves(workdir: Path, names: Sequence[str]) -> None:
  """The validation loss of each system over its steps, as curves.png."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(9, 5), layout="constrained")
  axes = figure.subplots()
  for number, system in enumerate(names):
    path = workdir / system / "metrics.jsonl"
    lines = [line for line in files.read_lines(path) if "val_loss" in line] if path.exists() else []
    style = "-" if number < 10 else "--"  # there are ten colours
    axes.plot([x["step"] for x in lines], [x["val_loss"] for x in lines], style, label=system)
  axes.set_xlabel("step")
  axes.set_ylabel("validation loss, nats a token")
  axes.grid(alpha=0.25)
  figure.legend(loc="outside right upper", fontsize="small")
  with files.replacing(workdir / "curves.png", "wb") as file:
    figure.savefig(file, format="png", dpi=150)


def write_page(
  f: flags.FlagValues,
  blocks: Sequence[str],
  configs: Mapping[str, Config],
  done: Mapping[str, int],
) -> None:
  """Writes ablations.md and curves.png, of the systems that are done: name to exit status."""
  workdir = Path(f.workdir)
  text = (
    "# Ablations\n\n"
    f"Accuracy in percent, word for word, on `{f.benchmark}`, in brackets with noise in place of "
    "the clips. The paper's figures are of its own data and sizes.\n\n"
    "![Validation loss of each system](curves.png)\n\n"
  )
  if incomplete := [system for system, status in done.items() if status]:
    text += (
      "Some clips could not be read, and their questions count as wrong, in "
      f"{', '.join(incomplete)}.\n\n"
    )
  files.write_text(workdir / "ablations.md", text + table(workdir, blocks, configs, done))
  draw_curves(workdir, [*done])


# --- Command -------------------------------------------------------------------------------------


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, flag_values=f)
  text("config", "ablations", "Config of the systems; ablations:paper is the paper's scale.")
  text("workdir", None, "Folder of the whole table; also --output.")
  cli.define_old_name(f, "output", "workdir")
  cli.define_device(f)
  flags.DEFINE_list("rows", [], f"Blocks of the table: {', '.join(BLOCKS)}.", flag_values=f)
  text("benchmark", "scenes", "What systems answer; see `mellow evaluate predict --help`.")
  text("data", None, "The benchmark's data; by default the run's own scenes.")
  flags.DEFINE_bool("sizes", False, "Print the parameters of the paper's systems.", flag_values=f)
  return f


def _ablate(f: flags.FlagValues, overrides: Sequence[str]) -> int:
  if f.sizes:
    for system in (*systems(b for b in BLOCKS if b != "data"), "cnn14-gpt2"):
      print(f"{system:<26}{size(load('ablations:paper', system)):>13,}", flush=True)
    return 0
  if not f.workdir:
    raise FlagsError("--workdir is missing: name a folder for the table")
  is_paper = ":" in f.config
  from mellow_jax import parallel  # here, so that --help does not wait for JAX

  parallel.require_device(f.device)
  blocks = f.rows or [block for block in BLOCKS if is_paper or block != "data"]
  if unknown := sorted(set(blocks) - set(BLOCKS)):
    raise FlagsError(f"--rows={unknown[0]}: use {', '.join(BLOCKS)}")
  if "data" in blocks and not is_paper:
    raise FlagsError("--rows=data needs the paper's data: --config=ablations:paper")
  configs = {name: configured(f.config, name, overrides) for name in systems(blocks)}
  done: dict[str, int] = {}  # exit status by system
  chosen = systems(blocks)
  check_benchmark(f, chosen, overrides)
  for number, system in enumerate(chosen, 1):
    print(f"{system}, {number} of {len(chosen)}", flush=True)
    done[system] = run_system(f, system, configs[system], overrides)
    write_page(f, blocks, configs, done)
  print(table(Path(f.workdir), blocks, configs, done))
  print(f"written: {Path(f.workdir) / 'ablations.md'}")
  return max(done.values())


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 75 where a training was asked to stop, 2 for unreadable clips."""
  overrides = [word for word in argv if word.startswith("--config.")]
  rest = [word for word in argv if word not in overrides]
  do = functools.partial(_ablate, overrides=overrides)
  return cli.run(rest, _flags(), __doc__, do, example="--workdir=DIR")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
