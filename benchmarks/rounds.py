"""What all measurements share: contestants that take turns, agreement, medians, a table, a file.

Contestants take turns round by round beside the ceilings of the machine, since on a shared machine
both can double from one minute to the next. Rates are medians over the rounds, with the lowest and
the highest; a ratio is that of two medians. Nothing is timed before results agree.
"""

import argparse
import functools
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import tqdm

from mellow_jax.config import ModelConfig

PACKAGES = ("jax", "flax", "numpy", "torch", "transformers", "torchlibrosa", "torchaudio")
PACKAGES += ("librosa", "soundfile", "grain")


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
  """Seconds of a call, and what it returns."""
  start = time.perf_counter()
  result = run()
  return time.perf_counter() - start, result


# --- Command line --------------------------------------------------------------------------------


def parser(doc: str, *, reference: bool = False) -> argparse.ArgumentParser:
  """The flags of all measurements; with reference, that of the public PyTorch code as well."""
  found = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  found.add_argument("--rounds", type=int, default=3)
  found.add_argument("--output", type=Path, help="JSON file")
  found.add_argument("--tiny", action="store_true", help="a model that compiles in seconds")
  if reference:
    found.add_argument("--layers", type=int, help="of the decoder, fewer than its own")
    text = "checkout of the public PyTorch code, its branch `training`"
    found.add_argument("--reference", type=Path, metavar="PATH", help=text)
  return found


def has(*packages: str) -> bool:
  return all(importlib.util.find_spec(name) for name in packages)


NO_COMPILER = "PyTorch finds no C++ compiler to compile with: install g++"


def has_compiler() -> bool:
  """Whether PyTorch can compile: with a GPU by Triton, else by a C++ compiler."""
  return any(map(shutil.which, ("g++", "clang++"))) or bool(shutil.which("nvidia-smi"))


def no_reference(args: argparse.Namespace) -> str:
  """Why the public PyTorch code is not measured, in one line; "" where it can be."""
  if args.tiny:
    return "its encoder has one size: leave out --tiny, or take --layers=2"
  if not args.reference:
    return "give --reference=PATH, a checkout of github.com/soham97/mellow, branch training"
  if missing := [name for name in ("torch", "torchlibrosa") if not has(name)]:
    return f"{' and '.join(missing)} not installed: pip install {' '.join(missing)}"
  if not (args.reference / "models" / "mellow.py").is_file():
    return f"{args.reference} has no models/mellow.py: check out its branch training"
  return ""


class Report:
  """What a measurement finds; it is written whole after each part, and printed as it comes."""

  def __init__(self, area: str, args: argparse.Namespace):
    self._output = args.output
    versions = {name: metadata.version(name) for name in PACKAGES if has(name)}
    self.content: dict[str, Any] = {
      "area": area,
      "flags": {name: str(value) for name, value in vars(args).items() if value is not None},
      "machine": platform.processor() or platform.machine(),
      "cores": os.cpu_count(),
      "load": os.getloadavg(),
      "versions": versions,
      "skipped": [],
      "agreement": [],
      "profiles": {},
      "tables": [],
    }

  def skip(self, what: str, why: str) -> None:
    """Says in a line what is not measured."""
    self.content["skipped"].append({"what": what, "why": why})
    print(f"not measured: {what}: {why}", flush=True)

  def agree(self, what: str, difference: float, tolerance: float) -> None:
    """Notes how far results are apart; ends the program where it is too far."""
    entry = {"what": what, "difference": difference, "tolerance": tolerance}
    self.content["agreement"].append(entry)
    print(f"agreement: {what}: {difference:.1e}, at most {tolerance:.0e}", flush=True)
    if not difference <= tolerance:
      raise SystemExit("results differ: nothing is timed")

  def profile(self, what: str, summary: str) -> None:
    """Adds where the time of a row goes, prints it, and writes the file."""
    self.content["profiles"][what] = summary
    print(f"profile, {what}: {summary}", flush=True)
    self._write()

  def add(self, table: dict[str, Any]) -> None:
    """Adds a table, prints it, and writes the file."""
    self.content["tables"].append(table)
    print(text(table), flush=True)
    self._write()

  def _write(self) -> None:
    if self._output:
      self._output.write_text(json.dumps(self.content, indent=1))


# --- Contestants ---------------------------------------------------------------------------------


