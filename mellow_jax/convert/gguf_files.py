"""Language models in llama.cpp's GGUF format, dequantised to float32 under Hugging Face's names.

The header is read here, every length checked against the file before anything is made of it; the
blocks of quantised values are read by the package `gguf` (extra `gguf`).

Source: the GGUF specification in github.com/ggml-org/ggml, docs/gguf.md; for the order of rows of
queries and keys, llama.cpp's convert_hf_to_gguf.py.
"""

import importlib.util
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mellow_jax import checkpoint
from mellow_jax.config import SmolLM2Config
from mellow_jax.errors import CheckpointError, how_to_install

MAGIC = b"GGUF"
TYPES = ("F32", "F16", "Q8_0", "Q4_0", "Q4_1")
MAX_ENTRIES = 1_000_000  # of one array or table
MAX_AXES = 4

_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # struct codes by type
_STRING, _ARRAY = 8, 9
_CONTROL = 3  # type of a token that stands for no text

# GGUF's name -> Hugging Face's.
_NAMES = (
  (r"token_embd\.weight", "model.embed_tokens.weight"),
  (r"output_norm\.weight", "model.norm.weight"),
  (r"output\.weight", "lm_head.weight"),
  (r"blk\.(\d+)\.attn_([qkv])\.weight", r"model.layers.\1.self_attn.\2_proj.weight"),
  (r"blk\.(\d+)\.attn_output\.weight", r"model.layers.\1.self_attn.o_proj.weight"),
  (r"blk\.(\d+)\.ffn_(gate|up|down)\.weight", r"model.layers.\1.mlp.\2_proj.weight"),
  (r"blk\.(\d+)\.attn_norm\.weight", r"model.layers.\1.input_layernorm.weight"),
  (r"blk\.(\d+)\.ffn_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
)


@dataclass(frozen=True)
class TensorInfo:
  """Where a tensor's blocks lie, counted from the start of the data."""

  shape: tuple[int, ...]  # row-major, as numpy has it
  type: int
  start: int  # bytes


@dataclass(frozen=True)
class Header:
  """What stands before the data of a GGUF file."""

  fields: dict[str, object]
  tensors: dict[str, TensorInfo]
  data_start: int  # bytes


def read(path: str | Path, cfg: SmolLM2Config | None = None) -> dict[str, np.ndarray]:
  """The weights of a Llama of these sizes, float32, by the names that Hugging Face gives them.

  The default is SmolLM2-135M.

  Raises CheckpointError naming the file for another architecture, other types than TYPES, damage,
  and where the package `gguf` is not installed.
  """
  if importlib.util.find_spec("gguf") is None:
    raise CheckpointError(f"{path}: GGUF needs the package gguf: {how_to_install('gguf')}")
  content = _bytes_of(path)
  try:
    header, cfg = _read_header(content), cfg or SmolLM2Config()
    _check_architecture(header.fields, cfg)
    return _tensors(content, header, cfg)
  except CheckpointError as error:
    raise CheckpointError(f"{path}: {error}") from None


def read_tokenizer(path: str | Path) -> tokenizers.Tokenizer:
  """The byte-level BPE of a GGUF file; raises CheckpointError for a tokenizer of another kind."""
  try:
    fields = _read_header(_bytes_of(path)).fields
  except CheckpointError as error:
    raise CheckpointError(f"{path}: {error}") from None
  kind = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
  lists = [fields.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges", "token_type")]
  if kind != ("gpt2", "smollm") or not all(isinstance(entry, list) for entry in lists):
    raise CheckpointError(
      f"{path}: its tokenizer is {kind}, not SmolLM2's: give --tokenizer=FOLDER"
    )
  tokens, merges, types = lists
  try:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    if len(vocabulary) != len(tokens) or len(types) != len(tokens):
      raise ValueError("tokens occur twice or lack a type")
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, pairs))
  except Exception as error:  # tokenizers raises plain Exception
    reason = checkpoint.first_line(error)
    raise CheckpointError(f"{path}: its tokenizer is damaged ({reason}): download it") from error
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
  tokenizer.add_special_tokens(special)
  return tokenizer


def _bytes_of(path: str | Path) -> np.ndarray:
  try:
    return np.memmap(path, np.uint8, "r")
  except (OSError, ValueError) as error:  # ValueError: an empty file
    raise CheckpointError(f"{path}: cannot be read ({error})") from error


class _Cursor:
  """Reads little-endian values one after another; raises CheckpointError beyond the end."""

  def __init__(self, content: np.ndarray):
    self.content, self.at = content, 0

  def take(self, size: int) -> bytes:
    if size > self.content.size - self.at:
      raise CheckpointError("it breaks off in its header; download or copy it again")
    self.at += size
    return self.content[self.at - size : self.at].tobytes()

  def number(self, code: str) -> int | float | bool:
    return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

  def count(self) -> int:
    number = self.number("Q")
    if number > MAX_ENTRIES:
      raise CheckpointError(f"its header names {number} entries, more than {MAX_ENTRIES}")
    return number

  def text(self) -> str:
    try:
      return self.take(self.number("Q")).decode()
    except UnicodeDecodeError:
      raise CheckpointError("its header holds text that is not UTF-8; download it again") from None

  def value(self, kind: int) -> object:
    if kind == _STRING:
      return self.text()
    if kind == _ARRAY:
      inner, size = self.number("I"), self.count()
      if inner == _ARRAY:
        raise CheckpointError("its header holds an array of arrays")
      return [self.value(inner) for _ in range(size)]
    if kind not in _NUMBERS:
      raise CheckpointError(f"its header holds a value of the unknown type {kind}")
    return self.number(_NUMBERS[kind])


