"""Plots the sound events a model's encoder detects below its answer: pictures and a JSON file.

  mellow inspect --checkpoint=DIR a.wav [b.wav] ["what is heard?"]

For each clip: its log-mel spectrogram, and over the same time axis the probabilities of the sound
events that the model's own audio encoder finds most likely; above them the answer. Words of the
answer that no event supports are named, by the rule stated in
evaluation/inspection/hallucination.py.

A clip longer than the model's input is cut into consecutive windows, each with an answer of its
own. Of two clips the first window of each is used. A picture holds six windows; more windows make
more pictures.

Source: the paper's appendix I and figure 10.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mellow_jax import cli, progress
from mellow_jax.errors import FlagsError
from mellow_jax.evaluation.inspection import hallucination

QUESTIONS = {1: "caption the audio", 2: "explain the difference in few words"}


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, flag_values=f)
  cli.define_checkpoint(f)
  asked = "The question; by default a caption, of two clips their difference."
  cli.define_clips(f, "prompt", "question", asked)
  text("output", "inspected", "Folder for the picture and the JSON file, named after the clips.")
  cli.define_device(f)
  cli.define_preset(f)
  flags.DEFINE_integer("top", 3, "Events drawn for each clip.", 1, 10, flag_values=f)
  flags.DEFINE_float(
    "threshold",
    hallucination.THRESHOLD,
    "Framewise probability from which on an event is detected.",
    *(0.0, 1.0),
    flag_values=f,
  )
  return f


def _inspect(f: flags.FlagValues, *words: str) -> None:
  cli.require(f, "checkpoint")
  clips, question = cli.clips_and_question(f.audio, f.prompt, words)
  if len(clips) not in QUESTIONS:
    raise FlagsError(f"{len(clips)} clips: give one or two files")
  with progress.stage("starting"):  # not before it is asked: JAX takes a second
    from mellow_jax import parallel
    from mellow_jax.evaluation.inspection import inspecting
    from mellow_jax.inference.api import Mellow

  parallel.require_device(f.device)
  model, output = Mellow.load(f.checkpoint, f.preset), Path(f.output)
  prompt = QUESTIONS[len(clips)] if question is None else question
  with progress.stage("looking for sound events"):
    found = inspecting.inspect(model, clips, prompt, output, top=f.top, threshold=f.threshold)
  for answer in found["answers"]:
    print(f"{' | '.join(answer['heard'])}: {answer['answer']}")
    if answer["check"] and answer["check"]["unsupported"]:
      print(f"  no event supports: {', '.join(answer['check']['unsupported'])}")
  if not found["rule"]["applies"]:
    print(f"words not checked: {found['rule']['why']}")
  print("\n".join(str(output / name) for name in found["pictures"]))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _inspect, example=None)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
