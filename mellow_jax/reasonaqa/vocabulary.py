"""The words of a text, and those of them that carry its content."""

import re

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_LETTER = re.compile(r"(?<!\S)[A-Ha-h]\) ")  # of an option, which is no word
# Words that English texts have whatever they are about.
_STOP_WORDS = """
  a about above after again against all along also although am an and another any are as at away
  be because been before being below between both but by can cannot could did do does doing down
  due during each either else ever every few for from further had has have having he her here hers
  herself him himself his how i if in into is it its itself just may me might more most much must my
  myself near no nor not now of off on once one only onto or other our ours ourselves out over own
  per same shall she should since so some something such than that the their theirs them themselves
  then there these they this those though through to too towards under until up upon us very was we
  were what when where whether which while who whom whose why will with within without would yes
  yet you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def words(text: str) -> list[str]:
  """The words of a text in lower case; letters of options, "a) ", are none."""
  return _WORD.findall(_LETTER.sub(" ", text).lower())


def content_words(text: str) -> list[str]:
  """The words of a text that are no stop words."""
  return [word for word in words(text) if word not in STOP_WORDS]
