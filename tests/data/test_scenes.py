"""Generated scenes: determinism, exact answers, a closed vocabulary, and sounds that differ."""

import collections
import itertools
import json
import pickle
import re

import numpy as np
import pytest
import soundfile
from timing import cpu_time

from mellow_jax.data import records, scene_audio, scenes

RATE, SAMPLES = 16_000, 81_920
ROWS = 5000
LOUD_AND_SOFT = {"loud", "soft"}


@pytest.fixture(scope="module")
def rows():
  return list(scenes.Scenes("train", 0, ROWS, scenes.MIX))


@pytest.fixture(scope="module")
def tokenizer():
  return scenes.build_tokenizer()


def of(rows, task):
  return [record for record in rows if record.subtype == scenes.SUBTYPES[task]]


def scene_at(path):
  _, split, seed, name = path.split("/")
  return scene_audio.draw_scene(int(seed), split, int(name.removesuffix(".wav")))


def options(record):
  """Letter to option, as the question lists them."""
  return dict(re.findall(r"([a-d])\) (.+?)(?= [a-d]\)|$)", record.input))


def chosen(record):
  letter, text = re.fullmatch(r"([a-d])\) (.+)", record.answer).groups()
  listed = options(record)
  assert listed[letter] == text
  assert len(set(listed.values())) == len(listed)
  return text


def event_of(record):
  """The event that a question names with "the"."""
  kind = re.search(r"the (\w+)", record.input)[1]
  (event,) = [e for e in scene_at(record.filepath1).events if e.kind == kind]
  return event


def example(kind, pitch="", loudness="loud", duration=1.0, count=1):
  event = scene_audio.Event(kind, 0.3, duration, count, pitch, loudness, 1.0, 0.5)
  return scene_audio.Scene((event,), 3.0, 0.5, 0.0, 0.5)


def mel_filters(bins=32, n_fft=512):
  edges = 700 * (np.exp(np.linspace(*np.log1p(np.array([50, 8000]) / 700), bins + 2)) - 1)
  hertz = np.fft.rfftfreq(n_fft, 1 / RATE)[:, None]
  low, mid, high = edges[:-2], edges[1:-1], edges[2:]
  triangles = np.minimum((hertz - low) / (mid - low), (high - hertz) / (high - mid))
  return np.clip(triangles, 0, None) * 2 / (high - low)


MEL = mel_filters()


def log_mel(wav):
  """128 frames of 40 ms by 32 mel bins, in dB above a floor of -45."""
  frames = np.lib.stride_tricks.sliding_window_view(np.pad(wav, 256), 512)[::640][:128]
  power = np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2
  # Not a matrix product: its threads get in each other's way on small matrices.
  bands = np.einsum("tk,kf->tf", power, MEL)
  return np.maximum(10 * np.log10(bands + 1e-10), -45.0) + 45.0


# Scenes


def test_a_scene_follows_from_its_numbers():
  for number in (0, 7, 2**40):
    scene = scene_audio.draw_scene(3, "val", number)
    assert scene == scene_audio.draw_scene(3, "val", number)
    assert scene != scene_audio.draw_scene(4, "val", number)
    assert scene != scene_audio.draw_scene(3, "val", number + 1)
    first = scene_audio.render(scene, RATE, SAMPLES)
    assert first.tobytes() == scene_audio.render(scene, RATE, SAMPLES).tobytes()


def test_splits_and_scenes_are_disjoint():
  drawn = [scene_audio.draw_scene(0, split, n) for split in scene_audio.SPLITS for n in range(2000)]
  assert len(set(drawn)) == len(drawn)


def test_scenes_keep_to_their_bounds():
  sizes, counts, overlapping = collections.Counter(), collections.Counter(), 0
  for number in range(3000):
    scene = scene_audio.draw_scene(1, "train", number)
    sizes[len(scene.events)] += 1
    overlapping += any(len(group) == 2 for group in scene.groups)
    assert 2.0 <= scene.duration <= 4.0
    assert len(set(scene.kinds)) == len(scene.kinds)
    assert [e.onset for e in scene.events] == sorted(e.onset for e in scene.events)
    for event in scene.events:
      counts[event.count] += 1
      assert 0.3 <= event.duration <= 1.2 and event.onset > 0 and event.end < scene.duration
      assert bool(event.pitch) == (event.kind in scene_audio.PITCHES)
    for before, after in itertools.pairwise(scene.groups):
      pause = after[0].onset - max(event.end for event in before)
      assert pause >= scene_audio.GAP_SECONDS - 1e-9
    for group in scene.groups:
      assert len(group) <= 2
      if len(group) == 2:
        shared = min(event.end for event in group) - group[1].onset
        assert shared > 0.35 and {e.count for e in group} == {1}
        assert len({e.loudness for e in group}) == 1
  assert set(sizes) == set(counts) == {1, 2, 3}
  assert min(*sizes.values(), *counts.values(), overlapping) > 400


