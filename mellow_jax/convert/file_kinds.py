"""The kind of a file of weights, told by what it holds, and by its name only where that is lost."""

import re
from pathlib import Path

from mellow_jax import files
from mellow_jax.convert import gguf_files, torch_legacy
from mellow_jax.errors import CheckpointError

TORCH, SAFETENSORS, GGUF, INDEX = "torch", "safetensors", "gguf", "index"
ENDINGS = {
  ".ckpt": TORCH,
  ".pt": TORCH,
  ".pth": TORCH,
  ".bin": TORCH,
  ".safetensors": SAFETENSORS,
  ".gguf": GGUF,
}

_MAGICS = {b"PK": TORCH, torch_legacy.HEAD: TORCH, gguf_files.MAGIC: GGUF}
_FOREIGN = {  # first bytes -> what the file is
  b"\x80": "is a bare pickle, not a PyTorch checkpoint; re-save its tensors with torch.save",
  b"\x89HDF": "is an HDF5 file, of Keras or TensorFlow; get the PyTorch or safetensors one",
  b"\x93NUMPY": "is an array of NumPy; save the state_dict with torch.save",
}


def told(path: str | Path) -> str:
  """One of TORCH, SAFETENSORS, GGUF and INDEX, which is JSON beside shards.

  Raises CheckpointError, naming the file, for a file of another kind, and where it cannot be read.
  """
  path = Path(path)
  try:
    with path.open("rb") as file:
      head = file.read(files.HEAD_BYTES)
  except OSError as error:
    raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
  for magic, kind in _MAGICS.items():
    if head.startswith(magic):
      return kind
  start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
  own = (meaning for magic, meaning in _FOREIGN.items() if start.startswith(magic))
  if meaning := next(own, "") or files.foreign(head):
    raise CheckpointError(f"{path}: it {meaning}")
  if head[8:9] == b"{":  # after the length of the header
    return SAFETENSORS
  if start.startswith(b"{") or path.name.endswith(".index.json"):
    return INDEX
  if re.fullmatch(rb"[\t\n\r -~]+", head):
    text = " ".join(head.decode().split())[:60]
    raise CheckpointError(f"{path}: it is text ({text!r}), not a checkpoint; download it again")
  if kind := ENDINGS.get(path.suffix.lower()):
    return kind  # damaged at its start, or empty: its reader says so
  known = ", ".join(ENDINGS)
  raise CheckpointError(
    f"{path}: unknown kind of file; give a checkpoint of PyTorch, safetensors or GGUF ({known})"
  )
