"""What one GPU or TPU does with the full-size model, in one command of about ten minutes.

  pip install -e '.[torch]' && pip install torchlibrosa
  python -m benchmarks.accelerator --reference=mellow-training --output=accelerator.json

In this order: training in bfloat16 at batch 64, the rows of `benchmarks.train` that have a goal;
decoding in bfloat16 at batch 1, 8 and 64, as `benchmarks.decode` does; both with a profile, and
beside PyTorch where it is installed; fidelity to the golden numbers in float32 and bfloat16. The
file is written after each part. A part that would begin after --minutes is named and left out;
--parts chooses. The goals, which the end compares with what was reached, are for an H200.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import decode, rounds, train
from mellow_jax import parallel
from mellow_jax.config import ModelConfig
from mellow_jax.convert import rules
from mellow_jax.inference import decode as decoding
from mellow_jax.training import step

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import recipe  # noqa: E402  The golden weights and waveforms; it needs the line above.

GOLDEN = ROOT / "tests" / "golden"
TRAINING = {train.IDENTICAL: 730, train.CACHED: 1230, train.SHARED: 2200}  # goals, examples/s
DECODING = {1: 1200, 8: 9600, 64: 60_000}  # goals by batch, tokens/s after the first


def training(args: argparse.Namespace) -> dict:
  """The report of `benchmarks.train`; of PyTorch its compiled step alone."""
  flags = ["--dtype=bfloat16", "--rounds=1", "--profile"]
  flags += ["--tiny", "--batch=2", "--lengths=2"] if args.tiny else ["--batch=64", "--steps=10"]
  flags += [f"--only={row}" for row in (train.COMPILED, *TRAINING)]
  flags += [f"--reference={args.reference}"] if args.reference else []
  return train.run(train.parser().parse_args(flags))


def answers(args: argparse.Namespace, batch: int) -> dict:
  """The report of `benchmarks.decode` at a batch size."""
  flags = ["--dtype=bfloat16", f"--batch={batch}", "--profile"]
  flags += ["--tiny"] if args.tiny else []
  return decode.run(decode.parser().parse_args(flags))


def fidelity(dtype: str) -> dict[str, float]:
  """Largest difference to the golden numbers as a share of each array's largest entry."""
  parallel.use_compilation_cache()
  cfg = ModelConfig(dtype=dtype)
  with np.load(GOLDEN / "seed202.npz") as file:
    golden = dict(file)
  wavs = [np.stack([recipe.waveform(2020 + 5 * a + i) for i in range(2)]) for a in range(2)]
  ids, lengths = (jnp.asarray(golden[k], jnp.int32) for k in ("text_ids", "text_lengths"))
  answer_ids = jnp.asarray(golden["answer_ids"], jnp.int32)
  mask = answer_ids != golden["pad_id"]
  batch = step.Batch(*map(jnp.asarray, wavs), ids, lengths, answer_ids, mask)
  sampling = decoding.Sampling(max_new_tokens=golden["greedy_tokens"].shape[1])

  @jax.jit
  def run(flat, batch):
    model = step.merge(cfg, flat)
    heard = model.encoder(batch.wav1)
    prefix = model.prefix(model.mapper(heard), model.encode(batch.wav2), batch.text_ids)
    hidden = model.hidden(prefix, batch.text_lengths, batch.answer_ids)
    logits = model.decoder.logits(hidden)[:, golden["logits_row_ids"], ::96]
    loss = jnp.mean(step.answer_nll(model, batch), where=batch.loss_mask)
    keys = jax.random.split(jax.random.key(0), 2)
    tokens = decoding.generate(model, prefix, batch.text_lengths, keys, sampling).tokens[:, 0]
    return heard.framewise, prefix[:, golden["prefix_positions"]], logits, loss, tokens

  with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
    *arrays, tokens = jax.device_get(run(weights(cfg), batch))
  names = ("framewise_audio1", "prefix", "logits_rows", "loss")
  found = {
    name: float(np.abs(np.float64(a) - golden[name]).max() / np.abs(golden[name]).max())
    for name, a in zip(names, arrays, strict=True)
  }
  return {**found, "greedy tokens that differ": int((tokens != golden["greedy_tokens"]).sum())}


