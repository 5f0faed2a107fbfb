"""Counts of rows, clips and words, beside the paper's."""

import csv
import json
import sys

import pytest

from mellow_jax.data import records
from mellow_jax.reasonaqa import __main__ as command
from mellow_jax.reasonaqa import paper, vocabulary


def row(subtype, question, answer, clip="a.wav", second=""):
  fields = {"subtype": subtype, "input": question, "answer": answer, "filepath1": clip}
  return dict.fromkeys(records.FIELDS, "") | fields | {"filepath2": second}


@pytest.fixture
def dataset(tmp_path):
  train = [
    row("Clotho.json", "caption first audio", "rain", "a.wav"),
    row("Clotho.json", "caption first audio", "wind", "a.wav"),
    row("CLD-2.json", "explain the difference in a sentence", "they differ", "a.wav", "b.wav"),
    row("Clotho-MCQ.json", "What is heard? a) heavy rain b) a dog", "a) heavy rain", "a.wav"),
    row("Clotho-MCQ.json", "What is it? a) rain b) the wind", "b) the wind", "b.wav"),
    row("AudioCaps-MCQ.json", "Which sound? a) rain b) hail", "a) rain", "c.wav"),
    row("AudioCaps-Detail.json", "How loud is it?", "It is very loud.", "c.wav"),
  ]
  (tmp_path / "train.json").write_text(json.dumps(train))
  (tmp_path / "test.json").write_text(json.dumps(train[:1]))
  return tmp_path


def run(*flags):
  return command.main(["reasonaqa", "stats", *map(str, flags)])


def tables(folder):
  found = {}
  for path in folder.glob("*.csv"):
    with path.open(newline="") as file:
      found[path.stem] = list(csv.reader(file))
  return found


def test_rows_stand_beside_the_papers(dataset, capsys):
  assert run(f"--rows={dataset}", f"--output={dataset / 'out'}") == 0
  rows = {(line[0], line[1]): line[2:] for line in tables(dataset / "out")["rows"][1:]}
  assert rows["train", "Clotho"] == ["2", "19195", "28.6", "2.0", "1", "3839"]
  assert rows["train", "CLD-2"] == ["1", "19195", "14.3", "2.0", "2", ""]
  assert ("train", "ACE") not in rows  # the paper has none
  assert rows["test", "ACE"] == ["0", "14355", "0.0", "8.9", "0", ""]
  assert rows["train", "all"] == ["7", "968071", "100.0", "", "3", "52499"]
  said = capsys.readouterr().out
  assert said.strip() == (dataset / "out/stats.txt").read_text().strip()
  assert (dataset / "out/stats.png").read_bytes().startswith(b"\x89PNG")


def test_words_are_counted_with_and_without_stop_words(dataset):
  assert run(f"--rows={dataset / 'train.json'}", f"--output={dataset / 'out'}") == 0
  header, *lines = tables(dataset / "out")["words"]
  found = {(line[0], line[1]): dict(zip(range(len(header)), line, strict=True)) for line in lines}
  clotho = found["MCQ", "Clotho"]
  # "what is heard heavy rain a dog", "what is it rain the wind": 7 and 6 words; of content 4 and 2.
  assert [clotho[i] for i in (2, 3, 4, 5, 6)] == ["2", "95551", "6.50", "3.00", "11.46"]
  assert [clotho[i] for i in (7, 8, 9)] == ["10", "5", "8430"]
  assert [clotho[i] for i in (10, 11, 12)] == ["2.00", "1.50", "2.35"]
  assert found["MCQ", "all"][2] == "3" and found["Detail", "all"][2] == "1"


def test_new_words_are_those_that_others_lack(dataset):
  old = [row("Clotho-MCQ.json", "what is heard? a) rain b) hail", "a) rain")]
  (dataset / "old.json").write_text(json.dumps(old))
  flags = [f"--rows={dataset / 'train.json'}", f"--against={dataset / 'old.json'}"]
  assert run(*flags, f"--output={dataset / 'out'}") == 0
  new = {(kind, side): [] for kind in ("MCQ", "Detail") for side in ("question", "answer")}
  for kind, side, word, _ in tables(dataset / "out")["new_words"][1:]:
    new[kind, side].append(word)
  assert new["MCQ", "answer"] == ["heavy", "the", "wind"]
  assert "hail" not in new["MCQ", "question"] and "sound" in new["MCQ", "question"]


def test_frequent_words_are_those_of_content(dataset, capsys):
  """Figure 6: what questions and answers speak of most."""
  assert run(f"--data={dataset / 'train.json'}", f"--output={dataset / 'out'}") == 0
  found = {}
  for kind, side, word, times in tables(dataset / "out")["frequent_words"][1:]:
    found.setdefault((kind, side), {})[word] = int(times)
  assert found["MCQ", "question"] == {"rain": 3, "dog": 1, "hail": 1, "heard": 1, "heavy": 1} | {
    "sound": 1,
    "wind": 1,
  }
  assert [*found["MCQ", "answer"]] == ["rain", "heavy", "wind"]
  assert found["Detail", "answer"] == {"loud": 1}
  assert "MCQ answers: rain 2, heavy 1, wind 1" in capsys.readouterr().out


def test_words_of_text():
  assert vocabulary.words("A) It's a dog-like Bark, isn't it? b) 5 kHz") == [
    *("it's", "a", "dog-like", "bark", "isn't", "it", "5", "khz")
  ]
  assert vocabulary.content_words("the dog is in the house") == ["dog", "house"]


def test_the_papers_table_adds_up():
  sums = tuple(sum(rows[i] for rows in paper.ROWS.values()) for i in range(3))
  assert sums == paper.TOTAL_ROWS
  assert sum(paper.rows(f"ACD-{i}", "val") for i in (1, 2, 3)) == paper.ROWS["ACD"][1]
  assert paper.rows("Own-MCQ", "train") is None
  for (kind, sort, source), numbers in paper.WORDS.items():
    if source == "all":
      parts = [paper.WORDS[kind, sort, one][0] for one in ("AudioCaps", "Clotho")]
      assert numbers[0] == sum(parts)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "--data is missing"),
    (["--rows={}/none"], "cannot be read"),
    (["--rows={}", "--output={}"], "is there already"),
    (["--rows={}", "--type=4"], "--type=4: use Type 1, Type 2, Type 3"),
    (["--rows={}", "--against={}/test.json"], "--against: holds no rows of a subtype"),
  ],
)
def test_what_cannot_be_told_is_said_in_a_line(dataset, capsys, flags, message):
  assert run(*(flag.format(dataset) for flag in flags)) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ") and message in line


def test_an_unknown_word_is_refused_and_nothing_needs_jax(capsys):
  assert command.main(["reasonaqa", "bild"]) == 1
  assert "write build, synthesize, filter, stats, check or tfds" in capsys.readouterr().err
  assert command.main(["reasonaqa", "--help"]) == 0
  assert "mellow reasonaqa check" in capsys.readouterr().out
  assert "mellow_jax.reasonaqa.commands.stats" in sys.modules
