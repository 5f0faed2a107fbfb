"""Speed of the audio encoder HTSAT beside the public PyTorch code and Hugging Face, in turns.

  python -m benchmarks.encoder --reference=mellow-training --output=encoder.json

Clips of ten seconds, from the waveform, in float32. "reference" is a checkout's HTSAT with our
weights, without gradients; latent and framewise events of a clip must agree to 1e-4 of their
largest entry before anything is timed. "Hugging Face, from log-mel" is the HTSAT of its CLAP, of
the same sizes, with weights of its own, and without the spectrogram. The limit is the arithmetic of
products and convolutions at the rate of the better of two matrix products.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import inputs, roofline, rounds

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-4  # of the largest entry
REFERENCE, HUGGING_FACE = "reference", "Hugging Face, from log-mel"


def run(args: argparse.Namespace) -> dict:
  """The measurement; its report."""
  from benchmarks import contestants

  report = rounds.Report("encoder", args)
  cfg, why = inputs.model(args.tiny, layers=1), rounds.no_reference(args)
  if why:
    report.skip(REFERENCE, why)
  if args.tiny or not rounds.has("torch"):
    report.skip(HUGGING_FACE, "it has one size" if args.tiny else "torch is not installed")
  with tempfile.TemporaryDirectory() as name:
    write = (contestants.write_weights, cfg, Path(name), not why)
    rounds.apart(*write, own_process=not args.tiny)
    machine = rounds.machine(cfg, cfg.prefix_tokens, args.tiny)
    for batch in map(int, args.batch.split(",")):
      report.add(measure(args, cfg, batch, Path(name), report, machine))
    machine.close()
  return report.content


def measure(
  args: argparse.Namespace,
  cfg: inputs.ModelConfig,
  batch: int,
  weights: Path,
  report: rounds.Report,
  machine: rounds.Contestant,
) -> dict:
  """The table of a batch size."""
  from benchmarks import contestants

  makes = {}
  if rounds.has("torch") and not args.tiny:
    from benchmarks import reference

    if not rounds.no_reference(args):
      fields = (args.reference, cfg, batch, weights, args.steps)
      makes[REFERENCE] = partial(reference.Encoder, *fields)
    makes[HUGGING_FACE] = partial(reference.HuggingFaceEncoder, batch, args.steps)
  makes["ours"] = partial(contestants.Encoder, cfg, batch, weights, args.steps)
  own_process = not args.tiny
  flops = rounds.apart(contestants.encoder_flops, cfg, batch, own_process=own_process)
  everyone = [
    rounds.Contestant(one, batch, make, work=flops, own_process=own_process)
    for one, make in makes.items()
  ]
  if REFERENCE in makes:
    check(report, batch, everyone[0].call("outputs"), everyone[-1].call("outputs"))
  table = rounds.table(
    f"encoder, batch {batch}",
    "clips/s",
    everyone,
    rounds.take_turns(everyone, args.rounds, machine),
    limit=rounds.Limit("GFLOP/s", "products and convolutions of a batch"),
    peers=(REFERENCE, HUGGING_FACE),
  )
  rounds.add_memory(table, everyone)
  own = everyone[-1]
  roofline.add(table, {own.name: roofline.Work(flops, own.traffic())}, "what the program moves")
  for one in everyone:
    one.close()
  return table


def check(report: rounds.Report, batch: int, expected: Arrays, found: Arrays) -> None:
  """Ends the program where the outputs of two encoders differ."""
  for name, array in expected.items():
    difference = float(np.abs(found[name] - array).max() / np.abs(array).max())
    report.agree(f"{name}, batch {batch}", difference, TOLERANCE)


def parser() -> argparse.ArgumentParser:
  found = rounds.parser(__doc__, reference=True)
  found.add_argument("--batch", default="1,8")
  found.add_argument("--steps", type=int, default=4, help="batches of a turn")
  return found


def main(argv: Sequence[str]) -> None:
  run(parser().parse_args(argv))


if __name__ == "__main__":
  main(sys.argv[1:])
