"""One's own clips and what is heard in them, turned into rows of every kind that a caption allows.

A table of captions is a CSV file with a header and a line a caption:

  file      the clip, relative to the audio root
  caption   what is heard, in a few words; a clip may have several lines, and captions
  label     if wanted: the name of its sound; clips of one label are never told apart
  split     if wanted: train, val or test; without it all clips are for training
  question  if wanted: a question of one's own about the clip ...
  answer    ... and its answer; a line may have both a caption and a question

Rows of NAME.csv have the source "name" and these subtypes:

  NAME.json             a row a caption: caption the audio
  NAME-MCQ.json         a row a clip: its label or a caption among those of up to three others
  NAME-Binary.json      two rows a clip: is a caption true of it, one of its own and another's
  NAME-Entailment.json  a row a clip: the same as multiple choice, true or false
  NAME-Difference.json  a row a clip: how it differs from another clip
  NAME-Detail.json      a row a question of one's own

What is false of a clip is drawn from the other clips of its split: one of another label, or without
labels one whose caption shares no word with the clip's captions but such as "a" and "is"; words
count as the same if they begin with the same four letters. That sees no synonyms: labels are safer.
Where there is none, the row is left out, and the report says so. The same table and seed give the
same rows.
"""

import hashlib
import itertools
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mellow_jax.data import records
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa import paper
from mellow_jax.reasonaqa.official import files, sources
from mellow_jax.reasonaqa.official.sources import Dropped, Source
from mellow_jax.reasonaqa.vocabulary import content_words

COLUMNS = ("file", "caption", "label", "split", "question", "answer")
WRONG_OPTIONS = 3  # of a multiple choice, where so many differ
_TRIES = 200  # sounds looked at for those that differ

CHOICE = "what is the primary sound event present in the clip?"
BINARY = "is this true of the clip: {caption}? answer yes or no"
CAPTION = "caption the audio"
DIFFERENCE = "explain the difference in few words"
DIFFERS = "audio 1: {first}, whereas audio 2: {second}."


@dataclass
class Clip:
  """A clip of a table, with all that its lines say."""

  path: str
  line: int  # of the table, the first that names it
  split: str
  label: str
  captions: list[str] = field(default_factory=list)
  questions: list[tuple[int, str, str]] = field(default_factory=list)  # line, question, answer


def read(path: str | os.PathLike) -> list[Clip]:
  """The clips of a table of captions, in its order.

  Raises DataError naming file, line and column where something is missing, unknown or in
  contradiction.
  """
  clips: dict[str, Clip] = {}

  def fail(line: int, fault: str):
    raise DataError(f"{path}, line {line}: {fault}")

  line = 1
  for line, row in files.read(Path(path), ("file", "caption")):
    row = {column: text.strip() for column, text in row.items()}
    for column in row:
      if column not in COLUMNS and not column.startswith("_"):
        known = ", ".join(COLUMNS)
        fail(1, f"column {column!r} is unknown: use {known}, or begin its name with '_'")
    try:
      name = records.relative_path(row["file"])
    except ValueError as error:
      fail(line, f"column 'file' {error}")
    split, label = row.get("split") or "train", row.get("label", "")
    if split not in paper.SPLITS:
      fail(line, f"column 'split' is {split!r}: use {', '.join(paper.SPLITS)}")
    clip = clips.setdefault(name, Clip(name, line, split, label))
    if (clip.split, clip.label) != (split, label):
      fail(line, f"{name} has another split or label than in line {clip.line}")
    question, answer = row.get("question", ""), row.get("answer", "")
    if bool(question) != bool(answer):
      fail(line, "has a question or an answer alone: fill in both or none")
    if question:
      clip.questions.append((line, question, answer))
    if row["caption"] and row["caption"] not in clip.captions:
      clip.captions.append(row["caption"])
    if not (row["caption"] or question):
      fail(line, "has neither a caption nor a question")
  if not clips:
    raise DataError(f"{path}: holds no rows")
  if len({bool(clip.label) for clip in clips.values()}) > 1:
    first = next(clip for clip in clips.values() if not clip.label)
    fail(first.line, f"{first.path} has no label, and others have one: give all one or none")
  return [*clips.values()]


def _sentence(caption: str) -> str:
  return caption if caption.endswith((".", "!", "?")) else f"{caption}."


def _phrase(caption: str) -> str:
  return caption.rstrip(" .")


def _content(captions: Sequence[str]) -> frozenset[str]:
  """What captions speak of: the beginnings of words, so that "barks" is "barking"."""
  return frozenset(word[:4] for caption in captions for word in content_words(caption))


@dataclass
class _Sound:
  """A caption as something that may be said of a clip, and the clips that have it."""

  label: str
  caption: str
  clips: list[Clip] = field(default_factory=list)

  def __post_init__(self):
    self.option = self.label or _phrase(self.caption)
    self.content = _content([self.caption])


class _Row(NamedTuple):
  question: str
  answer: str
  caption: str  # of the clip
  second: str = ""  # path of another clip ...
  caption2: str = ""  # ... and its caption


