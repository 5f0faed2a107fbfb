"""LoRA: a linear layer's kernel W is frozen, and a low-rank update of it is trained.

  y = x W + alpha / rank * dropout(x) A B

A [in, rank] is initialised at random and B [rank, out] at 0, so that training begins with the model
unchanged. Their paths are those of the kernel: .../q/kernel, .../q/lora_a, .../q/lora_b.

Source: Hu et al. 2021, arXiv 2106.09685.
"""

import functools
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from mellow_jax.config import LoRAConfig
from mellow_jax.errors import ConfigError
from mellow_jax.models import example_rng

Flat = dict[str, Any]


class LoRALinear(nnx.Module):
  """A linear layer with a low-rank update; keys, one an example, switch its dropout on."""

  def __init__(
    self,
    linear: nnx.Linear,
    a: Float[Array, "n rank"],
    b: Float[Array, "rank m"],
    keys: Key[Array, "B"] | None,
    cfg: LoRAConfig,
  ):
    self.linear, self.scale, self.rate = linear, scale(cfg), cfg.dropout
    self.a, self.b = nnx.Param(a), nnx.Param(b)
    self.keys = nnx.Variable(keys) if keys is not None and cfg.dropout else None

  def __call__(self, x: Float[Array, "*B n"]) -> Float[Array, "*B m"]:
    y, dtype = self.linear(x), self.linear.dtype or x.dtype
    if self.keys is not None:
      # The leading axis may hold several windows or steps of one example, next to each other.
      keys, rate = self.keys[...], self.rate
      keep = example_rng.bernoulli(keys, 1 - rate, (x.size // len(keys),)).reshape(x.shape)
      x = jnp.where(keep, x / (1 - rate), 0)
    low = x.astype(dtype) @ self.a[...].astype(dtype) @ self.b[...].astype(dtype)
    return y + self.scale * low


def has_dropout(module: nnx.Module) -> bool:
  """Whether a low-rank update somewhere in the module draws random numbers."""
  return any(isinstance(m, LoRALinear) and m.keys is not None for _, m in nnx.iter_modules(module))


def scale(cfg: LoRAConfig) -> float:
  """The factor of the low-rank product."""
  return cfg.alpha / cfg.rank


def kernels(flat: Flat, cfg: LoRAConfig) -> list[str]:
  """Paths of the kernels that get a low-rank update.

  Raises ConfigError for a regex that matches the kernel of no linear layer.
  """
  linear = [name for name, x in flat.items() if name.endswith("/kernel") and len(x.shape) == 2]
  for regex in cfg.kernels:
    if not any(re.fullmatch(regex, name) for name in linear):
      raise ConfigError(f"config.optim.lora.kernels: {regex!r} matches no kernel of a linear layer")
  return [name for name in linear if any(re.fullmatch(regex, name) for regex in cfg.kernels)]


def _adapted(flat: Flat) -> list[str]:
  """Paths of the kernels that have a low-rank update in flat."""
  end = "/lora_a"
  return sorted(name.removesuffix(end) + "/kernel" for name in flat if name.endswith(end))


def rank(flat: Flat) -> int:
  """The rank of the low-rank updates in flat, 0 without any."""
  return max((x.shape[1] for name, x in flat.items() if name.endswith("/lora_a")), default=0)


def _beside(kernel: str) -> tuple[str, str]:
  layer = kernel.removesuffix("kernel")
  return f"{layer}lora_a", f"{layer}lora_b"


def abstract(flat: Flat, names: Iterable[str], rank: int) -> Flat:
  """flat with A and B, as ShapeDtypeStructs, of each kernel of which A or B is in names."""
  found = dict(flat)
  for kernel in (name for name, x in flat.items() if len(x.shape) == 2):
    (a, b), (n, m) = _beside(kernel), flat[kernel].shape
    if a in names or b in names:
      found[a] = jax.ShapeDtypeStruct((n, rank), jnp.float32)
      found[b] = jax.ShapeDtypeStruct((rank, m), jnp.float32)
  return found


def init(flat: Flat, cfg: LoRAConfig, key: Key[Array, ""]) -> Flat:
  """Initial A, uniform in +-1/sqrt(in), and B, zeros, of the kernels that the config names."""
  found = {}
  for i, kernel in enumerate(kernels(flat, cfg)):
    (a, b), (n, m) = _beside(kernel), flat[kernel].shape
    uniform = jax.random.uniform(jax.random.fold_in(key, i), (n, cfg.rank), minval=-1, maxval=1)
    found |= {a: uniform * n**-0.5, b: jnp.zeros((cfg.rank, m))}
  return found


def attach(model: nnx.Module, flat: Flat, keys: Key[Array, "B"] | None, cfg: LoRAConfig) -> None:
  """Replaces the model's linear layers that have a low-rank update in flat, in place."""
  for i, kernel in enumerate(_adapted(flat)):
    *path, last, _ = kernel.split("/")
    parent = model
    for part in path:
      parent = parent[int(part)] if part.isdigit() else getattr(parent, part)
    a, b = (flat[name] for name in _beside(kernel))
    of_layer = None if keys is None else example_rng.fold(keys, i)
    setattr(parent, last, LoRALinear(getattr(parent, last), a, b, of_layer, cfg))


def scaled(flat: Flat, scale: float) -> Flat:
  """flat with each B multiplied by scale, to be merged with scale 1."""
  return {name: scale * x if name.endswith("/lora_b") else x for name, x in flat.items()}


def merge(flat: Flat, scale: float) -> Flat:
  """Parameters without LoRA: each low-rank product, of float32, is added to its kernel."""
  product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  merged = dict(flat)
  for kernel in _adapted(flat):
    a, b = (merged.pop(name) for name in _beside(kernel))
    merged[kernel] = merged[kernel] + scale * product(a, b)
  return merged
