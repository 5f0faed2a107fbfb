"""What a benchmark asks and what a model answered, in the one form that every part here shares."""

from dataclasses import dataclass, field
from typing import Literal

# How an answer is judged: an option of several, yes or no, entailment, or free text.
Kind = Literal["choice", "binary", "entailment", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
  """One question of a benchmark."""

  id: str  # the benchmark's own where it has one; no two items of a benchmark share it
  kind: Kind
  audio1: str  # relative to the data folder, with forward slashes
  audio2: str = ""  # "" where the question is about one clip
  question: str  # as the benchmark has it, without its options
  choices: tuple[str, ...] = ()  # texts without letters, in the benchmark's order; may repeat
  answer: str = ""  # the right choice's text, "yes" or "no", or a text; "" where none is published
  references: tuple[str, ...] = ()  # of a text: all that it is compared with
  groups: dict[str, str] = field(default_factory=dict)  # for reports: {"difficulty": "easy"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
  """A model's answer to an item; one line of a predictions file, as JSON."""

  item: Item
  benchmark: str
  prompt: str  # the whole question as it was put to the model
  prediction: str  # what the model wrote; "" where failure says why it could not be asked
  order: tuple[int, ...] = ()  # the item's choices in the order they were shown in
  # Log-likelihood and number of tokens of each of the item's choices, in the item's order; () where
  # they were not computed.
  option_log_probs: tuple[tuple[float, int], ...] = ()
  heard: str = "clips"  # or "noise", "silence", "shuffled"
  failure: str = ""  # such as "a.wav: is empty: get it again or drop its record"
  samples: tuple[str, ...] = ()  # that voted, the prediction first
  agreed: int | None = None  # of the samples; None without a vote
