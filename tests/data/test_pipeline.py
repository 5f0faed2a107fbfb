"""Rows to batches: the same for the same seed and step, whoever makes them and however many."""

import dataclasses
import itertools
import json
import threading

import numpy as np
import pytest
import soundfile
import tiny

from mellow_jax.config import DataConfig
from mellow_jax.data import pipeline, tokenizer
from mellow_jax.data.records import Record
from mellow_jax.errors import ConfigError, PipelineError, StalledError

TOKENIZER = tokenizer.build_tokenizer(
  [f"what is heard ? ! yes no . {' '.join(map(str, range(12)))}"]
)
BANG = TOKENIZER.token_to_id("!")


class Numbers:
  """Clips that hold the number in their name, and a random one where they are cropped."""

  def load(self, path, rng):
    drawn = 0.0 if rng is None else rng.random()
    return np.array([float(path.removesuffix(".wav")), drawn], np.float32)


def record(row, *, question="what is heard?", answer=None, second="", **fields):
  answer = str(row) if answer is None else answer
  names = ("taskname", "caption1", "caption2", "subtype")
  given = {**dict.fromkeys(names, ""), **fields}
  path2 = f"{second}.wav" if second != "" else ""
  return Record(
    filepath1=f"{row}.wav", filepath2=path2, input=question, answer=answer, row=row, **given
  )


def encoder(rows=10, **fields):
  rows = [record(i) for i in range(rows)] if isinstance(rows, int) else rows
  data = DataConfig(**{"preset": "clean", **fields})
  return pipeline.Preprocessor(rows, Numbers(), TOKENIZER, tiny.config(pad_id=BANG), data)


def batches(made_by, count, start_step=0, *, seed=0, batch_size=4, shuffle=True, **part):
  found = pipeline.train_batches(
    made_by, seed=seed, batch_size=batch_size, start_step=start_step, shuffle=shuffle, **part
  )
  return list(itertools.islice(found, count))


