import json
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile
import tiny
from jax.experimental.compilation_cache import compilation_cache

import mellow_jax
from mellow_jax import generate
from mellow_jax.data import audio
from mellow_jax.errors import QuestionError
from mellow_jax.inference import answering, api, decode
from mellow_jax.inference.decode import Sampling
from mellow_jax.inference.notes import Note

QUESTION = "what is heard in the audio ?"
SHORT = Sampling(max_new_tokens=6)


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
  time = np.arange(round(16_000 * seconds)) / 16_000
  return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> pathlib.Path:
  """a, b, c and d, of one second; long, of 3.5; broken, which is none."""
  folder = tmp_path_factory.mktemp("clips")
  for i, name in enumerate("abcd"):
    soundfile.write(folder / f"{name}.wav", tone(200.0 * 3**i), 16_000)
  soundfile.write(folder / "long.wav", tone(500.0, 3.5), 16_000)
  (folder / "broken.wav").write_bytes(b"no audio at all")
  return folder


@pytest.fixture(scope="module")
def model(tiny_model_folder) -> api.Mellow:
  return api.Mellow.load(tiny_model_folder)


# --- The class -----------------------------------------------------------------------------------


def test_a_clip_may_be_a_path_bytes_or_an_array(model, clips):
  path = clips / "a.wav"
  wav, rate = soundfile.read(path, dtype="float32")
  found = [
    model.answer(clip, QUESTION, sampling=SHORT)
    for clip in (path, str(path), path.read_bytes(), (wav, rate))
  ]
  assert len(set(found)) == 1
  assert found[0].heard == ("0.0-1.0 s of 1.0 s",) * 2


def test_a_single_clip_stands_in_both_slots(model, clips):
  single = model.answer(clips / "a.wav", QUESTION, sampling=SHORT)
  twice = model.compare(clips / "a.wav", clips / "a.wav", QUESTION, sampling=SHORT)
  np.testing.assert_allclose(single.log_probs, twice.log_probs, rtol=1e-5)
  other = model.compare(clips / "a.wav", clips / "d.wav", QUESTION, sampling=SHORT)
  assert abs(single.log_probs[0] - other.log_probs[0]) > 1e-4


def test_a_batch_answers_as_one_by_one(model, clips):
  paths = [clips / f"{name}.wav" for name in "abcd"]
  rows = [(paths[0], None, QUESTION), (paths[1], paths[2], "what then ?"), (paths[3], None, "rain")]
  one_by_one = [model.answer(a, q, audio2=b, sampling=SHORT) for a, b, q in rows]
  batched = model.answers(rows, sampling=SHORT, batch_size=2)
  assert [a.texts for a in batched] == [a.texts for a in one_by_one]
  np.testing.assert_allclose(
    [a.log_probs for a in batched], [a.log_probs for a in one_by_one], rtol=1e-4
  )


def test_clips_of_a_batch_are_encoded_once(model, clips, monkeypatch):
  encoded, encode = [], model._encode
  monkeypatch.setattr(model, "_encode", lambda p, wav: encoded.append(len(wav)) or encode(p, wav))
  clip = audio.load(clips / "a.wav", model.cfg.audio, model.preset)
  model.answers([(clip, None, QUESTION), (clip, clip, "rain")], sampling=SHORT, batch_size=2)
  assert encoded == [2]


def test_long_clips_log_what_is_heard(model, clips, capfd):
  path = clips / "long.wav"
  assert model.caption(path, sampling=SHORT).heard[0] == "0.0-1.0 s of 3.5 s"
  center = model.caption(path, sampling=SHORT, window="center")
  assert center.heard[0] == "1.2-2.2 s of 3.5 s"
  logged = [line for line in capfd.readouterr().err.splitlines() if "heard" in line]
  assert logged == [f"{path}: heard 0.0-1.0 s of 3.5 s", f"{path}: heard 1.2-2.2 s of 3.5 s"]


