"""The jitted functions of a run, with their shardings on its mesh."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from mellow_jax import parallel
from mellow_jax.config import Config
from mellow_jax.inference import decode
from mellow_jax.models import mellow
from mellow_jax.training import optim, step
from mellow_jax.training.step import Batch, Flat, Metrics, Parts, TrainState


class Programs(NamedTuple):
  """What a run compiles, each at its first call or with `.lower(...).compile()`."""

  abstract: TrainState  # shape, type and sharding of each array of the state
  init_state: Callable[[Flat], TrainState]
  # Donates the old state; compiled for each of step.answer_slots.
  train_step: Callable[[TrainState, Batch | Parts], tuple[TrainState, Metrics]]
  eval_step: Callable[[TrainState, Batch], step.AnswerSums]
  answer: Callable[[TrainState, Batch], decode.Generation]


def make(
  cfg: Config, mesh: Mesh, steps_per_epoch: int = 1, usual_tokens: float | None = None
) -> Programs:
  """The programs of a run on a mesh; nothing is compiled yet. usual_tokens: see step.train_step.

  Raises ConfigError naming a field of config.optim that matches no parameter, and a kernel of
  config.attention that cannot train the model on this mesh.
  """
  parallel.decoder_ways(cfg, mesh)  # raises now, and not when the step is compiled
  rate = optim.schedule(cfg.optim, cfg.steps, steps_per_epoch)
  tx = optim.make(cfg.optim, rate)
  init_state = functools.partial(step.init_state, cfg=cfg, tx=tx)
  shapes = jax.eval_shape(init_state, mellow.flatten(mellow.abstract(cfg.model)[1]))
  sharding, batch_sharding = parallel.shardings(shapes, mesh), parallel.batch_sharding(mesh)
  replicated, exactly = parallel.replicated(mesh), mellow.exactly(cfg.model)

  def evaluation(function: Callable) -> Callable:
    """eval_step or answer on the inference parameters of a state."""

    @exactly
    def run(state: TrainState, batch: Batch) -> tuple:
      return function(step.inference_params(state, cfg), batch, cfg=cfg.model)

    return jax.jit(run, in_shardings=(sharding, batch_sharding), out_shardings=replicated)

  return Programs(
    abstract=jax.tree.map(
      lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, sharding
    ),
    init_state=jax.jit(init_state, out_shardings=sharding),
    train_step=jax.jit(
      exactly(
        functools.partial(
          step.train_step, cfg=cfg, tx=tx, rate=rate, mesh=mesh, usual_tokens=usual_tokens
        )
      ),
      compiler_options=parallel.one_all_reduce(mesh),
      in_shardings=(sharding, batch_sharding),
      out_shardings=(sharding, replicated),
      donate_argnums=0,
    ),
    eval_step=evaluation(step.eval_step),
    answer=evaluation(step.answer),
  )


def abstract_batch(cfg: Config, share: int = 1) -> Batch:
  """Shape and type of each array of a step's batch; `share` questions share their clips."""
  rows, model, several = cfg.batch_size // share, cfg.model, (share,) if share > 1 else ()
  samples = mellow.feature_width(model) if cfg.data.features else model.audio.clip_samples

  def leaf(*shape: int, dtype: str = "int32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *shape), dtype)

  return Batch(
    wav1=leaf(samples, dtype="float32"),
    wav2=leaf(samples, dtype="float32"),
    text_ids=leaf(*several, model.text_tokens),
    text_lengths=leaf(*several),
    answer_ids=leaf(*several, model.answer_tokens),
    loss_mask=leaf(*several, model.answer_tokens, dtype="bool"),
  )


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes that a compiled program takes on a device, by what for."""
  found = compiled.memory_analysis()
  return {
    "arguments": found.argument_size_in_bytes,
    "results": found.output_size_in_bytes - found.alias_size_in_bytes,  # without donated ones
    "temporary": found.temp_size_in_bytes,
    "code": found.generated_code_size_in_bytes,
  }


def fits(cfg: Config, mesh: Mesh, usual_tokens: float | None = None) -> bool:
  """Whether a step fits the memory of a device; compiles it, which a compilation cache keeps."""
  made = make(cfg, mesh, usual_tokens=usual_tokens)
  batch = abstract_batch(cfg, cfg.data.share_prefix)
  try:
    compiled = made.train_step.lower(made.abstract, batch).compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return False
  return sum(memory(compiled).values()) <= parallel.device_memory(mesh)
