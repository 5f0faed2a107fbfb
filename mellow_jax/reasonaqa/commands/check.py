"""Checks every row of a dataset and every audio file that they name.

  mellow reasonaqa check --data=DIR --audio_root=DIR [--tokenizer=DIR] \\
    [--output=check.json] [--quarantine=quarantine.json]

--data is a folder with train.json, val.json and test.json, or a file; repeat it for several, those
held out last: what a file shares with a later one is a fault of the earlier. The report is printed
with examples of each kind; --output writes all of it as JSON. The exit status is 0 where nothing is
wrong, else 1; kinds given to --allow are listed and do not count. --quarantine writes a list of the
rows not to use, which training and evaluation leave out. Not in it are duplicate rows and clips, as
both would be left out, rows whose text is cut to fit, and clips slightly over full scale, as ogg
and mp3 decode; rows with a clip of a later file are.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from mellow_jax import cli, files
from mellow_jax.config import ModelConfig
from mellow_jax.data import audio, presets
from mellow_jax.data.selection import QUARANTINE_VERSION
from mellow_jax.errors import FlagsError
from mellow_jax.reasonaqa.check import faults, scan
from mellow_jax.reasonaqa.splits import row_files

_KINDS = faults.OF_ROWS | faults.OF_CLIPS
_SHOWN = 5  # examples of each kind


def _flags() -> flags.FlagValues:
  f, model = cli.flag_values(), ModelConfig()
  flags.DEFINE_multi_string("data", [], "Folder or file of rows.", flag_values=f)
  cli.define_old_name(f, "rows", "data")
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("audio_root", help="Folder that the rows' audio paths start from.")
  text("tokenizer", help="tokenizer.json or its folder; without it token limits are not checked.")
  text("output", help="JSON file for the whole report.")
  text("quarantine", help="JSON file for the rows not to use.")
  names = [*presets.PRESETS]
  flags.DEFINE_enum("preset", "training", names, "How texts are prepared.", flag_values=f)
  number = functools.partial(flags.DEFINE_integer, lower_bound=1, flag_values=f)
  number("text_tokens", model.text_tokens, "Slots for a question.")
  number("answer_tokens", model.answer_tokens, "Slots for an answer.")
  number("workers", os.cpu_count(), "Processes that decode audio.")
  cli.define_old_name(f, "processes", "workers")
  flags.DEFINE_float(
    "min_seconds", audio.MIN_WINDOW_SECONDS, "Shorter clips are a fault.", flag_values=f
  )
  allow = f"Kinds that are no reason to fail: {[*_KINDS]}."
  flags.DEFINE_list("allow", [], allow, flag_values=f)
  return f


def _text(report: dict[str, Any], allowed: Sequence[str]) -> str:
  rows = sum(report["rows"].values())
  lines = [f"{rows} rows of {', '.join(report['rows'])} and {report['clips']} clips"]
  for kind, count in report["counts"].items():
    counts = ", ".join(f"{what} {number}" for what, number in count.items())
    noted = ", allowed" if kind in allowed else ""
    lines.append(f"{kind} ({_KINDS[kind]}{noted}): {counts}")
    listed = [fault for fault in report["faults"] if fault["kind"] == kind]
    lines += [f"    {fault['where']}: {fault['message']}" for fault in listed[:_SHOWN]]
    if len(listed) > _SHOWN:
      lines.append(f"    and {len(listed) - _SHOWN} more")
  if unknown := report["unknown_words"]:
    most = ", ".join(list(unknown)[:_SHOWN])
    times = sum(unknown.values())
    lines.append(f"{len(unknown)} words the tokenizer does not know, {times} times: {most} ...")
  for kind, reason in report["not_checked"].items():
    lines.append(f"{kind}: not checked, {reason}")
  return "\n".join(lines)


def _check(f: flags.FlagValues) -> int:
  if not f.data:
    raise FlagsError("--data is missing: name a folder or a file of rows")
  paths = row_files(f.data)
  if not f.audio_root:
    raise FlagsError("--audio_root is missing: name the folder that the rows' paths start from")
  if not Path(f.audio_root).is_dir():
    raise FlagsError(f"--audio_root={f.audio_root}: is no folder")
  if unknown := [kind for kind in f.allow if kind not in _KINDS]:
    raise FlagsError(f"--allow={unknown[0]}: use {', '.join(_KINDS)}")
  limits, not_checked = None, dict.fromkeys(faults.OVER_TOKENS, "give --tokenizer")
  if f.tokenizer:
    limits = faults.TokenLimits(f.tokenizer, f.preset, f.text_tokens, f.answer_tokens)
    not_checked = {}
  preset = presets.PRESETS[f.preset]
  found = scan.scan(paths, f.audio_root, preset, limits, f.min_seconds, f.workers)
  report = found.report() | {"not_checked": not_checked}
  report["unknown_words"] = dict(limits.unknown.most_common()) if limits else {}
  quarantined = found.quarantine(f.allow)
  if f.output:
    files.write_json(f.output, report)
  if f.quarantine:
    files.write_json(f.quarantine, {"version": QUARANTINE_VERSION, "rows": quarantined})
  print(_text(report, f.allow))
  wrong = [kind for kind in report["counts"] if kind not in f.allow]
  if f.quarantine:
    print(f"{f.quarantine}: {len(quarantined)} ids of rows not to use")
  print(f"{len(wrong)} kinds of faults: {', '.join(wrong)}" if wrong else "nothing is wrong")
  return 1 if wrong else 0


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 where rows have faults or flags are wrong."""
  return cli.run(
    argv, _flags(), __doc__, _check, example="--data=DIR --audio_root=DIR", waits_for="checking"
  )
