"""Says which metrics work here, what is missing for the others, and which benchmark data is there.

  mellow evaluate doctor [--data=DIR] [--java=PROGRAM] [--spice_lib=DIR]

Every metric is run on two captions, so what is said to work has worked. Needs no JAX.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags

from mellow_jax import cli
from mellow_jax.errors import DataError, FlagsError, MetricUnavailable
from mellow_jax.evaluation.benchmarks import catalogue
from mellow_jax.evaluation.commands import score
from mellow_jax.evaluation.metrics import captions, coco_java, java
from mellow_jax.evaluation.metrics.coco_java import Settings
from mellow_jax.reasonaqa.official import locations

GIVEN = ("a dog barks", "rain falls on a roof")
REFERENCES = (("a dog is barking",), ("rain falls on a tin roof", "it rains"))


def _try(run: Callable[[], str]) -> tuple[bool, str]:
  try:
    return True, run()
  except MetricUnavailable as error:
    return False, f"{error.missing}\n         {error.fix}"


def metrics(settings: Settings) -> Iterator[tuple[str, bool, str]]:
  """(what, whether it works here, what it gave or what is missing) of Java and each metric."""
  given = [captions.words(text) for text in GIVEN]
  references = [[captions.words(text) for text in texts] for texts in REFERENCES]
  yield "accuracy, BLEU, ROUGE-L, CIDEr-D [regex]", True, "written in Python"

  def probe() -> str:
    found = java.find(settings.java)
    return f"{found.version} at {found.path}"

  def tokenize() -> str:
    return " ".join(coco_java.ptb_words(GIVEN, settings)[0])

  def meteor() -> str:
    return f"{coco_java.meteor(given, references, settings).corpus:.4f} on two captions"

  def spice() -> str:
    return f"{coco_java.spice(given, references, settings).mean():.4f} on two captions"

  yield "Java", *_try(probe)
  yield "PTB tokenizer: BLEU, ROUGE-L, CIDEr-D [ptb]", *_try(tokenize)
  yield "METEOR", *_try(meteor)
  yield "SPICE, SPIDEr", *_try(spice)


def data(folder: str) -> Iterator[tuple[str, bool, str]]:
  """(benchmark, whether its questions are in a folder, the file or what is missing)."""
  below = [*locations.files_below(folder)]
  for name, benchmark in catalogue.BENCHMARKS.items():
    if not benchmark.files:  # a table of one's own has no name
      continue
    named = [path for path in below if path.name in benchmark.files]
    try:
      yield name, True, _found(name, folder, named)
    except DataError as error:
      yield name, False, str(error)


def _found(name: str, folder: str, tables: Sequence[Path]) -> str:
  """The file of a benchmark's questions; what its source publishes is read to know.

  tables are those that have its name, at any depth below the folder, as the source's own may be.
  """
  try:
    return str(catalogue.table_path(name, folder))
  except DataError as error:
    absent = error
  for path in tables:
    with contextlib.suppress(DataError):  # another dataset's file of that name
      return f"{path}, {len(catalogue.read(name, path))} items: give --data={path.parent}"
  if not catalogue.BENCHMARKS[name].subtypes:
    raise absent
  return f"{len(catalogue.read(name, folder))} items of its source's own files"


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  flags.DEFINE_string("data", None, "Folder of benchmark questions.", flag_values=f)
  score.define_java(f)
  return f


def _doctor(f: flags.FlagValues) -> None:
  if f.data and not Path(f.data).is_dir():
    raise FlagsError(f"--data={f.data}: there is no such folder: check the path")
  for name, works, said in metrics(score.java_settings(f)):
    print(f"{'works' if works else 'n/a':6} {name}: {said}", flush=True)
  for name, there, said in data(f.data) if f.data else ():
    print(f"{'there' if there else 'absent':6} {name}: {said}", flush=True)


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 for flags that are wrong and 0 whatever is missing."""
  return cli.run(
    argv, _flags(), __doc__, _doctor, example="--data=DIR", waits_for="trying what works"
  )
