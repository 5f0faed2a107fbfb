"""Tokenizers: the one loader, and word-level ones for models too small for SmolLM2's vocabulary."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers

from mellow_jax.errors import CheckpointError, first_line

SPECIAL_TOKENS = ("<|endoftext|>", "<pad>", "<unk>")  # ids 0, 1 and 2
# "a)" is one token, so that the letter of an option differs from the article "a".
TOKEN = r"[a-d]\)|[a-z0-9]+|[^\sa-z0-9]"
CLINGING = ",.:?"  # punctuation that follows its word without a space


def build_tokenizer(texts: Iterable[str]) -> tokenizers.Tokenizer:
  """A token for every word, number and punctuation mark of the texts, and for "a)" to "d)".

  It lower-cases. Decoding gives back text whose punctuation stands as in ordinary sentences; words
  that the texts lack are "<unk>".
  """
  known = sorted({token for text in texts for token in re.findall(TOKEN, text.lower())})
  vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *known])}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS[2])
  )
  tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
  tokenizer.normalizer = normalizers.Lowercase()
  tokenizer.pre_tokenizer = pre_tokenizers.Split(
    tokenizers.Regex(TOKEN), behavior="removed", invert=True
  )
  # WordPiece puts a space before all tokens but those that begin with its prefix, which none does.
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.WordPiece(prefix="##", cleanup=False),
      decoders.Fuse(),
      *(decoders.Replace(f" {mark}", mark) for mark in CLINGING),
    ]
  )
  return tokenizer


def is_of_words(tokenizer: tokenizers.Tokenizer) -> bool:
  """Whether it has a token for each word, and none for parts of them."""
  return isinstance(tokenizer.model, tokenizers.models.WordLevel)


def grow_tokenizer(
  tokenizer: tokenizers.Tokenizer, texts: Iterable[str]
) -> tuple[tokenizers.Tokenizer, list[str]]:
  """A word-level tokenizer with the words of the texts that it lacks, and these words.

  The new words come last, so that the others keep their ids. A tokenizer of another kind has no
  unknown words, and is returned as it is.
  """
  if not is_of_words(tokenizer):
    return tokenizer, []
  known, lacking = tokenizer.get_vocab(), set()
  for text in texts:
    if tokenizer.normalizer:
      text = tokenizer.normalizer.normalize_str(text)
    parts = tokenizer.pre_tokenizer.pre_tokenize_str(text) if tokenizer.pre_tokenizer else [(text,)]
    lacking.update(part[0] for part in parts if part[0] not in known)
  new, first, state = sorted(lacking), max(known.values()) + 1, json.loads(tokenizer.to_str())
  state["model"]["vocab"] |= {word: first + i for i, word in enumerate(new)}
  return tokenizers.Tokenizer.from_str(json.dumps(state)), new


def load_tokenizer(path: str | os.PathLike) -> tokenizers.Tokenizer:
  """The tokenizer in a tokenizer.json, or in the model folder that holds one.

  Everything that counts or encodes tokens loads it here. Where the vocabulary has "!", each "!" is
  a token by itself, as in the reference, which pads with it: without, "!)" would be one token.

  Raises CheckpointError naming the file.
  """
  path = Path(path)
  path = path / "tokenizer.json" if path.is_dir() else path
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # tokenizers raises plain Exception
    raise CheckpointError(
      f"{path}: no readable tokenizer ({first_line(error)}): restore it from a copy, or write the "
      "model folder again"
    ) from error
  # The file keeps both as they were last used: they would cut and fill texts unseen.
  tokenizer.no_truncation()
  tokenizer.no_padding()
  if tokenizer.token_to_id("!") is not None:
    tokenizer.add_tokens([tokenizers.AddedToken("!", normalized=False)])
  return tokenizer
