"""The command that answers a benchmark: batched, shared, resumable, with probes."""

import dataclasses
import json
import pathlib
import random
import re
import shutil
import signal
import socket
import time

import numpy as np
import processes
import pytest
import soundfile

from mellow_jax import evaluate
from mellow_jax.data import choices, records
from mellow_jax.evaluation.benchmarks import catalogue, prediction_files, probes, runner
from mellow_jax.evaluation.commands import predict
from mellow_jax.inference import api
from mellow_jax.inference.decode import Sampling

MAIN = (
  "import sys; from mellow_jax.evaluation.commands import predict; sys.exit(predict.main(sys.argv))"
)
NAMES = "abcdef"
WORDS = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
  """Six clips of one second, a long one, and a table with every kind of question about them."""
  folder = tmp_path_factory.mktemp("benchmark")
  rng = np.random.default_rng(0)
  for i, name in enumerate([*NAMES, "long"]):
    seconds = 3 if name == "long" else 1
    wav = np.sin(2 * np.pi * 150 * 2**i * np.arange(seconds * 16_000) / 16_000)
    wav = 0.4 * wav + 0.1 * rng.standard_normal(len(wav))
    soundfile.write(folder / f"{name}.wav", wav.astype(np.float32), 16_000)
  rows = []
  for i, name in enumerate(NAMES):
    clip = {"file": f"{name}.wav"}
    rows += [
      {**clip, "question": "what ? a) dog b) rain c) audio", "answer": f"{'abc'[i % 3]})"},
      {**clip, "question": "rain ?", "answer": "yes" if i % 2 else "no"},
      {**clip, "file2": f"{NAMES[i - 1]}.wav", "question": "one , two ?", "answer": "a dog barks"},
    ]
  rows.append({"file": "long.wav", "question": "what ?", "answer": "rain"})
  (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return folder


@pytest.fixture
def run(tiny_model_folder, data, capfd):
  """The command in this process: exit status, stdout, stderr."""

  def run(*args: object, **changes: object) -> tuple[int, str, str]:
    given = {
      "checkpoint": tiny_model_folder,
      "benchmark": "table",
      "data": data / "table.jsonl",
      "max_new_tokens": 4,
      "batch_size": 4,
      **changes,
    }
    capfd.readouterr()
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    status = predict.main(["predict", *flags, *map(str, args)])
    return status, *capfd.readouterr()

  return run


def lines(path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def last_line(err: str) -> str:
  assert "Traceback" not in err
  assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
  return err.splitlines()[-1]


def test_answers_about_other_clips_of_the_same_names_are_not_taken_for_these(run, data, tmp_path):
  output, other = tmp_path / "out.jsonl", tmp_path / "other"
  shutil.copytree(data, other)
  assert run("--limit=2", output=output)[0] == 0
  settings = tmp_path / "out.jsonl.settings.json"
  assert json.loads(settings.read_text())["limit"] == 2
  status, _, err = run("--limit=2", output=output, audio_root=other)
  assert status == 1
  assert f"was made with audio_root = '{data}', this run has '{other}'" in last_line(err)
  # Noise and silence come from no folder.
  silent = {"audio": "silence", "output": tmp_path / "silent.jsonl"}
  assert run("--limit=2", **silent)[0] == run("--limit=2", audio_root=other, **silent)[0] == 0


# --- What is asked and heard ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tiny_model_folder) -> api.Mellow:
  return api.Mellow.load(tiny_model_folder)


def test_every_item_is_asked_with_its_clips(run, data, model, tmp_path):
  output = tmp_path / "out.jsonl"
  status, out, err = run(output=output, window="center")
  assert (status, out) == (0, ""), err
  found = lines(output)
  assert [line["row"] for line in found] == list(range(19))
  assert found[0]["prompt"] == "what ? a) dog b) rain c) audio"
  assert found[0]["order"] == [0, 1, 2] and found[1]["order"] == []
  assert {line["item"]["kind"] for line in found} == {"choice", "binary", "text"}
  rows = [
    (data / line["item"]["audio1"], data / (line["item"]["audio2"] or line["item"]["audio1"]))
    for line in found
  ]
  rows = [(*clips, line["prompt"]) for clips, line in zip(rows, found, strict=True)]
  how = {"sampling": Sampling(max_new_tokens=4), "window": "center", "batch_size": 4}
  expected = [answer.text for answer in model.answers(rows, **how)]
  assert [line["prediction"] for line in found] == expected
  assert {(line["benchmark"], line["heard"]) for line in found} == {("table", "clips")}
  assert len({line["prediction"] for line in found}) > 3  # or the test shows nothing
  settings = json.loads((tmp_path / "out.jsonl.settings.json").read_text())
  assert settings["items"] == 19 and settings["prompt_style"] == "reference v1"
  assert settings["window"] == "center" and settings["prompts_cut"] > 0
  assert settings["limit"] == 0
  assert "prompts exceed 8 tokens and are cut" in err


def test_items_of_a_table_without_answers_are_named_with_the_column_to_add(
  run, data, tmp_path, capfd
):
  table, output = tmp_path / "table.csv", tmp_path / "out.jsonl"
  rows = f"{NAMES[0]}.wav,rain ?,yes\n{NAMES[1]}.wav,rain ?,\n{NAMES[1]}.wav,what ?,\n"
  table.write_text(f"file,question,answer\n{rows}")
  status, _, err = run(data=table, audio_root=data, output=output)
  item = lines(output)[1]["item"]
  fault = f"item {item['id']!r} ({NAMES[1]}.wav) of the table has no answer: add the column answer"
  assert status == 0 and f"2 of 3 items cannot be scored: {fault}" in err
  assert f"{table}: 2 of 3 rows have no answer to be scored by: line 3, line 4\n" in err
  assert evaluate.main(["evaluate", "score", f"--predictions={output}"]) == 1
  assert last_line(capfd.readouterr().err).startswith(f"error: {output}, line 2: {fault}")


def test_choices_are_scored_in_their_own_order(run, data, model, tmp_path):
  run(output=tmp_path / "out.jsonl", permute_options=3, options_loglik=True)
  found = lines(tmp_path / "out.jsonl")
  assert [line["row"] for line in found] == list(range(6 * 3 + 6 * 2 + 1))
  rows, texts, scored = [], [], []
  for line in found:
    item, order = line["item"], line["order"]
    if not item["choices"]:
      assert line["option_log_probs"] == []
      continue
    shown = [f"{letter}) {item['choices'][i]}" for letter, i in zip("abc", order, strict=True)]
    assert line["prompt"] == " ".join(["what ?", *shown])
    rows.append((data / item["audio1"], None, line["prompt"]))
    texts.append([shown[order.index(i)] for i in range(3)])
    scored.append(line["option_log_probs"])
  np.testing.assert_allclose(scored, model.score(rows, texts, batch_size=4), rtol=1e-4)
  # The orders of an item stand together, its own first.
  orders = [line["order"] for line in found if line["item"]["audio1"] == "a.wav"][:3]
  assert orders[0] == [0, 1, 2] and len(set(map(tuple, orders))) == 3


def test_samples_of_choices_vote(run, tmp_path):
  sample = {"sampling": "sample", "temperature": 2, "samples": 5, "seed": 1}
  output = tmp_path / "out.jsonl"
  status, _, err = run("--vote", output=output, **sample)
  assert status == 0, err
  for line in lines(output):
    if line["item"]["kind"] == "text":
      assert line["agreed"] is None and line["samples"] == []
      continue
    shown = [line["item"]["choices"][place] for place in line["order"]]
    place, agreed = choices.vote(line["samples"], shown)
    assert line["prediction"] == line["samples"][place] and line["agreed"] == agreed
    assert place == 0 and len(line["samples"]) == 5
  found = prediction_files.read(output).predictions
  assert [p.agreed for p in found] == [line["agreed"] for line in lines(output)]
  kept = output.read_text().splitlines()
  output.write_text("\n".join([*kept[:3], *kept[12:]]) + "\n")  # as a killed run leaves it
  assert run("--vote", output=output, **sample)[0] == 0
  assert output.read_text().splitlines() == kept
  assert "was made with samples = 5" in run(output=output)[2]
  assert "add --vote" in run(output=tmp_path / "other.jsonl", **sample)[2]


def heard(run, model, monkeypatch, tmp_path, **probe) -> list[tuple[np.ndarray, np.ndarray]]:
  """What the model's two slots get for each line, by its wav."""
  slots, batch = [], api.Mellow._inputs
  monkeypatch.setattr(
    api.Mellow, "_inputs", lambda self, asked: slots.extend(asked) or batch(self, asked)
  )
  status, _, err = run(output=tmp_path / "out.jsonl", **probe)
  assert status == 0, err
  return [tuple(clip.wav for clip in question.clips) for question in slots[:19]]


def test_probes_change_what_is_heard(run, data, model, monkeypatch, tmp_path):
  own = [
    tuple(
      model.clip(data / path, "first").wav
      for path in (line["file"], line.get("file2") or line["file"])
    )
    for line in lines(data / "table.jsonl")
  ]
  arguments = (run, model, monkeypatch)

  def probed(name, **probe):
    folder = tmp_path / name
    folder.mkdir()
    return heard(*arguments, folder, **probe)

  same = np.testing.assert_array_equal
  for found, expected in zip(probed("clips"), own, strict=True):
    same(found, expected)
  assert not np.any(probed("silence", audio="silence"))
  noise = probed("noise", audio="noise")
  same(noise[0][0], probes.noise("a.wav", 16_000, 0))
  same(noise[2], [probes.noise(f"{name}.wav", 16_000, 0) for name in "af"])
  for found, expected in zip(probed("shuffled", audio="shuffled"), own, strict=True):
    for slot in range(2):
      assert not np.array_equal(found[slot], expected[slot])
  pairs = [bool(line.get("file2")) for line in lines(data / "table.jsonl")]
  for name in ("none", "random"):
    for found, expected, pair in zip(probed(name, audio2=name), own, pairs, strict=True):
      same(found[0], expected[0])
      assert np.array_equal(found[1], expected[1]) == pair
      assert pair or np.any(found[1]) == (name == "random")


def test_several_devices_answer_as_one(tiny_model_folder, data, run, compile_cache, tmp_path):
  flags = [
    f"--checkpoint={tiny_model_folder}",
    "--benchmark=table",
    f"--data={data / 'table.jsonl'}",
    "--max_new_tokens=4",
    "--batch_size=2",
    "--options_loglik",
  ]
  program = ["-c", MAIN, *flags, f"--output={tmp_path / 'four.jsonl'}"]
  processes.finish(processes.start(program, compile_cache, devices=4))
  run(output=tmp_path / "one.jsonl", options_loglik=True)
  one, four = lines(tmp_path / "one.jsonl"), lines(tmp_path / "four.jsonl")
  assert [line["prediction"] for line in four] == [line["prediction"] for line in one]
  for line, other in zip(one, four, strict=True):
    np.testing.assert_allclose(line["option_log_probs"], other["option_log_probs"], rtol=1e-3)


def test_prompts_are_shown_word_for_word(run, data):
  status, out, err = run("--show_prompts", limit=2)
  assert status == 0, err
  assert out.splitlines()[0] == "benchmark table, prompt style reference v1, preset training"
  assert out.splitlines()[1] == "after each prompt follows a space and the end token"
  assert "what ? a) dog b) rain c) audio" in out.splitlines()
  status, out, _ = run("--show_prompts", checkpoint=None, preset="clean")
  assert "prompt style plain v1, preset clean" in out and out.count("\n\n") == predict.SHOWN


# --- What is not there ---------------------------------------------------------------------------


def test_missing_audio_is_listed_once_or_left_out(run, data, tmp_path):
  folder = tmp_path / "data"
  shutil.copytree(data, folder)
  for name in "bd":
    (folder / f"{name}.wav").unlink()
  table, output = folder / "table.jsonl", tmp_path / "out.jsonl"
  status, out, err = run(data=table, output=output)
  assert (status, out) == (1, "")
  assert f"2 of 7 clips are not below {folder}: b.wav, d.wav: get them" in last_line(err)
  assert "leave 8 of 19 items out with --allow_missing" in err and not output.exists()
  status, _, err = run("--allow_missing", data=table, output=output)
  assert status == 0 and "8 of 19 items are left out" in err
  left = {line["item"]["audio1"] for line in lines(output)}
  assert left == {"a.wav", "c.wav", "e.wav", "f.wav", "long.wav"} and len(lines(output)) == 11
  settings = json.loads((tmp_path / "out.jsonl.settings.json").read_text())
  assert settings["missing_audio"] == ["b.wav", "d.wav"] and settings["items"] == 11
  # With the clips there, only those are asked about that were not there.
  written = {line["key"]: line["prediction"] for line in lines(output)}
  for name in "bd":
    shutil.copy(data / f"{name}.wav", folder)
  status, _, err = run(data=table, output=output)
  assert status == 0 and len(lines(output)) == 19
  assert {line["key"]: line["prediction"] for line in lines(output)}.items() >= written.items()
  settings = json.loads((tmp_path / "out.jsonl.settings.json").read_text())
  assert settings["missing_audio"] == [] and settings["items"] == 19
  # Noise needs no clips.
  for name in "bd":
    (folder / f"{name}.wav").unlink()
  assert run(data=table, output=tmp_path / "noise.jsonl", audio="noise")[0] == 0
  status, _, err = run("--allow_missing", data=table, output=output, audio_root=tmp_path)
  assert status == 1 and "no item is left" in last_line(err)


def test_rows_in_quarantine_are_left_out(run, data, tmp_path):
  rows = [
    {
      **dict.fromkeys(records.FIELDS, ""),
      "filepath1": f"{name}.wav",
      "input": "rain ?",
      "answer": "yes",
      "subtype": "ClothoAQA.json",
    }
    for name in NAMES
  ]
  table = tmp_path / "test.json"
  table.write_text(json.dumps(rows))
  bad = records.row_id(records.read(table)[2])
  (tmp_path / "bad.json").write_text(json.dumps({"version": 1, "rows": {bad: ["silent"]}}))
  changes = {"benchmark": "clothoaqa", "data": tmp_path, "audio_root": data}
  status, _, err = run(output=tmp_path / "out.jsonl", quarantine=tmp_path / "bad.json", **changes)
  assert status == 0 and "1 of 6 rows are in quarantine and left out" in err
  assert [line["item"]["audio1"][0] for line in lines(tmp_path / "out.jsonl")] == list("abdef")
  assert run(output=tmp_path / "out.jsonl", **changes)[0] == 0
  assert [line["item"]["audio1"][0] for line in lines(tmp_path / "out.jsonl")] == list("abcdef")


def with_damaged_clip(data, folder) -> pathlib.Path:
  """A copy of the table and its clips, of which e.wav is none."""
  shutil.copytree(data, folder)
  (folder / "e.wav").write_bytes(b"no audio")
  return folder / "table.jsonl"


def test_strict_answers_before_a_damaged_clip_are_kept(run, data, tmp_path):
  table, output = with_damaged_clip(data, tmp_path / "data"), tmp_path / "out.jsonl"
  status, _, err = run("--strict", data=table, output=output)
  assert status == 1
  assert re.search(r"error: item \w+: .*e\.wav: cannot be decoded", last_line(err))
  assert not output.exists() and len(lines(tmp_path / "out.jsonl.part-0")) == 12
  shutil.copy(data / "e.wav", table.parent / "e.wav")
  status, _, err = run(data=table, output=output)
  assert status == 0 and [line["row"] for line in lines(output)] == list(range(19))


def test_choices_that_are_cut_are_said_and_those_that_it_makes_the_same_refused(
  run, data, tmp_path
):
  long = " ".join(["rain"] * 8)  # the letter is a token, too: seven of these are read
  row = {"file": "a.wav", "question": "what ?", "answer": "dog"}
  rows = [{**row, "id": "one", "choices": ["dog", f"{long} one"]}]
  table, output = tmp_path / "table.jsonl", tmp_path / "out.jsonl"
  table.write_text("\n".join(map(json.dumps, rows)))
  how = {"data": table, "audio_root": data}
  status, _, err = run("--options_loglik", output=output, **how)
  assert status == 0 and "1 of 2 choices exceed 8 tokens and are cut" in err
  assert "choices exceed" not in run(output=tmp_path / "free.jsonl", **how)[2]  # none is scored
  rows.append({**row, "id": "two", "choices": ["dog", f"{long} one", f"{long} two"]})
  table.write_text("\n".join(map(json.dumps, rows)))
  status, _, err = run("--options_loglik", output=tmp_path / "two.jsonl", **how)
  assert status == 1 and last_line(err).startswith("error: item two: options 2 and 3, 'b) rain")


def test_a_damaged_clip_is_recorded_and_tried_again(run, data, tmp_path):
  table, output = with_damaged_clip(data, tmp_path / "data"), tmp_path / "out.jsonl"
  status, _, err = run("--options_loglik", data=table, output=output)
  assert status == 2, err
  found = lines(output)
  failed = [line for line in found if line["failure"]]
  assert len(found) == 19 and len(failed) == 4  # three about e.wav, and one that compares it
  assert all("e.wav: cannot be decoded" in line["failure"] for line in failed)
  assert {line["prediction"] for line in failed} == {""}
  assert "4 of 19 questions could not be asked" in err.splitlines()[-1]
  scored = prediction_files.read(output)
  assert sum(bool(p.failure) for p in scored.predictions) == 4
  shutil.copy(data / "e.wav", table.parent / "e.wav")
  status, _, err = run("--options_loglik", data=table, output=output)
  assert status == 0 and "19 answers to 19 items" in err.splitlines()[-1]
  quiet = tmp_path / "quiet.jsonl"
  run("--options_loglik", output=quiet)
  for line, other in zip(lines(output), lines(quiet), strict=True):
    assert line["prediction"] == other["prediction"] and not line["failure"]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"checkpoint": None}, "--checkpoint is missing"),
    ({"output": None}, "--output is missing"),
    ({"benchmark": None}, "--benchmark is missing"),
    ({"data": None}, "--data is missing"),
    ({"benchmark": "nosuch"}, "--benchmark=nosuch"),
    ({"audio": "loud"}, "--audio=loud"),
    ({"data": "absent"}, "absent: there is no such file or folder"),
    ({"checkpoint": "absent"}, "absent: there is no such folder"),
    ({"preset": "nosuch"}, "--preset=nosuch: value should be one of <release|training"),
    ({"quarantine": "absent"}, "absent: is not a quarantine file"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"batch_size": 0}, "batch_size"),
    ({"audio": "shuffled", "limit": 1}, "1 clips are too few: 2 are needed"),
    ({"processes": 2}, "--processes and --process_id go with --coordinator"),
    ({"nosuch": 1}, "nosuch"),
  ],
)
def test_bad_input_gives_one_line_and_exit_status_1(run, tmp_path, flags, message):
  output = tmp_path / "out.jsonl"
  status, out, err = run(**{"output": output, **flags})
  assert (status, out) == (1, "")
  assert message in last_line(err)
  assert not any(tmp_path.iterdir())


