"""Lettered options are read as datasets, models and language models write them."""

import pytest
from timing import cpu_time

from mellow_jax.data import choices


@pytest.mark.parametrize(
  ("text", "stem", "options"),
  [
    ("what? a) dog b) cat", "what? ", ("dog", "cat")),
    ("what? A) Dog  B)  Cat.\n", "what? ", ("Dog", "Cat.")),
    ("what?\na)dog\nb)cat", "what?\n", ("dog", "cat")),
    ("is it a) or b)? a) dog b) cat", "is it a) or b)? ", ("dog", "cat")),
    ("a) dog b) dog c) ", "", ("dog", "dog", "")),
    ("what (a) dog (b) cat", None, ()),
    ("what? a) dog", None, ()),
    ("what? b) dog c) cat", None, ()),
    ("what? a) dog c) cat", None, ()),
    ("a. dog b. cat", None, ()),
    ("", None, ()),
  ],
)
def test_the_options_of_a_question(text, stem, options):
  assert choices.split_options(text) == (text if stem is None else stem, options)


def test_every_letter_can_be_an_option():
  options = tuple(f"sound {i}" for i in range(26))
  question = " ".join(["which?", *choices.lettered(options)])
  assert choices.split_options(question) == ("which? ", options)
  assert choices.lettered(["dog", "cat"]) == ["a) dog", "b) cat"]


@pytest.mark.parametrize(
  ("answer", "place", "agreed"),
  [
    ("b) cat", 1, 1),
    ("B) Cat.", 1, 1),
    ("(b) cat", 1, 1),
    ("b)", 1, 1),
    ("b", 1, 1),
    ("Cat", 1, 1),
    ("b) dog", 1, None),
    ("d) dog", None, None),
    ("d", None, None),
    ("7", None, None),
    ("fox", None, None),
    ("", None, None),
    ("the cat", None, None),
  ],
)
def test_the_option_that_a_datasets_answer_names(answer, place, agreed):
  options = ("dog", "cat", "a) bird")
  assert choices.choose(options, answer) == place
  assert choices.choose(options, answer, agree=True) == agreed


def test_a_text_that_begins_with_a_letter_not_offered_is_compared_whole():
  assert choices.choose(("f) x", "y"), "f) x") == 0
  assert choices.choose(("dog", "dog"), "dog") == 0


@pytest.mark.parametrize(
  ("answer", "letter", "rest"),
  [
    ("b) cat", "b", "cat"),
    (" (B)cat", "b", "cat"),
    ("b. cat", "", "b. cat"),
    ("bb) cat", "", "bb) cat"),
    ("cat b) x", "", "cat b) x"),
  ],
)
def test_the_letter_before_an_answer(answer, letter, rest):
  assert choices.split_letter(answer) == (letter, rest)


@pytest.mark.parametrize(
  ("answer", "given"),
  [
    ("b) cat", {1}),
    ("the answer is (B) cat", {1}),
    ("a) or b)", {0, 1}),
    ("B. cat", {1}),
    ("**b**", {1}),
    ("b", {1}),
    ("b: cat", {1}),
    ("a cat", set()),
    ("e.g. a cat", set()),
    ("cat", set()),
    ("e) dog", {4}),
  ],
)
def test_the_letters_that_a_models_answer_gives(answer, given):
  assert choices.mentioned(answer, ("dog", "cat")).letters == given


def test_letters_of_options_are_no_words():
  assert choices.without_letters("what? a) a dog b)  c") == "what?  a dog  c"


@pytest.mark.parametrize(
  ("text", "name"),
  [
    ("It is definitely true", "entailment"),
    (" it is  definitely FALSE.", "contradiction"),
    ("it is plausible", "neutral"),
    ("I cannot determine", "undetermined"),
    ("a) it is plausible", None),
    ("dog", None),
  ],
)
def test_verdicts(text, name):
  assert choices.verdict(text) == name


@pytest.mark.parametrize(
  ("answer", "whole", "first"),
  [
    ("Yes.", "yes", "yes"),
    (" no ", "no", "no"),
    ("**Yes**, a dog", None, "yes"),
    ("another", None, None),
    ("nobody", None, None),
    ("it is no dog", None, None),
    ("", None, None),
  ],
)
def test_yes_and_no(answer, whole, first):
  assert choices.yes_or_no(answer) == whole
  assert choices.said_yes_or_no(answer) == first


def test_the_options_of_a_harness_are_lines():
  prompt = "What is it?\nA cat?\n(A) dog\nB. cat \n C) bird\nAnswer with a letter."
  assert choices.split_lines(prompt) == ("What is it?\nA cat?", ("dog", "cat", "bird"))
  assert choices.split_lines(" What?\nB. dog\nC. cat") == ("What?\nB. dog\nC. cat", ())


