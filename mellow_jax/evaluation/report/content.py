"""The report on a predictions file, as tables, as Markdown and as JSON."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mellow_jax
from mellow_jax.evaluation.benchmarks import catalogue
from mellow_jax.evaluation.benchmarks.prediction_files import PredictionSet
from mellow_jax.evaluation.metrics import calibration, intervals, multiple_choice
from mellow_jax.evaluation.metrics.coco_java import Settings
from mellow_jax.evaluation.report import grounding, sections, summary
from mellow_jax.evaluation.report.grounding import Grounding
from mellow_jax.evaluation.report.summary import SectionReport

TEXT = "closeness to the references, 0 to 10"
NAMED = 5  # questions that could not be asked, in a sentence
# What a predictions file says of how it was made, and how a report says it.
SETTINGS = (
  ("checkpoint_sha256", "checkpoint"),
  ("preset", "preset"),
  ("prompt_style", "prompts"),
  ("window", "of long clips the window"),
  ("max_new_tokens", "new tokens at most"),
  ("temperature", "temperature"),
  ("beams", "beams"),
  ("samples", "samples that voted"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreReport:
  """The content of a report, whatever form it is written in."""

  answers: PredictionSet
  parts: tuple[SectionReport, ...]
  grounding: Grounding | None  # None where no probe was given
  seed: int
  probe_files: tuple[Path, ...] = ()


def make(
  answers: PredictionSet, probes: Sequence[PredictionSet], settings: Settings, seed: int
) -> ScoreReport:
  """Scores a predictions file and its probes; raises PredictionsError where these do not fit."""
  found = grounding.measure(answers, probes, settings, seed) if probes else None
  parts = [summary.summarise(one, settings, seed) for one in sections.split(answers.predictions)]
  paths = tuple(probe.path for probe in probes)
  return ScoreReport(
    answers=answers, parts=tuple(parts), grounding=found, seed=seed, probe_files=paths
  )


def title(report: ScoreReport) -> str:
  """The benchmark's name and what it is; of a part of its items, which."""
  name, part = report.answers.benchmark, of_a_part(report)
  known = catalogue.BENCHMARKS.get(name)
  said = f"{name}: {known.about}" if known and name != "table" else name
  return f"{said} ({part})" if part else said


def of_a_part(report: ScoreReport) -> str:
  """Which of the benchmark's items a run was asked or answers, where not all; "" for all."""
  run, found = report.answers, []
  if limit := run.settings.get("limit"):
    found.append(f"the first {limit} items")
  if run.settings.get("quarantine_sha256"):
    found.append("without rows in quarantine")
  if missing := run.settings.get("missing_audio"):
    found.append(f"without items about {len(missing)} absent clips")
  if run.unanswered and not found:  # else those left out are among them
    found.append(f"without {run.unanswered} items that have no answer")
  return ", ".join(found)


def number(value: float | None, unit: str) -> str:
  """A figure as it is printed: percentages with one digit, others with four."""
  if value is None:
    return "n/a"
  return f"{value:.1f}%" if unit == "%" else f"{value:.4f}"


def span(low: float | None, high: float | None, unit: str) -> str:
  """An interval as it is printed."""
  if low is None or high is None:
    return ""
  digits = 1 if unit == "%" else 4
  return f"{low:.{digits}f} to {high:.{digits}f}"


def summary_texts(report: ScoreReport) -> list[tuple[str, str]]:
  """What was measured, how, and how sure, each in a few sentences."""
  run, parts = report.answers, report.parts
  items, answers = sum(part.items for part in parts), sum(part.answers for part in parts)
  kinds = ", ".join(f"{part.items} {part.name}" for part in parts)
  what = [f"{items} items ({kinds}), answered in {run.path.name}."]
  if answers > items:
    what.append(
      f"Options came in several orders or sets: {answers} answers; an item's score is their mean."
    )
  if changed := grounding.label(run):
    what.append(f"This run is a probe: {changed}.")
  what += _asked(report)
  if told := [f"{said} {run.settings[n]!s:.12}" for n, said in SETTINGS if n in run.settings]:
    what.append(f"Made with {', '.join(told)}.")
  how, ruled = [], {}
  for part in parts:
    ruled.setdefault((part.lines[0].name, part.lines[0].says), []).append(part)
  for (figure, says), mine in ruled.items():
    names = ", ".join(part.name for part in mine)
    how.append(f"{names[:1].upper()}{names[1:]} by {figure}: {says or TEXT}.")
    unread = [f for part in mine for f in part.failures if f.reason in multiple_choice.UNPARSED]
    if any(part.failures for part in mine):
      share = 100 * sum(f.count for f in unread) / sum(part.answers for part in mine)
      how.append(f"{share:.1f}% of these answers pick no option that any rule can read.")
  sure = (
    f"Intervals hold 95% of {intervals.RESAMPLES} bootstrap resamples of the items (seed "
    f"{report.seed}): how far a figure would move with other items of this kind. They say nothing "
    "of another training run, another prompt or another decoding. Where all answers are right, or "
    "all wrong, the interval is the exact binomial one; a metric of texts that is the same for all "
    "has none."
  )
  return [("What", " ".join(what)), ("How", " ".join(how)), ("How sure", sure)]


