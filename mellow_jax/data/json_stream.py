"""The items of a JSON list, one at a time: a file of any length takes little memory."""

import io
import json
import re
from collections.abc import Iterator

_BLOCK = 2**20  # characters read at a time
_SPACE = " \t\n\r"
_COMMA = re.compile(f"[{_SPACE}]*,")
_AFTER = frozenset(f"{_SPACE},]")  # what may follow an item


class _Text:
  """A file read in blocks; `at_hand` is the text read so far and not yet used."""

  def __init__(self, file: io.TextIOBase):
    self.file, self.at_hand, self.at, self.ended = file, "", 0, False

  def more(self) -> None:
    """Reads on, twice what is at hand: an item that never ends costs no more than its text."""
    block = self.file.read(max(_BLOCK, len(self.at_hand) - self.at))
    self.ended = not block
    self.at_hand, self.at = self.at_hand[self.at :] + block, 0

  def mark(self) -> str:
    """The next character that is no white space; "" at the end."""
    while True:
      while self.at < len(self.at_hand):
        if self.at_hand[self.at] not in _SPACE:
          return self.at_hand[self.at]
        self.at += 1
      if self.ended:
        return ""
      self.more()

  def item(self, decoder: json.JSONDecoder) -> object:
    """The next JSON value. Raises ValueError."""
    while True:
      try:
        value, stop = decoder.raw_decode(self.at_hand, self.at)
      except json.JSONDecodeError as error:
        if self.ended:
          raise ValueError(error.msg) from None
      else:
        # A number near the end of what is at hand may go on: "1" with ".5", "1.5" with "e9".
        if self.ended or self.at_hand[stop : stop + 1] in _AFTER:
          self.at = stop
          return value
      self.more()


def items_of(file: io.TextIOBase, decoder: json.JSONDecoder) -> Iterator[object]:
  """The items of a file that holds one JSON list, as the decoder gives them.

  Raises ValueError, saying what is wrong and after how many items, for what is not one JSON list,
  and UnicodeDecodeError.
  """
  count, text = 0, _Text(file)
  try:
    if text.mark() != "[":
      raise ValueError("it does not begin with '['")
    text.at += 1
    mark = text.mark()
    if mark == "]":
      text.at += 1
    while mark != "]":
      text.mark()
      item = text.item(decoder)
      count += 1
      yield item
      if comma := _COMMA.match(text.at_hand, text.at):  # as of nearly all items
        text.at = comma.end()
        continue
      mark = text.mark()
      if mark not in (",", "]"):
        raise ValueError("no ',' or ']' follows it" if mark else "it ends before its ']'")
      text.at += 1
    if text.mark():
      raise ValueError("something follows its ']'")
  except UnicodeDecodeError:
    raise
  except RecursionError:
    raise ValueError(f"it is nested too deep, after item {count}") from None
  except ValueError as error:
    raise ValueError(f"{error}, after item {count}") from None
