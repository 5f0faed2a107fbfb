"""The words of a text, and its content words."""

from mellow_jax.data import choices
from mellow_jax.data.text import whole_words

# Stop words: words of English texts on any subject.
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
  return whole_words(choices.without_letters(text))


def content_words(text: str) -> list[str]:
  """The words of a text that are no stop words."""
  return [word for word in words(text) if word not in STOP_WORDS]
