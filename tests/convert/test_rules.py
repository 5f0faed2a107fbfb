"""The table's laws for the other encoder and decoder, on the reference's list of keys."""

import json

import numpy as np
import recipe
from fidelity import GOLDEN

from mellow_jax.config import CNN14Config, GPT2Config, ModelConfig
from mellow_jax.convert import rules
from mellow_jax.models import mellow

CFG = ModelConfig(encoder=CNN14Config(), decoder=GPT2Config())
MANIFEST = json.loads((GOLDEN / "manifest_cnn14_gpt2.json").read_text())


def test_every_key_of_cnn14_and_gpt2_has_one_rule_and_every_leaf_one_key():
  table, abstract, filled = rules.mellow(CFG), mellow.flatten(mellow.abstract(CFG)[1]), []
  for key, shape in MANIFEST.items():
    ((rule, path),) = rules.match(key, table)
    is_tied = key.endswith("lm_head.weight")  # to the embedding
    assert (path is None) == (recipe.is_constant(key) or is_tied), key
    if path is not None:
      path = path.replace(".", "/")
      array = np.broadcast_to(np.float32(0), shape)
      assert rule.transform.there(array).shape == abstract[path].shape, key
      assert rule.transform.back(rule.transform.there(array)).shape == tuple(shape), key
      filled.append(path)
  assert sorted(filled) == sorted(abstract)


def test_the_masks_in_gpt2s_files_are_dropped_and_its_biases_are_not():
  table = rules.gpt2("")
  for name in ("bias", "masked_bias"):
    ((_, path),) = rules.match(f"h.3.attn.{name}", table)
    assert path is None
  ((_, path),) = rules.match("h.3.attn.c_attn.bias", table)
  assert path == "decoder.blocks.3.attn.qkv.bias"
