"""Fits the temperature of a model's decisions, and keeps it in the model folder.

  mellow evaluate predict --benchmark=reasonaqa --data=val.json --checkpoint=DIR --options_loglik \\
    --output=val.jsonl
  mellow calibrate --checkpoint=DIR --predictions=val.jsonl

Give predictions of rows that the model was not trained on, and that no figure is reported of, made
with their own clips. The report has the expected calibration error before and after on the
questions about every second clip, with the temperature of the others; what is kept is fitted on all
of them.
"""

import functools
import sys
from collections.abc import Sequence

from absl import flags

from mellow_jax import cli
from mellow_jax.errors import PredictionsError

LEAST = 20  # choices


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, flag_values=f)
  cli.define_checkpoint(f, "Model folder that the temperature is kept in")
  text("predictions", None, "Answers of this model, with --options_loglik.")
  flags.DEFINE_bool("dry_run", False, "Print what would be kept.", flag_values=f)
  return f


def _calibrate(f: flags.FlagValues) -> None:
  cli.require(f, "checkpoint", "predictions")
  # Here, so that --help needs none of it.
  from mellow_jax import checkpoint
  from mellow_jax.evaluation.benchmarks import prediction_files
  from mellow_jax.evaluation.metrics import calibration

  checkpoint.load_calibration(f.checkpoint)  # a damaged folder is told before anything is read
  read = prediction_files.read(f.predictions)
  made_by = read.settings.get("checkpoint_sha256")
  if made_by is not None and made_by != checkpoint.identity(f.checkpoint):
    raise PredictionsError(
      f"{f.predictions}: was made by another model than {f.checkpoint}: predict with this one, or "
      "name the model folder that made it with --checkpoint"
    )
  # What takes the place of clips; silence beside a clip is heard where a model was trained so.
  probed = f"--audio={read.heard}" if read.heard != "clips" else ""
  if read.settings.get("audio2") == "random":
    probed = probed or "--audio2=random"
  if probed:
    raise PredictionsError(
      f"{f.predictions}: was made with {probed}, which tells nothing of answers to the clips: "
      "predict without it"
    )
  found = [p for p in read.predictions if p.option_log_probs and p.item.answer in p.item.choices]
  if len(found) < LEAST:
    raise PredictionsError(
      f"{f.predictions}: {len(found)} choices with log-likelihoods, {LEAST} are needed: answer "
      "with --options_loglik"
    )
  scores = [[total for total, _ in p.option_log_probs] for p in found]
  answers = [p.item.choices.index(p.item.answer) for p in found]
  # By clip, so that no clip is both fitted and reported.
  numbers = {clip: i for i, clip in enumerate(dict.fromkeys(p.item.audio1 for p in found))}
  if len(numbers) == 1:
    raise PredictionsError(f"{f.predictions}: all choices are about one clip, two are needed")
  fits, rest = (
    [i for i, p in enumerate(found) if numbers[p.item.audio1] % 2 == half] for half in (0, 1)
  )
  fitted = calibration.fit([scores[i] for i in fits], [answers[i] for i in fits])
  before, after = (
    calibration.expected_error(
      calibration.bins([scores[i] for i in rest], [answers[i] for i in rest], temperature)
    )
    for temperature in (1.0, fitted)
  )
  print(f"expected calibration error on {len(rest)} choices of {f.predictions}:")
  print(f"  temperature 1: {before:.4f}   temperature {fitted:.3f}, of the others: {after:.4f}")
  temperature = calibration.fit(scores, answers)
  if not f.dry_run:
    checkpoint.save_calibration(f.checkpoint, temperature, choices=len(found))
    print(f"temperature {temperature:.3f} is kept in {f.checkpoint}/calibration.json")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status."""
  example = "--checkpoint=DIR --predictions=FILE"
  return cli.run(argv, _flags(), __doc__, _calibrate, example=example, waits_for="fitting")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
