"""Pickles of plain data, read by a machine that can do nothing else.

Python's unpickler imports and calls what the pickle names. This one knows the thirty opcodes that
a PyTorch state_dict consists of and a dictionary of functions the caller lends it; any other
opcode or name is an error, and nothing is ever imported. What it builds is bounded by the length
of the pickle: no opcode allocates by a number it reads.

Source: the opcodes are documented in Python's `pickletools`.
"""

import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from mellow_jax.errors import CheckpointError

MAX_OPCODES = 500_000  # about 20,000 tensors, in under a second

_NUMBERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
_CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_EMPTIES = {pickle.EMPTY_DICT: dict, pickle.EMPTY_LIST: list, pickle.EMPTY_TUPLE: tuple}
_OPCODE_NAMES = {op.code.encode("latin-1"): op.name for op in pickletools.opcodes}
# Old PyTorch Lightning keys the state of callbacks by their class.
_KEY_CLASSES = "pytorch_lightning.callbacks."
# What NumPy's objects are pickled with; a checkpoint may hold the state of a data sampler.
_FOREIGN = ("numpy.", "_codecs.encode")


@dataclass(frozen=True)
class Name:
  """A global the pickle refers to. Only its name is known; nothing is imported."""

  dotted: str


@dataclass(frozen=True)
class Foreign:
  """Stands for an object of NumPy, of which only the name is kept; nothing is made or called."""

  dotted: str


def refused_name(dotted: str) -> CheckpointError:
  """The error for a global that no checkpoint of plain tensors needs."""
  return CheckpointError(
    f"data.pkl asks for {dotted[:100]!r}, which no checkpoint of plain tensors needs; nothing "
    "was run. If you trust the file, load it where it was made and save model.state_dict() alone"
  )


def load(
  data: bytes,
  start: int,
  functions: Mapping[str, Callable],
  classes: Collection[str],
  load_persistent: Callable[[object], object],
) -> tuple[object, int]:
  """What the pickle at byte `start` holds, and the byte after it.

  It is made of dict, OrderedDict, list, tuple, str, int, float, bool, None, and of Foreign where
  an object of NumPy stood. `functions` are what the pickle may call, by dotted name; `classes` are
  names it may only mention; `load_persistent` answers a persistent id. Raises CheckpointError.
  """
  machine = _Machine(data, start, functions, classes, load_persistent)
  try:
    return machine.run(), machine.at
  except CheckpointError:
    raise
  except (ArithmeticError, LookupError, TypeError, ValueError, struct.error):
    raise CheckpointError(
      f"data.pkl makes no sense at byte {machine.at}; download or copy the file again"
    ) from None


