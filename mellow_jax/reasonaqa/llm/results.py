"""Turns replies into rows, and reports what became of every question.

A folder of results holds `rows.json` (ReasonAQA's schema; the notes _type, _prompt and _model say
how a row was made), `rejects.jsonl` (each question that gave no row, with the reason) and
`report.json`. They depend on the captions and the replies alone, in the order of the captions.
"""

import collections
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mellow_jax import files
from mellow_jax.data.records import FIELDS
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.llm import filters
from mellow_jax.reasonaqa.llm.caption_files import Caption
from mellow_jax.reasonaqa.llm.endpoint import Reply
from mellow_jax.reasonaqa.llm.parse import parse
from mellow_jax.reasonaqa.llm.prompt import QUESTIONS, Kind
from mellow_jax.reasonaqa.llm.qa_pairs import Reject

EXAMPLES = 5  # of each reason, in the report
LEAST_REPEATS = 5  # clips that may share a question and its answer, however few clips there are
PARTS = (1, 2, 3)  # the types that type 4 is composed of
_SUBTYPES = {"mcq": "MCQ", "detail": "Detail"}


class Results:
  """The rows and rejects of a folder."""

  def __init__(self):
    self.rows: list[dict[str, Any]] = []
    self.rejects: list[dict[str, str]] = []

  def reject(self, reason: str, file: str, caption: str, text: str) -> None:
    """Adds a reject."""
    self.rejects.append({"reason": reason, "file": file, "caption": caption, "text": text})

  def write(
    self, folder: Path, report: dict[str, Any], reasons: Iterable[str] = ()
  ) -> dict[str, Any]:
    """Writes the three files; the report, with the counts of rows and rejects.

    The given reasons are in the report even where nothing is rejected for them.
    """
    by_reason = {reason: {"count": 0, "examples": []} for reason in reasons}
    for reject in self.rejects:
      found = by_reason.setdefault(reject["reason"], {"count": 0, "examples": []})
      found["count"] += 1
      if len(found["examples"]) < EXAMPLES:
        found["examples"].append({name: reject[name] for name in ("file", "caption", "text")})
    mcq = (row for row in self.rows if row["subtype"].endswith("-MCQ.json"))
    letters = collections.Counter(row["answer"][0] for row in mcq)
    report = {
      **report,
      "kept": len(self.rows),
      "rejected": len(self.rejects),
      "letters": dict(sorted(letters.items())),
      "rejects": dict(sorted(by_reason.items(), key=lambda item: -item[1]["count"])),
    }
    with files.replacing(folder / "rows.json") as file:
      for i, row in enumerate(self.rows):
        file.write((",\n " if i else "[\n ") + json.dumps(row, ensure_ascii=False))
      file.write("\n]\n" if self.rows else "[]\n")
    with files.replacing(folder / "rejects.jsonl") as file:
      file.writelines(json.dumps(reject) + "\n" for reject in self.rejects)
    files.write_json(folder / "report.json", report)
    return report


def digest(captions: Iterable[Caption]) -> str:
  """SHA-256 of the captions in their order."""
  found = hashlib.sha256()
  for caption in captions:
    found.update(caption.key.encode())
  return found.hexdigest()


def write(
  folder: Path,
  replies: Iterable[tuple[Caption, Reply]],
  *,
  settings: dict[str, Any],
  repeat_share: float,
  clips: int,
  report: dict[str, Any],
) -> dict[str, Any]:
  """Parses and filters all replies, and writes the rows; the report.

  A question may be kept with the same answer for repeat_share of the clips.
  """
  kind: Kind = settings["kind"]
  notes = {f"_{name}": settings[name] for name in ("type", "prompt", "model")}
  repetition = filters.RepetitionFilter(max(LEAST_REPEATS, int(repeat_share * clips)))
  counts = collections.Counter()
  results = Results()
  for caption, reply in replies:
    cut_off = reply.finish_reason == "length"
    before = len(results.rows)
    for item in parse(reply.completion, kind, cut_off):
      if isinstance(item, Reject):
        results.reject(item.reason, caption.file, caption.text, item.text)
        continue
      question, answer = item.fields()
      reason = filters.reject_reason(item) or repetition.reject_reason(item, caption.file)
      if reason:
        results.reject(reason, caption.file, caption.text, f"{question} | {answer}")
        continue
      values = (caption.taskname, caption.file, "", caption.text, "", question, answer)
      subtype = f"{caption.source}-{_SUBTYPES[kind]}.json"
      results.rows.append({**dict(zip(FIELDS, (*values, subtype), strict=True)), **notes})
    kept = len(results.rows) - before
    counts["cut off"] += cut_off
    counts[f"with {QUESTIONS} rows" if kept == QUESTIONS else "with fewer"] += 1
  report = {**settings, **report, "completions": counts}
  return results.write(folder, report, filters.REASONS)


def _read(folder: Path, kind: Kind) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """The report and the rows of a folder of results."""
  report = files.read_json(folder / "report.json", "the report of finished results")
  rows = files.read_json(folder / "rows.json", "rows of finished results")
  if report["kind"] != kind:
    raise DataError(f"{folder}: is of kind {report['kind']}, not {kind}: change --kind")
  return report, rows


def compose(folder: Path, folders: list[Path], kind: Kind) -> dict[str, Any]:
  """Type 4: the rows of types 1, 2 and 3 in one file, each question and answer of a clip once.

  Returns the report. Raises DataError unless the folders are one of each type, of one kind and the
  same captions.
  """
  parts = [(path, *_read(path, kind)) for path in folders]
  parts.sort(key=lambda part: part[1]["type"])
  types = tuple(report["type"] for _, report, _ in parts)
  if types != PARTS:
    given = ", ".join(map(str, types)) or "none"
    raise DataError(f"type 4 is made of types 1, 2 and 3, and --part names {given}: give each once")
  if folder.resolve() in {path.resolve() for path in folders}:
    raise DataError(f"{folder}: is a part itself: name another --output")
  first_path, first, _ = parts[0]
  for path, report, _ in parts[1:]:
    if report["captions_sha256"] != first["captions_sha256"]:
      raise DataError(f"{path}: was made of other captions than {first_path}: make it again")
  seen, results = set(), Results()
  for row in (row for _, _, rows in parts for row in rows):
    pair = tuple(row[field] for field in ("filepath1", "input", "answer"))
    if pair in seen:
      text = f"{row['input']} | {row['answer']}"
      results.reject("also of an earlier type", row["filepath1"], row["caption1"], text)
    else:
      seen.add(pair)
      results.rows.append(row)
  made = {
    str(report["type"]): {name: report[name] for name in ("model", "prompt", "kept")}
    for _, report, _ in parts
  }
  same = {name: first[name] for name in ("kind", "captions", "captions_sha256")}
  return results.write(folder, {"type": 4, **same, "parts": made})
