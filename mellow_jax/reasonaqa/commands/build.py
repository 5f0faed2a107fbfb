"""Builds ReasonAQA from the official files of its sources, and from one's own captions.

  python -m mellow_jax.reasonaqa build --sources=DIR --audio_root=DIR --output=DIR
  python -m mellow_jax.reasonaqa build --add=captions.csv --audio_root=DIR --output=DIR

The files may lie below --sources at any depth; reasonaqa/official/sources.py lists them, and what
is not there is named with where to get it. reasonaqa/own/captions.py says what --add reads.
Rows of clips that are not below --audio_root are dropped and listed. Videos of AudioCaps vanish
with time; --paper_clips keeps those that ADIFF's files name, which are as many as the paper has.

  train.json val.json test.json   rows of the published schema; "_id" is a row's stable id
  array_record/<split>/           with --array_record: the same with the audio inside, for pods
  report.txt report.json          each count from what was read to what is kept, and what is not
"""

import collections
import dataclasses
import functools
import html
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tqdm
from absl import flags

from mellow_jax import cli
from mellow_jax.data import cache, records
from mellow_jax.data.records import FIELDS, Record
from mellow_jax.errors import FlagsError
from mellow_jax.reasonaqa import paper
from mellow_jax.reasonaqa.check import counts
from mellow_jax.reasonaqa.official import sources
from mellow_jax.reasonaqa.official.files import MissingSource
from mellow_jax.reasonaqa.official.sources import Dropped, Source
from mellow_jax.reasonaqa.own import captions
from mellow_jax.reasonaqa.paper import SPLITS

_SHOWN = 3  # clips named in the text for each reason; the JSON names all


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("sources", help="Folder of the official files.")
  text("audio_root", help="Folder that the rows' audio paths start from.")
  text("output", help="Folder to write; it must not be there yet.")
  flags.DEFINE_multi_enum(
    "split", list(SPLITS), list(SPLITS), "Split to build; repeat it for several.", flag_values=f
  )
  flags.DEFINE_multi_string("add", [], "CSV of one's own clips and captions.", flag_values=f)
  switch = functools.partial(flags.DEFINE_bool, default=False, flag_values=f)
  switch("allow_missing_audio", help="Keep rows of clips that are not below --audio_root.")
  switch("paper_clips", help="Of AudioCaps and ACE keep the clips that ADIFF's files name alone.")
  switch("array_record", help="Write ArrayRecord files with the audio inside as well.")
  flags.DEFINE_integer("seed", 0, "What --add draws depends on it.", flag_values=f)
  return f


# --- Reading -------------------------------------------------------------------------------------


def read(
  folder: str | os.PathLike, splits: Sequence[str]
) -> tuple[list[Source], dict[str, list[str]]]:
  """What is there of the official files, and the names of what is not by where to get it.

  Raises DataError for a file that cannot be used.
  """
  found, missing = [], {}
  for split in splits:
    for dataset in sources.READERS:
      try:
        found.append(sources.read(dataset, folder, split))
      except MissingSource as error:
        if counts.published(dataset, split) != 0:  # the paper has some
          missing.setdefault(error.place, []).append(error.file)
  return found, missing


# --- Dropping ------------------------------------------------------------------------------------


def _keep(source: Source, rows: list[Record], lost: dict[str, int], reason: str) -> None:
  """Leaves the source the rows, and notes the others by their clip."""
  source.rows = rows
  # The line is that of the report's file, which a row does not know: 0.
  source.dropped += [Dropped(clip, 0, reason, count) for clip, count in lost.items()]


def keep_paper_clips(source: Source, clips: set[str]) -> None:
  """Drops rows of clips that the paper's authors no longer found."""
  kept = [row for row in source.rows if row.filepath1 in clips]
  lost = collections.Counter(row.filepath1 for row in source.rows if row.filepath1 not in clips)
  _keep(source, kept, lost, "ADIFF's files do not name the clip: the paper no longer had it")


