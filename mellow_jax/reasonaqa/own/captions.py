"""Turns a user's clips and captions into rows of every kind that captions allow.

A table of captions is a CSV file with a header and a line a caption:

  file      the clip, relative to the audio root
  caption   what is heard, in a few words; a clip may have several lines, and captions
  label     optional: the name of its sound; clips of one label are never told apart
  split     optional: train, val or test; without it all clips are for training
  question  optional: a question about the clip ...
  answer    ... and its answer; a line may have both a caption and a question

Rows of NAME.csv have the source "name" and these subtypes:

  NAME.json             a row per caption: caption the audio
  NAME-MCQ.json         a row per clip: its label or a caption among those of up to three others
  NAME-Binary.json      two rows per clip: is a caption true of it, one of its own and another's
  NAME-Entailment.json  a row per clip: the same as multiple choice, true or false
  NAME-Difference.json  a row per clip: how it differs from another clip
  NAME-Detail.json      a row per question of the table

What is false of a clip comes from the other clips of its split: one of another label, or without
labels one whose caption shares no content word with the clip's captions; words count as equal if
their first four letters are. Synonyms are not recognised: labels are safer. Where there is no such
clip, the row is left out and reported. The same table and seed give the same rows.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from mellow_jax.data import choices, records, tables
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.official import sources
from mellow_jax.reasonaqa.source_rows import NO_AUDIO, SourceRows
from mellow_jax.reasonaqa.splits import SPLITS
from mellow_jax.reasonaqa.vocabulary import content_words

COLUMNS = ("file", "caption", "label", "split", "question", "answer")
WRONG_OPTIONS = 3  # of a multiple choice, where so many differ
_MOST_CANDIDATES = 200  # sounds tried for those that differ

CHOICE = "what is the primary sound event present in the clip?"
BINARY = "is this true of the clip: {caption}? answer yes or no"
CAPTION = "caption the audio"
DIFFERENCE = "explain the difference in few words"
DIFFERS = "audio 1: {first}, whereas audio 2: {second}."


@dataclass
class CaptionedClip:
  """A clip of a table, with the captions and questions of its lines."""

  path: str
  line: int  # of the table, the first that names it: `tables.Row.number`
  place: str  # the same for messages
  split: str
  label: str
  captions: list[str] = field(default_factory=list)
  questions: list[tuple[int, str, str]] = field(default_factory=list)  # line, question, answer


def read(path: str | os.PathLike) -> list[CaptionedClip]:
  """The clips of a table of captions, in its order and in any form that `tables` reads.

  Raises DataError naming file, place and column where something is missing, unknown or
  contradictory.
  """
  table, clips = tables.scan(path), dict[str, CaptionedClip]()
  if table.columns is not None:
    _check_columns(path, "line 1", table.columns)

  def add(number: int, row: tables.Row) -> None:
    if fault := tables.shape_fault(row.fields):
      _fail(path, row.place, fault)
    fields = {name: "" if text is None else text for name, text in row.fields.items()}
    if table.columns is None:
      _check_columns(path, row.place, (*fields,))
    for name, text in fields.items():
      if not isinstance(text, str) and not name.startswith("_"):
        _fail(path, row.place, f"column {name!r} is {tables.name_of(text)}: write it as text")
    texts = {name: text.strip() for name, text in fields.items() if isinstance(text, str)}
    _add_line(path, clips, row, texts)

  tables.each(path, table.rows, add)
  if len({bool(clip.label) for clip in clips.values()}) > 1:
    first = next(clip for clip in clips.values() if not clip.label)
    fault = f"{first.path} has no label, and others have one: give all one or none"
    _fail(path, first.place, fault)
  return [*clips.values()]


def _check_columns(path: str | os.PathLike, place: str, columns: Sequence[str]) -> None:
  for column in columns:
    if column not in COLUMNS and not column.startswith("_"):
      known = ", ".join(COLUMNS)
      _fail(path, place, f"column {column!r} is unknown: use {known}, or begin its name with '_'")
  for column in ("file", "caption"):
    if column not in columns:
      _fail(path, place, f"column {column!r} is missing")


def _fail(path: str | os.PathLike, place: str, fault: str) -> NoReturn:
  raise DataError(f"{path}, {place}: {fault}")


def _add_line(
  path: str | os.PathLike, clips: dict[str, CaptionedClip], line: tables.Row, row: dict[str, str]
) -> None:
  try:
    name = records.relative_path(row["file"])
  except ValueError as error:
    _fail(path, line.place, f"column 'file' {error}")
  split, label = row.get("split") or "train", row.get("label", "")
  if split not in SPLITS:
    _fail(path, line.place, f"column 'split' is {split!r}: use {', '.join(SPLITS)}")
  clip = clips.setdefault(name, CaptionedClip(name, line.number, line.place, split, label))
  if (clip.split, clip.label) != (split, label):
    _fail(path, line.place, f"{name} has another split or label than in {clip.place}")
  caption, question, answer = (row.get(column, "") for column in ("caption", "question", "answer"))
  if bool(question) != bool(answer):
    _fail(path, line.place, "has a question or an answer alone: fill in both or none")
  if not (caption or question):
    _fail(path, line.place, "has neither a caption nor a question")
  if question:
    clip.questions.append((line.number, question, answer))
  if caption and caption not in clip.captions:
    clip.captions.append(caption)


# --- Rows about captions -------------------------------------------------------------------------


def _sentence(caption: str) -> str:
  return caption if caption.endswith((".", "!", "?")) else f"{caption}."


def _phrase(caption: str) -> str:
  return caption.rstrip(" .")


def _stems(captions: Sequence[str]) -> frozenset[str]:
  """The first letters of the content words of captions, so that "barks" is "barking"."""
  return frozenset(word[:4] for caption in captions for word in content_words(caption))


@dataclass
class _Sound:
  """A caption as an option or a statement, and the clips that have it."""

  label: str
  caption: str
  clips: list[CaptionedClip] = field(default_factory=list)

  def __post_init__(self):
    self.option = self.label or _phrase(self.caption)
    self.stems = _stems([self.caption])


class _Row(NamedTuple):
  question: str
  answer: str
  caption: str  # of the clip
  clip2: str = ""  # path of another clip ...
  caption2: str = ""  # ... and its caption


class _RowMaker:
  """Makes rows about a clip, with the sounds of other clips as what is false of it."""

  def __init__(self, clips: Sequence[CaptionedClip]):
    sounds: dict[tuple[str, str], _Sound] = {}
    for clip in clips:
      for caption in clip.captions:
        # A caption of many clips is one sound, or it would be chosen most often.
        key = clip.label, _phrase(caption)
        sounds.setdefault(key, _Sound(clip.label, caption)).clips.append(clip)
    self.sounds = [*sounds.values()]

  def others(self, clip: CaptionedClip, rng: np.random.Generator) -> Iterator[_Sound]:
    """Sounds that the clip does not have, in random order."""
    stems, count = _stems(clip.captions), len(self.sounds)
    if count <= _MOST_CANDIDATES:
      order = rng.permutation(count)
    else:
      order = dict.fromkeys(rng.integers(count, size=_MOST_CANDIDATES))
    for sound in map(self.sounds.__getitem__, order):
      if clip.label:
        differs = sound.label != clip.label
      else:
        differs = sound.stems and sound.stems.isdisjoint(stems)
      if differs:
        yield sound

  def captions(self, clip: CaptionedClip, rng: np.random.Generator) -> list[_Row]:
    """A row per caption."""
    return [_Row(CAPTION, _sentence(caption), caption) for caption in clip.captions]

  def choice(self, clip: CaptionedClip, rng: np.random.Generator) -> list[_Row]:
    """A question for the sound in the clip, with up to four options."""
    caption = _any(clip.captions, rng)
    options, wrong = [clip.label or _phrase(caption)], list[_Sound]()
    for sound in self.others(clip, rng):
      # No two options may describe the same sound.
      alike = any(not sound.stems.isdisjoint(other.stems) for other in wrong)
      if sound.option not in options and (clip.label or not alike):
        wrong.append(sound)
        options.append(sound.option)
      if len(wrong) == WRONG_OPTIONS:
        break
    return [_Row(*choices.multiple_choice(CHOICE, options, rng), caption)] if wrong else []

  def binary(self, clip: CaptionedClip, rng: np.random.Generator) -> list[_Row]:
    """Whether one of its own captions is true, and whether another clip's is."""
    own = _any(clip.captions, rng)
    rows = [_Row(BINARY.format(caption=_phrase(own)), "yes", own)]
    for other in itertools.islice(self.others(clip, rng), 1):
      rows.append(_Row(BINARY.format(caption=_phrase(other.caption)), "no", own))
    return rows

  def entailment(self, clip: CaptionedClip, rng: np.random.Generator) -> list[_Row]:
    """A hypothesis, true or false with equal chance."""
    own, other = _any(clip.captions, rng), next(self.others(clip, rng), None)
    if other is None:
      return []
    # No caption is known to be plausible alone: that verdict is always a wrong option.
    hypothesis, verdicts = own, [choices.TRUE, choices.FALSE, choices.PLAUSIBLE]
    if rng.random() < 0.5:
      hypothesis, verdicts = other.caption, [choices.FALSE, choices.TRUE, choices.PLAUSIBLE]
    question = sources.HYPOTHESIS.format(hypothesis=_phrase(hypothesis))
    return [_Row(*choices.multiple_choice(question, verdicts, rng), own)]

  def difference(self, clip: CaptionedClip, rng: np.random.Generator) -> list[_Row]:
    """How it differs from a clip of another sound."""
    own, other = _any(clip.captions, rng), next(self.others(clip, rng), None)
    if other is None:
      return []
    answer = DIFFERS.format(first=_phrase(own), second=_phrase(other.caption))
    return [_Row(DIFFERENCE, answer, own, _any(other.clips, rng).path, other.caption)]


