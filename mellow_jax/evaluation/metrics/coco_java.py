"""The Java parts of the COCO caption code: the Penn Treebank tokenizer, METEOR 1.5 and SPICE.

Their jars come with pycocoevalcap (the extra `metrics`) and are copied to a private folder before
they run: nothing is written where packages are installed. SPICE needs two more jars, of CoreNLP
3.6.0, which no package holds. Whatever cannot run raises MetricUnavailable; nothing replaces it.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mellow_jax.errors import MetricUnavailable, how_to_install
from mellow_jax.evaluation.metrics import captions, java
from mellow_jax.evaluation.metrics.captions import Tokens

SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SPICE_FIX = (
  "put both into a folder and name it with --spice_lib or MELLOW_SPICE_LIB; they are "
  "stanford-corenlp 3.6.0 and its models, of 2015-12-09, from nlp.stanford.edu or Maven Central"
)
# Since Java 16 programs may not look into these packages unless told so; SPICE's FST library does.
OPENED = ("lang", "math", "util", "util.concurrent", "net", "text")


@dataclass(frozen=True, kw_only=True)
class Settings:
  """Where Java and SPICE's jars are, and what a program of Java may take."""

  java: str | None = None  # program; MELLOW_JAVA or PATH if None
  spice_lib: str | None = None  # folder of SPICE_JARS; MELLOW_SPICE_LIB if None
  heap: str = "4G"  # most memory of METEOR and SPICE, as java -Xmx takes it
  seconds: float = 3600.0  # most time of one program


def package(metric: str) -> Path:
  """The installed folder of pycocoevalcap, found without running any of its code."""
  spec = importlib.util.find_spec("pycocoevalcap")
  if spec is None or not spec.submodule_search_locations:
    lacking = "pycocoevalcap, which brings its jar, is not installed"
    raise MetricUnavailable(metric, lacking, how_to_install("metrics"))
  return Path(next(iter(spec.submodule_search_locations)))


@contextlib.contextmanager
def _private(metric: str, *names: str) -> Iterator[Path]:
  """A folder of one's own with copies of what pycocoevalcap installs under these names."""
  source = package(metric)
  with tempfile.TemporaryDirectory(prefix="mellow_metrics_") as folder:
    for name in names:
      if not (source / name).exists():
        fix = "pip install --force-reinstall pycocoevalcap==1.2"
        raise MetricUnavailable(metric, f"{source / name} is not there", fix)
      copy = shutil.copytree if (source / name).is_dir() else shutil.copyfile
      copy(source / name, Path(folder) / Path(name).name)
    yield Path(folder)


def ptb_words(texts: Sequence[str], settings: Settings) -> list[Tokens]:
  """Words of each text by the Penn Treebank tokenizer, lower-cased, without punctuation: [ptb]."""
  metric, jar = "PTB tokenizer", "stanford-corenlp-3.4.1.jar"
  program = java.find(settings.java)
  with _private(metric, f"tokenizer/{jar}") as folder:
    lines = [" ".join(text.split()) for text in texts]
    options = ("-preserveLines", "-lowerCase", "-encoding", "utf-8")
    (folder / "texts.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    out = java.run(
      program,
      ["-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", *options, "texts.txt"],
      folder,
      seconds=settings.seconds,
      metric=metric,
    )
  found = out.split("\n")[:-1]
  if len(found) != len(texts):
    raise MetricUnavailable(metric, f"{len(found)} lines for {len(texts)} texts", "report this")
  return [
    tuple(word for word in line.split() if word not in captions.PUNCTUATION) for line in found
  ]


@dataclass(frozen=True, kw_only=True)
class Meteor:
  """METEOR of a set of texts, in [0, 1]."""

  corpus: float  # from counts summed over all texts: the figure papers give
  texts: Float[np.ndarray, "N"]


