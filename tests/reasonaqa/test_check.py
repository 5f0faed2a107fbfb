"""A check names each fault that is there, and only those."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mellow_jax.data import records
from mellow_jax.data import tokenizer as tokenizer_lib
from mellow_jax.errors import DataError
from mellow_jax.evaluation.benchmarks import catalogue
from mellow_jax.reasonaqa import __main__ as command
from mellow_jax.reasonaqa.check import dataset_faults, faults

ROOT = Path(__file__).parents[2]
RATE = 8000


class Tree:
  """Rows of a training and a test file, and the clips that they name."""

  def __init__(self, folder):
    self.folder, self.rng = folder, np.random.default_rng(0)
    self.train, self.test = [], []
    (folder / "a").mkdir()
    for i in range(6):
      self.train.append(self.row(self.clip(f"{i}.wav")))
    self.test.append(self.row(self.clip("held out.wav")))

  def clip(self, name, wav=None, seconds=1.0, **form):
    """Writes a clip, noise of its own by default; its path."""
    if wav is None:
      wav = self.rng.uniform(-0.5, 0.5, round(seconds * RATE))
    soundfile.write(self.folder / "a" / name, wav, RATE, **form)
    return f"a/{name}"

  def raw(self, name, content):
    (self.folder / "a" / name).write_bytes(content)
    return f"a/{name}"

  def row(self, path, **changes):
    count = len(self.train) + len(self.test)
    fields = {"filepath1": path, "input": f"what is number {count}?", "answer": "rain"}
    return dict.fromkeys(records.FIELDS, "") | fields | changes

  def check(self, *flags):
    for name in ("train", "test"):
      (self.folder / f"{name}.json").write_text(json.dumps(getattr(self, name)))
    places = [f"--{name}={self.folder / name}.json" for name in ("output", "quarantine")]
    where = [f"--data={self.folder}", f"--audio_root={self.folder}", "--workers=1"]
    status = command.main(["reasonaqa", "check", *where, *places, *flags])
    report = json.loads((self.folder / "output.json").read_text())
    quarantine = json.loads((self.folder / "quarantine.json").read_text())["rows"]
    return status, report, quarantine


@pytest.fixture
def tree(tmp_path):
  return Tree(tmp_path)


@pytest.fixture
def tokenizer(tmp_path):
  path = tmp_path / "tokenizer.json"
  tokenizer_lib.build_tokenizer(["what is number ? rain a) b) word"]).save(str(path))
  return f"--tokenizer={path}"


def break_everything(tree):
  """One fault of each kind; each kind's place, and whether it leaves a row of the quarantine."""
  return break_rows(tree) | break_clips(tree)


def break_rows(tree):
  train, expected = tree.train, {}

  def row(kind, path, quarantined=True, **changes):
    expected[kind] = (f"train.json, row {len(train)} (from 0)", quarantined)
    train.append(tree.row(path, **changes))

  row("empty_question", "a/0.wav", input=" ")
  row("empty_answer", "a/0.wav", answer="")
  row("bad_path", "../a/0.wav")
  row("answer_not_an_option", "a/1.wav", input="a) rain b) wind", answer="a) wind")
  row("caption_sentence", "a/1.wav", input="caption both audios")
  row("question_over_tokens", "a/1.wav", False, input="word " * 130)
  row("answer_over_tokens", "a/1.wav", False, answer="word " * 250)
  row("malformed", "a/2.wav", caption1=3)
  row("duplicate_row", "a/3.wav", False)
  train[-1] = train[0]
  row("row_in_later_file", "a/4.wav", False)
  tree.test.append(train[-1])
  return expected