def _asked(report: ScoreReport) -> list[str]:
  """Sentences on the items that were asked, those that were not, and those without an answer."""
  run, said = report.answers, []
  if run.unanswered is None:
    said.append("Nothing says whether items are missing: --benchmark and --data would.")
  elif run.unanswered:
    said.append(unanswered(report))
  if failed := not_asked(report):
    said.append(failed)
  elif run.unanswered == 0:
    said.append(f"Every item{' that was asked' if of_a_part(report) else ''} has its answer.")
  if limit := run.settings.get("limit"):
    said.append(f"Only the first {limit} items were asked (--limit).")
  if run.settings.get("quarantine_sha256"):
    said.append("Rows in quarantine were not asked (--quarantine).")
  if missing := run.settings.get("missing_audio"):
    said.append(f"{len(missing)} clips were not there: the items about them were not asked.")
  return said


def unanswered(report: ScoreReport) -> str:
  """A sentence that counts the items without any answer; "" where there are none."""
  count = report.answers.unanswered
  return f"{count} items have no answer and are left out of every figure." if count else ""


def not_asked(report: ScoreReport) -> str:
  """A sentence that names the questions which could not be asked; "" where all were.

  They count as wrong answers: left out, a model that hears fewer clips could score higher.
  """
  predictions = report.answers.predictions
  failed = [p for p in predictions if p.failure]
  if not failed:
    return ""
  named = "; ".join(f"{p.item.id} ({p.failure})" for p in failed[:NAMED])
  more = f"; and {len(failed) - NAMED} more, all in report.json" if len(failed) > NAMED else ""
  return (
    f"{len(failed)} of {len(predictions)} questions could not be asked and count as wrong answers: "
    f"{named}{more}."
  )


def glance(report: ScoreReport) -> list[list[str]]:
  """One row a headline figure: with the clips, with each probe, and the best blind guess.

  Of text the figure with a probe is absent, as the guess is, where a section has one text alone.
  """
  losses = report.grounding.losses if report.grounding else ()
  probes = list(dict.fromkeys(loss.probe for loss in losses))
  rows = [["task", "items", "figure", "value", "95% interval", *probes, "best blind guess"]]
  for part in report.parts:
    guess = max(part.baselines.items(), key=lambda pair: pair[1], default=None)
    for place, score in enumerate(summary.headline_scores(part)):
      row = [part.name, str(part.items), score.name, number(score.value, score.unit)]
      row.append(span(score.low, score.high, score.unit))
      for probe in probes:
        own = [loss for loss in losses if (loss.section, loss.probe) == (part.name, probe)]
        row.append(number(own[place].probed, own[place].unit) if own else "")
      is_guessed = guess and place == 0
      row.append(f"{number(guess[1], score.unit)} ({guess[0]})" if is_guessed else "")
      rows.append(row)
  return rows


def probe_rows(found: Grounding) -> list[list[str]]:
  """One row a probe, section and headline figure."""
  head = [
    "task",
    "probe",
    "figure",
    "items",
    "with clips",
    "with probe",
    "difference",
    "95% interval",
  ]
  rows = [[*head, "p", "same words"]]
  for loss in found.losses:
    rows.append(
      [
        loss.section,
        loss.probe,
        loss.figure,
        str(loss.n),
        number(loss.clips, loss.unit),
        number(loss.probed, loss.unit),
        number(loss.clips - loss.probed, loss.unit).rstrip("%"),
        span(loss.low, loss.high, loss.unit),
        grounding.shown_p(loss.p),
        f"{loss.same_text:.1f}%",
      ]
    )
  return rows


