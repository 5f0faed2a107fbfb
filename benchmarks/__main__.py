"""All areas in one command: train, decode, encoder, pipeline, start-up.

  python -m benchmarks --reference=mellow-training --output=all.json --page=all.html
  python -m benchmarks --tiny
  python -m benchmarks --areas=train,encoder --reference=mellow-training

Each area is a command of its own, `python -m benchmarks.train --help` and so on, with the
contestants and the tolerances that its text names. All tables stand together at the end; --page
writes them with a drawing of what share of its limit each row reaches, and the roofline.
"""

import argparse
import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import decode, encoder, pipeline, roofline, rounds, startup, train

AREAS = {
  "train": train,
  "decode": decode,
  "encoder": encoder,
  "pipeline": pipeline,
  "startup": startup,
}
STYLE = """
body { font: 15px/1.4 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 0 } td, th { padding: .2rem .6rem }
td { text-align: right; border-top: 1px solid #ccc } td:first-child, th { text-align: left }
p { color: #555; margin: .2rem 0 } .bar { background: #ddd; width: 16rem; height: .8rem }
.bar div { background: #36c; height: 100% } svg { max-width: 100%; height: auto }
"""


def flags_of(area: str, args: argparse.Namespace) -> list[str]:
  """The command line of an area: of all flags those that it knows."""
  known = {action.dest for action in AREAS[area].parser()._actions}
  found = [f"--rounds={args.rounds}", *(["--tiny"] if args.tiny else [])]
  for name in ("reference", "layers"):
    if name in known and getattr(args, name) is not None:
      found.append(f"--{name}={getattr(args, name)}")
  return found


def page(reports: dict[str, dict]) -> str:
  """The tables as a page, with rooflines.

  Beside each row with a limit stands a bar, full where the limit is reached.
  """
  parts = [
    "<!doctype html><meta charset=utf-8><title>Benchmarks</title>",
    f"<style>{STYLE}</style>",
  ]
  for area, report in reports.items():
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts.append(f"<h2>{area}</h2><p>{report['cores']} cores; {html.escape(versions)}</p>")
    for each in report["skipped"]:
      parts.append(f"<p>not measured: {html.escape(each['what'])}: {html.escape(each['why'])}</p>")
    for table in report["tables"]:
      head, *lines = rounds.cells(table)
      parts.append("<table><tr>" + "".join(f"<th>{html.escape(x)}</th>" for x in head) + "</tr>")
      for line, row in zip(lines, table["rows"], strict=True):
        bar, share = "", row.get("share of the limit")
        if share is not None:
          bar = (
            f'<td><div class=bar><div style="width:{100 * min(share, 1):.0f}%"></div></div></td>'
          )
        parts.append("<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in line) + bar + "</tr>")
      parts.append("</table>" + "".join(f"<p>{html.escape(x)}</p>" for x in rounds.below(table)))
      parts.append(roofline.draw(table))
  return "\n".join(parts)


def main(argv: Sequence[str]) -> int:
  found = rounds.parser(__doc__, reference=True)
  found.add_argument("--areas", default=",".join(AREAS))
  found.add_argument("--page", type=Path, help="HTML file")
  args = found.parse_args(argv)
  names = args.areas.split(",")
  if unknown := set(names) - set(AREAS):
    found.error(f"--areas: {', '.join(sorted(unknown))}: choose from {', '.join(AREAS)}")
  reports, failed = {}, []
  for name in names:
    print(f"\n=== {name}", flush=True)
    try:
      area = AREAS[name]
      reports[name] = area.run(area.parser().parse_args(flags_of(name, args)))
    except SystemExit as error:  # results differ; the other areas are measured
      failed.append(f"{name}: {error}")
    if args.output:
      args.output.write_text(json.dumps(reports, indent=1))
    if args.page:
      args.page.write_text(page(reports))
  print("\n=== all")
  for report in reports.values():
    for table in report["tables"]:
      print(rounds.text(table))
  for line in failed:
    print(line)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
