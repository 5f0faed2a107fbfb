"""Mellow: two clips and a question in, the next tokens of the answer out."""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mellow_jax import config
from mellow_jax.config import (
  CNN14Config,
  GPT2Config,
  HTSATConfig,
  LoRAConfig,
  ModelConfig,
  SmolLM2Config,
)
from mellow_jax.models import gpt2, smollm2
from mellow_jax.models import lora as lora_lib
from mellow_jax.models.cnn14 import CNN14, CNN14Output
from mellow_jax.models.decoder import Cache, Decoder, Layout
from mellow_jax.models.gpt2 import GPT2
from mellow_jax.models.htsat import HTSAT, HTSATOutput
from mellow_jax.models.mapper import Mapper
from mellow_jax.models.smollm2 import SmolLM2


class MellowModel(nnx.Module):
  """An audio encoder, the mapper and a language model.

  The sequence, with the sizes of HTSAT:

    [audio 1: 129][sep][audio 2: 129][sep][question: 129][answer]
    0                                                   389
  """

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    config.validate_model(cfg)
    cfg = dataclasses.replace(cfg, dtype=resolve_dtype(cfg))
    self.cfg = cfg
    self.encoder = make_encoder(cfg, rngs=rngs)
    self.mapper = Mapper(cfg, rngs=rngs)
    self.decoder = make_decoder(cfg, rngs=rngs)

  def encode(
    self,
    wav: Float[Array, "B S"],
    encoder_keys: Key[Array, "B"] | None = None,
    mapper_keys: Key[Array, "B"] | None = None,
  ) -> Float[Array, "B A D"]:
    """Audio tokens of clips; keys, one a clip, put their part in training mode.

    Rows that are not as long as a clip are its features, as `pack` makes them.
    """
    samples = self.cfg.audio.clip_samples
    if wav.shape[1] == samples:
      return self.mapper(self.encoder(wav, encoder_keys), mapper_keys)
    like = jax.eval_shape(self.encoder, jax.ShapeDtypeStruct((len(wav), samples), wav.dtype))
    return self.mapper(unpack(wav, like), mapper_keys)

  def prefix(
    self,
    audio1: Float[Array, "B A D"],
    audio2: Float[Array, "B A D"],
    text_ids: Int[Array, "B L"],
  ) -> Float[Array, "B P D"]:
    """Joins the two clips' tokens and the question, a separator after each clip."""
    sep = self.decoder.embed(jnp.full((len(text_ids), 1), self.cfg.sep_id))
    return jnp.concatenate([audio1, sep, audio2, sep, self.decoder.embed(text_ids)], axis=1)

  def attention_mask(
    self, text_lengths: Int[Array, "B"], answer_tokens: int = 0
  ) -> Bool[Array, "B T"]:
    """True at positions that may be attended to: all but the question's padding.

    The reference pads the question with "!" and masks nothing; its weights were trained so.
    Hence with mask_padding off it is True everywhere.
    """
    index = jnp.arange(self.cfg.prefix_tokens + answer_tokens)
    if not self.cfg.mask_padding:
      return jnp.ones((len(text_lengths), len(index)), bool)
    first_pad = self.cfg.prefix_tokens - self.cfg.text_tokens + text_lengths[:, None]
    return (index < first_pad) | (index >= self.cfg.prefix_tokens)

  def hidden(
    self,
    prefix: Float[Array, "B P D"],
    text_lengths: Int[Array, "B"],
    answer_ids: Int[Array, "B R"],
    keys: Key[Array, "B"] | None = None,
  ) -> Float[Array, "B R D"]:
    """Hidden states that predict each answer token from the true tokens before it, for training.

    The prefix's last attended position predicts the first answer token, so the last answer token
    is not read. Keys, one an example, put the decoder in training mode.
    """
    x = jnp.concatenate([prefix, self.decoder.embed(answer_ids[:, :-1])], axis=1)
    mask = self.attention_mask(text_lengths, answer_ids.shape[1] - 1)
    prefix_tokens, pads = self.cfg.prefix_tokens, self.cfg.mask_padding * self.cfg.text_tokens
    first = prefix_tokens - 1 - pads  # the earliest position that may predict an answer token
    hidden = self.decoder.states(x, positions(mask), causal(mask), keys, first)
    start = last_state(hidden[:, : pads + 1], mask[:, first:prefix_tokens])
    return jnp.concatenate([start[:, None], hidden[:, pads + 1 :]], axis=1)

  def shared_hidden(
    self,
    audio1: Float[Array, "B A D"],
    audio2: Float[Array, "B A D"],
    text_ids: Int[Array, "B K L"],
    text_lengths: Int[Array, "B K"],
    answer_ids: Int[Array, "B K R"],
    keys: Key[Array, "B"] | None = None,
  ) -> Float[Array, "BK R D"]:
    """The same as `hidden` of K questions on one pair of clips, which stands once before them all.

      [audio 1][sep][audio 2][sep] [question 1][answer 1] [question 2][answer 2] ...

    Each question attends to the clips and to itself, and its positions go on from the clips'.
    """
    b, count, length = text_ids.shape
    answers = self.decoder.embed(answer_ids.reshape(b * count, -1)[:, :-1])
    own = jnp.concatenate([self.decoder.embed(text_ids.reshape(-1, length)), answers], axis=1)
    clips = self.prefix(audio1, audio2, jnp.zeros((b, 0), jnp.int32))
    common, size = clips.shape[1], own.shape[1]

    def joined(x: Array) -> Array:
      """Of an array by position of each question alone, the positions of the whole sequence."""
      return jnp.concatenate([x[::count, :common], x[:, common:].reshape(b, -1)], axis=1)

    alone = self.attention_mask(text_lengths.reshape(-1), answers.shape[1])
    part = np.repeat(np.arange(-1, count), [common, *[size] * count])
    sees = (part[:, None] == part) | (part == -1)  # itself, and the clips
    hidden = self.decoder.states(
      jnp.concatenate([clips, own.reshape(b, count * size, -1)], axis=1),
      joined(positions(alone)),
      causal(joined(alone)) & sees,
      keys,
      common,
      (common, size),
    ).reshape(b * count, size, -1)
    start = last_state(hidden[:, :length], alone[:, common : common + length])
    return jnp.concatenate([start[:, None], hidden[:, length:]], axis=1)

  def prefill(
    self,
    prefix: Float[Array, "B P D"],
    text_lengths: Int[Array, "B"],
    cache: Cache | None = None,
  ) -> tuple[Float[Array, "B D"], Cache]:
    """The hidden state that predicts the first answer token, and the cache of the prefix.

    With a cache of `read_audio`, prefix is the rest: the question's embeddings.
    """
    mask = self.attention_mask(text_lengths)
    read = mask.shape[1] - prefix.shape[1]
    if cache is not None:
      cache = tuple(layer.grow(prefix.shape[1]) for layer in cache)
    hidden, cache = self.decoder(
      prefix,
      positions(mask)[:, read:],
      causal(mask)[:, read:],
      cache,
      read,
      only=last_attended(mask[:, read:]),
    )
    return hidden[:, 0], cache

  def read_audio(self, audio1: Float[Array, "B A D"], audio2: Float[Array, "B A D"]) -> Cache:
    """The cache of two clips, which all questions about them share."""
    x = self.prefix(audio1, audio2, jnp.zeros((len(audio1), 0), jnp.int32))
    mask = jnp.ones(x.shape[:2], bool)
    return self.decoder(x, positions(mask), causal(mask))[1]