def test_every_window_of_a_long_clip_is_answered(model, clips):
  found = model.answer_windows(clips / "long.wav", QUESTION, sampling=SHORT)
  assert [a.heard[0] for a in found] == [f"{i}.0-{i + 1}.0 s of 3.5 s" for i in range(3)]


def test_samples_depend_on_seed_and_row_and_not_on_the_batch(model, clips):
  sampling = Sampling(max_new_tokens=6, temperature=1.0, samples=3)
  rows = [(clips / "a.wav", None, QUESTION)] * 3
  found = model.answers(rows, sampling=sampling, seed=4, batch_size=2)
  assert len({a.log_probs for a in found}) == 3 and len(found[0].texts) == 3
  again = model.answers(rows[1:], sampling=sampling, seed=4, batch_size=2, first_row=1)
  assert [a.texts for a in again] == [a.texts for a in found[1:]]
  other = model.answers(rows, sampling=sampling, seed=5, batch_size=2)
  assert other[0].log_probs != found[0].log_probs


def test_options_are_scored(model, clips):
  rows = [(clips / f"{name}.wav", None, QUESTION) for name in "abc"]
  options = [["a dog barks", "rain falls"], ["one", "two", "three"], ["rain falls", "a dog barks"]]
  scores = model.score(rows, options, batch_size=2)
  assert [len(row) for row in scores] == [2, 3, 2]
  assert [tokens for _, tokens in scores[0]] == [4, 3]  # with the end token
  assert all(log_prob < 0 for row in scores for log_prob, _ in row)
  alone = model.score(rows[:1], [["rain falls", "a dog barks"]], batch_size=1)[0]
  np.testing.assert_allclose(alone, scores[0][::-1], rtol=1e-4)
  # An answer's own score is what decoding says of it.
  answer = model.answer(*rows[0][::2], sampling=Sampling(max_new_tokens=3, beams=8, samples=8))
  ended = [i for i, n in enumerate(answer.tokens) if n == 2 and len(answer.texts[i].split()) == 2]
  for i in ended:
    ((log_prob, tokens),) = model.score(rows[:1], [[answer.texts[i]]], batch_size=1)[0]
    assert tokens == 3 and abs(log_prob - answer.log_probs[i]) < 1e-3


def test_compiling_is_said_once_where_it_is_done_and_not_where_the_cache_has_it(
  tiny_model_folder, clips, capfd, tmp_path, monkeypatch
):
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.setenv("MELLOW_CACHE", str(tmp_path))
  for expected in (["compiling, once: answers in batches of 1"], []):
    model = api.Mellow.load(tiny_model_folder)
    for name in "ab":
      model.caption(clips / f"{name}.wav", sampling=Sampling(max_new_tokens=2))
    lines = capfd.readouterr().err.splitlines()
    # Where it takes long here, the seconds are told as well.
    device, *others = (line for line in lines if not line.startswith("preparing ..."))
    assert device.startswith("device: ") and device.endswith(f", loading {tiny_model_folder}")
    assert others == expected
  jax.config.update("jax_compilation_cache_dir", before)
  compilation_cache.reset_cache()


def test_a_question_that_is_cut_is_told_once(tiny_model_folder, clips, capfd):
  model = api.Mellow.load(tiny_model_folder)
  for _ in range(2):
    model.answer(clips / "a.wav", " ".join(["heard"] * 400), sampling=SHORT)
  (told,) = [line for line in capfd.readouterr().err.splitlines() if "cut" in line]
  assert told.startswith("questions are cut after ") and told.endswith("...")


def test_a_logger_that_the_program_has_set_stays(model, clips, capfd, monkeypatch):
  monkeypatch.setattr(api.logger, "level", logging.WARNING)
  api.logger.manager._clear_cache()
  api.log_progress()
  model.caption(clips / "long.wav", sampling=SHORT)
  assert capfd.readouterr().err == ""
  monkeypatch.undo()
  api.logger.manager._clear_cache()


