"""PyTorch checkpoints to numpy and back, without PyTorch and without running their pickles.

A checkpoint is a zip file: `<root>/data.pkl` describes the tensors as views of storages, and
`<root>/data/<key>` holds each storage's bytes. Reading takes about the memory of the file, since
tensors stay views of their storages. It is safe on files from strangers: see `inert_pickle` and
`stored_zip` for what is refused.

Source: torch/serialization.py and torch/_utils.py, PyTorch 1.6 and later.
"""

import itertools
import math
import os
import pickle
import shutil
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from mellow_jax.convert import inert_pickle, stored_zip
from mellow_jax.errors import CheckpointError

MAX_PICKLE_BYTES = 8 * 2**20  # Mellow's is 0.1 MB
MAX_DEPTH = 32  # dictionaries and lists inside each other
MAX_VALUES = 1_000_000  # counting a value wherever it is referred to
# A weight may stand under several names (tied embeddings) or be stretched by a stride of 0. All
# together may be this many times the bytes stored, so that copying every tensor stays affordable.
MAX_EXPANSION = 4
SMALL_BYTES = 2**20  # ...or this much
MAX_AXES = 32  # of a tensor

_ALIGNMENT = 64  # bytes, as PyTorch places storages
_DTYPES = {
  "torch.DoubleStorage": np.dtype(np.float64),
  "torch.FloatStorage": np.dtype(np.float32),
  "torch.HalfStorage": np.dtype(np.float16),
  "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "torch.LongStorage": np.dtype(np.int64),
  "torch.IntStorage": np.dtype(np.int32),
  "torch.ShortStorage": np.dtype(np.int16),
  "torch.CharStorage": np.dtype(np.int8),
  "torch.ByteStorage": np.dtype(np.uint8),
  "torch.BoolStorage": np.dtype(np.bool_),
}
_STORAGES = {dtype: name for name, dtype in _DTYPES.items()}
_ORDERED_DICT = pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
_FOREIGN = {  # first bytes -> what the file is
  b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": (
    "was saved by PyTorch before 1.6 or in its legacy format; load it in a newer PyTorch and "
    "re-save it with torch.save"
  ),
  b"\x80": "is a bare pickle, not a PyTorch checkpoint; re-save its tensors with torch.save",
  b"version https://git-lfs": "is a Git LFS pointer; fetch the file itself with `git lfs pull`",
  b"<": "is a web page, not a checkpoint; download the file itself",
}


@dataclass(frozen=True)
class _Storage:
  values: np.ndarray  # 1-D


def read(path: str | Path) -> dict:
  """What a `.pt`, `.pth` or `.ckpt` file holds: dicts, lists, tuples and scalars of numpy arrays.

  Arrays that share a storage in the file share memory here. Optimizer state, hyper-parameters and
  the like come along where they are plain data. Raises CheckpointError, naming the file.
  """
  try:
    with Path(path).open("rb") as file:
      return _Reader(file).read()
  except CheckpointError as error:
    raise CheckpointError(f"{path}: {error}") from None
  except OSError as error:
    raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


