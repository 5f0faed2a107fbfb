"""PyTorch and we agree on each other's checkpoints."""

import collections

import ml_dtypes
import numpy as np
import pytest

from mellow_jax.convert import torch_files
from mellow_jax.convert.sources import load_state_dict
from mellow_jax.errors import CheckpointError

pytestmark = pytest.mark.torch


def to_numpy(tensor):
  if str(tensor.dtype) == "torch.bfloat16":
    return tensor.detach().float().numpy().astype(ml_dtypes.bfloat16)
  return tensor.detach().numpy()


def assert_equal(ours, theirs):
  if isinstance(theirs, dict):
    assert list(ours) == list(theirs)
    for key in theirs:
      assert_equal(ours[key], theirs[key])
  elif isinstance(theirs, (list, tuple)):
    assert type(ours) is type(theirs) and len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
      assert_equal(one, other)
  elif hasattr(theirs, "numpy"):
    theirs = to_numpy(theirs)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.tobytes() == theirs.tobytes()
  else:
    assert type(ours) is type(theirs) and ours == theirs


def everything(torch):
  dtypes = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
  )
  base = torch.arange(120).reshape(4, 5, 6)
  tensors = {}
  for dtype in dtypes:
    full = (base % 2 if dtype == torch.bool else base).to(dtype)
    tensors[f"{dtype}"] = full
    tensors[f"{dtype} view"] = full[1:, ::2]
    tensors[f"{dtype} transposed"] = full.permute(2, 1, 0)[2:]
    tensors[f"{dtype} stretched"] = full[:, :1].expand(4, 5, 6)
    tensors[f"{dtype} empty"], tensors[f"{dtype} scalar"] = full[:0], full[0, 0, 0]
  layers = torch.nn.ModuleList(
    [torch.nn.Conv2d(2, 3, 2), torch.nn.BatchNorm2d(3), torch.nn.LSTM(3, 4)]
  )
  return {
    "tensors": tensors,
    "parameters": [torch.nn.Parameter(base.float()), torch.nn.Parameter(base.half(), False)],
    "state_dict": layers.state_dict(),
    "optimizer": torch.optim.Adam(layers.parameters()).state_dict(),
    "ordered": collections.OrderedDict(a=1, b=None, c=-1.5, d=2**100, e="\u00e9\U0001f600", f=True),
  }


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_pytorch_saves_is_read_equal(is_zip, tmp_path):
  torch = pytest.importorskip("torch")
  held = everything(torch)
  torch.save(held, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
  assert_equal(torch_files.read(tmp_path / "x.pt"), held)
  sampler = {"indexes": np.arange(9), "random_state": np.random.RandomState(1)}
  torch.save({**held, "sampler": sampler}, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
  assert_equal(torch_files.read(tmp_path / "x.pt"), held)
  torch.save(held["state_dict"], tmp_path / "y.pt", _use_new_zipfile_serialization=is_zip)
  assert_equal(load_state_dict(str(tmp_path / "y.pt"))[0], dict(held["state_dict"]))


@pytest.mark.filterwarnings("ignore")  # torch.jit.script is deprecated, and says so
def test_what_pytorch_saves_otherwise_is_refused_by_name(tmp_path):
  torch = pytest.importorskip("torch")
  layer, path = torch.nn.Linear(2, 2), tmp_path / "x.pt"
  torch.save(layer, path)
  with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
    torch_files.read(path)
  torch.jit.save(torch.jit.script(layer), path)
  with pytest.raises(CheckpointError, match="TorchScript"):
    torch_files.read(path)


@pytest.mark.parametrize("mmap", [False, True])
def test_what_we_write_is_loaded_by_pytorch(mmap, tmp_path):
  torch = pytest.importorskip("torch")
  full = np.arange(120).reshape(4, 5, 6)
  state = {}
  for dtype in map(np.dtype, (*"dfelihbB?", ml_dtypes.bfloat16)):
    state |= {f"{dtype}": (full % 2 if dtype == np.bool_ else full).astype(dtype)}
    state |= {
      f"{dtype} view": state[f"{dtype}"].T[1:, ::2],
      f"{dtype} empty": np.zeros((0, 3), dtype),
    }
    state |= {f"{dtype} scalar": np.ones((), dtype), f"{dtype} tied": state[f"{dtype}"]}
  torch_files.write(tmp_path / "x.pt", state)
  loaded = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mmap)
  assert type(loaded) is collections.OrderedDict
  assert_equal(state, dict(loaded))
  assert loaded["float32"].data_ptr() == loaded["float32 tied"].data_ptr()
  assert loaded["float32"].is_contiguous() and loaded["float32 view"].is_contiguous()
