"""Existing files of questions are filtered as a run's own questions are."""

import json

import pytest

from mellow_jax.data import records
from mellow_jax.reasonaqa import __main__ as command
from mellow_jax.reasonaqa.llm import filters, leftovers


def run(*flags):
  return command.main(["reasonaqa", "filter", *map(str, flags)])


def row(kind, question, answer, clip="a.wav"):
  fields = {"subtype": f"AudioCaps{kind}.json", "input": question, "answer": answer}
  return dict.fromkeys(records.FIELDS, "") | fields | {"filepath1": clip, "caption1": "a dog barks"}


def write(path, rows):
  path.write_text(json.dumps(rows))
  return path


def read(folder):
  rejects = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
  return (
    json.loads((folder / "rows.json").read_text()),
    [reject["reason"] for reject in rejects],
    json.loads((folder / "report.json").read_text()),
  )


def test_of_reasonaqa_the_generated_rows_are_judged(tmp_path, capsys):
  options = "a) a dog b) a cat c) rain d) wind"
  kept = [
    row("", "caption the audio", "Unknown"),  # not generated
    row("-MCQ", f"what barks in the clip? {options}", "a) a dog"),
    row("-Detail", "How loud is the bark?", "It is loud, and close to the microphone."),
  ]
  rejected = {
    "the answer names no option": row("-MCQ", f"what barks in the clip? {options}", "e) a seal"),
    filters.REFUSED: row("-Detail", "How old is the dog?", "The age of the dog is unknown."),
    filters.KNOWLEDGE: row("-Detail", "Why do dogs bark?", "Dogs bark to warn others of danger."),
    leftovers.CAPTION: row("-Detail", "What is said of it?", "The caption says that it barks."),
    filters.VAGUE: row("-MCQ", "Which sound is it? a) a dog b) other", "b) other"),
    "a label is left in it": row("-MCQ", f"What barks? Options: {options}", "a) a dog"),
  }
  path = write(tmp_path / "train.json", [*rejected.values(), *kept])
  assert run(f"--data={path}", f"--output={tmp_path / 'out'}") == 0
  rows, reasons, report = read(tmp_path / "out")
  assert rows == kept and reasons == [*rejected]
  counts = [report[name] for name in ("questions", "not_judged", "kept", "rejected")]
  assert counts == [8, 1, 3, 6]
  assert len(records.read(tmp_path / "out/rows.json")) == 3
  said = capsys.readouterr().out
  assert "3 rows from 8 questions and 1 of other kinds" in said


def openaqa(question, answer, clip, **more):
  task = {"task": "open-ended question", "dataset": "audiocaps_train", "input": ""}
  return {"instruction": question, "audio_id": clip, "output": answer} | task | more


def test_of_openaqa_the_open_ended_questions_are_judged(tmp_path):
  calm = "Does the clip convey urgency?"
  no = "No, the clip does not convey any sense of urgency, as it is only the sound of {}."
  sounds = ("rain", "wind", "a fan", "surf", "hail", "a tap", "a jet", "a saw")
  rows = [openaqa(calm, no.format(what), f"{i}.flac") for i, what in enumerate(sounds)]
  rows += [
    openaqa("Classify the sound events in the audio clip", "Dog", "1.flac", task="cla_label"),
    openaqa("What is the pitch of the whistle?", "It is unclear what it is.", "2.flac"),
  ]
  path = write(tmp_path / "openaqa.json", rows)
  assert run(f"--data={path}", f"--output={tmp_path / 'out'}") == 0
  kept, reasons, report = read(tmp_path / "out")
  assert reasons == [filters.REPEATED] * 3 + [filters.REFUSED]
  assert kept == [*rows[:5], rows[8]] and report["not_judged"] == 1


def test_the_failures_that_the_paper_prints_are_rejected_and_its_own_questions_kept(
  tmp_path, reference_data
):
  """Tables 12 and 13: eight failures, of which two are none but for their number, and five kept."""
  paper = (reference_data / "paper/mellow.txt").read_text()
  tables = paper.partition("Answerable by World Knowledge |")[2].partition("D.2 Qual")[0]
  lines = [line.strip(" |") for line in tables.splitlines()]
  questions = [line[10:] for line in lines if line.startswith("Question: ")]
  answers = [line[8:] for line in lines if line.startswith("Answer: ")]
  rows = [openaqa(*pair, "a.flac") for pair in zip(questions, answers, strict=True)]
  assert len(rows) == 8 + 10 + 5
  path = write(tmp_path / "printed.json", rows[:8] + rows[-5:])
  assert run(f"--data={path}", f"--output={tmp_path / 'out'}") == 0
  kept, reasons, _ = read(tmp_path / "out")
  assert kept == rows[4:6] + rows[-5:]
  assert reasons == [filters.KNOWLEDGE] * 2 + [filters.REFUSED] * 2 + [
    filters.VAGUE,
    filters.REFUSED,
  ]


@pytest.mark.parametrize(
  ("rows", "flags", "message"),
  [
    ([], ["--output={}/out"], "--data is missing"),
    ([{}], ["--data={}/rows.json"], "--output is missing"),
    ([{}], ["--data={}/rows.json", "--output={}"], "is there already"),
    ([{"a": 1}], ["--data={}/rows.json", "--output={}/out"], "row 0 (from 0): has neither"),
    ([], ["--data={}/rows.json", "--output={}/out"], "holds no rows"),
  ],
)
def test_what_cannot_be_filtered_is_said_in_a_line(tmp_path, capsys, rows, flags, message):
  write(tmp_path / "rows.json", rows)
  assert run(*(flag.format(tmp_path) for flag in flags)) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ") and message in line
  assert not (tmp_path / "out").exists()
