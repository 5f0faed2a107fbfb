"""Training speed and memory beside the public PyTorch code, in turns.

  python -m benchmarks.train --reference=mellow-training --output=train.json
  python -m benchmarks.train --reference=mellow-training --layers=2 --rounds=1     (to try it)

"reference" is a checkout's training step as it is: float32, 250 slots for every answer, logits at
every position, its clipping and Adam. "PyTorch, lean" is the same model with the encoder outside
the gradient, logits at answers alone, fused Adam, and on a CPU the memory of a step kept for the
next, as ours keeps it. "identical work" computes what the reference computes, the encoder in
training mode included. The rows below it leave out work: answers in four compiled lengths (the
same update), batches of answers of one length, cached features, and eight questions that share
their clips. A step's time is then averaged over the lengths that answers of ReasonAQA take; their
distribution is drawn from benchmarks/inputs.py.

All have the same random weights. Before anything is timed, loss and norm of the gradient of one
batch without dropout must agree: to 1e-4 and 1e-3 of their size in float32, 2e-2 in bfloat16. Each
contestant trains in a process of its own, so that its peak memory is its own, and in another for
each turn, so that one at a time is in memory; --keep keeps them. The limit is the arithmetic of the
row's step at the rate of the better of two matrix products.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import inputs, roofline, rounds
from mellow_jax.config import Config, DataConfig, OptimConfig

REFERENCE, LEAN, COMPILED = "reference", "PyTorch, lean", "PyTorch, compiled"
IDENTICAL, LENGTHS, GROUPED = "identical work", "answer lengths", "batches of one length"
TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 2e-2)}  # of loss and gradient's norm
QUESTIONS = 8  # that share their clips
CACHED, SHARED = "cached features", f"{QUESTIONS} questions on shared clips"
ROWS = (REFERENCE, LEAN, COMPILED, IDENTICAL, LENGTHS, GROUPED, CACHED, SHARED)


def works(model: inputs.ModelConfig, batch: int, count: int = 4) -> dict[str, Config]:
  """The ways to train of this package by name, the first of them with all of the work.

  count is that of the lengths of answers that the others are compiled for.
  """
  lengths = {"answer_lengths": count}
  one_length = {**lengths, "group_answers": True}
  cached = {**one_length, "features": "noise"}
  random = {"batch_statistics": True, "spec_augment": True, "stochastic_depth": 0.1}
  encoder = dataclasses.replace(model.encoder, **random)

  def run(size: int = batch, **data: object) -> Config:
    return Config(
      model=model, data=DataConfig(**data), optim=OptimConfig(warmup_steps=100), batch_size=size
    )

  identical = dataclasses.replace(
    run(), model=dataclasses.replace(model, encoder=encoder), encoder_train_mode=True
  )
  shared = -(-batch // QUESTIONS) * QUESTIONS
  return {
    IDENTICAL: identical,
    LENGTHS: run(**lengths),
    GROUPED: run(**one_length),
    CACHED: run(**cached),
    SHARED: run(shared, **cached, share_prefix=QUESTIONS),
  }


def check(report: rounds.Report, args: argparse.Namespace, ours: Sequence, folder: Path) -> None:
  """Ends the program where the first steps of contestants differ."""
  from benchmarks import contestants

  apart = partial(rounds.apart, own_process=not args.tiny)
  expected = apart(contestants.first_step, ours[0], folder)
  same = [each for each in ours if each.name == LENGTHS]  # what other rows learn from is noise
  found = {each.name: apart(contestants.first_step, each, folder) for each in same}
  if not rounds.no_reference(args):
    from benchmarks import reference

    for name in peers(args):
      found[name] = apart(reference.first_step, _setup(args, ours[0].cfg, folder, name))
  for name, values in found.items():
    what = (f"loss, {name}", f"norm of the gradient, {name}")
    for each, value, own, most in zip(what, values, expected, TOLERANCES[args.dtype], strict=True):
      report.agree(each, abs(value - own) / abs(own), most)


def peers(args: argparse.Namespace) -> list[str]:
  """Contestants of PyTorch."""
  found = [REFERENCE, LEAN, *([COMPILED] if rounds.has_compiler() else [])]
  return [name for name in found if not args.only or name in args.only]


def _setup(args: argparse.Namespace, cfg: Config, folder: Path, name: str) -> Any:
  from benchmarks import reference

  lean = name != REFERENCE
  dtype = args.dtype if lean else "float32"
  sizes = (args.reference, cfg.model, cfg.batch_size, folder)
  return reference.Setup(*sizes, lean, dtype, compiled=name == COMPILED)


def run(args: argparse.Namespace) -> dict:
  """The measurement; its report."""
  # Contestants share a GPU; and what one holds shall be what it needs.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  from benchmarks import contestants

  report = rounds.Report("train", args)
  model = inputs.model(args.tiny, args.layers, args.dtype)
  ours = [
    contestants.Work(name, cfg)
    for name, cfg in works(model, args.batch, args.lengths).items()
    if not args.only or name in (IDENTICAL, *args.only)
  ]
  own_process = not args.tiny
  why = rounds.no_reference(args)
  if why:
    report.skip(f"{REFERENCE} and {LEAN}", why)
  elif not rounds.has_compiler():
    report.skip(COMPILED, rounds.NO_COMPILER)
  apart = partial(rounds.apart, own_process=own_process)
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    apart(contestants.write_weights, model, folder, not why)
    check(report, args, ours, folder)
    flops = {each.name: apart(contestants.training_flops, each.cfg) for each in ours}
    start = partial(rounds.Contestant, own_process=own_process, anew=not args.keep)
    machine = rounds.machine(model, args.batch * model.prefix_tokens, args.tiny, args.dtype)
    everyone = []
    if not why:
      from benchmarks import reference

      for one in peers(args):
        make = partial(reference.Training, _setup(args, ours[0].cfg, folder, one), args.steps)
        everyone.append(start(one, args.batch, make, work=flops[ours[0].name]))
    for each in ours:
      make = partial(contestants.Training, each, folder, args.steps)
      everyone.append(start(each.name, each.cfg.batch_size, make, work=flops[each.name]))
    measured = rounds.take_turns(everyone, args.rounds, machine)
    table = rounds.table(
      f"training, batch {args.batch}, {args.dtype}",
      "examples/s",
      everyone,
      measured,
      limit=rounds.Limit("GFLOP/s", "products and convolutions of a step"),
      peers=(*peers(args), ours[0].name),
    )
    rounds.add_memory(table, everyone)
    work = {one.name: roofline.Work(one.work, one.traffic()) for one in everyone[-len(ours) :]}
    for one in (machine, *everyone):
      one.close()
    for row, each in zip(table["rows"][-len(ours) :], ours, strict=True):
      row["slots for answers"] = contestants.slots(each.cfg)
    roofline.add(table, work, "what the program moves")
    report.add(table)
    for each in ours if args.profile else ():
      report.profile(each.name, apart(contestants.profile, each, folder))
  return report.content


def parser() -> argparse.ArgumentParser:
  found = rounds.parser(__doc__, reference=True)
  found.add_argument("--batch", type=int, default=4)
  found.add_argument("--steps", type=int, default=1, help="of a turn; 10 on an accelerator")
  found.add_argument("--lengths", type=int, default=4, help="of answers, each compiled")
  text = "a row by its name, and again for others; identical work is always measured"
  found.add_argument("--only", action="append", choices=ROWS, help=text)
  found.add_argument("--keep", action="store_true", help="all in memory at once, and quicker")
  found.add_argument("--dtype", choices=[*TOLERANCES], default="float32")
  found.add_argument("--profile", action="store_true", help="where the time of our steps goes")
  return found


def main(argv: Sequence[str]) -> None:
  run(parser().parse_args(argv))


if __name__ == "__main__":
  main(sys.argv[1:])