def test_captions_name_kinds_in_order_and_overlaps_in_abc_order():
  def event(kind, onset):
    return scene_audio.Event(kind, onset, 0.6, 1, "", "loud", 1.0, 0.0)

  events = event("hiss", 0.2), event("drum", 0.4), event("rattle", 1.3)
  scene = scene_audio.Scene(events, 2.5, 0.0, 0.0, 0.0)
  assert scene.caption == "drum and hiss then rattle"
  assert scene.kinds == ["hiss", "drum", "rattle"]


@pytest.mark.parametrize(
  ("seed", "split", "number", "message"),
  [
    (0, "dev", 0, "'dev'"),
    (-1, "val", 0, "seed -1"),
    (2**32, "val", 0, "seed"),
    (0, "val", -1, "-1"),
  ],
)
def test_numbers_out_of_range_are_refused(seed, split, number, message):
  with pytest.raises(ValueError, match=message):
    scene_audio.draw_scene(seed, split, number)


# Sound


def test_clips_are_float32_below_one_with_silence_around_the_scene():
  for number in range(300):
    scene = scene_audio.draw_scene(2, "test", number)
    wav = scene_audio.render(scene, RATE, SAMPLES)
    assert wav.dtype == np.float32 and wav.shape == (SAMPLES,)
    assert np.abs(wav).max() < 1
    (sounding,) = np.nonzero(wav)
    assert (sounding[-1] - sounding[0]) / RATE == pytest.approx(scene.duration, abs=0.01)


def test_rendering_is_quick():
  clips = scene_audio.SceneClips(RATE, SAMPLES)
  clips.load("scenes/val/0/0.wav")
  with cpu_time() as taken:
    for number in range(50):
      clips.load(f"scenes/val/0/{number}.wav")
  # It takes less than a millisecond a clip; this only finds a loop over samples.
  assert taken.seconds < 2.0


def test_a_clip_too_short_and_a_rate_too_low_are_refused():
  scene = scene_audio.draw_scene(0, "train", 0)
  with pytest.raises(ValueError, match="cannot hold"):
    scene_audio.render(scene, RATE, RATE)
  with pytest.raises(ValueError, match="16000"):
    scene_audio.render(scene, 8000, SAMPLES)
  with pytest.raises(ValueError, match="moo"):
    scene_audio.render(example("moo"), RATE, SAMPLES)


@pytest.mark.parametrize("kind", scene_audio.KINDS)
def test_loud_is_12_db_above_soft(kind):
  pitch = "low" if kind in scene_audio.PITCHES else ""
  loud, soft = (
    scene_audio.render(example(kind, pitch, loudness), RATE, SAMPLES)
    for loudness in ("loud", "soft")
  )
  assert 20 * np.log10(loud.std() / soft.std()) == pytest.approx(12.04, abs=0.01)


@pytest.mark.parametrize("kind", scene_audio.PITCHES)
def test_high_has_a_higher_spectral_centroid_than_low(kind):
  def centroid(pitch):
    power = np.abs(np.fft.rfft(scene_audio.render(example(kind, pitch), RATE, SAMPLES))) ** 2
    return power @ np.fft.rfftfreq(SAMPLES, 1 / RATE) / power.sum()

  assert centroid("high") > 1.5 * centroid("low")


