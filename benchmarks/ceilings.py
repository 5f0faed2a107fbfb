"""What a device can do: matrix products and reading memory, the better of JAX's and PyTorch's."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import rounds

Ways = tuple[Callable[[], object], Callable[[], object]]  # to read, and to multiply


class Machine:
  """All cores of a CPU, or one accelerator.

  shape: rows, inner and columns of the product that is timed. Reads are of mebibytes of memory.
  """

  def __init__(self, shape: tuple[int, int, int], mebibytes: int = 1024, dtype: str = "float32"):
    rng = np.random.default_rng(0)
    self._shape, self._bytes = shape, mebibytes * 2**20
    array = np.ones(self._bytes // 4, np.float32)
    factors = [rng.standard_normal(size, np.float32) for size in (shape[:2], shape[1:])]
    ways = [_jax(array, *factors, dtype)]
    if rounds.has("torch"):
      ways.append(_torch(array, *factors, dtype))
    self._reads, self._products = zip(*ways, strict=True)
    self.measure()  # compiles

  def bandwidth(self) -> float:
    """Bytes a second of the better of two ways to read, the best of three."""
    return self._bytes / min(rounds.timed(run)[0] for run in self._reads for _ in range(3))

  def arithmetic(self) -> float:
    """FLOP/s of the better of two ways to multiply, the best of ten."""
    return (
      2
      * math.prod(self._shape)
      / min(rounds.timed(f)[0] for f in self._products for _ in range(10))
    )

  def measure(self) -> dict[str, float]:
    """Both, by the names that tables give them."""
    return {"GFLOP/s": self.arithmetic() / 1e9, "GB/s": self.bandwidth() / 1e9}


def _jax(array: np.ndarray, a: np.ndarray, b: np.ndarray, dtype: str) -> Ways:
  read, multiply = jax.jit(jnp.max), jax.jit(jnp.matmul)
  on_device, *pair = jnp.asarray(array), jnp.asarray(a, dtype), jnp.asarray(b, dtype)
  return lambda: read(on_device).block_until_ready(), lambda: multiply(*pair).block_until_ready()


def _torch(array: np.ndarray, a: np.ndarray, b: np.ndarray, dtype: str) -> Ways:
  import torch  # where it is installed

  device = "cuda" if torch.cuda.is_available() else "cpu"
  tensor = torch.from_numpy(array).to(device)
  pair = [torch.from_numpy(x).to(device, getattr(torch, dtype)) for x in (a, b)]

  def wait(run: Callable[[], object]) -> None:
    run()
    if device == "cuda":
      torch.cuda.synchronize()

  return lambda: wait(tensor.max), lambda: wait(lambda: torch.matmul(*pair))
