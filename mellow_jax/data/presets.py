"""Presets: every choice of preprocessing in which the sources differ, under one name.

"release" is what the public inference code does, "training" what the public training code does, and
"clean" has the quirks of neither.
"""

from dataclasses import dataclass
from typing import Literal

End = Literal["none", "string", "token"]  # nothing; the end token's text, tokenized; its id


@dataclass(frozen=True)
class Preset:
  """How waveforms and texts are prepared for the model."""

  name: str
  mono: Literal["concatenate", "first two", "all"]  # channels end to end, or the mean of some
  short: Literal["repeat", "zeros"]  # what fills a clip that is shorter than the model's input
  long: Literal["random", "first"]  # where a longer clip is cropped
  tidy: bool  # runs of white space become one space
  lower_case: bool
  paraphrase: bool  # prompt keys give way to sentences
  caption_sentence: bool  # captions become "The audio 1 is <caption>."
  question_end: End  # how the end token follows a question ...
  answer_end: End  # ... and after an answer


PRESETS = {
  "release": Preset(
    name="release",
    mono="concatenate",
    short="repeat",
    long="random",
    tidy=False,
    lower_case=False,
    paraphrase=False,
    caption_sentence=False,
    question_end="none",
    # The released code never trains; answers end as in the code that trained its weights.
    answer_end="string",
  ),
  "training": Preset(
    name="training",
    mono="first two",
    short="zeros",
    long="random",
    tidy=False,
    lower_case=True,
    paraphrase=True,
    caption_sentence=True,
    question_end="string",
    answer_end="string",
  ),
  "clean": Preset(
    name="clean",
    mono="all",
    short="zeros",
    long="first",
    tidy=True,
    lower_case=False,
    paraphrase=False,
    caption_sentence=False,
    question_end="token",
    answer_end="token",
  ),
}