@pytest.mark.parametrize(
  ("line", "found"),
  [
    ("A) dog", ("a", "dog")),
    ("(b) dog", ("b", "dog")),
    ("[C] dog", ("c", "dog")),
    ("e. dog", ("e", "dog")),
    ("D: dog", ("d", "dog")),
    ("a)dog", ("a", "dog")),
    ("a.m. or p.m.", None),
    ("I) dog", None),
    ("dog", None),
  ],
)
def test_the_label_of_an_option_in_the_usual_styles(line, found):
  assert choices.split_label(line) == found
  assert choices.has_label(line) == bool(found)


def test_a_label_in_brackets_is_found_within_a_text():
  assert choices.has_label("both a) and b)") and choices.has_label("see (C)")
  assert not choices.has_label("neither A nor B") and not choices.has_label("60 dB (loud)")


@pytest.mark.parametrize(
  ("text", "found"),
  [
    ("What? A. dog B. cat", ("What?", ["dog", "cat"])),
    ("What? (a) dog (b) cat", ("What?", ["dog", "cat"])),
    ("a) w b) x c) y", ("", ["w", "x", "y"])),
    ("What is it?", ("What is it?", [])),
  ],
)
def test_options_of_one_style_on_one_line(text, found):
  assert choices.split_styled(text) == found


@pytest.mark.parametrize(
  "text", ["What? A: dog B: cat D: fox", "a) dog (b) cat", "a) dog b) both a) and b)", "b) dog"]
)
def test_options_out_of_order_are_refused(text):
  with pytest.raises(ValueError, match="out of order"):
    choices.split_styled(text)


@pytest.mark.parametrize(
  ("answer", "place"),
  [
    ("A: no, B: yes, C: no", 1),
    ("A. False\nB. True\nC. False", 1),
    ("A ✗ B ✓ C ✗", 1),
    ("dog: no\ncat: yes\nrain: no", 1),
    ("A: yes, B: yes, C: no", None),
    ("A: no, B: no, C: no", None),
    ("A: yes, A: no, B: no", None),
    ("B) cat", 1),
  ],
)
def test_options_that_are_judged_one_by_one(answer, place):
  assert choices.picked(answer, ["dog", "cat", "rain"]) == place


@pytest.mark.parametrize("options", [["yes", "no"], ["true", "false", "wrong"]])
def test_verdicts_that_are_options_judge_none(options):
  assert choices.picked("A. True", ["true", "false"]) == 0
  assert choices.picked(f"B) {options[1]}", options) == 1


@pytest.mark.parametrize(
  "answer",
  [
    "B\n\nHuman: which sound? A) dog",
    "B<|im_end|>\n<|im_start|>user\nA",
    "B) cat User: and now? A: dog",
    "B<|eot_id|><|start_header_id|>user<|end_header_id|>A",
  ],
)
def test_an_answer_ends_before_the_next_turn(answer):
  assert choices.picked(answer, ["dog", "cat", "rain"]) == 1


@pytest.mark.parametrize("answer", ["at least 3", "more than 3", "up to 3", "fewer than 3"])
def test_a_bound_is_no_number(answer):
  assert choices.picked(answer, ["1", "2", "3"]) is None


@pytest.mark.parametrize(
  ("answer", "said"),
  [
    ("yes no", None),
    ("yes, no", None),
    ("no, yes", None),
    ("no doubt, yes", None),
    ("a) yes", "yes"),
    ("(B) no", "no"),
    ("no, no dog is heard", "no"),
    ("yup", "yes"),
  ],
)
def test_both_words_are_neither(answer, said):
  assert choices.said_yes_or_no(answer) == said


@pytest.mark.parametrize(
  ("options", "texts"),
  [
    (["A. dog", "B. cat"], ("dog", "cat")),
    (["(a) dog", "(b) cat"], ("dog", "cat")),
    (["A. dog", "cat"], ("A. dog", "cat")),
    (["B. dog", "A. cat"], ("B. dog", "A. cat")),
    (["C", "D"], ("C", "D")),
  ],
)
def test_options_that_bring_their_labels(options, texts):
  assert choices.unlabelled(options) == texts


@pytest.mark.parametrize("text", ["A is ", "dog ", "a) ", "not B ", "the answer is ", "maybe "])
def test_an_answer_that_repeats_itself_is_read_in_a_second(text):
  with cpu_time() as taken:
    choices.picked(f"B) cat {text * 5000}", ["dog", "cat", "rain"])
  assert taken.seconds < 1.0


@pytest.mark.parametrize(
  ("answers", "options", "found"),
  [
    # By option, whatever the style; what cannot be read has no vote.
    (["cat", "b) dog", "dog", "perhaps", "B."], ["cat", "dog"], (1, 3)),
    (["a tie: cat or dog", "dog", "cat", "it is a cat", "b)"], ["cat", "dog"], (1, 2)),  # a tie
    (["a)", "c)", "b)"], ["dog", "rain", "dog"], (0, 2)),  # an option that is offered twice
    (["no bell", "yes", "maybe", "yes there is"], [], (1, 2)),
    (["a dog barks", "rain falls"], [], (0, 0)),
    (["perhaps", "none"], ["cat", "dog"], (0, 0)),
  ],
)
def test_answers_vote(answers, options, found):
  assert choices.vote(answers, options) == found
