"""Writes the rows made of replies, and reports what became of every question.

A folder of results holds `rows.json` (ReasonAQA's schema; the notes _type, _prompt and _model say
how a row was made), `rejects.jsonl` (each question that gave no row, with the reason) and
`report.json`. They depend on the captions and the replies alone, in the order of the captions.
"""

import collections
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from mellow_jax import files
from mellow_jax.data.records import FIELDS
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.llm import filters, leftovers
from mellow_jax.reasonaqa.llm.caption_files import Caption
from mellow_jax.reasonaqa.llm.endpoint import Reply
from mellow_jax.reasonaqa.llm.parse import parse
from mellow_jax.reasonaqa.llm.prompt import QUESTIONS, Kind
from mellow_jax.reasonaqa.llm.qa_pairs import Reject

EXAMPLES = 5  # of each reason, in the report
PARTS = (1, 2, 3)  # the types that type 4 is composed of
# What a report of one of them says of the run, beside its counts.
OF_RUN = ("type", "kind", "prompt", "model", "captions", "captions_sha256")
_REASONS = (*filters.REASONS, leftovers.CAPTION)  # reported even where nothing is rejected for them
_SUBTYPES = {"mcq": "MCQ", "detail": "Detail"}


class Results:
  """Writes rows and rejects one by one, and counts them."""

  def __init__(self, add_row: Callable[[dict[str, Any]], None], rejects: IO[str]):
    self._add_row, self._rejects = add_row, rejects
    self.kept = 0
    self._letters = collections.Counter()
    self._by_reason = {reason: {"count": 0, "examples": []} for reason in _REASONS}

  def keep(self, row: dict[str, Any]) -> None:
    """Adds a row."""
    self._add_row(row)
    self.kept += 1
    if row.get("subtype", "").endswith("-MCQ.json"):
      self._letters[row["answer"][0]] += 1

  def reject(self, reason: str, file: str, caption: str, text: str) -> None:
    """Adds a reject."""
    where = {"file": file, "caption": caption, "text": text}
    self._rejects.write(json.dumps({"reason": reason, **where}) + "\n")
    found = self._by_reason.setdefault(reason, {"count": 0, "examples": []})
    found["count"] += 1
    if len(found["examples"]) < EXAMPLES:
      found["examples"].append(where)

  def counts(self) -> dict[str, Any]:
    """How many were kept and rejected, right answers by letter, and rejects by reason."""
    return {
      "kept": self.kept,
      "rejected": sum(found["count"] for found in self._by_reason.values()),
      "letters": dict(sorted(self._letters.items())),
      "rejects": dict(sorted(self._by_reason.items(), key=lambda item: -item[1]["count"])),
    }


@contextlib.contextmanager
def writing(folder: Path, report: dict[str, Any]) -> Iterator[Results]:
  """The results of a folder to add to; once the block ends, its three files are written.

  report, to which the block may add, gets the counts and is written as well.
  """
  with (
    files.json_list(folder / "rows.json") as add_row,
    files.replacing(folder / "rejects.jsonl") as rejects,
  ):
    results = Results(add_row, rejects)
    yield results
  report |= results.counts()
  files.write_json(folder / "report.json", report)


def summary(folder: Path, report: dict[str, Any]) -> str:
  """The lines in which a command says what it wrote."""
  source = next(f"{report[name]} {name}" for name in ("questions", "captions") if name in report)
  if report.get("not_judged"):
    source += f" and {report['not_judged']} of other kinds"
  lines = [f"{folder / 'rows.json'}: {report['kept']} rows from {source}"]
  if report["letters"]:
    total = sum(report["letters"].values())
    shares = (f"{letter} {n / total:.1%}" for letter, n in report["letters"].items())
    lines.append(f"right answers by letter: {', '.join(shares)}")
  for reason, found in report["rejects"].items():
    example = f", such as: {found['examples'][0]['text'][:100]!r}" if found["count"] else ""
    lines.append(f"{found['count']:>7} {reason}{example}")
  if report.get("unanswered"):
    lines.append(f"{len(report['unanswered']):>7} captions without an answer")
  lines += [f"{name}: {value}" for name, value in report.get("spent", {}).items()]
  return "\n".join(lines)


