"""Reads the official files of ReasonAQA's sources into rows of the published schema.

A reader takes a folder that holds the files, at any depth and under their published names, and a
split, "train", "val" or "test". It returns the rows, with all that no row was made of:

  source = sources.read("CLE", folder, "test")
  source.rows, source.dropped

| dataset | files | a row of the file becomes |
|---|---|---|
| AudioCaps | {train,val,test}.csv below a folder audiocaps*, not its dataset2.0 | a caption row |
| Clotho | clotho_captions_{development,validation,evaluation}.csv | five caption rows |
| ClothoAQA | clotho_aqa_{train,val,test}.csv or binary_{train,val,test}_eng.csv | a yes/no row |
| CLE | clotho_entailment_{development,validation,evaluation}.csv | three multiple choices |
| ACE | audiocaps_entailment_test.csv | three multiple choices |
| CLD-1 to 3 | cld_{development,...}_adiff_{fewwords,sentence,detail}_answer.csv | a row |
| ACD-1 to 3 | acd_{train,val,test}_adiff_{fewwords,sentence,detail}_answer.csv | a row |

A row's subtype is its dataset with ".json", as in the published files. Clips are named as there:
AudioCapsLarger/<split>/Y<video>.wav and ClothoV21/<part>/<name>; those of ClothoAQA, which are of
another release, as its archive unpacks in a folder of that name: ClothoAQA/audio_files/<name>.

As in the paper, all but the first of each clip's validation captions of AudioCaps are left out, and
rows of CLE whose clip's name is not one of Clotho's. Not all published files were at hand, so some
texts follow our reading of the paper: captions have the prompt key "caption first audio", yes and
no are in lower case, and a row of CLE has the first of its five captions.

ClothoAQA splits Clotho's clips in its own way: by their names, 289 of its 1174 training clips are
test clips of Clotho. They stay, as in the paper; `check` lists those with the same samples.
"""

import ast
import functools
import html
import os
from collections.abc import Callable, Iterator

from mellow_jax import files
from mellow_jax.data import choices, records, tables
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.official import locations
from mellow_jax.reasonaqa.official.locations import MissingSource
from mellow_jax.reasonaqa.source_rows import SourceRows, clips_of
from mellow_jax.reasonaqa.splits import SPLITS

_CLOTHO = {"train": "development", "val": "validation", "test": "evaluation"}
_TIERS = {"1": "fewwords", "2": "sentence", "3": "detail"}

CAPTION = "caption first audio"  # the prompt key of caption rows
HYPOTHESIS = 'Based on the audio, what can be said about the hypothesis - "{hypothesis}"?'
_ENTAILMENT = {
  "Entailment": choices.TRUE,
  "Neutral": choices.PLAUSIBLE,
  "Contradiction": choices.FALSE,
}


def _find(
  folder: str | os.PathLike, dataset: str, split: str, *names: str, unit: str, each: int
) -> SourceRows:
  """The dataset's file, which has one of the names, without its rows yet."""
  file = str(locations.find(folder, dataset, [*names]))
  return SourceRows(dataset=dataset, split=split, file=file, unit=unit, each=each)