def test_scenes_that_a_model_cannot_hear_whole_are_refused(run, tmp_path):
  run_json = {"seed": 0, "data": {"source": "scenes", "mix": {"caption": 1.0}}}
  (tmp_path / "run.json").write_text(json.dumps(run_json))
  status, _, err = run(benchmark="scenes", data=tmp_path, output=tmp_path / "out.jsonl")
  assert status == 1 and "hears too little for scenes" in last_line(err)


# --- Killed and shared ---------------------------------------------------------------------------


def many(data: pathlib.Path, folder: pathlib.Path, rows: int) -> pathlib.Path:
  """A table of many rows beside links to the clips."""
  folder.mkdir(exist_ok=True)
  for name in NAMES:
    (folder / f"{name}.wav").symlink_to(data / f"{name}.wav")
  table = folder / "table.csv"
  asked = [f"{NAMES[i % 6]}.wav,{WORDS[i % 4]} {i} ?,x" for i in range(rows)]
  table.write_text("\n".join(["file,question,answer", *asked]))
  return table


def command(model, table, output, *flags):
  return [
    *("-c", MAIN, f"--checkpoint={model}", "--benchmark=table", f"--data={table}"),
    *(f"--output={output}", "--max_new_tokens=4", "--batch_size=4", *flags),
  ]