@pytest.mark.parametrize("kind", scene_audio.KINDS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_repetitions_can_be_counted(kind, count):
  pitch = "low" if kind in scene_audio.PITCHES else ""
  wav = scene_audio.render(example(kind, pitch, duration=0.35, count=count), RATE, SAMPLES)
  # Pauses within a rattle are shorter than those between rattles.
  (sounding,) = np.nonzero(np.abs(wav) > 1e-3)
  assert np.sum(np.diff(sounding) > 0.15 * RATE) + 1 == count


def test_the_sound_is_the_same_at_another_rate():
  low, high = (scene_audio.render(example("siren", "low"), r, 5 * r) for r in (16_000, 32_000))
  np.testing.assert_allclose(low[1000:], high[::2][1000:], atol=2e-3)


def test_kinds_are_told_apart_by_the_nearest_centroid_of_their_log_mel():
  numbers = itertools.count()
  alone = (
    s for s in (scene_audio.draw_scene(5, "train", n) for n in numbers) if len(s.events) == 1
  )
  features, labels = [], []
  for scene in itertools.islice(alone, 450):
    mel = log_mel(scene_audio.render(scene, RATE, SAMPLES))
    # How loud each band is and how much it changes, whenever the scene sounds.
    feature = np.concatenate([mel.mean(0), np.abs(np.diff(mel, axis=0)).mean(0)])
    features.append(feature / np.linalg.norm(feature))
    labels.append((scene.events[0].kind, scene.events[0].pitch))
  features, kinds = np.array(features), np.array([kind for kind, _ in labels])
  classes = sorted(set(labels))
  assert len(classes) == 13
  members = [[i for i in range(300) if labels[i] == one] for one in classes]
  centroids = np.array([features[chosen].mean(0) for chosen in members])
  distances = np.linalg.norm(features[300:, None] - centroids, axis=-1)
  owners = np.array([kind for kind, _ in classes])
  accuracy = np.mean(owners[distances.argmin(1)] == kinds[300:])
  assert accuracy >= 0.95
  for pair in itertools.combinations(scene_audio.KINDS, 2):
    mine, candidates = np.isin(kinds[300:], pair), np.isin(owners, pair)
    found = owners[candidates][distances[mine][:, candidates].argmin(1)]
    assert np.mean(found == kinds[300:][mine]) >= 0.95, pair


# Rows


def test_a_row_follows_from_seed_split_and_number(rows):
  again = scenes.Scenes("train", 0, 10 * ROWS, scenes.MIX)
  assert [again[i] for i in (4999, 0, 17)] == [rows[4999], rows[0], rows[17]]
  assert rows[17] == pickle.loads(pickle.dumps(again))[np.int64(17)]
  assert again[-1] == again[len(again) - 1] and again[-1].row == 10 * ROWS - 1
  for other in (scenes.Scenes("val", 0, 9, scenes.MIX), scenes.Scenes("train", 1, 9, scenes.MIX)):
    assert [record.filepath1 for record in other] != [record.filepath1 for record in rows[:9]]
  for index in (-10 * ROWS - 1, 10 * ROWS):
    with pytest.raises(IndexError, match=str(index)):
      again[index]


def test_no_clip_serves_two_rows(rows):
  paths = [path for r in rows for path in (r.filepath1, r.filepath2) if path]
  assert len(set(paths)) == len(paths)
  val = scenes.Scenes("val", 0, 1000, scenes.MIX)
  assert not {scene_at(p) for p in paths} & {scene_at(r.filepath1) for r in val}


def test_tasks_follow_the_mix_and_the_warm_up():
  mix = {"presence": 0.75, "order": 0.25}
  drawn = list(scenes.Scenes("train", 0, 1000, mix, {"caption": 1.0}, warmup_rows=200))
  subtypes = [record.subtype for record in drawn]
  assert set(subtypes[:200]) == {"Scenes-Caption.json"}
  count = collections.Counter(subtypes[200:])
  assert set(count) == {"Scenes-Presence.json", "Scenes-Order.json"}
  assert count["Scenes-Order.json"] / 800 == pytest.approx(0.25, abs=0.06)
  # The warm-up changes no other row.
  plain = scenes.Scenes("train", 0, 1000, mix)
  assert drawn[200:300] == [plain[i] for i in range(200, 300)]


@pytest.mark.parametrize("mix", [{"captions": 1.0}, {"caption": -1.0}, {"caption": 0.0}, {}])
def test_a_mix_that_cannot_be_is_refused(mix):
  with pytest.raises(ValueError, match=r"captions|at least 0"):
    scenes.Scenes("train", 0, 1, mix)


def test_rows_are_reasonaqa_rows(rows):
  count = collections.Counter(record.subtype for record in rows)
  assert set(count) == set(scenes.SUBTYPES.values())
  assert min(count.values()) > ROWS / 10 * 0.8
  for i, record in enumerate(rows):
    assert record.row == i and record.taskname == "scenes"
    assert record.caption1 == scene_at(record.filepath1).caption
    two = record.subtype == "Scenes-Difference.json"
    assert bool(record.filepath2) == bool(record.caption2) == two
    assert records.relative_path(record.filepath1) == record.filepath1
    assert record.input == record.input.lower() and record.answer == record.answer.lower()


def test_captions_and_differences(rows):
  assert all(record.answer == record.caption1 for record in of(rows, "caption"))
  for record in of(rows, "difference"):
    second = scene_at(record.filepath2).caption
    assert second == record.caption2 != record.caption1
    assert record.answer == f"audio 1: {record.caption1}, whereas audio 2: {second}"


def test_presence_options_but_the_right_one_are_absent(rows):
  for record in of(rows, "presence"):
    heard = set(scene_at(record.filepath1).kinds)
    assert len(options(record)) == 4
    assert heard & set(options(record).values()) == {chosen(record)}


def test_order_options_hold_the_other_sounds_of_the_scene(rows):
  for record in of(rows, "order"):
    events = scene_at(record.filepath1).events
    kinds = {event.kind for event in events}
    assert len(options(record)) == 4 and len(kinds) > 1 and kinds <= set(options(record).values())
    (right,) = [event for event in events if event.kind == chosen(record)]
    others = [event for event in events if event is not right]
    if "first" in record.input:
      assert all(right.end < other.onset for other in others)
    else:
      assert all(right.onset > other.end for other in others)


@pytest.mark.parametrize(
  ("task", "answers"),
  [("count", {"one", "two", "three"}), ("pitch", {"low", "high"}), ("loudness", LOUD_AND_SOFT)],
)
def test_attributes_are_those_of_the_event_and_equally_frequent(rows, task, answers):
  count = collections.Counter()
  for record in of(rows, task):
    event = event_of(record)
    right = {"count": scenes.TIMES[event.count - 1], "pitch": event.pitch}
    assert chosen(record) == right.get(task, event.loudness)
    assert set(options(record).values()) == answers
    count[chosen(record)] += 1
  assert set(count) == answers
  assert all(n / count.total() == pytest.approx(1 / len(answers), abs=0.08) for n in count.values())


def test_overlap(rows):
  for record in of(rows, "overlap"):
    one, other = re.search(r"the (\w+) and the (\w+) overlap", record.input).groups()
    times = {e.kind: (e.onset, e.end) for e in scene_at(record.filepath1).events}
    apart = times[one][1] <= times[other][0] or times[other][1] <= times[one][0]
    assert record.answer == ("no" if apart else "yes")


def test_binary(rows):
  for record in of(rows, "binary"):
    kind = re.fullmatch(r"is there a (\w+)\?", record.input)[1]
    heard = kind in scene_at(record.filepath1).kinds
    assert record.answer == ("yes" if heard else "no")


def test_entailment(rows):
  cases = collections.Counter()
  for record in of(rows, "entailment"):
    kind, circumstance = re.match(
      r"hypothesis: a (\w+) is heard(?: (\w+))?\.", record.input
    ).groups()
    heard = kind in scene_at(record.filepath1).kinds
    verdict = "plausible" if circumstance else "definitely true"
    assert chosen(record) == f"it is {verdict if heard else 'definitely false'}"
    assert sorted(options(record).values()) == sorted(scenes.VERDICTS)
    cases[heard, bool(circumstance)] += 1
  # Both wordings occur with sounds that are not there, so that reading alone does not suffice.
  assert all(
    cases[heard, added] / cases.total() == pytest.approx(1 / 3 if heard else 1 / 6, abs=0.06)
    for heard in (True, False)
    for added in (True, False)
  )


@pytest.mark.parametrize("task", ["overlap", "binary"])
def test_yes_and_no_are_balanced(rows, task):
  count = collections.Counter(record.answer for record in of(rows, task))
  assert set(count) == {"yes", "no"}
  assert count["yes"] / count.total() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
  ("task", "letters"),
  [("presence", 4), ("order", 4), ("count", 3), ("entailment", 3), ("pitch", 2), ("loudness", 2)],
)
def test_the_right_letter_is_uniform(rows, task, letters):
  count = collections.Counter(record.answer[0] for record in of(rows, task))
  assert sorted(count) == list("abcd"[:letters])
  assert all(n / count.total() == pytest.approx(1 / letters, abs=0.08) for n in count.values())


