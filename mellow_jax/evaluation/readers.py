"""The questions of each benchmark, read from the files it is published as, in one form."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mellow_jax.data import prompts, records, scenes
from mellow_jax.data.records import Record, RecordError
from mellow_jax.evaluation.schema import Item, Kind

SCENES = 1000  # generated scenes asked about
MOST_REFERENCES = 5  # of a caption; the reference scores against no more
VERDICTS = frozenset(
  ("it is definitely true", "it is definitely false", "it is plausible", "i cannot determine")
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"

_LETTERED = re.compile(r"(?<!\S)([A-Za-z])\)\s*")

REASONAQA = "ReasonAQA's JSON: zenodo.org/records/15036628"
AUDIOCAPS = (
  "AudioCaps: the clips' names are in github.com/cdjkim/audiocaps, the clips on YouTube; keep them "
  "as AudioCapsLarger/<split>/Y<youtube_id>.wav"
)
CLOTHO = "Clotho v2.1: zenodo.org/records/4783391; unpack it as ClothoV21/<split>/"
CLOTHOAQA = "ClothoAQA: zenodo.org/records/6473207"
MMAU = "MMAU: github.com/Sakshi113/MMAU holds the questions and says where the audio is"
MMAR = "MMAR: huggingface.co/datasets/BoJack/MMAR"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
  """Where a benchmark's questions stand and how they are read."""

  about: str
  files: tuple[str, ...]  # what the table may be called in the data folder
  sources: tuple[str, ...] = ()  # where table and audio can be had
  subtypes: tuple[str, ...] = ()  # of ReasonAQA's rows, which of them; () for all
  # Whether options stand apart from their question, so that a prompt has to be made of the two. The
  # rows of ReasonAQA are prompts already.
  makes_prompts: bool = False


def _of_reasonaqa(about: str, *subtypes: str, audio: tuple[str, ...]) -> Benchmark:
  return Benchmark(
    about=about, files=("test.json",), sources=(REASONAQA, *audio), subtypes=subtypes
  )


BENCHMARKS = {
  "mmau": Benchmark(
    about="MMAU test-mini: 1000 multiple-choice questions on sound, music and speech",
    files=("mmau-test-mini.json",),
    sources=(MMAU,),
    makes_prompts=True,
  ),
  "mmau-test": Benchmark(
    about="MMAU test: 9000 questions whose answers are not published",
    files=("mmau-test.json",),
    sources=(MMAU,),
    makes_prompts=True,
  ),
  "mmar": Benchmark(
    about="MMAR: 1000 multiple-choice questions on sound, music, speech and their mixes",
    files=("MMAR-meta.json", "MMAR-meta.jsonl"),
    sources=(MMAR,),
    makes_prompts=True,
  ),
  "cle": _of_reasonaqa("Audio entailment on Clotho", "CLE", audio=(CLOTHO,)),
  "ace": _of_reasonaqa("Audio entailment on AudioCaps", "ACE", audio=(AUDIOCAPS,)),
  **{
    f"{name}-{tier}": _of_reasonaqa(
      f"Difference of two clips of {where}, {length}", f"{name.upper()}-{tier}", audio=(audio,)
    )
    for name, where, audio in (("cld", "Clotho", CLOTHO), ("acd", "AudioCaps", AUDIOCAPS))
    for tier, length in enumerate(("in few words", "in a sentence", "in detail"), 1)
  },
  "audiocaps": _of_reasonaqa("Captioning on AudioCaps", "AudioCaps", audio=(AUDIOCAPS,)),
  "clotho": _of_reasonaqa("Captioning on Clotho", "Clotho", audio=(CLOTHO,)),
  "clothoaqa": _of_reasonaqa("Yes/no questions on Clotho", "ClothoAQA", audio=(CLOTHOAQA,)),
  "reasonaqa": _of_reasonaqa("All rows of a ReasonAQA file", audio=(AUDIOCAPS, CLOTHO, CLOTHOAQA)),
  "scenes": Benchmark(
    about="Generated scenes held out from the training run of the data folder",
    files=("run.json",),
  ),
  "table": Benchmark(about="Questions of one's own: a .csv, .json or .jsonl file", files=()),
}


def table_path(benchmark: str, data: str | os.PathLike) -> Path:
  """The file that holds a benchmark's questions: data itself, or one in the folder data.

  Raises RecordError for an unknown benchmark, and where there is no such file.
  """
  if benchmark not in BENCHMARKS:
    raise RecordError(f"benchmark {benchmark!r} is unknown: one of {', '.join(BENCHMARKS)}")
  known, data = BENCHMARKS[benchmark], Path(data)
  if data.is_file():
    return data
  for name in known.files:
    if (data / name).is_file():
      return data / name
  if not known.files:
    raise RecordError(f"{data}: is no file: benchmark {benchmark} takes the table itself")
  where = f"; to be had: {'; '.join(known.sources)}" if known.sources else ""
  raise RecordError(f"{data}: holds no {' or '.join(known.files)}{where}")


def read(
  benchmark: str,
  data: str | os.PathLike,
  *,
  quarantined: Collection[str] = (),
  say: Callable[[str], None] = lambda line: None,
) -> list[Item]:
  """The questions of a benchmark, in its order, no two with the same id.

  data is the folder or the file of its table; audio paths are relative to the table's folder. Rows
  of ReasonAQA's form whose `records.row_id` is quarantined are left out, which say is told.

  Raises RecordError naming file, row and field of what cannot be used.
  """
  raise NotImplementedError


def from_record(record: Record) -> Item:
  """A row of ReasonAQA's form, or of a table of one's own, as a question.

  Lettered options at the end of its input, "a) .. b) ..", become choices: a multiple choice, or
  entailment where they are verdicts. "yes" and "no" make a binary question, everything else is free
  text with one reference.

  Raises RecordError, naming the row, for options of which the answer is none.
  """
  raise NotImplementedError
