"""Java, found and probed, and programs of it that end in time."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mellow_jax.errors import MetricUnavailable


@dataclass(frozen=True, kw_only=True)
class Java:
  """A Java that runs."""

  path: str
  major: int  # 8, 11, 17, ...
  version: str  # as it prints it


FIX = "install Java 8 or later, or name its program with --java or MELLOW_JAVA"


@functools.cache
def find(path: str | None = None) -> Java:
  """The Java named by the argument, else by MELLOW_JAVA, else the first on PATH.

  Raises MetricUnavailable if there is none or it does not run. One that is named and does not run
  is not replaced by another.
  """
  name = path or os.environ.get("MELLOW_JAVA") or "java"
  program = shutil.which(name)
  if not program:
    where = "is not on PATH" if name == "java" else "is no program"
    raise MetricUnavailable("Java", f"{name} {where}", FIX)
  try:
    done = subprocess.run(
      [program, "-version"], capture_output=True, text=True, timeout=60, check=True
    )
  except (OSError, subprocess.SubprocessError) as error:
    raise MetricUnavailable("Java", f"{program} -version fails ({error})", FIX) from None
  found = re.search(r'version "(?:1\.)?(\d+)[^"]*"', done.stderr + done.stdout)
  if not found:
    raise MetricUnavailable("Java", f"{program} -version does not say a version", FIX)
  return Java(path=program, major=int(found[1]), version=found[0].split('"')[1])


def start(java: Java, arguments: Sequence[str], folder: Path) -> subprocess.Popen:
  """A Java program that runs in a folder and writes its temporary files there.

  What it prints on stderr is kept in the folder's stderr.txt, where a full pipe cannot stop it.
  Whoever starts it ends it, in `finally`.
  """
  with (folder / "stderr.txt").open("wb") as errors:
    return subprocess.Popen(
      [java.path, f"-Djava.io.tmpdir={folder}", "-Dfile.encoding=UTF-8", *arguments],
      cwd=folder,
      env={**os.environ, "LC_ALL": "C"},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
    )


def run(java: Java, arguments: Sequence[str], folder: Path, *, seconds: float, metric: str) -> str:
  """What a Java program prints. Raises MetricUnavailable if it fails or takes too long."""
  process = start(java, arguments, folder)
  try:
    out, _ = process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    raise late(metric, seconds) from None
  finally:
    process.kill()
    process.wait()
  if process.returncode:
    raise MetricUnavailable(metric, f"Java failed: {last_words(folder)}", "see --java, --java_heap")
  return out.decode()


def late(metric: str, seconds: float) -> MetricUnavailable:
  """The error of a program that was stopped."""
  fix = "allow it more with --java_seconds, or score fewer items"
  return MetricUnavailable(metric, f"did not end within {seconds:.0f} s", fix)


def last_words(folder: Path) -> str:
  """The innermost cause, or else the last line, of what a program printed on stderr."""
  lines = (folder / "stderr.txt").read_text(errors="replace").strip().splitlines()
  causes = [line for line in lines if line.startswith("Caused by:")]
  errors = [
    line for line in lines if re.match(r"(Exception in|Error:|[\w.]+(Error|Exception))", line)
  ]
  return (causes or errors or lines or ["it printed nothing"])[-1][:300]
