"""This package as a contestant, and the random weights that all contestants share."""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import inputs, rounds
from mellow_jax import parallel
from mellow_jax.config import Config, ModelConfig
from mellow_jax.convert import convert
from mellow_jax.data import answer_lengths
from mellow_jax.inference import decode
from mellow_jax.models import mellow
from mellow_jax.training import program_costs, programs, step, trace
from mellow_jax.training.step import Batch

INPUTS = 4  # batches that take turns
SIMULATED = 32 * answer_lengths.WINDOW  # batches whose answers tell how often each length is used


class Work(NamedTuple):
  """A way to train of this package."""

  name: str
  cfg: Config


def write_weights(cfg: ModelConfig, folder: Path, for_reference: bool) -> None:
  """Random parameters as ours.npz, and as reference.npz under the names of the PyTorch code."""
  params = mellow.init_params(cfg, 0)
  flat = {name: np.asarray(x) for name, x in mellow.flatten(params).items()}
  np.savez(folder / "ours.npz", **flat)
  if for_reference:
    np.savez(folder / "reference.npz", **convert.reverse(flat, cfg))


def read_weights(folder: Path) -> dict[str, np.ndarray]:
  """Our parameters by path."""
  with np.load(folder / "ours.npz") as file:
    return dict(file)


def peak_gib() -> float | None:
  """The most memory of the device that this process has held."""
  found = jax.devices()[0].memory_stats()
  return found["peak_bytes_in_use"] / 2**30 if found else rounds.peak_gib()


# --- Training ------------------------------------------------------------------------------------


def slots(cfg: Config) -> dict[int, float]:
  """The lengths of answers that steps of a run take, and the share of steps that take each.

  From answers drawn as inputs.ANSWERS says, put into batches as the run's loader does.
  """
  most, share = cfg.model.answer_tokens, cfg.data.share_prefix
  if cfg.data.answer_lengths == 1:
    return {most: 1.0}
  groups = cfg.batch_size // share
  drawn = inputs.answer_tokens(SIMULATED * cfg.batch_size, 1, most)
  allowed = answer_lengths.choose(drawn[: answer_lengths.SAMPLE], cfg.data.answer_lengths, most)
  needed = drawn.reshape(-1, share).max(axis=1)
  if cfg.data.group_answers:  # answer_lengths.Grouped: a window's rows by length
    needed = np.sort(needed.reshape(-1, answer_lengths.WINDOW * groups), axis=1)
  longest = needed.reshape(-1, groups).max(axis=1)
  taken = [answer_lengths.least(int(n), allowed) for n in longest]
  return {size: taken.count(size) / len(taken) for size in allowed if size in taken}