def _any(values: Sequence, rng: np.random.Generator):
  return values[int(rng.integers(len(values)))]


# --- Rows of a table -----------------------------------------------------------------------------


def rows(
  path: str | os.PathLike,
  clips: Sequence[CaptionedClip],
  split: str,
  seed: int,
  absent: Container[str] = (),
) -> list[SourceRows]:
  """The rows of a table's clips of a split, by kind; none about clips that are absent."""
  name = Path(path).stem
  clips = [clip for clip in clips if clip.split == split]
  captioned = [clip for clip in clips if clip.captions]
  make = _RowMaker([clip for clip in captioned if clip.path not in absent])

  def source(kind: str, unit: str, each: int, read: int) -> SourceRows:
    return SourceRows(
      dataset=name + kind, split=split, file=os.fspath(path), unit=unit, each=each, read=read
    )

  captions = sum(len(clip.captions) for clip in captioned)
  kinds = (
    (make.captions, source("", "captions", 1, captions)),
    (make.choice, source("-MCQ", "clips", 1, len(captioned))),
    (make.binary, source("-Binary", "clips, a caption true and one false", 2, len(captioned))),
    (make.entailment, source("-Entailment", "clips", 1, len(captioned))),
    (make.difference, source("-Difference", "clips", 1, len(captioned))),
  )
  for method, found in kinds:
    _add_rows(found, found.dataset.removeprefix(name), method, captioned, seed, absent)
  questions = source("-Detail", "questions", 1, sum(len(clip.questions) for clip in clips))
  _add_questions(questions, clips, absent)
  return [found for found in (*(found for _, found in kinds), questions) if found.read]


