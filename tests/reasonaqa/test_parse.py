"""What is read out of completions: all that a reader finds, and nothing that is not there."""

import itertools
import json
import re
from pathlib import Path

import completion_styles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mellow_jax.reasonaqa.llm.parse import parse
from mellow_jax.reasonaqa.llm.qa_pairs import QAPair, Reject

GOLDEN = Path(__file__).parents[1] / "golden/completions.txt"


def written_by_hand():
  """(kind, name, completion, what a reader finds, why the rest is rejected)."""
  for part in GOLDEN.read_text().split("\n=== ")[1:]:
    head, text = part.split("\n", 1)
    kind, name = head.split(" / ")
    text, found = text.split("\n--- finds\n")
    found, reasons = found.split("--- rejects")
    items = [json.loads(line) for line in found.splitlines()]
    yield kind, name, text, [(q, tuple(o), a) for q, o, a in items], reasons.split("\n")[1:]


BY_HAND = list(written_by_hand())
STYLES = list(completion_styles.all_completions())


def split(items):
  questions = [(i.question, i.options, i.answer) for i in items if isinstance(i, QAPair)]
  return questions, [item.reason for item in items if isinstance(item, Reject)]


@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: case[1])
def test_what_was_written_by_hand_is_read_as_a_reader_does(case):
  kind, _, text, found, reasons = case
  questions, rejected = split(parse(text, kind))
  assert questions == found
  assert rejected == [reason for reason in reasons if reason]


def test_of_the_styles_of_models_all_is_right_and_hardly_anything_is_missed():
  cases = [case[:4] for case in BY_HAND] + STYLES
  read = missed = total = 0
  for kind, style, text, found in cases:
    questions, _ = split(parse(text, kind))
    assert [q for q in questions if q in found] == questions, style  # precision 1
    read, total = read + len(questions), total + len(found)
    missed += len(found) - len(questions)
  assert len(cases) >= 200
  assert read + missed == total and read / total >= 0.98


@pytest.mark.parametrize("kind", ["mcq", "detail"])
def test_what_was_asked_for_is_read_in_full(kind):
  """The form that the request prescribes."""
  found = [case for case in STYLES if case[:2] == (kind, "as asked")]
  assert found
  for _, _, text, questions in found:
    assert split(parse(text, kind)) == (questions, [])


def test_a_completion_that_was_cut_off_loses_its_last_question():
  text = "Question: What rings?\nAnswer: A bell.\nQuestion: What hums?\nAnswer: A fri"
  questions, reasons = split(parse(text, "detail", cut_off=True))
  assert [q[0] for q in questions] == ["What rings?"] and reasons == ["is cut off"]
  # A JSON object that is whole was not cut off.
  text = '[{"question": "What rings?", "answer": "A bell."}, {"question": "What'
  questions, reasons = split(parse(text, "detail", cut_off=True))
  assert [q[0] for q in questions] == ["What rings?"]
  assert reasons == ["JSON is cut off or damaged"]


@pytest.mark.parametrize(
  ("completion", "reason"),
  [
    ("", "the completion is empty"),
    (" \n\t", "the completion is empty"),
    ("x" * 60_000, "the completion is too long"),
    ("[" * 20_000 + '"question":', "no question was found"),
    ('{"question":' * 4_000, "JSON is cut off or damaged"),
    ('[{"question": "Who?", "answer": "\\ud83d"}]', "the answer is empty"),
    ('[{"question": "Who?", "answer": "He \\ud83d"}]', "the answer holds control characters"),
    ("Q: Who \0 is it?\nA: Nobody.", "the question holds control characters"),
    ("Q: ??\nA: Nobody.", "the question is empty"),
    ("Q: Who is it?\nA: " + "no " * 4_000, "the answer is too long"),
  ],
  ids=itertools.count(),
)
def test_what_is_hopeless_is_rejected_with_its_reason(completion, reason):
  assert split(parse(completion, "detail")) == ([], [reason])


def test_a_row_is_written_as_the_published_ones():
  question = QAPair("Who barks?", ("A dog", "A cat", "A seal", "A fox"), "A seal")
  assert question.fields() == ("Who barks? a) A dog b) A cat c) A seal d) A fox", "c) A seal")
  assert QAPair("Who barks?", (), "A dog barks.").fields() == ("Who barks?", "A dog barks.")


def bare(text):
  """Without white space, markup, and what JSON and Markdown write before signs."""
  text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
  text = re.sub(r"</?(?:br|b|i|u|em|strong)\s*/?>", "", text, flags=re.IGNORECASE)
  return re.sub(r"\\[nrtbf]|[\s*_`~#>\\•◦▪●‣+-]", "", text)


def assert_nothing_is_invented(text, kind):
  items = parse(text, kind)
  assert items
  source = bare(text)
  for item in items:
    if isinstance(item, Reject):
      assert item.reason
      continue
    assert len(item.options) == (4 if kind == "mcq" else 0)
    assert item.answer in item.options or kind == "detail"
    for words in (item.question, item.answer, *item.options):
      assert re.search(r"\w", words) and bare(words) in source
    input_, answer = item.fields()
    assert answer in input_ or kind == "detail"


PIECES = st.sampled_from(
  [
    *("\n", "\n\n", " ", "?", ".", "**", "- ", "> ", "### ", "```", "```json\n", "---\n", "|"),
    *("Question: ", "Q1: ", "1. ", "2) ", "Question 3\n", "What is heard", "Who barks?", "Rain"),
    *("a) ", "b) ", "c) ", "d) ", "e) ", "A. ", "B. ", "C. ", "D. ", "(a) ", "A: ", "A dog"),
    *("\na) cat\nb) dog\nc) fox\nd) owl\n", " A) x B) y C) z D) w ", "Answer: ", "Answer: b\n"),
    *("Answer: A) x", "The correct answer is ", "Answers:\n", "1. b\n", "✓", "(correct)", "both"),
    *("<think>", "</think>", "Explanation: ", "I'm sorry", "<br>", "\\", "\u200b", "\ud83d", "é"),
    *('{"question": "', '", "options": ["', '", "', '"], "answer": "', '"}', "[", "]", "{", "}"),
    *('{"question": "Who?", "options": ["a", "b", "c", "d"], "answer": "B"}', '"a": ', "null"),
  ]
)
TEXTS = st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=300)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.sampled_from(["mcq", "detail"]))
@example("<think>" * 3000, "mcq")
@example("*" * 20_000, "detail")
@example("a) " * 10_000, "mcq")
@example("1. " * 10_000 + "?", "detail")
def test_the_parser_never_raises_and_never_invents(text, kind):
  assert_nothing_is_invented(text, kind)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(STYLES), st.data())
def test_damaged_completions_yield_nothing_that_is_not_in_them(case, data):
  kind, _, text, _ = case
  for _ in range(data.draw(st.integers(1, 3))):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 60)))
    text = text[:start] + data.draw(PIECES) + text[end:]
  assert_nothing_is_invented(text, kind)