# Clips and files


def test_clips_load_from_the_paths_of_rows(rows):
  clips = pickle.loads(pickle.dumps(scene_audio.SceneClips(RATE, SAMPLES)))
  path = rows[3].filepath1
  expected = scene_audio.render(scene_at(path), RATE, SAMPLES)
  np.testing.assert_array_equal(clips.load(path, np.random.default_rng(0)), expected)


@pytest.mark.parametrize(
  "path",
  [
    "",
    "scenes/train/0/1.flac",
    "scenes/dev/0/1.wav",
    "scenes/train/0/01.wav",
    "scenes/train/0/-1.wav",
    "/scenes/train/0/1.wav",
    "scenes/train/0/1.wav\n",
    "scenes/train/4294967296/1.wav",
    "scenes/train/٣/1.wav",
  ],
)
def test_other_paths_are_refused(path):
  with pytest.raises(ValueError, match=r"names no scene|dev|seed"):
    scene_audio.SceneClips(RATE, SAMPLES).load(path)


def test_files_hold_the_same_rows_and_samples(tmp_path, capsys):
  arguments = "--rows=12 --split=val --seed=4 --mix=difference=1,order=3 --warmup_rows=4"
  arguments += f" --warmup_mix=caption=1 --output={tmp_path}"
  assert scenes.main(["scenes", *arguments.split()]) == 0
  assert "val.json: 12 rows" in capsys.readouterr().out
  mix, first = {"difference": 1.0, "order": 3.0}, {"caption": 1.0}
  expected = scenes.Scenes("val", 4, 12, mix, warmup_mix=first, warmup_rows=4)
  assert list(records.read(tmp_path / "val.json")) == list(expected)
  clips = scene_audio.SceneClips(RATE, SAMPLES)
  for record in expected:
    for path in filter(None, (record.filepath1, record.filepath2)):
      wav, rate = soundfile.read(tmp_path / path, dtype="float32")
      assert rate == RATE
      np.testing.assert_array_equal(wav, clips.load(path))


