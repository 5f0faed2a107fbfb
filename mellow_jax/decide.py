"""Decides typed questions about a clip: the probability of yes, of each option, of each level.

  mellow decide --checkpoint=DIR clip.wav "which sound is heard?" --options=dog,rain,car
  mellow decide --checkpoint=DIR clip.wav "is there a dog?"
  mellow decide --checkpoint=DIR clip.wav "how loud is it?" --levels=soft,medium,loud

Without --options and --levels the question is answered by yes or no. A second clip may follow the
first. `mellow calibrate` makes a model's probabilities right as often as they say.
"""

import functools
import json
import sys
from collections.abc import Sequence

from absl import flags

from mellow_jax import cli
from mellow_jax.errors import FlagsError

BAR = 40  # characters


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, flag_values=f)
  words = functools.partial(flags.DEFINE_list, default=[], flag_values=f)
  cli.define_checkpoint(f)
  cli.define_clips(f, "question", "prompt", "The question, where it does not follow the clips.")
  words("options", help="The options of a choice.")
  words("levels", help="The levels of a rating, in ascending order.")
  text("state", "", "What is known beside the clip: text before the question.")
  flags.DEFINE_bool("json", False, "Print a line of JSON instead of bars.", flag_values=f)
  cli.define_preset(f)
  cli.define_device(f)
  return f


def _decide(f: flags.FlagValues, *words: str) -> None:
  cli.require(f, "checkpoint")
  clips, f.question = cli.clips_and_question(f.audio, f.question, words)
  cli.require(f, "question")
  if not 1 <= len(clips) <= 2:
    raise FlagsError(f"{len(clips)} clips: give one or two files")
  if f.options and f.levels:
    raise FlagsError("--options make a choice, --levels a rating: give one of them")
  for name in ("options", "levels"):
    if f[name].present and not f[name].value:
      raise FlagsError(f"--{name} is empty: give texts with commas between them, or drop it")
  # Here, so that --help needs none of it.
  from mellow_jax import parallel
  from mellow_jax.inference.api import Mellow
  from mellow_jax.inference.decide import Choice, Rating, YesNo
  from mellow_jax.inference.notes import NoteCounts

  parallel.require_device(f.device)
  if f.options:
    question = Choice(f.question, tuple(f.options))
  elif f.levels:
    question = Rating(f.question, tuple(f.levels))
  else:
    question = YesNo(f.question)
  model = Mellow.load(f.checkpoint, f.preset)
  model.warns, counts = False, NoteCounts()
  second = clips[1] if clips[1:] else None
  found = model.decide(clips[0], {"": question}, audio2=second, state=f.state)[""]
  counts.add(" and ".join(clips), found.notes)
  counts.say()
  if f.json:
    probabilities = dict(zip(found.options, found.probabilities, strict=True))
    line = {"best": found.best, "probabilities": probabilities, "confidence": found.confidence}
    line |= {"expected": found.expected} if f.levels else {}
    print(json.dumps(line | {"notes": {note.kind: note.detail for note in found.notes}}))
    return
  width = max(map(len, found.options))
  for option, probability in zip(found.options, found.probabilities, strict=True):
    print(f"{option:<{width}} {100 * probability:5.1f} %  {'#' * round(BAR * probability)}")
  print(f"confidence {found.confidence:.2f}")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status."""
  return cli.run(argv, _flags(), __doc__, _decide, example=None, waits_for="deciding")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
