"""Which option of a multiple-choice question an answer picks, by rules that differ on purpose.

Each rule is a pure function of the answer's text and of the options as they were shown. What a rule
cannot read is None, except where the public code of Mellow has a habit of its own: that is said.
"""

import re
from collections.abc import Sequence

from mellow_jax.data import choices
from mellow_jax.data.text import bare


def letter_reference(text: str) -> str:
  """What stands before the first ")" if it is one letter a to d, else "a".

  Everything that cannot be read counts as "a", as the public code of Mellow has it for
  multiple-choice questions and entailment: it hides failures and flatters whoever says "a".

  Source: get_option of the reference's evaluation.
  """
  head = text.split(")")[0].lower()
  return head if head in ("a", "b", "c", "d") else "a"


def letter_whole(text: str) -> str:
  """What stands before the first ")", lower-cased; without one it is the whole text.

  Nothing is read into it: "the answer is b) dog" gives "the answer is b", which is no letter.

  Source: the reference's MMAU metric.
  """
  return text.split(")")[0].lower()


def option_loglik(log_probs: Sequence[tuple[float, int]], *, per_token: bool) -> int:
  """The place of the most probable option, from (log-likelihood, tokens) of each.

  The sum prefers short options; the mean over an option's tokens does not.
  """
  scores = [total / tokens if per_token else total for total, tokens in log_probs]
  return max(range(len(scores)), key=scores.__getitem__)


# Why an answer picks no option, beside the paper's reasons (Appendix H).
REASONS = {
  "letter and text differ": "one option's letter before another's text; rules by text read it",
  "extra characters": "an option, written so that the reference's rule misses it "
  "(H: string parsing errors)",
  "empty": "no words at all",
  "several options": "more than one option",
  "denied or doubted": 'an option that is denied or doubted, as in "not B" and "maybe B"',
  "letter not offered": "the letter of an option that was not offered",
  "yes or no": "only yes or no (H: might only reply with a yes or no)",
  "unusual symbols": "no option, where options hold symbols beyond letters, digits and "
  "punctuation (H: out-of-distribution symbols)",
  "no option named": "other words: an option in words of its own, or none (H: unrelated answer)",
}
# Answers for these reasons are unparsed; those for the first two are read by some rule here.
UNPARSED = tuple(REASONS)[2:]

_USUAL = re.compile(r"[^\W_]|[\s.,;:!?'\"()/&-]")


def failure(text: str, options: Sequence[str]) -> str | None:
  """The reason (of REASONS) why an answer does not plainly pick an option; None if it does.

  Plain is an offered letter before the first ")", or an option's text as it is.
  """
  lettered = choices.picked_letter(text, options)
  named = choices.picked_text(text, options)
  if None not in (lettered, named) and options[lettered] != options[named]:
    return "letter and text differ"
  if choices.picked(text, options) is not None:
    texts = (option.strip().lower() for option in options)
    plain = letter_whole(text) in choices.LETTERS[: len(options)] or text.strip().lower() in texts
    return None if text and plain else "extra characters"
  if not re.search(r"\w", text):
    return "empty"
  found, answer = choices.mentioned(text, tuple(options)), bare(text)
  several = sum(bare(option) in answer for option in set(options)) > 1
  if several or max(len(found.letters), len(found.texts)) > 1:
    return "several options"
  if found.denied:
    return "denied or doubted"
  if found.letters:
    return "letter not offered"
  if answer in ("yes", "no"):
    return "yes or no"
  if any(_USUAL.sub("", option) for option in options):
    return "unusual symbols"
  return "no option named"
