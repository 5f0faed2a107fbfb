"""Runs in processes of its own: one of several topologies that go on from each other's checkpoints.

  python tests/resharding_process.py FOLDER MESH MESHES [COORDINATOR PROCESS]

Trains two steps on MESH, such as 2,4, and saves them; then restores what each of MESHES has saved
and writes the digest of what it found and the losses of ten more steps.
"""

import json
import sys
import time
from pathlib import Path

import jax
import tiny
import topology

from mellow_jax import checkpoint, parallel
from mellow_jax.models import mellow
from mellow_jax.training import checkpoints, programs

SAVED, MORE = 2, 10
RUN = {"seed": 0}


def main(folder, mesh_name, mesh_names, coordinator="", process="0"):
  if coordinator:
    parallel.initialize(coordinator, 2, int(process))
  parallel.use_compilation_cache()
  cfg = tiny.run(optim=tiny.OptimConfig(freeze=(), eps=1e-3, schedule="constant"))
  mesh = parallel.make_mesh(tuple(map(int, mesh_name.split(","))))
  compiled = programs.make(cfg, mesh)

  def advance(state, steps):
    losses, share = [], cfg.batch_size // jax.process_count()
    part = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    for number in steps:
      batch = jax.tree.map(lambda x: x[part], topology.batch(cfg, number))
      state, metrics = compiled.train_step(state, parallel.place_batch(batch, mesh))
      losses.append(float(metrics.loss))
    return state, losses

  def opened(name):
    return checkpoints.TrainCheckpoints(folder / name, keep=1)

  flat = jax.device_get(mellow.flatten(tiny.params(cfg.model)))
  state, _ = advance(compiled.init_state(flat), range(SAVED))
  mine = opened(mesh_name)
  mine.save(SAVED, state, RUN, {})
  mine.close()

  found = {}
  for name in mesh_names.split():
    while not (folder / name / str(SAVED) / checkpoints.COMMITTED).exists():
      time.sleep(0.05)
    state, _ = opened(name).restore(compiled.abstract, RUN)
    digest = checkpoint.digest_json(checkpoint.digest(mellow.flatten(state)))
    found[name] = {"digest": digest, "losses": advance(state, range(SAVED, SAVED + MORE))[1]}
  if parallel.is_first():
    (folder / f"{mesh_name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
  main(Path(sys.argv[1]), *sys.argv[2:])
