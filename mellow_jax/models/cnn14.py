"""CNN14: a convolutional network that names AudioSet events in a clip."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from mellow_jax.config import AudioConfig, CNN14Config
from mellow_jax.models import example_rng, logmel

BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.9  # of the running statistics; torch writes it as 0.1


class CNN14Output(NamedTuple):
  """What the encoder computes of each clip."""

  framewise: Float[Array, "B Z C"]  # features of each time step Z, mean over frequency
  clipwise: Float[Array, "B E"]  # probability of each event in the whole clip

  def rows(self, c2l: Callable[[Array], Array]) -> Float[Array, "B Z1 C"]:
    """The clip's events as c2l maps them to the features' width, and the features as they are."""
    # The reference feeds c2l HTSAT's framewise events, and of CNN14 the clipwise ones.
    clip = c2l(self.clipwise[:, None]).astype(jnp.float32)
    return jnp.concatenate([clip, self.framewise], axis=1)


def _batch_norm(width: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
  # Norms compute in float32 whatever the convolutions do.
  return nnx.BatchNorm(width, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPS, rngs=rngs)


class ConvBlock(nnx.Module):
  """Two 3 x 3 convolutions, each normalised and rectified, and average pooling after them."""

  def __init__(self, n_in: int, width: int, pool: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.pool = pool

    def conv(n_in: int) -> nnx.Conv:
      init = nnx.initializers.he_normal()
      return nnx.Conv(
        n_in, width, (3, 3), padding=1, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs
      )

    self.conv1, self.bn1 = conv(n_in), _batch_norm(width, rngs)
    self.conv2, self.bn2 = conv(width), _batch_norm(width, rngs)

  def __call__(
    self, x: Float[Array, "B T F C"], batch_statistics: bool
  ) -> Float[Array, "B T2 F2 C2"]:
    x = jax.nn.relu(self.bn1(self.conv1(x), use_running_average=not batch_statistics))
    x = jax.nn.relu(self.bn2(self.conv2(x), use_running_average=not batch_statistics))
    return nnx.avg_pool(x, (self.pool, self.pool), strides=(self.pool, self.pool))


class CNN14(nnx.Module):
  """The audio encoder, `audio_encoder.base.cnn14` of the reference.

  Source: Kong et al. 2020, PANNs.
  """

  def __init__(self, cfg: CNN14Config, audio: AudioConfig, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.cfg, self.audio = cfg, audio
    self.bn0 = _batch_norm(audio.mel_bins, rngs)
    widths, last = (1, *cfg.channels), len(cfg.channels) - 1
    self.blocks = nnx.List(
      ConvBlock(widths[i], widths[i + 1], 2 if i < last else 1, dtype, rngs=rngs)
      for i in range(len(cfg.channels))
    )
    self.fc1 = nnx.Linear(cfg.row_width, cfg.row_width, dtype=dtype, rngs=rngs)
    self.fc_audioset = nnx.Linear(cfg.row_width, cfg.classes, dtype=dtype, rngs=rngs)

  def __call__(self, wav: Float[Array, "B S"], keys: Key[Array, "B"] | None = None) -> CNN14Output:
    """Encodes clips in [-1, 1] at the config's sample rate.

    With keys, one an example, the encoder is in training mode: of dropout and batch statistics
    those act that the config switches on.
    """
    cfg = self.cfg
    batch_statistics = keys is not None and cfg.batch_statistics

    def dropout(x: Float[Array, "B ..."], rate: float, number: int) -> Float[Array, "B ..."]:
      return example_rng.dropout(x, rate, None if keys is None else example_rng.fold(keys, number))

    db = logmel.log_mel(wav, self.audio)
    x = self.bn0(db, use_running_average=not batch_statistics)[..., None]
    for i, block in enumerate(self.blocks):
      x = dropout(block(x, batch_statistics), cfg.dropout, i)
    framewise = x.mean(axis=2)
    pooled = framewise.max(axis=1) + framewise.mean(axis=1)
    x = jax.nn.relu(self.fc1(dropout(pooled, cfg.clip_dropout, len(self.blocks))))
    return CNN14Output(framewise, jax.nn.sigmoid(self.fc_audioset(x).astype(jnp.float32)))
