"""Checks every row of a dataset and every audio file that they name.

  python -m mellow_jax.reasonaqa check --rows=DIR --audio_root=DIR [--tokenizer=DIR] \\
    [--output=check.json] [--quarantine=quarantine.json]

--rows is a folder with train.json, val.json and test.json, or a file; repeat it for several, the
more held out the later: what a file shares with a later one is a fault of the earlier. The report
is printed, with some examples of each kind; --output writes it whole, as JSON. The exit status is 0
where nothing is wrong, and 1 otherwise; kinds given to --allow are listed and count as nothing
wrong. --quarantine writes a list of the rows not to use, which training and evaluation leave out.
Not in it are rows that say the same and clips that sound the same, as both would be left out, rows
whose text is cut to fit, and clips that overshoot full scale a little, as ogg and mp3 do; but rows
that hear a clip of a later file are.
"""

import collections
import functools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import tqdm
from absl import flags

from mellow_jax import cli
from mellow_jax.config import ModelConfig
from mellow_jax.data import audio, presets, row_by_row
from mellow_jax.data.records import Record
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.check import faults
from mellow_jax.reasonaqa.check.findings import Findings

SPLITS = ("train.json", "val.json", "test.json")
_CLIPS = 32  # that a process is given at a time
_BATCH = 4096  # texts encoded at a time
_SHOWN = 5  # examples of each kind


def _flags() -> flags.FlagValues:
  f, model = cli.flag_values(), ModelConfig()
  flags.DEFINE_multi_string("rows", [], "Folder or file of rows.", flag_values=f)
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("audio_root", help="Folder that the rows' audio paths start from.")
  text("tokenizer", help="tokenizer.json or its folder; without it token limits are not checked.")
  text("output", help="JSON file for the whole report.")
  text("quarantine", help="JSON file for the rows not to use.")
  known = [*presets.PRESETS]
  flags.DEFINE_enum("preset", "training", known, "How texts end and read.", flag_values=f)
  number = functools.partial(flags.DEFINE_integer, lower_bound=1, flag_values=f)
  number("text_tokens", model.text_tokens, "Slots for a question.")
  number("answer_tokens", model.answer_tokens, "Slots for an answer.")
  number("processes", os.cpu_count(), "Processes that decode audio.")
  flags.DEFINE_float(
    "min_seconds", audio.MIN_WINDOW_SECONDS, "Shorter clips are a fault.", flag_values=f
  )
  kinds = [*faults.OF_ROWS, *faults.OF_CLIPS]
  flags.DEFINE_list("allow", [], f"Kinds that are no reason to fail: {kinds}.", flag_values=f)
  return f


def _files(given: Sequence[str]) -> list[Path]:
  """The files of rows that are meant."""
  found = []
  for name in given:
    path = Path(name)
    if not path.is_dir():
      found.append(path)
    elif inside := [path / split for split in SPLITS if (path / split).is_file()]:
      found += inside
    else:
      raise DataError(f"--rows={name}: holds none of {', '.join(SPLITS)}")
  if not found:
    raise DataError("--rows is missing: name a folder or a file of rows")
  return found


def _read_rows(
  path: Path,
  found: Findings,
  limits: faults.TokenLimits | None,
  new_clips: Callable[[], None],
) -> None:
  """Adds a file's rows and the faults of their texts; calls new_clips now and then."""
  found.begin(path)

  def flush() -> None:
    for (row, place), fault in limits.found():
      found.add_row_fault(row, place, fault)

  rows = tqdm.tqdm(row_by_row.read(path), desc=path.name, unit=" rows", file=sys.stderr)
  for number, checked in enumerate(rows):
    if number % _BATCH == 0:
      new_clips()
    row = found.add_row(Record(*checked.fields, row=0) if checked.fields else None)
    for fault in faults.of_schema(checked.faults):
      found.add_row_fault(row, checked.place, fault)
    if checked.faults:
      continue
    question, answer = checked.fields[5], checked.fields[6]
    for fault in faults.of_options(question, answer):
      found.add_row_fault(row, checked.place, fault)
    if limits:
      limits.add((row, checked.place), checked.fields)
      if len(limits.waiting) >= _BATCH:
        flush()
  if limits:
    flush()
  new_clips()


