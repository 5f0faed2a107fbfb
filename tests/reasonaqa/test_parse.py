"""What is read out of completions: all that a reader finds, and nothing that is not there."""

import collections
import itertools
import json
import re
from pathlib import Path

import chat_server
import completion_styles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mellow_jax.data import choices
from mellow_jax.data.choices import LETTERS
from mellow_jax.reasonaqa.llm import filters, json_reply
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
def test_what_was_written_by_hand_is_read_as_a_reader_does_or_rejected(case):
  kind, _, text, found, reasons = case
  questions, rejected = split(parse(text, kind))
  assert [q for q in found if q in questions] == questions
  assert rejected == [reason for reason in reasons if reason]


def kept(cases):
  """Kept questions by style, and readable ones; asserts that none is other than a reader finds."""
  kept, readable = collections.Counter(), 0
  for kind, style, text, found in cases:
    questions, rejected = split(parse(text, kind, caption=completion_styles.CAPTION))
    assert [q for q in questions if q not in found] == [], (kind, style)
    assert len(questions) == len(found) or rejected, (kind, style)  # what is lost is said
    kept[style] += len(questions)
    readable += len(found)
  return kept, readable


def test_of_no_style_of_models_a_polluted_question_is_kept():
  """Headings, counters, ticks, corrections, several pairs in one, the caption: 170 such styles."""
  hostile = completion_styles.HOSTILE_MCQ, completion_styles.HOSTILE_DETAIL
  assert sum(map(len, hostile)) >= 160
  found, readable = kept(completion_styles.completions(*hostile))
  assert found.total() == 38 and readable == 3165


def test_of_the_usual_styles_the_papers_layout_is_read_whatever_its_labels():
  found, readable = kept(STYLES)
  assert len(STYLES) >= 200 and found.total() / readable > 0.5
  read = {"as asked", "numbered", "bold", "headings", "one line", "letter only", "json"}
  assert min(found[style] for style in read) >= 19


def test_of_json_replies_all_is_kept():
  cases = {(case[0], tuple(case[3])) for case in STYLES}
  assert len(cases) == 7
  for kind, found in cases:
    reply = chat_server.as_json(found, kind)
    read, lost = split(parse(reply, kind, caption=completion_styles.CAPTION))
    assert (read, lost) == (list(found), [])


def printed_pairs(paper):
  """(kind, caption, pair) of Tables 10, 11, 16 and 17, without those of the older dataset."""
  caption, part, question = "", "", ""
  for line in paper.read_text().splitlines():
    line = line.strip(" |")
    name, _, text = line.partition(": ")
    if name in ("Caption", "Sample"):
      caption, part = text, "Table 10" if text.startswith("The wind") else ""
    elif line.startswith("Type ") and len(line) == 6:
      part = line
    elif name == "Question":
      question = text
    elif name == "Answer" and question and part:
      stem, options = choices.split_options(question)
      letter = LETTERS.find(text[0].lower()) if options else None
      answer = options[letter] if options else text
      yield "mcq" if options else "detail", caption, (stem.strip(), options, answer)
      question = ""


def test_the_pairs_printed_in_the_paper_are_kept_in_both_forms(reference_data):
  pairs = list(printed_pairs(reference_data / "paper/mellow.txt"))
  assert len(pairs) == 40
  for kind, caption, pair in pairs:
    fields = QAPair(*pair).fields()
    plain = "Caption: {}\nQuestion: {}\nAnswer: {}".format(caption, *fields)
    for reply in (plain, chat_server.as_json([pair], kind)):
      (item,) = parse(reply, kind, caption=caption)
      assert item == QAPair(*pair) and not filters.reject_reason(item)


@pytest.mark.parametrize("kind", ["mcq", "detail"])
def test_what_was_asked_for_is_read_in_full(kind):
  """The form that the request prescribes."""
  found = [case for case in STYLES if case[:2] == (kind, "as asked")]
  assert found
  for _, _, text, questions in found:
    read, lost = split(parse(text, kind))
    # What stands behind a question may be of the layout: "Choose the best option."
    assert read == [q for q in questions if not q[0].endswith(".") or kind == "detail"]
    assert len(read) + len(lost) == len(questions)


def test_a_completion_that_was_cut_off_loses_its_last_question():
  text = "Question: What rings?\nAnswer: A bell.\nQuestion: What hums?\nAnswer: A fri"
  questions, reasons = split(parse(text, "detail", cut_off=True))
  assert [q[0] for q in questions] == ["What rings?"] and reasons == ["is cut off"]
  text = '[{"question": "What rings?", "answer": "A bell."}, {"question": "What'
  assert split(parse(text, "detail", cut_off=True)) == ([], ["is cut off"])