def tables(part: SectionReport, of_items: str = "") -> Iterator[tuple[str, str, list[list[str]]]]:
  """(heading, what it says, rows) of a section's tables; the first row is the head.

  of_items is what `of_a_part` says, for it bears on a comparison with published figures.
  """
  rows = [["figure", "value", "95% interval", "items", "unread", ""]]
  absent: dict[str, list[str]] = {}
  for line in part.lines:
    if line.value is None:
      absent.setdefault(line.reason, []).append(line.name)
      continue
    rows.append(
      [
        line.name,
        number(line.value, line.unit),
        span(line.low, line.high, line.unit),
        str(line.n),
        "" if line.unread is None else f"{line.unread:.1f}%",
        line.says,
      ]
    )
  rows += [[", ".join(names), "n/a", "", "", "", reason] for reason, names in absent.items()]
  yield "Figures", "", rows
  if part.baselines:
    unit, name = part.lines[0].unit, part.lines[0].name
    rows = [["blind guess", name], *([k, number(v, unit)] for k, v in part.baselines.items())]
    yield "Baselines", "What answers score that hear nothing.", rows
  if part.beside:
    rows = [["figure", "of", "ours", "theirs", "model", "protocol", "source"]]
    for p, ours in part.beside:
      unit = "" if p.figure.startswith("SPICE") else "%"
      values = [number(ours, unit), number(p.value, unit)]
      rows.append([p.figure, p.group or "all", *values, p.model, p.note, p.source])
    says = "Figures that others printed, only where the same rule scored the same benchmark."
    says += f" Theirs are of all its items; ours: {of_items}." if of_items else ""
    yield "Beside published figures", says, rows
  for one in part.groups:
    unit, name = part.lines[0].unit, part.lines[0].name
    guesses = list(one.lines[0].baselines)
    rows = [[one.key, "items", name, "95% interval", one.other, *guesses]]
    for line in one.lines:
      rows.append(
        [
          line.name,
          str(line.n),
          number(line.value, unit),
          span(line.low, line.high, unit),
          number(line.other, unit),
          *(number(line.baselines[guess], unit) for guess in guesses),
        ]
      )
    yield f"By {one.key}", "", rows
  if part.failures:
    rows = [["reason", "answers", "share", "what it is", "an example"]]
    for f in part.failures:
      rows.append([f.reason, str(f.count), f"{f.share:.1f}%", f.says, f.example])
    says = "Answers that do not plainly pick an option; H is the paper's Appendix H."
    yield "Instruction following", says, rows
  if part.calibration:
    rows = [["mean probability of the most probable option", "share that is right", "choices"]]
    rows += [[f"{b.confidence:.3f}", f"{b.accuracy:.3f}", str(b.count)] for b in part.calibration]
    yield "Calibration", calibration_text(part), rows
  rows = [["question", "expected", "said", part.lines[0].name]]
  for e in part.examples:
    judged = {0.0: "wrong", 100.0: "right"} if part.lines[0].unit == "%" else {}
    rows.append([e.question, e.expected, e.said, judged.get(e.score) or number(e.score, "")])
  yield "Examples", "Drawn at random; the worst of them first.", rows


def plain_table(rows: Sequence[Sequence[str]]) -> str:
  """Rows in columns of equal width, for a terminal."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  head, *body = rows
  lines = [zip(row, widths, strict=True) for row in (head, ["-" * n for n in widths], *body)]
  return "\n".join("  ".join(cell.ljust(n) for cell, n in line).rstrip() for line in lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
  """Rows as a table of Markdown; the first is its head."""
  cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
  head, *body = [f"| {' | '.join(row)} |" for row in cells]
  return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])


def markdown(report: ScoreReport) -> str:
  """The report as Markdown."""
  blocks = [f"# {title(report)}"]
  blocks += [f"**{name}.** {text}" for name, text in summary_texts(report)]
  blocks.append(markdown_table(glance(report)))
  if report.grounding:
    blocks += report.grounding.sentences
    blocks += ["## Does it listen?", markdown_table(probe_rows(report.grounding))]
  for part in report.parts:
    blocks.append(f"## {part.name[:1].upper()}{part.name[1:]}")
    for heading, says, rows in tables(part, of_a_part(report)):
      blocks += [f"### {heading}", says, markdown_table(rows)]
  return "\n\n".join(block for block in blocks if block) + "\n"


def calibration_text(part: SectionReport) -> str:
  """The expected calibration error of a section, in a sentence."""
  error = calibration.expected_error(part.calibration)
  count = sum(one.count for one in part.calibration)
  told = f" Of {count} of {part.answers} questions: the others could not be asked."
  return (
    f"Expected calibration error {error:.4f} in {calibration.BINS} bins, of the options' "
    "probabilities at temperature 1; mellow calibrate fits another."
    f"{told if count < part.answers else ''}"
  )


def to_json(report: ScoreReport) -> dict[str, Any]:
  """The report as JSON: every figure unrounded."""
  run = report.answers
  return {
    "mellow_jax": mellow_jax.__version__,
    "benchmark": run.benchmark,
    "predictions": {"file": run.path.name, "sha256": run.sha256, "settings": run.settings},
    "probe_files": [str(path.resolve()) for path in report.probe_files],
    "unanswered": run.unanswered,
    "not_asked": {p.item.id: p.failure for p in run.predictions if p.failure},
    "interval": {"level": intervals.LEVEL, "resamples": intervals.RESAMPLES, "seed": report.seed},
    "sections": [
      {
        **dataclasses.asdict(part),
        "beside": [{**dataclasses.asdict(p), "ours": ours} for p, ours in part.beside],
      }
      for part in report.parts
    ],
    "probes": dataclasses.asdict(report.grounding) if report.grounding else None,
  }
