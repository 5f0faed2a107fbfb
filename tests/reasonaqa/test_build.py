"""The command builds whole folders of rows that add up, or says in a line why not."""

import json

import damage
import numpy as np
import pytest
import soundfile

from mellow_jax.data import cache, records
from mellow_jax.reasonaqa import __main__ as command

CAPTIONS = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
ENTAILMENT = "Dataset,Audio file,Caption,Entailment,Neutral,Contradiction\n"


@pytest.fixture
def dataset(tmp_path):
  """Official files of Clotho, AudioCaps and Audio Entailment, and some of their audio."""
  files = tmp_path / "files"
  (files / "audiocaps").mkdir(parents=True)
  text = CAPTIONS + "a &amp; b.wav,1,2,3,4,5\nc.wav,6,7,8,9,10\ngone.wav,1,2,3,4,5\n"
  (files / "clotho_captions_evaluation.csv").write_text(text)
  lines = [f"ClothoV2,{name},['x'],yes,maybe,no\n" for name in ("c.wav", "other.wav", "gone.wav")]
  (files / "clotho_entailment_evaluation.csv").write_text(ENTAILMENT + "".join(lines))
  text = "youtube_id,caption\n" + "".join(f"{video},{i}\n" for video in "uvw" for i in range(5))
  (files / "audiocaps/test.csv").write_text(text)
  header = "taskname,filepath1,filepath2,caption1,caption2,input,answer\n"
  line = "audiocaps,AudioCapsLarger/test/Yu.wav,AudioCapsLarger/test/Yv.wav,x,y,explain,they do\n"
  (files / "acd_test_adiff_fewwords_answer.csv").write_text(header + line)
  for name in ("ClothoV21/evaluation/a & b", "ClothoV21/evaluation/c", "AudioCapsLarger/test/Yu"):
    path = tmp_path / f"audio/{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(8000), 8000)
  return tmp_path


def run(folder, *flags):
  default = ["--sources=files", "--audio_root=audio", "--output=made"]
  named = {flag.partition("=")[0] for flag in flags}
  flags = [flag for flag in default if flag.partition("=")[0] not in named] + [*flags]
  places = ("--sources=", "--audio_root=", "--output=", "--add=")
  flags = [
    f"{flag.partition('=')[0]}={folder / flag.partition('=')[2]}"
    if flag.startswith(places)
    else flag
    for flag in flags
    if flag.partition("=")[2] or "=" not in flag
  ]
  return command.main(["reasonaqa", "build", *flags])


def test_rows_without_audio_are_dropped_and_listed(dataset, capsys):
  assert run(dataset) == 0
  rows = records.read(dataset / "made/test.json")
  assert not records.missing_audio(rows, dataset / "audio")
  counted = {}
  for row in rows:
    counted[row.subtype] = counted.get(row.subtype, 0) + 1
  assert counted == {"Clotho.json": 10, "AudioCaps.json": 5, "CLE.json": 3}
  # The file on disk has "&" where Clotho's table has "&amp;".
  assert rows[0].filepath1 == "ClothoV21/evaluation/a & b.wav"
  report = json.loads((dataset / "made/report.json").read_text())
  entries = {entry["dataset"]: entry for entry in report["datasets"]}
  assert entries["CLE"]["rows_made"] == 9 and entries["CLE"]["rows_kept"] == 3
  assert entries["CLE"]["rows_dropped"] == {
    "no clip of Clotho has this name": 3,
    "there is no audio below --audio_root": 3,
  }
  assert [dropped["what"] for dropped in entries["CLE"]["dropped"]] == [
    "other.wav",
    "ClothoV21/evaluation/gone.wav",
  ]
  assert entries["ACD-1"]["rows_kept"] == 0
  assert (report["rows"], report["clips"], report["renamed"]) == ({"test": 18}, {"test": 3}, 1)
  said = capsys.readouterr().out
  assert said == (dataset / "made/report.txt").read_text()
  assert "test CLE: 3 clips of three hypotheses x 3 = 9 - 3 - 3 = 3 rows of 1 clips" in said
  assert "from zenodo.org/records/6473207: clotho_aqa_train.csv or binary_train_eng.csv" in said