def drop_missing(source: Source, root: str | os.PathLike, known: dict[str, str | None]) -> None:
  """Drops rows of clips that are not below the root.

  Freesound's names hold "&amp;" and the like: a clip may be there with "&" instead, and its rows
  then name it so. known holds what was looked up before, and gets what is.
  """

  def place(path: str) -> str | None:
    if path not in known:
      plain = html.unescape(path)
      there = (name for name in (path, plain) if (Path(root) / name).is_file())
      known[path] = next(there, None)
    return known[path]

  kept, lost = [], collections.Counter()
  for row in source.rows:
    named = [path for path in (row.filepath1, row.filepath2) if path]
    found = [place(path) for path in named]
    if None in found:
      lost[named[found.index(None)]] += 1
      continue
    if found != named:
      row = dataclasses.replace(row, filepath1=found[0], filepath2=(found[1:] or [""])[0])
    kept.append(row)
  _keep(source, kept, lost, sources.NO_AUDIO)


# --- Report --------------------------------------------------------------------------------------


def _clips(rows: Sequence[Record]) -> set[str]:
  return {path for row in rows for path in (row.filepath1, row.filepath2) if path}


def _entry(source: Source) -> dict[str, Any]:
  """A source's arithmetic, and all that it dropped."""
  reasons = collections.Counter()
  for dropped in source.dropped:
    reasons[dropped.reason] += dropped.rows
  made = source.read * source.each
  if made - reasons.total() != len(source.rows):
    raise AssertionError(f"{source.dataset} {source.split}: the rows do not add up")
  return {
    "dataset": source.dataset,
    "split": source.split,
    "file": source.file,
    "read": source.read,
    "unit": source.unit,
    "rows_each": source.each,
    "rows_made": made,
    "rows_dropped": dict(reasons),
    "rows_kept": len(source.rows),
    "clips": len(_clips(source.rows)),
    "rows_paper": counts.published(source.dataset, source.split),
    "arithmetic_paper": paper.ARITHMETIC.get((source.dataset, source.split)),
    "dropped": [dataclasses.asdict(dropped) for dropped in source.dropped],
  }


def _text(report: dict[str, Any]) -> str:
  lines = []
  for entry in report["datasets"]:
    each = f" x {entry['rows_each']}" if entry["rows_each"] > 1 else ""
    sums = f"{entry['read']} {entry['unit']}{each} = {entry['rows_made']}"
    sums += "".join(f" - {rows}" for rows in entry["rows_dropped"].values())
    if entry["rows_dropped"]:
      sums += f" = {entry['rows_kept']}"
    lines.append(f"{entry['split']} {entry['dataset']}: {sums} rows of {entry['clips']} clips")
    for reason, rows in entry["rows_dropped"].items():
      named = [d for d in entry["dropped"] if d["reason"] == reason]
      shown = ", ".join(
        repr(d["what"]) + (f" (line {d['line']})" if d["line"] else "") for d in named[:_SHOWN]
      )
      more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
      lines.append(f"    {rows} rows: {reason}: {shown}{more}")
    if entry["rows_paper"] is not None:
      differs = entry["rows_kept"] - entry["rows_paper"]
      said = f"; {differs:+d} here" if differs else ", the same"
      lines.append(f"    the paper has {entry['rows_paper']}{said}")
      if entry["arithmetic_paper"]:
        lines.append(f"    the paper's: {entry['arithmetic_paper']}")
  for split, rows in report["rows"].items():
    clips = report["clips"][split]
    lines.append(f"{split}: {rows} rows of {clips} clips")
  if report["renamed"]:
    lines.append(f"{report['renamed']} clips have & and the like in their files' names for &amp;")
  if report["missing_sources"]:
    lines.append("Not built, for want of their files:")
    for place, files in report["missing_sources"].items():
      lines.append(f"    from {place}: {', '.join(files)}")
  return "\n".join(lines) + "\n"


# --- Writing -------------------------------------------------------------------------------------


def _write_rows(path: Path, rows: Sequence[Record]) -> None:
  with path.open("w", encoding="utf-8") as file:
    for i, row in enumerate(rows):
      fields = {name: getattr(row, name) for name in FIELDS} | {"_id": records.row_id(row)}
      file.write(("[\n" if i == 0 else ",\n") + json.dumps(fields, ensure_ascii=False))
    file.write("\n]\n")


