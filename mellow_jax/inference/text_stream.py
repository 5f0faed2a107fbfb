"""Text of tokens that are still being decoded."""

from collections.abc import Iterable, Iterator

import tokenizers

INCOMPLETE = "\ufffd"  # what bytes that are no whole UTF-8 character decode to


def pieces(tokenizer: tokenizers.Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
  """The text of tokens in pieces; joined, they are the decoded text of all tokens, stripped.

  A token of a byte-level BPE may end within a character. Such bytes wait for the rest of it, and
  white space for the text after it.
  """
  ids, sent = [], ""
  for token in tokens:
    ids.append(token)
    text = tokenizer.decode(ids).rstrip(INCOMPLETE).strip()
    if len(text) > len(sent):
      yield text[len(sent) :]
      sent = text
  text = tokenizer.decode(ids).strip()
  if len(text) > len(sent):  # bytes that no token has completed
    yield text[len(sent) :]