class _Maker:
  """Makes the rows about clips, with what else is heard in any of them."""

  def __init__(self, clips: Sequence[Clip]):
    sounds: dict[tuple[str, str], _Sound] = {}
    for clip in clips:
      for caption in clip.captions:
        # What many clips have is one sound, or it would be drawn the most.
        key = clip.label, _phrase(caption)
        sounds.setdefault(key, _Sound(clip.label, caption)).clips.append(clip)
    self.sounds = [*sounds.values()]

  def others(self, clip: Clip, rng: np.random.Generator) -> Iterator[_Sound]:
    """Sounds that are not the clip's, in random order."""
    content = _content(clip.captions)
    count = len(self.sounds)
    few = count <= _TRIES
    order = rng.permutation(count) if few else dict.fromkeys(rng.integers(count, size=_TRIES))
    for sound in map(self.sounds.__getitem__, order):
      if clip.label:
        differs = sound.label != clip.label
      else:
        differs = sound.content and sound.content.isdisjoint(content)
      if differs:
        yield sound

  def captions(self, clip: Clip, rng: np.random.Generator) -> list[_Row]:
    """A caption each."""
    return [_Row(CAPTION, _sentence(caption), caption) for caption in clip.captions]

  def choice(self, clip: Clip, rng: np.random.Generator) -> list[_Row]:
    """Which sound is heard, of up to four."""
    caption = _any(clip.captions, rng)
    options, wrong = [clip.label or _phrase(caption)], list[_Sound]()
    for sound in self.others(clip, rng):
      # No two options may say the same of a clip.
      alike = any(not sound.content.isdisjoint(other.content) for other in wrong)
      if sound.option not in options and (clip.label or not alike):
        wrong.append(sound)
        options.append(sound.option)
      if len(wrong) == WRONG_OPTIONS:
        break
    return [_choice(CHOICE, options, rng, caption)] if wrong else []

  def binary(self, clip: Clip, rng: np.random.Generator) -> list[_Row]:
    """Whether a caption of its own is true, and whether another's is."""
    own = _any(clip.captions, rng)
    rows = [_Row(BINARY.format(caption=_phrase(own)), "yes", own)]
    for other in itertools.islice(self.others(clip, rng), 1):
      rows.append(_Row(BINARY.format(caption=_phrase(other.caption)), "no", own))
    return rows

  def entailment(self, clip: Clip, rng: np.random.Generator) -> list[_Row]:
    """A hypothesis, as often true as false, where another sound is found."""
    own = _any(clip.captions, rng)
    other = next(self.others(clip, rng), None)
    if other is None:
      return []
    # A caption cannot tell what is plausible; it stands there to be chosen wrongly.
    verdicts = [sources.TRUE, sources.FALSE, sources.PLAUSIBLE]
    said = own
    if rng.random() < 0.5:
      said = other.caption
      verdicts = [sources.FALSE, sources.TRUE, sources.PLAUSIBLE]
    question = sources.HYPOTHESIS.format(hypothesis=_phrase(said))
    return [_choice(question, verdicts, rng, own)]

  def difference(self, clip: Clip, rng: np.random.Generator) -> list[_Row]:
    """How it differs from a clip of another sound."""
    own = _any(clip.captions, rng)
    other = next(self.others(clip, rng), None)
    if other is None:
      return []
    answer = DIFFERS.format(first=_phrase(own), second=_phrase(other.caption))
    return [_Row(DIFFERENCE, answer, own, _any(other.clips, rng).path, other.caption)]


def _any(values: Sequence, rng: np.random.Generator):
  return values[int(rng.integers(len(values)))]


def _choice(stem: str, options: list[str], rng: np.random.Generator, caption: str) -> _Row:
  """A multiple choice in random order; the first option is the right one."""
  order = rng.permutation(len(options)).tolist()
  listed = sources.lettered([options[i] for i in order])
  return _Row(" ".join([stem, *listed]), listed[order.index(0)], caption)


def rows(
  path: str | os.PathLike,
  clips: Sequence[Clip],
  split: str,
  seed: int,
  absent: Container[str] = (),
) -> list[Source]:
  """The rows of a table's clips of a split, a Source a kind; none about clips that are absent."""
  name = Path(path).stem
  clips = [clip for clip in clips if clip.split == split]
  heard = [clip for clip in clips if clip.captions]
  make = _Maker([clip for clip in heard if clip.path not in absent])
  kinds = {
    "": (make.captions, "captions", 1),
    "-MCQ": (make.choice, "clips", 1),
    "-Binary": (make.binary, "clips, a caption true and one false", 2),
    "-Entailment": (make.entailment, "clips", 1),
    "-Difference": (make.difference, "clips", 1),
  }
  found = []
  for kind, (method, unit, each) in kinds.items():
    source = Source(
      dataset=name + kind, split=split, file=os.fspath(path), unit=unit, each=each, read=len(heard)
    )
    if method == make.captions:
      source.read = sum(len(clip.captions) for clip in heard)
    for clip in heard:
      if clip.path in absent:
        rows_lost = len(clip.captions) if method == make.captions else each
        source.dropped.append(Dropped(clip.path, clip.line, sources.NO_AUDIO, rows_lost))
        continue
      # Of the clip and the kind alone, whatever rows there are beside.
      said = hashlib.sha256(f"{seed} {kind} {clip.path}".encode()).digest()
      made = method(clip, np.random.default_rng(np.frombuffer(said, np.uint32)))
      for row in made:
        source.add(
          clip.line,
          row.question,
          row.answer,
          taskname=name.lower(),
          clips=(clip.path, row.second),
          captions=(row.caption, row.caption2),
        )
      if len(made) < each:
        reason = "no other clip of the split sounds different enough"
        source.dropped.append(Dropped(clip.path, clip.line, reason, each - len(made)))
    found.append(source)
  details = Source(
    dataset=f"{name}-Detail", split=split, file=os.fspath(path), unit="questions", each=1
  )
  for clip in clips:
    for line, question, answer in clip.questions:
      details.read += 1
      if clip.path in absent:
        details.dropped.append(Dropped(clip.path, line, sources.NO_AUDIO, 1))
        continue
      details.add(
        line,
        question,
        answer,
        taskname=name.lower(),
        clips=(clip.path, ""),
        captions=(clip.captions[0] if clip.captions else "", ""),
      )
  return [source for source in [*found, details] if source.read]