def _write(
  output: Path, rows: dict[str, list[Record]], report: dict[str, Any], pods_root: str | None
) -> None:
  """Writes a folder that appears when all of it is there; with pods_root also ArrayRecord files."""
  part = output.with_name(f"{output.name}.part")
  shutil.rmtree(part, ignore_errors=True)  # of a build that was killed
  try:
    part.mkdir(parents=True)
    for split, made in rows.items():
      _write_rows(part / f"{split}.json", made)
      if pods_root:
        numbered = [dataclasses.replace(row, row=i) for i, row in enumerate(made)]
        cache.write(numbered, pods_root, part / "array_record" / split)
    (part / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False))
    (part / "report.txt").write_text(_text(report))
    part.rename(output)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    raise


# --- Command -------------------------------------------------------------------------------------


def _check_flags(f: flags.FlagValues) -> None:
  if not (f.sources or f.add):
    raise FlagsError("--sources is missing: name the folder of the official files, or --add a CSV")
  if not f.output:
    raise FlagsError("--output is missing: name a folder to write")
  if not f.audio_root and (f.array_record or not f.allow_missing_audio):
    raise FlagsError("--audio_root is missing: name the clips' folder, or --allow_missing_audio")
  if f.array_record and f.allow_missing_audio:
    raise FlagsError("--array_record holds the audio: drop --allow_missing_audio")
  if Path(f.output).exists():
    raise FlagsError(f"{f.output}: is there already: remove it, or give another --output")
  for name in ("sources", "audio_root"):
    if f[name].value and not Path(f[name].value).is_dir():
      raise FlagsError(f"--{name}={f[name].value}: is no folder")
  names = [Path(table).stem for table in f.add]
  if clash := [name for name in names if names.count(name) > 1 or name in sources.READERS]:
    raise FlagsError(f"--add: {clash[0]}.csv: another source has this name, give it its own")


def _own(f: flags.FlagValues, splits: Sequence[str]) -> list[Source]:
  """The rows of --add."""
  found = []
  for table in f.add:
    clips, absent = captions.read(table), set()
    if not f.allow_missing_audio:
      absent = {clip.path for clip in clips if not (Path(f.audio_root) / clip.path).is_file()}
    for split in splits:
      found += captions.rows(table, clips, split, f.seed, absent)
  return found


def _build(f: flags.FlagValues) -> None:
  _check_flags(f)
  splits = [split for split in SPLITS if split in f.split]
  found, missing = read(f.sources, splits) if f.sources else ([], {})
  if f.sources and not found:
    raise FlagsError(f"--sources={f.sources}: none of the official files is below it")
  if f.paper_clips:
    for source in found:
      if source.dataset in ("AudioCaps", "ACE"):
        keep_paper_clips(source, sources.acd_clips(f.sources, source.split))
  found += _own(f, splits)
  known: dict[str, str | None] = {}
  if not f.allow_missing_audio:
    for source in tqdm.tqdm(found, desc="clips", unit="file", file=sys.stderr):
      drop_missing(source, f.audio_root, known)

  rows = {split: [] for split in splits}
  for source in found:
    rows[source.split] += source.rows
  rows = {split: part for split, part in rows.items() if part}
  if not rows:
    named = f"no clip is below {f.audio_root}" if f.audio_root else f"none is of {splits}"
    raise FlagsError(f"no row is left: {named}{', such as ' + next(iter(known)) if known else ''}")
  report = {
    "rows": {split: len(part) for split, part in rows.items()},
    "clips": {split: len(_clips(part)) for split, part in rows.items()},
    "renamed": sum(there not in (None, path) for path, there in known.items()),
    "missing_sources": missing,
    "datasets": [_entry(source) for source in found],
  }
  _write(Path(f.output), rows, report, f.audio_root if f.array_record else None)
  print(_text(report), end="")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _build, example="--sources=DIR")