class _Reader:
  """One open checkpoint."""

  def __init__(self, file: BinaryIO):
    head = file.read(32)
    for magic, meaning in _FOREIGN.items():
      if head.startswith(magic):
        raise CheckpointError(f"it {meaning}")
    self.file = file
    self.members = stored_zip.directory(file)
    self.stored_bytes = sum(member.size for member in self.members.values())
    self.storages: dict[str, _Storage] = {}
    self.root = self._root()

  def read(self) -> dict:
    data_pkl = self.members[f"{self.root}/data.pkl"]
    if data_pkl.size > MAX_PICKLE_BYTES:
      raise CheckpointError(
        f"data.pkl has {data_pkl.size} bytes, more than the {MAX_PICKLE_BYTES} allowed; "
        "save model.state_dict() alone"
      )
    functions = {
      "collections.OrderedDict": _empty_ordered_dict,
      "torch._utils._rebuild_tensor_v2": self._tensor,
      "torch._utils._rebuild_parameter": _parameter,
    }
    content = stored_zip.read(self.file, data_pkl).tobytes()
    value = inert_pickle.loads(content, functions, _DTYPES, self._storage)
    if not isinstance(value, dict):
      raise CheckpointError(f"it holds a {type(value).__name__}; save model.state_dict() instead")
    self._check_extent(value)
    return value

  def _root(self) -> str:
    """The folder that holds everything, named by whoever saved the file."""
    roots = {name.partition("/")[0] for name in self.members}
    root = min(roots, default="")
    if f"{root}/constants.pkl" in self.members:
      raise CheckpointError(
        "it is a TorchScript archive; load it with torch.jit.load and re-save its state_dict() "
        "with torch.save"
      )
    stored_zip.refuse_packed(self.members.values())
    if len(roots) != 1 or f"{root}/data.pkl" not in self.members:
      raise CheckpointError(
        "it is a zip file but no PyTorch checkpoint: there is no single folder with data.pkl; "
        "re-save it with torch.save"
      )
    byteorder = self.members.get(f"{root}/byteorder")
    if byteorder and stored_zip.read(self.file, byteorder).tobytes() != b"little":
      raise CheckpointError("it was saved on a big-endian machine; re-save it on another")
    return root

  def _storage(self, identity: object) -> _Storage:
    kind, storage_type, key, _, count = identity
    if kind != "storage" or not isinstance(storage_type, inert_pickle.Name) or type(key) is not str:
      raise CheckpointError("data.pkl refers to something other than a storage")
    dtype = _DTYPES[storage_type.dotted]
    member = self.members.get(f"{self.root}/data/{key}")
    if member is None:
      raise CheckpointError(f"storage {key[:100]!r} is not in the file; download or copy it again")
    if not _all_natural((count,)) or count * dtype.itemsize != member.size:
      raise CheckpointError(
        f"storage {key} has {member.size} bytes, which is not the number of {dtype} it declares"
      )
    if key not in self.storages:
      values = stored_zip.read(self.file, member).view(dtype)
      if dtype == np.bool_ and values.view(np.uint8).max(initial=0) > 1:
        raise CheckpointError(f"storage {key} is of booleans but holds other bytes than 0 and 1")
      self.storages[key] = _Storage(values)
    storage = self.storages[key]
    if storage.values.dtype != dtype:
      raise CheckpointError(f"storage {key} is declared both {storage.values.dtype} and {dtype}")
    return storage

  def _tensor(
    self, storage: object, offset: object, shape: object, strides: object, *_: object
  ) -> np.ndarray:
    """A view of the storage; offset and strides count values. What follows is for autograd."""
    if (
      not isinstance(storage, _Storage)
      or type(shape) is not tuple
      or type(strides) is not tuple
      or len(shape) > MAX_AXES
      or not _all_natural((offset, *shape, *strides))
    ):
      raise CheckpointError("a tensor's storage, offset, shape or strides are of the wrong kind")
    values = storage.values
    count = math.prod(shape)
    end = offset
    if count:
      end += 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if end > values.size:
      raise CheckpointError(
        f"a tensor of shape {shape} and strides {strides} at {offset} reaches beyond its storage "
        f"of {values.size} values"
      )
    self._check_bytes(count * values.itemsize)
    if not count:
      return np.empty(shape, values.dtype)
    # An axis of one is never stepped along: its stride may be any number, even one numpy refuses.
    steps = tuple(s * values.itemsize if n > 1 else 0 for n, s in zip(shape, strides, strict=True))
    return np.ndarray(shape, values.dtype, values, offset * values.itemsize, steps)

  def _check_bytes(self, size: int) -> None:
    if size > max(MAX_EXPANSION * self.stored_bytes, SMALL_BYTES):
      raise CheckpointError(
        f"its tensors would take {size} bytes, more than {MAX_EXPANSION} times the "
        f"{self.stored_bytes} stored"
      )

  def _check_extent(self, root: object) -> None:
    """Bounds what a reader meets who follows every reference, though many lead to one value."""
    extents: dict[int, tuple[int, int] | None] = {}  # id -> values and bytes; None while open

    def extent(value: object, depth: int) -> tuple[int, int]:
      if isinstance(value, np.ndarray):
        return 1, value.nbytes
      if isinstance(value, (str, int, float, type(None))):
        return 1, 0
      if not isinstance(value, (dict, list, tuple)):
        raise CheckpointError(f"it holds a bare {type(value).__name__.strip('_').lower()}")
      if id(value) not in extents:
        if depth > MAX_DEPTH:
          raise CheckpointError(f"its dictionaries and lists are nested deeper than {MAX_DEPTH}")
        extents[id(value)] = None
        items = value.values() if isinstance(value, dict) else value
        inner = [extent(item, depth + 1) for item in items]
        extents[id(value)] = 1 + sum(n for n, _ in inner), sum(size for _, size in inner)
      if extents[id(value)] is None:
        raise CheckpointError("one of its dictionaries or lists contains itself")
      return extents[id(value)]

    values, size = extent(root, 0)
    if values > MAX_VALUES:
      raise CheckpointError(f"it unfolds to {values} values, more than the {MAX_VALUES} allowed")
    self._check_bytes(size)


