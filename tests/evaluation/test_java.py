"""Metrics that are programs of Java: found, run in time, or n/a with what is missing."""

import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from mellow_jax import evaluate
from mellow_jax.errors import MetricUnavailable
from mellow_jax.evaluation.benchmarks.items import Item, Prediction
from mellow_jax.evaluation.metrics import captions, coco_java, free_text, java
from mellow_jax.evaluation.metrics.coco_java import Settings

WORDS = [("a", "dog", "barks"), ("rain",)]
REFERENCES = [[("a", "dog", "is", "barking")], [("rain", "falls"), ("wind",)]]

needs_java = pytest.mark.skipif(not shutil.which("java"), reason="no Java on PATH")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
  monkeypatch.delenv("MELLOW_JAVA", raising=False)
  monkeypatch.delenv("MELLOW_SPICE_LIB", raising=False)
  java.find.cache_clear()


def program(path, text):
  path.write_text(f"#!/bin/sh\n{text}\n")
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return str(path)


def test_java_is_named_by_flag_then_by_environment_then_by_path(tmp_path, monkeypatch):
  for name, version in (("a", "1.8.0_392"), ("b", "21.0.1"), ("java", "17.0.15")):
    program(tmp_path / name, f"echo 'openjdk version \"{version}\" 2024' >&2")
  monkeypatch.setenv("PATH", str(tmp_path))
  assert java.find().major == 17
  monkeypatch.setenv("MELLOW_JAVA", str(tmp_path / "b"))
  java.find.cache_clear()
  assert java.find().major == 21
  assert java.find(str(tmp_path / "a")).major == 8


@pytest.mark.parametrize("text", ["exit 1", "echo hello"])
def test_a_java_that_is_named_and_does_not_run_is_not_replaced(tmp_path, text):
  for path in (program(tmp_path / "bad", text), str(tmp_path / "absent")):
    with pytest.raises(MetricUnavailable, match="--java or MELLOW_JAVA"):
      java.find(path)


def test_without_java_the_doctor_says_what_works_and_what_is_missing(tmp_path):
  """In a process of its own, whose PATH holds nothing."""
  (tmp_path / "mmau-test-mini.json").write_text("[]")
  done = subprocess.run(
    [sys.executable, "-m", "mellow_jax.evaluate", "doctor", f"--data={tmp_path}"],
    env={"PATH": "", "HOME": str(tmp_path)},
    cwd=Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=True,
  )
  lines = done.stdout.splitlines()
  assert lines[0].startswith("works  accuracy, BLEU")
  for name in ("Java", "PTB", "METEOR", "SPICE"):
    (line,) = (line for line in lines if line.startswith("n/a") and name in line)
    assert "java is not on PATH" in line
  assert f"there  mmau: {tmp_path / 'mmau-test-mini.json'}" in lines
  (line,) = (line for line in lines if line.startswith("absent cle: "))
  assert "test.json" in line and "zenodo.org/records/15036628" in line


@pytest.mark.parametrize(
  "run",
  [
    lambda settings: coco_java.ptb_words(["a dog"], settings),
    lambda settings: coco_java.meteor(WORDS, REFERENCES, settings),
  ],
)
def test_a_program_that_hangs_is_ended(tmp_path, run):
  pytest.importorskip("pycocoevalcap.bleu.bleu")
  pid = tmp_path / "pid"
  hangs = f"[ $1 = -version ] && echo 'version \"17\"' && exit; echo $$ > {pid}; exec sleep 60"
  settings = Settings(java=program(tmp_path / "java", hangs), seconds=1.0)
  start = time.monotonic()
  with pytest.raises(MetricUnavailable, match=r"did not end within 1 s.*--java_seconds"):
    run(settings)
  assert time.monotonic() - start < 30
  with pytest.raises(ProcessLookupError):
    os.kill(int(pid.read_text()), 0)


def test_a_program_that_fails_says_why(tmp_path):
  pytest.importorskip("pycocoevalcap.bleu.bleu")
  fails = "[ $1 = -version ] && echo 'version \"17\"' && exit; echo 'Error: no heap' >&2; exit 3"
  settings = Settings(java=program(tmp_path / "java", fails))
  for run in (coco_java.ptb_words, lambda *a: coco_java.meteor(WORDS, REFERENCES, settings)):
    with pytest.raises(MetricUnavailable, match="Error: no heap"):
      run(["a dog"], settings)