def weights(cfg: ModelConfig) -> dict[str, jax.Array]:
  """The golden recipe's weights by our paths."""
  manifest = json.loads((GOLDEN / "manifest.json").read_text())
  flat = {}
  for key, shape in manifest.items():
    ((rule, path),) = rules.match(key, rules.mellow(cfg))
    if path is not None:
      array = rule.transform.there(recipe.fill(key, tuple(shape), 202))
      flat[path.replace(".", "/")] = jnp.asarray(array)
  return flat


def device() -> dict[str, str]:
  """What is measured; asked in a process of its own, so that this one holds no accelerator."""
  one = jax.devices()[0]
  return {"device": one.device_kind, "platform": one.platform, "jax": jax.__version__}


def goals(found: dict[str, Any]) -> list[dict[str, Any]]:
  """Rows of the reports that have a goal: what was reached, in the unit of their table."""
  rows = []
  for part, report in found.items():
    for table in report.get("tables", ()):
      for row in table["rows"]:
        goal = TRAINING.get(row["name"])
        if row["name"] == decode.AFTER:
          goal = DECODING.get(int(part.split()[-1]))
        if goal:
          name = f"{row['name']} ({part})"
          rows.append({"name": name, "reached": row["median"], "unit": table["unit"], "goal": goal})
  return rows


def parts(args: argparse.Namespace) -> dict[str, Callable[[], dict]]:
  """What is measured, by name."""
  found: dict[str, Callable[[], dict]] = {"training": partial(training, args)}
  found |= {f"decoding at {batch}": partial(answers, args, batch) for batch in DECODING}
  for dtype in () if args.tiny else decode.BYTES:  # the golden numbers are of one size
    found[f"fidelity in {dtype}"] = partial(rounds.apart, fidelity, dtype)
  chosen = args.parts.split(",") if args.parts else [""]
  if unknown := [part for part in chosen if not any(name.startswith(part) for name in found)]:
    raise SystemExit(f"--parts: {', '.join(unknown)}: choose from {', '.join(found)}")
  return {name: run for name, run in found.items() if name.startswith(tuple(chosen))}


def main(argv: Sequence[str]) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  text = "checkout of the public PyTorch code, its branch `training`"
  parser.add_argument("--reference", type=Path, metavar="PATH", help=text)
  parser.add_argument("--output", type=Path, help="JSON file")
  parser.add_argument("--tiny", action="store_true", help="a model that compiles in seconds")
  parser.add_argument("--minutes", type=float, default=9, help="after which no part begins")
  text = "some of them with commas between, by how their names begin"
  parser.add_argument("--parts", help=text)
  args = parser.parse_args(argv)
  begun, found, chosen = time.monotonic(), {}, parts(args)
  machine = rounds.apart(device)
  print(json.dumps(machine), flush=True)
  for name, run in chosen.items():
    print(f"\n=== {name}", flush=True)
    if time.monotonic() - begun > 60 * args.minutes:
      found[name] = {"skipped": f"{args.minutes:g} minutes are over: --parts='{name}'"}
    else:
      try:
        found[name] = run()
      except SystemExit as error:  # results differ; the other parts are measured
        found[name] = {"skipped": str(error)}
    rows = [] if args.tiny else goals(found)
    if args.output:
      args.output.write_text(json.dumps({**machine, "parts": found, "goals": rows}, indent=1))
  print(f"\nall parts: {time.monotonic() - begun:.0f} s")
  for row in rows:  # goals are for an H200
    print(f"{row['name']}: {rounds.number(row['reached'])} {row['unit']}, goal {row['goal']}")
  for name, report in found.items():
    if "tables" not in report:
      print(f"{name}: {json.dumps(report)}")


if __name__ == "__main__":
  main(sys.argv[1:])
