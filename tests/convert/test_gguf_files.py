"""GGUF files give back the weights that were quantised, and damaged ones one clear error."""

import importlib
import random

import gguf
import numpy as np
import pytest
from timing import cpu_time

from mellow_jax.config import SmolLM2Config
from mellow_jax.convert import gguf_files, sources
from mellow_jax.errors import CheckpointError
from tests.convert.test_torch_files_fuzz import mutate

CFG = SmolLM2Config(vocab=40, width=64, layers=1, heads=2, kv_heads=1, head_size=32, mlp=96)
KINDS = gguf.GGMLQuantizationType
TOKENS = ["<|endoftext|>", "<|im_start|>", "Ġ", "a", "b", "c", "t", "at", "Ġc", "Ġcat"]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
  """Hugging Face's names and shapes."""
  rng, c = np.random.default_rng(seed), CFG
  layer = "model.layers.0."
  shapes = {
    "model.embed_tokens.weight": (c.vocab, c.width),
    "model.norm.weight": (c.width,),
    layer + "self_attn.q_proj.weight": (c.heads * c.head_size, c.width),
    layer + "self_attn.k_proj.weight": (c.kv_heads * c.head_size, c.width),
    layer + "self_attn.v_proj.weight": (c.kv_heads * c.head_size, c.width),
    layer + "self_attn.o_proj.weight": (c.width, c.heads * c.head_size),
    layer + "mlp.gate_proj.weight": (c.mlp, c.width),
    layer + "mlp.up_proj.weight": (c.mlp, c.width),
    layer + "mlp.down_proj.weight": (c.width, c.mlp),
    layer + "input_layernorm.weight": (c.width,),
    layer + "post_attention_layernorm.weight": (c.width,),
  }
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


NAMES = {
  "embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "q_proj": "blk.0.attn_q",
  "k_proj": "blk.0.attn_k",
  "v_proj": "blk.0.attn_v",
  "o_proj": "blk.0.attn_output",
  "gate_proj": "blk.0.ffn_gate",
  "up_proj": "blk.0.ffn_up",
  "down_proj": "blk.0.ffn_down",
  "input_layernorm": "blk.0.attn_norm",
  "post_attention_layernorm": "blk.0.ffn_norm",
}


def interleave(array: np.ndarray, heads: int) -> np.ndarray:
  """Row i of a head's first half beside row i of its second, as llama.cpp rotates them."""
  halves = array.reshape(heads, 2, -1, array.shape[1])
  return np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(array.shape)


