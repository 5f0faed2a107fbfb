"""Start of a run: what it takes from model folders, tokenizer, parameters, bn0's statistics."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from tokenizers import Tokenizer

from mellow_jax import checkpoint, parallel
from mellow_jax.config import Config, ModelConfig
from mellow_jax.data import scenes
from mellow_jax.data.records import Record
from mellow_jax.data.tokenizer import (
  build_tokenizer,
  grow_tokenizer,
  is_of_words,
  load_tokenizer,
)
from mellow_jax.errors import CheckpointError, ConfigError
from mellow_jax.models import lora, mellow
from mellow_jax.training import step, survey
from mellow_jax.training.step import Batch, Parts

EMBEDDING = "decoder/embed/embedding"
PARTS = ("encoder", "mapper", "decoder")


def _folder_and_part(source: str) -> tuple[str, str]:
  """The folder of an entry of init_from and the start of the paths taken from it, "" for all."""
  folder, _, part = source.rpartition(":")
  return (folder, f"{part}/") if folder and part in PARTS else (source, "")


def adopt(
  cfg: Config, given: Mapping[str, Any], log: Callable[[str], None] = parallel.log
) -> Config:
  """The config with the model and the preset of the folder it starts from, if it adopts them.

  given holds the values that the command line sets, by their path in the config: they stay.
  Raises CheckpointError where the folder cannot be read, ConfigError where its model lacks a field.
  """
  if not (cfg.adopt and cfg.init_from):
    return cfg
  folder = _folder_and_part(cfg.init_from[-1])[0]
  found = checkpoint.contents(folder)
  # Released weights were trained with the other preset: theirs is that of code that only answers.
  preset = "training" if found.preset == "release" else found.preset
  cfg = dataclasses.replace(
    cfg, model=found.config, data=dataclasses.replace(cfg.data, preset=preset)
  )
  for path, value in given.items():
    if path.startswith("model.") or path == "data.preset":
      *parents, name = path.split(".")
      part = functools.reduce(getattr, parents, cfg)
      if not hasattr(part, name):
        raise ConfigError(f"config.{path}: the model in {folder} has no such field: leave it out")
      setattr(part, name, value)
  log(f"{folder}: its model and its preset {cfg.data.preset!r} are taken")
  return cfg


def check_folders(cfg: Config) -> None:
  """Compares the folders of init_from with config.model, before anything large is read.

  Raises CheckpointError where a folder cannot be read, or its parameters are not this model's.
  """
  if not cfg.init_from:
    return
  flat = mellow.flatten(mellow.abstract(cfg.model)[1])
  for source in cfg.init_from:
    folder, part = _folder_and_part(source)
    found = checkpoint.contents(folder)
    arrays = {name: value for name, value in found.arrays.items() if name.startswith(part)}
    if not arrays:
      raise CheckpointError(f"{folder} holds no {part[:-1]}: leave {source} out of init_from")
    known = lora.abstract(flat, arrays, lora.rank(arrays))
    for name, value in arrays.items():
      ours = known[name].shape if name in known else "absent"
      # An embedding is moved to another vocabulary.
      if ours != value.shape and not (name == EMBEDDING and ours[1:] == value.shape[1:]):
        raise CheckpointError(
          f"{folder}: another architecture: {name} is {value.shape} there, {ours} in config.model"
          f"{_first_difference(found.config, cfg.model)}; start from it with --config=finetune, "
          "which takes the folder's architecture, or change config.model"
        )


def _first_difference(theirs: ModelConfig, ours: ModelConfig) -> str:
  """The first field of encoder, mapper or decoder that differs, for a message; "" without one."""
  for part in PARTS:
    one, other = (dataclasses.asdict(getattr(model, part)) for model in (theirs, ours))
    for name, value in one.items():
      if name != "vocab" and other.get(name, value) != value:
        return f" ({part}.{name} {value} there, {other[name]} here)"
  return ""


def tokenizer(cfg: Config, rows: Sequence[Record]) -> tuple[Tokenizer, Config]:
  """The tokenizer that config.data.tokenizer asks for, and the config with room for its tokens.

  A tokenizer of words gets those of the rows that it lacks; their embeddings are then trained, also
  where the others were to be frozen. Raises CheckpointError or ConfigError, saying what to give.
  """
  texts = (text for row in rows for text in (row.input, row.answer))
  if cfg.data.source == "scenes":
    return _with_room(cfg, scenes.build_tokenizer(), "scenes")
  if cfg.data.tokenizer == "words":
    return _with_room(cfg, build_tokenizer(texts), "words")
  source = cfg.data.tokenizer or _folder_and_part(cfg.init_from[-1])[0]
  found, new = grow_tokenizer(load_tokenizer(source), texts)
  if new:
    parallel.log(
      f"{len(new)} words of the rows are new to the tokenizer and join it: {survey.some(new)}"
    )
    freeze = tuple(
      rf"(?!{EMBEDDING}$)(?:{regex})" if re.fullmatch(regex, EMBEDDING) else regex
      for regex in cfg.optim.freeze
      if regex != EMBEDDING
    )
    if freeze != cfg.optim.freeze:
      parallel.log("the embedding is trained, too: it holds the new words")
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, freeze=freeze))
  return _with_room(cfg, found, source)


def _with_room(cfg: Config, tokenizer: Tokenizer, source: str) -> tuple[Tokenizer, Config]:
  size, decoder = tokenizer.get_vocab_size(), cfg.model.decoder
  if size > decoder.vocab and (source == "scenes" or not is_of_words(tokenizer)):
    raise ConfigError(
      f"config.model.decoder.vocab {decoder.vocab} has no room for the {size} tokens of tokenizer "
      f"{source!r}: give --config.model.decoder.vocab={size}"
    )
  decoder = dataclasses.replace(decoder, vocab=max(decoder.vocab, size))
  return tokenizer, dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, decoder=decoder))


def parameters(cfg: Config, tokenizer: Tokenizer) -> dict[str, Array]:
  """Random parameters, replaced by those of each folder of init_from; the same in every process.

  Where a folder has another tokenizer, the tokens in both keep their embedding. A folder's LoRA
  factors are merged into the kernels of the folders before it. `check_folders` has compared shapes.
  Raises CheckpointError where a folder's parameters are damaged, or not as config.model says.
  """
  # Folders first, so that a bad one shows before the random parameters are compiled.
  found = {
    source: checkpoint.load_params(_folder_and_part(source)[0])[0] for source in cfg.init_from
  }
  flat = mellow.flatten(mellow.init_params(cfg.model, cfg.seed))
  for source, loaded in found.items():
    folder, part = _folder_and_part(source)
    loaded = {name: value for name, value in loaded.items() if name.startswith(part)}
    if EMBEDDING in loaded:
      old = load_tokenizer(folder).get_vocab()
      loaded[EMBEDDING] = move_embeddings(
        loaded[EMBEDDING], flat[EMBEDDING], old, tokenizer.get_vocab()
      )
    for name, value in loaded.items():
      if not np.isfinite(value).all():
        raise CheckpointError(f"{folder}: {name} holds numbers that are not finite: train it anew")
    flat = lora.merge(flat | loaded, 1.0)
    parallel.log(f"{source}: {len(loaded)} of {len(flat)} arrays taken")
  _check_shapes(flat, cfg.model)
  return flat


def _check_shapes(flat: dict[str, Array], model: ModelConfig) -> None:
  """Raises CheckpointError where parameters are not as a run on this model saves and restores them.

  Such a run would end with a model that cannot be loaded, and resume from none of its checkpoints.
  """
  found, expected = (
    {name: leaf.shape for name, leaf in part.items()}
    for part in (flat, mellow.flatten(mellow.abstract(model)[1]))
  )
  for name in sorted(found | expected):
    ours, theirs = (shapes.get(name, "absent") for shapes in (expected, found))
    if ours != theirs:
      raise CheckpointError(
        f"config.init_from: {name} is {theirs} with what its folders hold, {ours} in config.model: "
        "change config.model, or leave out the folder"
      )


def move_embeddings(
  loaded: Float[Array, "U D"],
  fresh: Float[Array, "V D"],
  old: dict[str, int],
  new: dict[str, int],
) -> Float[Array, "V D"]:
  """Embeddings of an old vocabulary reordered for a new one; rows of no old token stay fresh.

  But where the new vocabulary is the old one and more, the others start as random embeddings of the
  mean and the deviation of the old: of another scale they would be learnt late.
  """
  if old == new and len(loaded) == len(fresh):
    return loaded
  shared = sorted(set(old) & set(new))
  source, target = ([vocab[token] for token in shared] for vocab in (old, new))
  parallel.log(f"{len(shared)} of {len(new)} tokens keep their embedding")
  if len(shared) == len(old):
    known = loaded[np.asarray(source)]
    fresh = known.mean(axis=0) + known.std(axis=0) * fresh / fresh.std()
  return fresh.at[np.asarray(target)].set(loaded[np.asarray(source)])


def calibrate(
  flat: dict[str, Array], cfg: Config, batches: Iterable[Batch | Parts], mesh: Mesh
) -> dict[str, Array]:
  """Sets bn0's running statistics to those of the first training batches' mel bins."""
  moments = jax.jit(
    functools.partial(step.mel_moments, cfg=cfg.model), out_shardings=parallel.replicated(mesh)
  )
  parts = ((batch,) if isinstance(batch, Batch) else batch for batch in batches)
  found = [jax.device_get(moments(part.wav1)) for part in itertools.chain.from_iterable(parts)]
  mean, square = np.mean(found, axis=0)
  variance = np.maximum(square - mean**2, 1e-3)  # else a constant bin would divide by 0
  return {
    **flat,
    "encoder/bn0/mean": jnp.asarray(mean, jnp.float32),
    "encoder/bn0/var": jnp.asarray(variance, jnp.float32),
  }