def peak_gib() -> float | None:
  """The most memory that this process has held; None where the system does not tell."""
  status = Path("/proc/self/status")
  if status.exists():
    (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20
  return None if platform.system() == "Windows" else resource.getrusage(0).ru_maxrss / 2**30


_here: Any = None  # the contestant of a process of its own


def _start(make: Callable[[], Any]) -> None:
  global _here
  _here = make()


def _call(method: str) -> Any:
  return getattr(_here, method)()


def _moves() -> float | None:
  """Bytes that a contestant's program moves, where it tells."""
  return getattr(_here, "traffic", lambda: None)()


def _end() -> None:
  """Lets go of what a contestant holds: its threads would keep the process from ending."""
  getattr(_here, "close", lambda: None)()


def apart(function: Callable[..., Any], *args: Any, own_process: bool = True) -> Any:
  """What a function returns, called in a process that then ends with all its memory."""
  if not own_process:
    return function(*args)
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    return pool.submit(function, *args).result()


class Contestant:
  """One of those that take turns, by default in a process of its own: its peak memory is its own.

  What `make` returns has `turn`, which returns the seconds of `amount` units of work. It has
  `peak_gib` where memory is of interest, and may have `traffic`, the bytes that its program moves,
  and `close`. work: FLOPs of the units, or bytes.
  With anew, the process is another for each turn: one contestant at a time is in memory.
  """

  def __init__(
    self,
    name: str,
    amount: float,
    make: Callable[[], Any],
    *,
    work: float | None = None,
    own_process: bool = True,
    anew: bool = False,
  ):
    self.name, self.amount, self.work = name, amount, work
    self._make, self._own_process, self._anew = make, own_process, anew and own_process
    self._peaks: list[float | None] = []
    self._traffic: float | None = None
    if not self._anew:
      self._begin()

  def _begin(self) -> None:
    if not self._own_process:
      self._made = self._make()
      return
    print(f"starting: {self.name}", flush=True)
    self._pool = futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    self._pool.submit(_start, self._make).result()

  def call(self, method: str) -> Any:
    """What a method of the contestant returns."""
    if self._own_process:
      return self._pool.submit(_call, method).result()
    return getattr(self._made, method)()

  def turn(self) -> float:
    """Seconds of a turn."""
    if not self._anew:
      return self.call("turn")
    self._begin()
    seconds = self.call("turn")
    self._peaks.append(self.call("peak_gib"))
    if self._traffic is None:
      self._traffic = self.traffic()
    self._end()
    return seconds

  def peak_gib(self) -> float | None:
    """The most memory that it has held; None where its process is not its own."""
    if self._own_process and not self._anew:
      return self.call("peak_gib")
    return max((peak for peak in self._peaks if peak), default=None)

  def traffic(self) -> float | None:
    """Bytes that its program moves; None where it does not tell."""
    if self._traffic is not None:
      return self._traffic
    if self._own_process:
      return self._pool.submit(_moves).result()
    return getattr(self._made, "traffic", lambda: None)()

  def _end(self) -> None:
    if self._own_process:
      self._pool.submit(_end).result()
      self._pool.shutdown()
    else:
      getattr(self._made, "close", lambda: None)()

  def close(self) -> None:
    if not self._anew:
      self._end()


def machine(cfg: ModelConfig, rows: int, tiny: bool = False, dtype: str = "float32") -> Contestant:
  """The ceilings of the machine; the product is of so many rows with the decoder's MLP."""
  from benchmarks import ceilings  # it imports JAX, which processes of PyTorch do without

  shape, mebibytes = (rows, cfg.decoder.width, 2 * cfg.decoder.mlp), 1 if tiny else 1024
  make = functools.partial(ceilings.Machine, shape, mebibytes, dtype)
  return Contestant("ceilings of the machine", 1, make, own_process=not tiny)


class Limit(NamedTuple):
  """What bounds the speed of a table's contestants."""

  name: str  # "GFLOP/s" or "GB/s", of ceilings.Machine
  what: str  # what their `work` counts, in words


class Row(NamedTuple):
  """A row of a table: a contestant's, or one whose seconds follow from those of others."""

  name: str
  amount: float
  work: float | None = None


class Measured(NamedTuple):
  """What rounds have found."""

  seconds: dict[str, list[float]]  # of each contestant, by its name
  ceilings: dict[str, list[float]]  # of the machine, by their names


def take_turns(
  contestants: Sequence[Contestant], rounds: int, machine: Contestant | None = None
) -> Measured:
  """One turn of each contestant and of the machine's ceilings, and again, so many rounds."""
  found = Measured({c.name: [] for c in contestants}, {})
  for index in tqdm.trange(rounds, desc="rounds", disable=None):
    if machine:
      for name, value in machine.call("measure").items():
        found.ceilings.setdefault(name, []).append(value)
    for one in contestants:
      seconds = one.turn()
      found.seconds[one.name].append(seconds)
      # A round of training at full size takes many minutes: what it has found is seen as it comes.
      tqdm.tqdm.write(f"round {index + 1} of {rounds}: {one.name}: {seconds:.3g} s")
  return found


def table(
  title: str,
  unit: str,
  contestants: Sequence[Contestant | Row],
  measured: Measured,
  *,
  limit: Limit | None = None,
  peers: Sequence[str] = (),
) -> dict[str, Any]:
  """A row for each contestant; peers are those that all are compared with.

  Units are amounts a second, or "s" or "ms": how long an amount takes, and lower is better.
  """
  limits = {name: spread(values) for name, values in measured.ceilings.items()}
  medians = {one.name: statistics.median(measured.seconds[one.name]) for one in contestants}
  rates = {one.name: one.amount / medians[one.name] for one in contestants}
  times, rows = {"s": 1.0, "ms": 1e3}.get(unit), []
  for one in contestants:
    seconds = measured.seconds[one.name]
    figures = [times * s / one.amount if times else one.amount / s for s in seconds]
    row = {"name": one.name, **spread(figures), "seconds": seconds}
    row["times"] = {
      peer: rates[one.name] / rates[peer] for peer in peers if peer in rates and peer != one.name
    }
    if limit and one.work:
      least = one.work / 1e9 / limits[limit.name]["median"]
      row |= {"seconds at the limit": least, "share of the limit": least / medians[one.name]}
    rows.append(row)
  rounds = len(measured.seconds[contestants[0].name])
  found = {"title": title, "unit": unit, "rounds": rounds, "limits": limits, "rows": rows}
  return found | ({"limit": limit._asdict()} if limit else {})


def add_memory(table: dict[str, Any], contestants: Sequence[Contestant]) -> None:
  """Gives rows the most memory that each contestant has held in a process of its own."""
  for row, one in zip(table["rows"], contestants, strict=True):
    row["peak GiB"] = one.peak_gib()


def spread(values: Sequence[float]) -> dict[str, float]:
  return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


# --- Table ---------------------------------------------------------------------------------------


def number(value: float | None) -> str:
  """Three digits or all before the point; a dash for none."""
  if value is None:
    return "-"
  digits = max(0, 3 - len(str(int(abs(value))))) if abs(value) >= 1 else 3
  return f"{value:.{digits}f}"


def cells(table: dict[str, Any]) -> list[list[str]]:
  """The table's head and rows as text; columns that no row has are left out."""
  rows = table["rows"]
  peers = [row["name"] for row in rows if any(row["name"] in other["times"] for other in rows)]
  columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    (table["title"], lambda row: row["name"]),
    (table["unit"], lambda row: number(row["median"])),
    ("lowest", lambda row: number(row["lowest"])),
    ("highest", lambda row: number(row["highest"])),
    *((f"x {p}", lambda row, p=p: number(row["times"].get(p))) for p in peers),
  ]
  if any("share of the limit" in row for row in rows):

    def share(row: dict[str, Any]) -> str:
      found = row.get("share of the limit")
      return "-" if found is None else f"{100 * found:.0f}%"

    columns.append(("of the limit", share))
  if any(row.get("peak GiB") for row in rows):
    columns.append(("peak GiB", lambda row: number(row.get("peak GiB"))))
  return [[name for name, _ in columns], *([cell(row) for _, cell in columns] for row in rows)]


def below(table: dict[str, Any]) -> list[str]:
  """Lines below a table: rounds, the ceilings measured in them, the limit."""
  found = [f"medians of {table['rounds']} rounds in turns"]
  for name, each in table["limits"].items():
    low, high = number(each["lowest"]), number(each["highest"])
    found.append(f"measured in the same rounds: {number(each['median'])} {name} ({low} to {high})")
  if "limit" in table:
    found.append(f"limit: {table['limit']['what']} at the measured {table['limit']['name']}")
  return found + table.get("notes", [])


def text(table: dict[str, Any]) -> str:
  """The table for a screen, and what stands below it."""
  lines = cells(table)
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  made = []
  for first, *others in lines:
    figures = (x.rjust(width) for x, width in zip(others, widths[1:], strict=True))
    made.append("  ".join([first.ljust(widths[0]), *figures]))
  return "\n" + "\n".join([*made, *below(table)]) + "\n"