def assert_equal(found, expected):
  assert len(found) == len(expected)
  for one, other in zip(found, expected, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def joined(parts):
  """The batches of all hosts from the parts of each; of bad records the sum."""
  return [
    {
      name: np.sum([p[name] for p in step], axis=0)
      if name == "bad"
      else np.concatenate([p[name] for p in step])
      for name in step[0]
    }
    for step in zip(*parts, strict=True)
  ]


def rows_of(found):
  return [batch["wav1"][:, 0].astype(int).tolist() for batch in found]


# --- Order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_step", [1, 2, 7])
def test_a_batch_follows_from_seed_and_step_alone(start_step):
  made_by = encoder(another_clip_share=0.5)  # 2.5 batches an epoch
  whole = batches(made_by, 10)
  assert_equal(batches(made_by, 10 - start_step, start_step), whole[start_step:])
  with pytest.raises(AssertionError):
    assert_equal(batches(made_by, 10, seed=1), whole)


@pytest.mark.parametrize("shards", [2, 4])
def test_the_hosts_parts_are_the_whole_batch_in_its_order(shards):
  made_by = encoder(another_clip_share=0.5)
  parts = [batches(made_by, 5, 2, shard=i, shards=shards) for i in range(shards)]
  assert_equal(joined(parts), batches(made_by, 5, 2))


def test_threads_change_nothing():
  one, four = (batches(encoder(threads=threads), 8) for threads in (1, 4))
  assert_equal(one, four)


def test_every_epoch_holds_every_row_once_in_an_order_of_its_own():
  order = list(itertools.chain(*rows_of(batches(encoder(), 10))))
  epochs = [order[i : i + 10] for i in range(0, 40, 10)]
  assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_row_is_drawn_anew_in_every_epoch():
  drawn = [batch["wav1"][batch["wav1"][:, 0] == 3, 1] for batch in batches(encoder(), 20)]
  assert len(set(np.concatenate(drawn).tolist())) == 8


def test_without_shuffling_rows_come_in_their_order():
  assert rows_of(batches(encoder(), 3, shuffle=False)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]


# --- Examples ------------------------------------------------------------------------------------


def tokens(text):
  return TOKENIZER.encode(text).ids


def test_the_training_preset_never_learns_an_exclamation_mark():
  """The reference pads with "!" and leaves out the loss of that token, also of a genuine one."""
  example = encoder([record(0, answer="yes ! no")], preset="training")(record(0, answer="yes ! no"))
  assert example["answer_ids"].tolist() == [*tokens("yes ! no"), 0, BANG, BANG, BANG, BANG]
  assert example["loss_mask"].tolist() == [True, False, True, True, *[False] * 4]


def test_the_clean_preset_learns_what_the_answer_holds():
  example = encoder()(record(0, answer="yes ! no"))
  assert example["answer_ids"].tolist() == [*tokens("yes ! no"), 0, BANG, BANG, BANG, BANG]
  assert example["loss_mask"].tolist() == [*[True] * 4, *[False] * 4]


def test_questions_are_padded_and_know_their_length():
  example = encoder()(record(0))
  assert example["text_ids"].tolist() == [*tokens("what is heard?"), 0, *[BANG] * 3]
  assert example["text_lengths"] == 5 and example["text_lengths"].dtype == np.int32


def second(example):
  return int(example["wav2"][0])


def test_a_row_of_two_clips_hears_both():
  made_by, rng = encoder(another_clip_share=1.0), np.random.default_rng(0)
  assert second(made_by(record(3, second=7), rng)) == second(made_by(record(3, second=7))) == 7


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_row_of_one_clip_hears_another_second_as_often_as_configured(share):
  made_by, rng = encoder(another_clip_share=share), np.random.default_rng(0)
  others = [second(made_by(record(100), rng)) for _ in range(400)]
  found = np.mean([other != 100 for other in others])
  assert found == pytest.approx(share, abs=0.08)
  assert set(others) - {100} == (set(range(10)) if share else set())


@pytest.mark.parametrize(("choice", "heard"), [("same", 100), ("silence", 0)])
def test_a_row_of_one_clip_hears_the_same_or_silence_second(choice, heard):
  made_by, rng = encoder(second_clip=choice), np.random.default_rng(0)
  assert {second(made_by(record(100), rng)) for _ in range(20)} == {heard}
  assert second(made_by(record(100))) == heard
  assert second(made_by(record(100, second=7), rng)) == 7


def test_with_shuffled_audio_words_and_clips_have_nothing_to_do_with_each_other():
  made_by = encoder(10, shuffled_audio=True, second_clip="same")
  found = batches(made_by, 40, batch_size=10)
  heard = np.concatenate([b["wav1"][:, 0] for b in found]).astype(int)
  told = np.concatenate([b["answer_ids"][:, 0] for b in found])
  said = np.array([int(TOKENIZER.id_to_token(i)) for i in told])
  assert np.bincount(said).tolist() == [40] * 10  # each row as often as ever
  assert 0.04 < np.mean(heard == said) < 0.17  # one in ten by chance
  (last,) = pipeline.eval_batches(made_by, batch_size=10, count=1)
  np.testing.assert_array_equal(last["wav1"][:, 0], np.arange(10))


def test_evaluation_hears_the_one_clip_twice_and_draws_nothing():
  example = encoder(another_clip_share=1.0)(record(3))
  assert example["wav1"].tolist() == example["wav2"].tolist() == [3.0, 0.0]


class Tones:
  """A tone a second long, of a frequency of its own for every path."""

  def load(self, path, rng):
    hertz = 100.0 * (1 + float(path.removesuffix(".wav")))
    return 0.1 * np.sin(2 * np.pi * hertz * np.arange(1000) / 1000).astype(np.float32)


def test_augmented_clips_are_mixed_with_those_of_their_caption_alone():
  rows = [record(i, caption1=f"kind {i // 2}") for i in range(4)]  # tones of 100 to 400 Hz
  made_by = dataclasses.replace(encoder(rows, augment=True, another_clip_share=0.0), clips=Tones())
  rng, heard = np.random.default_rng(0), []
  for _ in range(40):
    spectrum = np.abs(np.fft.rfft(made_by(rows[2], rng)["wav1"]))
    heard.append(tuple(np.flatnonzero(spectrum > 1e-3 * spectrum.max())))
  assert set(heard) == {(300,), (300, 400)}
  assert np.array_equal(made_by(rows[2])["wav1"], Tones().load("2.wav", None))


def test_rows_without_a_caption_are_mixed_with_nothing_else_nor_is_none_an_option():
  rows = [record(i) for i in range(4)]
  made_by = dataclasses.replace(encoder(rows, augment=True, another_clip_share=0.0), clips=Tones())
  rng = np.random.default_rng(0)
  for _ in range(40):
    spectrum = np.abs(np.fft.rfft(made_by(rows[2], rng)["wav1"]))
    assert np.flatnonzero(spectrum > 1e-3 * spectrum.max()).tolist() == [300]
  assert made_by.clips_by_caption == {}


def test_options_drawn_anew_never_hold_another_caption_of_the_rows_own_clip():
  question = "what is heard? a) 0 b) 1"
  rows = [record(0, question=question, answer="a) 0", caption1="0")]
  rows += [dataclasses.replace(rows[0], row=i, caption1=str(i)) for i in (2, 3)]  # of the same clip
  rows += [record(i, caption1=str(i)) for i in (1, 4, 5)]
  made_by, rng, seen = encoder(rows, augment=True), np.random.default_rng(0), set()
  for _ in range(60):
    ids = made_by(rows[0], rng)["text_ids"].tolist()
    seen |= {i for i in (0, 1, 2, 3, 4, 5) if TOKENIZER.token_to_id(str(i)) in ids}
  assert seen == {0, 1, 4, 5}


# --- Validation ----------------------------------------------------------------------------------


def test_validation_ends_with_a_batch_filled_up_without_loss():
  found = list(pipeline.eval_batches(encoder(6), batch_size=4, count=9))
  assert rows_of(found) == [[0, 1, 2, 3], [4, 5, 5, 5]]
  assert [batch["loss_mask"].any(axis=1).tolist() for batch in found] == [
    [True] * 4,
    [True, True, False, False],
  ]
  assert all((batch["wav1"][:, 1] == 0).all() for batch in found)
  assert_equal(list(pipeline.eval_batches(encoder(6), batch_size=4, count=1)), found[:1])


@pytest.mark.parametrize("shards", [2, 4])
def test_the_hosts_parts_of_validation_are_the_whole(shards):
  whole = list(pipeline.eval_batches(encoder(6), batch_size=4, count=9))
  parts = [
    list(pipeline.eval_batches(encoder(6), batch_size=4, count=9, shard=i, shards=shards))
    for i in range(shards)
  ]
  assert_equal(joined(parts), whole)


def test_a_read_that_hangs_in_validation_is_an_error():
  released = threading.Event()

  class Hangs:
    def load(self, path, rng):
      if path == "3.wav":
        released.wait(20)
      return np.zeros(2, np.float32)

  made_by = dataclasses.replace(encoder(6, timeout_seconds=0.5), clips=Hangs())
  found = pipeline.eval_batches(made_by, batch_size=2, count=9)
  try:
    assert next(found)["loss_mask"].any(axis=1).all()
    with pytest.raises(StalledError, match=r"no batch came for \d s: a read hangs"):
      next(found)
  finally:
    released.set()


# --- Files ---------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
  """A run's config over four short recordings."""
  fields = [f.name for f in dataclasses.fields(Record) if f.name != "row"]
  rng = np.random.default_rng(0)
  for i in range(4):
    soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(12_000), 16_000)
  for name, chosen in (("train", range(4)), ("val", range(2))):
    rows = [{field: getattr(record(i), field) for field in fields} for i in chosen]
    (tmp_path / f"{name}.json").write_text(json.dumps(rows))
  paths = {name: str(tmp_path / f"{name}.json") for name in ("train", "val")}
  return tiny.run(
    model=tiny.config(), data=DataConfig(preset="clean", audio_root=str(tmp_path), **paths)
  )