def test_each_row_has_its_stable_id(dataset):
  assert run(dataset) == 0
  written = json.loads((dataset / "made/test.json").read_text())
  for row, record in zip(written, records.read(dataset / "made/test.json"), strict=True):
    assert row["_id"] == records.row_id(record)
    assert {*row} == {*records.FIELDS, "_id"}


def test_missing_audio_may_be_kept_and_the_papers_clips_chosen(dataset):
  flags = ["--allow_missing_audio", "--paper_clips", "--split=test", "--audio_root="]
  assert run(dataset, *flags) == 0
  counted = {}
  for row in records.read(dataset / "made/test.json"):
    counted[row.subtype] = counted.get(row.subtype, 0) + 1
  # Of u, v and w the pairs of differences name u and v.
  assert counted == {"Clotho.json": 15, "AudioCaps.json": 10, "CLE.json": 6, "ACD-1.json": 1}
  assert {path.name for path in (dataset / "made").glob("*.json")} == {"report.json", "test.json"}


def test_records_for_pods_hold_the_rows_and_their_audio(dataset):
  assert run(dataset, "--array_record") == 0
  opened = cache.Cache(dataset / "made/array_record/test")
  assert [*opened] == [*records.read(dataset / "made/test.json")]
  for path in opened.audio_paths():
    assert opened.clip(path) == (dataset / "audio" / path).read_bytes()


def test_ones_own_clips_join(dataset):
  text = "file,caption,split\n"
  for i in range(6):
    soundfile.write(dataset / f"audio/{i}.wav", np.zeros(8000), 8000)
    text += f"{i}.wav,{('rain', 'a dog', 'wind')[i % 3]},{('train', 'val')[i % 2]}\n"
  (dataset / "Own.csv").write_text(text + "gone.wav,a cat,train\n")
  assert run(dataset, "--sources=", "--add=Own.csv") == 0
  train, val = (records.read(dataset / f"made/{split}.json") for split in ("train", "val"))
  assert {row.filepath1 for row in train} == {"0.wav", "2.wav", "4.wav"}
  assert {row.filepath1 for row in val} == {"1.wav", "3.wav", "5.wav"}
  # What has no sound here is no option either.
  assert not any("cat" in row.input + row.answer for row in train)
  assert "gone.wav" in (dataset / "made/report.json").read_text()


def test_what_does_not_fit_on_the_disk_is_not_left_half_written(dataset, capsys):
  with damage.files_of_at_most(2000):
    assert run(dataset) == 1
  assert "error: " in capsys.readouterr().err and not [*dataset.glob("made*")]
  assert run(dataset) == 0


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--output="], "--output is missing"),
    (["--sources="], "--data is missing"),
    (["--audio_root="], "--audio_root is missing"),
    (["--audio_root=none"], "none: is no folder"),
    (["--data=none"], "--data=none: is no folder"),
    (["--sources=none"], "error: --data=/"),
    (["--sources=audio"], "none of the official files is below it"),
    (["--array_record", "--allow_missing_audio"], "drop --allow_missing_audio"),
    (["--output=files"], "files: is there already"),
    (["--split=dev"], "--split=dev"),
    (["--paper_clips", "--split=val"], "no acd_val"),
    (["word"], "'word' is no flag"),
    (["--audio_root=files"], "no row is left"),
    (["--add=Clotho.csv"], "another source has this name"),
  ],
)
def test_what_cannot_be_built_is_said_in_a_line(dataset, capsys, flags, message):
  if "--paper_clips" in flags:
    (dataset / "files/audiocaps/val.csv").write_text("youtube_id,caption\nu,x\n")
  assert run(dataset, *flags) == 1
  (line,) = [
    line for line in capsys.readouterr().err.splitlines() if "clips" not in line[:5] and line
  ]
  assert line.startswith("error: ") and message in line
  assert not [*dataset.glob("made*")]
