"""Kinds of faults of rows and clips, and the checks of one row's texts and one clip's samples."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mellow_jax.data import audio, choices, presets, prompts, tokenizer
from mellow_jax.data.presets import Preset
from mellow_jax.data.records import FIELDS
from mellow_jax.errors import AudioError

# Kinds of faults and their descriptions. Those of audio.REASONS are the reader's own.
OF_ROWS = {
  "malformed": "no row of the schema",
  "bad_path": "a path that is none below the audio root",
  "empty_question": "an empty question",
  "empty_answer": "an empty answer",
  "answer_not_an_option": "an answer that is none of the question's options",
  "caption_sentence": "captions of which the preset can make no answer",
  "question_over_tokens": "a question that is cut to fit the model",
  "answer_over_tokens": "an answer that is cut to fit the model",
  "duplicate_row": "says what an earlier row of its file says",
  "row_in_later_file": "says what a row of a later file says",
}
OF_CLIPS = {
  **dict.fromkeys(audio.REASONS, "an audio file that cannot be used"),
  "peak_over_1": "samples beyond full scale, as lossy formats may decode to",
  "peak_over_2": "samples far beyond full scale",
  "silent": "no sound",
  "too_short": "less sound than --min_seconds",
  "duplicate_clip": "sounds as an earlier clip of its file does, to the last sample",
  "clip_in_later_file": "is heard in a later file as well",
}
OVER_TOKENS = ("question_over_tokens", "answer_over_tokens")

_EMPTY = {"input": "empty_question", "answer": "empty_answer"}
_PATHS = ("filepath1", "filepath2")
_INPUT, _ANSWER, _CAPTION2 = (FIELDS.index(name) for name in ("input", "answer", "caption2"))


class Fault(NamedTuple):
  """A fault's kind, and a message with its details."""

  kind: str
  message: str


# --- Texts ---------------------------------------------------------------------------------------


def of_schema(found: Sequence[tuple[str, str]]) -> Iterator[Fault]:
  """The kinds of the faults that `records.scan` found, given as (field, message)."""
  for name, message in found:
    kind = "malformed"
    if message.startswith("is empty") and name in _EMPTY:
      kind = _EMPTY[name]
    elif name in _PATHS and "characters" not in message and "surrogate" not in message:
      kind = "bad_path"
    yield Fault(kind, f"field {name!r} {message}" if name else message)


def of_options(question: str, answer: str) -> Iterator[Fault]:
  """A fault where the question lists options, and the answer is none of them.

  An answer may be an option with its letter, its text or its letter alone.
  """
  _, options = choices.split_options(question)
  if options and choices.choose(options, answer, agree=True) is None:
    yield Fault("answer_not_an_option", f"answer {answer[:80]!r} is none of {len(options)} options")


def of_captions(fields: Sequence[str], preset: Preset) -> Iterator[Fault]:
  """A fault where the preset can make no answer of a row's captions."""
  if fault := prompts.caption_fault(*(fields[i] for i in (_INPUT, _ANSWER, _CAPTION2)), preset):
    yield Fault("caption_sentence", fault)


class TokenLimits:
  """Finds texts with more tokens than the model has slots, in batches, and counts unknown words."""

  def __init__(self, path: str, preset: str, text_tokens: int, answer_tokens: int):
    """path is a tokenizer.json or its folder. Raises CheckpointError where none is there."""
    self.tokenizer = tokenizer.load_tokenizer(path)
    self.preset = presets.PRESETS[preset]
    self.slots = {"question_over_tokens": text_tokens, "answer_over_tokens": answer_tokens}
    self.unknown_id = prompts.unknown_id(self.tokenizer)
    self.unknown = Counter[str]()  # words that the tokenizer does not know, and how often
    self.waiting: list[tuple[Any, str, str]] = []  # (row, kind, text with its end)

  def add(self, row: Any, fields: Sequence[str]) -> None:
    """Adds the texts of a row's fields; `row` is any value that names it."""
    preset = self.preset
    question, answer, second = fields[_INPUT], fields[_ANSWER], fields[_CAPTION2]
    # A token is at least a byte: short texts fit, with all that a preset adds.
    every = self.unknown_id is not None
    if every or not question.isascii() or len(question) + 16 > self.slots["question_over_tokens"]:
      text = prompts.question(question, preset)
      self._add(row, "question_over_tokens", text, preset.question_end)
    if (
      every
      or not answer.isascii()
      or len(answer) + 64 > self.slots["answer_over_tokens"] - len(second)
    ):
      task = prompts.task_of(question)
      text = prompts.answer(answer, preset, task=task, training=True, second=second)
      self._add(row, "answer_over_tokens", text, preset.answer_end)

  def _add(self, row: Any, kind: str, text: str, end: presets.End) -> None:
    ends = {"none": "", "string": " <|endoftext|>", "token": "<|endoftext|>"}
    self.waiting.append((row, kind, text + ends[end]))

  def faults(self) -> Iterator[tuple[Any, Fault]]:
    """(row, fault) for each text over its limit among those added since the last call."""
    batch, self.waiting = self.waiting, []
    texts = [text for _, _, text in batch]
    encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
    for (row, kind, text), encoding in zip(batch, encoded, strict=True):
      count, slots = len(encoding), self.slots[kind]
      if count > slots:
        yield row, Fault(kind, f"{count} tokens with its end, where {slots} fit")
      if self.unknown_id in encoding.ids:
        places = zip(encoding.ids, encoding.offsets, strict=True)
        self.unknown.update(text[a:b].lower() for i, (a, b) in places if i == self.unknown_id)


# --- Clips ---------------------------------------------------------------------------------------


def of_clips(
  root: str, paths: Sequence[str], min_seconds: float
) -> list[tuple[list[Fault], bytes | None]]:
  """The faults of audio files, and the digest of the samples of each that can be decoded."""
  found = []
  for path in paths:
    try:
      clip = audio.survey(Path(root) / path)
    except AudioError as error:
      found.append(([Fault(error.reason, str(error))], None))
      continue
    faults = []
    if clip.peak > 1:
      kind = "peak_over_2" if clip.peak > audio.LOUD_AMPLITUDE else "peak_over_1"
      faults.append(Fault(kind, f"peak {clip.peak:.4g}"))
    if clip.swing <= audio.SILENT_SWING:
      faults.append(Fault("silent", f"peak {clip.peak:.2g}"))
    if clip.seconds < min_seconds:
      faults.append(Fault("too_short", f"{clip.seconds:.3g} s, less than {min_seconds:g}"))
    found.append((faults, clip.digest))
  return found
