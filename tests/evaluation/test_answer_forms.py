"""Answers as other models write them: read where they are plain, and never guessed at."""

import json
import unicodedata
from pathlib import Path

import pytest

from mellow_jax.data import choices

WIDE = {ord(sign): ord(sign) + 0xFEE0 for sign in map(chr, range(ord("!"), ord("~") + 1))}


def listed(options):
  return " ".join(
    f"({letter.upper()}) {option}" for letter, option in zip(choices.LETTERS, options, strict=False)
  )


# Form to (letter, text, options) -> the answer; the letter is an upper-case one.
FORMS = {
  "text": lambda b, text, options: text,
  "b) text": lambda b, text, options: f"{b.lower()}) {text}",
  "(B) text": lambda b, text, options: f"({b}) {text}",
  "B. text": lambda b, text, options: f"{b}. {text}",
  "Answer: B": lambda b, text, options: f"Answer: {b}",
  "Answer: text": lambda b, text, options: f"Answer: {text}",
  "A: B": lambda b, text, options: f"A: {b}",
  "The answer is B.": lambda b, text, options: f"The answer is {b}.",
  "The correct answer is text.": lambda b, text, options: f"The correct answer is {text}.",
  "Option B": lambda b, text, options: f"Option {b}",
  "answer tags": lambda b, text, options: f"<think>Not (C).</think><answer>{b}</answer>",
  "boxed": lambda b, text, options: rf"So it is $\boxed{{\text{{{b}}}}}$.",
  "**B**": lambda b, text, options: f"**{b}**",
  "options and then the answer": lambda b, text, options: f"{listed(options)} Answer: ({b})",
  "options, then a line": lambda b, text, options: f"{listed(options)}\n\n{b}) {text}",
  "full-width letters": lambda b, text, options: f"{b}）{text}".translate(WIDE),
  "decomposed accents": lambda b, text, options: unicodedata.normalize("NFD", text),
  "I choose B": lambda b, text, options: f"I choose {b}.",
  "B is the answer": lambda b, text, options: f"{b} is the correct answer.",
  "JSON": lambda b, text, options: json.dumps({"answer": b}),
  "a chain of thought": lambda b, text, options: (
    f"First, there is no speech. Option A may fit.\n\n**Final answer:** {b}) {text}\n\nThe rest is."
  ),
}


@pytest.fixture(scope="module")
def mmau_rows(reference_data):
  return json.loads((reference_data / "meta/mmau/mmau-test-mini.json").read_text())


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_mmaus_right_answers_are_read_in_every_usual_form(mmau_rows, form, every):
  """Unread are only options that are single letters, "C", where another's letter is the same."""
  right = 0
  for row in mmau_rows[::every]:
    options, answer = row["choices"], row["answer"]
    letter = choices.LETTERS[options.index(answer)].upper()
    place = choices.picked(FORMS[form](letter, answer, options), options)
    assert place is None or options[place] == answer, FORMS[form](letter, answer, options)
    right += place is not None
  assert right >= 0.995 * 1000 / every - 0.5, right


# Format strings of two letters and their options' texts.
ADVERSARIAL = """
  {a} or {b}|{a} and {b}|{a}, {b}|{a}/{b}|Both ({a}) and ({b})|Answer: {a}, {b}|Answer: {a} or {b}
  The answer is either {a} or {b}.|It is between {a} and {b}.|\\boxed{{{a}, {b}}}
  ({a}) {x} ({b}) {y}|{a}. {x}\n{b}. {y}|{x} or {y}|I hear {x} and {y}.
  {a}, but it could also be {b}
  not {a}|Not ({a})|The answer is not {a}.|It isn't {a}.|It is not {x}.|Definitely not option {a}
  {a} is wrong.|Option {a} is incorrect|({a}) {x} is not correct.|The wrong answer is {a}.
  I don't think it is {a}.|I do not think the answer is {a}.|Anything but {a}.|All except {a}
  Neither {a} nor {b}.|I can rule out {a}.|None of the above.|All of the above
  Maybe {a}|It might be {a}.|It could be {x}.|Perhaps ({a}) {x}?|The answer is possibly {a}.|{a}?
  I'm not sure, but I think it is {a}.|{a}, but I am not sure.|Is it {a}?|If I had to guess, {a}.
  Answer: {a}. I'm not entirely sure, it could also be {b}.|I cannot tell whether it is {a} or {b}.
  I cannot answer this.|<think>The answer is {a}.|The answer is Z.|Speaker B talks to speaker A.
"""