def test_rows_and_clips_come_from_the_files_that_the_config_names(dataset, tmp_path):
  rows, val, clips = pipeline.sources(dataset)
  assert [row.row for row in rows] == [0, 1, 2, 3] and [row.row for row in val] == [0, 1]
  wav, _ = soundfile.read(tmp_path / "2.wav", dtype="float32")
  found = clips.load("2.wav", None)
  np.testing.assert_array_equal(found[:12_000], wav)
  assert len(found) == 16_000 and not found[12_000:].any()


def test_a_mix_repeats_the_rows_of_a_subtype(dataset, tmp_path):
  rows = json.loads((tmp_path / "train.json").read_text())
  for row, subtype in zip(rows, "aabc", strict=True):
    row["subtype"] = subtype
  (tmp_path / "train.json").write_text(json.dumps(rows))
  dataset.data.mix = {"b": 3.0, "c": 0.0}
  train, val, _ = pipeline.sources(dataset)
  assert [row.row for row in train] == [0, 1, 2, 2, 2] and len(val) == 2
  for mix, message in (
    ({"d": 2.0}, r"no row has subtype 'd', but \['a', 'b', 'c'\]"),
    ({"a": 0.5}, "a 0.5 must be a whole number of times"),
    ({"a": -1.0}, "a -1.0 must be a whole number of times"),
    (dict.fromkeys("abc", 0.0), "leaves no row"),
  ):
    dataset.data.mix = mix
    with pytest.raises(ConfigError, match=f"config.data.mix: .*{message}"):
      pipeline.sources(dataset)


