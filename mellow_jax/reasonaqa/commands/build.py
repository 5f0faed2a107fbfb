"""Builds ReasonAQA from the official files of its sources, and from a user's captions.

  mellow reasonaqa build --data=DIR --audio_root=DIR --output=DIR
  mellow reasonaqa build --add=captions.csv --audio_root=DIR --output=DIR

The files may lie below --data at any depth; reasonaqa/official/sources.py lists them, and those
that are missing are listed with where to get them. reasonaqa/own/captions.py describes the table of
--add. Rows of clips that are not below --audio_root are dropped and listed. Videos of AudioCaps
vanish with time; --paper_clips keeps those in ADIFF's files, which are as many as the paper has.

  train.json val.json test.json   rows of the published schema; "_id" is a row's stable id
  array_record/<split>/           with --array_record: the same with the audio inside, for pods
  report.txt report.json          counts from rows read to rows kept, and what was dropped
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from mellow_jax import cli, files, progress
from mellow_jax.data import records
from mellow_jax.data.records import FIELDS, Record
from mellow_jax.errors import FlagsError
from mellow_jax.reasonaqa import paper
from mellow_jax.reasonaqa.official import sources
from mellow_jax.reasonaqa.official.locations import MissingSource
from mellow_jax.reasonaqa.own import captions
from mellow_jax.reasonaqa.source_rows import SourceRows, clips_of
from mellow_jax.reasonaqa.splits import SPLITS

_SHOWN = 3  # clips named in the text for each reason; the JSON names all


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("data", help="Folder of the official files.")
  cli.define_old_name(f, "sources", "data")
  text("audio_root", help="Folder that the rows' audio paths start from.")
  text("output", help="Folder to write; it must not exist yet.")
  flags.DEFINE_multi_enum(
    "split", list(SPLITS), list(SPLITS), "Split to build; repeat it for several.", flag_values=f
  )
  flags.DEFINE_multi_string("add", [], "CSV of your own clips and captions.", flag_values=f)
  switch = functools.partial(flags.DEFINE_bool, default=False, flag_values=f)
  switch("allow_missing_audio", help="Keep rows of clips that are not below --audio_root.")
  switch("paper_clips", help="Of AudioCaps and ACE keep only the clips in ADIFF's files.")
  switch("array_record", help="Also write ArrayRecord files with the audio inside.")
  flags.DEFINE_integer("seed", 0, "Seed of the random choices of --add.", flag_values=f)
  return f


def _check_flags(f: flags.FlagValues) -> None:
  if not (f.data or f.add):
    raise FlagsError("--data is missing: name the folder of the official files, or --add a CSV")
  if not f.output:
    raise FlagsError("--output is missing: name a folder to write")
  if not f.audio_root and (f.array_record or not f.allow_missing_audio):
    raise FlagsError("--audio_root is missing: name the clips' folder, or --allow_missing_audio")
  if f.array_record and f.allow_missing_audio:
    raise FlagsError("--array_record holds the audio: drop --allow_missing_audio")
  if Path(f.output).exists():
    raise FlagsError(f"{f.output}: is there already: remove it, or give another --output")
  for name in ("data", "audio_root"):
    if f[name].value and not Path(f[name].value).is_dir():
      raise FlagsError(f"--{name}={f[name].value}: is no folder")
  names = [Path(table).stem for table in f.add]
  if clash := [name for name in names if names.count(name) > 1 or name in sources.READERS]:
    raise FlagsError(f"--add: {clash[0]}.csv: another source has this name, give it its own")


# --- Reading -------------------------------------------------------------------------------------


def _official(
  folder: str, splits: Sequence[str], paper_clips: bool
) -> tuple[list[SourceRows], dict[str, list[str]]]:
  """The rows of the official files that are there; names of the others by where to get them."""
  found, missing = [], {}
  for split in splits:
    for dataset in sources.READERS:
      try:
        found.append(sources.read(dataset, folder, split))
      except MissingSource as error:
        if paper.rows(dataset, split) != 0:  # the paper has some
          missing.setdefault(error.place, []).append(error.file)
  if not found:
    raise FlagsError(f"--data={folder}: none of the official files is below it")
  for source in found if paper_clips else ():
    if source.dataset in ("AudioCaps", "ACE"):
      reason = "ADIFF's files do not name the clip: the paper no longer had it"
      source.keep_clips(sources.acd_clips(folder, source.split), reason)
  return found, missing


def _own(f: flags.FlagValues, splits: Sequence[str]) -> list[SourceRows]:
  """The rows of --add."""
  found = []
  for table in f.add:
    clips, absent = captions.read(table), set()
    if not f.allow_missing_audio:
      absent = {clip.path for clip in clips if not (Path(f.audio_root) / clip.path).is_file()}
    for split in splits:
      found += captions.rows(table, clips, split, f.seed, absent)
  return found


# --- Report --------------------------------------------------------------------------------------


def _entry(source: SourceRows) -> dict[str, Any]:
  """The counts of a source, and all that it dropped."""
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
    "clips": len(clips_of(source.rows)),
    "rows_paper": paper.rows(source.dataset, source.split),
    "arithmetic_paper": paper.ARITHMETIC.get((source.dataset, source.split)),
    "dropped": [dataclasses.asdict(dropped) for dropped in source.dropped],
  }


def _entry_text(entry: dict[str, Any]) -> list[str]:
  each = f" x {entry['rows_each']}" if entry["rows_each"] > 1 else ""
  sums = f"{entry['read']} {entry['unit']}{each} = {entry['rows_made']}"
  sums += "".join(f" - {rows}" for rows in entry["rows_dropped"].values())
  if entry["rows_dropped"]:
    sums += f" = {entry['rows_kept']}"
  lines = [f"{entry['split']} {entry['dataset']}: {sums} rows of {entry['clips']} clips"]
  for reason, rows in entry["rows_dropped"].items():
    dropped = [d for d in entry["dropped"] if d["reason"] == reason]
    shown = ", ".join(
      repr(d["what"]) + (f" (line {d['line']})" if d["line"] else "") for d in dropped[:_SHOWN]
    )
    more = f" and {len(dropped) - _SHOWN} more" if len(dropped) > _SHOWN else ""
    lines.append(f"    {rows} rows: {reason}: {shown}{more}")
  if entry["rows_paper"] is not None:
    difference = entry["rows_kept"] - entry["rows_paper"]
    compared = f"; {difference:+d} here" if difference else ", the same"
    lines.append(f"    the paper has {entry['rows_paper']}{compared}")
    if entry["arithmetic_paper"]:
      lines.append(f"    the paper's: {entry['arithmetic_paper']}")
  return lines


def _text(report: dict[str, Any]) -> str:
  lines = [line for entry in report["datasets"] for line in _entry_text(entry)]
  for split, rows in report["rows"].items():
    lines.append(f"{split}: {rows} rows of {report['clips'][split]} clips")
  if report["renamed"]:
    lines.append(f"{report['renamed']} clips have & and the like in their files' names for &amp;")
  if report["missing_sources"]:
    lines.append("Not built, for want of their files:")
    for place, names in report["missing_sources"].items():
      lines.append(f"    from {place}: {', '.join(names)}")
  return "\n".join(lines) + "\n"


# --- Writing -------------------------------------------------------------------------------------


def _write(
  output: str, rows: dict[str, list[Record]], report: dict[str, Any], audio_root: str | None
) -> None:
  """Writes the whole folder or nothing; with audio_root also ArrayRecord files."""
  from mellow_jax.data import cache  # Grain, which --help need not wait for

  with files.replacing_folder(output) as folder:
    for split, part in rows.items():
      with files.json_list(folder / f"{split}.json") as add:
        for row in part:
          add({name: getattr(row, name) for name in FIELDS} | {"_id": records.row_id(row)})
      if audio_root:
        numbered = [dataclasses.replace(row, row=i) for i, row in enumerate(part)]
        cache.write(numbered, audio_root, folder / "array_record" / split)
    files.write_json(folder / "report.json", report)
    files.write_text(folder / "report.txt", _text(report))


# --- Command -------------------------------------------------------------------------------------


def _build(f: flags.FlagValues) -> None:
  _check_flags(f)
  splits = [split for split in SPLITS if split in f.split]
  found, missing = _official(f.data, splits, f.paper_clips) if f.data else ([], {})
  found += _own(f, splits)
  paths: dict[str, str | None] = {}
  if not f.allow_missing_audio:
    for source in progress.Bar(found, desc="clips", unit="file"):
      source.drop_missing_audio(f.audio_root, paths)
  rows = {split: [row for s in found if s.split == split for row in s.rows] for split in splits}
  rows = {split: part for split, part in rows.items() if part}
  if not rows:
    named = f"no clip is below {f.audio_root}" if f.audio_root else f"none is of {splits}"
    raise FlagsError(f"no row is left: {named}{', such as ' + next(iter(paths)) if paths else ''}")
  report = {
    "rows": {split: len(part) for split, part in rows.items()},
    "clips": {split: len(clips_of(part)) for split, part in rows.items()},
    "renamed": sum(file not in (None, path) for path, file in paths.items()),
    "missing_sources": missing,
    "datasets": [_entry(source) for source in found],
  }
  _write(f.output, rows, report, f.audio_root if f.array_record else None)
  print(_text(report), end="")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for a UserError."""
  return cli.run(argv, _flags(), __doc__, _build, example="--data=DIR", waits_for="building")
