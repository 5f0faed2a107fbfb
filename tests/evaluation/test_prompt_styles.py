"""Prompts are the reference's, to the token; and a row's own, to the letter."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from mellow_jax.data import presets, prompts, records, scenes
from mellow_jax.data.tokenizer import load_tokenizer
from mellow_jax.evaluation.benchmarks import catalogue, prompt_styles, rows
from mellow_jax.evaluation.benchmarks.items import Item

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/prompts.json").read_text())
KEYS = (
  "explain the difference in a sentence",
  "explain the difference in detail",
  "caption first audio",
)


@pytest.fixture(scope="module")
def mmau(reference_data) -> list[Item]:
  return catalogue.read("mmau", reference_data / "meta/mmau")


def digest(reference_data: Path, preset: presets.Preset, asked: list[str]) -> str:
  tokenizer = load_tokenizer(reference_data / "tokenizers/smollm2")
  texts = [prompts.question(text, preset) for text in asked]
  ids = [prompts.encode(tokenizer, text, preset.question_end, 129, 17, 0)[0] for text in texts]
  return hashlib.sha256(np.stack(ids).astype("<i4").tobytes()).hexdigest()


@pytest.mark.parametrize("preset", ["release", "training"])
def test_mmau_is_asked_as_the_reference_asks_it(reference_data, mmau, preset):
  asked = [prompt_styles.prompt(prompt_styles.STYLES["reference"], "mmau", item) for item in mmau]
  assert len(asked) == 1000
  found = digest(reference_data, presets.PRESETS[preset], asked)
  assert found == GOLDEN[f"{preset}, mmau test-mini"]


def test_an_exclamation_mark_is_a_token_of_its_own(reference_data):
  """The reference pads with "!" and so makes it a token that nothing merges with."""
  tokenizer = load_tokenizer(reference_data / "tokenizers/smollm2")
  ids = tokenizer.encode("arnold!) oh!!", add_special_tokens=False).ids
  assert ids.count(17) == 3
  assert tokenizer.decode(ids) == "arnold!) oh!!"


def test_rows_are_asked_as_the_reference_asks_them(reference_data):
  read = list(records.read(reference_data / "esc10/val.json"))
  read += [dataclasses.replace(read[1], input=key) for key in KEYS]
  style = prompt_styles.STYLES["reference"]
  asked = [
    prompt_styles.prompt(style, "reasonaqa", catalogue.from_record(record)) for record in read
  ]
  found = digest(reference_data, presets.PRESETS["training"], asked)
  assert found == GOLDEN["training, esc10 val and the keys of three tasks"]


def test_the_plain_style_asks_as_models_of_it_were_trained(reference_data):
  """Its prompts on MMAU, made of the file by other means; a row's prompt is the row's input."""
  path = reference_data / "meta/mmau/mmau-test-mini.json"
  items = catalogue.read("mmau", path)
  for row, item in zip(json.loads(path.read_text()), items, strict=True):
    expected = row["question"]
    for code, choice in enumerate(row["choices"], ord("a")):
      expected += f" {chr(code)}) {choice}"
    asked = prompt_styles.prompt(prompt_styles.STYLES["plain"], "mmau", item)
    assert asked == " ".join(expected.split())
    assert asked == prompts.question(asked, presets.PRESETS["clean"])
  everything = dict.fromkeys(scenes.QUESTIONS, 1.0)
  for record in [
    *records.read(reference_data / "esc10/val.json"),
    *scenes.Scenes("val", 0, 100, everything),
  ]:
    asked = prompt_styles.prompt(prompt_styles.STYLES["plain"], "scenes", rows.from_record(record))
    assert asked == record.input


def question(text: str) -> Item:
  choices = ("Man", "A dog")
  return Item(id="1", kind="choice", audio1="a.wav", question=text, choices=choices, answer="Man")


@pytest.mark.parametrize(
  ("text", "reference", "repaired"),
  [
    ("Who speaks?", "who speaks?", "who speaks?"),
    ("Name the speaker.", "name the speaker?", "name the speaker?"),
    ("Who speaks", "who speak?", "who speaks?"),  # the reference's rule eats a letter
    ("Who speaks? ", "who speaks??", "who speaks?"),
    ("Choose from these options:", "choose from these options?", "choose from these options?"),
  ],
)
def test_ends_of_questions(text, reference, repaired):
  asked = {
    name: prompt_styles.prompt(style, "mmau", question(text))
    for name, style in prompt_styles.STYLES.items()
  }
  assert asked == {
    "reference": f"{reference} a) man b) a dog",
    "repaired": f"{repaired} a) man b) a dog",
    "plain": f"{' '.join(text.split())} a) Man b) A dog",
  }


def test_the_reference_style_eats_a_letter_of_73_questions(mmau):
  styles = [prompt_styles.STYLES[name] for name in ("reference", "repaired")]
  eaten = 0
  for item in mmau:
    reference, repaired = (
      prompt_styles.prompt(style, "mmau", item).split(" a) ")[0] for style in styles
    )
    eaten += len(reference.replace("?", "").strip()) < len(repaired.replace("?", "").strip())
  assert eaten == 73


def test_choices_are_shown_in_the_order_asked_for():
  style = prompt_styles.STYLES["plain"]
  assert prompt_styles.prompt(style, "mmau", question("Who?"), (1, 0)) == "Who? a) A dog b) Man"


def test_a_style_changes_only_with_its_version():
  """Whoever changes what a style writes gives it a new version, and this digest with it."""
  keys = [dataclasses.replace(question(key), kind="text", choices=()) for key in prompts.KEYS]
  texts = [question("Who speaks"), question("WHO  speaks: "), *keys]
  written = {
    str(style): hashlib.sha256(
      "\n".join(prompt_styles.prompt(style, "mmau", item) for item in texts).encode()
    ).hexdigest()[:12]
    for style in prompt_styles.STYLES.values()
  }
  assert written == {
    "reference v1": "a8cbf4ae7202",
    "repaired v1": "ac7a763345a9",
    "plain v1": "5c73450fcea0",
  }