def batch(cfg: Config, size: int, seed: int) -> Batch:
  """A batch whose answers have so many slots; noise in the place of features."""
  share = cfg.data.share_prefix
  arrays = inputs.examples(cfg.model, cfg.batch_size // share, seed, share)
  if cfg.data.features:
    rng, width = np.random.default_rng(seed), mellow.feature_width(cfg.model)
    for name in ("wav1", "wav2"):
      arrays[name] = rng.standard_normal((len(arrays[name]), width), np.float32)
  return Batch(**answer_lengths.cut(arrays, size))


def training_flops(cfg: Config) -> float:
  """Floating-point operations of a step on average: products and convolutions, nothing twice.

  The whole score matrix counts, as it is written; recomputation for the gradient does not.
  """
  cfg = dataclasses.replace(cfg, attention="scores")
  made = programs.make(cfg, parallel.make_mesh((1, 1), jax.devices()[:1]))

  def of(size: int) -> float:
    traced = jax.make_jaxpr(made.train_step)(made.abstract, batch(cfg, size, 0))
    return program_costs.flops(traced.jaxpr)

  return sum(share * of(size) for size, share in slots(cfg).items())


class Training:
  """The train step of a run; a turn returns the seconds of a step, averaged over its lengths."""

  def __init__(self, work: Work, weights: Path, steps: int):
    parallel.use_compilation_cache()
    parallel.keep_freed_memory()  # as `mellow train` does
    cfg = work.cfg
    mesh = parallel.make_mesh((1, 1), jax.devices()[:1])
    made = programs.make(cfg, mesh)
    self._state = made.init_state(read_weights(weights))
    self._step, self._slots, self._steps = made.train_step, slots(cfg), steps
    self._batches = {
      size: itertools.cycle(
        [parallel.place_batch(batch(cfg, size, seed), mesh) for seed in range(INPUTS)]
      )
      for size in self._slots
    }
    for size in self._slots:  # compiles; what follows is not timed before it has ended
      jax.block_until_ready((self._run(size), self._state))

  def _run(self, size: int) -> Any:
    self._state, metrics = self._step(self._state, next(self._batches[size]))
    return metrics

  def _seconds(self, size: int) -> float:
    """Of a step whose answers have so many slots."""

    def steps() -> None:
      for _ in range(self._steps):
        metrics = self._run(size)
      jax.block_until_ready((metrics, self._state))

    return rounds.timed(steps)[0] / self._steps

  def turn(self) -> float:
    return sum(share * self._seconds(size) for size, share in self._slots.items())

  def traffic(self) -> float:
    """Bytes that the compiled step moves, by its text, averaged over its lengths."""

    def of(size: int) -> int:
      compiled = self._step.lower(self._state, next(self._batches[size])).compile()
      return program_costs.traffic(compiled.as_text())

    return sum(share * of(size) for size, share in self._slots.items())

  def peak_gib(self) -> float | None:
    return peak_gib()


def profile(work: Work, weights: Path) -> str:
  """Where the time of three steps goes, in lines."""
  training = Training(work, weights, steps=3)
  return _traced(training.turn)


def _traced(run: Callable[[], object]) -> str:
  """Where the time of a call goes, in lines."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run()
    return trace.summary(Path(folder))


def first_step(work: Work, weights: Path) -> tuple[float, float]:
  """Loss and norm of the gradient of the first batch, without dropout, in its fewest slots."""
  parallel.use_compilation_cache()
  cfg = dataclasses.replace(work.cfg, encoder_train_mode=False)
  mapper = dataclasses.replace(cfg.model.mapper, dropout=0.0)
  cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, mapper=mapper))
  size = cfg.model.answer_tokens
  if cfg.data.answer_lengths > 1:
    needed = int(answer_lengths.needed(batch(cfg, size, 0).loss_mask).max())
    size = answer_lengths.least(needed, sorted({*slots(cfg), size}))
  mesh = parallel.make_mesh((1, 1), jax.devices()[:1])
  made = programs.make(cfg, mesh)
  state = made.init_state(read_weights(weights))
  _, metrics = made.train_step(state, parallel.place_batch(batch(cfg, size, 0), mesh))
  return float(metrics.loss), float(metrics.grad_norm)


# --- Encoder -------------------------------------------------------------------------------------


def encoder_flops(cfg: ModelConfig, batch: int) -> float:
  """Floating-point operations of the encoder on a batch: products and convolutions."""
  flat = mellow.flatten(mellow.abstract(cfg)[1])
  wav = jax.ShapeDtypeStruct((batch, cfg.audio.clip_samples), np.float32)
  traced = jax.make_jaxpr(lambda flat, wav: step.merge(cfg, flat).encoder(wav))(flat, wav)
  return program_costs.flops(traced.jaxpr)


class Encoder:
  """The encoder on waveforms; a turn returns the seconds of a batch."""

  def __init__(self, cfg: ModelConfig, batch: int, weights: Path, turns: int):
    parallel.use_compilation_cache()
    parallel.keep_freed_memory()  # as `mellow cache-features` does
    flat = jax.device_put(read_weights(weights))
    run = jax.jit(lambda flat, wav: step.merge(cfg, flat).encoder(wav))
    wavs = [jax.device_put(inputs.examples(cfg, batch, i)["wav1"]) for i in range(INPUTS)]
    self._run, self._turns = lambda i: run(flat, wavs[i % INPUTS]), turns
    self._lower = lambda: run.lower(flat, wavs[0])
    self.turn()  # compiles

  def turn(self) -> float:
    def batches() -> None:
      jax.block_until_ready([self._run(i) for i in range(self._turns)])

    return rounds.timed(batches)[0] / self._turns

  def traffic(self) -> int:
    """Bytes that the compiled program moves for a batch, by its text."""
    return program_costs.traffic(self._lower().compile().as_text())

  def outputs(self) -> dict[str, np.ndarray]:
    """What it makes of the first batch."""
    found = jax.device_get(self._run(0))
    return {"latent": found.latent, "framewise events": found.framewise}

  def peak_gib(self) -> float | None:
    return peak_gib()


# --- Decoding ------------------------------------------------------------------------------------


class Decoding:
  """Greedy answers of so many tokens to a batch of prefixes; a turn returns their seconds."""

  def __init__(self, cfg: ModelConfig, batch: int, tokens: int, weights: Path):
    parallel.use_compilation_cache()
    parallel.keep_freed_memory()  # as `mellow evaluate predict` does
    params = mellow.unflatten(read_weights(weights), mellow.abstract(cfg)[1])
    graphdef, fused = mellow.fuse(cfg, params)
    prefix = jax.device_put(inputs.prefix(cfg, batch))
    lengths = jnp.full(batch, cfg.text_tokens, jnp.int32)
    keys = jax.random.split(jax.random.key(0), batch)
    sampling = decode.Sampling(max_new_tokens=tokens)

    def run(params: dict, prefix: jax.Array) -> decode.Generation:
      model = nnx.merge(graphdef, params)
      return decode.generate(model, prefix, lengths, keys, sampling)

    program = jax.jit(run)
    self._run = lambda: jax.device_get(program(fused, prefix))
    self._compile_seconds = self.turn()

  def tokens(self) -> np.ndarray:
    return self._run().tokens[:, 0]

  def log_probs(self) -> np.ndarray:
    """Of whole answers, natural."""
    return self._run().log_probs[:, 0]

  def profile(self) -> str:
    """Where the time of an answer goes, in lines."""
    return _traced(self.turn)

  def compile_seconds(self) -> float:
    """Seconds of the first turn, which compiles."""
    return self._compile_seconds

  def turn(self) -> float:
    return rounds.timed(self._run)[0]
