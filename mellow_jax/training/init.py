"""Start of a run: tokenizer, initial parameters, and bn0's statistics."""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from tokenizers import Tokenizer

from mellow_jax import checkpoint, parallel
from mellow_jax.config import Config
from mellow_jax.data import scenes
from mellow_jax.data.records import Record
from mellow_jax.data.tokenizer import build_tokenizer, load_tokenizer
from mellow_jax.errors import CheckpointError, ConfigError
from mellow_jax.models import lora, mellow
from mellow_jax.training import step
from mellow_jax.training.step import Batch

EMBEDDING = "decoder/embed/embedding"


def tokenizer(cfg: Config, rows: Sequence[Record]) -> Tokenizer:
  """The tokenizer that config.data.tokenizer asks for.

  Raises CheckpointError or ConfigError, saying what to give.
  """
  if cfg.data.source == "scenes":
    found, source = scenes.build_tokenizer(), "scenes"
  elif cfg.data.tokenizer == "words":
    texts = (text for row in rows for text in (row.input, row.answer))
    found, source = build_tokenizer(texts), "words"
  else:
    source = cfg.data.tokenizer or cfg.init_from[-1]
    found = load_tokenizer(source)
  if found.get_vocab_size() > cfg.model.decoder.vocab:
    raise ConfigError(
      f"config.model.decoder.vocab {cfg.model.decoder.vocab} has no room for the "
      f"{found.get_vocab_size()} tokens of tokenizer {source!r}"
    )
  return found


def parameters(cfg: Config, tokenizer: Tokenizer) -> dict[str, Array]:
  """Random parameters, replaced by those of each folder of init_from; the same in every process.

  Where a folder has another tokenizer, the tokens in both keep their embedding. A folder's LoRA
  factors are merged into the kernels of the folders before it.
  Raises CheckpointError where a folder's parameters are not this model's.
  """
  # Folders first, so that a bad one shows before the random parameters are compiled.
  found = {folder: checkpoint.load_params(folder)[0] for folder in cfg.init_from}
  flat = mellow.flatten(mellow.init_params(cfg.model, cfg.seed))
  for folder, loaded in found.items():
    if EMBEDDING in loaded:
      old = load_tokenizer(folder).get_vocab()
      loaded[EMBEDDING] = move_embeddings(
        loaded[EMBEDDING], flat[EMBEDDING], old, tokenizer.get_vocab()
      )
    known = lora.abstract(flat, loaded, lora.rank(loaded))
    for name, value in loaded.items():
      if not np.isfinite(value).all():
        raise CheckpointError(f"{folder}: {name} holds numbers that are not finite: train it anew")
      if name not in known or known[name].shape != value.shape:
        ours = known[name].shape if name in known else "absent"
        raise CheckpointError(
          f"{folder}: another architecture: {name} is {value.shape} there, {ours} in config.model"
        )
    flat = lora.merge(flat | loaded, 1.0)
    parallel.log(f"{folder}: {len(loaded)} of {len(flat)} arrays taken")
  return flat


def move_embeddings(
  loaded: Float[Array, "U D"],
  fresh: Float[Array, "V D2"],
  old: dict[str, int],
  new: dict[str, int],
) -> Float[Array, "W D"]:
  """Embeddings of an old vocabulary reordered for a new one; tokens not in the old stay fresh."""
  if old == new or loaded.shape[1] != fresh.shape[1]:
    return loaded
  shared = sorted(set(old) & set(new))
  source, target = ([vocab[token] for token in shared] for vocab in (old, new))
  parallel.log(f"{len(shared)} of {len(new)} tokens keep their embedding")
  return fresh.at[np.asarray(target)].set(loaded[np.asarray(source)])


def calibrate(
  flat: dict[str, Array], cfg: Config, batches: Iterable[Batch], mesh: Mesh
) -> dict[str, Array]:
  """Sets bn0's running statistics to those of the first training batches' mel bins."""
  moments = jax.jit(
    functools.partial(step.mel_moments, cfg=cfg.model), out_shardings=parallel.replicated(mesh)
  )
  found = [jax.device_get(moments(batch.wav1)) for batch in batches]
  mean, square = np.mean(found, axis=0)
  variance = np.maximum(square - mean**2, 1e-3)  # else a constant bin would divide by 0
  return {
    **flat,
    "encoder/bn0/mean": jnp.asarray(mean, jnp.float32),
    "encoder/bn0/var": jnp.asarray(variance, jnp.float32),
  }
