"""Checkpoints with random mistakes: an error or plain data, quickly and in little memory."""

import random
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
from timing import cpu_time

from mellow_jax.convert import torch_files, torch_tensors
from mellow_jax.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden" / "saved_by_torch.pt"  # PyTorch 2.13


def mutate(content: bytes, rng: random.Random) -> bytes:
  """Flips, overwrites, deletes, repeats or cuts, up to four times."""
  content = bytearray(content)
  for _ in range(rng.randint(1, 4)):
    at, size = rng.randrange(len(content) + 1), rng.choice((1, 2, 4, 8, 30))
    match rng.randrange(6):
      case 0:
        content[at : at + 1] = bytes([rng.randrange(256)])
      case 1:
        number = rng.choice((0, 1, 2**7, 2**16, 2**31, 2**32, 2**63)) - rng.randrange(2)
        content[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
      case 2:
        del content[at : at + size]
      case 3:
        content[at:at] = content[at : at + size] * rng.randint(1, 3)
      case 4:
        other = rng.randrange(len(content) + 1)
        content[at:at] = content[other : other + size]
      case 5 if rng.random() < 0.1:
        del content[at:]
  return bytes(content)


def mutant(whole: bytes, members: dict[str, bytes], path: Path, rng: random.Random) -> None:
  """A file with a mistake in its bytes, in its directory, in its pickle or in its storages."""
  level = rng.randrange(4)
  path.unlink(missing_ok=True)  # Truncating a file makes some file systems wait for the disk.
  if level == 0:
    path.write_bytes(mutate(whole, rng))
    return
  if level == 1:
    start = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[:start] + mutate(whole[start:], rng))
    return
  members = dict(members)
  names = [name for name in members if "/data/" in name or name.endswith("byteorder")]
  name = next(n for n in members if n.endswith("data.pkl")) if level == 2 else rng.choice(names)
  members[name] = mutate(members[name], rng)
  if level == 3 and rng.random() < 0.2:
    del members[rng.choice(names)]
  with zipfile.ZipFile(path, "w") as file:
    for name, content in members.items():
      file.writestr(name, content)


def copied_bytes(value: object) -> int:
  """Bytes of every array, each copied to prove that it can be."""
  if isinstance(value, np.ndarray):
    return value.copy().nbytes
  items = value.values() if isinstance(value, dict) else value
  return sum(copied_bytes(item) for item in items) if isinstance(value, (dict, list, tuple)) else 0


def attempt(path: Path, number: int) -> tuple[bool, float]:
  """Whether a mutation is read, and the seconds it took; fails for any error but ours."""
  with cpu_time() as taken:
    try:
      assert copied_bytes(torch_files.read(path)) <= torch_tensors.SMALL_BYTES
      is_read = True
    except CheckpointError:
      is_read = False
    except BaseException as error:
      raise AssertionError(f"mutation {number} raised {error!r}") from error
  return is_read, taken.seconds


def fuzz(count: int, path: Path) -> dict[str, float]:
  whole, rng = GOLDEN.read_bytes(), random.Random(1)
  with zipfile.ZipFile(GOLDEN) as file:
    members = {name: file.read(name) for name in file.namelist()}
  accepted, slowest = 0, 0.0
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for number in range(count):
    mutant(whole, members, path, rng)
    is_read, seconds = attempt(path, number)
    accepted, slowest = accepted + is_read, max(slowest, seconds)
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  return {"accepted": accepted, "slowest_s": slowest, "grown_kib": grown}


@pytest.mark.parametrize(
  "count", [2_000, pytest.param(20_000, marks=pytest.mark.slow, id="long-20000")]
)
def test_mutated_files_are_refused_quickly_and_in_little_memory(count, tmp_path):
  outcome = fuzz(count, tmp_path / "x.pt")
  print(outcome)
  assert outcome["slowest_s"] < 1 and outcome["grown_kib"] < 32 * 1024
  # Some mistakes change a value and nothing else; were all refused, the pickles were not reached.
  assert 0.01 * count < outcome["accepted"] < 0.5 * count