@pytest.mark.parametrize("sampling", [SHORT, Sampling(max_new_tokens=6, temperature=1.0)])
def test_streamed_pieces_are_the_answer(model, clips, sampling):
  how = {"audio2": clips / "b.wav", "sampling": sampling, "seed": 3, "window": "center"}
  for name in ("a", "long"):
    pieces = list(model.stream_answer(clips / f"{name}.wav", QUESTION, **how))
    assert "".join(pieces) == model.answer(clips / f"{name}.wav", QUESTION, **how).text
    assert len(pieces) == len("".join(pieces).split())  # no punctuation among the words
  assert model._advance._cache_size() <= 2  # one program for each sampling


def test_a_stream_refuses_at_once_what_it_cannot_give(model, clips):
  for several in (Sampling(beams=2), Sampling(temperature=1.0, samples=2)):
    with pytest.raises(QuestionError, match="only one answer can be streamed"):
      model.stream_answer(clips / "a.wav", QUESTION, sampling=several)
  with pytest.raises(QuestionError, match="the question is empty"):
    model.stream_answer(clips / "a.wav", " ")


def test_the_package_offers_its_api():
  assert mellow_jax.Mellow is api.Mellow and mellow_jax.Sampling is Sampling
  assert set(mellow_jax.__all__) <= set(dir(mellow_jax))
  assert (pathlib.Path(mellow_jax.__file__).parent / "py.typed").exists()
  with pytest.raises(AttributeError, match="no attribute 'Melow'"):
    mellow_jax.Melow  # noqa: B018
  program = "import sys, mellow_jax; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- The command ---------------------------------------------------------------------------------


@pytest.fixture
def run(tiny_model_folder, capfd):
  """The command in this process: exit status, stdout, stderr."""

  def run(*args: object, checkpoint: object = tiny_model_folder) -> tuple[int, str, str]:
    capfd.readouterr()
    flags = [f"--checkpoint={checkpoint}", "--max_new_tokens=6", *map(str, args)]
    status = generate.main(["generate", *flags])
    return status, *capfd.readouterr()

  return run


def test_the_command_as_the_readme_gives_it(tiny_model_folder, clips, model, tmp_path):
  result = subprocess.run(
    [
      sys.executable,
      "-m",
      "mellow_jax.generate",
      f"--checkpoint={tiny_model_folder}",
      f"--audio={clips / 'a.wav'}",
      f"--audio={clips / 'b.wav'}",
      f"--prompt={QUESTION}",
      "--max_new_tokens=6",
    ],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, "MELLOW_CACHE": str(tmp_path)},
  )
  assert result.returncode == 0, result.stderr
  expected = model.compare(clips / "a.wav", clips / "b.wav", QUESTION, sampling=SHORT)
  assert result.stdout.strip() == expected.text
  assert "device: " in result.stderr and "compiling, once" in result.stderr
  assert any(tmp_path.iterdir())


def test_samples_and_windows_are_printed(run, clips):
  ask_a = [f"--audio={clips / 'a.wav'}", f"--prompt={QUESTION}"]
  _, out, _ = run(*ask_a, "--sampling=sample", "--samples=3", "--top_k=20", "--seed=1")
  assert out.count("\n") == 3
  assert run(*ask_a, "--sampling=beam", "--beams=3")[0] == 0
  _, out, _ = run(f"--audio={clips / 'long.wav'}", f"--prompt={QUESTION}", "--window=all")
  assert [line.split(": ")[0] for line in out.splitlines()] == [
    f"{i}.0-{i + 1}.0 s of 3.5 s" for i in range(3)
  ]


def test_a_vote_puts_first_the_answer_that_most_samples_agree_with():
  answer = api.Answer(
    texts=("a) dog", "b) rain", "rain", ""),
    log_probs=(-1.0, -2.0, -3.0, -4.0),
    tokens=(2, 2, 1, 0),
    heard=("0.0-1.0 s of 1.0 s",) * 2,
    finish_reasons=("length", "stop", "stop", "stop"),
    notes=(Note("silent_clip", ""), Note("answer_unfinished", "")),
  )
  found = answer.vote("what ? a) dog b) rain")
  assert found.texts == ("b) rain", "a) dog", "rain", "") and found.agreed == 2
  assert found.log_probs == (-2.0, -1.0, -3.0, -4.0) and found.finish_reason == "stop"
  assert found.notes == (Note("silent_clip", ""),)  # those of the answer are the chosen one's
  same = answer.vote("what ?")  # neither yes nor no
  assert (same.texts, same.notes, same.agreed) == (answer.texts, answer.notes, 0)