class _Machine:
  """A stack, marks on it, and a memo."""

  def __init__(
    self,
    data: bytes,
    start: int,
    functions: Mapping[str, Callable],
    classes: Collection[str],
    load_persistent: Callable[[object], object],
  ):
    self.data, self.at = data, start
    self.functions, self.classes, self.load_persistent = functions, classes, load_persistent
    self.stack: list = []
    self.marks: list[int] = []
    self.memo: dict[int, object] = {}

  def run(self) -> object:
    if (head := self.take(2)) != pickle.PROTO + b"\x02":
      raise CheckpointError(
        f"data.pkl starts with {head!r} instead of pickle protocol 2; re-save the file with "
        "torch.save and its default protocol"
      )
    for _ in range(MAX_OPCODES):
      op = self.take(1)
      if op == pickle.STOP:
        (value,) = self.stack
        return value
      self.step(op)
    raise CheckpointError(f"data.pkl is longer than the {MAX_OPCODES} opcodes allowed")

  def step(self, op: bytes) -> None:
    stack = self.stack
    match op:
      case pickle.BINPUT:
        self.memo[self.take(1)[0]] = stack[-1]
      case pickle.BINGET:
        stack.append(self.memo[self.take(1)[0]])
      case pickle.LONG_BINPUT:
        self.memo[self.number("<I")] = stack[-1]
      case pickle.LONG_BINGET:
        stack.append(self.memo[self.number("<I")])
      case pickle.BINUNICODE:
        stack.append(self.take(self.number("<I")).decode())
      case op if op in _NUMBERS:
        stack.append(self.number(_NUMBERS[op]))
      case op if op in _CONSTANTS:
        stack.append(_CONSTANTS[op])
      case op if op in _EMPTIES:
        stack.append(_EMPTIES[op]())
      case op if op in _TUPLES:
        stack.append(tuple([stack.pop() for _ in range(_TUPLES[op])][::-1]))
      case pickle.LONG1:
        stack.append(int.from_bytes(self.take(self.take(1)[0]), "little", signed=True))
      case pickle.MARK:
        self.marks.append(len(stack))
      case pickle.TUPLE:
        stack.append(tuple(self.since_mark()))
      case pickle.GLOBAL:
        stack.append(self.name())
      case pickle.BINPERSID:
        stack.append(self.load_persistent(stack.pop()))
      case pickle.REDUCE:
        arguments, function = stack.pop(), stack.pop()
        if isinstance(function, Foreign):
          stack.append(function)
          return
        if not isinstance(function, Name) or type(arguments) is not tuple:
          raise CheckpointError("data.pkl calls what is not a function; nothing was run")
        stack.append(self.functions[function.dotted](*arguments))
      case pickle.NEWOBJ if len(stack) > 1 and isinstance(stack[-2], Foreign):
        stack.pop()
      case pickle.SETITEM:
        value, key = stack.pop(), stack.pop()
        self.fill([key, value])
      case pickle.SETITEMS:
        self.fill(self.since_mark())
      case pickle.APPEND:
        item = stack.pop()
        self.extend([item])
      case pickle.APPENDS:
        self.extend(self.since_mark())
      case pickle.BUILD:
        # A module's state_dict carries its layers' versions as an attribute; they are of no use.
        state = stack.pop()
        if isinstance(stack[-1], Foreign):
          return
        if (
          type(stack[-1]) is not OrderedDict
          or type(state) is not dict
          or set(state) - {"_metadata"}
        ):
          raise CheckpointError("data.pkl sets attributes of an object; save a state_dict instead")
      case _:
        known = _OPCODE_NAMES.get(op, f"{op[0]:#04x}")
        raise CheckpointError(
          f"data.pkl uses the opcode {known} at byte {self.at - 1}, which no checkpoint of plain "
          "tensors needs; nothing was run"
        )

  def take(self, size: int) -> bytes:
    chunk = self.data[self.at : self.at + size]
    if len(chunk) < size:
      raise CheckpointError("data.pkl breaks off; download or copy the file again")
    self.at += size
    return chunk

  def number(self, layout: str) -> int | float:
    return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

  def since_mark(self) -> list:
    mark = self.marks.pop()
    items = self.stack[mark:]
    del self.stack[mark:]
    return items

  def name(self) -> Name | Foreign:
    module_end = self.data.index(b"\n", self.at)
    end = self.data.index(b"\n", module_end + 1)
    module, name = (part.decode() for part in self.data[self.at : end].split(b"\n"))
    self.at = end + 1
    dotted = f"{module}.{name}"
    if dotted in self.functions or dotted in self.classes or dotted.startswith(_KEY_CLASSES):
      return Name(dotted)
    if dotted.startswith(_FOREIGN):
      return Foreign(dotted)
    raise refused_name(dotted)

  def fill(self, items: list) -> None:
    target = self.stack[-1]
    if type(target) not in (dict, OrderedDict) or len(items) % 2:
      raise CheckpointError("data.pkl puts items into what is not a dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
      if isinstance(key, Name):
        key = key.dotted
      # Longer integers can be chosen to collide in Python's hash table.
      if type(key) is not str and not (type(key) is int and abs(key) < 2**31):
        raise CheckpointError(f"data.pkl uses a {type(key).__name__} as the key of a dictionary")
      if key in target:
        raise CheckpointError(f"data.pkl holds the key {str(key)[:100]!r} twice")
      target[key] = value

  def extend(self, items: list) -> None:
    if type(self.stack[-1]) is not list:
      raise CheckpointError("data.pkl appends to what is not a list")
    self.stack[-1].extend(items)
