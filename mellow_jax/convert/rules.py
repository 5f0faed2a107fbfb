"""The whole table between PyTorch's names and ours, one regex a line.

Each rule is (torch key, path in our parameter tree, transform). A transform is a pair of
functions, there and back. A path of None names an entry that is computed from the configuration
and not learned: it is dropped on the way in and made anew on the way out.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mellow_jax.config import (
  CNN14Config,
  GPT2Config,
  HTSATConfig,
  LinearConfig,
  ModelConfig,
  NonlinearConfig,
  SmolLM2Config,
  TransformerConfig,
)


class Transform(NamedTuple):
  """How an array changes its layout: PyTorch to JAX, and back."""

  there: Callable[[np.ndarray], np.ndarray]
  back: Callable[[np.ndarray], np.ndarray]


class Rule(NamedTuple):
  """One line of the table."""

  key: str
  path: str | None
  transform: Transform | None


keep = Transform(lambda x: x, lambda x: x)
transpose = Transform(lambda x: x.T, lambda x: x.T)  # Linear: [out, in] to [in, out]
# Conv2d: [out, in, height, width] to [height, width, in, out].
conv = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))


def _norm(key: str, path: str) -> list[Rule]:
  return [
    Rule(rf"{key}\.weight", f"{path}.scale", keep),
    Rule(rf"{key}\.bias", f"{path}.bias", keep),
  ]


def _linear(key: str, path: str) -> list[Rule]:
  return [
    Rule(rf"{key}\.weight", f"{path}.kernel", transpose),
    Rule(rf"{key}\.bias", f"{path}.bias", keep),
  ]


def _batch_norm(key: str, path: str) -> list[Rule]:
  return [
    *_norm(key, path),
    Rule(rf"{key}\.running_mean", f"{path}.mean", keep),
    Rule(rf"{key}\.running_var", f"{path}.var", keep),
    Rule(rf"{key}\.num_batches_tracked", None, None),
  ]


def _log_mel(prefix: str) -> list[Rule]:
  return [
    Rule(prefix + r"spectrogram_extractor\.stft\.conv_(real|imag)\.weight", None, None),
    Rule(prefix + r"logmel_extractor\.melW", None, None),
  ]


def htsat(prefix: str) -> list[Rule]:
  """HTSAT under `prefix`, a regex that ends with a dot or is empty."""
  block, ours = prefix + r"layers\.(\d+)\.blocks\.(\d+)\.", r"encoder.stages.\1.blocks.\2."
  merge = prefix + r"layers\.(\d+)\.downsample\."
  return [
    *_batch_norm(prefix + "bn0", "encoder.bn0"),
    Rule(prefix + r"patch_embed\.proj\.weight", "encoder.patch_embed.kernel", conv),
    Rule(prefix + r"patch_embed\.proj\.bias", "encoder.patch_embed.bias", keep),
    *_norm(prefix + r"patch_embed\.norm", "encoder.patch_norm"),
    *_norm(block + "norm1", ours + "norm1"),
    Rule(block + r"attn\.relative_position_bias_table", ours + "attn.bias_table", keep),
    *_linear(block + r"attn\.qkv", ours + "attn.qkv"),
    *_linear(block + r"attn\.proj", ours + "attn.proj"),
    *_norm(block + "norm2", ours + "norm2"),
    *_linear(block + r"mlp\.fc1", ours + "fc1"),
    *_linear(block + r"mlp\.fc2", ours + "fc2"),
    *_norm(merge + "norm", r"encoder.stages.\1.merge.norm"),
    Rule(merge + r"reduction\.weight", r"encoder.stages.\1.merge.reduction.kernel", transpose),
    *_norm(prefix + "norm", "encoder.norm"),
    Rule(prefix + r"tscam_conv\.weight", "encoder.tscam_conv.kernel", conv),
    Rule(prefix + r"tscam_conv\.bias", "encoder.tscam_conv.bias", keep),
    *_linear(prefix + "head", "encoder.head"),
    *_log_mel(prefix),
    Rule(block + r"attn\.relative_position_index", None, None),
    Rule(block + "attn_mask", None, None),
  ]


def cnn14(prefix: str) -> list[Rule]:
  """CNN14 under `prefix`, a regex that ends with a dot or is empty."""
  found = [*_log_mel(prefix), *_batch_norm(prefix + "bn0", "encoder.bn0")]
  for i in range(6):  # there they are counted from 1
    block, ours = prefix + rf"conv_block{i + 1}\.", f"encoder.blocks.{i}."
    found.append(Rule(block + r"conv(1|2)\.weight", ours + r"conv\1.kernel", conv))
    found += _batch_norm(block + "bn(1|2)", ours + r"bn\1")
  return [
    *found,
    *_linear(prefix + "fc1", "encoder.fc1"),
    *_linear(prefix + "fc_audioset", "encoder.fc_audioset"),
  ]


def smollm2(prefix: str) -> list[Rule]:
  """SmolLM2 under `prefix`, a regex that ends with a dot or is empty."""
  layer, ours = prefix + r"model\.layers\.(\d+)\.", r"decoder.blocks.\1."
  return [
    Rule(prefix + r"model\.embed_tokens\.weight", "decoder.embed.embedding", keep),
    *(
      Rule(layer + rf"self_attn\.{name}_proj\.weight", ours + f"attn.{name}.kernel", transpose)
      for name in "qkvo"
    ),
    *(
      Rule(layer + rf"mlp\.{name}_proj\.weight", ours + f"mlp.{name}.kernel", transpose)
      for name in ("gate", "up", "down")
    ),
    Rule(layer + r"input_layernorm\.weight", ours + "attn_norm.scale", keep),
    Rule(layer + r"post_attention_layernorm\.weight", ours + "mlp_norm.scale", keep),
    Rule(prefix + r"model\.norm\.weight", "decoder.norm.scale", keep),
    # The tied head: dropped after a check that it equals the embedding.
    Rule(prefix + r"lm_head\.weight", None, None),
  ]


def gpt2(prefix: str) -> list[Rule]:
  """GPT-2 under `prefix`, a regex that ends with a dot or is empty."""
  layer, ours = prefix + r"h\.(\d+)\.", r"decoder.blocks.\1."

  def conv1d(key: str, path: str) -> list[Rule]:
    """OpenAI's linear layer, whose weight is [in, out] as ours."""
    return [
      Rule(layer + rf"{key}\.weight", f"{ours}{path}.kernel", keep),
      Rule(layer + rf"{key}\.bias", f"{ours}{path}.bias", keep),
    ]

  return [
    Rule(prefix + r"wte\.weight", "decoder.embed.embedding", keep),
    Rule(prefix + r"wpe\.weight", "decoder.position.embedding", keep),
    *_norm(layer + "ln_1", ours + "attn_norm"),
    *conv1d(r"attn\.c_attn", "attn.qkv"),
    *conv1d(r"attn\.c_proj", "attn.o"),
    *_norm(layer + "ln_2", ours + "mlp_norm"),
    *conv1d(r"mlp\.c_fc", "up"),
    *conv1d(r"mlp\.c_proj", "down"),
    *_norm(prefix + "ln_f", "decoder.norm"),
    # The causal mask, which files of the hub hold.
    Rule(layer + r"attn\.(bias|masked_bias)", None, None),
  ]


