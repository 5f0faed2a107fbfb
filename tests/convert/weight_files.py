"""Small weights of every system, and files of them as PyTorch writes them, made without PyTorch."""

import pickle

import numpy as np
import systems
import tiny
from safetensors.numpy import save_file

from mellow_jax.convert import torch_files, torch_legacy
from mellow_jax.models import lora, mellow
from tests.convert.test_torch_files import pickled
from tests.convert.test_torch_legacy import SYSTEM

QUERY_VALUE, KEY_QUERY = "qv", "kq"  # which layers LoRA adapts: in the code, in the paper


def parameters(name: str):
  """(configuration, random parameters by path) of a system of systems.NAMES."""
  cfg = systems.config(name)
  flat = mellow.flatten(tiny.params(cfg))
  rng = np.random.default_rng(1)
  return cfg, {k: np.float32(x + 0.1 * rng.standard_normal(x.shape)) for k, x in flat.items()}


def factors(flat, layers: str, rank: int = 4):
  """Random LoRA factors of attention layers of the decoder."""
  rng = np.random.default_rng(2)
  names = [f"{kernel}/lora_a" for kernel in flat if _is_adapted(kernel, layers)]
  names = [name.replace("/kernel", "") for name in names]
  whole = lora.abstract(dict(flat), names, rank)
  return {k: np.float32(rng.standard_normal(x.shape)) for k, x in whole.items() if k not in flat}


def _is_adapted(path: str, layers: str) -> bool:
  return path.startswith("decoder/") and any(
    path.endswith(f"/attn/{layer}/kernel") for layer in (*layers, "qkv")
  )


def same(ours, theirs) -> bool:
  """Whether two dicts of arrays are equal bit for bit."""
  assert set(ours) == set(theirs)
  return all(
    ours[k].shape == x.shape and ours[k].dtype == x.dtype and ours[k].tobytes() == x.tobytes()
    for k, x in theirs.items()
  )


def write_safetensors(path, state_dict) -> None:
  """Safetensors takes the bytes of an array as they lie."""
  save_file({key: np.asarray(x, order="C") for key, x in state_dict.items()}, path)


def write_legacy(path, state_dict, clips: int = 1_000_000) -> None:
  """A legacy file as the training code of PANNs writes it, with iteration, model and sampler."""
  data_pkl, storages = torch_files._describe(path, state_dict)
  sampler = {"indexes": np.arange(clips), "random_state": np.random.RandomState(1)}
  text = torch_files._text
  content = [b"\x80\x02}(", text("iteration"), pickled(7)[2:-1], text("model"), data_pkl[2:-1]]
  content += [text("sampler"), pickle.dumps(sampler, protocol=2)[2:-1], b"u."]
  keys = [str(i) for i in range(len(storages))]
  parts = [torch_legacy.HEAD, pickled(1001), pickled(SYSTEM), *content, pickled(keys)]
  for array in storages:
    parts += [array.size.to_bytes(8, "little"), np.ascontiguousarray(array).tobytes()]
  path.write_bytes(b"".join(parts))
