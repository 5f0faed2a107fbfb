"""Right and wrong by each rule: the published ones as they are, ours as they should be."""

import json

import numpy as np
import pytest
from sklearn import metrics

from mellow_jax.data import choices
from mellow_jax.evaluation.benchmarks.items import Item
from mellow_jax.evaluation.metrics import entailment, mmau, multiple_choice, yes_no


@pytest.fixture(scope="module")
def mmau_rows(reference_data):
  return json.loads((reference_data / "meta/mmau/mmau-test-mini.json").read_text())


def letter(row):
  return choices.LETTERS[row["choices"].index(row["answer"])]


def test_mmau_scores_the_right_answers_by_how_they_are_written(mmau_rows):
  def accuracy(write):
    said = [mmau.is_right(write(row), row["answer"], row["choices"]) for row in mmau_rows]
    return round(100 * sum(said) / len(said), 1)

  def lettered(row):
    return f"{letter(row)}) {row['answer']}"

  assert accuracy(lambda row: row["answer"]) == 100.0
  assert accuracy(lettered) == 96.7
  assert accuracy(lambda row: choices.split_letter(lettered(row))[1]) == 100.0
  assert accuracy(letter) == 0.2
  assert accuracy(lambda row: f"the answer is {row['answer']}.") == 90.7
  assert accuracy(lambda row: " ".join(row["choices"])) == 0.1
  assert accuracy(lambda row: "") == 0.0


def test_mmau_accepts_some_options_in_the_wrong_place(mmau_rows):
  other = [
    [o for i, o in enumerate(row["choices"]) if i != row["choices"].index(row["answer"])]
    for row in mmau_rows
  ]
  accepted = [
    [o for o in wrong if mmau.is_right(o, row["answer"], row["choices"])]
    for row, wrong in zip(mmau_rows, other, strict=True)
  ]
  assert sum(map(bool, accepted)) == 24
  # Of most of them the right text is offered twice; of the others a wrong text has the same words.
  texts = [row["answer"] for row in mmau_rows]
  assert sum(any(o != t for o in a) for a, t in zip(accepted, texts, strict=True)) == 9


def test_always_a_is_right_by_letter_in_two_of_five(mmau_rows):
  assert sum(letter(row) == "a" for row in mmau_rows) == 395
  assert sum(multiple_choice.letter_reference("what?") == letter(row) for row in mmau_rows) == 395


OFFERED = ["cat", "dog", "dog barking", "rain"]


@pytest.mark.parametrize(
  ("text", "reference", "strict", "named", "reason"),
  [
    ("b) dog", "b", 1, 1, None),
    ("B) dog", "b", 1, 1, None),
    ("b", "b", 1, None, None),
    ("(b) dog", "a", 1, 1, "extra characters"),
    (" b) dog", "a", 1, 1, "extra characters"),
    ("b. dog", "a", 1, 1, "extra characters"),
    ("the answer is b) dog", "a", 1, 1, "extra characters"),
    ("dog barking", "a", None, 2, None),
    ("dog barking!", "a", None, 2, "extra characters"),
    ("b) rain", "b", 1, 3, "letter and text differ"),
    ("e) x", "a", None, None, "letter not offered"),
    ("", "a", None, None, "empty"),
    ("?!", "a", None, None, "empty"),
    ("a cat and rain", "a", None, None, "several options"),
    ("a) cat b) dog", "a", None, None, "several options"),
    ("a guitar is played", "a", None, None, "no option named"),
    ("Yes.", "a", None, None, "yes or no"),
    ("catalogue", "a", None, None, "no option named"),
  ],
)
def test_the_option_an_answer_picks(text, reference, strict, named, reason):
  assert multiple_choice.letter_reference(text) == reference
  assert choices.picked_letter(text, OFFERED) == strict
  assert choices.picked_text(text, OFFERED) == named
  assert multiple_choice.failure(text, OFFERED) == reason


def test_options_of_symbols_and_of_one_character():
  chords = ["A", "C#", "D", "C"]
  assert choices.picked_text("b) C#", chords) == 1 and choices.picked_text("C", chords) == 3
  assert choices.picked_text("a loud chord", chords) is None  # the article is no chord
  assert multiple_choice.failure("guitar", ["light_switch", "door_bell"]) == "unusual symbols"


def test_the_reference_compares_a_whole_answer_without_a_bracket():
  assert (
    multiple_choice.letter_whole("B) dog") == "b" and multiple_choice.letter_whole("Dog") == "dog"
  )


def test_log_likelihood_of_options_in_sum_and_per_token():
  found = [(-2.0, 1), (-3.0, 3)]
  assert multiple_choice.option_loglik(found, per_token=False) == 0
  assert multiple_choice.option_loglik(found, per_token=True) == 1


def test_no_is_in_another_but_is_not_its_first_word():
  assert yes_no.contains("another one", "no") and choices.said_yes_or_no("another one") is None
  assert yes_no.contains("I do not know", "no") and choices.said_yes_or_no("No, it is.") == "no"
  assert choices.said_yes_or_no("") is None and choices.said_yes_or_no("**Yes**") == "yes"


def test_annotators_of_a_question_are_found_together():
  asked = [("is it?", "yes"), ("was it?", "no"), ("is it?", "no"), ("is it?", "yes")]
  items = [
    Item(id=str(i), kind="binary", audio1="x.wav", question=q, answer=a)
    for i, (q, a) in enumerate(asked)
  ]
  assert list(yes_no.votes(items).values()) == [[0, 2, 3], [1]]
  assert yes_no.majority(["yes", "no", "yes"]) == "yes"
  assert yes_no.majority(["yes", "no"]) is None


VERDICTS = ["It is definitely true", "It is definitely false", "It is plausible"]


def test_entailment_goes_by_the_options_text_wherever_it_stands():
  assert entailment.classify("b) It is plausible", [VERDICTS[0], VERDICTS[2], VERDICTS[1]]) == (
    "neutral"
  )
  assert entailment.classify("b", VERDICTS) == "contradiction"
  assert entailment.classify("it is definitely true.", VERDICTS) == "entailment"
  assert entailment.classify("maybe", VERDICTS) is None
  # The reference calls the second option neutral, where it says "definitely false".
  assert entailment.SWAPPED["b"] == "neutral"


@pytest.mark.parametrize("stray", [False, True])
def test_macro_figures_are_those_of_scikit_learn(stray):
  rng = np.random.default_rng(3)
  expected = rng.choice(entailment.JUDGED, 200).tolist()
  given = rng.choice([*entailment.JUDGED, "undetermined"], 200).tolist()
  classes = entailment.classes_of(expected, given, stray=stray)
  assert len(classes) == 3 + stray
  found = entailment.macro(entailment.tally(expected, given, classes).sum(axis=0))
  want = metrics.precision_recall_fscore_support(
    expected, given, labels=classes, average="macro", zero_division=0
  )
  np.testing.assert_allclose(found, want[:3], rtol=1e-12)


def test_a_stray_letter_lowers_the_references_recall_by_a_quarter():
  expected = ["entailment", "neutral", "contradiction", "contradiction"]
  given = ["entailment", "neutral", "contradiction", "undetermined"]
  recall = {}
  for stray in (False, True):
    classes = entailment.classes_of(expected, given, stray=stray)
    sums = entailment.tally(expected, given, classes).sum(axis=0)
    recall[stray] = entailment.macro(sums)[1]
  assert recall[False] == pytest.approx(5 / 6) and recall[True] == pytest.approx(0.625)
