"""Tensors as PyTorch's pickles describe them: views of storages, checked before they are made.

Source: torch/_utils.py (_rebuild_tensor_v2, _rebuild_parameter) and torch/serialization.py.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from mellow_jax.convert import inert_pickle
from mellow_jax.errors import CheckpointError

MAX_DEPTH = 32  # dictionaries and lists inside each other
MAX_VALUES = 1_000_000  # counting a value wherever it is referred to
# A weight may stand under several names (tied embeddings) or be stretched by a stride of 0. All
# together may be this many times the bytes stored, so that copying every tensor stays affordable.
MAX_EXPANSION = 4
SMALL_BYTES = 2**20  # ...or this much
MAX_AXES = 32  # of a tensor

DTYPES = {
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


@dataclass(frozen=True)
class Storage:
  """The values that tensors are views of."""

  values: np.ndarray  # 1-D


def make_storage(key: str, values: np.ndarray) -> Storage:
  """A storage of these values; raises CheckpointError for booleans other than 0 and 1."""
  if values.dtype == np.bool_ and values.view(np.uint8).max(initial=0) > 1:
    raise CheckpointError(f"storage {key} is of booleans but holds other bytes than 0 and 1")
  return Storage(values)


def parse_identity(identity: object) -> tuple[np.dtype, str, int]:
  """Type, key and number of values of the storage that a persistent id names."""
  kind, storage_type, key, _, count, *view = identity
  if kind != "storage" or not isinstance(storage_type, inert_pickle.Name) or type(key) is not str:
    raise CheckpointError("data.pkl refers to something other than a storage")
  if any(part is not None for part in view):
    raise CheckpointError("a storage is a view of another; re-save the file with torch.save")
  if not _all_natural((count,)):
    count = -1  # no storage has so many bytes, which the caller reports
  return DTYPES[storage_type.dotted], key, count


def load(
  data: bytes, start: int, find_storage: Callable[[object], Storage], stored_bytes: int
) -> tuple[dict, int]:
  """The object pickled at `start`, with its tensors as views of their storages, and its end.

  Entries that hold objects of NumPy, such as the state of a data sampler, are left out where a
  state_dict stands beside them; no such object is ever made. Raises CheckpointError.
  """
  builder = _Builder(stored_bytes)
  value, end = inert_pickle.load(data, start, builder.functions, DTYPES, find_storage)
  if not isinstance(value, dict):
    raise CheckpointError(f"it holds a {type(value).__name__}; save model.state_dict() instead")
  extents = {key: builder.extent(item) for key, item in value.items()}
  kept = {key: item for key, item in value.items() if not extents[key].foreign}
  if len(kept) < len(value):
    if not any(isinstance(item, dict) for item in kept.values()):
      foreign = next(extent.foreign for extent in extents.values() if extent.foreign)
      raise inert_pickle.refused_name(foreign)
    value = kept
  builder.check(builder.extent(value))
  return value, end


@dataclass(frozen=True)
class _Extent:
  """What a reader meets who follows every reference, though many lead to one value."""

  values: int
  size: int  # bytes
  foreign: str = ""  # name of an object of NumPy somewhere in it


class _Builder:
  """Makes tensors, and bounds what they unfold to."""

  def __init__(self, stored_bytes: int):
    self.stored_bytes = stored_bytes
    self.functions = {
      "collections.OrderedDict": empty_ordered_dict,
      "torch._utils._rebuild_tensor_v2": self.tensor,
      "torch._utils._rebuild_parameter": _parameter,
    }

  def tensor(
    self, storage: object, offset: object, shape: object, strides: object, *_: object
  ) -> np.ndarray:
    """A view of the storage; offset and strides count values. What follows is for autograd."""
    if (
      not isinstance(storage, Storage)
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
    self.check_bytes(count * values.itemsize)
    if not count:
      return np.empty(shape, values.dtype)
    # An axis of one is never stepped along: its stride may be any number, even one numpy refuses.
    steps = tuple(s * values.itemsize if n > 1 else 0 for n, s in zip(shape, strides, strict=True))
    return np.ndarray(shape, values.dtype, values, offset * values.itemsize, steps)

  def extent(self, root: object) -> _Extent:
    """Raises CheckpointError for what is nested too deep, contains itself or is no plain data."""
    extents: dict[int, _Extent | None] = {}  # by id; None while open

    def measure(value: object, depth: int) -> _Extent:
      if isinstance(value, np.ndarray):
        return _Extent(1, value.nbytes)
      if isinstance(value, inert_pickle.Foreign):
        return _Extent(1, 0, value.dotted)
      if isinstance(value, (str, int, float, type(None))):
        return _Extent(1, 0)
      if not isinstance(value, (dict, list, tuple)):
        raise CheckpointError(f"it holds a bare {type(value).__name__.strip('_').lower()}")
      if id(value) not in extents:
        if depth > MAX_DEPTH:
          raise CheckpointError(f"its dictionaries and lists are nested deeper than {MAX_DEPTH}")
        extents[id(value)] = None
        items = value.values() if isinstance(value, dict) else value
        inner = [measure(item, depth + 1) for item in items]
        extents[id(value)] = _Extent(
          1 + sum(e.values for e in inner),
          sum(e.size for e in inner),
          next((e.foreign for e in inner if e.foreign), ""),
        )
      if extents[id(value)] is None:
        raise CheckpointError("one of its dictionaries or lists contains itself")
      return extents[id(value)]

    return measure(root, 0)

  def check(self, extent: _Extent) -> None:
    if extent.values > MAX_VALUES:
      raise CheckpointError(
        f"it unfolds to {extent.values} values, more than the {MAX_VALUES} allowed"
      )
    self.check_bytes(extent.size)

  def check_bytes(self, size: int) -> None:
    if size > max(MAX_EXPANSION * self.stored_bytes, SMALL_BYTES):
      raise CheckpointError(
        f"its tensors would take {size} bytes, more than {MAX_EXPANSION} times the "
        f"{self.stored_bytes} stored"
      )


def empty_ordered_dict() -> OrderedDict:
  """An OrderedDict as PyTorch pickles it; with arguments it is refused."""
  return OrderedDict()


def _parameter(data: object, *_: object) -> np.ndarray:
  if not isinstance(data, np.ndarray):
    raise CheckpointError(f"a parameter is made of a {type(data).__name__}, not of a tensor")
  return data


def _all_natural(values: tuple) -> bool:
  return all(type(value) is int and 0 <= value < 2**63 for value in values)