def _read_header(content: np.ndarray) -> Header:
  cursor = _Cursor(content)
  if cursor.take(len(MAGIC)) != MAGIC:
    raise CheckpointError("it is no GGUF file")
  if (version := cursor.number("I")) not in (2, 3):
    raise CheckpointError(f"it is of GGUF version {version}; 2 and 3 are read")
  tensor_count, field_count = cursor.count(), cursor.count()
  fields: dict[str, object] = {}
  for _ in range(field_count):
    name = cursor.text()
    if name in fields:
      raise CheckpointError(f"its header names {name[:100]!r} twice")
    fields[name] = cursor.value(cursor.number("I"))
  infos: dict[str, TensorInfo] = {}
  for _ in range(tensor_count):
    name, axes = cursor.text(), cursor.number("I")
    if axes > MAX_AXES or name in infos:
      raise CheckpointError(f"its tensor {name[:100]!r} has {axes} axes or occurs twice")
    shape = tuple(cursor.number("Q") for _ in range(axes))[::-1]
    infos[name] = TensorInfo(shape, cursor.number("I"), cursor.number("Q"))
  alignment = fields.get("general.alignment", 32)
  if type(alignment) is not int or not 0 < alignment <= 2**16:
    raise CheckpointError(f"its alignment is {alignment!r} bytes")
  return Header(fields, infos, -(-cursor.at // alignment) * alignment)


def _check_architecture(fields: dict[str, object], cfg: SmolLM2Config) -> None:
  if (found := fields.get("general.architecture")) != "llama":
    raise CheckpointError(f"its architecture is {found!r}: only llama is read")
  expected = {
    "block_count": cfg.layers,
    "embedding_length": cfg.width,
    "feed_forward_length": cfg.mlp,
    "attention.head_count": cfg.heads,
    "attention.head_count_kv": cfg.kv_heads,
    "rope.freq_base": cfg.rope_theta,
    "attention.layer_norm_rms_epsilon": cfg.norm_eps,
  }
  for name, value in expected.items():
    found = fields.get(f"llama.{name}")
    # GGUF keeps them in float32.
    if not isinstance(found, (int, float)) or not math.isclose(found, value, rel_tol=1e-6):
      raise CheckpointError(f"llama.{name} is {found!r} instead of {value}: another architecture")


def _tensors(content: np.ndarray, header: Header, cfg: SmolLM2Config) -> dict[str, np.ndarray]:
  from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # extra `gguf`
  from gguf.quants import dequantize

  kinds = {kind.value: kind for kind in GGMLQuantizationType if kind.name in TYPES}
  data, taken, tensors = content[header.data_start :], 0, {}
  for name, info in header.tensors.items():
    matches = [(m, to) for pattern, to in _NAMES if (m := re.fullmatch(pattern, name))]
    if not matches:
      raise CheckpointError(f"tensor {name[:100]!r} is of another architecture")
    if info.type not in kinds:
      raise CheckpointError(f"tensor {name!r} is of type {info.type}: {', '.join(TYPES)} are read")
    block, block_bytes = GGML_QUANT_SIZES[kinds[info.type]]
    if not info.shape or not all(info.shape) or info.shape[-1] % block:
      raise CheckpointError(
        f"tensor {name!r} has the shape {info.shape}, no whole blocks of {block}"
      )
    row = info.shape[-1] // block * block_bytes
    size = math.prod(info.shape[:-1]) * row
    taken += size
    # Together no more than the file: tensors that share bytes could unfold without end.
    if info.start + size > data.size or taken > data.size:
      raise CheckpointError(f"tensor {name!r} reaches beyond the file; download or copy it again")
    stored = data[info.start : info.start + size].reshape(*info.shape[:-1], row)
    with np.errstate(all="ignore"):  # values that are not finite are for the caller to judge
      array = dequantize(stored, kinds[info.type]).astype(np.float32, copy=False)
    match, new_name = matches[0]
    new_name = match.expand(new_name)
    if new_name.endswith(("q_proj.weight", "k_proj.weight")):
      array = _undo_permutation(name, array, cfg.heads if "q_proj" in new_name else cfg.kv_heads)
    tensors[new_name] = array
  return tensors


def _undo_permutation(name: str, array: np.ndarray, heads: int) -> np.ndarray:
  """Rows of a head in two halves, as Hugging Face rotates them, from llama.cpp's pairs."""
  if array.ndim != 2 or array.shape[0] % (2 * heads):
    raise CheckpointError(f"tensor {name!r} has the shape {array.shape}, not rows of {heads} heads")
  paired = array.reshape(heads, array.shape[0] // heads // 2, 2, array.shape[1])
  return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(array.shape))
