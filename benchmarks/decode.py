"""Decoding speed, in turns: without a cache, Hugging Face with a cache, also compiled, and ours.

  pip install -e '.[torch]'        (or, for a CPU, `pip install torch` from a CPU build)
  python -m benchmarks.decode --new_tokens=64 --batch=1,8 --output=decode.json

All get the same random weights at full size, the same prefix of 389 embeddings and decode
greedily, in float32 or as --dtype says. In float32 their tokens must agree before anything is
timed; in bfloat16, where two logits may change places, what the most probable first token of each
row has as its log-probability, to 0.1. "reference" works as the
public PyTorch code does: the whole sequence anew for every token, logits at every position. It is
timed at the first, a middle and the last token only, since a token takes seconds. "Hugging Face,
compiled" has a static cache and a step compiled by PyTorch, which needs a C++ compiler on a CPU.

The limit is what memory allows: a token reads every decoder weight once, and each row of the batch
its cached keys and values. The ceiling is that of the whole answer: the prefill's arithmetic, which
no cache avoids, at the full rate, and then every token at the limit. Bandwidth and arithmetic take
their turn in every round, since on a shared machine they can double from one minute to the next:
the better of two reads of 1 GiB by all cores, and of two products of the prefix with a matrix.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import inputs, roofline, rounds
from mellow_jax.errors import how_to_install

REFERENCE, HUGGING_FACE, OURS = "reference", "Hugging Face", "ours"
COMPILED = "Hugging Face, compiled"
FIRST, AFTER = ", first token", "ours, after the first token"
END_NEVER = -1  # no token has this id: every run decodes all its tokens
BYTES = {"float32": 4, "bfloat16": 2}  # of a weight
CLOSE = 0.1  # log-probabilities of contestants in bfloat16


def run(args: argparse.Namespace) -> dict:
  """The measurement; its report."""
  from benchmarks import contestants

  report = rounds.Report("decode", args)
  cfg = inputs.model(args.tiny, args.layers, args.dtype)
  cfg = dataclasses.replace(cfg, end_id=END_NEVER)
  has_torch = rounds.has("torch")
  if not has_torch:
    why = f"PyTorch is not installed: {how_to_install('torch')}"
    report.skip(f"{REFERENCE} and {HUGGING_FACE}", why)
  elif not rounds.has_compiler():
    report.skip(COMPILED, rounds.NO_COMPILER)
  with tempfile.TemporaryDirectory() as name:
    write = (contestants.write_weights, cfg, Path(name), has_torch)
    rounds.apart(*write, own_process=not args.tiny)
    machine = rounds.machine(cfg, cfg.prefix_tokens, args.tiny, args.dtype)
    for batch in map(int, args.batch.split(",")):
      for table in measure(args, cfg, batch, Path(name), report, machine):
        report.add(table)
    machine.close()
  return report.content


def start(
  args: argparse.Namespace, cfg: inputs.ModelConfig, batch: int, weights: Path
) -> dict[str, rounds.Contestant]:
  """Contestants by name; those of the first token alone have that in their name."""
  from benchmarks import contestants

  makes = {}
  if rounds.has("torch"):
    from benchmarks import reference

    makes = {REFERENCE: reference.Uncached}
    if rounds.has_compiler():
      makes[COMPILED] = reference.Compiled
    makes[HUGGING_FACE] = reference.Decoding
  makes[OURS] = contestants.Decoding
  found = {}
  for name, make in makes.items():
    made = partial(make, cfg, batch, args.new_tokens, weights)
    amount = batch * args.new_tokens
    found[name] = rounds.Contestant(name, amount, made, own_process=not args.tiny)
  for name, make in [*makes.items()][-2 if len(makes) > 1 else -1 :]:
    made = partial(make, cfg, batch, 1, weights)
    found[name + FIRST] = rounds.Contestant(name + FIRST, 1, made, own_process=not args.tiny)
  return found


def check(
  report: rounds.Report, found: dict[str, rounds.Contestant], batch: int, dtype: str
) -> None:
  """Ends the program where contestants decode other tokens."""
  own = found[OURS].call("tokens")
  if HUGGING_FACE in found and dtype != "float32":
    ours, theirs = (found[name + FIRST].call("log_probs") for name in (OURS, HUGGING_FACE))
    what = f"log-probabilities of first tokens, batch {batch}"
    report.agree(what, float(abs(ours - theirs).max()), CLOSE)
  elif HUGGING_FACE in found:
    from benchmarks import reference

    for name in (HUGGING_FACE, COMPILED, REFERENCE):
      if name in found:
        some = own[:, reference.places(own.shape[1])] if name == REFERENCE else own
        differ = int((some != found[name].call("tokens")).sum())
        report.agree(f"tokens that differ, {name}, batch {batch}", differ, 0)
  again = found[OURS].call("tokens")
  report.agree(f"tokens that differ in a second run, batch {batch}", int((own != again).sum()), 0)


def measure(
  args: argparse.Namespace,
  cfg: inputs.ModelConfig,
  batch: int,
  weights: Path,
  report: rounds.Report,
  machine: rounds.Contestant,
) -> list[dict]:
  """The tables of a batch size: whole answers, and the first token."""
  count = args.new_tokens
  found = start(args, cfg, batch, weights)
  check(report, found, batch, args.dtype)
  measured = rounds.take_turns([*found.values()], args.rounds, machine)
  seconds = measured.seconds
  seconds[AFTER] = [a - b for a, b in zip(seconds[OURS], seconds[OURS + FIRST], strict=True)]
  whole = [one for name, one in found.items() if not name.endswith(FIRST)]
  first = [one for name, one in found.items() if name.endswith(FIRST)]
  read = bytes_read(cfg, batch, count)
  table = rounds.table(
    f"decoding, batch {batch}, prefill included",
    "tokens/s",
    [*whole, rounds.Row(AFTER, batch * (count - 1), (count - 1) * read)],
    measured,
    limit=rounds.Limit("GB/s", "weights, keys and values that each token reads"),
    peers=(REFERENCE, HUGGING_FACE, COMPILED),
  )
  loop = statistics.median(seconds[AFTER]) / (count - 1)
  limits = {name: each["median"] for name, each in table["limits"].items()}
  prefill = 2 * layer_parameters(cfg) * batch * cfg.prefix_tokens / limits["GFLOP/s"] / 1e9
  least = prefill + (count - 1) * read / limits["GB/s"] / 1e9
  notes = [f"{1e3 * loop:.1f} ms a token after the first; at both limits {least:.2f} s an answer"]
  if REFERENCE in seconds:
    times = statistics.median(seconds[REFERENCE]) / least
    notes[0] += f", {times:.1f} times the reference"
  if min(seconds[AFTER]) <= 0:
    why = "an answer and its first token take as long within the noise: take more --new_tokens"
    notes.append(f"the row {AFTER!r} tells nothing: {why}")
  table |= {"ms a token after the first": 1e3 * loop, "seconds at both limits": least}
  table |= {"notes": notes, "compile seconds": found[OURS].call("compile_seconds")}
  step = flops(cfg, batch, cfg.prefix_tokens + count / 2)
  work = {AFTER: roofline.Work((count - 1) * step, (count - 1) * read)}
  answer = roofline.Work(
    2 * layer_parameters(cfg) * batch * cfg.prefix_tokens + count * step, count * read
  )
  work |= {one.name: answer for one in whole if one.name != REFERENCE}
  roofline.add(table, work, "weights, keys and values")
  if args.profile:
    report.profile(f"decoding, batch {batch}", found[OURS].call("profile"))
  for one in found.values():
    one.close()
  title = f"first token, batch {batch}"
  return [table, rounds.table(title, "ms", first, measured, peers=(HUGGING_FACE + FIRST,))]


def layer_parameters(cfg: inputs.ModelConfig) -> int:
  """Of the decoder's layers: attention and perceptron, and their norms."""
  d = cfg.decoder
  attention = 2 * d.width * d.head_size * (d.heads + d.kv_heads)
  return d.layers * (attention + 3 * d.width * d.mlp + 2 * d.width)