def test_generate_votes_and_says_how_many_agree(run, clips, tmp_path):
  sample = ["--sampling=sample", "--samples=5", "--temperature=2"]
  ask = [clips / "a.wav", "what ? a) dog b) rain", *sample]
  _, out, _ = run(*ask, "--vote")
  assert re.fullmatch(r".* \([0-5] of 5 agree\)\n", out)
  _, out, _ = run(*ask, "--vote", "--json")
  line = json.loads(out)
  assert line["prediction"] == line["texts"][0] and 0 <= line["agreed"] <= 5
  _, out, _ = run(*ask, "--json")
  assert "agreed" not in json.loads(out)
  rows, output = manifest(tmp_path / "rows.json"), tmp_path / "out.jsonl"
  voting = [f"--data={rows}", f"--output={output}", f"--audio_root={clips}", *sample]
  assert run(*voting, "--vote")[0] == 0
  assert all(line["agreed"] <= len(line["texts"]) == 5 for line in lines_of(output))
  _, _, err = run(*voting)
  assert "was made with vote = True" in err
  _, _, err = run(*ask[:2], "--vote")
  assert "add --sampling=sample and --samples=5" in err


def test_answers_about_other_clips_of_the_same_names_are_not_taken_for_these(run, clips, tmp_path):
  rows = [manifest(tmp_path / f"{name}.json", 2) for name in ("rows", "same")]
  output, other = tmp_path / "out.jsonl", tmp_path / "other"
  other.mkdir()
  for mine, theirs in (("a", "c"), ("b", "d")):
    shutil.copy(clips / f"{theirs}.wav", other / f"{mine}.wav")
  assert run(f"--data={rows[0]}", f"--output={output}", f"--audio_root={clips}")[0] == 0
  before = output.read_bytes()
  status, _, err = run(f"--data={rows[1]}", f"--output={output}", f"--audio_root={other}")
  assert status == 1 and f"was made with audio_root = '{clips}', this run has '{other}'" in err
  # The same folder by another name, and clips whose paths need none.
  spelled = other / ".." / os.path.relpath(clips, tmp_path)
  assert run(f"--data={rows[1]}", f"--output={output}", f"--audio_root={spelled}")[0] == 0
  assert output.read_bytes() == before
  for root in (clips, other):
    ask = [f"--output={tmp_path / 'whole.jsonl'}", f"--audio_root={root}", "what is heard ?"]
    assert run(clips / "a.wav", clips / "b.wav", *ask)[0] == 0
  for root, expected in ((clips, 0), (other, 1)):  # the second clip alone is relative
    ask = [f"--audio={clips / 'a.wav'}", "--audio=b.wav", "--prompt=what is heard ?"]
    ask += [f"--output={tmp_path / 'second.jsonl'}", f"--audio_root={root}"]
    assert run(*ask)[0] == expected


@pytest.mark.parametrize(
  ("flag", "least", "most"),
  [("seed", -(2**63), 2**63 - 1), ("max_new_tokens", 1, 100_000)],
)
def test_numbers_out_of_range_are_a_line_and_leave_nothing(run, clips, tmp_path, flag, least, most):
  rows, output = manifest(tmp_path / "rows.json", 2), tmp_path / "out.jsonl"
  for value in (least - 1, most + 1):
    status, _, err = run(f"--data={rows}", f"--output={output}", f"--{flag}={value}")
    assert status == 1 and err.startswith("error: ") and len(err.splitlines()) == 1
    assert flag in err and str(most) in err and not output.exists()


