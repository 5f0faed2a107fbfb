"""Scores a predictions file, of this or any other model, and writes a report. Needs no JAX.

  mellow evaluate score --predictions=FILE [--output=DIR]
  mellow evaluate score --predictions=clips.jsonl --probe=noise.jsonl \\
    --probe=shuffled.jsonl --output=DIR
  mellow evaluate score --predictions=others.json --benchmark=mmau --data=DIR
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags

from mellow_jax import cli, files
from mellow_jax.errors import DataError, FlagsError
from mellow_jax.evaluation.benchmarks import catalogue, prediction_files
from mellow_jax.evaluation.benchmarks.items import Item
from mellow_jax.evaluation.metrics.coco_java import Settings
from mellow_jax.evaluation.report import content


def define_data(f: flags.FlagValues) -> None:
  """The flags that say which questions were answered."""
  text = partial(flags.DEFINE_string, default=None, flag_values=f)
  text("benchmark", help="Its name, for a file whose lines do not hold their questions.")
  text("data", help="Folder or file of the benchmark's questions; also checks that all are there.")


def define_java(f: flags.FlagValues) -> None:
  """The flags of the metrics that are programs of Java."""
  text = partial(flags.DEFINE_string, flag_values=f)
  text("java", None, "Java's program; MELLOW_JAVA or the one on PATH if absent.")
  text("spice_lib", None, "Folder of SPICE's two CoreNLP 3.6.0 jars; MELLOW_SPICE_LIB if absent.")
  text("java_heap", Settings.heap, "Most memory of METEOR and SPICE.")
  seconds = "Most time of one program of Java, in seconds."
  flags.DEFINE_float("java_seconds", Settings.seconds, seconds, lower_bound=1, flag_values=f)


def java_settings(f: flags.FlagValues) -> Settings:
  """What the flags of define_java say."""
  return Settings(java=f.java, spice_lib=f.spice_lib, heap=f.java_heap, seconds=f.java_seconds)


def items_of(f: flags.FlagValues) -> list[Item] | None:
  """The benchmark's items if the flags name them; raises DataError or FlagsError."""
  if not f.data:
    return None
  if not f.benchmark:
    raise FlagsError("--benchmark is missing: say which benchmark --data holds")
  say = partial(print, file=sys.stderr)
  return catalogue.read(f.benchmark, f.data, say=say)


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  flags.DEFINE_string("predictions", None, "File of `evaluate predict`, or others'.", flag_values=f)
  probe = "The same items answered to something else, by `evaluate predict --audio=...`; repeat it."
  flags.DEFINE_multi_string("probe", [], probe, flag_values=f)
  text = "Folder for report.html, report.md and report.json; without it the report is printed."
  flags.DEFINE_string("output", None, text, flag_values=f)
  flags.DEFINE_integer("seed", 0, "Of bootstrap and permutations.", 0, flag_values=f)
  define_data(f)
  define_java(f)
  return f


def _earlier_probes(output: Path, predictions: str) -> list[str]:
  """The probes of the report that is replaced, if it is of the same file and they are still there.

  A report is not to lose them because it is made again; `--probe=` leaves them out.
  """
  try:
    earlier = files.read_json(output / "report.json", "an earlier report")
    same = earlier["predictions"]["file"] == predictions
    found = [path for path in earlier["probe_files"] if same and Path(path).is_file()]
  except (DataError, KeyError, TypeError):
    return []
  for path in found:
    print(f"probe of the earlier report: {path}", file=sys.stderr)
  return found


def _score(f: flags.FlagValues) -> None:
  if not f.predictions:
    raise FlagsError("--predictions is missing: name a file of answers")
  items = items_of(f)
  plain = prediction_files.read(f.predictions, f.benchmark, items)
  paths = f.probe or (_earlier_probes(Path(f.output), plain.path.name) if f.output else [])
  probes = [prediction_files.read(path, f.benchmark, items) for path in paths if path]
  report = content.make(plain, probes, java_settings(f), f.seed)
  if not f.output:
    print(content.markdown(report))
    return
  from mellow_jax.evaluation.report import page  # Matplotlib, which --help need not wait for

  output = Path(f.output)
  files.write_json(output / "report.json", content.to_json(report))
  files.write_text(output / "report.md", content.markdown(report))
  files.write_text(output / "report.html", page.render(report))
  print(f"{content.title(report)}\n\n{content.plain_table(content.glance(report))}\n")
  for said in filter(None, (content.unanswered(report), content.not_asked(report))):
    print(said)
  for sentence in report.grounding.sentences if report.grounding else ():
    print(sentence)
  print(f"report: {output / 'report.html'}")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _score, example="--predictions=FILE", waits_for="scoring")
