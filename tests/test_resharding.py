"""A checkpoint is the same on whatever mesh it is read, and training goes on from it the same."""

import json
from pathlib import Path

import processes
import pytest

RESHARDING = Path(__file__).parent / "resharding_process.py"
TOPOLOGIES = {"1,1": (1, 1), "1,4": (1, 4), "8,1": (1, 8), "2,4": (2, 4)}  # processes, devices each


@pytest.mark.slow
def test_saved_on_any_mesh_and_restored_on_any_other(compile_cache, tmp_path):
  started = []
  for mesh, (count, devices) in TOPOLOGIES.items():
    arguments = [RESHARDING, tmp_path, mesh, " ".join(TOPOLOGIES)]
    if count == 1:
      started.append(processes.start(arguments, compile_cache, devices))
      continue
    address = f"127.0.0.1:{processes.free_port()}"
    for i in range(count):
      started.append(processes.start([*arguments, address, i], compile_cache, devices))
  processes.finish(*started, seconds=600)
  found = {mesh: json.loads((tmp_path / f"{mesh}.json").read_text()) for mesh in TOPOLOGIES}
  for saved in TOPOLOGIES:
    one = found["1,1"][saved]
    assert len(one["losses"]) == 10
    for restored in TOPOLOGIES:
      assert found[restored][saved]["digest"] == one["digest"], (saved, restored)
      assert found[restored][saved]["losses"] == pytest.approx(one["losses"], rel=1e-5)