def _empty_ordered_dict() -> OrderedDict:
  return OrderedDict()


def _parameter(data: object, *_: object) -> np.ndarray:
  if not isinstance(data, np.ndarray):
    raise CheckpointError(f"a parameter is made of a {type(data).__name__}, not of a tensor")
  return data


def _all_natural(values: tuple) -> bool:
  return all(type(value) is int and 0 <= value < 2**63 for value in values)


def write(path: str | Path, state_dict: dict[str, np.ndarray]) -> None:
  """Writes a checkpoint that `torch.load(path, weights_only=True)` reads as an OrderedDict.

  One piece of memory under two names becomes one storage, as tied weights are in PyTorch. The file
  appears whole or not at all. Raises CheckpointError, naming the file, and the key at fault.
  """
  path = Path(path)
  if not path.parent.is_dir():
    raise CheckpointError(f"{path}: there is no such folder; create it")
  data_pkl, storages = _describe(path, state_dict)
  members = itertools.chain(
    [("archive/data.pkl", data_pkl), ("archive/byteorder", b"little")],
    # One array at a time is made contiguous, so that transposed views cost no second copy of all.
    ((f"archive/data/{number}", _raw(value)) for number, value in enumerate(storages)),
    [("archive/version", b"3\n")],
  )
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  try:
    with partial.open("wb") as file:
      stored_zip.write(file, members, _ALIGNMENT)
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  except OSError as error:
    needed = len(data_pkl) + sum(value.nbytes for value in storages)
    partial.unlink(missing_ok=True)  # Its own bytes are free again for the next attempt.
    free = shutil.disk_usage(path.parent).free
    raise CheckpointError(
      f"{path}: cannot be written ({error.strerror}); "
      f"it takes {needed} bytes, {free} are free there"
    ) from error
  finally:
    partial.unlink(missing_ok=True)


def _raw(value: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _describe(path: Path, state_dict: dict[str, np.ndarray]) -> tuple[bytes, list[np.ndarray]]:
  """The pickle of the state_dict, and the arrays of the storages that it numbers from 0."""
  storages: list[np.ndarray] = []
  numbers: dict[tuple, int] = {}  # place in memory -> number of its storage
  out = [pickle.PROTO, b"\x02", _ORDERED_DICT, pickle.MARK]
  for key, value in state_dict.items():
    is_array = isinstance(value, np.ndarray)
    if not isinstance(key, str) or not is_array or value.dtype not in _STORAGES:
      kind = value.dtype if is_array else type(value).__name__
      known = ", ".join(map(str, _STORAGES))
      raise CheckpointError(f"{path}: {key!r} is a {kind}; convert it to an array of {known}")
    place = (value.__array_interface__["data"][0], value.shape, value.strides, value.dtype)
    if place not in numbers or not value.size:
      numbers[place] = len(storages)
      storages.append(value)
    strides = [math.prod(value.shape[axis + 1 :]) for axis in range(value.ndim)]
    storage_type = pickle.GLOBAL + _STORAGES[value.dtype].replace(".", "\n").encode() + b"\n"
    out += [_text(key), pickle.GLOBAL, b"torch._utils\n_rebuild_tensor_v2\n", pickle.MARK]
    out += [pickle.MARK, _text("storage"), storage_type, _text(str(numbers[place])), _text("cpu")]
    out += [_whole(value.size), pickle.TUPLE, pickle.BINPERSID, _whole(0)]
    for per_axis in (value.shape, strides):
      out += [pickle.MARK, *map(_whole, per_axis), pickle.TUPLE]
    # requires_grad, and the hooks of the backward pass, of which there are none.
    out += [pickle.NEWFALSE, _ORDERED_DICT, pickle.TUPLE, pickle.REDUCE]
  out += [pickle.SETITEMS, pickle.STOP]
  return b"".join(out), storages


def _text(text: str) -> bytes:
  encoded = text.encode()
  return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _whole(number: int) -> bytes:
  if number < 2**31:
    return pickle.BININT + struct.pack("<i", number)
  return pickle.LONG1 + b"\x08" + struct.pack("<q", number)
