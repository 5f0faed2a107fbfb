"""Checkpoints of PyTorch before 1.6, as that of CNN14 is, are read exactly and run nothing."""

import pickle
import random
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mellow_jax.convert import sources, torch_files, torch_legacy
from tests.convert.test_torch_files import Call, pickled, refusal, tensor
from tests.convert.test_torch_files_fuzz import attempt, mutate

# PyTorch 2.13, torch.save(..., _use_new_zipfile_serialization=False): iteration, model, sampler.
GOLDEN = Path(__file__).parents[1] / "golden" / "saved_by_torch_legacy.pth"
SIX = np.arange(6, dtype=np.float32)
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}


def stream(path: Path, content: bytes, *, system=None, keys=("0",), data=None) -> Path:
  """A legacy file of one storage of six values, by hand."""
  data = struct.pack("<q", 6) + SIX.tobytes() if data is None else data
  parts = (torch_legacy.HEAD, pickled(1001), pickled(system or SYSTEM), content, pickled([*keys]))
  path.write_bytes(b"".join(parts) + data)
  return path


def test_a_legacy_file_saved_by_pytorch_is_read_and_its_sampler_left_out():
  held = torch_files.read(GOLDEN)
  assert list(held) == ["iteration", "model"] and held["iteration"] == 600000
  model, base = held["model"], np.arange(24, dtype=np.float32).reshape(2, 3, 4)
  np.testing.assert_array_equal(model["transposed"], base.transpose(2, 0, 1)[1:])
  np.testing.assert_array_equal(model["0.weight"], np.arange(18.0).reshape(2, 1, 3, 3))
  assert model["1.num_batches_tracked"].dtype == np.int64
  assert model["half"].dtype == np.float16 and model["bfloat16"].dtype == ml_dtypes.bfloat16
  assert model["bfloat16"].tolist() == [0, 1, 2] and model["parameter"].tolist() == [1, 1]
  assert model["empty"].shape == (0, 3) and model["scalar"].shape == () and model["scalar"] == 5
  assert np.shares_memory(model["tied"], model["0.weight"])


def test_the_wrapper_model_is_taken_off():
  tensors, path = sources.load_state_dict(str(GOLDEN))
  assert path == GOLDEN and "1.running_var" in tensors and "iteration" not in tensors


def test_a_hand_made_stream_is_read(tmp_path):
  path = stream(tmp_path / "x.pth", pickled({"w": tensor()}))
  assert torch_files.read(path)["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
  ("attack", "name"),
  [(Call(eval, "open('ran', 'w')"), "__builtin__.eval"), (Path("ran"), "pathlib")],
)
def test_hostile_legacy_pickles_are_refused_by_name(attack, name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for value in ({"w": attack}, {"model": {}, "sampler": attack}):
    message = refusal(stream(tmp_path / "x.pth", pickle.dumps(value, protocol=2)))
    assert name in message and "nothing was run" in message
  hostile_system = pickle.dumps({"little_endian": True, "x": attack}, protocol=2)
  parts = (torch_legacy.HEAD, pickled(1001), hostile_system, pickled({}), pickled([]))
  (tmp_path / "y.pth").write_bytes(b"".join(parts))
  assert name in refusal(tmp_path / "y.pth")
  assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"system": {"little_endian": False}}, "big-endian"),
    ({"keys": ("0", "1")}, "not those used"),
    ({"keys": ()}, "not those used"),
    ({"keys": (0,)}, "makes no sense"),
    ({"data": struct.pack("<q", 6) + SIX[:5].tobytes()}, "storages take 32 bytes, but 28"),
    ({"data": struct.pack("<q", 5) + SIX.tobytes()}, "has 5 values instead of 6"),
    ({"data": struct.pack("<q", 6) + SIX.tobytes() + b"more"}, "storages take 32 bytes, but 36"),
    ({"content": pickled({"w": tensor(count=2**60)})}, "but 32 follow"),
    ({"content": pickled({"w": tensor(count=-6)})}, "but 32 follow"),
    ({"content": pickled({"w": tensor(offset=1)})}, "beyond its storage"),
    ({"content": pickled({"w": tensor(kind="Complex")})}, "torch.ComplexStorage"),
    ({"content": pickled({"w": tensor(), "v": tensor(kind="Int")})}, "in two ways"),
    ({"content": pickle.dumps({"w": SIX}, protocol=2), "keys": (), "data": b""}, "numpy"),
    ({"content": pickled([tensor()])}, "holds a list"),
  ],
)
def test_what_does_not_fit_is_named(changes, message, tmp_path):
  content = changes.pop("content", pickled({"w": tensor()}))
  assert message in refusal(stream(tmp_path / "x.pth", content, **changes))


def test_every_truncation_is_noticed(tmp_path):
  whole = GOLDEN.read_bytes()
  for size in range(len(torch_legacy.HEAD), len(whole), 53):
    (tmp_path / "x.pth").write_bytes(whole[:size])
    refusal(tmp_path / "x.pth")


@pytest.mark.parametrize(
  "count", [2_000, pytest.param(20_000, marks=pytest.mark.slow, id="long-20000")]
)
def test_mutated_legacy_files_give_our_error_alone_within_a_second(count, tmp_path):
  whole, rng, path = GOLDEN.read_bytes(), random.Random(2), tmp_path / "x.pth"
  accepted = 0
  for number in range(count):
    path.unlink(missing_ok=True)
    path.write_bytes(torch_legacy.HEAD + mutate(whole[len(torch_legacy.HEAD) :], rng))
    is_read, seconds = attempt(path, number)
    accepted += is_read
    assert seconds < 1
  assert 0 < accepted < 0.5 * count  # some mistakes change a value and nothing else
