"""What an evaluation harness asks, in Mellow's own form, and its answers in the harness's.

Harnesses show options as lines "A. dog" and parse upper-case letters. Mellow was trained on
"question? a) dog b) cat" in one line and answers "a) dog", which lmms-eval's parser for MMAU does
not read: it then draws a letter at random.
"""

import re
from collections.abc import Sequence

from mellow_jax.evaluation.benchmarks import prompt_styles
from mellow_jax.evaluation.benchmarks.items import Item
from mellow_jax.evaluation.metrics import multiple_choice

_OPTION = re.compile(r"\s*\(?([A-Z])[.):]\s+(\S.*)")


def split_context(context: str) -> tuple[str, tuple[str, ...]]:
  """The question of a harness's prompt, and its options without letters; () where it has none.

  Options are lines "A. text", "B. text" and so on. What follows the last one tells other models how
  to answer, and is left out. A prompt without options is kept whole.
  """
  lines, first, found = context.split("\n"), 0, []
  for number, line in enumerate(lines):
    match = _OPTION.fullmatch(line)
    if match and match[1] == multiple_choice.LETTERS[len(found)].upper():
      first = first if found else number
      found.append(match[2].strip())
  if len(found) < 2:
    return context.strip(), ()
  return "\n".join(lines[:first]).strip(), tuple(found)


def prompt(question: str, choices: Sequence[str], preset: str) -> str:
  """The question as a model of a preset is asked it, in the style that MMAU is asked in."""
  if not choices:
    return question
  item = Item(id="", kind="choice", audio1="", question=question, choices=tuple(choices))
  return prompt_styles.prompt(prompt_styles.style_for(preset), "mmau", item)


def lettered(choices: Sequence[str]) -> list[str]:
  """The choices as the model would name them, "a) dog"."""
  return [
    f"{letter}) {choice}" for letter, choice in zip(multiple_choice.LETTERS, choices, strict=False)
  ]


def place_of(answer: str, choices: Sequence[str]) -> int | None:
  """The place of the option that an answer picks by its letter, or else by its text."""
  place = multiple_choice.letter_strict(answer, len(choices))
  return multiple_choice.option_text(answer, choices) if place is None else place