def check(
  paths: Sequence[Path],
  root: str,
  limits: faults.TokenLimits | None,
  min_seconds: float,
  processes: int,
) -> Findings:
  """All that is wrong with the rows of files and with their clips.

  Audio is decoded by processes of their own while the rows are read. Raises DataError for a file
  that is no list of rows.
  """
  found = Findings()
  # Started anew: a copy of a process whose tokenizer has threads may hang.
  context = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
    pending = collections.deque()

    def submit() -> None:
      names = found.new_clips()
      for i in range(0, len(names), _CLIPS):
        part = names[i : i + _CLIPS]
        pending.append((part, pool.submit(faults.of_clips, root, part, min_seconds)))

    try:
      for path in paths:
        _read_rows(path, found, limits, submit)
      count = sum(len(part) for part, _ in pending)
      with tqdm.tqdm(total=count, desc="clips", unit=" clips", file=sys.stderr) as bar:
        while pending:
          part, result = pending.popleft()
          for name, (own, digest) in zip(part, result.result(), strict=True):
            found.add_clip(name, own, digest)
          bar.update(len(part))
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  found.compare()
  return found


# --- Report --------------------------------------------------------------------------------------


def _text(report: dict[str, Any], allowed: Sequence[str]) -> str:
  rows = sum(report["rows"].values())
  lines = [f"{rows} rows of {', '.join(report['rows'])} and {report['clips']} clips"]
  for kind, count in report["counts"].items():
    meant = (faults.OF_ROWS | faults.OF_CLIPS)[kind]
    counts = ", ".join(f"{what} {number}" for what, number in count.items())
    noted = ", allowed" if kind in allowed else ""
    lines.append(f"{kind} ({meant}{noted}): {counts}")
    shown = [fault for fault in report["faults"] if fault["kind"] == kind]
    for fault in shown[:_SHOWN]:
      lines.append(f"    {fault['where']}: {fault['message']}")
    if len(shown) > _SHOWN:
      lines.append(f"    and {len(shown) - _SHOWN} more")
  for kind, reason in report["not_checked"].items():
    lines.append(f"{kind}: not checked, {reason}")
  return "\n".join(lines)


def _write(path: str, content: dict[str, Any]) -> None:
  """Writes a whole file or none."""
  part = Path(f"{path}.part")
  part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
  part.replace(path)


def _check(f: flags.FlagValues) -> int:
  paths = _files(f.rows)
  if not f.audio_root:
    raise DataError("--audio_root is missing: name the folder that the rows' paths start from")
  if not Path(f.audio_root).is_dir():
    raise DataError(f"--audio_root={f.audio_root}: is no folder")
  if unknown := [kind for kind in f.allow if kind not in faults.OF_ROWS | faults.OF_CLIPS]:
    raise DataError(f"--allow={unknown[0]}: use {', '.join(faults.OF_ROWS | faults.OF_CLIPS)}")
  limits, skipped = None, {}
  if f.tokenizer:
    limits = faults.TokenLimits(f.tokenizer, f.preset, f.text_tokens, f.answer_tokens)
  else:
    skipped = dict.fromkeys(faults.OVER_TOKENS, "give --tokenizer")
  found = check(paths, f.audio_root, limits, f.min_seconds, f.processes)
  report = found.report() | {"not_checked": skipped}
  quarantined = found.quarantine(f.allow)
  if f.output:
    _write(f.output, report)
  if f.quarantine:
    _write(f.quarantine, {"version": 1, "rows": quarantined})
  print(_text(report, f.allow))
  wrong = [kind for kind in report["counts"] if kind not in f.allow]
  if f.quarantine:
    print(f"{f.quarantine}: {len(quarantined)} ids of rows not to use")
  print(f"{len(wrong)} kinds of faults: {', '.join(wrong)}" if wrong else "nothing is wrong")
  return 1 if wrong else 0


def _command(f: flags.FlagValues) -> int:
  try:
    return _check(f)
  except futures.process.BrokenProcessPool:
    raise DataError("a process that decodes audio was killed: give fewer --processes") from None


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 where something is wrong with the rows or with the flags."""
  return cli.run(argv, _flags(), __doc__, _command, example="--rows=DIR --audio_root=DIR")
