"""Decoding speed, side by side in one run: without a cache, Hugging Face with a cache, and ours.

  pip install -e '.[torch]'        (or, for a CPU, `pip install torch` from a CPU build)
  python -m benchmarks.decode --new_tokens=64 --batch=1,8 --output=decode.json

All three get the same random weights at full size, the same prefix of 389 embeddings and decode
greedily in float32; their tokens must agree before anything is timed. They take turns, several
rounds, and medians are reported. "reference" works as the public PyTorch code does: the whole
sequence anew for every token, logits at every position. It is timed at the first, a middle and the
last token only, since a token takes seconds.

The limit is what memory allows: a token reads every decoder weight once, and each row of the batch
its cached keys and values. The ceiling is that of the whole answer: the prefill's arithmetic, which
no cache avoids, at the full rate, and then every token at the limit. Bandwidth and arithmetic take
their turn in every round, since on a shared machine they can double from one minute to the next:
the better of two reads of 1 GiB by all cores, and of two products of the prefix with a matrix.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import platform
from importlib import metadata

from mellow_jax import parallel
from mellow_jax.config import ModelConfig
from mellow_jax.errors import how_to_install


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--batch", default="1,8")
  parser.add_argument("--new_tokens", type=int, default=64)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--output", type=pathlib.Path)
  args = parser.parse_args()
  if not importlib.util.find_spec("torch"):
    parser.error(f"PyTorch is not installed: {how_to_install('torch')}")
  from benchmarks import decode_contestants  # JAX, PyTorch and transformers

  parallel.use_compilation_cache()
  cfg = ModelConfig(dtype="float32", end_id=decode_contestants.END_NEVER)
  report = {
    "machine": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    "versions": {name: metadata.version(name) for name in ("jax", "torch", "transformers")},
    "load": os.getloadavg(),
    "rows": [],
  }
  machine = decode_contestants.Machine(cfg)
  for batch in map(int, args.batch.split(",")):
    row = decode_contestants.measure(cfg, batch, args.new_tokens, args.rounds, machine)
    report["rows"].append(row)
    rates = row["tokens/s, prefill included"]
    print(
      f"batch {batch}: "
      + ", ".join(f"{name} {rate:.2f} tokens/s" for name, rate in rates.items())
      + f"\n  {row['times the reference']:.1f} x the reference, "
      f"{row['times hugging face']:.2f} x Hugging Face; "
      f"{row['ms a token after the first']:.1f} ms a token, "
      f"{100 * row['share of the bandwidth limit']:.0f}% of the limit at "
      f"{row['GB/s measured']:.1f} GB/s; tokens agree: {row['tokens agree']}\n"
      f"  ceiling {row['times the reference at both limits']:.1f} x the reference, at that and "
      f"{row['GFLOP/s measured']:.0f} GFLOP/s",
      flush=True,
    )
  if args.output:
    args.output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
  main()
