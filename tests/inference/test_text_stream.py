"""Text that is streamed is whole: no half of a character, and in the end the text of all tokens."""

import itertools

import numpy as np
import pytest
import tiny
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mellow_jax.inference import text_stream


@pytest.fixture(scope="module")
def bytes_tokenizer() -> tokenizers.Tokenizer:
  """Byte-level BPE without merges: every byte is a token."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {symbol: i for i, symbol in enumerate(alphabet)}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def test_characters_of_several_tokens_come_whole_and_at_once(bytes_tokenizer):
  text = "naïve 犬 barks 🐕!"
  ids = bytes_tokenizer.encode(text).ids
  assert len(ids) == len(text.encode()) == 22
  found = list(text_stream.pieces(bytes_tokenizer, ids))
  assert found == [*"naïve", " 犬", " b", *"arks", " 🐕", "!"]
  # Each is there before the next token is asked for.
  asked, stream = [], iter(ids)
  first = text_stream.pieces(bytes_tokenizer, (asked.append(i) or i for i in stream))
  assert [next(first) for _ in range(3)] == ["n", "a", "ï"] and len(asked) == 4


def test_any_bytes_give_the_text_of_all_tokens(bytes_tokenizer):
  rng = np.random.default_rng(0)
  alphabet = bytes_tokenizer.encode("a é犬🐕\n").ids  # bytes of whole characters, now in any order
  for _ in range(300):
    ids = rng.choice(alphabet, rng.integers(0, 12)).tolist()
    found = list(text_stream.pieces(bytes_tokenizer, ids))
    assert "".join(found) == bytes_tokenizer.decode(ids).strip() and "" not in found


def test_white_space_around_an_answer_is_left_out(bytes_tokenizer):
  ids = bytes_tokenizer.encode("  a dog \n").ids
  assert list(text_stream.pieces(bytes_tokenizer, ids)) == ["a", " d", "o", "g"]


def test_a_text_ends_before_the_string_that_is_complete_first_however_it_is_broken():
  rng = np.random.default_rng(0)
  for text, stops, expected in [
    ("bbaaabaa", ["baa", "a"], "bb"),  # "baa" begins sooner and is complete later
    ("one two three", ["three", "two three", "o three"], "one "),  # all three end there
    ("abc", ["d", ""], "abc"),
  ]:
    for _ in range(20):
      cuts = [0, *sorted(rng.integers(0, len(text) + 1, 3).tolist()), len(text)]
      stop = text_stream.StopTexts(stops)
      found = "".join(stop.add(text[a:b]) for a, b in itertools.pairwise(cuts) if not stop.found)
      assert found + stop.end() == expected


def test_words_come_one_by_one():
  tokenizer = tiny.tokenizer()
  ids = tokenizer.encode("a dog barks, then rain").ids
  found = list(text_stream.pieces(tokenizer, ids))
  assert found == ["a", " dog", " barks", ",", " then", " rain"]
