"""What one should know of answers: text that was cut or unknown, clips without sound.

An answer carries its notes; a command counts them and says each kind once a run.
"""

import collections
import logging
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from mellow_jax.data import audio
from mellow_jax.data.audio import Clip
from mellow_jax.data.prompts import Unread

SHORT_SECONDS = 0.32  # one of the 32 steps that HTSAT makes of a clip
logger = logging.getLogger("mellow_jax")
_SHOWN = 60  # characters of the first case

NoteKind = Literal[
  "question_cut",
  "unknown_words",
  "option_cut",
  "unknown_option_words",
  "descriptions_dropped",
  "clip_cut",
  "silent_clip",
  "short_clip",
  "answer_unfinished",
  "empty_answer",
]
SAYS: dict[NoteKind, str] = {
  "question_cut": "questions cut to fit the model",
  "unknown_words": "questions with words that the tokenizer does not know",
  "option_cut": "questions with options cut to fit the model",
  "unknown_option_words": "questions with options of which the tokenizer does not know some words",
  "descriptions_dropped": "questions too long for the descriptions of their options",
  "clip_cut": "clips of which a part is heard",
  "silent_clip": "silent clips",
  "short_clip": f"clips shorter than {SHORT_SECONDS} s",
  "answer_unfinished": "answers that --max_new_tokens ended",
  "empty_answer": "empty answers",
}


OF_ANSWERS: tuple[NoteKind, ...] = ("answer_unfinished", "empty_answer")


class Note(NamedTuple):
  """One thing to know of an answer."""

  kind: NoteKind
  detail: str  # such as "93 tokens, 24 are read"; "" where the kind says it all


def quoted(text: str) -> str:
  """A text for a message, both of its ends where it is long: options often begin alike."""
  shown = reprlib.Repr()
  shown.maxstring = 50
  return shown.repr(text)


def describe(clip: Clip) -> str:
  """The part of a clip that the model gets."""
  end = clip.start_seconds + clip.seconds_used
  return f"{clip.start_seconds:.1f}-{end:.1f} s of {clip.total_seconds:.1f} s"


def of_clips(clips: Iterable[Clip]) -> Iterator[Note]:
  """Notes on the clips of a question, on a clip that stands in both slots once."""
  for clip in {id(clip): clip for clip in clips}.values():
    if clip.seconds_used < clip.total_seconds:
      yield Note("clip_cut", describe(clip))
    if clip.wav.max() - clip.wav.min() <= 2 * audio.SILENT_SWING:
      yield Note("silent_clip", "")
    if clip.total_seconds < SHORT_SECONDS:
      yield Note("short_clip", f"{clip.total_seconds:.3g} s")


def of_question(unread: Unread) -> Iterator[Note]:
  """Notes on what the model does not read of a question."""
  if unread.over:
    yield Note("question_cut", f"{unread.tokens} tokens, {unread.tokens - unread.over} are read")
  if unread.unknown:
    yield Note("unknown_words", ", ".join(dict.fromkeys(unread.unknown)))


def of_options(options: Sequence[str], unread: Sequence[Unread]) -> Iterator[Note]:
  """Notes on what the model does not read of the options of a question."""
  cut = [(text, found) for text, found in zip(options, unread, strict=True) if found.over]
  if cut:
    text, found = cut[0]
    read = f"{found.tokens} tokens, {found.tokens - found.over} are read"
    more = f", and {len(cut) - 1} more options" if cut[1:] else ""
    yield Note("option_cut", f"{read} of {quoted(text)}{more}")
  if unknown := dict.fromkeys(word for found in unread for word in found.unknown):
    yield Note("unknown_option_words", ", ".join(unknown))


def of_answer(text: str, is_cut: bool) -> Iterator[Note]:
  """Notes on an answer, which is cut where it has max_new_tokens."""
  if is_cut:
    yield Note("answer_unfinished", "")
  if not text:
    yield Note("empty_answer", "")


class NoteCounts:
  """Counts the notes of a run; all_windows: of every window of a clip, so that none is cut."""

  def __init__(self, *, all_windows: bool = False):
    self.answers, self._counts = 0, collections.Counter[NoteKind]()
    self._ignored = {"clip_cut"} if all_windows else set()
    self._first: dict[NoteKind, str] = {}

  def add(self, where: str, notes: Iterable[Note]) -> None:
    """Adds the notes of an answer; where says which."""
    self.answers += 1
    for kind, detail in dict(notes).items():
      if kind in self._ignored:
        continue
      self._counts[kind] += 1
      self._first.setdefault(kind, f"{where}: {detail}" if detail else where)

  def lines(self) -> list[str]:
    """A line for each kind that was met: how often, and the first case."""
    return [
      f"{SAYS[kind]}: {self._counts[kind]} of {self.answers}, first {_short(self._first[kind])}"
      for kind in get_args(NoteKind)
      if kind in self._counts
    ]

  def say(self) -> None:
    """Logs the lines."""
    for line in self.lines():
      logger.warning(line)


def _short(text: str) -> str:
  text = " ".join(text.split())
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
