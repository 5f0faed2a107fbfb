"""Official files become the rows that the paper counts, and what does not is named."""

import ast
import collections
import csv
import functools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mellow_jax.data import records
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.official import locations, sources


@pytest.fixture(scope="session")
def official(reference_data, tmp_path_factory):
  """The real files, with Clotho's captions as Audio Entailment holds them.

  Its list of five captions a clip is Clotho's own; two of its names lack the space that Clotho's
  begin with.
  """
  folder = tmp_path_factory.mktemp("official")
  (folder / "meta").symlink_to(reference_data / "meta")
  names = json.loads((reference_data / "meta/clotho/file_names.json").read_text())
  for split, part in (("train", "development"), ("val", "validation")):
    path = reference_data / f"meta/audioentailment/clotho_entailment_{part}.csv"
    with path.open(newline="", encoding="utf-8") as file:
      captions = {row["Audio file"].strip(): row["Caption"] for row in csv.DictReader(file)}
    with (folder / f"clotho_captions_{part}.csv").open("w", newline="", encoding="utf-8") as file:
      writer = csv.writer(file)
      writer.writerow(["file_name", *(f"caption_{i}" for i in range(1, 6))])
      for name in names[split]:
        writer.writerow([name, *ast.literal_eval(captions[name.strip()])])
  return folder


@pytest.fixture(scope="session")
def real(official):
  """The real rows of a dataset and a split, read once."""
  return functools.cache(lambda dataset, split: sources.read(dataset, official, split))


COUNTS = [
  # dataset, split, rows of the file, rows each, rows kept; the paper's where it is on the right
  ("Clotho", "train", 3839, 5, 19195),
  ("Clotho", "val", 1045, 5, 5225),
  ("AudioCaps", "train", 49838, 1, 49838),  # 1178 fewer in the paper, of clips that are gone
  ("AudioCaps", "val", 2475, 1, 495),  # one fewer
  ("AudioCaps", "test", 4875, 1, 4875),  # 18 x 5 fewer
  ("ClothoAQA", "train", 14088, 1, 14088),
  ("ClothoAQA", "val", 4128, 1, 4128),
  ("CLE", "train", 3839, 3, 11511),
  ("CLE", "val", 1045, 3, 3132),
  ("ACE", "test", 4875, 3, 14625),  # 18 x 5 x 3 fewer
  ("CLD-1", "val", 5225, 1, 5225),
  ("CLD-2", "val", 5225, 1, 5225),
  ("ACD-1", "val", 2456, 1, 2456),
  ("ACD-2", "val", 2456, 1, 2456),
  ("ACD-3", "val", 2456, 1, 2456),
]


@pytest.mark.parametrize(("dataset", "split", "read", "each", "kept"), COUNTS)
def test_real_files_give_the_rows_that_are_counted(real, dataset, split, read, each, kept):
  source = real(dataset, split)
  assert (source.read, source.each, len(source.rows)) == (read, each, kept)
  assert read * each == kept + sum(dropped.rows for dropped in source.dropped)
  assert {row.subtype for row in source.rows} == {f"{dataset}.json"}
  assert all(records.relative_path(row.filepath1) == row.filepath1 for row in source.rows[::50])


def test_rows_whose_clip_is_not_in_clotho_are_named(real):
  named = {
    split: [dropped.what for dropped in real("CLE", split).dropped] for split in ("train", "val")
  }
  assert named == {
    "train": ["typical neighborhood in Porto.wav", "Ambience Birds.wav"],
    "val": ["e ieio ieai.wav"],
  }


def test_the_clips_of_adiff_lead_to_the_papers_count(real, official):
  """494 of the 495 validation clips of AudioCaps, as many as the paper has."""
  clips = {row.filepath1 for row in real("AudioCaps", "val").rows}
  had = sources.acd_clips(official, "val")
  assert had < clips and len(had) == 494


# --- What a row becomes --------------------------------------------------------------------------


def write(folder, name, text):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding="utf-8")


def only(source):
  (row,) = source.rows
  return row


def test_a_caption_becomes_a_question(tmp_path):
  write(tmp_path, "AudioCaps/dataset/test.csv", "youtube_id,caption\na-B,a dog\n")
  write(tmp_path, "AudioCaps/dataset2.0/test.csv", "youtube_id,caption\nother,a cat\n")
  write(tmp_path, "elsewhere/test.csv", "youtube_id,caption\nother,a cat\n")
  assert only(sources.read("AudioCaps", tmp_path, "test")) == records.Record(
    taskname="audiocaps",
    filepath1="AudioCapsLarger/test/Ya-B.wav",
    filepath2="",
    caption1="a dog",
    caption2="",
    input="caption first audio",
    answer="a dog",
    subtype="AudioCaps.json",
    row=0,
  )


CAPTIONS = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
ENTAILMENT = "Dataset,Audio file,Caption,Entailment,Neutral,Contradiction\n"


