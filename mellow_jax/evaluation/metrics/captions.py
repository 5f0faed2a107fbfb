"""How close a text is to its references: BLEU, ROUGE-L and CIDEr-D, and words by a regex.

Each takes tokens, so that it does not matter who made them. On the same tokens the figures are
those of the COCO caption code (pycocoevalcap 1.2) to 1e-6; its conventions, where the papers leave
a choice, are kept and said.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mellow_jax.data.text import tokens

Tokens = tuple[str, ...]
ORDERS = 4  # longest n-gram of BLEU and CIDEr-D

# What the COCO caption code drops from the Penn Treebank tokenizer's output. It looks for "-LRB-"
# in lower-cased words, so that brackets stay as words, "-lrb-"; kept, for the same figures.
PUNCTUATION = frozenset(
  ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", "-", "--", "...", *".?!,:;"]
)
# Signs that carry no word either.
_DROPPED = PUNCTUATION | frozenset('()[]{}"“”‘’–—…')
_LEAD = re.compile(r"\s*the audio 1 is\s+", re.IGNORECASE)


def strip_lead(text: str) -> str:
  """A caption without the leading "The audio 1 is " with which the reference trains its answers."""
  return _LEAD.sub("", text, count=1) if _LEAD.match(text) else text


def words(text: str) -> Tokens:
  """Lower-case words without punctuation: the tokenizer named [regex].

  Of AudioCaps' 4875 test captions 5 come out other than by the Penn Treebank tokenizer, [ptb].
  """
  return tuple(token for token in tokens(text) if token not in _DROPPED)


def _ngrams(tokens: Tokens) -> Counter[Tokens]:
  return Counter(
    tokens[i : i + n] for n in range(1, ORDERS + 1) for i in range(len(tokens) - n + 1)
  )


def bleu_counts(
  given: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> Float[np.ndarray, "N 10"]:
  """What BLEU is made of, one row a text; sums of rows give the corpus' BLEU.

  Columns: its length, that of the closest reference (the shorter of two as close), then for n = 1
  to 4 the n-grams that references hold (each as often as one reference has it), then all n-grams.
  """
  rows = []
  for text, others in zip(given, references, strict=True):
    counts, most = _ngrams(text), Counter()
    for other in others:
      most |= _ngrams(other)
    hits = [0] * ORDERS
    for ngram, count in counts.items():
      hits[len(ngram) - 1] += min(count, most[ngram])
    closest = min((abs(len(other) - len(text)), len(other)) for other in others)[1]
    totals = [max(0, len(text) - n) for n in range(ORDERS)]
    rows.append([len(text), closest, *hits, *totals])
  return np.array(rows, float)


def bleu(counts: Float[np.ndarray, "*M 10"]) -> Float[np.ndarray, "*M 4"]:
  """BLEU-1 to BLEU-4 of summed counts.

  Zero matches are smoothed by 1e-15 over 1e-9 as in the COCO code: BLEU-4 of a few short texts is
  then tiny, not zero.

  Source: Papineni et al. 2002, with the closest reference's length.
  """
  tiny, small = 1e-15, 1e-9
  length, closest = counts[..., :1], counts[..., 1:2]
  precision = (counts[..., 2:6] + tiny) / (counts[..., 6:] + small)
  ratio = (length + tiny) / (closest + small)
  with np.errstate(over="ignore"):
    brevity = np.where(ratio < 1, np.exp(np.minimum(1 - 1 / ratio, 0)), 1.0)
  return np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDERS + 1)) * brevity


def _common(a: Sequence[str], b: Sequence[str]) -> int:
  """Length of the longest common subsequence."""
  row = [0] * (len(b) + 1)
  for word in a:
    diagonal = 0
    for j, other in enumerate(b, 1):
      diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
  return row[-1]


def rouge_l(
  given: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> Float[np.ndarray, "N"]:
  """ROUGE-L of each text: F of the longest common subsequence, recall weighted by beta = 1.2.

  The best precision and the best recall over the references may come from two of them. A text
  without words counts as one empty word, as in the COCO code.

  Source: Lin 2004.
  """
  beta, scores = 1.2, []
  for text, others in zip(given, references, strict=True):
    text, others = text or ("",), [other or ("",) for other in others]
    common = [_common(text, other) for other in others]
    precision = max(common) / len(text)
    recall = max(c / len(other) for c, other in zip(common, others, strict=True))
    bottom = recall + beta**2 * precision
    scores.append((1 + beta**2) * precision * recall / bottom if bottom else 0.0)
  return np.array(scores, float)


MOST = 10.0  # of CIDEr-D; all other metrics of texts end at 1


def cider_d(
  given: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> Float[np.ndarray, "N"]:
  """CIDEr-D of each text, 0 to 10: cosine of n-grams weighted by how rare they are.

  Rare means in few items' references, so a figure holds for its set of items alone; of one item it
  is 0. Counts are clipped to the reference's, lengths compared in bigrams (sigma 6).

  Source: Vedantam et al. 2015, with the changes that make it CIDEr-D.
  """
  counted = [[_ngrams(other) for other in others] for others in references]
  frequency = Counter(ngram for others in counted for ngram in set().union(*others))
  documents = math.log(len(references)) if references else 0.0

  def weigh(counts: Counter[Tokens]) -> tuple[dict[Tokens, float], list[float], int]:
    """N-grams' weights, their norm for each n, and the number of bigrams."""
    weights = {
      ngram: count * (documents - math.log(max(1, frequency[ngram])))
      for ngram, count in counts.items()
    }
    squares = [0.0] * ORDERS
    for ngram, weight in weights.items():
      squares[len(ngram) - 1] += weight**2
    bigrams = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return weights, [math.sqrt(s) for s in squares], bigrams

  scores = []
  for text, others in zip(given, counted, strict=True):
    mine, my_norms, my_bigrams = weigh(_ngrams(text))
    total = 0.0
    for other in others:
      theirs, norms, bigrams = weigh(other)
      cosines = [0.0] * ORDERS
      for ngram, weight in mine.items():
        there = theirs.get(ngram, 0.0)
        cosines[len(ngram) - 1] += min(weight, there) * there
      penalty = math.exp(-((my_bigrams - bigrams) ** 2) / (2 * 6.0**2))
      for cosine, a, b in zip(cosines, my_norms, norms, strict=True):
        total += penalty * (cosine / (a * b) if a and b else cosine)
    scores.append(10 * total / ORDERS / len(others))
  return np.array(scores, float)