def manifest(path: pathlib.Path, rows: int = 7, **changes: str) -> pathlib.Path:
  """Rows about two clips and about one, in turn."""
  content = [
    {
      "taskname": "audiocaps",
      "filepath1": "abcd"[i % 4] + ".wav",
      "filepath2": "b.wav" if i % 2 else "",
      "caption1": "",
      "caption2": "",
      "input": "what is heard ?" if i % 3 else "a dog or rain ?",
      "answer": "rain",
      "subtype": "test",
      **changes,
    }
    for i in range(rows)
  ]
  path.write_text(json.dumps(content))
  return path


def test_a_killed_run_goes_on_where_it_stopped(run, clips, model, tmp_path):
  rows, output = manifest(tmp_path / "rows.json"), tmp_path / "out" / "predictions.jsonl"
  args = [f"--manifest={rows}", f"--audio_root={clips}", f"--output={output}", "--batch_size=3"]
  args += ["--sampling=sample", "--seed=3"]
  status, _, err = run(*args)
  assert status == 0, err
  whole = output.read_bytes()
  lines = [json.loads(line) for line in whole.splitlines()]
  assert [line["row"] for line in lines] == list(range(7))
  assert lines[1]["filepath2"] == "b.wav" and lines[1]["answer"] == "rain"
  assert lines[1]["prediction"] == lines[1]["texts"][0]
  # Killed within row 4's line:
  ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
  for cut in (ends[3] + 10, ends[3] + 1, 0):
    output.write_bytes(whole[:cut])
    assert run(*args)[0] == 0
    resumed = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [line["row"] for line in resumed] == list(range(7))
    assert [line["texts"] for line in resumed] == [line["texts"] for line in lines]
  written = output.read_bytes()
  assert run(*args)[0] == 0 and output.read_bytes() == written  # nothing left to do


def with_bad_clip(clips, folder) -> pathlib.Path:
  """A copy of the clips in which d.wav is none."""
  shutil.copytree(clips, folder)
  shutil.copy(folder / "broken.wav", folder / "d.wav")
  return folder


def test_strict_rows_before_a_bad_clip_are_kept(run, clips, tmp_path):
  folder = with_bad_clip(clips, tmp_path / "clips")
  rows, output = manifest(tmp_path / "rows.json"), tmp_path / "predictions.jsonl"
  args = [f"--manifest={rows}", f"--audio_root={folder}", f"--output={output}", "--batch_size=2"]
  status, _, err = run(*args, "--strict")
  assert status == 1 and f"{rows}, row 3 (from 0): {folder / 'd.wav'}" in err.splitlines()[-1]
  assert output.read_bytes().count(b"\n") == 2
  shutil.copy(clips / "d.wav", folder / "d.wav")
  assert run(*args)[0] == 0
  assert [json.loads(line)["row"] for line in output.read_text().splitlines()] == list(range(7))


def lines_of(output) -> list[dict]:
  return [json.loads(line) for line in output.read_text().splitlines()]


def test_one_bad_clip_does_not_end_a_batch(run, clips, tmp_path, monkeypatch):
  folder = with_bad_clip(clips, tmp_path / "clips")
  (folder / "b.wav").unlink()
  rows, output = manifest(tmp_path / "rows.json", 8), tmp_path / "predictions.jsonl"
  args = [f"--manifest={rows}", f"--audio_root={folder}", f"--output={output}", "--batch_size=2"]
  status, _, err = run(*args)
  assert status == 2, err
  found = lines_of(output)
  assert [line["row"] for line in found] == list(range(8))
  bad = {line["row"]: (line["reason"], line["failure"]) for line in found if "failure" in line}
  assert {row: reason for row, (reason, _) in bad.items()} == {
    **dict.fromkeys((1, 5), "missing"),  # a.wav and b.wav
    **dict.fromkeys((3, 7), "missing"),  # d.wav and b.wav: the first that fails names it
  } | {row: bad[row][0] for row in (3, 7)}
  assert str(folder / "b.wav") in bad[1][1] and found[1]["prediction"] == ""
  last = err.splitlines()[-1]
  assert "4 answers, 4 of 8 rows could not be asked, first row 1 from 0" in last and "again" in last
  # A rerun tries these alone.
  asked, rows_of = [], answering._rows
  monkeypatch.setattr(answering, "_rows", lambda *args: watched(rows_of(*args), asked))
  shutil.copy(clips / "b.wav", folder / "b.wav")
  assert run(*args)[0] == 2 and len(asked) == 4
  shutil.copy(clips / "d.wav", folder / "d.wav")
  asked.clear()
  assert run(*args)[0] == 0 and len(asked) == 2
  quiet = tmp_path / "quiet.jsonl"
  args[1:3] = [f"--audio_root={clips}", f"--output={quiet}"]
  assert run(*args)[0] == 0
  for line, other in zip(lines_of(output), lines_of(quiet), strict=True):
    assert (line["row"], line["texts"]) == (other["row"], other["texts"])
    assert "failure" not in line


