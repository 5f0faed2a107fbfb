"""Makes rows of completions, and says what became of every question.

A folder of results holds `rows.json` (ReasonAQA's schema; the notes _type, _prompt and _model say
how a row was made), `rejects.jsonl` (each question that is no row, and why) and `report.json`. They
follow from the captions and the completions alone, in the order of the captions.
"""

import collections
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mellow_jax.data.records import FIELDS
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.llm import completions, filters
from mellow_jax.reasonaqa.llm.caption_files import Caption
from mellow_jax.reasonaqa.llm.completions import Reject
from mellow_jax.reasonaqa.llm.endpoint import Answer
from mellow_jax.reasonaqa.llm.instructions import QUESTIONS, Kind

EXAMPLES = 5  # of each reason, in the report
LEAST_REPEATS = 5  # clips that may share a question and its answer, however few clips there are
PARTS = (1, 2, 3)  # the types that type 4 is made of
_SUBTYPES = {"mcq": "MCQ", "detail": "Detail"}


class Results:
  """The three files of a folder, which appear together when all is written."""

  def __init__(self, folder: Path, reasons: Iterable[str] = ()):
    """Begins the files; the reasons stand in the report though nothing is rejected for them."""
    self._folder = folder
    self._parts = {name: folder / f"{name}.part" for name in ("rows.json", "rejects.jsonl")}
    self._rows = self._parts["rows.json"].open("w", encoding="utf-8")
    self._rejects = self._parts["rejects.jsonl"].open("w", encoding="utf-8")
    self.kept = 0
    self.letters = collections.Counter()
    self.reasons: dict[str, dict[str, Any]] = {}
    for reason in reasons:
      self.reasons[reason] = {"count": 0, "examples": []}

  def __enter__(self) -> "Results":
    return self

  def __exit__(self, *exception: object) -> None:
    self._rows.close()
    self._rejects.close()

  def keep(self, row: dict[str, Any]) -> None:
    """Adds a row."""
    self._rows.write((",\n " if self.kept else "[\n ") + json.dumps(row, ensure_ascii=False))
    self.kept += 1
    if row["subtype"].endswith("-MCQ.json"):
      self.letters[row["answer"][0]] += 1

  def reject(self, reason: str, file: str, caption: str, text: str) -> None:
    """Adds a reject, and counts it."""
    line = {"reason": reason, "file": file, "caption": caption, "text": text}
    self._rejects.write(json.dumps(line) + "\n")
    found = self.reasons.setdefault(reason, {"count": 0, "examples": []})
    found["count"] += 1
    if len(found["examples"]) < EXAMPLES:
      found["examples"].append({"file": file, "caption": caption, "text": text})

  def finish(self, report: dict[str, Any]) -> dict[str, Any]:
    """Puts all files in their places; the report with what was counted here."""
    self._rows.write("\n]\n" if self.kept else "[]\n")
    self.__exit__()
    report = {
      **report,
      "kept": self.kept,
      "rejected": sum(found["count"] for found in self.reasons.values()),
      "letters": dict(sorted(self.letters.items())),
      "rejects": dict(sorted(self.reasons.items(), key=lambda item: -item[1]["count"])),
    }
    part = self._folder / "report.json.part"
    part.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in [*self._parts.values(), part]:
      path.replace(path.with_suffix(""))
    return report


def digest(captions: Iterable[Caption]) -> str:
  """Of the captions and their order."""
  found = hashlib.sha256()
  for caption in captions:
    found.update(caption.key.encode())
  return found.hexdigest()


def write(
  folder: Path,
  answers: Iterable[tuple[Caption, Answer]],
  *,
  settings: dict[str, Any],
  repeat_share: float,
  clips: int,
  report: dict[str, Any],
) -> dict[str, Any]:
  """Reads, judges and writes what all answers hold; the report.

  A question may be kept with the same answer for repeat_share of the clips.
  """
  kind: Kind = settings["kind"]
  notes = {f"_{name}": settings[name] for name in ("type", "prompt", "model")}
  repetition = filters.Repetition(max(LEAST_REPEATS, int(repeat_share * clips)))
  counts = collections.Counter()
  with Results(folder, filters.REASONS) as results:
    for caption, answer in answers:
      cut_off = answer.finish_reason == "length"
      counts["cut off"] += cut_off
      before = results.kept
      for item in completions.parse(answer.completion, kind, cut_off):
        if isinstance(item, Reject):
          results.reject(item.reason, caption.file, caption.text, item.text)
          continue
        question, said = item.fields()
        reason = filters.fault(item) or repetition.fault(item, caption.file)
        if reason:
          results.reject(reason, caption.file, caption.text, f"{question} | {said}")
          continue
        values = (caption.taskname, caption.file, "", caption.text, "", question, said)
        subtype = f"{caption.source}-{_SUBTYPES[kind]}.json"
        results.keep({**dict(zip(FIELDS, (*values, subtype), strict=True)), **notes})
      kept = results.kept - before
      counts[f"with {QUESTIONS} rows" if kept == QUESTIONS else "with fewer"] += 1
    return results.finish({**settings, **report, "completions": dict(counts)})


def _part(folder: Path, kind: Kind) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """The report and the rows of a folder of results."""
  try:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise DataError(f"{folder}: holds no finished results ({error}): synthesize them") from None
  if report["kind"] != kind:
    raise DataError(f"{folder}: is of kind {report['kind']}, not {kind}: change --kind")
  return report, rows


def _composed(
  parts: list[tuple[Path, dict[str, Any], list[dict[str, Any]]]],
) -> Iterator[tuple[dict[str, Any], bool]]:
  """(row, whether an earlier type has it too) of all parts."""
  seen = set()
  for _, _, rows in parts:
    for row in rows:
      same = tuple(row[field] for field in ("filepath1", "input", "answer"))
      yield row, same in seen
      seen.add(same)


def compose(folder: Path, folders: list[Path], kind: Kind) -> dict[str, Any]:
  """Type 4: the rows of types 1, 2 and 3 in one file, each question and answer of a clip once.

  Raises DataError unless the folders are one of each type, of one kind and the same captions.
  """
  parts = sorted(((path, *_part(path, kind)) for path in folders), key=lambda part: part[1]["type"])
  types = tuple(report["type"] for _, report, _ in parts)
  if types != PARTS:
    given = ", ".join(map(str, types)) or "none"
    raise DataError(f"type 4 is made of types 1, 2 and 3, and --part names {given}: give each once")
  if folder.resolve() in {path.resolve() for path in folders}:
    raise DataError(f"{folder}: is a part itself: name another --output")
  for path, report, _ in parts[1:]:
    if report["captions_sha256"] != parts[0][1]["captions_sha256"]:
      raise DataError(f"{path}: was made of other captions than {parts[0][0]}: make it again")
  made = {
    str(report["type"]): {name: report[name] for name in ("model", "prompt", "kept")}
    for _, report, _ in parts
  }
  first = parts[0][1]
  same = {name: first[name] for name in ("kind", "captions", "captions_sha256")}
  folder.mkdir(parents=True, exist_ok=True)
  with Results(folder) as results:
    for row, again in _composed(parts):
      if again:
        text = f"{row['input']} | {row['answer']}"
        results.reject("also of an earlier type", row["filepath1"], row["caption1"], text)
      else:
        results.keep(row)
    return results.finish({"type": 4, **same, "parts": made})
