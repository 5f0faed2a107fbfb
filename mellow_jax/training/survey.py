"""What a run says of its rows before its first step: texts that are cut, words that are unknown."""

import itertools
from collections.abc import Iterator, Sequence

import tokenizers

from mellow_jax.data import presets, prompts
from mellow_jax.data.pipeline import Preprocessor
from mellow_jax.data.records import Record
from mellow_jax.errors import DataError

SURVEYED = 2000  # rows at the most: a million would take minutes


def faults(name: str, encoder: Preprocessor) -> Iterator[str]:
  """A line for each kind of fault among the first rows of a split, with its remedy.

  Raises DataError naming the row whose texts no tokenizer reads.
  """
  count = min(len(encoder.rows), SURVEYED)
  texts = [_texts(name, encoder, row) for row in itertools.islice(encoder.rows, count)]
  preset, model = presets.PRESETS[encoder.data.preset], encoder.model
  for what, field, end, column in (
    ("questions", "text_tokens", preset.question_end, 0),
    ("answers", "answer_tokens", preset.answer_end, 1),
  ):
    lengths = [_length(encoder, pair[column], end) for pair in texts]
    slots = getattr(model, field)
    if cut := sum(length > slots for length in lengths):
      yield (
        f"{name}: {what} of {cut} of {count} rows are longer than {slots} tokens and are cut: "
        f"shorten them, or give --config.model.{field}={max(lengths)}"
      )
  if unknown := _unknown(encoder.tokenizer, [text for pair in texts for text in pair]):
    yield (
      f"{name}: {len(unknown)} words are unknown to the tokenizer, and read as one and the same: "
      f"{some(unknown)}"
    )


def _texts(name: str, encoder: Preprocessor, row: Record) -> tuple[str, str]:
  """The question and the answer of a row."""
  try:
    pair = encoder.texts(row)
    for text in pair:
      prompts.check(text)
  except ValueError as error:
    raise DataError(f"{name}: row {row.row} (from 0) of {row.subtype}: {error}") from None
  return pair


def _length(encoder: Preprocessor, text: str, end: presets.End) -> int:
  """Tokens of a text with its end."""
  model = encoder.model
  slots = prompts.MAX_CHARACTERS  # as many as a text can have tokens, and more than are ever kept
  return prompts.encode(encoder.tokenizer, text, end, slots, model.pad_id, model.end_id)[1]


def _unknown(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[str]:
  """The words of the texts for which the tokenizer has no token, each once."""
  unknown = getattr(tokenizer.model, "unk_token", None)
  if not unknown:
    return []
  found: dict[str, None] = {}
  for text, encoding in zip(texts, tokenizer.encode_batch(list(texts)), strict=True):
    pairs = zip(encoding.tokens, encoding.offsets, strict=True)
    found |= {text[first:end]: None for token, (first, end) in pairs if token == unknown}
  return [*found]


def some(words: Sequence[str], most: int = 12) -> str:
  """The first words, for a message."""
  return ", ".join(words[:most]) + (", ..." if len(words) > most else "")
