"""PyTorch's format before 1.6: pickles in a row, then the bytes of each storage.

The stream is: a magic number, the format's version, the writer's integer sizes and byte order, the
object itself, and the keys of its storages, each a pickle of its own; then for each key the number
of values as int64 and the values, little-endian. Only the pickles of plain data are read (see
`inert_pickle`), and every number is checked against the file's size before memory is taken.

Source: torch/serialization.py (_legacy_save, _legacy_load); PANNs' CNN14 is such a file.
"""

import os
from typing import BinaryIO

import numpy as np

from mellow_jax.convert import inert_pickle, torch_tensors
from mellow_jax.convert.torch_tensors import DTYPES, Storage
from mellow_jax.errors import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
# The first pickle, by which such a file is told.
HEAD = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
VERSION = 1001
MAX_PICKLE_BYTES = 64 * 2**20  # of all pickles together; a sampler of 2 million clips takes 18 MB


def read(file: BinaryIO) -> dict:
  """What the file, open at its start, holds; raises CheckpointError."""
  size = os.fstat(file.fileno()).st_size
  pickles = file.read(MAX_PICKLE_BYTES)
  _, at = _plain(pickles, 0)
  version, at = _plain(pickles, at)
  if version != VERSION:
    raise CheckpointError(f"it is of version {version!r} of PyTorch's legacy format, not {VERSION}")
  system, at = _plain(pickles, at)
  if not isinstance(system, dict) or system.get("little_endian") is not True:
    raise CheckpointError("it was saved on a big-endian machine; re-save it on another")
  declared, end = _declared_storages(pickles, at)
  keys, start = _plain(pickles, end)
  if type(keys) is not list or not all(type(key) is str for key in keys):
    raise CheckpointError("the list of its storages makes no sense; download the file again")
  if set(keys) != set(declared) or len(set(keys)) != len(keys):
    raise CheckpointError("the storages listed are not those used; download the file again")
  storages = _read_storages(file, start, size, {key: declared[key] for key in keys})

  def find(identity: object) -> Storage:
    return storages[torch_tensors.parse_identity(identity)[1]]

  return torch_tensors.load(pickles, at, find, size - start)[0]


def _plain(data: bytes, at: int) -> tuple[object, int]:
  """A pickle without tensors and its end."""
  return inert_pickle.load(data, at, {}, (), _no_storage)


def _no_storage(identity: object) -> None:
  raise CheckpointError("a storage is referred to where none can stand; download the file again")


def _declared_storages(data: bytes, at: int) -> tuple[dict[str, tuple[np.dtype, int]], int]:
  """Type and number of values of each storage by key, and the end of the object's pickle.

  The bytes of the storages follow the object, so it is read twice: here without its tensors.
  """
  declared: dict[str, tuple[np.dtype, int]] = {}

  def record(identity: object) -> None:
    dtype, key, count = torch_tensors.parse_identity(identity)
    if declared.setdefault(key, (dtype, count)) != (dtype, count):
      raise CheckpointError(f"storage {key[:100]} is declared in two ways")

  # A tensor is None here; whether it fits its storage is checked when it is made.
  stubs = {
    "collections.OrderedDict": torch_tensors.empty_ordered_dict,
    "torch._utils._rebuild_tensor_v2": lambda *arguments: None,
    "torch._utils._rebuild_parameter": lambda *arguments: None,
  }
  _, end = inert_pickle.load(data, at, stubs, DTYPES, record)
  return declared, end


def _read_storages(
  file: BinaryIO, start: int, size: int, declared: dict[str, tuple[np.dtype, int]]
) -> dict[str, Storage]:
  needed = sum(8 + max(count, 0) * dtype.itemsize for dtype, count in declared.values())
  if start + needed != size:
    raise CheckpointError(
      f"its storages take {needed} bytes, but {size - start} follow; download or copy it again"
    )
  file.seek(start)
  storages = {}
  for key, (dtype, count) in declared.items():
    found = int.from_bytes(file.read(8), "little", signed=True)
    if found != count:
      raise CheckpointError(f"storage {key[:100]} has {found} values instead of {count}")
    values = np.fromfile(file, dtype, count)
    if values.size != count:
      raise CheckpointError("it breaks off; download or copy the file again")
    storages[key] = torch_tensors.make_storage(key, values)
  return storages