def _add_rows(
  found: SourceRows,
  kind: str,
  make: Callable[[CaptionedClip, np.random.Generator], list[_Row]],
  clips: Sequence[CaptionedClip],
  seed: int,
  absent: Container[str],
) -> None:
  """Adds the rows of a kind about each clip."""
  for clip in clips:
    expected = found.each if kind else len(clip.captions)
    if clip.path in absent:
      found.drop(clip.path, clip.line, NO_AUDIO, expected)
      continue
    # It depends on the clip and the kind alone, whatever other rows there are.
    digest = hashlib.sha256(f"{seed} {kind} {clip.path}".encode()).digest()
    rows = make(clip, np.random.default_rng(np.frombuffer(digest, np.uint32)))
    for row in rows:
      found.add(clip.line, taskname=_taskname(found), clip=clip.path, **row._asdict())
    if len(rows) < expected:
      reason = "no other clip of the split sounds different enough"
      found.drop(clip.path, clip.line, reason, expected - len(rows))


def _add_questions(
  found: SourceRows, clips: Sequence[CaptionedClip], absent: Container[str]
) -> None:
  """Adds the table's own questions."""
  for clip in clips:
    caption = clip.captions[0] if clip.captions else ""
    for line, question, answer in clip.questions:
      if clip.path in absent:
        found.drop(clip.path, line, NO_AUDIO, 1)
      else:
        task = _taskname(found)
        found.add(line, question, answer, taskname=task, clip=clip.path, caption=caption)


def _taskname(found: SourceRows) -> str:
  return Path(found.file).stem.lower()