def watched(rows, seen):
  for row in rows:
    seen.append(row)
    yield row


def test_rows_may_be_added_dropped_and_reordered(run, clips, tmp_path, monkeypatch):
  rows, output = tmp_path / "rows.csv", tmp_path / "predictions.jsonl"
  asked = [f"{name}.wav,what is heard {i} ?" for i in "12" for name in "abcd"]
  args = [f"--data={rows}", f"--audio_root={clips}", f"--output={output}"]

  def answered(lines) -> tuple[list[dict], str]:
    rows.write_text("\n".join(["file,question", *lines]))
    status, _, err = run(*args)
    assert status == 0, err
    found = lines_of(output)
    assert [f"{line['filepath1']},{line['input']}" for line in found] == list(lines)
    assert [line["row"] for line in found] == list(range(len(lines)))
    return found, err

  first, _ = answered(asked[:5])
  seen, rows_of = [], answering._rows
  monkeypatch.setattr(answering, "_rows", lambda *args: watched(rows_of(*args), seen))
  again, err = answered([*asked[4:0:-1], *asked[5:], asked[6]])
  assert [row[2] for row in seen] == ["what is heard 2 ?"] * 4  # one stands twice
  assert [line["texts"] for line in again[:4]] == [line["texts"] for line in first[4:0:-1]]
  assert "1 answers to rows that are asked no more are left out" in err
  rows.write_text("file,question\na.wav,another\n")
  status, _, err = run(*args)
  assert status == 1 and "answers to other questions: name another --output" in last_line(err)
  assert lines_of(output) == again


def test_a_table_of_file_and_question_is_a_manifest(run, clips, tmp_path):
  table = tmp_path / "unlabelled.csv"
  table.write_text("file,question,answer\na.wav,caption the audio,\n")
  status, out, err = run(table, f"--audio_root={clips}", "--json")
  assert status == 0, err
  (line,) = map(json.loads, out.splitlines())
  assert (line["filepath1"], line["answer"]) == ("a.wav", "") and "prediction" in line


def test_clips_and_a_question_are_arguments(run, clips, model, tmp_path):
  paths = [clips / "a.wav", clips / "b.wav"]
  expected = [model.answer(path, QUESTION, sampling=SHORT).text for path in paths]
  assert run(paths[0], QUESTION)[:2] == (0, f"{expected[0]}\n")
  status, out, _ = run(*paths, QUESTION)
  assert (status, out.splitlines()) == (
    0,
    [f"{path}: {text}" for path, text in zip(paths, expected, strict=True)],
  )
  output = tmp_path / "out.jsonl"
  assert run(paths[0], QUESTION, f"--output={output}")[:2] == (0, "")
  (line,) = lines_of(output)
  assert line["prediction"] == expected[0] and line["finish_reason"] in ("stop", "length")
  assert line["log_prob"] == line["log_probs"][0] and line["filepath1"] == str(paths[0])


def test_an_end_that_is_no_window_is_said(run, tmp_path):
  path = tmp_path / "tail.wav"
  soundfile.write(path, tone(500.0, 2.9), 16_000)  # windows of one second
  status, out, err = run(path, QUESTION, "--window=all")
  assert status == 0 and len(out.splitlines()) == 2
  assert "the last 0.90 of 2.90 s are not heard: windows are no shorter than 1 s" in err