def meteor(
  given: Sequence[Tokens], references: Sequence[Sequence[Tokens]], settings: Settings
) -> Meteor:
  """METEOR 1.5 for English, with its paraphrases; its start alone takes ten seconds.

  Source: Denkowski and Lavie 2014; the options are those of the COCO caption code.
  """
  metric, program = "METEOR", java.find(settings.java)
  with _private(metric, "meteor/meteor-1.5.jar", "meteor/data") as folder:
    options = [f"-Xmx{settings.heap}", "-jar", "meteor-1.5.jar", "-", "-", "-stdio"]
    process = java.start(program, [*options, "-l", "en", "-norm"], folder)
    stopped = threading.Event()

    def stop() -> None:
      stopped.set()
      process.kill()

    timer = threading.Timer(settings.seconds, stop)
    timer.start()

    def ask(line: str, answers: int) -> list[str]:
      """The program's next lines, after one of ours."""
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
      found = [process.stdout.readline().decode().strip() for _ in range(answers)]
      if stopped.is_set():
        raise java.late(metric, settings.seconds)
      if not all(found):
        fix = "see --java and --java_heap"
        raise MetricUnavailable(metric, f"Java failed: {java.last_words(folder)}", fix)
      return found

    try:
      counts = []
      for text, others in zip(given, references, strict=True):
        parts = [" ".join(words).replace("|||", "") for words in (*others, text)]
        counts += ask(" ||| ".join(["SCORE", *parts]), 1)
      *texts, corpus = map(float, ask(" ||| ".join(["EVAL", *counts]), len(counts) + 1))
    finally:
      timer.cancel()
      process.kill()
      process.communicate()
  return Meteor(corpus=corpus, texts=np.array(texts, float))


def spice_jars(spice_lib: str | None) -> list[Path]:
  """The two CoreNLP jars that SPICE needs; raises MetricUnavailable naming each missing one."""
  spice_lib = spice_lib or os.environ.get("MELLOW_SPICE_LIB")
  paths = [Path(spice_lib or "") / name for name in SPICE_JARS]
  absent = [path.name for path in paths if not (spice_lib and path.is_file())]
  if absent:
    where = f" in {spice_lib}" if spice_lib else ""
    raise MetricUnavailable("SPICE", f"no {' and no '.join(absent)}{where}", SPICE_FIX)
  return paths


def spice(
  given: Sequence[Tokens], references: Sequence[Sequence[Tokens]], settings: Settings
) -> Float[np.ndarray, "N"]:
  """SPICE of each text, in [0, 1].

  Source: Anderson et al. 2016, by its authors' program.
  """
  metric, program, jars = "SPICE", java.find(settings.java), spice_jars(settings.spice_lib)
  with _private(metric, "spice/spice-1.0.jar", "spice/lib") as folder:
    for jar in jars:
      (folder / jar.name).symlink_to(jar.resolve())
    rows = [
      {"image_id": i, "test": " ".join(text), "refs": [" ".join(other) for other in others]}
      for i, (text, others) in enumerate(zip(given, references, strict=True))
    ]
    (folder / "in.json").write_text(json.dumps(rows))
    (folder / "cache").mkdir()
    opened = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED]
    arguments = [
      *(opened if program.major >= 16 else []),
      f"-Xmx{settings.heap}",
      "-cp",
      ":".join(["spice-1.0.jar", "lib/*", *(jar.name for jar in jars)]),
      "edu.anu.spice.SpiceScorer",
      "in.json",
      *("-cache", "cache", "-out", "out.json", "-subset", "-silent"),
    ]
    try:
      java.run(program, arguments, folder, seconds=settings.seconds, metric=metric)
      found = json.loads((folder / "out.json").read_text())
      scores = {row["image_id"]: float(row["scores"]["All"]["f"]) for row in found}
      return np.array([scores[i] for i in range(len(rows))], float)
    except (OSError, ValueError, KeyError, TypeError, MetricUnavailable) as error:
      if isinstance(error, MetricUnavailable) and error.missing.startswith("did not end"):
        raise
      words = java.last_words(folder)
      if "Unable to resolve" in words or "edu/stanford/nlp/models" in words:
        missing = f"{SPICE_JARS[1]} does not hold CoreNLP's models ({words})"
        raise MetricUnavailable(metric, missing, SPICE_FIX) from None
      raise MetricUnavailable(metric, f"its program failed: {words}", "see --java") from None