def write(path, state, kind, *, fields=None, tokens=TOKENS):
  writer = gguf.GGUFWriter(path, "llama")
  sizes = {
    "block_count": CFG.layers,
    "embedding_length": CFG.width,
    "feed_forward_length": CFG.mlp,
    "attention.head_count": CFG.heads,
    "attention.head_count_kv": CFG.kv_heads,
  }
  for name, value in (sizes | (fields or {})).items():
    writer.add_uint32(f"llama.{name}", value)
  writer.add_float32("llama.rope.freq_base", CFG.rope_theta)
  writer.add_float32("llama.attention.layer_norm_rms_epsilon", CFG.norm_eps)
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre("smollm")
  writer.add_token_list(tokens)
  writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
  writer.add_token_merges(["a t", "Ġ c", "Ġc at"])
  for name, array in state.items():
    if "q_proj" in name or "k_proj" in name:
      array = interleave(array, CFG.heads if "q_proj" in name else CFG.kv_heads)
    here = next(theirs for part, theirs in NAMES.items() if part in name) + ".weight"
    one_axis = array.ndim == 1
    quantised = array if one_axis else gguf.quants.quantize(array, kind)
    writer.add_tensor(here, quantised, raw_dtype=KINDS.F32 if one_axis else kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


@pytest.mark.parametrize(
  ("kind", "largest_error"),
  [("F32", 0), ("F16", 2e-3), ("Q8_0", 2e-2), ("Q4_0", 0.4), ("Q4_1", 0.3)],
)
def test_each_type_is_read_to_its_precision_in_our_order_of_rows(kind, largest_error, tmp_path):
  state = weights()
  held = gguf_files.read(write(tmp_path / "x.gguf", state, KINDS[kind]), CFG)
  assert held.keys() == state.keys()
  for name, array in state.items():
    assert held[name].dtype == np.float32
    np.testing.assert_allclose(held[name], array, rtol=0, atol=largest_error, err_msg=name)


def test_the_tokenizer_within_is_read(tmp_path):
  path = write(tmp_path / "x.gguf", weights(), KINDS.F32)
  tokenizer = gguf_files.read_tokenizer(path)
  assert tokenizer.encode(" cat<|endoftext|>at").tokens == ["Ġcat", "<|endoftext|>", "at"]
  assert tokenizer.decode([TOKENS.index("Ġcat"), TOKENS.index("at")]) == " catat"


def test_another_architecture_is_named(tmp_path):
  path = write(tmp_path / "x.gguf", weights(), KINDS.F32, fields={"attention.head_count": 4})
  with pytest.raises(CheckpointError, match=r"x\.gguf: llama\.attention\.head_count is 4 instead"):
    gguf_files.read(path, CFG)
  with pytest.raises(CheckpointError, match=r"llama\.block_count is 1 instead of 30"):
    sources.load_state_dict(str(path))
  wide = weights() | {"model.norm.weight": np.ones(64, np.float64)}
  path = write(tmp_path / "y.gguf", {k: v for k, v in wide.items() if "norm" not in k}, KINDS.F32)
  assert "model.norm.weight" not in gguf_files.read(path, CFG)  # whoever converts it says so


def test_types_that_are_not_read_are_named(tmp_path):
  state = {"model.embed_tokens.weight": weights()["model.embed_tokens.weight"]}
  path = write(tmp_path / "x.gguf", state, KINDS.BF16)
  with pytest.raises(CheckpointError, match="F32, F16, Q8_0, Q4_0, Q4_1 are read"):
    gguf_files.read(path, CFG)


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(CheckpointError, match=r"pip install -e '\.\[gguf\]'"):
    gguf_files.read(tmp_path / "x.gguf")


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
  path = write(tmp_path / "x.gguf", weights(), KINDS.F32, tokens=["a", "a", "b"])
  with pytest.raises(CheckpointError, match="damaged"):
    gguf_files.read_tokenizer(path)


@pytest.mark.parametrize(
  "count", [2_000, pytest.param(20_000, marks=pytest.mark.slow, id="long-20000")]
)
def test_mutated_files_give_our_error_alone_within_a_second(count, tmp_path):
  path = write(tmp_path / "x.gguf", weights(), KINDS.Q4_1)
  whole, rng, accepted = path.read_bytes(), random.Random(3), 0
  header = whole.index(b"blk.0.ffn_norm.weight") + 60  # where mistakes matter most
  for number in range(count):
    path.unlink()
    if number % 4:
      path.write_bytes(mutate(whole[:header], rng) + whole[header:])
    else:
      path.write_bytes(mutate(whole, rng))
    with cpu_time() as taken:
      for reader in (lambda p: gguf_files.read(p, CFG), gguf_files.read_tokenizer):
        try:
          reader(path)
          accepted += 1
        except CheckpointError as error:
          assert str(error).startswith(str(path)) and "\n" not in str(error)
        except BaseException as error:
          raise AssertionError(f"mutation {number} raised {error!r}") from error
    assert taken.seconds < 1
  assert 0.01 * count < accepted


def test_every_truncation_is_noticed(tmp_path):
  path = write(tmp_path / "x.gguf", weights(), KINDS.Q8_0)
  whole = path.read_bytes()
  for size in range(0, len(whole) - 31, 997):  # the last bytes may be padding
    path.write_bytes(whole[:size])
    with pytest.raises(CheckpointError):
      gguf_files.read(path, CFG)