def test_an_output_that_is_a_folder_is_said(run, clips, tmp_path):
  status, _, err = run(clips / "a.wav", QUESTION, f"--output={tmp_path}")
  assert status == 1 and last_line(err) == f"error: {tmp_path}: is a folder: name a file in it"


def test_a_folder_stands_for_its_clips(run, clips, tmp_path, monkeypatch):
  # As in a new process, where nothing has been logged before.
  monkeypatch.setattr(api.logger, "handlers", [])
  monkeypatch.setattr(api.logger, "level", logging.NOTSET)
  folder = with_bad_clip(clips, tmp_path / "clips")
  (folder / "notes.txt").write_text("none")
  status, out, err = run(folder, QUESTION, "--json")
  assert status == 2, err
  found = {pathlib.Path(line["filepath1"]).name: line for line in map(json.loads, out.splitlines())}
  assert [*found] == ["a.wav", "b.wav", "broken.wav", "c.wav", "d.wav", "long.wav"]
  assert {name for name, line in found.items() if line.get("failure")} == {"broken.wav", "d.wav"}
  assert "1 of its 7 files are no clips by their endings" in err and "notes.txt" in err
  assert "4 answers, 2 of 6 rows could not be asked" in err.splitlines()[-1]


def test_what_was_lost_is_said_once_with_a_count(run, clips, tmp_path):
  rows = tmp_path / "rows.csv"
  long = " ".join(["heard"] * 20)
  rows.write_text(f"file,question\na.wav,{long}\nb.wav,{long} ?\nc.wav,quel son\n")
  status, _, err = run(rows, f"--audio_root={clips}", f"--output={tmp_path / 'out.jsonl'}")
  assert status == 0, err
  said = [line for line in err.splitlines() if " of 3, first " in line]
  assert said[0] == "questions cut to fit the model: 2 of 3, first a.wav: 20 tokens, 8 are read"
  assert (
    "questions with words that the tokenizer does not know: 1 of 3, first c.wav: que" in said[1]
  )
  assert lines_of(tmp_path / "out.jsonl")[0]["notes"]["question_cut"] == "20 tokens, 8 are read"


def last_line(err: str) -> str:
  """What went wrong, once it is sure that no traceback says it."""
  assert "Traceback" not in err
  assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
  return err.splitlines()[-1]


