"""Figures that others printed, each with its protocol and source, to stand beside ours.

A figure stands beside ours only where the same rule scored the same benchmark; what still differs
is said in its note. Accuracies are percentages; SPICE is as the caption code gives it, so .178 is
the paper's 17.8.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

PAPER = "Mellow paper"


@dataclass(frozen=True, kw_only=True)
class Published:
  """One figure."""

  benchmark: str
  figure: str  # the name of ours that the same protocol gives
  group: str  # a value of the items' groups; "" for all items
  model: str
  value: float
  note: str
  source: str


_OLD = "questions of 2024, of which a quarter have changed since"
_OFFICIAL = "mmau_official [as written]"
# Model, rule, note, source; then all items, sound, music, speech.
_MMAU = (
  ("Mellow, 167M", "letter_reference [whole]", _OLD, f"{PAPER}, 4.1", 48.40, 61.26, 54.19, 29.73),
  (
    "Mellow, 167M",
    _OFFICIAL,
    "measured by a user, with a prompt of their own",
    "github.com/soham97/mellow, issue 5",
    *(42.0, 58.26, 45.51, 22.22),
  ),
  *(
    (model, _OFFICIAL, f"parser and prompt of MMAU's authors; {_OLD}", f"{PAPER}, 4.1", *values)
    for model, *values in (
      ("people", 82.23, 86.31, 78.22, 82.17),
      ("Gemini Pro v1.5", 54.90, 56.75, 49.40, 58.55),
      ("Qwen2-Audio-Instruct, 8.4B", 49.20, 54.95, 50.98, 42.04),
      ("SALMONN, 13B", 33.70, 41.00, 34.80, 25.50),
      ("GAMA, 7B", 30.90, 41.44, 32.33, 18.91),
      ("Audio Flamingo Chat, 2.2B", 16.69, 23.42, 15.26, 11.41),
      ("Pengi, 323M", 3.40, 6.10, 2.90, 1.20),
    )
  ),
)
# MMAU test-mini by difficulty, the paper's table 3: easy, medium, hard.
_DIFFICULTY = {
  "Mellow, 167M": (50.68, 60.10, 32.89),
  "SALMONN, 13B": (20.31, 39.33, 30.63),
  "GAMA, 7B": (31.36, 35.70, 22.85),
  "Qwen2-Audio-Instruct, 8.4B": (50.59, 55.63, 46.99),
  "Gemini Pro v1.5": (57.04, 51.49, 52.07),
}
# Accuracy, macro precision, recall, F1, then accuracy of what the reference calls entailment,
# neutral and contradiction.
_ENTAILMENT = {
  "cle": (91.16, 91.35, 91.16, 91.10, 90.53, 85.26, 97.70),
  "ace": (89.66, 90.71, 89.66, 89.34, 95.82, 73.48, 99.67),
}
# The same of models that the benchmark's authors scored, by the classes' own names, on CLE and ACE.
_ENTAILMENT_OTHERS = {
  "CLAP 22, 110M": (
    (45.90, 54.99, 45.90, 46.56, 60.00, 40.29, 37.42),
    (44.34, 44.35, 43.34, 43.32, 43.32, 56.41, 45.08),
  ),
  "LAION CLAP, 125M": (
    (51.13, 55.44, 51.13, 51.61, 66.79, 36.46, 50.14),
    (58.72, 57.67, 58.72, 56.93, 28.67, 59.00, 88.48),
  ),
  "CLAP 23, 124M": (
    (51.64, 51.55, 51.63, 51.59, 41.53, 40.38, 73.01),
    (48.60, 46.78, 48.60, 46.56, 48.80, 20.02, 76.99),
  ),
  "Pengi, 124M": (
    (37.26, 24.65, 37.26, 28.88, 75.41, 0.00, 36.36),
    (38.67, 25.58, 38.67, 30.39, 73.35, 0.00, 42.65),
  ),
  "LTU-AS, 7B": (
    (36.81, 37.37, 36.81, 34.20, 62.78, 31.87, 15.79),
    (36.33, 37.72, 36.33, 33.34, 67.02, 24.35, 17.62),
  ),
  "Qwen-Audio-Chat, 7B": (
    (54.42, 56.04, 54.42, 49.75, 90.24, 15.69, 57.32),
    (52.16, 56.69, 52.16, 49.18, 93.00, 28.21, 35.28),
  ),
  "GAMA, 7B": (
    (48.26, 61.51, 48.26, 45.34, 81.44, 41.24, 22.11),
    (52.48, 65.31, 52.48, 49.33, 78.27, 58.85, 20.31),
  ),
  "SALMONN, 13B": (
    (52.22, 50.54, 52.22, 45.15, 67.75, 7.08, 81.82),
    (56.22, 55.51, 56.22, 48.26, 71.14, 6.98, 90.55),
  ),
}
_ENTAILMENT_ROWS = {"cle": 3135, "ace": 14355}
_ASKED = "prompts and parser of the benchmark's authors"
_GONE = "the paper's clips, of which some are gone from the web since"
_ENTAILMENT_FIGURES = (
  "accuracy",
  "macro precision",
  "macro recall",
  "macro F1",
  "entailment",
  "neutral",
  "contradiction",
)
# Of the two figures a tier that the paper's table prints, the second, which is SPICE.
_DIFFERENCE = {
  "Mellow, 167M": (13.9, 25.0, 17.3, 13.9, 23.7, 18.7),
  "Baseline, 125M": (6.4, 26.4, 17.2, 10.1, 21.5, 13.8),
  "ADIFF, 125M": (11.9, 23.2, 16.7, 12.7, 22.2, 17.1),
  "Qwen-Audio-Chat with LoRA, 7B": (8.2, 21.1, 14.5, 9.5, 24.0, 16.0),
  "Qwen-Audio-Chat trained in full, 7B": (9.5, 27.3, 14.9, 9.4, 21.9, 14.3),
}
_TIERS = ("cld-1", "cld-2", "cld-3", "acd-1", "acd-2", "acd-3")
# SPICE on AudioCaps and Clotho, and accuracy on ClothoAQA.
_CAPTIONS = {
  "Mellow, 167M": (17.8, 9.4, 71.4),
  "Pengi, 124M": (12.7, 7.0, 63.6),
  "GAMA, 7B": (18.5, 13.5, 71.6),
  "LTU, 7B": (16.9, 11.7, 25.1),
  "Qwen-Audio-Chat, 7B": (14.7, 9.8, 32.3),
  "SALMONN, 13B": (8.3, 7.6, 23.1),
  "AudioGPT": (6.9, 6.2, 33.4),
}


def _mmau() -> Iterator[tuple]:
  groups = ("", "sound", "music", "speech")
  for model, figure, note, source, *values in _MMAU:
    for group, value in zip(groups, values, strict=True):
      yield "mmau", figure, group, model, value, note, source
  for model, values in _DIFFICULTY.items():
    figure = "letter_reference [whole]" if model.startswith("Mellow") else _OFFICIAL
    for group, value in zip(("easy", "medium", "hard"), values, strict=True):
      yield "mmau", figure, group, model, value, _OLD, f"{PAPER}, table 3"


def _entailment() -> Iterator[tuple]:
  source = f"{PAPER}, table 4"
  for place, (benchmark, mellow) in enumerate(_ENTAILMENT.items()):
    swapped = (
      f"{_ENTAILMENT_ROWS[benchmark]} rows; labels of the reference, whose neutral and "
      "contradiction are swapped under the published prompt"
    )
    others = [(model, both[place]) for model, both in _ENTAILMENT_OTHERS.items()]
    for model, values in (("Mellow, 167M", mellow), *others):
      rule, note = ("letter_reference", swapped) if values is mellow else ("option", _ASKED)
      for figure, value in zip(_ENTAILMENT_FIGURES, values, strict=True):
        yield benchmark, f"{rule} {figure}", "", model, value, note, source


def _text() -> Iterator[tuple]:
  for table, benchmarks, source in (
    (_DIFFERENCE, _TIERS, "table 6, the second figure of each tier"),
    (_CAPTIONS, ("audiocaps", "clotho", "clothoaqa"), "table 7"),
  ):
    for model, values in table.items():
      for benchmark, value in zip(benchmarks, values, strict=True):
        told = "", model, value / 100, _GONE, f"{PAPER}, {source}"
        if benchmark == "clothoaqa":
          told = "", model, value, "every annotator's answer counts", f"{PAPER}, {source}"
        yield benchmark, "contains" if benchmark == "clothoaqa" else "SPICE [ptb]", *told


def _all() -> Iterator[Published]:
  mmar = "mmar", _OFFICIAL, "", "Mellow, 167M", 30.0, "measured by MMAR's authors"
  names = [field.name for field in fields(Published)]
  for values in (*_mmau(), *_entailment(), (*mmar, "github.com/ddlBoJack/MMAR, README"), *_text()):
    yield Published(**dict(zip(names, values, strict=True)))


FIGURES = tuple(_all())
