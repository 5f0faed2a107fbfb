"""Mellow, a small audio-language model, in JAX.

Axis letters, used by signatures, einsum strings and comments alike:

  B batch                      S samples of a clip (320,000)     T log-mel frames (1001)
  F mel bins (64)              Y X patch grid                    W windows
  M tokens per window          C encoder channels                A audio tokens per clip (129)
  L text tokens (129)          R answer tokens (250)             P prefix 2 (A + 1) + L = 389
  D decoder width (576)        N query heads  K key heads        H = N / K
  G head size (64)             V vocabulary (49,152)
"""

__version__ = "0.4.0"