def test_predictions_made_otherwise_are_refused(run, clips, tmp_path):
  rows, output = manifest(tmp_path / "rows.json", 2), tmp_path / "predictions.jsonl"
  args = [f"--manifest={rows}", f"--audio_root={clips}", f"--output={output}", "--batch_size=2"]
  assert run(*args)[0] == 0
  written = output.read_bytes()
  status, _, err = run(*args, "--sampling=sample")
  assert status == 1 and "temperature = 0.0, this run has 1.0" in last_line(err)
  (tmp_path / "predictions.jsonl.settings.json").unlink()
  status, _, err = run(*args)
  assert status == 1 and "how it was made" in last_line(err)
  assert output.read_bytes() == written


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--audio=absent.wav", "--prompt=x"], "absent.wav: there is no such file"),
    (["--audio={clips}/broken.wav", "--prompt=x"], "broken.wav: cannot be decoded"),
    (["--audio={clips}/a.wav"], "--prompt is missing"),
    (["--audio={clips}/a.wav", "--prompt=  "], "the question is empty"),
    (["--prompt=x"], "give either --audio"),
    (["--audio=a.wav", "--audio=b.wav", "--audio=c.wav", "--prompt=x"], "--audio is given 3 times"),
    (["--prompt=x", "--preset=nosuch"], "--preset=nosuch: value should be one of <release"),
    (["--audio=a.wav", "--audio=b.wav", "--prompt=x", "--window=all"], "--window=all takes one"),
    (["--audio=a.wav", "--prompt=x", "--top_k=3"], "--top_k does nothing"),
    (["--audio=a.wav", "--prompt=x", "--sampling=sample", "--top_p=2"], "top_p 2.0 must be"),
    (["--audio=a.wav", "--prompt=x", "--sampling=best"], "--sampling=best"),
    (["--audio=a.wav", "--prompt=x", "--no_such_flag=1"], "no_such_flag"),
    (["a.wav", "--prompt=x"], "a.wav: there is no such file"),
    (["{clips}/a.wav"], "--prompt is missing: ask a question after the clips"),
    (["{clips}/a.wav", "{clips}/b.wav"], "--prompt is missing"),
    (["{clips}/a.wav", "what", "is", "heard?"], "'what' is no file or folder: check the path, and"),
    (["{clips}/a.wav", "--prompt=what", "is", "heard?"], "'is' is no file or folder"),
    (["{clips}/nowhere", "what ?"], "nowhere' is no file or folder: check the path"),
    (["--audio=a.wav", "b.wav", "what ?"], "--audio and b.wav both name clips"),
    (["nope.csv"], "nope.csv: cannot be read (No such file or directory): check the path"),
    (["{tmp}/empty.csv"], "empty.csv: holds no rows"),
    (["{tmp}/latin.CSV"], "latin.CSV: is not UTF-8 at byte 28: save it as UTF-8"),
    (["{tmp}/rows.json", "what ?"], "rows.json: is a table by its name, which holds its questions"),
    (["--audio={tmp}/empty.csv", "--prompt=x"], "empty.csv: is a table by its name"),
    (["{tmp}/empty", "what ?"], "empty: no file in it ends in wav, flac"),
    (["--manifest={tmp}/rows.json", "what ?"], "--data holds clips and questions"),
    (["--manifest=absent.json", "--output={tmp}/p.jsonl"], "absent.json: cannot be read"),
    (["--manifest={tmp}/rows.json"], "--output is missing"),
    (["--manifest={tmp}/rows.json", "--output={tmp}/p.jsonl"], "4 audio files are not below {tmp}"),
    (["--manifest={tmp}/field.json", "--output={tmp}/p.jsonl"], "row 0 (from 0): field 'input'"),
    (
      ["--manifest={tmp}/rows.json", "--audio_root={clips}", "--output={clips}/a.wav/p.jsonl"],
      "p.jsonl: cannot be written",
    ),
  ],
)
def test_bad_input_gives_one_line_and_exit_status_1(run, clips, tmp_path, args, message):
  manifest(tmp_path / "rows.json")
  manifest(tmp_path / "field.json", input="")
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty.csv").write_text("")
  (tmp_path / "latin.CSV").write_bytes("file,question\na.wav,what is él?".encode("latin-1"))
  places = {"clips": clips, "tmp": tmp_path}
  status, out, err = run(*(arg.format(**places) for arg in args))
  assert (status, out) == (1, "")
  assert message.format(**places) in last_line(err)
  assert not (tmp_path / "p.jsonl").exists()


def test_a_bad_model_folder_gives_one_line_and_exit_status_1(
  run, clips, tiny_model_folder, tmp_path
):
  ask_a = [f"--audio={clips / 'a.wav'}", f"--prompt={QUESTION}"]
  status, _, err = run(*ask_a, checkpoint=tmp_path / "absent")
  assert status == 1 and "absent: there is no such folder" in last_line(err)
  status, _, err = run(*ask_a, checkpoint="")
  assert status == 1 and "--checkpoint is missing" in last_line(err)
  folder = tmp_path / "model"
  shutil.copytree(tiny_model_folder, folder)
  largest = max((folder / "params").rglob("*"), key=lambda p: p.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  status, _, err = run(*ask_a, checkpoint=folder)
  assert status == 1 and f"{folder}/params: " in last_line(err)


def test_help_lists_the_flags(run):
  status, out, _ = run("--help")
  assert status == 0 and "--data" in out and "--top_p" in out


def test_defaults_are_greedy_as_the_reference():
  assert decode.Sampling(max_new_tokens=300, temperature=0.0) == api.GREEDY
  assert tiny.config().pad_id != tiny.config().end_id