def encoder(cfg: ModelConfig, prefix: str) -> list[Rule]:
  """The encoder of the configuration under `prefix`."""
  match cfg.encoder:
    case HTSATConfig():
      return htsat(prefix)
    case CNN14Config():
      return cnn14(prefix)


def decoder(cfg: ModelConfig, prefix: str) -> list[Rule]:
  """The decoder of the configuration under `prefix`, as its class with a head names it."""
  match cfg.decoder:
    case SmolLM2Config():
      return smollm2(prefix)
    case GPT2Config():
      head = Rule(prefix + r"lm_head\.weight", None, None)  # tied, as SmolLM2's
      return [*gpt2(prefix + r"transformer\."), head]


def mapper(cfg: ModelConfig) -> list[Rule]:
  """The mapper of the configuration in a whole checkpoint.

  No public code has the linear and the transformer projection. Their names are ours, those of the
  transformer's layers Pengi's.
  """
  projection, ours = r"audio_encoder\.projection\.", "mapper.projection."
  nonlinear = [
    Rule(projection + r"linear(1|2)\.weight", ours + r"linear\1.kernel", transpose),
    *_norm(projection + "layer_norm", ours + "norm"),
  ]
  found = _linear(r"audio_encoder\.base\.c2l", "mapper.c2l")
  match cfg.mapper:
    case LinearConfig():
      return [*found, *_linear(projection + "linear", ours + "linear")]
    case NonlinearConfig():
      return [*found, *nonlinear]
    case TransformerConfig():
      return [*found, *nonlinear, *_mapper_transformer()]


def _mapper_transformer() -> list[Rule]:
  stack, ours = r"audio_encoder\.mapper\.", "mapper.transformer."
  layer, in_layer = stack + r"transformer\.layers\.(\d+)\.", ours + r"layers.\1."
  return [
    Rule(stack + "prefix_const", ours + "constants", keep),
    *_norm(layer + "norm1", in_layer + "norm1"),
    Rule(layer + r"attn\.to_queries\.weight", in_layer + "queries.kernel", transpose),
    Rule(layer + r"attn\.to_keys_values\.weight", in_layer + "keys_values.kernel", transpose),
    *_linear(layer + r"attn\.project", in_layer + "project"),
    *_norm(layer + "norm2", in_layer + "norm2"),
    *_linear(layer + r"mlp\.fc1", in_layer + "fc1"),
    *_linear(layer + r"mlp\.fc2", in_layer + "fc2"),
  ]