def _read(source: SourceRows, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
  """(line, fields) of each row of a source's file, which are counted."""
  remedy = "get the file again (Git LFS or an error page may have left another in its place)"
  for row in tables.read(source.file, columns=columns, remedy=remedy):
    source.read += 1
    yield row.number, row.fields


# --- Captions ------------------------------------------------------------------------------------


def audiocaps_path(video: str, split: str) -> str:
  """The path of a clip of AudioCaps, by its name with the leading Y."""
  return f"AudioCapsLarger/{split}/{video}.wav"


def clotho_path(name: str, split: str) -> str:
  """The path of a clip of Clotho, by its file's name."""
  return f"ClothoV21/{_CLOTHO[split]}/{name}"


def audiocaps(folder: str | os.PathLike, split: str) -> SourceRows:
  """Captions of AudioCaps. Raises DataError."""
  source = _find(folder, "AudioCaps", split, f"{split}.csv", unit="rows of one caption", each=1)
  seen = set()
  for line, row in _read(source, ("youtube_id", "caption")):
    clip = audiocaps_path(f"Y{row['youtube_id']}", split)
    if split == "val" and clip in seen:
      reason = "not its clip's first caption, of which the paper keeps one for validation"
      source.drop(clip, line, reason, 1)
      continue
    seen.add(clip)
    caption = row["caption"]
    source.add(line, CAPTION, caption, taskname="audiocaps", clip=clip, caption=caption)
  return source


def clotho(folder: str | os.PathLike, split: str) -> SourceRows:
  """Captions of Clotho v2.1. Raises DataError."""
  file = f"clotho_captions_{_CLOTHO[split]}.csv"
  source = _find(folder, "Clotho", split, file, unit="clips of five captions", each=5)
  columns = tuple(f"caption_{i}" for i in range(1, 6))
  for line, row in _read(source, ("file_name", *columns)):
    clip = clotho_path(row["file_name"], split)
    for caption in map(row.__getitem__, columns):
      source.add(line, CAPTION, caption, taskname="clothov21", clip=clip, caption=caption)
  return source


def clotho_names(folder: str | os.PathLike, split: str) -> set[str]:
  """The names of Clotho's clips, from its captions or from a list {"train": [...], ...}.

  The list is a file_names.json below a folder clotho. Raises MissingSource without either.
  """
  try:
    path = locations.find(folder, "Clotho", [f"clotho_captions_{_CLOTHO[split]}.csv"])
  except MissingSource:
    path = locations.find(folder, "Clotho", ["clotho/file_names.json"])
    return set(files.read_json(path, "a list of Clotho's clips")[split])
  return {row.fields["file_name"] for row in tables.read(path, columns=("file_name",))}


# --- Questions -----------------------------------------------------------------------------------


def clothoaqa(folder: str | os.PathLike, split: str) -> SourceRows:
  """Yes/no questions of ClothoAQA, a row per annotator as published. Raises DataError."""
  names = f"clotho_aqa_{split}.csv", f"binary_{split}_eng.csv"
  source = _find(folder, "ClothoAQA", split, *names, unit="answers", each=1)
  for line, row in _read(source, ("file_name", "QuestionText", "answer")):
    clip, answer = f"ClothoAQA/audio_files/{row['file_name']}", row["answer"].strip().lower()
    if answer and answer not in ("yes", "no"):
      source.drop(clip, line, "the answer is neither yes nor no", 1)
      continue
    question = row["QuestionText"]
    source.add(line, question, answer, taskname="clothoaqa", clip=clip)
  return source


def _entailment(source: SourceRows, taskname: str, clip: str, caption: str, line: int, row: dict):
  """Adds a true, a plausible and a false hypothesis, as multiple choices."""
  verdicts = [*choices.VERDICTS]
  options = choices.lettered(verdicts)
  for column, verdict in _ENTAILMENT.items():
    if not row[column].strip():
      source.drop(clip, line, f"the {column.lower()} is empty", 1)
      continue
    question = " ".join([HYPOTHESIS.format(hypothesis=row[column]), *options])
    answer = options[verdicts.index(verdict)]
    source.add(line, question, answer, taskname=taskname, clip=clip, caption=caption)


def _captions(path: str, line: int, text: str) -> list[str]:
  """The captions of a cell that holds one, or a list of them as Python writes it."""
  if not text.lstrip().startswith("["):
    return [text]
  try:
    found = ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    found = []
  if not found or not all(isinstance(caption, str) for caption in found):
    raise DataError(f"{path}, line {line}: column 'Caption' holds no list of captions")
  return found


def cle(folder: str | os.PathLike, split: str) -> SourceRows:
  """Hypotheses about Clotho's clips, of Audio Entailment. Raises DataError.

  It needs the names of Clotho's clips beside it.
  """
  file = f"clotho_entailment_{_CLOTHO[split]}.csv"
  source = _find(folder, "CLE", split, file, unit="clips of three hypotheses", each=3)
  names = clotho_names(folder, split)
  # Freesound's names hold "&amp;" and the like; one copy of Clotho may, and another may not.
  plain = {html.unescape(name): name for name in names}
  for line, row in _read(source, ("Audio file", "Caption", *_ENTAILMENT)):
    name = row["Audio file"]
    if (known := plain.get(html.unescape(name))) is None:
      source.drop(name, line, "no clip of Clotho has this name", 3)
      continue
    caption = _captions(source.file, line, row["Caption"])[0]
    _entailment(source, "clothov21", clotho_path(known, split), caption, line, row)
  return source


def ace(folder: str | os.PathLike, split: str) -> SourceRows:
  """Hypotheses about AudioCaps' test clips, of Audio Entailment. Raises DataError."""
  file = f"audiocaps_entailment_{split}.csv"
  source = _find(folder, "ACE", split, file, unit="captions of three hypotheses", each=3)
  for line, row in _read(source, ("Audio file", "Caption", *_ENTAILMENT)):
    caption = _captions(source.file, line, row["Caption"])[0]
    clip = audiocaps_path(row["Audio file"], split)
    _entailment(source, "audiocaps", clip, caption, line, row)
  return source


def _adiff(folder: str | os.PathLike, split: str, dataset: str) -> SourceRows:
  """A tier of the differences of ADIFF, which has ReasonAQA's columns but the subtype."""
  kind, tier = dataset.split("-")
  part = _CLOTHO[split] if kind == "CLD" else split
  file = f"{kind.lower()}_{part}_adiff_{_TIERS[tier]}_answer.csv"
  source = _find(folder, dataset, split, file, unit="pairs of clips", each=1)
  for line, row in _read(source, records.FIELDS[:-1]):
    source.add(
      line,
      row["input"],
      row["answer"],
      taskname=row["taskname"],
      clip=row["filepath1"],
      clip2=row["filepath2"],
      caption=row["caption1"],
      caption2=row["caption2"],
    )
  return source


def acd_clips(folder: str | os.PathLike, split: str) -> set[str]:
  """The clips of AudioCaps that ADIFF's files name: those that the paper's authors had.

  Raises MissingSource where no tier of the split is there.
  """
  found: set[str] = set()
  missing = None
  for tier in _TIERS:
    try:
      source = _adiff(folder, split, f"ACD-{tier}")
    except MissingSource as error:
      missing = missing or error
      continue
    found |= clips_of(source.rows)
  if not found and missing:
    raise missing
  return found


# Datasets in the order in which their rows are written.
READERS: dict[str, Callable[..., SourceRows]] = {
  "Clotho": clotho,
  "AudioCaps": audiocaps,
  "ClothoAQA": clothoaqa,
  "CLE": cle,
  "ACE": ace,
  **{
    name: functools.partial(_adiff, dataset=name)
    for name in (f"{kind}-{tier}" for kind in ("CLD", "ACD") for tier in _TIERS)
  },
}


def read(dataset: str, folder: str | os.PathLike, split: str) -> SourceRows:
  """The rows of a dataset's split.

  Raises MissingSource where its file is not below the folder, DataError where the file cannot be
  used, and where the dataset or the split is none of READERS and SPLITS.
  """
  if dataset not in READERS or split not in SPLITS:
    raise DataError(
      f"{dataset} {split}: use one of {', '.join(READERS)} and one of {', '.join(SPLITS)}"
    )
  return READERS[dataset](folder, split)
