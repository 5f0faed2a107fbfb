"""The questions of each benchmark, read from the files it is published as, in one form."""

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from mellow_jax.data import records, scenes
from mellow_jax.data.records import Record
from mellow_jax.errors import DataError
from mellow_jax.evaluation.benchmarks import option_sets as redrawn
from mellow_jax.evaluation.benchmarks import question_files, rows
from mellow_jax.evaluation.benchmarks.items import Item
from mellow_jax.evaluation.benchmarks.rows import from_record
from mellow_jax.reasonaqa.official import sources
from mellow_jax.reasonaqa.official.locations import MissingSource

__all__ = ["BENCHMARKS", "Benchmark", "audio_root", "from_record", "read", "table_path"]

SCENES = 4000  # generated scenes asked about

REASONAQA = "ReasonAQA, zenodo.org/records/15036628"
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

  Raises DataError for an unknown benchmark, and where there is no such file.
  """
  if benchmark not in BENCHMARKS:
    raise DataError(f"benchmark {benchmark!r} is unknown: one of {', '.join(BENCHMARKS)}")
  known, data = BENCHMARKS[benchmark], Path(data)
  if data.is_file():
    return data
  if not data.exists():
    raise DataError(f"{data}: there is no such file or folder: check the path")
  for name in known.files:
    if (data / name).is_file():
      return data / name
  if not known.files:
    raise DataError(f"{data}: is no file: benchmark {benchmark} takes the table itself")
  where = f"; to be had: {'; '.join(known.sources)}" if known.sources else ""
  raise DataError(f"{data}: holds no {' or '.join(known.files)}{where}")


def read(
  benchmark: str,
  data: str | os.PathLike,
  *,
  quarantined: Collection[str] | None = None,
  option_sets: int = 0,
  say: Callable[[str], None] = lambda line: None,
) -> list[Item]:
  """The questions of a benchmark, in its order, no two with the same id.

  data is the folder or the file of its table; audio paths are relative to the folder. A part of
  ReasonAQA is read from ReasonAQA's test.json, or without it from the files its source publishes.
  Rows of ReasonAQA's form and of one's own table whose `records.row_id` is quarantined are left
  out, which say is told, as it is of the rows of one's own table that have no answer. Questions of
  other forms are in no quarantine, and None alone will do.
  With option_sets only their multiple choices are read, each with so many sets of other options.

  Raises DataError naming file, row and field of what cannot be used.
  """
  known = BENCHMARKS.get(benchmark)
  if quarantined is not None and known and (known.makes_prompts or benchmark == "scenes"):
    raise DataError(
      f"benchmark {benchmark}: its questions are no rows that a quarantine file lists: drop "
      "--quarantine"
    )
  if known and known.subtypes and not _has_table(known, Path(data)):
    path, chosen = _official(known, Path(data), say)
  else:
    path = table_path(benchmark, data)
    if option_sets and (known.makes_prompts or benchmark == "table"):
      raise DataError(
        f"benchmark {benchmark}: only rows of ReasonAQA's form have options to redraw"
      )
    if benchmark.startswith("mmau"):
      return question_files.read_mmau(path)
    if benchmark == "mmar":
      return question_files.read_mmar(path)
    if benchmark == "table":
      return question_files.read_own(path, quarantined, say)
    is_scenes = benchmark == "scenes"
    chosen = _scenes(path) if is_scenes else _of_file(known, path, quarantined or ())
  if option_sets:
    kept = [row for row in chosen if not quarantined or records.row_id(row) not in quarantined]
    if quarantined is not None:
      say(f"{path}: {len(chosen) - len(kept)} of {len(chosen)} rows are in quarantine and left out")
    return redrawn.redraw(str(path), kept, option_sets)
  items, left_out = rows.from_records(str(path), chosen, quarantined or ())
  if quarantined is not None:
    say(f"{path}: {left_out} of {len(chosen)} rows are in quarantine and left out")
  return items


def audio_root(data: str | os.PathLike) -> Path:
  """The folder that audio paths are relative to unless said otherwise."""
  return Path(data) if Path(data).is_dir() else Path(data).parent


def _has_table(benchmark: Benchmark, data: Path) -> bool:
  return data.is_file() or any((data / name).is_file() for name in benchmark.files)


def _of_file(benchmark: Benchmark, path: Path, quarantined: Collection[str]) -> list[Record]:
  """The rows of a ReasonAQA file that belong to a benchmark, quarantined ones among them."""
  wanted = {subtype.lower() for subtype in benchmark.subtypes}
  chosen = [
    record
    for record in records.read(path, quarantined)
    if not wanted or record.subtype.lower().removesuffix(".json") in wanted
  ]
  if not chosen:
    raise DataError(f"{path}: no row has the subtype {benchmark.subtypes[0]}.json")
  return chosen


def _official(
  benchmark: Benchmark, data: Path, say: Callable[[str], None]
) -> tuple[Path, list[Record]]:
  """The rows of a part of ReasonAQA from the file that its source publishes."""
  try:
    source = sources.read(benchmark.subtypes[0], data, "test")
  except MissingSource as error:
    raise DataError(
      f"{data}: holds neither test.json of {REASONAQA}, nor {error.file} of {error.place}"
    ) from None
  except DataError as error:
    raise DataError(str(error)) from None
  if source.dropped:
    lost = sum(dropped.rows for dropped in source.dropped)
    first = source.dropped[0]
    say(f"{source.file}: {lost} rows are left out, first {first.what}: {first.reason}")
  return Path(source.file), source.rows


def _scenes(path: Path) -> scenes.Scenes:
  """Validation rows of a run on generated scenes; the run itself uses only the first of them."""
  try:
    run = json.loads(path.read_text())
    source, seed, mix = run["data"]["source"], run["seed"], run["data"]["mix"]
    if source == "scenes":
      return scenes.Scenes("val", seed, SCENES, mix)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise DataError(f"{path}: is no run.json of a training run ({error})") from None
  raise DataError(f"{path}: the run had data.source {source!r}: use --benchmark=reasonaqa")