def test_entailment_becomes_three_multiple_choices(tmp_path):
  write(tmp_path, "clotho_captions_evaluation.csv", CAPTIONS + "rain &amp; wind.wav,1,2,3,4,5\n")
  line = 'ClothoV2,rain & wind.wav,"[\'a storm\', ""it\'s loud""]",it rains,it is May,it is dry\n'
  write(tmp_path, "clotho_entailment_evaluation.csv", ENTAILMENT + line)
  rows = sources.read("CLE", tmp_path, "test").rows
  options = (
    "a) It is definitely true b) It is definitely false c) It is plausible d) I cannot determine"
  )
  stem = "Based on the audio, what can be said about the hypothesis"
  assert [(row.input, row.answer) for row in rows] == [
    (f'{stem} - "it rains"? {options}', "a) It is definitely true"),
    (f'{stem} - "it is May"? {options}', "c) It is plausible"),
    (f'{stem} - "it is dry"? {options}', "b) It is definitely false"),
  ]
  # The clip is named as Clotho names it; "&amp;" is "&".
  assert {row.filepath1 for row in rows} == {"ClothoV21/evaluation/rain &amp; wind.wav"}
  assert {row.caption1 for row in rows} == {"a storm"}


def test_clothoaqa_is_read_with_and_without_confidence(tmp_path):
  text = (
    "file_name,QuestionText,answer,confidence\na.wav,is it loud?,Yes,maybe\na.wav,what?,rain,\n"
  )
  write(tmp_path, "clotho_aqa_test.csv", text)
  source = sources.read("ClothoAQA", tmp_path, "test")
  assert (only(source).input, only(source).answer) == ("is it loud?", "yes")
  assert only(source).filepath1 == "ClothoAQA/audio_files/a.wav"
  assert [(dropped.line, dropped.reason) for dropped in source.dropped] == [
    (3, "the answer is neither yes nor no")
  ]


def test_differences_stay_as_they_are(tmp_path):
  header = "taskname,filepath1,filepath2,caption1,caption2,input,answer\n"
  rows = "audiocaps,A\\test\\1.wav,A/test/2.wav,x,y,explain it,they differ\n"
  rows += "audiocaps,A/test/3.wav,A/test/4.wav,x,y,explain it, \n"
  rows += "audiocaps,,A/test/4.wav,x,y,explain it,no\naudiocaps,/a,b,x,y,explain it,no\n"
  write(tmp_path, "acd_test_adiff_detail_answer.csv", header + rows)
  source = sources.read("ACD-3", tmp_path, "test")
  row = only(source)
  assert (row.filepath1, row.filepath2) == ("A/test/1.wav", "A/test/2.wav")
  assert (row.subtype, row.input, row.answer) == ("ACD-3.json", "explain it", "they differ")
  assert [dropped.line for dropped in source.dropped] == [3, 4, 5]
  reasons = ["the answer is empty", "the clip's path is empty", "the clip's path is absolute"]
  for dropped, reason in zip(source.dropped, reasons, strict=True):
    assert dropped.reason.startswith(reason)


# --- What cannot be read -------------------------------------------------------------------------


def test_what_is_absent_is_named_with_where_to_get_it(tmp_path):
  with pytest.raises(locations.MissingSource, match=r"no clotho_captions_evaluation\.csv"):
    sources.read("Clotho", tmp_path, "test")
  with pytest.raises(locations.MissingSource, match="get it from github"):
    sources.read("CLD-2", tmp_path, "test")
  with pytest.raises(DataError, match=r"use one of Clotho, .* and one of train"):
    sources.read("Clotho", tmp_path, "dev")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ("name,caption\na.wav,rain\n", "line 1: column 'file_name' is missing"),
    (CAPTIONS + "a.wav,1,2,3,4\n", "line 2: has 5 cells where the header has 6"),
    (CAPTIONS + 'a.wav,"1\n,2,3,4,5\n', "line 2: is not CSV"),
    (CAPTIONS + "a.wav,1,2,3,4,\udcff\n", "is not UTF-8 at byte"),
  ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, text, message):
  path = tmp_path / "clotho_captions_evaluation.csv"
  path.write_bytes(text.encode(errors="surrogateescape"))
  with pytest.raises(DataError, match=message) as error:
    sources.read("Clotho", tmp_path, "test")
  assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_two_files_of_one_name_are_not_chosen_between(tmp_path):
  for folder in ("a", "b"):
    write(tmp_path, f"{folder}/clotho_captions_evaluation.csv", CAPTIONS)
  with pytest.raises(DataError, match="are both there: keep one"):
    sources.read("Clotho", tmp_path, "test")


@given(st.lists(st.text(alphabet=" ab\\./", max_size=6), min_size=1, max_size=8))
def test_whatever_a_file_holds_rows_and_drops_add_up(tmp_path_factory, cells):
  folder = tmp_path_factory.mktemp("any")
  with (folder / "binary_test_eng.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["file_name", "QuestionText", "answer"])
    rows = [[cell, cells[0], ("YES", "no", "maybe", cell)[i % 4]] for i, cell in enumerate(cells)]
    writer.writerows(rows)
  source = sources.read("ClothoAQA", folder, "test")
  filled = sum(bool("".join(row).strip()) for row in rows)  # others are blank lines
  assert source.read == filled == len(source.rows) + len(source.dropped)
  assert collections.Counter(row.answer for row in source.rows).keys() <= {"yes", "no"}
