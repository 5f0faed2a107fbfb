"""Where the time of traced steps went: what a device ran, by kind and by operation."""

import collections
import pathlib
from typing import NamedTuple

import jax

# Parts of the names that XLA and libraries give to what they run, the first that fits.
KINDS = {
  "collectives": ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "permute", "nccl"),
  "attention": ("fmha", "flash", "splash"),
  "products": ("dot", "gemm", "convolution", "cudnn-conv", "cublas", "matmul", "cutlass", "ynn"),
  "copies": ("copy", "memcpy", "transpose", "slice", "concatenate", "gather", "scatter", "bitcast"),
}
OTHERS = "other fusions"
LONGEST = 12  # operations that are named


class Trace(NamedTuple):
  """What the devices of a trace did: seconds of one device, the mean where there are several."""

  seconds: float  # from the first operation to the last
  busy: float  # in which an operation ran
  kinds: dict[str, float]  # by kind, the longest first
  operations: dict[str, float]  # by name, the longest first


def read(folder: pathlib.Path) -> Trace:
  """The newest trace in a folder that `jax.profiler.start_trace` wrote.

  An operation that holds others, such as a loop, counts without them.

  Raises:
    ValueError: there is no trace, or none of a device.
  """
  files = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
  if not files:
    raise ValueError(f"{folder} has no trace")
  planes = [*jax.profiler.ProfileData.from_file(str(files[-1])).planes]
  devices = [plane for plane in planes if plane.name.startswith("/device:")]
  lines = map(_operations, devices or planes)
  found = [events for events in lines if any(events)]
  if not found:
    raise ValueError(f"{files[-1]} has no operation of a device")
  names: dict[str, float] = collections.defaultdict(float)
  kinds: dict[str, float] = collections.defaultdict(float)
  seconds = busy = 0.0
  for device in found:
    everything = sorted(event for events in device for event in events)
    seconds += (max(end for _, end, _ in everything) - everything[0][0]) / 1e9
    busy += _covered(everything) / 1e9
    for events in device:
      for name, own in _own_seconds(events):
        names[name] += own / len(found)
        kinds[kind(name)] += own / len(found)

  def longest(values: dict[str, float]) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))

  return Trace(seconds / len(found), busy / len(found), longest(kinds), longest(names))


def kind(name: str) -> str:
  """What an operation does, by its name."""
  return next((k for k, parts in KINDS.items() if any(p in name.lower() for p in parts)), OTHERS)


def summary(folder: pathlib.Path) -> str:
  """The newest trace of a folder in lines: shares of the time, the longest operations."""
  try:
    trace = read(folder)
  except ValueError as error:
    return str(error)
  idle = max(0.0, trace.seconds - trace.busy)
  lines = [f"{trace.seconds:.3f} s, {100 * idle / trace.seconds:.0f}% of it idle"]
  total = sum(trace.operations.values())
  for values in (trace.kinds, dict([*trace.operations.items()][:LONGEST])):
    lines += [f"  {100 * each / total:5.1f}%  {name}" for name, each in values.items()]
  return "\n".join(lines)


Event = tuple[float, float, str]  # nanoseconds at its beginning and end, and its name


def _operations(plane: jax.profiler.ProfilePlane) -> list[list[Event]]:
  """The operations of XLA on the lines of a device, the earliest first.

  GPUs and CPUs give them with the statistic hlo_op; TPUs have a line of their own for them.
  """
  found = []
  for line in plane.lines:
    events = []
    for event in line.events:
      name = dict(event.stats).get("hlo_op")
      if name is None and line.name == "XLA Ops":
        name = event.name.split(" = ")[0]
      if name is not None:
        events.append((event.start_ns, event.start_ns + event.duration_ns, str(name)))
    found.append(sorted(events, key=lambda event: (event[0], -event[1])))
  return found


def _own_seconds(events: list[Event]) -> list[tuple[str, float]]:
  """Seconds of each operation without those inside it."""
  own = [(end - start) / 1e9 for start, end, _ in events]
  around: list[int] = []  # of those not yet ended
  for i, (start, end, _) in enumerate(events):
    while around and events[around[-1]][1] <= start:
      around.pop()
    if around and end <= events[around[-1]][1]:
      own[around[-1]] -= (end - start) / 1e9
    around.append(i)
  return [(name, seconds) for (_, _, name), seconds in zip(events, own, strict=True)]


def _covered(events: list[Event]) -> float:
  """Nanoseconds in which at least one of the operations ran; the earliest comes first."""
  covered, until = 0.0, 0.0
  for start, end, _ in events:
    covered += max(0.0, end - max(start, until))
    until = max(until, end)
  return covered