@pytest.mark.parametrize(
  "answer", [one for line in ADVERSARIAL.strip().split("\n  ") for one in line.split("|")]
)
def test_no_option_is_guessed(mmau_rows, answer):
  for row in mmau_rows[::40]:
    options, place = row["choices"], row["choices"].index(row["answer"])
    other = next(i for i in range(len(options)) if options[i] != options[place])
    a, b = (choices.LETTERS[i].upper() for i in (place, other))
    said = answer.format(a=a, b=b, x=options[place], y=options[other])
    assert choices.picked(said, options) is None, said
    assert choices.picked(said.lower(), options) is None, said.lower()


def test_lists_of_options_alone_pick_none(mmau_rows):
  for row in mmau_rows[::40]:
    for said in (listed(row["choices"]), ", ".join(row["choices"]), "\n".join(row["choices"])):
      assert choices.picked(said, row["choices"]) is None


ANIMALS = ("dog", "cat", "rain")


@pytest.mark.parametrize(
  ("answer", "options", "place"),
  [
    ("Answer: B", ANIMALS, 1),
    ("The answer is C.", ANIMALS, 2),
    ("Option A", ANIMALS, 0),
    ("A: B", ANIMALS, 1),
    ("A: dog", ANIMALS, 0),
    ("There are 2", ("1", "2", "3", "4"), 1),
    ("There are two.", ("1", "2", "3", "4"), 1),
    ("It is 21.", ("twenty-one", "two", "one"), 0),
    ("I count 2.5 of them", ("1", "2"), None),
    ("the right one is 2", ("1", "2"), 1),
    ("(A) dog (B) cat (C) rain Answer: (B)", ANIMALS, 1),
    ("\uff22", ANIMALS, 1),
    ("Q: what is it? A: cat", ANIMALS, 1),
    ("At a busy cafe\u0301.", ("In a library", "At a busy caf\u00e9"), 1),
    ("It is not a dog but a cat.", ANIMALS, 1),
    ("A cat, not a dog.", ANIMALS, 1),
    ("(B), not (A)", ANIMALS, 1),
    ("The answer is not A. The answer is B.", ANIMALS, 1),
    ("Answer: A. No, wait. Answer: B.", ANIMALS, 1),
    ("Answer: A. No, wait.", ANIMALS, None),
    ("**B.** The cat meows; the dog is silent.", ANIMALS, 1),
    ("I hear a guitar", ANIMALS, None),
    ("A dog", ANIMALS, 0),
    ("It is definitely true.", tuple(choices.VERDICTS), 0),
    ("The hypothesis is definitely false", tuple(choices.VERDICTS), 1),
    ("Answer: plausible", tuple(choices.VERDICTS), 2),
    ("It is not true", tuple(choices.VERDICTS), None),
    ("I can't determine that.", tuple(choices.VERDICTS), 3),
    ("C", ("C", "G", "D", "E"), None),  # the letter of D, or the chord?
    ("(C)", ("C", "G", "D", "E"), 2),
    ("Answer: no, there is none", ("yes", "no"), 1),
    ("There is no dog", ("yes", "no"), None),
  ],
)
def test_answers_of_other_models(answer, options, place):
  assert choices.picked(answer, options) == place


@pytest.mark.parametrize(
  ("answer", "said"),
  [
    ("Answer: yes", "yes"),
    ("The answer is yes.", "yes"),
    ("A: no", "no"),
    ("<think>yes or no?</think>\nNo", "no"),
    ("<answer>No</answer>", "no"),
    (r"\boxed{yes}", "yes"),
    ("**Yes**, there is a dog.", "yes"),
    ("No, there is no dog.", "no"),
    ("I would say yes.", "yes"),
    ("There is a dog, so the correct answer is: Yes", "yes"),
    ("I can hear a dog, yes.", "yes"),
    ("\uff39\uff25\uff33", "yes"),
    ("yes or no", None),
    ("yes and no", None),
    ("It is not yes", None),
    ("Maybe yes", None),
    ("Yes?", None),
    ("I am not sure. Yes", None),
    ("no idea", None),
    ("There is no dog", None),
    ("I do not know", None),
    ("Answer: yes. Answer: no.", "no"),
  ],
)
def test_yes_and_no_of_other_models(answer, said):
  assert choices.said_yes_or_no(answer) == said


SOUNDS = ("dog", "cat", "rain", "a man speaking")
WRITTEN = json.loads((Path(__file__).parents[1] / "golden/answer_forms.json").read_text())


def test_the_second_of_four_sounds_in_many_words():
  assert [said for said in WRITTEN["second"] if choices.picked(said, SOUNDS) != 1] == []


def test_many_answers_that_pick_no_one_of_four_sounds():
  assert [said for said in WRITTEN["not_one"] if choices.picked(said, SOUNDS) is not None] == []