def written(output: pathlib.Path) -> list[int]:
  """Whole lines in each part."""
  parts = sorted(output.parent.glob(f"{output.name}.part-*"))
  return [part.read_bytes().count(b"\n") for part in parts]


def free_port() -> int:
  with socket.socket() as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


@pytest.mark.slow
def test_two_processes_share_the_work_and_one_finishes_it_when_they_are_killed(
  tiny_model_folder, data, run, compile_cache, tmp_path
):
  table, output = many(data, tmp_path / "many", 600), tmp_path / "out.jsonl"
  where = f"--coordinator=localhost:{free_port()}"
  pair = [
    processes.start(
      command(tiny_model_folder, table, output, where, "--processes=2", f"--process_id={i}"),
      compile_cache,
      log=tmp_path / f"{i}.log",
    )
    for i in range(2)
  ]
  begun = time.monotonic()
  while not (len(written(output)) == 2 and min(written(output)) >= 8):
    assert all(one.poll() is None for one in pair), [
      log.read_text() for log in tmp_path.glob("*.log")
    ]
    assert time.monotonic() - begun < 120
    time.sleep(0.01)
  for one in pair:
    one.send_signal(signal.SIGKILL)
    one.wait()
  counts = written(output)
  assert abs(counts[0] - counts[1]) <= 8 and sum(counts) < 600  # they went side by side
  status, _, err = run(data=table, output=output)
  assert status == 0, err
  whole = lines(output)
  assert [line["row"] for line in whole] == list(range(600)) and written(output) == []
  assert len({line["item"]["id"] for line in whole}) == 600
  run(data=table, output=tmp_path / "alone.jsonl")
  assert lines(tmp_path / "alone.jsonl") == whole


