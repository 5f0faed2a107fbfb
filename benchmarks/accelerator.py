"""What one GPU or TPU does with the full-size model, in one command of under ten minutes.

  python -m benchmarks.accelerator --output=accelerator.json

Fidelity to the golden numbers in float32 and bfloat16; decoding at batch 1, 8 and 64; training at
batch 64 in bfloat16, with 389 + 250 positions and the frozen encoder run on two clips an example.
Weights are those of the golden recipe. `--small` runs the same code with two decoder layers, few
tokens and small batches, to try the command on a CPU.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import inputs
from mellow_jax import parallel
from mellow_jax.config import AudioConfig, Config, ModelConfig, OptimConfig
from mellow_jax.convert import rules
from mellow_jax.inference import decode
from mellow_jax.models import mellow
from mellow_jax.training import optim, step

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import recipe  # noqa: E402  The golden weights and waveforms; it needs the line above.

GOLDEN = ROOT / "tests" / "golden"


def weights(cfg: ModelConfig) -> dict[str, jax.Array]:
  """The recipe's weights by our paths, of as many decoder layers as the config has."""
  manifest = json.loads((GOLDEN / "manifest.json").read_text())
  flat = {}
  for key, shape in manifest.items():
    ((rule, path),) = rules.match(key, rules.mellow(cfg))
    layer = path.split(".")[2] if path and path.startswith("decoder.blocks.") else "0"
    if path is not None and int(layer) < cfg.decoder.layers:
      array = rule.transform.there(recipe.fill(key, tuple(shape), 202))
      flat[path.replace(".", "/")] = jnp.asarray(array)
  return flat


def random_batch(cfg: ModelConfig, size: int) -> step.Batch:
  return step.Batch(**jax.tree.map(jnp.asarray, inputs.examples(cfg, size, seed=0)))


def fidelity(flat: dict[str, jax.Array], dtype: str) -> dict[str, float]:
  """Largest difference to the golden numbers as a share of each array's largest entry."""
  cfg = ModelConfig(dtype=dtype)
  with np.load(GOLDEN / "seed202.npz") as file:
    golden = dict(file)
  wavs = [np.stack([recipe.waveform(2020 + 5 * a + i) for i in range(2)]) for a in range(2)]
  ids, lengths = (jnp.asarray(golden[k], jnp.int32) for k in ("text_ids", "text_lengths"))
  answers = jnp.asarray(golden["answer_ids"], jnp.int32)
  batch = step.Batch(*map(jnp.asarray, wavs), ids, lengths, answers, answers != golden["pad_id"])
  sampling = decode.Sampling(max_new_tokens=golden["greedy_tokens"].shape[1])

  @jax.jit
  def run(flat, batch):
    model = step.merge(cfg, flat)
    heard = model.encoder(batch.wav1)
    prefix = model.prefix(model.mapper(heard), model.encode(batch.wav2), batch.text_ids)
    hidden = model.hidden(prefix, batch.text_lengths, batch.answer_ids)
    logits = model.decoder.logits(hidden)[:, golden["logits_row_ids"], ::96]
    loss = jnp.mean(step.answer_nll(model, batch), where=batch.loss_mask)
    keys = jax.random.split(jax.random.key(0), 2)
    tokens = decode.generate(model, prefix, batch.text_lengths, keys, sampling).tokens[:, 0]
    return heard.framewise, prefix[:, golden["prefix_positions"]], logits, loss, tokens

  with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
    *arrays, tokens = jax.device_get(run(flat, batch))
  names = ("framewise_audio1", "prefix", "logits_rows", "loss")
  found = {
    name: float(np.abs(np.float64(a) - golden[name]).max() / np.abs(golden[name]).max())
    for name, a in zip(names, arrays, strict=True)
  }
  return {**found, "greedy tokens that differ": int((tokens != golden["greedy_tokens"]).sum())}


def median_seconds(run, repeats: int) -> float:
  jax.block_until_ready(run())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def decoding(flat: dict[str, jax.Array], cfg: ModelConfig, batch: int, count: int) -> dict:
  """Tokens a second of `batch` answers of `count` tokens, from clips and from a ready prefix."""
  cfg = dataclasses.replace(cfg, end_id=-1)  # no answer ends early
  data = random_batch(cfg, batch)
  keys = jax.random.split(jax.random.key(0), batch)

  graphdef, fused = mellow.fuse(cfg, mellow.unflatten(flat, mellow.abstract(cfg)[1]))

  def generate(params, data, tokens):
    model = nnx.merge(graphdef, params)
    prefix = model.prefix(*step.encode_pair(model, data, None, None), data.text_ids)
    sampling = decode.Sampling(max_new_tokens=tokens)
    return decode.generate(model, prefix, data.text_lengths, keys, sampling).tokens

  program = jax.jit(generate, static_argnums=2)
  whole = median_seconds(lambda: program(fused, data, count), 5)
  first = median_seconds(lambda: program(fused, data, 1), 5)
  return {
    "batch": batch,
    "tokens/s, clips included": batch * count / whole,
    "seconds to the first token": first,
    "tokens/s after the first": batch * (count - 1) / (whole - first),
  }


def training(flat: dict[str, jax.Array], cfg: ModelConfig, batch: int) -> dict:
  """Examples a second of the whole train step, encoder included."""
  run_config = Config(model=cfg, optim=OptimConfig(), batch_size=batch)
  tx = optim.make(run_config.optim, optim.schedule(run_config.optim, 1000, 100))
  state = step.init_state(flat, run_config, tx)
  train = jax.jit(functools.partial(step.train_step, cfg=run_config, tx=tx), donate_argnums=0)
  data = random_batch(cfg, batch)

  def run():
    nonlocal state
    state, metrics = train(state, data)
    return metrics

  seconds = median_seconds(run, 10)
  stats = jax.devices()[0].memory_stats() or {}
  peak = stats.get("peak_bytes_in_use", 0) / 2**30
  return {"batch": batch, "examples/s": batch / seconds, "peak GiB": peak}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output", type=pathlib.Path)
  parser.add_argument("--small", action="store_true")
  args = parser.parse_args()
  parallel.use_compilation_cache()
  device = jax.devices()[0]
  cfg = ModelConfig(dtype="bfloat16")
  batches, count, train_batch = (1, 8, 64), 64, 64
  if args.small:
    cfg = dataclasses.replace(cfg, decoder=dataclasses.replace(cfg.decoder, layers=2))
    cfg = dataclasses.replace(cfg, answer_tokens=16)
    batches, count, train_batch = (1, 2), 4, 2
  report = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}
  print(json.dumps(report), flush=True)
  flat = weights(cfg)

  def record(name: str, row: dict) -> None:
    report[name] = row
    print(f"{name}: {json.dumps(row)}", flush=True)
    if args.output:
      args.output.write_text(json.dumps(report, indent=1))

  if not args.small:
    for dtype in ("float32", "bfloat16"):
      record(f"fidelity {dtype}", fidelity(flat, dtype))
  for batch in batches:
    record(f"decoding, batch {batch}", decoding(flat, cfg, batch, count))
  cfg = dataclasses.replace(cfg, audio=AudioConfig(stft="fft"))  # as configs/mellow.py has it
  record("training", training(flat, cfg, train_batch))


if __name__ == "__main__":
  main()
