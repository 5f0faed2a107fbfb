"""A report as one HTML page with pictures, which needs no other file and no network."""

import html
from collections.abc import Iterator, Sequence

from mellow_jax.evaluation.report import content, plots
from mellow_jax.evaluation.report.content import ScoreReport
from mellow_jax.evaluation.report.summary import SectionReport
from mellow_jax.training import report as training_report

STYLE = """
.verdict { background: #eef5ee; border-left: 4px solid #3a7d44; padding: .6rem 1rem;
           margin: 1rem 0 }
.verdict.not { background: #fbeeee; border-color: #c0504d }
.verdict.open { background: #f4f4f0; border-color: #8a8f98 }
dl { display: grid; grid-template-columns: 6rem 1fr; gap: .2rem .8rem } dd { margin: 0 }
dt { color: #5a6472 } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem } table { font-size: 13px }
dd { overflow-wrap: anywhere; min-width: 0 }
td.value { white-space: nowrap; font-variant-numeric: tabular-nums }
summary { cursor: pointer; font-weight: 600 }
p.says { color: #5a6472; margin: .2rem 0; overflow-wrap: anywhere }
svg { display: block; margin: .6rem 0 }
@media (max-width: 40rem) {  /* a phone: columns keep their width, the first stays in view */
  dl { display: block } dd { margin-bottom: .6rem }
  .wide table { width: max-content } .wide td { max-width: 15rem }
  .wide td, .wide th { padding: .3rem } .wide td:nth-child(-n+3) { max-width: 7rem }
  .wide tr > :first-child { position: sticky; left: 0; background: white }
}
"""


def _table(rows: Sequence[Sequence[str]]) -> str:
  head, *body = rows
  cells = ("".join(f"<th>{html.escape(cell)}</th>" for cell in head),)
  cells += tuple("".join(map(_cell, row)) for row in body)
  lines = "".join(f"<tr>{row}</tr>" for row in cells)
  return f'<div class="wide"><table>{lines}</table></div>'  # it scrolls, and the page does not


def _cell(cell: str) -> str:
  short = len(cell) < 18 and any(map(str.isdigit, cell))
  return f"<td{' class=value' if short else ''}>{html.escape(cell)}</td>"


def _part(part: SectionReport, of_items: str) -> Iterator[str]:
  yield f"<h2>{html.escape(part.name[:1].upper() + part.name[1:])}</h2>"
  if picture := plots.groups(part):
    yield f'{picture}<p class="says">Grey: the best of the blind guesses below.</p>'
  yield plots.spread(part)
  if picture := plots.confusion(part):
    yield f"<h3>What is taken for what</h3>{picture}"
  if picture := plots.failures(part.failures):
    yield f"<h3>Answers that do not plainly pick an option</h3>{picture}"
  if picture := plots.reliability(part):
    yield f"<h3>Are its probabilities right as often as they say?</h3>{picture}"
  for heading, says, rows in content.tables(part, of_items):
    opened = " open" if heading in ("Figures", "Beside published figures") else ""
    yield f"<details{opened}><summary>{html.escape(heading)}</summary>"
    yield f'<p class="says">{html.escape(says)}</p>{_table(rows)}</details>'


def render(found: ScoreReport) -> str:
  """The page."""
  title = html.escape(content.title(found))
  summary = "".join(
    f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
    for name, text in content.summary_texts(found)
  )
  blocks = [
    '<!doctype html><html lang="en"><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width">',
    f"<title>{title}</title><style>{training_report.STYLE}{STYLE}</style><h1>{title}</h1>",
  ]
  if found.grounding and found.grounding.sentences:
    kind = {True: "", False: " not", None: " open"}[found.grounding.listens]
    first, *rest = map(html.escape, found.grounding.sentences)
    text = "<br>".join([f"<strong>{first}</strong>", *rest])
    blocks.append(f'<div class="verdict{kind}">{text}</div>')
  blocks += [_table(content.glance(found)), plots.glance(found.parts), f"<dl>{summary}</dl>"]
  if found.grounding:
    says = "Black lines: the 95% interval of the difference, around the figure with the probe."
    blocks += ["<h2>Does it listen?</h2>", plots.probes(found.grounding)]
    blocks.append(f'<p class="says">{says}</p>')
    blocks.append(_table(content.probe_rows(found.grounding)))
  for part in found.parts:
    blocks += _part(part, content.of_a_part(found))
  digest = f"{found.answers.path.name}, sha256 {found.answers.sha256}"
  return "".join([*blocks, f'<p class="says">{html.escape(digest)}</p></html>\n'])