def make_encoder(cfg: ModelConfig, *, rngs: nnx.Rngs) -> HTSAT | CNN14:
  """The audio encoder of the configuration."""
  dtype = jnp.dtype(resolve_dtype(cfg))
  match cfg.encoder:
    case HTSATConfig():
      return HTSAT(cfg.encoder, cfg.audio, dtype, rngs=rngs)
    case CNN14Config():
      return CNN14(cfg.encoder, cfg.audio, dtype, rngs=rngs)


def make_decoder(cfg: ModelConfig, *, rngs: nnx.Rngs, fused: Layout | None = None) -> Decoder:
  """The language model of the configuration."""
  dtype = jnp.dtype(resolve_dtype(cfg))
  match cfg.decoder:
    case SmolLM2Config():
      return SmolLM2(cfg.decoder, dtype, rngs=rngs, fused=fused)
    case GPT2Config():
      return GPT2(cfg.decoder, dtype, rngs=rngs, fused=fused)


def pack(output: HTSATOutput | CNN14Output) -> Float[Array, "B F"]:
  """The features of clips: what an encoder makes of each in one row."""
  return jnp.concatenate([x.reshape(len(x), -1).astype(jnp.float32) for x in output], axis=1)


def feature_width(cfg: ModelConfig) -> int:
  """Numbers in the features of a clip."""

  def features() -> Float[Array, "1 F"]:
    return pack(make_encoder(cfg, rngs=_OneKey())(jnp.zeros((1, cfg.audio.clip_samples))))

  return jax.eval_shape(features).shape[1]


