"""One loader of tokenizers: what is counted is what is trained on."""

import pytest
import tokenizers
from tokenizers import decoders, models

from mellow_jax.data import prompts
from mellow_jax.data.presets import PRESETS
from mellow_jax.data.tokenizer import load_tokenizer
from mellow_jax.errors import CheckpointError
from mellow_jax.reasonaqa.check import faults

TEXT = "Stop!! " * 47


@pytest.fixture
def folder(tmp_path):
  """A model folder whose tokenizer merges two "!" into one token."""
  letters = ["<|endoftext|>", "!", "a", " ", "!!"]
  model = models.BPE({token: i for i, token in enumerate(letters)}, [("!", "!")])
  made = tokenizers.Tokenizer(model)
  made.add_special_tokens(["<|endoftext|>"])
  made.decoder = decoders.Fuse()
  assert made.encode("a!!").tokens == ["a", "!!"]
  made.save(str(tmp_path / "tokenizer.json"))
  return tmp_path


def test_each_exclamation_mark_is_a_token(folder):
  for path in (folder, folder / "tokenizer.json"):
    assert load_tokenizer(path).encode("a!!").tokens == ["a", "!", "!"]


def test_it_neither_cuts_nor_fills_though_it_did_when_it_was_saved(folder):
  path = str(folder / "tokenizer.json")
  saved = tokenizers.Tokenizer.from_file(path)
  saved.enable_truncation(2)
  saved.enable_padding(length=9)
  saved.save(path)
  assert load_tokenizer(folder).encode("a!!").tokens == ["a", "!", "!"]
  assert load_tokenizer(folder).encode("a").tokens == ["a"]


def test_a_missing_tokenizer_is_named(tmp_path):
  with pytest.raises(CheckpointError, match=r"model/tokenizer\.json: no readable tokenizer"):
    load_tokenizer(tmp_path / "model/tokenizer.json")


def counted(folder, text, slots):
  """The faults that `reasonaqa check` finds in a question, and what training has of it."""
  limits = faults.TokenLimits(str(folder), "training", slots, 250)
  limits.add("row", ["", "a.wav", "", "", "", text, "yes", ""])
  preset = PRESETS["training"]
  asked = prompts.question(text, preset)
  length = prompts.encode(load_tokenizer(folder), asked, preset.question_end, 999, 1, 0)[1]
  return [fault.message for _, fault in limits.faults()], length


def test_check_counts_the_tokens_that_training_has(folder):
  assert counted(folder, "a!!!!!!", 9) == ([], 9)
  assert counted(folder, "a!!!!!!", 8) == (["9 tokens with its end, where 8 fit"], 9)


def test_check_finds_what_the_merged_marks_of_smollm2_would_hide(reference_data):
  folder = reference_data / "tokenizers/smollm2"
  raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  assert len(raw.encode(TEXT.lower() + " <|endoftext|>").ids) < 129
  (message,), length = counted(folder, TEXT, 129)
  assert length > 129 and message == f"{length} tokens with its end, where 129 fit"
