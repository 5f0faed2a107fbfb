"""Questions of an evaluation harness in Mellow's own form, and Mellow's answers in the harness's.

Harnesses show options as lines "A. dog" (`data.choices.split_lines`) and parse upper-case letters.
Mellow was trained on "question? a) dog b) cat" in one line and answers "a) dog", which lmms-eval's
parser for MMAU does not read: it then takes a letter at random.
"""

from collections.abc import Sequence

from mellow_jax.data.choices import picked_letter, picked_text
from mellow_jax.evaluation.benchmarks import prompt_styles
from mellow_jax.evaluation.benchmarks.items import Item


def prompt(question: str, choices: Sequence[str], preset: str) -> str:
  """The question as a model of a preset is asked it, in the style that MMAU is asked in."""
  if not choices:
    return question
  item = Item(id="", kind="choice", audio1="", question=question, choices=tuple(choices))
  return prompt_styles.prompt(prompt_styles.style_for(preset), "mmau", item)


def place_of(answer: str, choices: Sequence[str]) -> int | None:
  """The place of the option that an answer picks by its letter, or else by its text."""
  place = picked_letter(answer, choices)
  return picked_text(answer, choices) if place is None else place