def unpack(
  features: Float[Array, "B F"], like: HTSATOutput | CNN14Output
) -> HTSATOutput | CNN14Output:
  """Undoes `pack`, with the shapes and types of `like`."""
  ends = np.cumsum([math.prod(x.shape[1:]) for x in like])
  parts = jnp.split(features, ends[:-1], axis=1)
  return type(like)(
    *(part.reshape(x.shape).astype(x.dtype) for part, x in zip(parts, like, strict=True))
  )


def resolve_dtype(cfg: ModelConfig) -> str:
  """The type of computation; "auto" is bfloat16 on accelerators, and float32 on CPUs.

  On CPUs bfloat16 is the slower of the two.
  """
  if cfg.dtype == "auto":
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
  return cfg.dtype


def exactly(cfg: ModelConfig) -> Callable[[Callable], Callable]:
  """A decorator of what is compiled: products of a float32 model are of float32 everywhere.

  By default JAX has GPUs round their factors to 10 bits, and TPUs to 7.
  """

  def decorate(function: Callable) -> Callable:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
      with jax.default_matmul_precision("highest"):
        return function(*args, **kwargs)

    return run if resolve_dtype(cfg) == "float32" else function

  return decorate


def positions(attention_mask: Bool[Array, "B T"]) -> Int[Array, "B T"]:
  """Rotary positions: attended positions before each, so that padding leaves no gap."""
  return jnp.maximum(jnp.cumsum(attention_mask, axis=1, dtype=jnp.int32) - 1, 0)


def causal(attention_mask: Bool[Array, "B T"]) -> Bool[Array, "B T T"]:
  """True where a query (second axis) may attend to a key (third): not masked, and not later."""
  size = attention_mask.shape[1]
  return jnp.tril(jnp.ones((size, size), bool)) & attention_mask[:, None]


def last_attended(attention_mask: Bool[Array, "B P"]) -> Int[Array, "B"]:
  """The prefix's last attended position, which predicts: P - 1 unless padding is masked.

  A padding position would predict as well, but only where a question has one.
  """
  return attention_mask.shape[1] - 1 - jnp.argmax(attention_mask[:, ::-1], axis=1)


def last_state(
  hidden: Float[Array, "B T D"], attention_mask: Bool[Array, "B P"]
) -> Float[Array, "B D"]:
  """The hidden state of the prefix's last attended position."""
  last = last_attended(attention_mask)
  return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def abstract(cfg: ModelConfig, *, fused: Layout | None = None) -> tuple[nnx.GraphDef, dict]:
  """The model's structure and its parameters as ShapeDtypeStructs, without their memory."""
  return _abstract(json.dumps(dataclasses.asdict(cfg)), fused)


