"""Which words of an answer no detected sound event supports: an explicit rule, for people to check.

1. A word is a run of the letters a to z. Words are compared by their stem: -s is cut off, then
   -ing, -ed or (of -sion and -tion) -ion, then a final e from words of five letters and more; a
   doubled last consonant counts once and a final y as i. Two short tables set irregular forms
   right and let speaking and talking stand for speech.
2. A word names a sound if it occurs in the name of any of AudioSet's 527 classes and is not one of
   NOT_SOUNDS. All other words of an answer are left alone.
3. The classes of a word are all those whose name holds it: "horn" has train horns and French horns.
4. A word is supported if one of its classes reaches the threshold in at least one time step of the
   windows that were heard, by the framewise probability of the encoder's own event head.
5. A word that names a sound and is not supported is flagged.

The rule knows no classes above or below others, no negation ("no dog is heard" flags dog) and no
synonyms but those two. It applies to encoders of 527 classes, taken to be AudioSet's.

Source: the paper's appendix I compares answers and events by eye; the rule is our own.
"""

import dataclasses
import functools
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.data import audioset

RULE = " ".join(__doc__.split())
THRESHOLD = 0.1  # probability; a choice, not tuned on any data

# Words of class names that name no sound when they stand in a sentence: function words, qualities,
# places, parts of bodies and machines, and words whose everyday sense is another.
_NOT_SOUNDS = """
  a and by etc for of on or s with
  africa age ambient america angry asia background bollywood busy carnatic christian christmas
  civil classical close country dance defense domestic double eastern effect electric electronic
  emergency environmental exciting farm fixed folk french frequency funny happy heavy high
  independent inside key large latin light low mains manmade mechanical medium mid middle natural
  new open outside pink power progressive psychedelic public rural sad scary single small synthetic
  tender traditional underground urban white wild
  acoustic air arrow auto battle belly biting block blues bow bowl call cap change church cleaner
  clearing clip clothing computer conditioning cream detector drawer dropping field filing fill
  finger flight fly food fork game hair hall hands harmonic hat heart hi hip hop house ice kit lawn
  leaves lens machine metal passing performance playing race racing recording reflex register
  rhythm road roadway rock room run sanding section signal smoke soul sound space starting steel
  stomach surface swing technique theme throat tone tool transport tuning unit video wedding
  windows wing working
"""
NOT_SOUNDS = frozenset(_NOT_SOUNDS.split())

# Words that the endings do not lead to each other.
IRREGULAR = {
  "men": "man",
  "women": "woman",
  "children": "child",
  "mice": "mouse",
  "geese": "goose",
  "wolves": "wolf",
  "idle": "idling",
  "idles": "idling",
  "spoke": "speaking",
  "spoken": "speaking",
  "sang": "singing",
  "sung": "singing",
  "rang": "ringing",
  "rung": "ringing",
}
SAME = {"speak": "speech", "talk": "speech"}  # stem to stem


@dataclass(frozen=True)
class Word:
  """A word of an answer that names a sound."""

  word: str
  event: str  # the most probable of its classes
  peak: float  # that class's highest framewise probability
  supported: bool


def stem(word: str) -> str:
  """What is compared of a word in lower case."""
  root = IRREGULAR.get(word, word)
  if not root.endswith(("ss", "us", "is")):
    root = root.removesuffix("s")
  shorter = re.sub(r"(?:ing|ed|(?<=[st])ion)$", "", root)
  # What remains must still be a word: "ping", "string" and "speed" have no ending.
  if len(shorter) >= 3 and re.search(r"[aeiouy]", shorter):
    root = shorter
  # A rate is no rat.
  if len(root) >= 5:
    root = root.removesuffix("e")
  if re.search(r"([bdgkmnprtv])\1$", root):
    root = root[:-1]
  if root.endswith("y"):
    root = root[:-1] + "i"
  elif root.endswith("ie"):
    root = root[:-1]
  return SAME.get(root, root)


def words(text: str) -> list[str]:
  """The words of a text in lower case, in order."""
  return re.findall(r"[a-z]+", text.lower())


@functools.cache
def vocabulary() -> dict[str, tuple[int, ...]]:
  """Stem of each word that names a sound, to the classes whose names hold it."""
  excluded = {stem(word) for word in NOT_SOUNDS}
  found: dict[str, list[int]] = {}
  for index, name in enumerate(audioset.CLASSES):
    for root in dict.fromkeys(map(stem, words(name))):
      if root not in excluded:
        found.setdefault(root, []).append(index)
  return {root: tuple(classes) for root, classes in found.items()}


def applies(classes: int) -> bool:
  """Whether the encoder's classes can be AudioSet's."""
  return classes == len(audioset.CLASSES)


def check(answer: str, peaks: Float[np.ndarray, "E"], threshold: float = THRESHOLD) -> list[Word]:
  """Every word of an answer that names a sound, once, with what supports it.

  peaks is each class's highest framewise probability in what was heard. Raises ValueError where
  there are not as many classes as AudioSet has.
  """
  if not applies(len(peaks)):
    raise ValueError(f"{len(peaks)} classes have no names: AudioSet has {len(audioset.CLASSES)}")
  found = {}
  for word in words(answer):
    root = stem(word)
    if root in found or root not in vocabulary():
      continue
    best = max(vocabulary()[root], key=lambda index: peaks[index])
    peak = float(peaks[best])
    found[root] = Word(word, audioset.CLASSES[best], peak, peak >= threshold)
  return list(found.values())


def report(found: list[Word], threshold: float) -> dict:
  """The check of one answer as JSON holds it."""
  return {
    "threshold": threshold,
    "words": [dataclasses.asdict(word) for word in found],
    "unsupported": [word.word for word in found if not word.supported],
  }