@needs_java
def test_words_of_the_treebank_tokenizer():
  pytest.importorskip("pycocoevalcap.bleu.bleu")
  texts = ["A man's dog, barking -- loudly.", "", "two\ncars\u2028pass (fast)", "naïve 3/4 end…"]
  found = coco_java.ptb_words(texts, Settings())
  assert found[:2] == [("a", "man", "'s", "dog", "barking", "loudly"), ()]
  assert found[2] == ("two", "cars", "pass", "-lrb-", "fast", "-rrb-")  # as the COCO code has it
  assert found[3] == ("naïve", "3/4", "end")


def test_spice_names_each_jar_that_is_missing(tmp_path, monkeypatch):
  code, models = coco_java.SPICE_JARS
  with pytest.raises(MetricUnavailable, match=f"no {code} and no {models}: .*--spice_lib"):
    coco_java.spice_jars(None)
  (tmp_path / code).touch()
  with pytest.raises(MetricUnavailable, match=f"no {models} in {tmp_path}"):
    coco_java.spice_jars(str(tmp_path))
  (tmp_path / models).touch()
  monkeypatch.setenv("MELLOW_SPICE_LIB", str(tmp_path))
  assert coco_java.spice_jars(None) == [tmp_path / code, tmp_path / models]


@needs_java
@pytest.mark.slow  # loads SPICE's dictionaries
def test_spice_gets_as_far_as_the_models_and_names_their_jar(tmp_path):
  """Past what Java 16 and later forbid: with CoreNLP's code, of the tokenizer, and empty models."""
  package = coco_java.package("SPICE")
  shutil.copy(package / "tokenizer/stanford-corenlp-3.4.1.jar", tmp_path / coco_java.SPICE_JARS[0])
  with zipfile.ZipFile(tmp_path / coco_java.SPICE_JARS[1], "w") as file:
    file.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
  with pytest.raises(MetricUnavailable, match=r"-models\.jar does not hold.*englishPCFG"):
    coco_java.spice(WORDS, REFERENCES, Settings(spice_lib=str(tmp_path), heap="2G", seconds=120.0))


@needs_java
@pytest.mark.slow  # METEOR starts in ten seconds
def test_meteor_of_a_text_without_words():
  pytest.importorskip("pycocoevalcap.bleu.bleu")
  found = coco_java.meteor(
    [(), *WORDS], [[("a",)], *REFERENCES], Settings(heap="2G", seconds=120.0)
  )
  assert found.texts[0] == 0 and (found.texts[1:] > 0).all() and 0 < found.corpus < 1


@needs_java
@pytest.mark.slow  # METEOR starts in ten seconds
def test_a_report_has_meteor_and_says_what_spice_lacks():
  pytest.importorskip("pycocoevalcap.bleu.bleu")
  asked = [
    Item(id=str(i), kind="text", audio1="a.wav", question="?", references=(" ".join(others[0]),))
    for i, others in enumerate(REFERENCES)
  ]
  said = [
    Prediction(item=item, benchmark="clotho", prompt="?", prediction=" ".join(words))
    for item, words in zip(asked, WORDS, strict=True)
  ]
  found = {figure.name: figure for figure in free_text.measure(said, Settings(heap="2G"), seed=0)}
  assert found["CIDEr-D [ptb]"].value == found["CIDEr-D [regex]"].value > 0
  assert found["METEOR [ptb]"].low <= found["METEOR [ptb]"].value <= found["METEOR [ptb]"].high
  for name in ("SPICE [ptb]", "SPIDEr [ptb]"):
    assert found[name].value is None
    assert all(jar in found[name].reason for jar in coco_java.SPICE_JARS)


def test_brackets_are_no_words_by_regex():
  assert captions.words("two cars (fast)") == ("two", "cars", "fast")


def test_help_is_printed(capsys):
  for name in ("", "score", "compare", "doctor"):
    assert evaluate.main(["evaluate", *filter(None, [name]), "--help"]) == 0
    assert "mellow evaluate" in capsys.readouterr().out
