"""Mellow as a model of lmms-eval, for whoever runs that harness already:

  python -m lmms_eval --model mellow --model_args checkpoint=DIR --tasks mmau_test_mini

Multiple choices are put to the model in its own form (see `harness`), and answered by an upper-case
letter. Where the model's words pick no option, the one it finds most probable is taken, and how
often is said at the end: without a letter the harness would draw one at random. lmms-eval's parser
of MMAU knows the letters A to D alone.

Source: the model guide of lmms-eval 0.7.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from mellow_jax.data import choices
from mellow_jax.evaluation.external import harness
from mellow_jax.evaluation.metrics import multiple_choice
from mellow_jax.inference.api import Mellow, Row
from mellow_jax.inference.decode import Sampling

MAX_NEW_TOKENS = 300  # unless the task says; as the reference stops


class MellowLmms(lmms):
  """Answers lmms-eval's requests, greedily and in batches."""

  is_simple = True  # requests hold a text and a function for the clips

  def __init__(
    self,
    checkpoint: str,
    preset: str | None = None,
    batch_size: int | str = 1,
    max_batch_size: int | None = None,
    device: str | None = None,
  ):
    """checkpoint and preset are model_args; the others come from lmms-eval's own flags.

    JAX chooses the device, and batches do not grow: max_batch_size and device are ignored.
    """
    super().__init__()
    del max_batch_size, device
    self.model = Mellow.load(checkpoint, preset)
    self.batch_size = int(batch_size)

  # --- What lmms-eval calls ----------------------------------------------------------------------

  def generate_until(self, requests: list[Instance]) -> list[str]:
    """The answer to each request: a letter where it has options, else the model's words."""
    limits = [_max_new_tokens(request.args[1]) for request in requests]
    texts = [""] * len(requests)
    for limit in dict.fromkeys(limits):
      places = [i for i, own in enumerate(limits) if own == limit]
      found = self.model.stream(
        self._rows(requests[i] for i in places),
        sampling=Sampling(max_new_tokens=limit),
        batch_size=self.batch_size,
      )
      for i, answer in zip(places, found, strict=True):
        texts[i] = answer.text
    answers = []
    for request, text, pick in zip(requests, texts, self._picks(requests, texts), strict=True):
      context, how = request.args[:2]
      answers.append(
        _cut(text, how.get("until")) if pick is None else choices.LETTERS[pick].upper()
      )
      self.cache_hook.add_partial("generate_until", (context, how), answers[-1])
    return answers

  def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
    """Each target's log-likelihood with its end, and whether it is the greedy answer."""
    targets = []
    for _, target, _, doc_id, task, split in (request.args for request in requests):
      targets.append(target(self.task_dict[task][split][doc_id]) if callable(target) else target)
    rows = list(self._rows(requests))
    scores = self.model.score(rows, [[target] for target in targets], batch_size=self.batch_size)
    answers = self.model.answers(rows, batch_size=self.batch_size)
    return [
      (score[0][0], answer.text == target.strip())
      for score, answer, target in zip(scores, answers, targets, strict=True)
    ]

  def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
    """Refused: the model holds no conversations."""
    raise NotImplementedError("Mellow answers one question at a time: choose another task")

  # --- Parts -------------------------------------------------------------------------------------

  def _rows(self, requests: Iterable[Instance]) -> Iterator[Row]:
    """What the model is asked, one request after the other: a task's clips can fill the memory."""
    for context, _, doc_to_visual, doc_id, task, split in (r.args for r in requests):
      clips = doc_to_visual(self.task_dict[task][split][doc_id])
      if not 1 <= len(clips) <= 2:
        raise ValueError(f"a request has {len(clips)} clips, where the model takes one or two")
      first, *second = clips
      asked = harness.prompt(*choices.split_lines(context), self.model.preset.name)
      yield first, second[0] if second else None, asked

  def _picks(self, requests: list[Instance], texts: list[str]) -> list[int | None]:
    """The place of the option that each text picks; None where there are no options."""
    options = [choices.split_lines(request.args[0])[1] for request in requests]
    picks = [harness.place_of(t, c) if c else None for t, c in zip(texts, options, strict=True)]
    unread = [i for i, pick in enumerate(picks) if options[i] and pick is None]
    if unread:
      scores = self.model.score(
        list(self._rows(requests[i] for i in unread)),
        [choices.lettered(options[i]) for i in unread],
        batch_size=self.batch_size,
      )
      for i, pairs in zip(unread, scores, strict=True):
        picks[i] = multiple_choice.option_loglik(pairs, per_token=True)
      print(
        f"mellow: of {sum(map(bool, options))} multiple choices {len(unread)} were answered in "
        "words that pick no option: the most probable one was taken",
        file=sys.stderr,
      )
    return picks


def _max_new_tokens(how: dict[str, Any]) -> int:
  if how.get("do_sample") or (how.get("temperature") or 0) > 0 or (how.get("num_beams") or 1) > 1:
    raise ValueError(f"Mellow answers greedily here, and the task asks for {how}")
  return int(how.get("max_new_tokens", MAX_NEW_TOKENS))


def _cut(text: str, until: str | Sequence[str] | None) -> str:
  """The text up to the first of the strings that end it."""
  for end in [until] if isinstance(until, str) else until or ():
    text = text.split(end)[0] if end else text
  return text
