"""Audio that cannot be used: the whole record is replaced, counted and listed, or the run stops."""

import dataclasses
import io
import itertools
import json
import os
import re
import shutil
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import processes
import pytest
import soundfile
import tiny

from mellow_jax.config import DataConfig
from mellow_jax.data import bad_records, clips, pipeline, presets, tokenizer
from mellow_jax.data.audio import REASONS
from mellow_jax.data.bad_records import BadRecord
from mellow_jax.data.records import FIELDS
from mellow_jax.errors import AudioError, PipelineError

ROWS, EACH = 1000, 5
RATE = 16_000


def encoded(wav, rate=RATE, **form):
  file = io.BytesIO()
  soundfile.write(file, wav, rate, **{"format": "WAV", **form})
  return file.getvalue()


def patched(raw, at, form, value):
  return raw[:at] + struct.pack(form, value) + raw[at + struct.calcsize(form) :]


def bad_files():
  """What stands in place of a clip, by kind: the reason, and the bytes or how to make it."""
  noise = 0.1 * np.random.default_rng(0).standard_normal((3 * RATE, 1))
  wav, flac = encoded(noise[:RATE]), encoded(noise, format="FLAC")
  infinite = np.where(np.arange(RATE) == 9000, np.nan, noise[:RATE, 0])
  length = struct.unpack_from(">Q", flac, 18)[0] | (2**36 - 1)  # samples: the last 36 bits
  return {
    "absent": ("missing", lambda path: None),
    "zero bytes": ("empty", b""),
    "header alone": ("no_samples", encoded(noise[:0])),
    "web page": ("undecodable", b"<html>not found</html>" * 9),
    "a sixth of a flac": ("cut_short", flac[: len(flac) // 6]),
    "a hole in a flac": ("damaged", flac[:20_000] + bytes(2000) + flac[22_000:]),
    "integers": ("scale", encoded((3399 * noise[:RATE]).round(), subtype="FLOAT")),
    "not a number": ("not_finite", encoded(infinite, subtype="FLOAT")),
    "32 channels": ("channels", encoded(np.zeros((100, 32)))),
    "1 Hz": ("rate", patched(wav, 24, "<I", 1)),
    "years": ("too_long", patched(flac, 18, ">Q", length)),
    "half a wav": ("cut_short", wav[:-1000]),
    "folder": ("not_a_file", Path.mkdir),
    "loop": ("unreadable", lambda path: path.symlink_to(path)),
    "pipe": ("not_a_file", os.mkfifo),
  }


KINDS = {kind: reason for kind, (reason, _) in bad_files().items()}


def value(row):
  """The sample that a row's clip consists of."""
  return np.float32(row / 2**11)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  """A folder with train.json, of 1,000 rows of which 75 are bad, and val.json of the first 8.

  The answer of a row is its number, and so are the samples of its clip. Returns the folder and the
  kind of each bad row.
  """
  folder = tmp_path_factory.mktemp("bad")
  places = np.random.default_rng(1).permutation(np.arange(9, ROWS))[: len(KINDS) * EACH]
  kinds = dict(zip(places.tolist(), [*KINDS] * EACH, strict=True)) | {5: "web page"}
  made = {kind: how for kind, (_, how) in bad_files().items()}
  rows = []
  for row in range(ROWS):
    path = folder / f"{row}.wav"
    if row not in kinds:
      soundfile.write(path, np.full(RATE // 20, value(row)), RATE, subtype="FLOAT")
    elif isinstance(how := made[kinds[row]], bytes):
      path.write_bytes(how)
    else:
      how(path)
    rows.append(dict.fromkeys(FIELDS, "") | {"filepath1": path.name, "answer": str(row)})
    rows[-1]["input"] = "what is heard?"
  (folder / "train.json").write_text(json.dumps(rows))
  (folder / "val.json").write_text(json.dumps(rows[:8]))
  return folder, kinds


TOKENIZER = tokenizer.build_tokenizer(["what is heard ?", *map(str, range(ROWS))])


def encoder(folder, **fields):
  paths = {name: str(folder / f"{name}.json") for name in ("train", "val")}
  data = DataConfig(
    **{"preset": "clean", "second_clip": "same", "max_bad_fraction": 0.2, **paths, **fields},
    audio_root=str(folder),
  )
  rows, _, clips = pipeline.sources(tiny.run(model=tiny.config(), data=data), lambda line: None)
  return pipeline.Preprocessor(rows, clips, TOKENIZER, tiny.config(), data)


def batches(made_by, start, stop, **part):
  """The batches of some steps of 20 rows, and the bad records they met."""
  met = []
  found = pipeline.train_batches(
    made_by, seed=3, batch_size=20, start_step=start, shuffle=True, note=met.extend, **part
  )
  return list(itertools.islice(found, stop - start)), met


@pytest.fixture(scope="module")
def epoch(dataset):
  """All batches of an epoch, what they met, and by how many MiB memory grew."""
  made_by = encoder(dataset[0])
  Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
  before = memory("VmRSS")
  return *batches(made_by, 0, ROWS // 20), memory("VmHWM") - before


def memory(field):
  """MiB of this process."""
  return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def assert_same(found, expected):
  assert len(found) == len(expected)
  for one, other in zip(found, expected, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# --- Training ------------------------------------------------------------------------------------


def test_every_bad_record_is_met_and_counted_by_its_reason(dataset, epoch):
  _, kinds = dataset
  found, met, grown = epoch
  rows = Counter(record.row for record in met)
  assert set(rows) == set(kinds)
  again = len(met) - len(kinds)  # those drawn in place of others were sometimes bad as well
  assert 0 < again < 15
  assert all(record.reason == KINDS[kinds[record.row]] for record in met)
  assert all(record.path == f"{record.row}.wav" in record.message for record in met)
  counted = dict(zip(REASONS, sum(batch["bad"] for batch in found).tolist(), strict=True))
  assert {r: n for r, n in counted.items() if n} == Counter(record.reason for record in met)
  assert set(counted) - {r for r, n in counted.items() if n} == {"path"}
  assert grown < 300


def test_text_and_audio_are_replaced_together(dataset, epoch):
  _, kinds = dataset
  seen = Counter()
  for batch in epoch[0]:
    for wav, answer in zip(batch["wav1"], batch["answer_ids"], strict=True):
      row = int(TOKENIZER.decode([answer[0]]))
      np.testing.assert_array_equal(wav[: RATE // 20], value(row))
      seen[row] += 1
  assert sum(seen.values()) == ROWS and not set(seen) & set(kinds)
  assert all(seen[row] for row in set(range(ROWS)) - set(kinds))


@pytest.mark.parametrize("start", [38, 49])
def test_a_resumed_run_meets_the_same(dataset, epoch, start):
  found, met = batches(encoder(dataset[0]), start, 50)
  assert_same(found, epoch[0][start:])
  assert met == epoch[1][len(epoch[1]) - len(met) :]


def test_a_known_bad_file_counts_as_one_that_is_read_again(dataset, epoch):
  made_by = encoder(dataset[0])
  batches(made_by, 0, 12)
  known = {KINDS[dataset[1][int(path[:-4])]] for path in made_by.clips.known_bad}
  assert "undecodable" in known and not known & {"damaged", "not_finite", "missing", "unreadable"}
  again, met = batches(made_by, 0, 12)
  assert_same(again, epoch[0][:12])
  assert met == epoch[1][: len(met)]


def test_damage_counts_where_it_is_heard(tmp_path):
  wav = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
  whole = encoded(wav, format="FLAC")
  hole = len(whole) // 2
  (tmp_path / "hole.flac").write_bytes(whole[:hole] + bytes(9000) + whole[hole + 9000 :])
  reader = clips.FileClips(tmp_path, tiny.config().audio, presets.PRESETS["training"])

  def outcome(seed):
    try:
      return reader.load("hole.flac", np.random.default_rng(seed)).tobytes()
    except AudioError as error:
      return error.reason

  found = [outcome(seed) for seed in range(12)]
  assert 0 < found.count("damaged") < 12
  assert [outcome(seed) for seed in range(12)] == found


@pytest.mark.parametrize("preset", ["clean", "training"])
def test_two_hosts_meet_what_one_meets(dataset, preset):
  fields = {"preset": preset, "second_clip": "another", "another_clip_share": 0.5}
  whole, met = batches(encoder(dataset[0], **fields), 3, 10)
  parts = [batches(encoder(dataset[0], **fields), 3, 10, shard=i, shards=2) for i in range(2)]
  for step, one, other in zip(whole, parts[0][0], parts[1][0], strict=True):
    for name in step:
      pair = one[name], other[name]
      joined = sum(pair) if name == "bad" else np.concatenate(pair)
      np.testing.assert_array_equal(joined, step[name], err_msg=name)
  assert Counter(met) == Counter(parts[0][1] + parts[1][1])
  assert len(met) > 8


def test_another_clip_that_is_bad_is_drawn_again_and_counted(dataset):
  folder, kinds = dataset
  made_by = encoder(folder, second_clip="another")
  rng, met = np.random.default_rng(0), []
  for _ in range(200):
    example = made_by.training_example(made_by.rows[7], rng)
    np.testing.assert_array_equal(example["wav1"][: RATE // 20], value(7))
    assert round(float(example["wav2"][0]) * 2**11) not in kinds
    met += example["bad"]
  assert 5 < len(met) < 30 and all(record.row in kinds for record in met)


def test_augmented_clips_are_not_mixed_with_a_bad_one(dataset):
  folder, kinds = dataset
  made_by = encoder(folder, augment=True)
  rows = [dataclasses.replace(row, caption1="a tone") for row in made_by.rows]
  made_by = dataclasses.replace(made_by, rows=rows)
  rng, met = np.random.default_rng(0), []
  for _ in range(200):
    met += made_by.training_example(made_by.rows[7], rng)["bad"]
  # What is noted is the row that was being made, and the path that was drawn.
  assert {record.row for record in met} == {7}
  assert len(met) > 3 and all(int(record.path[:-4]) in kinds for record in met)


def test_where_nothing_can_be_heard_a_run_ends(dataset):
  made_by = encoder(dataset[0])
  bad = dataclasses.replace(made_by, rows=[made_by.rows[5]])
  with pytest.raises(PipelineError, match=r"100 records in a row could not be used, .*5.wav"):
    batches(bad, 0, 1)


# --- Validation ----------------------------------------------------------------------------------


def test_bad_validation_rows_are_left_out_and_noted(dataset):
  made_by, left_out = encoder(dataset[0]), []
  made_by = dataclasses.replace(made_by, rows=[made_by.rows[i] for i in range(8)])
  found = list(pipeline.eval_batches(made_by, batch_size=4, count=9, left_out=left_out))
  learnt = [batch["loss_mask"].any(axis=1).tolist() for batch in found]
  assert learnt == [[True] * 4, [True, False, True, True]]
  assert not found[1]["wav1"][1].any() and "bad" not in found[0]
  assert [(record.row, record.reason) for record in left_out] == [(5, "undecodable")]
  with pytest.raises(PipelineError, match=r"row 5 \(\): .*5.wav: cannot be decoded"):
    list(pipeline.eval_batches(made_by, batch_size=4, count=9))


# --- How much of it ------------------------------------------------------------------------------


def test_a_run_ends_above_the_share_allowed_but_not_at_its_first_bad_clip():
  tally = bad_records.Tally(0.01, epoch=10**6)
  two = bad_records.count([BadRecord("a.wav", "missing", "", 0)] * 2)
  for _ in range(4):
    tally.add(two, 200)
    tally.check()  # 2 in 202 are more than 1%, but 808 records are too few to say
  tally.add(two, 182)
  assert tally.check() == {"examples_drawn": 982 + 0, "bad_missing": 10}


def test_counts_go_on_after_a_restart():
  one = bad_records.count([BadRecord("a.wav", "damaged", "", 0)])
  whole = bad_records.Tally(0.5, epoch=10)
  whole.add(one, 4)
  kept = json.loads(json.dumps(whole.counters()))
  resumed = bad_records.Tally(0.5, epoch=10, counters={**kept, "skipped_updates": 3})
  for tally in (whole, resumed):
    tally.add(one, 4)
  assert resumed.check() == whole.check() == {"examples_drawn": 8, "bad_damaged": 2}
  assert bad_records.by_reason(whole.check()) == {"bad_damaged": 2}
  assert bad_records.describe(whole.check()) == "2 of 10 records drawn were bad (damaged 2)"


def test_processes_count_together():
  one = bad_records.count([BadRecord("a.wav", "damaged", "", 0)])
  tally = bad_records.Tally(0.5, epoch=10, counters={"bad_damaged": 1}, total=lambda x: 2 * x)
  tally.add(one, 4)
  assert tally.counters() == {"examples_drawn": 8, "bad_damaged": 3}


def test_the_report_lists_each_path_once_and_goes_on_after_a_kill(tmp_path):
  path = tmp_path / "bad_records.jsonl"
  first, second = (BadRecord(f"{i}.wav", "damaged", "is {damaged}", i) for i in range(2))
  report = bad_records.BadRecords(path)
  report.add([first, first._replace(row=9)])
  with path.open("a") as file:
    file.write('{"path": "2.wav", "reason": "damaged", "message": "is {damaged}')
  report = bad_records.BadRecords(path)
  report.add([first, second])
  assert [json.loads(line) for line in path.read_text().splitlines()] == [
    {"path": "0.wav", "reason": "damaged", "message": "is {damaged}", "row": 0},
    {"path": "1.wav", "reason": "damaged", "message": "is {damaged}", "row": 1},
  ]


# --- The command ---------------------------------------------------------------------------------


CONFIG = """
import tiny

def get_config(arg=""):
  cfg = tiny.get_config("files")
  cfg.data.mix, cfg.data.augment = {}, False
  return cfg
"""


@pytest.fixture
def train(dataset, compile_cache, tmp_path):
  """Starts the command on 36 good rows and 4 bad ones, allowing some share of bad records."""
  folder, kinds = dataset
  rows = json.loads((folder / "train.json").read_text())
  heard = ("absent", "web page", "not a number", "32 channels")
  bad = [next(row for row in kinds if kinds[row] == kind) for kind in heard]
  good = [row for row in range(ROWS) if row not in kinds][:36]
  (tmp_path / "rows.json").write_text(json.dumps([rows[row] for row in good + bad]))
  (tmp_path / "config.py").write_text(CONFIG)
  flags = [f"--config.data.train={tmp_path / 'rows.json'}", "--config.batch_size=20"]
  flags += [f"--config.data.val={folder / 'val.json'}", f"--config.data.audio_root={folder}"]

  def start(share):
    share = f"--config.data.max_bad_fraction={share}"
    config = tmp_path / "config.py"
    return processes.train(tmp_path / "run", config, compile_cache, *flags, share)

  return start


@pytest.mark.slow
def test_the_command_ends_where_too_much_is_bad(train, tmp_path):
  process = train(0.05)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 1
  (line,) = err.splitlines()
  found = re.search(r"(\d+) of (\d+) records drawn were bad \((.*)\), more than config.data", line)
  assert 0.05 * int(found[2]) < int(found[1]) == sum(map(int, re.findall(r" (\d+)", found[3])))
  listed = (tmp_path / "run/bad_records.jsonl").read_text().splitlines()
  assert len(listed) <= 4 and not (tmp_path / "run/checkpoints").exists()


@pytest.mark.slow
def test_the_command_counts_and_lists_what_it_replaced(dataset, train, tmp_path):
  (out,) = processes.finish(train(0.5))
  whole = [(tmp_path / "run" / name).read_text() for name in ("metrics.jsonl", "bad_records.jsonl")]
  for name in ("checkpoints/4", "model"):
    shutil.rmtree(tmp_path / "run" / name)
  (again,) = processes.finish(train(0.5))
  assert "resumed from step 2" in again
  for name, text in zip(("metrics.jsonl", "bad_records.jsonl"), whole, strict=True):
    assert (tmp_path / "run" / name).read_text() == text
  assert "1 of 40 rows name them: they count as bad records" in out
  lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [1, 2, 3, 4, 4, 4]
  assert set(lines[4]) - {"step"} <= {f"bad_{reason}" for reason in REASONS}
  total = sum(lines[4].values()) - 4
  assert re.search(rf"{total} of {80 + total} records drawn were bad .*: see bad_records", out)
  assert lines[5]["val_left_out"] == 1 and "1 validation rows are left out" in out
  report = [json.loads(x) for x in (tmp_path / "run/bad_records.jsonl").read_text().splitlines()]
  assert all(KINDS[dataset[1][int(line["path"][:-4])]] == line["reason"] for line in report)
  assert len({line["path"] for line in report}) == len(report) == 5  # one is a validation row's
  answers = [json.loads(x) for x in (tmp_path / "run/answers.jsonl").read_text().splitlines()]
  assert [answer["expected"] for answer in answers] == ["0", "4"]