@pytest.mark.slow
def test_killed_ten_times_at_random_the_predictions_are_those_of_a_quiet_run(
  tiny_model_folder, data, run, compile_cache, tmp_path
):
  table, output = many(data, tmp_path / "many", 1500), tmp_path / "out.jsonl"
  start, kills, rng = command(tiny_model_folder, table, output), [], random.Random(0)
  while len(kills) < 10:
    process = processes.start(start, compile_cache, log=tmp_path / "log")
    before = sum(written(output))
    while process.poll() is None and sum(written(output)) == before:
      time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    kills.append(sum(written(output)))
  assert kills == sorted(kills) and kills[0] < kills[-1] < 1500
  processes.finish(processes.start(start, compile_cache))
  whole = lines(output)
  assert [line["row"] for line in whole] == list(range(1500))
  assert len({line["item"]["id"] for line in whole}) == 1500
  run(data=table, output=tmp_path / "quiet.jsonl")
  assert lines(tmp_path / "quiet.jsonl") == whole


@pytest.mark.slow
def test_two_processes_finish_together(tiny_model_folder, data, compile_cache, tmp_path):
  """The last round is of one row: only one of them has any."""
  table, output = many(data, tmp_path / "many", 41), tmp_path / "out.jsonl"
  where = f"--coordinator=localhost:{free_port()}"
  pair = [
    processes.start(
      command(tiny_model_folder, table, output, where, "--processes=2", f"--process_id={i}"),
      compile_cache,
    )
    for i in range(2)
  ]
  processes.finish(*pair)
  assert [line["row"] for line in lines(output)] == list(range(41)) and written(output) == []


def test_clips_are_read_ahead_but_not_all_at_once(model, data, monkeypatch):
  """A share of a large benchmark must not be read into memory before its first answer."""
  read = []
  monkeypatch.setattr(runner, "READ_AHEAD", 3)
  monkeypatch.setattr(runner, "_read", lambda path, model, asking: read.append(path) or path)
  item = catalogue.read("table", data / "table.jsonl")[0]
  items = [dataclasses.replace(item, id=str(i), audio1=f"{i}.wav") for i in range(20)]
  asking = runner.Asking(
    benchmark="table",
    audio_root=data,
    slots=probes.Slots(items, "clips", "same", 0),
    window="first",
    sampling=Sampling(max_new_tokens=1),
    options_loglik=False,
  )
  rows = runner._rows(model, asking, [runner.Question(i, (), "x", ()) for i in items])
  assert next(rows)[0] == "0.wav" and len(read) <= 4
  assert [row[0] for row in rows] == [f"{i}.wav" for i in range(1, 20)]