def test_cached_clips_are_read_once(dataset, tmp_path):
  dataset.data.cache_clips = True
  _, _, clips = pipeline.sources(dataset)
  first = clips.load("2.wav", None)
  (tmp_path / "2.wav").write_bytes(b"")
  assert clips.load("2.wav", None) is first


def test_missing_audio_beyond_the_share_allowed_is_told_before_training(dataset, tmp_path):
  for name in ("1.wav", "3.wav"):
    (tmp_path / name).unlink()
  with pytest.raises(PipelineError) as caught:
    pipeline.sources(dataset)
  text = str(caught.value)
  assert "\n" not in text
  assert f"train.json: 2 of its audio files are not below {tmp_path}, first 1.wav" in text
  assert "2 of 4 rows name them, more than config.data.max_bad_fraction 0.01 allows" in text
  dataset.data.max_bad_fraction, said = 0.5, []
  pipeline.sources(dataset, said.append)
  assert [line.split(": ")[0].rpartition("/")[2] for line in said] == ["train.json", "val.json"]
  assert all(line.endswith("they count as bad records") for line in said)


def test_audio_stands_beside_the_rows_unless_a_root_is_given(dataset):
  dataset.data.audio_root = ""
  _, _, clips = pipeline.sources(dataset)
  assert clips.load("2.wav", None).any()


def test_clips_are_held_out_whole_and_whatever_the_order_of_rows(dataset, tmp_path):
  rows = json.loads((tmp_path / "train.json").read_text())
  rows += [{**row, "answer": "no"} for row in rows] + [{**rows[0], "filepath2": "3.wav"}]
  dataset.data.val, dataset.data.val_share, held = "", 0.25, []
  for order in (rows, rows[::-1]):
    (tmp_path / "train.json").write_text(json.dumps(order))
    said = []
    train, val, _ = pipeline.sources(dataset, said.append)
    assert len(train) + len(val) == len(rows)
    clips = [{path for r in part for path in (r.filepath1, r.filepath2)} for part in (train, val)]
    held.append(clips[1] - clips[0] - {""})
    assert "1 of 4 clips" in said[0]
  assert held[0] == held[1] and len(held[0]) == 1
  (tmp_path / "train.json").write_text(json.dumps(rows[:1]))
  with pytest.raises(ConfigError, match=r"val_share 0.25: leaves no row of .*train.json to train"):
    pipeline.sources(dataset, said.append)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c: c.data.mix.update(singing=1.0), "unknown task 'singing'"),
    (lambda c: c.data.mix.clear(), "not all 0"),
    (lambda c: setattr(c.model.audio, "clip_seconds", 2.0), "clip_samples 32000 is less than 4"),
    (lambda c: setattr(c, "seed", -1), "seed -1"),
  ],
)
def test_scenes_that_cannot_be_made_are_an_error_of_the_config(change, message):
  cfg = tiny.run()
  change(cfg)
  with pytest.raises(ConfigError, match=message):
    pipeline.sources(cfg)


# --- Questions that share their clips ------------------------------------------------------------


def shared(**fields):
  """Three clips with 5, 2 and 1 questions, three to a group."""
  rows = [
    record(clip, answer=str(i), question=f"{i} ?")
    for clip, n in ((0, 5), (1, 2), (2, 1))
    for i in range(n)
  ]
  rows = [dataclasses.replace(row, row=i) for i, row in enumerate(rows)]
  return encoder(rows, share_prefix=3, **fields)


def test_questions_on_a_clip_come_together_each_once_an_epoch():
  made = batches(shared(second_clip="same"), 4, batch_size=3)  # an epoch of groups
  asked = []
  for batch in made:
    assert batch["wav1"].shape[0] == 1 and batch["text_ids"].shape[:2] == (1, 3)
    for ids, mask in zip(batch["text_ids"][0], batch["loss_mask"][0], strict=True):
      if mask.any():
        asked.append((batch["wav1"][0, 0], TOKENIZER.decode(ids[:1].tolist())))
  assert sorted(asked) == [(clip, str(i)) for clip, n in ((0, 5), (1, 2), (2, 1)) for i in range(n)]


def test_groups_follow_from_seed_and_step():
  whole = batches(shared(), 6, batch_size=6)
  assert_equal(batches(shared(), 4, 2, batch_size=6), whole[2:])
  grouped = batches(shared(), 3, batch_size=6, groups=(8, 16))
  assert {batch["wav1"].shape[0] for batch in grouped} == {2}