def with_lora(rules: list[Rule], adapter: str) -> list[Rule]:
  """The rules of a decoder that the package peft has wrapped, which adapts some linear layers.

  `adapter` is the regex that stands between lora_A and weight. The plain layers keep their names.

  Source: github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md.
  """
  kernels = [rule for rule in rules if rule.path and rule.path.endswith(".kernel")]
  linear = {rule.key.removesuffix(r"\.weight") for rule in kernels}
  found = []
  for rule in rules:
    layer, _, leaf = rule.key.rpartition(r"\.")
    found.append(rule)
    if layer in linear:
      found.append(rule._replace(key=rf"{layer}\.base_layer\.{leaf}"))
  for rule in kernels:
    layer, ours = rule.key.removesuffix(r"\.weight"), rule.path.removesuffix("kernel")
    for part in "AB":
      key = rf"{layer}\.lora_{part}{adapter}\.weight"
      found.append(Rule(key, f"{ours}lora_{part.lower()}", transpose))
  return found


def mellow(cfg: ModelConfig) -> list[Rule]:
  """A whole checkpoint of a configuration."""
  return [
    *encoder(cfg, rf"audio_encoder\.base\.{cfg.encoder.kind}\."),
    *mapper(cfg),
    *decoder(cfg, r"caption_decoder\.lm\."),
  ]


def mellow_lora(cfg: ModelConfig) -> list[Rule]:
  """A whole checkpoint whose decoder peft has wrapped."""
  return [
    *encoder(cfg, rf"audio_encoder\.base\.{cfg.encoder.kind}\."),
    *mapper(cfg),
    *with_lora(decoder(cfg, r"caption_decoder\.lm\.base_model\.model\."), r"\.default"),
  ]


def adapter(cfg: ModelConfig) -> list[Rule]:
  """A file of peft with the low-rank factors of a decoder and nothing else."""
  rules = with_lora(decoder(cfg, r"base_model\.model\."), "")
  return [rule for rule in rules if rule.path and rule.path.endswith(("lora_a", "lora_b"))]


class Marker(NamedTuple):
  """Keys by which a kind of file is told."""

  root: str  # what stands before them in the table
  key: str  # regex of keys that only such files have, after the root


# What a file holds. The first kind that finds a key is the file's.
MARKERS = {
  "mellow with LoRA": Marker("", r"caption_decoder\.lm\.base_model\..*"),
  "mellow": Marker("", r"audio_encoder\.(base\.c2l|projection)\..*"),
  "adapter": Marker("", r"base_model\.model\..*\.lora_A\.weight"),
  "htsat": Marker("sed_model.", r"patch_embed\.proj\.weight|layers\.\d+\.blocks\..*"),
  "cnn14": Marker("", r"conv_block\d+\..*"),
  "smollm2": Marker("model.", r"embed_tokens\.weight|layers\.\d+\.self_attn\..*"),
  "gpt2": Marker("", r"wte\.weight|h\.\d+\.attn\..*"),
}
# What classes of PyTorch keep beside their weights in some versions, computed and never learned.
BUFFER = Rule(
  r"(?:.*\.)?(?:num_batches_tracked|position_ids|masked_bias|rotary_emb\.\w+)", None, None
)


def table(kind: str, cfg: ModelConfig) -> list[Rule]:
  """The rules of a kind of file, which is a key of MARKERS, for a configuration."""
  match kind:
    case "mellow":
      return mellow(cfg)
    case "mellow with LoRA":
      return mellow_lora(cfg)
    case "adapter":
      return adapter(cfg)
    case "htsat":
      return htsat(r"sed_model\.")
    case "cnn14":
      return cnn14("")
    case "smollm2":
      return smollm2("")
    case _:
      return [*gpt2(""), Rule(r"lm_head\.weight", None, None)]  # tied, where there is one


def match(key: str, rules: list[Rule]) -> list[tuple[Rule, str | None]]:
  """Every rule that matches the whole key, with the path it gives; BUFFER where none does."""
  found = ((rule, re.fullmatch(rule.key, key)) for rule in rules)
  matches = [(rule, rule.path and m.expand(rule.path)) for rule, m in found if m]
  return matches or [(BUFFER, None)] * bool(re.fullmatch(BUFFER.key, key))
