"""PyTorch checkpoints to numpy and back, without PyTorch and without running their pickles.

A checkpoint is a zip file: `<root>/data.pkl` describes the tensors as views of storages, and
`<root>/data/<key>` holds each storage's bytes. PyTorch before 1.6 wrote another format, which
`torch_legacy` reads. Reading takes about the memory of the file, since tensors stay views of their
storages. It is safe on files from strangers: see `inert_pickle` and `stored_zip` for what is
refused.

Source: torch/serialization.py and torch/_utils.py, PyTorch 1.6 and later.
"""

import itertools
import math
import pickle
import shutil
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mellow_jax import files
from mellow_jax.convert import stored_zip, torch_legacy, torch_tensors
from mellow_jax.convert.torch_tensors import DTYPES, Storage
from mellow_jax.errors import CheckpointError

MAX_PICKLE_BYTES = 64 * 2**20  # Mellow's is 0.1 MB, a sampler of 2 million clips 18 MB

_ALIGNMENT = 64  # bytes, as PyTorch places storages
_STORAGES = {dtype: name for name, dtype in DTYPES.items()}
_ORDERED_DICT = pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE


def read(path: str | Path, *, names_only: bool = False) -> dict:
  """What a `.pt`, `.pth` or `.ckpt` file holds: dicts, lists, tuples and scalars of numpy arrays.

  With names_only the values of a zip file stay unread, and are zeros here. Arrays that share a
  storage in the file share memory. Optimizer state, hyper-parameters and the like come along where
  they are plain data. Raises CheckpointError, naming the file.
  """
  try:
    with Path(path).open("rb") as file:
      head = file.read(32)
      file.seek(0)
      if head.startswith(torch_legacy.HEAD):
        return torch_legacy.read(file)
      return _ZipReader(file, names_only=names_only).read()
  except CheckpointError as error:
    raise CheckpointError(f"{path}: {error}") from None
  except OSError as error:
    raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


class _ZipReader:
  """One open checkpoint of PyTorch 1.6 and later."""

  def __init__(self, file: BinaryIO, *, names_only: bool):
    self.file, self.names_only = file, names_only
    self.members = stored_zip.directory(file)
    self.storages: dict[str, Storage] = {}
    self.root = self._root()

  def read(self) -> dict:
    data_pkl = self.members[f"{self.root}/data.pkl"]
    if data_pkl.size > MAX_PICKLE_BYTES:
      raise CheckpointError(
        f"data.pkl has {data_pkl.size} bytes, more than the {MAX_PICKLE_BYTES} allowed; "
        "save model.state_dict() alone"
      )
    content = stored_zip.read(self.file, data_pkl).tobytes()
    stored_bytes = sum(member.size for member in self.members.values())
    value, end = torch_tensors.load(content, 0, self._storage, stored_bytes)
    if end != len(content):
      raise CheckpointError(f"data.pkl goes on after its end at byte {end}")
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

  def _storage(self, identity: object) -> Storage:
    dtype, key, count = torch_tensors.parse_identity(identity)
    member = self.members.get(f"{self.root}/data/{key}")
    if member is None:
      raise CheckpointError(f"storage {key[:100]!r} is not in the file; download or copy it again")
    if count * dtype.itemsize != member.size:
      raise CheckpointError(
        f"storage {key} has {member.size} bytes, which is not the number of {dtype} it declares"
      )
    if key not in self.storages:
      if self.names_only:
        values = np.zeros(count, dtype)  # which the system makes when it is touched
      else:
        values = stored_zip.read(self.file, member).view(dtype)
      self.storages[key] = torch_tensors.make_storage(key, values)
    storage = self.storages[key]
    if storage.values.dtype != dtype:
      raise CheckpointError(f"storage {key} is declared both {storage.values.dtype} and {dtype}")
    return storage


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
  try:
    with files.replacing(path, "wb") as file:
      stored_zip.write(file, members, _ALIGNMENT)
  except OSError as error:
    needed = len(data_pkl) + sum(value.nbytes for value in storages)
    free = shutil.disk_usage(path.parent).free
    raise CheckpointError(
      f"{path}: cannot be written ({error.strerror}); "
      f"it takes {needed} bytes, {free} are free there"
    ) from error


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
