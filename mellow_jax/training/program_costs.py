"""Arithmetic and memory traffic of a program in which loops count as often as they run.

The compiler's own analysis counts the body of a loop once, no arithmetic inside a kernel, and as
memory traffic also what is read and written on the chip alone.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8}  # others: 4
# Operations that move nothing: names, and the ends of what another operation has begun.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while"}
TAKERS = {"slice", "dynamic-slice", "gather"}  # these read of their first operand what they yield
SAME = {"bitcast", "reshape", "convert", "copy", "transpose"}  # element by element what they read
BITCAST = 'custom_call_target="ConcatBitcast"'  # joins slices that stand side by side already


def sizes(shapes: str, on_chip: bool = True) -> dict[str, int]:
  """Bytes by type of the arrays that a compiled program's text names.

  on_chip: also of those in a memory of the chip itself, which their layout says by S(n).
  """
  found: dict[str, int] = {}
  for item, shape, layout in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?", shapes):
    if on_chip or "S(" not in layout:
      count = math.prod(int(n) for n in shape.split(",") if n)
      found[item] = found.get(item, 0) + count * ITEM_BYTES.get(item, 4)
  return found


# --- Arithmetic ----------------------------------------------------------------------------------


def flops(jaxpr: Any) -> float:
  """Floating-point operations of the products and convolutions that a traced function asks for.

  Of a branch the dearest side counts, of a loop without a known length one turn.
  """
  return sum((_flops_of(eqn) for eqn in jaxpr.eqns), 0.0)


def _flops_of(eqn: Any) -> float:
  name, out = eqn.primitive.name, eqn.outvars[0].aval if eqn.outvars else None
  if name == "dot_general":
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2.0 * out.size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
  if name == "conv_general_dilated":
    kernel = eqn.invars[1].aval
    outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * out.size * kernel.size / outputs
  inner = [flops(body) for body in _bodies(eqn.params)]
  if name == "cond":
    return max(inner)
  times = eqn.params["length"] if name == "scan" else 1
  if name == "pallas_call":
    times = math.prod(eqn.params["grid_mapping"].grid)
  return times * sum(inner, 0.0)


def _bodies(params: dict[str, Any]) -> Iterator[Any]:
  """The functions that an operation calls."""
  for leaf in jax.tree.leaves([*params.values()], is_leaf=lambda x: hasattr(x, "eqns")):
    if hasattr(leaf, "eqns"):
      yield leaf
    elif hasattr(leaf, "jaxpr"):
      yield leaf.jaxpr


# --- Traffic -------------------------------------------------------------------------------------


class Operation(NamedTuple):
  """An operation of a compiled program."""

  shape: str
  kind: str
  operands: list[str]
  attributes: str


def traffic(program: str) -> int:
  """Bytes read from and written to memory, not that of the chip, by a compiled program's text."""
  bodies = computations(program)
  return sum(times * _moved(bodies, body, op) for times, body, op in _executed(bodies, bodies[""]))


def operations(program: str) -> int:
  """Operations that a compiled program runs, on a GPU about its kernels, by its text."""
  bodies = computations(program)
  return sum(times for times, _, _ in _executed(bodies, bodies[""]))


def computations(program: str) -> dict[str, dict[str, Operation]]:
  """The operations of each computation by name; the entry's stand under ""."""
  found: dict[str, dict[str, Operation]] = {}
  for line in program.splitlines():
    if head := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
      current = found.setdefault("" if head[1] else head[2], {})
    elif op := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)(.*)", line):
      name, shape, kind, operands, rest = op.groups()
      current[name] = Operation(shape, kind, re.findall(r"%([\w.\-]+)", operands), operands + rest)
  return found


def _executed(
  bodies: dict[str, dict[str, Operation]], body: dict[str, Operation], times: int = 1
) -> Iterator[tuple[int, dict[str, Operation], Operation]]:
  """How often each operation of a computation runs, which moves memory; and where it stands."""
  for op in body.values():
    if op.kind == "while":
      inner, condition = (
        bodies[re.search(rf"{part}=%?([\w.\-]+)", op.attributes)[1]]
        for part in ("body", "condition")
      )
      yield from _executed(bodies, inner, times * _turns(condition, op))
    elif op.kind == "call":
      called = re.search(r"to_apply=%?([\w.\-]+)", op.attributes)
      yield from _executed(bodies, bodies[called[1]], times)
    elif op.kind not in FREE and not op.kind.endswith("-done") and BITCAST not in op.attributes:
      yield times, body, op


def _turns(condition: dict[str, Operation], loop: Operation) -> int:
  """How often a loop runs; 1 where its text does not tell."""
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
    return int(known[1])
  limits = [
    int(re.match(r"\d+", op.attributes)[0])
    for op in condition.values()
    if op.kind == "constant" and op.shape.startswith("s32[]") and op.attributes[:1].isdigit()
  ]
  return limits[0] if len(limits) == 1 else 1


def _moved(
  bodies: dict[str, dict[str, Operation]], body: dict[str, Operation], op: Operation
) -> int:
  """Bytes that an operation reads and writes; of what it takes a slice of, the slice alone."""

  def size(shapes: str) -> int:
    return sum(sizes(shapes, on_chip=False).values())

  if op.kind == "slice-start":  # its shape: all that it takes from, the slice, and a number
    return sum(sizes(op.shape[op.shape.index(")") :].rpartition(", ")[0]).values())
  if op.kind == "copy-start":  # its shape: both ends
    return size(op.shape)
  read = [size(body[name].shape) if name in body else 0 for name in op.operands]
  if op.kind in TAKERS:
    read[0] = min(read[0], size(op.shape))
  called = re.search(r"calls=%?([\w.\-]+)", op.attributes)
  fused = bodies.get(called[1] if called else None, {})
  for name, inner in fused.items():
    number = re.match(r"\d+", inner.attributes)
    if inner.kind == "parameter" and number and int(number[0]) < len(read):
      share = _taken(fused, name) / max(_elements(inner), 1)
      read[int(number[0])] = round(share * read[int(number[0])])
  return sum(read) + size(op.shape)


def _elements(op: Operation) -> int:
  shape = re.search(r"\[([\d,]*)\]", op.shape)
  return math.prod(int(n) for n in shape[1].split(",") if n) if shape else 0


def _taken(fused: dict[str, Operation], name: str) -> int:
  """How many elements of a value within a fusion are wanted, at most all."""
  users = {user: op for user, op in fused.items() if name in op.operands}
  whole, taken = _elements(fused[name]), 0
  for user, op in users.items():
    if op.kind in TAKERS and op.operands[0] == name:
      taken += _elements(op)
    elif op.kind in SAME:
      taken += _taken(fused, user)
    else:
      return whole
  return min(whole, taken) if users else whole