@pytest.mark.parametrize(
  ("completion", "reason"),
  [
    ("", "the completion is empty"),
    (" \n\t", "the completion is empty"),
    ("x" * 60_000, "the completion is too long"),
    ("[" * 20_000 + '"question":', "the reply is not JSON"),
    ('{"question":' * 4_000, "the reply is not JSON"),
    ('{"questions": {}}', "the reply is JSON of another schema"),
    ('{"questions": [{"question": "Who?"}]}', "a question is JSON of another schema"),
    ('{"questions": [{"question": "Who?", "answer": 1}]}', "a question is JSON of another schema"),
    ('[{"question": "Who?", "answer": "\\ud83d"}]', "the answer is empty"),
    ('[{"question": "Who?", "answer": "He \\ud83d"}]', "the answer holds control characters"),
    ("Q: Who \0 is it?\nA: Nobody.", "the question holds control characters"),
    ("Q: ??\nA: Nobody.", "the question is empty"),
    ('[{"question": "Who is it?", "answer": "He.\\nShe."}]', "the answer has more than one line"),
    ("Q: Who is it?\nA: " + "no " * 4_000 + ".", "the answer is too long"),
  ],
  ids=itertools.count(),
)
def test_what_is_hopeless_is_rejected_with_its_reason(completion, reason):
  assert split(parse(completion, "detail")) == ([], [reason])


def test_a_row_is_written_as_the_published_ones():
  question = QAPair("Who barks?", ("A dog", "A cat", "A seal", "A fox"), "A seal")
  assert question.fields() == ("Who barks? a) A dog b) A cat c) A seal d) A fox", "c) A seal")
  assert QAPair("Who barks?", (), "A dog barks.").fields() == ("Who barks?", "A dog barks.")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("styles", "kept_of", "all_of"),
  [
    (("MCQ_STYLES", "DETAIL_STYLES"), 640, 1120),
    (("HOSTILE_MCQ", "HOSTILE_DETAIL"), 40, 3400),
  ],
)
def test_of_the_papers_pairs_none_is_kept_polluted_in_any_style(
  reference_data, styles, kept_of, all_of
):
  pairs = list(printed_pairs(reference_data / "paper/mellow.txt"))
  groups = [pairs[i : i + 5] for i in range(0, 40, 5)]
  mcq = [
    [(q, list(o), o.index(a)) for _, _, (q, o, a) in group] for group in groups if group[0][2][1]
  ]
  detail = [[(q, a) for _, _, (q, _, a) in group] for group in groups if not group[0][2][1]]
  of_styles = (getattr(completion_styles, name) for name in styles)
  found, readable = kept(completion_styles.completions(*of_styles, mcq, detail))
  assert (found.total(), readable) == (kept_of, all_of)


def test_the_schema_holds_all_that_is_asked_for():
  for kind in ("mcq", "detail"):
    asked = json_reply.response_format(kind)
    assert asked["type"] == "json_schema" and asked["json_schema"]["strict"]
    schema = asked["json_schema"]["schema"]
    assert schema["required"] == ["questions"] and not schema["additionalProperties"]
    items = schema["properties"]["questions"]
    assert items["minItems"] == items["maxItems"] == 5
    fields = items["items"]["properties"]
    assert items["items"]["required"] == [*fields]
    if kind == "mcq":
      assert fields["options"]["minItems"] == 4 and fields["answer"]["enum"] == [*"abcd"]


def test_letters_before_the_options_of_json_are_taken_off():
  options = ["A) A dog", "B) A cat", "C) A seal", "D) A fox"]
  item = {"question": "Who barks?", "options": options, "answer": "C"}
  assert parse(json.dumps({"questions": [item]}), "mcq") == [
    QAPair("Who barks?", ("A dog", "A cat", "A seal", "A fox"), "A seal")
  ]


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


@pytest.mark.parametrize("label", ["a - {}", "a – {}", "1 - {}"])
def test_labels_with_a_dash_are_left_in_no_option(label):
  options = [label.format(text) for text in ("dog", "cat", "rain", "wind")]
  reply = {"question": "What sound is heard?", "options": options, "answer": "a"}
  (found,) = parse(json.dumps({"questions": [reply]}), "mcq")
  assert isinstance(found, Reject)


@pytest.mark.parametrize("greeting", ["Sure!", "Of course,", "Certainly:"])
def test_a_greeting_is_left_in_no_answer(greeting):
  reply = {"question": "What sound is heard?", "answer": f"{greeting} A dog barks."}
  (found,) = parse(json.dumps({"questions": [reply]}), "detail")
  assert isinstance(found, Reject)