def test_an_interrupted_run_leaves_no_table(tmp_path, monkeypatch):
  def fail(*_, **__):
    raise OSError("no space left")

  rows, clips = scenes.Scenes("test", 0, 3, scenes.MIX), scene_audio.SceneClips(RATE, SAMPLES)
  table = scenes.write(rows, clips, tmp_path)
  assert len(json.loads(table.read_text())) == 3
  monkeypatch.setattr(soundfile, "write", fail)
  with pytest.raises(OSError, match="no space"):
    scenes.write(rows, clips, tmp_path)
  assert not list(tmp_path.glob("*.json*"))


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--rows=0", "--rows=0: 0 is not a positive integer"),
    ("--seed=-1", "seed -1"),
    ("--mix=bark=1", "unknown task 'bark'"),
    ("--mix=caption", "--mix"),
    ("--sample_rate=8000", "16000"),
    ("--clip_seconds=3.9", "less than 4.0 s"),
  ],
)
def test_the_command_refuses_before_it_writes(tmp_path, capsys, argument, message):
  assert scenes.main(["scenes", f"--output={tmp_path / 'new'}", "--rows=2", argument]) == 1
  assert message in capsys.readouterr().err
  assert not (tmp_path / "new").exists()


# Words


def test_the_vocabulary_is_closed_and_decoding_gives_the_text_back(rows, tokenizer):
  used = set()
  for text in {text for r in rows for text in (r.input, r.answer, r.caption1)}:
    ids = tokenizer.encode(text).ids
    assert min(ids) > 2, text
    assert tokenizer.decode(ids) == text
    used.update(ids)
  assert used == set(range(3, tokenizer.get_vocab_size()))  # and holds nothing else


def test_questions_and_answers_are_short(rows, tokenizer):
  assert max(len(tokenizer.encode(record.input).ids) for record in rows) == 22
  assert max(len(tokenizer.encode(record.answer).ids) for record in rows) == 18


def test_the_tokenizer(tokenizer, tmp_path):
  assert [tokenizer.id_to_token(i) for i in range(3)] == ["<|endoftext|>", "<pad>", "<unk>"]
  assert tokenizer.encode("a beep? b) siren").tokens == ["a", "beep", "?", "b)", "siren"]
  assert tokenizer.encode("Is there a MOO\u00e9 (now)?").tokens[:4] == ["is", "there", "a", "<unk>"]
  assert tokenizer.encode("").ids == []
  ids = tokenizer.encode("a) low <|endoftext|>").ids
  assert ids[-1] == 0 and tokenizer.decode(ids) == "a) low"
  words = [tokenizer.id_to_token(i) for i in range(3, tokenizer.get_vocab_size())]
  assert words == sorted(words)
  assert tokenizer.to_str() == scenes.build_tokenizer().to_str()
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  assert type(tokenizer).from_file(str(tmp_path / "tokenizer.json")).to_str() == tokenizer.to_str()
