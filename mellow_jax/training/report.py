"""Report of a training run on one page: curves, speed, use of time, answers over time.

  python -m mellow_jax.training.report --workdir=runs/demo

Training writes the page at its end; the command writes it at any time, also of a run under way.
`report.html` holds everything it shows and needs no network.
"""

import base64
import collections
import html
import io
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from mellow_jax import cli, files
from mellow_jax.errors import DataError, FlagsError

POINTS = 400  # of a curve at the most; longer ones are averaged

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2430; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th { text-align: left }
td, th { padding: .3rem .6rem; border-bottom: 1px solid #dde2e8; vertical-align: top }
td.right { background: #e4f4e4 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.bar { display: flex; height: 1.6rem; border-radius: 4px; overflow: hidden }
span.right { background: #e4f4e4 } small { color: #5a6472; display: block }
audio { display: block; width: 15rem; max-width: 100%; height: 2rem; margin: .2rem 0 }
.wide { overflow-x: auto } svg { max-width: 100%; height: auto }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr));
          gap: .6rem } .panels svg { width: 100% }
table.narrow { width: auto }
details { margin-top: 2rem } pre { overflow-x: auto }
@media (max-width: 40rem) {  /* a phone: rows of answers become blocks */
  .answers th { display: none } .answers td { display: block; border: 0 }
  .answers td::before { content: attr(data-name); display: block; color: #5a6472;
                        font-size: 80% }
  .answers tr { display: block; border-bottom: 1px solid #dde2e8 }
}
"""
COLOURS = {
  "start": "#8a8f98",
  "train": "#3a7d44",
  "data": "#d98032",
  "compile": "#7b6fb0",
  "save": "#c0504d",
  "evaluate": "#4f81bd",
}


def _curve(lines: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
  """(steps, values) of a metric; more than POINTS are averaged in equal parts."""
  found = np.array([(line["step"], line[name]) for line in lines if name in line]).reshape(-1, 2)
  if len(found) > POINTS:
    found = np.stack([part.mean(axis=0) for part in np.array_split(found, POINTS)])
  return found[:, 0], found[:, 1]


def svg(figure: Figure) -> str:
  """A figure as SVG that stands within its page: the same figure, the same bytes."""
  text = io.StringIO()
  with matplotlib.rc_context({"svg.hashsalt": "mellow_jax"}):
    figure.savefig(text, format="svg", metadata={"Date": None})
  return text.getvalue()[text.getvalue().index("<svg") :]


def _panel(lines: Sequence[dict[str, Any]], names: dict[str, str], title: str, **axis: Any) -> str:
  """A picture of its own of some metrics, as wide as a phone; axis: settings of its y axis."""
  figure = Figure(figsize=(4.2, 2.9), layout="constrained")
  ax = figure.subplots()
  for name, label in names.items():
    steps, values = _curve(lines, name)
    if len(steps):
      ax.plot(steps, values, ".-" if len(steps) < 40 else "-", label=label, linewidth=1.3)
  ax.set_title(title, loc="left", fontsize=11)
  ax.set_xlabel("step", fontsize=9)
  ax.tick_params(labelsize=9)
  ax.grid(alpha=0.25)
  ax.spines[["top", "right"]].set_visible(False)
  ax.set(**axis)
  if len(names) > 1 and ax.lines:
    ax.legend(fontsize=9, frameon=False)
  return svg(figure)


def _curves(metrics: list[dict[str, Any]], times: list[dict[str, Any]]) -> str:
  loss = {"loss": "training", "val_loss": "validation"}
  is_positive = all(line[name] > 0 for line in metrics for name in loss if name in line)
  scale = {"yscale": "log"} if is_positive else {}
  right = [{**x, "val_accuracy": 100 * x["val_accuracy"]} for x in metrics if "val_accuracy" in x]
  panels = [
    _panel(metrics, loss, "loss, nats an answer token", **scale),
    _panel(right, {"val_accuracy": "accuracy"}, "held-out answers right, %", ylim=(0, 102)),
    _panel(metrics, {"grad_norm": "gradient norm"}, "gradient norm, before clipping"),
    _panel(metrics, {"learning_rate": "learning rate"}, "learning rate"),
    _panel(
      times, {"examples_per_s": "speed"}, "examples/s, waiting for data included", ylim=(0, None)
    ),
  ]
  return f'<div class="panels">{"".join(panels)}</div>'


def _spent(times: list[dict[str, Any]]) -> dict[str, float]:
  """Seconds by activity, summed over every start of the run."""
  total: collections.Counter[str] = collections.Counter()
  seconds = [line["seconds"] for line in times]
  for one, after in zip(seconds, [*seconds[1:], None], strict=True):
    # Each start counts from zero: its total stands in its last line. Lines of older versions do not
    # tell how long it took.
    if (
      after is None
      or after.get("start") != one.get("start")
      or sum(after.values()) < sum(one.values())
    ):
      total.update(one)
  return dict(total)


def _goodput(times: list[dict[str, Any]]) -> str:
  seconds = _spent(times)
  total = sum(seconds.values())
  bar = "".join(
    f'<div style="width:{100 * value / total:.2f}%;background:{COLOURS.get(name, "#999")}" '
    f'title="{name}"></div>'
    for name, value in seconds.items()
  )
  rows = "".join(
    f'<tr><td><span style="color:{COLOURS.get(name, "#999")}">&#9632;</span> {html.escape(name)}'
    f'</td><td class="number">{value:.1f} s</td>'
    f'<td class="number">{100 * value / total:.1f}%</td></tr>'
    for name, value in seconds.items()
  )
  return (
    f"<h2>Where the time went</h2><p>{100 * seconds['train'] / total:.1f}% of "
    f"{total:.0f} s trained (goodput). Where the run was killed, the time since the last log "
    f'line is not counted.</p><div class="bar">{bar}</div><table>{rows}</table>'
  )


def _validations(metrics: list[dict[str, Any]]) -> str:
  """A row for each validation: loss, and answers that are right."""
  rows = [
    f'<tr><td class="number">{line["step"]}</td><td class="number">{line["val_loss"]:.4f}</td>'
    f'<td class="number">{_right(line)}</td></tr>'
    for line in metrics
    if "val_loss" in line
  ]
  if not rows:
    return ""
  head = "".join(f'<th class="number">{name}</th>' for name in ("step", "loss", "right"))
  return (
    "<h2>Validation</h2><p>Held-out questions; an answer is right that is word for word as "
    f"expected, its end included.</p><table class=narrow><tr>{head}</tr>{''.join(rows)}</table>"
  )


def _right(line: dict[str, Any]) -> str:
  """The accuracy of a validation, with the number of answers; "" where an older run has none."""
  if "val_accuracy" not in line:
    return ""
  answers = line["val_answers"]
  return f"{100 * line['val_accuracy']:.1f}% ({round(line['val_accuracy'] * answers)} of {answers})"


def _answers(answers: list[dict[str, Any]], workdir: pathlib.Path) -> str:
  """A row for each sample question, with its clips and the answers of every validation."""
  table: dict[tuple, dict[int, str]] = {}  # answers by step
  for step, lines in itertools.groupby(answers, key=lambda line: line["step"]):
    seen: collections.Counter[tuple] = collections.Counter()
    for line in lines:
      clips = tuple((line.get(f"clip{i}"), line.get(f"audio{i}")) for i in (1, 2))
      key = (clips, line["question"], line["expected"])
      seen[key] += 1  # runs of older versions do not name the clips: several look alike
      table.setdefault((*key, seen[key]), {})[step] = line["answer"]
  rows = []
  for (clips, question, expected, _), given in table.items():
    heard = "".join(_player(workdir, name, file) for name, file in clips if name)
    cells = (heard, html.escape(question), html.escape(expected), _over_time(given, expected))
    named = zip(("clip", "question", "expected", "answers"), cells, strict=True)
    rows.append(f"<tr>{''.join(f'<td data-name={name}>{cell}</td>' for name, cell in named)}</tr>")
  return (
    "<h2>Answers over time</h2><p>Held-out questions, the clips as the model hears them, and the "
    "answers of each validation; green: word for word as expected.</p>"
    '<div class="wide"><table class="answers">'
    "<tr><th>clip</th><th>question</th><th>expected</th><th>answers</th></tr>"
    f"{''.join(rows)}</table></div>"
  )


def _player(workdir: pathlib.Path, name: str, file: str | None) -> str:
  """The name of a clip and a player that holds the clip, where the run has kept it."""
  path = workdir / (file or "")
  if not path.is_file():
    return html.escape(name)
  data = base64.b64encode(path.read_bytes()).decode()
  sound = f'<audio controls preload="none" src="data:audio/flac;base64,{data}"></audio>'
  return f"{html.escape(name)}{sound}"


def _over_time(given: dict[int, str], expected: str) -> str:
  """The answers of each step, those that stay the same together."""
  parts = []
  for answer, steps in itertools.groupby(sorted(given), key=given.__getitem__):
    first, *_, last = [*steps] * 2
    span = f"step {first}" if first == last else f"steps {first} to {last}"
    kind = "right" if answer == expected else ""
    parts.append(
      f'<small>{span}</small><span class="{kind}">{html.escape(answer) or "(none)"}</span>'
    )
  return "".join(parts)


def _bad(workdir: pathlib.Path) -> str:
  lines = [
    line for path in sorted(workdir.glob("bad_records*.jsonl")) for line in files.read_lines(path)
  ]
  if not lines:
    return ""
  counts = collections.Counter(line["reason"] for line in lines)
  rows = "".join(
    f'<tr><td>{html.escape(reason)}</td><td class="number">{count}</td></tr>'
    for reason, count in counts.most_common()
  )
  return (
    f"<h2>Clips that could not be used</h2><p>{len(lines)} files, each left out with its text; "
    f"bad_records.jsonl names them.</p><table>{rows}</table>"
  )


def render(workdir: pathlib.Path) -> str:
  """The page of a run's folder, as HTML.

  Raises DataError where the folder holds no metrics.
  """
  metrics = files.read_lines(workdir / "metrics.jsonl")
  if not metrics:
    raise DataError(f"{workdir}/metrics.jsonl: no metrics: give the --workdir of a training run")
  times, answers = (
    files.read_lines(workdir / "times.jsonl"),
    files.read_lines(workdir / "answers.jsonl"),
  )
  settings = (workdir / "run.json").read_text() if (workdir / "run.json").exists() else "{}"
  losses = [line["loss"] for line in metrics if "loss" in line]
  checked = [line for line in metrics if "val_loss" in line]
  val = [(line["val_loss"], line["step"]) for line in checked]
  loss = f"loss {losses[-1]:.4f}" if losses else "no step with a finite loss"
  facts = [f"{max(line['step'] for line in metrics)} steps", loss]
  if val:
    facts.append(
      f"validation loss {val[-1][0]:.4f}, lowest {min(val)[0]:.4f} at step {min(val)[1]}"
    )
    if _right(checked[-1]):
      facts.append(f"{_right(checked[-1])} held-out answers right")
  timed = [line for line in times if line["examples_per_s"]]  # else all steps were compilations
  if timed:
    facts.append(f"{timed[-1]['examples_per_s']:.1f} examples/s")
  return "".join(
    [
      '<!doctype html><html lang="en"><meta charset="utf-8">',
      '<meta name="viewport" content="width=device-width">',
      f"<title>{html.escape(workdir.name)}</title><style>{STYLE}</style>",
      f"<h1>{html.escape(workdir.name)}</h1><p>{', '.join(facts)}</p>",
      _curves(metrics, timed),
      _validations(metrics),
      _answers(answers, workdir) if answers else "",
      _goodput(times) if times else "",
      _bad(workdir),
      "<details><summary>Every setting</summary>",
      f"<pre>{html.escape(settings)}</pre></details></html>\n",
    ]
  )


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Writes the page of a run's folder into it; raises DataError as render does."""
  path = workdir / "report.html"
  files.write_text(path, render(workdir))
  return path


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  flags.DEFINE_string("workdir", None, "Folder of a training run.", flag_values=f)
  return f


def _report(f: flags.FlagValues) -> None:
  if not f.workdir:
    raise FlagsError("--workdir is missing: name the folder of a training run")
  print(write(pathlib.Path(f.workdir)))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _report, example="--workdir=DIR", waits_for="drawing")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