def bytes_read(cfg: inputs.ModelConfig, batch: int, count: int) -> int:
  """What a token of a batch reads on average: weights, and each row's keys and values."""
  d = cfg.decoder
  weights = layer_parameters(cfg) + d.width * (d.vocab + 1)
  cached = batch * (cfg.prefix_tokens + count / 2) * 2 * d.layers * d.kv_heads * d.head_size
  return round(BYTES[cfg.dtype] * (weights + cached))


def flops(cfg: inputs.ModelConfig, batch: int, slots: float) -> float:
  """Of a token of each row that attends to so many."""
  d = cfg.decoder
  products = layer_parameters(cfg) + d.width * d.vocab
  return 2 * batch * (products + slots * 2 * d.layers * d.heads * d.head_size)


def parser() -> argparse.ArgumentParser:
  found = rounds.parser(__doc__)
  found.add_argument("--layers", type=int, help="of the decoder, fewer than its own")
  found.add_argument("--batch", default="1,8")
  found.add_argument("--new_tokens", type=int, default=64)
  found.add_argument("--dtype", choices=[*BYTES], default="float32")
  found.add_argument("--profile", action="store_true", help="where the time of our answers goes")
  return found


def main(argv: Sequence[str]) -> None:
  run(parser().parse_args(argv))


if __name__ == "__main__":
  main(sys.argv[1:])
