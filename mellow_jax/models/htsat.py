"""HTSAT: a Swin transformer over log-mel spectrograms that detects AudioSet events over time."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from mellow_jax.config import AudioConfig, HTSATConfig
from mellow_jax.models import example_rng, logmel

LAYER_NORM_EPS = 1e-5
BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.9  # of the running statistics; torch writes it as 0.1


class HTSATOutput(NamedTuple):
  """The encoder's outputs for each clip."""

  latent: Float[Array, "B C"]  # mean over time and frequency of the last stage
  framewise: Float[Array, "B Z E"]  # probability of each event E in each distinct step Z
  clipwise: Float[Array, "B E"]  # probability of each event in the whole clip

  def rows(self, c2l: Callable[[Array], Array]) -> Float[Array, "B Z1 C"]:
    """The latent, and after it the framewise events as c2l maps them to its width."""
    latent = self.latent[:, None].astype(jnp.float32)
    return jnp.concatenate([latent, c2l(self.framewise).astype(jnp.float32)], axis=1)


def window_partition(x: Float[Array, "B Y X C"], size: int) -> Float[Array, "W M C"]:
  """Cuts the patch grid into windows of size x size tokens, row-major."""
  b, y, x_, c = x.shape
  x = x.reshape(b, y // size, size, x_ // size, size, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def window_reverse(windows: Float[Array, "W M C"], grid: int) -> Float[Array, "B Y X C"]:
  """Undoes `window_partition` for a square grid of `grid` patches."""
  _, m, c = windows.shape
  size = round(m**0.5)
  n = grid // size
  x = windows.reshape(-1, n, n, size, size, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, grid, grid, c)


@functools.lru_cache
def relative_position_index(size: int) -> np.ndarray:
  """[M, M] row of the bias table for each pair of tokens of a window."""
  y, x = np.divmod(np.arange(size * size), size)
  dy, dx = y[:, None] - y[None] + size - 1, x[:, None] - x[None] + size - 1
  return dy * (2 * size - 1) + dx


@functools.lru_cache
def shift_mask(grid: int, size: int, shift: int) -> np.ndarray:
  """[w, M, M]: -100 where a shifted window joins patches that are no neighbours."""
  band = np.zeros(grid, int)
  band[grid - size : grid - shift] = 1
  band[grid - shift :] = 2
  region = (band[:, None] * 3 + band[None]).astype(np.float32)
  n = grid // size
  windows = region.reshape(n, size, n, size).transpose(0, 2, 1, 3).reshape(n * n, size * size)
  return np.where(windows[:, :, None] == windows[:, None, :], 0.0, -100.0).astype(np.float32)


class WindowAttention(nnx.Module):
  """Multi-head self-attention inside each window, with a learned relative position bias."""

  def __init__(self, width: int, heads: int, window: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.heads, self.window = heads, window
    init = nnx.initializers.truncated_normal(0.02)
    self.qkv = nnx.Linear(width, 3 * width, kernel_init=init, dtype=dtype, rngs=rngs)
    self.proj = nnx.Linear(width, width, kernel_init=init, dtype=dtype, rngs=rngs)
    self.bias_table = nnx.Param(init(rngs.params(), ((2 * window - 1) ** 2, heads), jnp.float32))

  def __call__(
    self, x: Float[Array, "W M C"], mask: Float[np.ndarray, "w M M"] | None
  ) -> Float[Array, "W M C"]:
    w, m, c = x.shape
    q, k, v = (
      part.reshape(w, m, self.heads, c // self.heads) for part in jnp.split(self.qkv(x), 3, axis=-1)
    )
    scores = jnp.einsum(
      "wmng,wlng->wnml", q * (c // self.heads) ** -0.5, k, preferred_element_type=jnp.float32
    )
    bias = self.bias_table[...][relative_position_index(self.window)]
    scores = scores + bias.transpose(2, 0, 1)
    if mask is not None:
      per_clip = scores.reshape(-1, len(mask), self.heads, m, m) + mask[:, None]
      scores = per_clip.reshape(w, self.heads, m, m)
    y = jax.lax.platform_dependent(scores, v, cpu=_gather_and_divide, default=_gather)
    return self.proj(y.reshape(w, m, c))


def _gather(scores: Float[Array, "W N M L"], v: Float[Array, "W L N G"]) -> Float[Array, "W M N G"]:
  """Values as the softmax of the scores weighs them."""
  return jnp.einsum("wnml,wlng->wmng", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def _gather_and_divide(
  scores: Float[Array, "W N M L"], v: Float[Array, "W L N G"]
) -> Float[Array, "W M N G"]:
  """The same; the sum divides what is gathered, and not each of the weights, which are more.

  It is quicker on CPUs. XLA on GPU makes a softmax one operation, and the sum another one.
  """
  most = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - most)
  gathered = jnp.einsum("wnml,wlng->wmng", weights.astype(v.dtype), v)
  return (gathered / weights.sum(axis=-1).swapaxes(1, 2)[..., None]).astype(v.dtype)


def _drop_path(
  x: Float[Array, "B ..."], rate: float, keys: Key[Array, "B"] | None
) -> Float[Array, "B ..."]:
  """Stochastic depth: the whole branch of an example is left out with probability `rate`."""
  if keys is None or rate == 0.0:
    return x
  keep = example_rng.bernoulli(keys, 1 - rate, (1,) * (x.ndim - 1))
  return jnp.where(keep, x / (1 - rate), 0)


class SwinBlock(nnx.Module):
  """Window attention and a two-layer perceptron, both residual and pre-norm."""

  def __init__(
    self,
    width: int,
    heads: int,
    *,
    grid: int,
    window: int,
    shift: int,
    mlp_ratio: int,
    drop_path: float,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    self.grid, self.window, self.shift, self.drop_path = grid, window, shift, drop_path
    init = nnx.initializers.truncated_normal(0.02)
    # Norms compute in float32 whatever the matmuls do.
    self.norm1 = nnx.LayerNorm(width, epsilon=LAYER_NORM_EPS, rngs=rngs)
    self.attn = WindowAttention(width, heads, window, dtype, rngs=rngs)
    self.norm2 = nnx.LayerNorm(width, epsilon=LAYER_NORM_EPS, rngs=rngs)
    self.fc1 = nnx.Linear(width, mlp_ratio * width, kernel_init=init, dtype=dtype, rngs=rngs)
    self.fc2 = nnx.Linear(mlp_ratio * width, width, kernel_init=init, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B Y X C"], keys: Key[Array, "B"] | None
  ) -> Float[Array, "B Y X C"]:
    attn_keys, mlp_keys = (None if keys is None else example_rng.fold(keys, i) for i in range(2))
    h, mask = self.norm1(x), None
    if self.shift:
      h = jnp.roll(h, (-self.shift, -self.shift), (1, 2))
      mask = shift_mask(self.grid, self.window, self.shift)
    h = window_reverse(self.attn(window_partition(h, self.window), mask), self.grid)
    if self.shift:
      h = jnp.roll(h, (self.shift, self.shift), (1, 2))
    x = x + _drop_path(h, self.drop_path, attn_keys)
    h = self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))
    return x + _drop_path(h, self.drop_path, mlp_keys)


class PatchMerging(nnx.Module):
  """Joins 2 x 2 neighbours into one token of twice the width."""

  def __init__(self, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    self.norm = nnx.LayerNorm(4 * width, epsilon=LAYER_NORM_EPS, rngs=rngs)
    init = nnx.initializers.truncated_normal(0.02)
    self.reduction = nnx.Linear(
      4 * width, 2 * width, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs
    )

  def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y2 X2 C2"]:
    # Order of the reference: (even row, even column), (odd, even), (even, odd), (odd, odd).
    corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    return self.reduction(self.norm(jnp.concatenate(corners, axis=-1)))


class Stage(nnx.Module):
  """Swin blocks at one resolution, every second one shifted, and the merging after them."""

  def __init__(
    self, enc: HTSATConfig, image_side: int, stage: int, dtype: jnp.dtype, *, rngs: nnx.Rngs
  ):
    width, grid = enc.width * 2**stage, image_side // (enc.patch * 2**stage)
    window = min(enc.window, grid)
    rates = np.linspace(0.0, enc.stochastic_depth, sum(enc.depths))
    first = sum(enc.depths[:stage])
    self.blocks = nnx.List(
      SwinBlock(
        width,
        enc.heads[stage],
        grid=grid,
        window=window,
        # A grid of a single window has nothing to shift.
        shift=window // 2 if i % 2 and window < grid else 0,
        mlp_ratio=enc.mlp_ratio,
        drop_path=float(rates[first + i]),
        dtype=dtype,
        rngs=rngs,
      )
      for i in range(enc.depths[stage])
    )
    last = stage == len(enc.depths) - 1
    self.merge = None if last else PatchMerging(width, dtype, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B Y X C"], keys: Key[Array, "B"] | None
  ) -> Float[Array, "B Y2 X2 C2"]:
    for i, block in enumerate(self.blocks):
      x = block(x, None if keys is None else example_rng.fold(keys, i))
    return x if self.merge is None else self.merge(x)


def _stripes(keys: Key[Array, "B"], axis: int, stripes: int, width: int) -> Float[Array, "B axis"]:
  """0 inside random stripes along an axis, 1 elsewhere; each stripe is narrower than `width`."""

  def of_one(key: Key[Array, ""]) -> Float[Array, "axis"]:
    width_key, start_key = jax.random.split(key)
    widths = jax.random.randint(width_key, (stripes, 1), 0, width)
    starts = jnp.floor(jax.random.uniform(start_key, widths.shape) * (axis - widths))
    inside = (jnp.arange(axis) >= starts) & (jnp.arange(axis) < starts + widths)
    return 1.0 - inside.any(axis=0).astype(jnp.float32)

  return jax.vmap(of_one)(keys)


class HTSAT(nnx.Module):
  """The audio encoder, `audio_encoder.base.htsat` of the reference."""

  def __init__(self, cfg: HTSATConfig, audio: AudioConfig, dtype: jnp.dtype, *, rngs: nnx.Rngs):
    enc, self.cfg, self.audio, self.sizes = cfg, cfg, audio, cfg.sizes(audio)
    init = nnx.initializers.truncated_normal(0.02)
    self.bn0 = nnx.BatchNorm(
      audio.mel_bins, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPS, rngs=rngs
    )
    self.patch_embed = nnx.Conv(
      1,
      enc.width,
      (enc.patch, enc.patch),
      strides=enc.patch,
      padding="VALID",
      dtype=dtype,
      rngs=rngs,
    )
    self.patch_norm = nnx.LayerNorm(enc.width, epsilon=LAYER_NORM_EPS, rngs=rngs)
    self.stages = nnx.List(
      Stage(enc, self.sizes.image_side, s, dtype, rngs=rngs) for s in range(len(enc.depths))
    )
    self.norm = nnx.LayerNorm(enc.row_width, epsilon=LAYER_NORM_EPS, rngs=rngs)
    tscam_init = nnx.initializers.variance_scaling(enc.tscam_init_scale**2 / 3, "fan_in", "uniform")
    self.tscam_conv = nnx.Conv(
      enc.row_width,
      enc.classes,
      (self.sizes.bands, 3),
      padding=((0, 0), (1, 1)),
      kernel_init=tscam_init,
      dtype=dtype,
      rngs=rngs,
    )
    # The reference's checkpoints hold this layer and no code path of it uses it. It is kept so
    # that a converted checkpoint can be written back whole.
    self.head = nnx.Linear(enc.classes, enc.classes, kernel_init=init, rngs=rngs)

  def _augment(self, x: Float[Array, "B T F"], keys: Key[Array, "B"]) -> Float[Array, "B T F"]:
    """SpecAugment: stripes of time and of mel set to 0 after bn0."""
    enc, (_, frames, bins) = self.cfg, x.shape
    time = _stripes(example_rng.fold(keys, 0), frames, enc.time_stripes, enc.time_stripe_frames)
    mel = _stripes(example_rng.fold(keys, 1), bins, enc.mel_stripes, enc.mel_stripe_bins)
    return x * time[:, :, None] * mel[:, None, :]

  def stage_outputs(
    self, db: Float[Array, "B T F"], keys: Key[Array, "B"] | None = None
  ) -> list[Float[Array, "B Y X C"]]:
    """The patch embedding, then the output of each stage (after its merging) in turn.

    With keys, one an example, the encoder is in training mode: of SpecAugment, stochastic depth and
    batch statistics those act that the config switches on.
    """
    train, enc = keys is not None, self.cfg
    x = self.bn0(db, use_running_average=not (train and enc.batch_statistics))
    if train and enc.spec_augment:
      x = self._augment(x, example_rng.fold(keys, 0))
    image = logmel.fold(logmel.resize_time(x, self.sizes.frames), enc.chunks)
    x = self.patch_norm(self.patch_embed(image[..., None]))
    outputs = [x]
    for i, stage in enumerate(self.stages):
      x = stage(x, example_rng.fold(keys, 1 + i) if train else None)
      outputs.append(x)
    return outputs

  def classify(self, x: Float[Array, "B Y X C"]) -> HTSATOutput:
    """Latent, framewise and clipwise outputs from the last stage."""
    b, _, _, c = x.shape
    chunks, sizes = self.cfg.chunks, self.sizes
    x = self.norm(x)
    # Rows are chunk * bands + band; a step is chunk * grid + column.
    x = x.reshape(b, chunks, sizes.bands, sizes.grid, c).transpose(0, 2, 1, 3, 4)
    x = x.reshape(b, sizes.bands, sizes.steps, c)
    scores = self.tscam_conv(x)[:, 0].astype(jnp.float32)
    return HTSATOutput(
      latent=x.mean(axis=(1, 2)),
      framewise=jax.nn.sigmoid(scores),
      clipwise=jax.nn.sigmoid(scores.mean(axis=1)),
    )

  def __call__(self, wav: Float[Array, "B S"], keys: Key[Array, "B"] | None = None) -> HTSATOutput:
    """Hears clips in [-1, 1] at the config's sample rate; see `stage_outputs` for keys."""
    return self.classify(self.stage_outputs(logmel.log_mel(wav, self.audio), keys)[-1])
