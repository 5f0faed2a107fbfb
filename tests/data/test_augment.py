"""Augmentation changes what is heard and how it is asked, never what is right."""

import re

import numpy as np
import pytest

from mellow_jax.data import augment
from mellow_jax.data.records import Record

QUESTION = "which sound is heard? a) rain b) a dog barks c) wind d) rain and wind"
CAPTIONS = ["rain", "a dog barks", "wind", "rain and wind", "a bell", "steps", "music"]


def record(question, answer):
  return Record("t", "a.wav", "", "", "", question, answer, "s", 0)


def options(text):
  return dict(re.findall(r"([a-h])\) (.+?)(?= [a-h]\) |$)", text))


@pytest.mark.parametrize("size", [1, 2, 999, 16_000])
@pytest.mark.parametrize("kind", ["silence", "full scale", "square", "quiet", "click"])
def test_distorted_clips_stay_finite_and_in_range(kind, size):
  rng = np.random.default_rng(size)
  wav = {
    "silence": np.zeros(size),
    "full scale": rng.uniform(-1, 1, size),
    "square": np.sign(rng.standard_normal(size)),
    "quiet": 1e-20 * rng.standard_normal(size),
    "click": np.eye(1, size)[0],
  }[kind].astype(np.float32)
  original = wav.copy()
  for _ in range(20):
    found = augment.distort(wav, rng)
    assert (found.dtype, found.shape) == (np.float32, wav.shape)
    assert np.isfinite(found).all() and np.abs(found).max() <= 1
    both = augment.mix(found, augment.distort(wav, rng), rng)
    assert (both.dtype, both.shape) == (np.float32, wav.shape)
    assert np.isfinite(both).all() and np.abs(both).max() <= 1
  assert np.array_equal(wav, original)


def test_distortion_is_drawn_from_the_generator_alone():
  wav = np.random.default_rng(0).uniform(-0.1, 0.1, 4000).astype(np.float32)
  one, same, other = (augment.distort(wav, np.random.default_rng(seed)) for seed in (1, 1, 2))
  assert np.array_equal(one, same) and not np.allclose(one, other)
  # Up to 10 dB of gain and 6 dB of equalisation.
  assert abs(20 * np.log10(np.std(one) / np.std(wav))) < 16


def test_reordered_options_keep_the_truth():
  rng, letters = np.random.default_rng(0), []
  for _ in range(200):
    row = augment.redraw_options(record(QUESTION, "b) a dog barks"), [], rng)
    assert row.input.startswith("which sound is heard? a) ")
    found = options(row.input)
    assert sorted(found) == list("abcd")
    assert sorted(found.values()) == sorted(options(QUESTION).values())
    letter, text = row.answer.split(") ")
    assert found[letter] == text == "a dog barks"
    letters.append(letter)
  assert min(letters.count(letter) for letter in "abcd") > 25  # each about as often


def test_wrong_captions_are_drawn_anew():
  rng, seen = np.random.default_rng(0), set()
  others = [caption for caption in CAPTIONS if caption != "wind"]
  for _ in range(100):
    row = augment.redraw_options(record(QUESTION, "c) wind"), others, rng)
    found = options(row.input)
    letter, text = row.answer.split(") ")
    assert found[letter] == text == "wind"
    assert len(set(found.values())) == 4
    seen |= set(found.values())
  assert seen == set(CAPTIONS)


@pytest.mark.parametrize(
  ("question", "answer"),
  [
    ("is it raining?", "yes"),
    ("caption the audio", "a) rain"),  # nothing to choose from
    ("what? a) rain", "a) rain"),
    (QUESTION, "rain"),  # no letter
    (QUESTION, "e) rain"),
    (QUESTION, "a) wind"),  # letter and text disagree: which is right is not ours to say
    (QUESTION, "b) a dog"),
    ("what? a) rain a) wind", "a) rain"),  # a letter twice
  ],
)
def test_rows_without_clear_options_stay_as_they_are(question, answer):
  row = record(question, answer)
  for seed in range(5):
    assert augment.redraw_options(row, CAPTIONS, np.random.default_rng(seed)) is row
