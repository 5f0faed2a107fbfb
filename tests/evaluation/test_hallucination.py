"""Words of an answer against detected events: what is looked at, and what is flagged."""

import numpy as np
import pytest

from mellow_jax.data import audioset
from mellow_jax.evaluation.inspection import hallucination


def peaks(**heard):
  """Every event at 0.01 but those named; "_" stands for a space."""
  found = np.full(len(audioset.CLASSES), 0.01, np.float32)
  for name, peak in heard.items():
    found[audioset.CLASSES.index(name.replace("_", " "))] = peak
  return found


def flagged(answer, **heard):
  return [word.word for word in hallucination.check(answer, peaks(**heard)) if not word.supported]


def test_audioset_has_527_names_each_once():
  assert len(audioset.CLASSES) == len(set(audioset.CLASSES)) == 527
  # Those whose numbers are best known.
  assert [audioset.CLASSES[i] for i in (0, 74, 137, 526)] == [
    *("Speech", "Dog", "Music", "Field recording"),
  ]


def test_the_names_are_those_that_are_published(reference_data):
  lines = (reference_data / "audioset/class_labels_indices.csv").read_text().splitlines()[1:]
  assert [line.split(",", 2)[2].strip('"') for line in lines] == list(audioset.CLASSES)


@pytest.mark.parametrize(
  "alike",
  [
    "bark barks barking barked",
    "clap claps clapping clapped",
    "hum hums humming",
    "idle idles idling",
    "rev revs revving",
    "purr purring",
    "cry cries crying cried",
    "buzz buzzes buzzing",
    "hiss hisses hissing",
    "vibrate vibrates vibrating vibration vibrations",
    "whistle whistles whistling",
    "woman women",
    "mouse mice",
    "speak speaks spoke speaking talks talking speech",
    "ring rings ringing rang",
  ],
)
def test_forms_of_a_word_are_one(alike):
  assert len({hallucination.stem(word) for word in alike.split()}) == 1


@pytest.mark.parametrize(
  "different", ["rat rate", "car care", "tap tape", "bee be", "hiss his", "lion lie", "ring range"]
)
def test_words_that_look_alike_are_not_one(different):
  assert len({hallucination.stem(word) for word in different.split()}) == 2


def test_a_word_is_supported_by_any_class_that_holds_it():
  found = hallucination.check("The dogs are barking", peaks(Dog=0.6, Bark=0.05))
  assert [(word.word, word.event, word.supported) for word in found] == [
    ("dogs", "Dog", True),
    ("barking", "Bark", False),
  ]
  assert found[0].peak == pytest.approx(0.6)
  for peak, supported in ((0.5, True), (0.499, False)):  # the threshold itself is enough
    (horn,) = hallucination.check("a horn", peaks(Train_horn=peak), threshold=0.5)
    assert horn.supported is supported


def test_only_words_that_name_sounds_are_looked_at():
  assert flagged("b) In a large room, the small metal door is open; one could wait 30 s.") == [
    "door"
  ]
  assert not hallucination.check("yes", peaks())
  assert not hallucination.check("", peaks())


def test_each_word_is_said_once_in_the_form_in_which_it_comes_first():
  assert flagged("Rain. Then raining, RAIN and a siren") == ["rain", "siren"]


def test_what_is_no_sound_is_a_word_of_the_names():
  names = {hallucination.stem(w) for name in audioset.CLASSES for w in hallucination.words(name)}
  assert not {hallucination.stem(word) for word in hallucination.NOT_SOUNDS} - names


def test_classes_without_names_cannot_be_checked():
  assert not hallucination.applies(64)
  with pytest.raises(ValueError, match="64 classes have no names: AudioSet has 527"):
    hallucination.check("a dog", np.zeros(64, np.float32))


def test_words_that_name_no_sound_in_a_description_are_left_alone():
  said = "The clip has a race car at an emergency; a tool, two key differences and a church."
  assert flagged(said) == ["car"]
