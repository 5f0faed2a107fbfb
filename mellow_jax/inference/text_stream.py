"""Text of tokens that are still being decoded."""

from collections.abc import Iterable, Iterator, Sequence

import tokenizers

INCOMPLETE = "\ufffd"  # what bytes that are no whole UTF-8 character decode to


class TextStream:
  """The text of tokens in pieces; joined, they are the decoded text of all tokens, stripped.

  A token of a byte-level BPE may end within a character. Such bytes wait for the rest of it, and
  white space for the text after it.
  """

  def __init__(self, tokenizer: tokenizers.Tokenizer):
    self._tokenizer, self._ids, self._sent = tokenizer, [], ""

  def add(self, token: int) -> str:
    """The piece that a token completes, or ""."""
    self._ids.append(token)
    return self._rest(self._tokenizer.decode(self._ids).rstrip(INCOMPLETE).strip())

  def end(self) -> str:
    """The piece of bytes that no token has completed, or ""."""
    return self._rest(self._tokenizer.decode(self._ids).strip())

  def _rest(self, text: str) -> str:
    piece = text[len(self._sent) :]
    self._sent += piece
    return piece


class StopTexts:
  """Ends a text before the string that is the first to be complete, wherever its pieces break."""

  def __init__(self, texts: Sequence[str]):
    self._texts, self._held = [text for text in texts if text], ""
    self.found = False

  def add(self, piece: str) -> str:
    """What of the text is certain to stand before any of the strings; see `found`."""
    self._held += piece
    found = [(at + len(text), at) for text in self._texts if (at := self._held.find(text)) >= 0]
    if found:
      _, start = min(found)  # that which ends first; of two, the longer one
      self.found, sure, self._held = True, self._held[:start], ""
      return sure
    # The longest end that may be the beginning of one of the strings waits.
    waits = max(
      (n for text in self._texts for n in range(1, len(text)) if self._held.endswith(text[:n])),
      default=0,
    )
    sure = self._held[: len(self._held) - waits]
    self._held = self._held[len(sure) :]
    return sure

  def end(self) -> str:
    """What waited, where no more text comes."""
    held, self._held = self._held, ""
    return held


def pieces(tokenizer: tokenizers.Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
  """The text of tokens in pieces, as `TextStream` gives them, none empty."""
  stream = TextStream(tokenizer)
  for token in tokens:
    if piece := stream.add(token):
      yield piece
  if piece := stream.end():
    yield piece