class _OneKey(nnx.Rngs):
  """The same key for all parameters, of a model that only has shapes."""

  def __init__(self):
    super().__init__()
    self._key = jax.random.key(0)

  def params(self) -> Key[Array, ""]:
    return self._key


class _Keys(nnx.Rngs):
  """The keys of nnx.Rngs(seed), counted in Python.

  nnx.Rngs counts in an array, and each count has JAX look through all that was traced before it:
  of a full-size model, seconds.
  """

  def __init__(self, seed: int):
    super().__init__()
    self._seed, self._used = seed, 0

  def params(self) -> Key[Array, ""]:
    key = jax.random.fold_in(jax.random.key(self._seed), self._used)
    self._used += 1
    return key


@functools.lru_cache(maxsize=8)
def _abstract(content: str, fused: Layout | None) -> tuple[nnx.GraphDef, dict]:
  # Kept, since tracing the constructors of 30 layers takes half a second, and by content, since
  # configs can change.
  cfg = config.from_dict(ModelConfig, json.loads(content))
  if fused:  # its other parts have been traced
    model = nnx.merge(*_abstract(content, None))
    model.decoder = nnx.eval_shape(lambda: make_decoder(cfg, rngs=_OneKey(), fused=fused))
  else:
    model = nnx.eval_shape(lambda: MellowModel(cfg, rngs=_OneKey()))
  graphdef, state = nnx.split(model)
  return graphdef, nnx.to_pure_dict(state)


def fuse(cfg: ModelConfig, params: dict, layout: Layout | None = None) -> tuple[nnx.GraphDef, dict]:
  """The same model laid out for decoding: structure and parameters, their decoder fused.

  Once a model is loaded, not once a call: it copies the decoder. On two CPU cores it saves a fifth
  of the time of a token. layout: by default that of the devices of this process, as RowLinear says.
  """
  dtype = jnp.dtype(resolve_dtype(cfg))
  layout = layout or ("columns" if jax.default_backend() == "tpu" else "rows")
  match cfg.decoder:
    case SmolLM2Config():
      decoder = smollm2.fuse(params["decoder"], dtype, layout)
    case GPT2Config():
      decoder = gpt2.fuse(params["decoder"], dtype, layout)
  return abstract(cfg, fused=layout)[0], {**params, "decoder": decoder}


def init_params(cfg: ModelConfig, seed: int) -> dict:
  """Fresh parameters and running statistics as a nested dict of arrays."""
  make = jax.jit(lambda: nnx.to_pure_dict(nnx.state(MellowModel(cfg, rngs=_Keys(seed)))))
  return make()


def statistics(model: MellowModel) -> dict[str, Array]:
  """The running statistics of the encoder's batch norms, by path."""
  return flatten(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))


def is_statistic(path: str) -> bool:
  """Whether an array by path is a running statistic, which no gradient trains."""
  return re.fullmatch(r"encoder/(.*/)?bn\d/(mean|var)", path) is not None


def count_parameters(cfg: ModelConfig, lora: LoRAConfig | None = None) -> int:
  """The parameters of a system as the paper's tables count them, low-rank parts among them.

  PyTorch's: without running statistics, and with the Fourier and mel matrices, which are frozen
  parameters there and computed here.
  """
  flat = flatten(abstract(cfg)[1])
  bins, audio = cfg.audio.n_fft // 2 + 1, cfg.audio
  computed = 2 * bins * audio.n_fft + bins * audio.mel_bins
  factors = jax.eval_shape(lambda: lora_lib.init(flat, lora, jax.random.key(0))) if lora else {}
  learnt = [x for name, x in (flat | factors).items() if not is_statistic(name)]
  return computed + sum(x.size for x in learnt)


def flatten(tree: PyTree) -> dict[str, Any]:
  """Leaves by their path, parts joined by "/"."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(flat: dict[str, Any], like: PyTree) -> PyTree:
  """Undoes `flatten`, with the structure of `like`."""
  return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in flatten(like)])
