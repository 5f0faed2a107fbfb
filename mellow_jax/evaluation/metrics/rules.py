"""Rules by which one answer is right, wrong or unreadable, by name, for each kind of question."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mellow_jax.data import choices, text
from mellow_jax.evaluation.benchmarks.items import Kind, Prediction
from mellow_jax.evaluation.metrics import mmau, multiple_choice, yes_no


@dataclass(frozen=True, kw_only=True)
class ScoringRule:
  """A rule: right, wrong, or None where it cannot read the answer, which then counts as wrong.

  `judge` here is of an answer that was given; a question that could not be asked is for the
  function of this name.
  """

  name: str
  says: str
  judge: Callable[[Prediction], bool | None]
  can_fail: bool = False  # to read an answer


def shown(prediction: Prediction) -> list[str]:
  """The options' texts in the order in which the model saw them."""
  options = prediction.item.choices
  return [options[place] for place in prediction.order] if prediction.order else list(options)


def gold_letter(prediction: Prediction) -> str:
  """The letter of the right option as shown; of the first, where its text is offered twice."""
  return choices.LETTERS[shown(prediction).index(prediction.item.answer)]


def picked(prediction: Prediction) -> int | None:
  """The place among the options shown that an answer picks: by text, or else by letter."""
  return choices.picked(prediction.prediction, shown(prediction))


def _at(prediction: Prediction, place: int | None) -> bool | None:
  """Whether an option shown reads as the right one does: some are offered twice."""
  return None if place is None else shown(prediction)[place] == prediction.item.answer


def _letter_strict(p: Prediction) -> bool | None:
  return _at(p, choices.picked_letter(p.prediction, shown(p)))


def _word_for_word(prediction: Prediction) -> bool:
  """Whether the whole answer is the right option's letter and text; case and spaces are free."""
  offered, given = shown(prediction), _same_words(prediction.prediction)
  lines = zip(choices.lettered(offered), offered, strict=True)
  right = prediction.item.answer
  return any(given == _same_words(line) for line, option in lines if option == right)


def _same_words(said: str) -> str:
  return text.one_line(text.composed(said).lower())


def _loglik(prediction: Prediction, *, per_token: bool) -> bool:
  place = multiple_choice.option_loglik(prediction.option_log_probs, per_token=per_token)
  return prediction.item.choices[place] == prediction.item.answer


def _mmau(answer: str, prediction: Prediction) -> bool:
  return mmau.is_right(answer, prediction.item.answer, prediction.item.choices)


def _yes_or_no(prediction: Prediction) -> bool | None:
  word = choices.said_yes_or_no(prediction.prediction)
  return None if word is None else word == prediction.item.answer.lower()


PICKED = ScoringRule(
  name="option",
  can_fail=True,
  says="the option named, or else the one whose letter is given",
  judge=lambda p: _at(p, picked(p)),
)
OFFICIAL = ScoringRule(
  name="mmau_official",
  says='MMAU\'s own rule on sets of words, after a leading "b) " is stripped',
  judge=lambda p: _mmau(choices.split_letter(p.prediction)[1], p),
)
REFERENCE = ScoringRule(
  name="letter_reference",
  says='the letter before the first ")"; whatever cannot be read counts as "a"',
  judge=lambda p: multiple_choice.letter_reference(p.prediction) == gold_letter(p),
)
REFERENCE_WHOLE = ScoringRule(
  name="letter_reference [whole]",
  says='all before the first ")" is the right letter, as the reference scores MMAU',
  judge=lambda p: multiple_choice.letter_whole(p.prediction) == gold_letter(p),
)
LETTER_STRICT = ScoringRule(
  name="letter_strict",
  can_fail=True,
  says="the one letter given, in any usual form; none or several are wrong",
  judge=_letter_strict,
)
OPTION_TEXT = ScoringRule(
  name="option-text accuracy",
  can_fail=True,
  says="the one option whose text is named; a letter alone is wrong",
  judge=lambda p: _at(p, choices.picked_text(p.prediction, shown(p))),
)
WORD_FOR_WORD = ScoringRule(
  name="word-for-word accuracy",
  says='the whole answer is the right option with its letter, "b) dog"',
  judge=_word_for_word,
)
_CHOICE = (LETTER_STRICT, OPTION_TEXT, WORD_FOR_WORD)
_OFFICIAL_AS_WRITTEN = ScoringRule(
  name="mmau_official [as written]",
  says='MMAU\'s own rule with the letter left in: "a" may be a word of a wrong option',
  judge=lambda p: _mmau(p.prediction, p),
)
_LOGLIK = tuple(
  ScoringRule(
    name=f"option_loglik [{'per token' if per_token else 'sum'}]",
    says=f"the most probable option, by {'mean' if per_token else 'summed'} log-likelihood",
    judge=lambda p, per_token=per_token: _loglik(p, per_token=per_token),
  )
  for per_token in (False, True)
)
YES_OR_NO = ScoringRule(
  name="yes_or_no",
  can_fail=True,
  says='the first word is yes or no, or follows "the answer is" or the like',
  judge=_yes_or_no,
)
CONTAINS = ScoringRule(
  name="contains",
  says='the right word\'s letters are anywhere in the text: "no" is in "another"',
  judge=lambda p: yes_no.contains(p.prediction, p.item.answer),
)
# Whose own rule is MMAU's, and whose paper figures of Mellow come from whole letters.
OFFICIAL_BENCHMARKS = ("mmau", "mmau-test", "mmar")


def of_kind(kind: Kind, predictions: Sequence[Prediction]) -> list[ScoringRule]:
  """The rules for questions of one kind, the one that stands for the rest first.

  Free text has none: its metrics are not right or wrong.
  """
  if kind == "text":
    return []
  if kind == "binary":
    return [YES_OR_NO, CONTAINS]
  asked = [p for p in predictions if not p.failure]
  loglik = _LOGLIK if asked and all(p.option_log_probs for p in asked) else ()
  if predictions[0].benchmark in OFFICIAL_BENCHMARKS:
    return [OFFICIAL, _OFFICIAL_AS_WRITTEN, REFERENCE_WHOLE, PICKED, *_CHOICE, *loglik]
  if kind == "entailment":
    return [PICKED, REFERENCE, *_CHOICE, *loglik]
  return [PICKED, REFERENCE, *_CHOICE, OFFICIAL, _OFFICIAL_AS_WRITTEN, *loglik]


def judge(
  rule: ScoringRule, predictions: Sequence[Prediction]
) -> tuple[Float[np.ndarray, "N"], float]:
  """1 where right and 0 elsewhere, and the share of answers that the rule cannot read.

  A question that could not be asked is wrong by every rule, also by one that reads something into
  no answer.
  """
  found = [False if p.failure else rule.judge(p) for p in predictions]
  unread = sum(one is None for one in found) / len(found)
  return np.array([float(bool(one)) for one in found], float), unread
