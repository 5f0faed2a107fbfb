"""Figures that others printed, each with its protocol and source, to stand beside ours.

A figure stands beside ours only where the same rule scored the same benchmark; what still differs
is said in its note. Accuracies are percentages; SPICE is as the caption code gives it, so .178 is
the paper's 17.8.
"""

from collections.abc import Iterator
from dataclasses import dataclass

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
# Accuracy, macro precision, recall, F1, then accuracy of what the reference calls entailment,
# neutral and contradiction.
_ENTAILMENT = {
  "cle": (91.16, 91.35, 91.16, 91.10, 90.53, 85.26, 97.70),
  "ace": (89.66, 90.71, 89.66, 89.34, 95.82, 73.48, 99.67),
}
_ENTAILMENT_ROWS = {"cle": 3135, "ace": 14355}
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
  "ADIFF, 125M": (11.9, 23.2, 16.7, 12.7, 22.2, 17.1),
  "Qwen-Audio-Chat with LoRA, 7B": (8.2, 21.1, 14.5, 9.5, 24.0, 16.0),
  "Qwen-Audio-Chat trained in full, 7B": (9.5, 27.3, 14.9, 9.4, 21.9, 14.3),
}
_TIERS = ("cld-1", "cld-2", "cld-3", "acd-1", "acd-2", "acd-3")
# SPICE on AudioCaps and Clotho.
_CAPTIONS = {
  "Mellow, 167M": (17.8, 9.4),
  "Pengi, 124M": (12.7, 7.0),
  "GAMA, 7B": (18.5, 13.5),
  "LTU, 7B": (16.9, 11.7),
  "Qwen-Audio-Chat, 7B": (14.7, 9.8),
  "SALMONN, 7B": (8.3, 7.6),
}


def _all() -> Iterator[Published]:
  for model, figure, note, source, *values in _MMAU:
    for group, value in zip(("", "sound", "music", "speech"), values, strict=True):
      yield Published(
        benchmark="mmau",
        figure=figure,
        group=group,
        model=model,
        value=value,
        note=note,
        source=source,
      )
  mellow = {"group": "", "model": "Mellow, 167M"}
  for benchmark, values in _ENTAILMENT.items():
    for figure, value in zip(_ENTAILMENT_FIGURES, values, strict=True):
      yield Published(
        benchmark=benchmark,
        figure=f"letter_reference {figure}",
        **mellow,
        value=value,
        note=f"{_ENTAILMENT_ROWS[benchmark]} rows; labels of the reference, whose neutral and "
        "contradiction are swapped under the published prompt",
        source=f"{PAPER}, 4.2",
      )
  yield Published(
    benchmark="clothoaqa",
    figure="contains",
    **mellow,
    value=71.4,
    note="every annotator's answer counts",
    source=f"{PAPER}, 4.4",
  )
  yield Published(
    benchmark="mmar",
    figure=_OFFICIAL,
    **mellow,
    value=30.0,
    note="measured by MMAR's authors",
    source="github.com/ddlBoJack/MMAR, README",
  )
  for table, benchmarks, section in (
    (_DIFFERENCE, _TIERS, "4.3, the second figure of each tier"),
    (_CAPTIONS, ("audiocaps", "clotho"), "4.4"),
  ):
    for model, values in table.items():
      for benchmark, value in zip(benchmarks, values, strict=True):
        yield Published(
          benchmark=benchmark,
          figure="SPICE [ptb]",
          group="",
          model=model,
          value=value / 100,
          note="the paper's clips, of which some are gone from the web since",
          source=f"{PAPER}, {section}",
        )


FIGURES = tuple(_all())