def break_clips(tree):
  train, expected = tree.train, {}

  def clip(kind, path, quarantined=True, where=""):
    expected[kind] = (path + where, quarantined)
    train.append(tree.row(path))

  noise = np.random.default_rng(1).uniform(-0.5, 0.5, RATE)
  clip("missing", "a/gone.wav")
  (tree.folder / "a/folder.wav").mkdir()
  clip("not_a_file", "a/folder.wav")
  clip("empty", tree.raw("empty.wav", b""))
  clip("undecodable", tree.raw("page.wav", b"<html>"))
  clip("no_samples", tree.clip("header.wav", np.zeros(0)))
  cut = (tree.folder / tree.clip("whole.wav")).read_bytes()
  clip("cut_short", tree.raw("half.wav", cut[: len(cut) // 2]))
  flac = (tree.folder / tree.clip("whole.flac", noise)).read_bytes()
  clip("damaged", tree.raw("hole.flac", flac[:4000] + bytes(2000) + flac[6000:]))
  soundfile.write(tree.folder / "a/slow.wav", noise, 1000)
  clip("rate", "a/slow.wav")
  soundfile.write(tree.folder / "a/wide.wav", np.zeros((RATE, 17)), RATE)
  clip("channels", "a/wide.wav")
  clip("scale", tree.clip("integers.wav", (3399 * noise).round(), subtype="FLOAT"))
  clip("not_finite", tree.clip("nan.wav", np.append(noise, np.nan), subtype="FLOAT"))
  clip("peak_over_1", tree.clip("over.wav", 2.5 * noise, subtype="FLOAT"), False)
  clip("peak_over_2", tree.clip("loud.wav", 100 * noise, subtype="FLOAT"))
  clip("silent", tree.clip("silent.wav", np.full(RATE, 0.25)))
  clip("too_short", tree.clip("short.wav", noise[: RATE // 2]))
  same, _ = soundfile.read(tree.folder / "a/5.wav", dtype="int16")
  # The same samples in another format.
  clip("duplicate_clip", tree.clip("twin.flac", same), False, ", in train.json")
  return expected


def test_each_fault_is_named_and_no_other(tree, tokenizer, capsys):
  expected = break_everything(tree)
  # The row that the test file has as well hears a clip that it has as well.
  in_both = {"clip_in_later_file": ("a/4.wav, in train.json", None)}
  status, report, quarantine = tree.check(tokenizer)
  assert status == 1
  found = {}
  for fault in report["faults"]:
    found.setdefault(fault["kind"], []).append(fault["where"])
  assert found == {kind: [where] for kind, (where, _) in (expected | in_both).items()}
  # What no one file can have here, or what this system does not let a superuser make.
  assert {*faults.OF_ROWS, *faults.OF_CLIPS} - {*found} == {"unreadable", "path", "too_long"}
  assert {kind: count["rows"] for kind, count in report["counts"].items()} == dict.fromkeys(
    found, 1
  ) | {"clip_in_later_file": 2}
  reasons = [reason.partition(":")[0] for listed in quarantine.values() for reason in listed]
  # A row that is not text in all its fields has no id; reading refuses its file.
  kept = {"malformed"} | {kind for kind, (_, listed) in expected.items() if not listed}
  assert sorted(reasons) == sorted([*({*expected} - kept), "clip_in_later_file"])
  said = capsys.readouterr().out
  for kind, (where, _) in expected.items():
    assert f"\n{kind} (" in said and f"\n    {where}: " in said


def test_a_sound_tree_has_no_fault(tree, capsys):
  status, report, quarantine = tree.check()
  assert status == 0 and quarantine == {} and report["counts"] == {} and report["faults"] == []
  assert report["rows"] == {"train.json": 6, "test.json": 1} and report["clips"] == 7
  said = capsys.readouterr().out
  assert "nothing is wrong" in said and "answer_over_tokens: not checked, give --tokenizer" in said


def test_quarantined_rows_are_those_of_records(tree):
  tree.train[2] |= {"filepath2": "a\\gone.wav"}
  _, _, quarantine = tree.check()
  (bad,) = [row for row in records.read(tree.folder / "train.json") if row.filepath2]
  assert [*quarantine] == [records.row_id(bad)]
  assert quarantine[records.row_id(bad)][0].startswith("missing: a/gone.wav: ")


def test_rows_that_are_quarantined_do_not_keep_a_file_from_being_read(tree):
  tree.train[1:3] = [tree.row("a/1.wav", answer=""), tree.row("..\\a/2.wav")]
  _, _, quarantine = tree.check()
  with pytest.raises(DataError, match=r"row 1 .*'answer' is empty"):
    records.read(tree.folder / "train.json")
  with pytest.raises(DataError, match=r"row 2 .*leaves the audio root"):
    records.read(tree.folder / "train.json", [*quarantine][:1])
  rows = records.read(tree.folder / "train.json", quarantine)
  assert [records.row_id(row) in quarantine for row in rows] == [i in (1, 2) for i in range(6)]
  with pytest.raises(DataError, match=r"row 1 .*'answer' is empty"):
    catalogue.read("reasonaqa", tree.folder / "train.json")
  said = []
  items = catalogue.read(
    "reasonaqa", tree.folder / "train.json", quarantined=quarantine, say=said.append
  )
  assert len(items) == 4 and "2 of 6 rows are in quarantine" in said[0]


def test_what_is_held_out_leaves_training(tree):
  """A clip of the test file under another name: the training rows that hear it are listed."""
  wav, _ = soundfile.read(tree.folder / "a/held out.wav", dtype="int16")
  tree.train += [tree.row(tree.clip("copy.flac", wav)), tree.row("a/held out.wav", answer="hail")]
  status, report, quarantine = tree.check()
  assert status == 1 and {*report["counts"]} == {"clip_in_later_file", "duplicate_clip"}
  rows = records.read(tree.folder / "train.json")
  assert {*quarantine} == {records.row_id(rows[i]) for i in (6, 7)}


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_row_that_is_held_out_stays_however_often_training_has_it(tree, copies):
  """Quarantine goes by id, which is the same in both files: the held-out row would leave, too."""
  held_out = tree.test[0]
  tree.train += [held_out] * copies
  _, report, quarantine = tree.check()
  assert quarantine == {}
  assert report["counts"]["row_in_later_file"] == {"rows": copies}
  assert report["counts"].get("duplicate_row", {"rows": 0}) == {"rows": copies - 1}
  found = [fault for fault in report["faults"] if fault["kind"] == "row_in_later_file"]
  assert {fault["message"] for fault in found} == {"says what row 0 (from 0) of test.json says"}
  items = catalogue.read("reasonaqa", tree.folder / "test.json", quarantined=quarantine)
  assert len(items) == len(tree.test)


def test_a_row_of_three_files_names_the_next(tree):
  found = dataset_faults.DatasetFaults()
  row = records.Record(**tree.test[0], row=0)
  for name, copies in (("train", 2), ("val", 2), ("test", 1)):
    found.begin_file(Path(f"{name}.json"))
    for _ in range(copies):
      found.add_row(row)
  found.find_duplicates()
  faults_ = [fault for fault in found.report()["faults"] if fault["kind"] == "row_in_later_file"]
  said = "says what row 0 (from 0) of {}.json says"
  assert [(fault["where"], fault["message"]) for fault in faults_] == [
    ("train.json, row 0 (from 0)", said.format("val")),
    ("train.json, row 1 (from 0)", said.format("val")),
    ("val.json, row 0 (from 0)", said.format("test")),
    ("val.json, row 1 (from 0)", said.format("test")),
  ]
  assert found.quarantine(()) == {}


def test_kinds_may_be_allowed(tree, capsys):
  tree.train.append(tree.row(tree.clip("silent.wav", np.zeros(RATE))))
  status, report, quarantine = tree.check("--allow=missing,silent")
  assert (
    status == 0 and quarantine == {} and report["counts"] == {"silent": {"rows": 1, "clips": 1}}
  )
  assert "silent (no sound, allowed): rows 1, clips 1" in capsys.readouterr().out
  status, _, quarantine = tree.check("--allow=missing")
  assert status == 1 and len(quarantine) == 1


@pytest.mark.parametrize(
  ("answer", "sound"),
  [
    ("b) rain", True),
    ("B) Rain.", True),
    ("b)", True),
    ("b", True),
    ("rain", True),
    ("a) rain", False),
    ("c", False),
    ("hail", False),
    ("rain and wind", False),
  ],
)
def test_answers_are_held_against_the_options(answer, sound):
  assert bool([*faults.of_options("which? a) wind b) rain", answer)]) != sound
  assert not [*faults.of_options("is there rain (or hail) at all?", answer)]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "--data is missing"),
    (["--data={}/x.json"], "--audio_root is missing"),
    (["--data={}", "--audio_root={}"], "holds none of train.json, val.json, test.json"),
    (["--data={}/x.json", "--audio_root={}"], "x.json: cannot be read"),
    (["--data={}/x.json", "--audio_root={}/x"], "x: is no folder"),
    (["--data={}/x.json", "--audio_root={}", "--allow=loud"], "--allow=loud: use malformed"),
    (["--data={}/x.json", "--audio_root={}", "--tokenizer={}"], "tokenizer.json"),
    (["x"], "'x' is no flag"),
  ],
)
def test_what_cannot_be_checked_is_said_in_a_line(tmp_path, capsys, flags, message):
  flags = [flag.format(tmp_path) for flag in flags]
  assert command.main(["reasonaqa", "check", *flags]) == 1
  (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error")]
  assert line.startswith("error: ") and message in line


def test_a_row_of_a_broken_file_is_named(tree, capsys):
  (tree.folder / "x.json").write_text(json.dumps([tree.train[0]]) + "]")
  flags = [f"--data={tree.folder / 'x.json'}", f"--audio_root={tree.folder}"]
  assert command.main(["reasonaqa", "check", *flags]) == 1
  assert "x.json: is not JSON (something follows its ']', after item 1)" in (
    capsys.readouterr().err
  )


@pytest.mark.parametrize(
  ("rows", "most_seconds"),
  [
    pytest.param(100_000, 120, marks=pytest.mark.slow),  # twice its share: it may run beside others
    pytest.param(1_000_000, 600, marks=pytest.mark.hour),
  ],
)
def test_a_million_rows_within_ten_minutes_and_two_gib(reference_data, rows, most_seconds):
  command = [sys.executable, "-m", "benchmarks.check", "--clips=1000", f"--rows={rows}"]
  command += [f"--tokenizer={reference_data / 'tokenizers/smollm2'}"]
  run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
  assert run.returncode == 0, run.stdout
  assert "nothing is wrong" in run.stdout, run.stdout
  measured = rf"{rows} rows of 1000 clips: (\d+) s, ([\d.]+) GiB at most"
  seconds, memory = re.search(measured, run.stdout).groups()
  assert int(seconds) < most_seconds and float(memory) < 2


def test_faults_of_many_rows_are_small():
  found = dataset_faults.DatasetFaults()
  found.begin_file(Path("train.json"))
  fields = dict.fromkeys(records.FIELDS, "x") | {"filepath2": ""}
  for i in range(5000):
    found.add_row(
      records.Record(**fields | {"filepath1": f"{i % 50}.wav", "answer": str(i)}, row=i)
    )
  assert len(found.new_clips()) == 50 and found.new_clips() == []
  found.find_duplicates()
  assert found.report()["counts"] == {}


def test_words_that_the_tokenizer_does_not_know_are_counted(tree, tokenizer, capsys):
  status, report, _ = tree.check(tokenizer)
  assert status == 0 and report["unknown_words"] == {str(i): 1 for i in range(7)}
  assert "7 words the tokenizer does not know, 7 times: 0, 1, 2" in capsys.readouterr().out
  assert tree.check()[1]["unknown_words"] == {}
