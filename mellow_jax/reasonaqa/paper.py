"""ReasonAQA as the paper counts it: rows and clips (Table 1), words (Tables 9 and 15).

Source: the Mellow paper of 2025, Tables 1, 9 and 15.
"""

from mellow_jax.reasonaqa.splits import SPLITS

TIERED = ("CLD", "ACD")  # each has three parts, CLD-1 to CLD-3

# Rows of each part, by its subtype without ".json"; (train, val, test), 0 where there is none. The
# three tiers of CLD and ACD have equal parts of the paper's sums.
ROWS = {
  "Clotho": (19195, 5225, 5225),
  "AudioCaps": (48660, 494, 4785),
  "ClothoAQA": (14088, 4128, 5676),
  "CLE": (11511, 3132, 3135),
  "ACE": (0, 0, 14355),
  "CLD": (57585, 15675, 15675),
  "ACD": (145980, 7368, 14040),
  "Clotho-MCQ": (95551, 26054, 26031),
  "Clotho-Detail": (94838, 25785, 25851),
  "AudioCaps-MCQ": (241531, 12236, 23672),
  "AudioCaps-Detail": (239132, 12110, 23355),
}
# As the table prints them. The sums of ROWS differ by none of these.
TOTAL_ROWS = (968071, 112207, 161800)
# Clips; the paper counts the two sets of captions, from whose clips all else is made.
CLIPS = {"Clotho": (3839, 1045, 1045), "AudioCaps": (48660, 494, 957)}
TOTAL_CLIPS = (52499, 1539, 2002)

# How the paper's rows follow from the official files where no rule gives them: clips of AudioCaps
# are videos, some of which were gone.
ARITHMETIC = {
  ("AudioCaps", "train"): "49838 clips x 1 caption - 1178 clips no longer to be had = 48660",
  ("AudioCaps", "val"): "495 clips x 1 of 5 captions - 1 clip no longer to be had = 494",
  ("AudioCaps", "test"): "975 clips x 5 captions - 18 clips no longer to be had x 5 = 4785",
  ("ACE", "test"): "975 clips x 5 captions x 3 - 18 clips no longer to be had x 15 = 14355",
}

# Of the generated rows for training, by type of prompt, kind and source of the captions: rows,
# words per question, vocabulary of questions, words per answer, vocabulary of answers.
WORDS = {
  ("Type 1", "MCQ", "AudioCaps"): (113861, 11.33, 7697, 2.28, 5411),
  ("Type 1", "MCQ", "Clotho"): (95551, 11.46, 8430, 2.35, 6009),
  ("Type 1", "MCQ", "all"): (209412, 11.39, 10035, 2.31, 7356),
  ("Type 1", "Detail", "AudioCaps"): (127661, 3.06, 3034, 25.90, 13181),
  ("Type 1", "Detail", "Clotho"): (94838, 2.95, 3443, 25.32, 13445),
  ("Type 1", "Detail", "all"): (222499, 3.01, 4295, 25.65, 16161),
  ("Type 2", "MCQ", "AudioCaps"): (242037, 13.58, 9118, 2.51, 6600),
  ("Type 2", "MCQ", "Clotho"): (95450, 13.45, 8271, 2.51, 5950),
  ("Type 2", "MCQ", "all"): (337487, 13.55, 10805, 2.51, 8041),
  ("Type 2", "Detail", "AudioCaps"): (241701, 3.85, 3349, 20.74, 12302),
  ("Type 2", "Detail", "Clotho"): (95470, 3.77, 3315, 20.10, 10794),
  ("Type 2", "Detail", "all"): (337171, 3.83, 4453, 20.56, 14153),
  ("Type 3", "MCQ", "AudioCaps"): (239006, 15.77, 9680, 3.07, 6984),
  ("Type 3", "MCQ", "Clotho"): (95253, 15.29, 8797, 3.02, 6325),
  ("Type 3", "MCQ", "all"): (334259, 15.63, 11408, 3.06, 8445),
  ("Type 3", "Detail", "AudioCaps"): (237772, 4.07, 3500, 26.19, 13488),
  ("Type 3", "Detail", "Clotho"): (95264, 4.00, 3622, 24.74, 11811),
  ("Type 3", "Detail", "all"): (333036, 4.05, 4764, 25.77, 15477),
}


def rows(dataset: str, split: str) -> int | None:
  """Rows of a dataset in Table 1; None for a dataset or a split that it does not have."""
  if split not in SPLITS:
    return None
  name, _, tier = dataset.rpartition("-")
  index = SPLITS.index(split)
  if dataset in ROWS:
    return ROWS[dataset][index]
  return ROWS[name][index] // 3 if name in TIERED and tier in ("1", "2", "3") else None
