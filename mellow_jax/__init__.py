"""Mellow, a small audio-language model, in JAX.

Axis letters, used by signatures, einsum strings and comments alike:

  B batch                      S samples of a clip (320,000)     T log-mel frames (1001)
  F mel bins (64)              Y X patch grid                    W windows
  M tokens per window          C encoder channels                A audio tokens per clip (129)
  L text tokens (129)          R answer tokens (250)             P prefix 2 (A + 1) + L = 389
  D decoder width (576)        N query heads  K key heads        H = N / K
  G head size (64)             V vocabulary (49,152)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from mellow_jax.inference.api import Answer, Mellow
  from mellow_jax.inference.decode import Sampling

__version__ = "0.4.0"
__all__ = ["Answer", "Mellow", "Sampling", "__version__"]


def __getattr__(name: str) -> Any:
  """The Python API, imported at its first use: JAX takes seconds, and --help needs none."""
  if name in ("Answer", "Mellow", "Sampling"):
    from mellow_jax.inference import api

    return getattr(api, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
