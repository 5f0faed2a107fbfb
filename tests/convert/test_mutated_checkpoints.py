"""Checkpoints of every kind with random mistakes, from the file to the parameters.

Only our own errors, of one line, none over a second, and no growth of memory. MELLOW_MUTATIONS
sets how many there are of all kinds together.
"""

import os
import random
import resource
import shutil
import time

import pytest
from timing import cpu_time

from mellow_jax import checkpoint
from mellow_jax.convert import convert, sources, torch_files
from mellow_jax.errors import UserError
from tests.convert.test_torch_files_fuzz import mutate
from tests.convert.weight_files import parameters, write_legacy, write_safetensors

COUNT = int(os.environ.get("MELLOW_MUTATIONS", "1000"))
KINDS = ("safetensors", "shards", "zip", "legacy")
# Where Orbax gives up on damage, it leaves coroutines behind that nobody waits for.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited"
)


@pytest.fixture(scope="module")
def decoder():
  """Configuration and torch's names of a small decoder, of 60 KB."""
  cfg, flat = parameters("htsat-nonlinear-smollm2")
  flat = {name: x for name, x in flat.items() if name.startswith("decoder/")}
  return cfg, convert.reverse(flat, cfg)


def write(kind, folder, state):
  """Writes a sound checkpoint; gives what is read, and the file that mistakes are made in."""
  if kind == "shards":
    shard, index = "model-00001-of-00001.safetensors", folder / "model.safetensors.index.json"
    write_safetensors(folder / shard, state)
    places = ", ".join(f'"{key}": "{shard}"' for key in state)
    index.write_text(f'{{"weight_map": {{{places}}}}}')
    return index, index
  path = folder / f"{kind}.ckpt"
  match kind:
    case "safetensors":
      write_safetensors(path, state)
    case "zip":
      torch_files.write(path, state)
    case _:
      write_legacy(path, state, clips=100)
  return path, path


def mutated(whole, rng):
  """Mistakes in the header, where they matter most, or anywhere."""
  start = rng.choice((64, 512, 8192, len(whole)))
  if rng.random() < 0.3:  # zip's directory stands at the end
    return whole[:-start] + mutate(whole[-start:], rng)
  return mutate(whole[:start], rng) + whole[start:]


def attempt(number, read, place):
  """Seconds of one read, and whether it succeeded; fails for any error but ours."""
  with cpu_time(time.process_time) as taken:  # readers may have threads
    try:
      read()
      accepted = True
    except UserError as error:
      accepted = False
      assert "\n" not in str(error) and len(str(error)) < 3000, f"mutation {number}: {error}"
      assert str(place) in str(error) or "key" in str(error), f"mutation {number}: {error}"
    except BaseException as error:
      raise AssertionError(f"mutation {number} raised {error!r}") from error
  return taken.seconds, accepted


def report(what, outcomes, before):
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
  slowest, accepted = max(s for s, _ in outcomes), sum(a for _, a in outcomes)
  print(f"{what}: {len(outcomes)}, accepted {accepted}, slowest {slowest:.3f} s, {grown:.0f} MiB")
  assert slowest < 1 and grown < 64


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_give_our_error_alone_within_a_second(kind, decoder, tmp_path):
  cfg, state = decoder
  path, damaged = write(kind, tmp_path, state)
  whole, rng, outcomes = damaged.read_bytes(), random.Random(KINDS.index(kind)), []

  def read():
    convert.convert(sources.load_state_dict(str(path))[0], cfg)

  read()
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for number in range(COUNT * 9 // 40):
    damaged.unlink()
    damaged.write_bytes(mutated(whole, rng))
    outcomes.append(attempt(number, read, tmp_path))
  report(kind, outcomes, before)


def test_mutated_model_folders_give_our_error_alone_within_a_second(tiny_model_folder, tmp_path):
  sound, folder = tiny_model_folder, tmp_path / "model"
  names = [path.relative_to(sound) for path in sound.rglob("*") if path.is_file()]
  names += [name for name in names if name.suffix == ".json"] * len(names)  # mostly these
  checkpoint.load_model(sound)
  rng, outcomes = random.Random(9), []
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for number in range(COUNT // 40):
    shutil.copytree(sound, folder)
    path = folder / rng.choice(names)
    path.write_bytes(mutated(path.read_bytes(), rng) if path.stat().st_size else b"x")
    outcomes.append(attempt(number, lambda: checkpoint.load_model(folder), folder))
    shutil.rmtree(folder)
  report("model folders", outcomes, before)
