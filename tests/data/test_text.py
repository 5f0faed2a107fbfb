"""What each normalisation makes equal, and what it leaves apart."""

import pytest

from mellow_jax.data import text


@pytest.mark.parametrize(
  ("given", "plain", "bare", "fold"),
  [
    ("  A  Dog\nbarks. ", "a dog barks", "a dog barks", "a dog barks"),
    ("**B flat!**", "**b flat!**", "b flat", "b flat"),
    ("What is it?", "what is it?", "what is it", "what is it?"),
    ("It’s “loud”", "it’s “loud”", "it’s “loud”", "it's \"loud"),
    (".5 s.", ".5 s", "5 s", "5 s"),
    ("C#", "c#", "c#", "c#"),
    ("STRASSE", "strasse", "strasse", "strasse"),
    ("Straße", "strasse", "straße", "strasse"),
    ("...", "", "", ""),
  ],
)
def test_what_is_made_comparable(given, plain, bare, fold):
  assert (text.plain(given), text.bare(given), text.fold(given)) == (plain, bare, fold)
  assert text.one_line(given) == " ".join(given.split())


def test_what_counts_as_a_word():
  given = "The dog's high-pitched bark_1, 3 times!"
  assert text.words(given) == ["the", "dog", "s", "high", "pitched", "bark_1", "3", "times"]
  assert text.whole_words(given) == ["the", "dog's", "high-pitched", "bark", "1", "3", "times"]
  assert text.tokens(given) == [
    *("the", "dog", "'s", "high-pitched", "bark_1", ",", "3", "times", "!")
  ]
