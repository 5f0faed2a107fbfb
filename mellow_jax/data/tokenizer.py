"""A word-level tokenizer made from a dataset's own text, for models too small for SmolLM2's."""

import re
from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers

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
