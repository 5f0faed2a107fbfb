"""How an item is put to a model: prompt styles, each with a name and a version.

What a style makes of an item is final but for what the model's own preset does to every question
(`data.prompts.question` and the end token). A style whose wording changes gets a new version.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mellow_jax.data import choices, presets, prompts
from mellow_jax.evaluation.benchmarks import catalogue
from mellow_jax.evaluation.benchmarks.items import Item

# What becomes of a question's end before its options: its last character gives way to "?", whatever
# it is; punctuation and spaces do; or nothing is changed.
Ending = Literal["last character", "punctuation", "kept"]


@dataclass(frozen=True)
class Style:
  """A way to write prompts."""

  name: str
  version: int
  ending: Ending
  preset: str  # whose treatment of questions it takes: case, spaces, prompt keys

  def __str__(self) -> str:
    return f"{self.name} v{self.version}"


STYLES = {
  # As the reference's author scored MMAU: where a question ends without a full stop, question mark,
  # colon or space, a letter is lost, in 73 of test-mini.
  "reference": Style("reference", 1, "last character", "training"),
  "repaired": Style("repaired", 1, "punctuation", "training"),
  # As the rows of ReasonAQA are written, which models of the preset "clean" are trained on.
  "plain": Style("plain", 1, "kept", "clean"),
}


def style_for(preset: str) -> Style:
  """The style that models of a preset are asked in unless told otherwise."""
  return STYLES["plain" if preset == "clean" else "reference"]


def options(style: Style, item: Item, order: Sequence[int]) -> list[str]:
  """The item's choices with their letters, as a prompt shows them in an order."""
  preset = presets.PRESETS[style.preset]
  shown = choices.lettered([item.choices[i] for i in order])
  return [prompts.question(option, preset) for option in shown]


def prompt(style: Style, benchmark: str, item: Item, order: Sequence[int] = ()) -> str:
  """The whole question about an item, its choices in the given order, by default their own.

  Source: for the style "reference" the reference's author, in the discussion of its MMAU figures,
  and the reference's evaluation data loader.
  """
  question = item.question
  if item.choices and catalogue.BENCHMARKS[benchmark].makes_prompts:
    if style.ending == "last character":
      question = question[:-1] + "?"
    elif style.ending == "punctuation":
      question = question.rstrip(" ?.:") + "?"
  question = prompts.question(question, presets.PRESETS[style.preset])
  return " ".join([question, *options(style, item, order or range(len(item.choices)))])
