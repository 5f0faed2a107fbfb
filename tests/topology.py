"""Runs in a process of its own, since the number of devices is fixed when JAX starts.

python tests/topology.py OUTPUT MESH [MESH ...]     three steps on each mesh, such as 8,1; a third
                                                    number is of parts of a batch, a fourth of 1
                                                    trains the encoder on the batch's statistics
python tests/topology.py OUTPUT systems             collectives of the step of each system's model
                                                    on mesh (8, 1), without the batch's statistics
python tests/topology.py OUTPUT shares              what each of 8 devices holds under fsdp
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import systems
import tiny

from mellow_jax import config, parallel
from mellow_jax.models import mellow
from mellow_jax.training import device_plan, optim, programs, step

STEPS = 3


def abstract_state(cfg, tx):
  flat = mellow.flatten(mellow.abstract(cfg.model)[1])
  return jax.eval_shape(lambda flat: step.init_state(flat, cfg, tx), flat)


def batch(cfg, number):
  """Noise in, noise out; a different number of learnt tokens in every row."""
  rng, model, rows = np.random.default_rng(number), cfg.model, cfg.batch_size
  wav1, wav2 = 0.1 * rng.standard_normal((2, rows, model.audio.clip_samples), np.float32)
  lengths = rng.integers(1, model.answer_tokens, rows)
  return step.Batch(
    wav1=wav1,
    wav2=wav2,
    text_ids=rng.integers(2, model.decoder.vocab, (rows, model.text_tokens), np.int32),
    text_lengths=rng.integers(1, model.text_tokens, rows, np.int32),
    answer_ids=rng.integers(2, model.decoder.vocab, (rows, model.answer_tokens), np.int32),
    loss_mask=np.arange(model.answer_tokens) < lengths[:, None],
  )


def run(shape):
  """What three steps end with, by name, and the compiled programs, by name.

  A mesh of two numbers, whose batch is not in parts, also evaluates and answers.
  """
  # Everything is trained, with dropout. A large eps: Adam makes steps of full size out of gradients
  # that are rounding alone, such as those of attention's key biases.
  optimizer = config.OptimConfig(freeze=(), eps=1e-3, schedule="constant", optimizer="adamw")
  data, fsdp, accumulate, train_mode = (*shape, *(1, 0)[len(shape) - 2 :])
  cfg = tiny.run(
    optim=optimizer, batch_size=16, accumulate=accumulate, encoder_train_mode=bool(train_mode)
  )
  cfg.model.encoder.batch_statistics = cfg.model.encoder.spec_augment = True
  cfg.model.encoder.stochastic_depth = 0.2
  mesh = parallel.make_mesh((data, fsdp))
  made = programs.make(cfg, mesh)
  compiled = made.train_step.lower(made.abstract, batch(cfg, 0)).compile()
  state = made.init_state(mellow.flatten(tiny.params(cfg.model)))
  losses = []
  for number in range(STEPS):
    state, metrics = compiled(state, parallel.place_batch(batch(cfg, number), mesh))
    losses.append(float(metrics.loss))
  params = {**state.trainable, **state.frozen}
  params = {name: np.asarray(leaf) for name, leaf in params.items()}
  found, texts = {"losses": losses}, {"train": compiled.as_text()}
  for name in ("eval_step", "answer") if len(shape) == 2 else ():
    compute = getattr(made, name).lower(made.abstract, batch(cfg, 0)).compile()
    texts[name] = compute.as_text()
    result = compute(state, parallel.place_batch(batch(cfg, 0), mesh))
    found |= {f"{name} {i}": np.asarray(leaf) for i, leaf in enumerate(result)}

  # What one device cannot compute, none learns from.
  bad = batch(cfg, STEPS)
  bad.wav1[5] = np.nan
  state, metrics = compiled(state, parallel.place_batch(bad, mesh))
  assert np.isnan(metrics.loss) and metrics.skipped == metrics.skipped_in_a_row == 1
  for name, leaf in {**state.trainable, **state.frozen}.items():
    np.testing.assert_array_equal(leaf, params[name], err_msg=name)
  return {**params, **found}, texts


def shares():
  """Bytes of the paper's training state: in all, and on one device of a mesh (1, 8)."""
  cfg = config.Config()
  state = abstract_state(cfg, optim.make(cfg.optim, optim.schedule(cfg.optim, 1, 1)))
  leaves = jax.tree.leaves(state)
  placed = jax.tree.leaves(parallel.shardings(state, parallel.make_mesh((1, 8))))
  held = [
    np.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf, sharding in zip(leaves, placed, strict=True)
  ]
  return int(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)), int(sum(held))


def collectives():
  """The kind of each collective of each system's step."""
  found, mesh = {}, parallel.make_mesh((8, 1))
  for name in systems.NAMES:
    cfg = tiny.run(model=systems.config(name), batch_size=8, optim=config.OptimConfig(freeze=()))
    made = programs.make(cfg, mesh)
    program = made.train_step.lower(made.abstract, batch(cfg, 0)).compile().as_text()
    found[name] = [one["kind"] for one in device_plan.collectives(program)]
  return found


def main(output, *meshes):
  parallel.use_compilation_cache()
  if meshes == ("systems",):
    output.write_text(json.dumps(collectives()))
    return
  if meshes == ("shares",):
    output.write_text(json.dumps(shares()))
    return
  output.mkdir()
  for mesh in meshes:
    found, texts = run(tuple(map(int, mesh.split(","))))
    np.savez(output / f"{mesh}.npz", **found)
    for name, text in texts.items():
      (output / f"{mesh}.{name}.hlo").write_text(text)


if __name__ == "__main__":
  main(Path(sys.argv[1]), *sys.argv[2:])