def digest(captions: Iterable[Caption]) -> str:
  """SHA-256 of the captions in their order."""
  found = hashlib.sha256()
  for caption in captions:
    found.update(caption.key.encode())
  return found.hexdigest()


def of_replies(
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
  repetition = filters.RepetitionFilter(repeat_share, clips)
  counts = collections.Counter()
  report = {**settings, **report, "completions": counts}
  with writing(folder, report) as results:
    for caption, reply in replies:
      cut_off = reply.finish_reason == "length"
      before = results.kept
      for item in parse(reply.completion, kind, cut_off, caption.text):
        if isinstance(item, Reject):
          results.reject(item.reason, caption.file, caption.text, item.text)
          continue
        question, answer = item.fields()
        if reason := filters.reject_reason(item) or repetition.reject_reason(item, caption.file):
          results.reject(reason, caption.file, caption.text, f"{question} | {answer}")
          continue
        values = (caption.taskname, caption.file, "", caption.text, "", question, answer)
        subtype = f"{caption.source}-{_SUBTYPES[kind]}.json"
        results.keep({**dict(zip(FIELDS, (*values, subtype), strict=True)), **notes})
      kept = results.kept - before
      counts["cut off"] += cut_off
      counts[f"with {QUESTIONS} rows" if kept == QUESTIONS else "with fewer"] += 1
  return report


def _read(folder: Path, kind: Kind) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """The report and the rows of a folder of results."""
  report = files.read_json(folder / "report.json", "the report of finished results")
  rows = files.read_json(folder / "rows.json", "rows of finished results")
  if not isinstance(report, dict) or not {*OF_RUN, "kept"} <= {*report}:
    raise DataError(
      f"{folder / 'report.json'}: is not of a run of type 1, 2 or 3: name the --output of one, or "
      "of `mellow reasonaqa filter` for the rows.json in it"
    )
  if report["kind"] != kind:
    raise DataError(f"{folder}: is of kind {report['kind']}, not {kind}: change --kind")
  for number, row in enumerate(rows if isinstance(rows, list) else [None]):
    if not (isinstance(row, dict) and all(isinstance(row.get(name), str) for name in FIELDS)):
      raise DataError(
        f"{folder / 'rows.json'}, row {number} (from 0): has not ReasonAQA's fields as texts: mend "
        "or drop it"
      )
  return report, rows


def run_of(path: Path, rows: int) -> dict[str, Any]:
  """What the report beside a file of rows says of the run that made them, ready for theirs.

  Nothing where there is none, or where it counts other rows than the file has now.
  """
  beside = path.with_name("report.json")
  if path.name != "rows.json" or not beside.is_file():
    return {}
  report = files.read_json(beside, "the report of finished results")
  is_of_run = isinstance(report, dict) and {*OF_RUN} <= {*report} and report.get("kept") == rows
  return {name: report[name] for name in OF_RUN} if is_of_run else {}


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
  made = {
    str(report["type"]): {name: report[name] for name in ("model", "prompt", "kept")}
    for _, report, _ in parts
  }
  same = {name: first[name] for name in ("kind", "captions", "captions_sha256")}
  report, seen = {"type": 4, **same, "parts": made}, set()
  with writing(folder, report) as results:
    for row in (row for _, _, rows in parts for row in rows):
      pair = tuple(row[field] for field in ("filepath1", "input", "answer"))
      if pair in seen:
        text = f"{row['input']} | {row['answer']}"
        results.reject("also of an earlier type", row["filepath1"], row["caption1"], text)
      else:
        seen.add(pair)
        results.keep(row)
  return report
