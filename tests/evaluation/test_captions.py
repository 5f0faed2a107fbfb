"""Caption metrics: the published code's figures on the same words, and its known values."""

import csv
import random

import numpy as np
import pytest

from mellow_jax.evaluation.benchmarks.items import Item, Prediction
from mellow_jax.evaluation.metrics import captions, coco_java, free_text

REFERENCES = [
  [
    "a man talks nearby as water pours out of a faucet",
    "water runs while a man speaks",
  ],
  ["a dog barks while birds chirp in the background"],
  ["a car engine idles then revs loudly"],
]
GIVEN = [
  "a man is speaking while water is running",
  "birds chirping and a dog barking",
  "an engine is idling and then revving",
]


def split(given, references, words=captions.words):
  return [words(text) for text in given], [[words(o) for o in others] for others in references]


@pytest.fixture(scope="module")
def audiocaps(reference_data):
  """Caption 1 of each test clip, and captions 2 to 5."""
  clips = {}
  with (reference_data / "meta/audiocaps/test.csv").open(newline="") as file:
    for row in csv.DictReader(file):
      clips.setdefault(row["youtube_id"], []).append(row["caption"])
  assert len(clips) == 975 and all(len(c) == 5 for c in clips.values())
  return [c[0] for c in clips.values()], [c[1:] for c in clips.values()]


def core(given, references):
  counts = captions.bleu_counts(given, references)
  return {
    "BLEU": captions.bleu(counts.sum(axis=0)),
    "ROUGE-L": captions.rouge_l(given, references),
    "CIDEr-D": captions.cider_d(given, references),
  }


def test_three_captions_score_as_the_published_code_has_them():
  found = core(*split(GIVEN, REFERENCES))
  want = [0.408642, 0.208070, 1.4014e-06, 3.8454e-09]
  np.testing.assert_allclose(found["BLEU"], want, atol=1e-6)
  np.testing.assert_allclose(found["BLEU"][2:], want[2:], rtol=1e-4)
  assert found["ROUGE-L"].mean() == pytest.approx(0.297445, abs=1e-6)
  assert found["CIDEr-D"].mean() == pytest.approx(0.961338, abs=1e-6)


def test_a_persons_caption_against_four_others(audiocaps):
  found = core(*split(*audiocaps))
  np.testing.assert_allclose(found["BLEU"], [0.6390, 0.4773, 0.3640, 0.2833], atol=5e-5)
  assert found["CIDEr-D"].mean() == pytest.approx(0.8962, abs=5e-5)
  assert found["ROUGE-L"].mean() == pytest.approx(0.4914, abs=5e-5)


def test_one_caption_and_one_without_words():
  given, references = split(["a dog", "..."], [["a dog"], ["rain", "water"]])
  assert captions.cider_d(given[:1], references[:1]) == 0.0  # no word is rarer than another
  found = core(given, references)
  assert found["CIDEr-D"][1] == found["ROUGE-L"][1] == 0.0
  assert np.all(captions.bleu(captions.bleu_counts([()], [[("rain",)]]).sum(axis=0)) == 0)


def test_every_text_scores_as_the_published_code_has_it():
  """Random words, empty texts and repeated ones among them, text by text."""
  bleu = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
  cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
  rouge = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
  rng = random.Random(5)

  words = ("a", "dog", "cat", "rain", "barks", "falls", "and", "loud")

  def text(least):
    return tuple(rng.choices(words, k=rng.randint(least, 9)))

  given = [text(0) for _ in range(150)]
  references = [[text(1) for _ in range(rng.randint(1, 5))] for _ in given]
  res = {i: [" ".join(one)] for i, one in enumerate(given)}
  gts = {i: [" ".join(one) for one in others] for i, others in enumerate(references)}
  counts = captions.bleu_counts(given, references)
  want, each = bleu.compute_score(gts, res, verbose=0)
  np.testing.assert_allclose(captions.bleu(counts.sum(axis=0)), want, rtol=0, atol=1e-6)
  np.testing.assert_allclose(captions.bleu(counts), np.transpose(each), rtol=0, atol=1e-6)
  for metric, theirs in ((captions.rouge_l, rouge), (captions.cider_d, cider)):
    want, each = theirs.compute_score(gts, res)
    found = metric(given, references)
    np.testing.assert_allclose(found, each, rtol=0, atol=1e-6)
    assert found.mean() == pytest.approx(want, abs=1e-6)


def test_the_leading_words_of_a_trained_caption_do_not_count():
  item = Item(id="1", kind="text", audio1="a.wav", question="?", references=("rain falls",))
  said = Prediction(item=item, benchmark="clotho", prompt="?", prediction="The audio 1 is rain")
  given, references = free_text.regex_words([said])
  assert given == [("rain",)] and references == [[("rain", "falls")]]


def test_texts_dealt_to_other_items_never_keep_their_own():
  items = [
    Item(id=str(i), kind="text", audio1="a.wav", question="?", references=("x",)) for i in range(9)
  ]
  own = [Prediction(item=i, benchmark="b", prompt="?", prediction=i.id) for i in items]
  moved = free_text.dealt(own, seed=1)
  assert [p.item for p in moved] == items and sorted(p.prediction for p in moved) == [
    i.id for i in items
  ]
  assert all(p.prediction != p.item.id for p in moved)


@pytest.mark.slow  # METEOR starts in ten seconds and takes thirty for 975 captions
def test_a_persons_caption_by_the_programs_of_java(audiocaps):
  pytest.importorskip("pycocoevalcap.bleu.bleu")
  settings = coco_java.Settings(heap="2G", seconds=300.0)
  given = coco_java.ptb_words(audiocaps[0], settings)
  flat = iter(coco_java.ptb_words([text for others in audiocaps[1] for text in others], settings))
  references = [[next(flat) for _ in others] for others in audiocaps[1]]
  found = core(given, references)
  np.testing.assert_allclose(found["BLEU"], [0.6391, 0.4775, 0.3642, 0.2835], atol=5e-5)
  assert found["CIDEr-D"].mean() == pytest.approx(0.8965, abs=5e-5)
  assert found["ROUGE-L"].mean() == pytest.approx(0.4914, abs=5e-5)
  meteor = coco_java.meteor(given, references, settings)
  assert meteor.corpus == pytest.approx(0.2852, abs=5e-5)
  toy = coco_java.meteor(*split(GIVEN, REFERENCES), settings)
  assert toy.corpus == pytest.approx(0.286427, abs=1e-6)
  np.testing.assert_allclose(toy.texts, [0.402391, 0.265913, 0.203944], atol=1e-6)
