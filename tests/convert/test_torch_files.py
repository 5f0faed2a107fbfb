"""Checkpoints are read without PyTorch, exactly, and whoever made them."""

import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from timing import cpu_time

from mellow_jax.convert import inert_pickle, stored_zip, torch_files, torch_legacy
from mellow_jax.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden" / "saved_by_torch.pt"  # PyTorch 2.13
DTYPES = (
  *(np.float64, np.float32, np.float16, ml_dtypes.bfloat16),
  *(np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_),
)
SIX = np.arange(6, dtype=np.float32)
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def code(value: object) -> bytes:
  """Opcodes that build the value; bytes are opcodes already."""
  match value:
    case bytes():
      return value
    case bool():
      return pickle.NEWTRUE if value else pickle.NEWFALSE
    case int():
      size = value.bit_length() // 8 + 1
      return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    case str():
      return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    case tuple():
      return b"(" + b"".join(map(code, value)) + b"t"
    case list():
      return b"](" + b"".join(map(code, value)) + b"e"
    case dict():
      return b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u"
  raise TypeError(value)


def tensor(shape=(2, 3), strides=(3, 1), offset=0, count=6, key="0", kind="Float") -> bytes:
  storage = code(("storage", f"ctorch\n{kind}Storage\n".encode(), key, "cpu", count)) + b"Q"
  arguments = (storage, offset, shape, strides, False, ORDERED_DICT)
  return b"ctorch._utils\n_rebuild_tensor_v2\n" + code(arguments) + b"R"


def pickled(value: object) -> bytes:
  return b"\x80\x02" + code(value) + b"."


def archive(path: Path, data_pkl: bytes, extra: dict[str, bytes] | None = None, method=0) -> Path:
  members = {"a/data.pkl": data_pkl, "a/data/0": SIX.tobytes(), **(extra or {})}
  with zipfile.ZipFile(path, "w", method) as file:
    for name, content in members.items():
      file.writestr(name, content)
  return path


def refusal(path: Path) -> str:
  with pytest.raises(CheckpointError) as caught:
    torch_files.read(path)
  message = str(caught.value)
  assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 2000
  return message


def test_a_file_saved_by_pytorch_is_read():
  base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
  held = torch_files.read(GOLDEN)
  assert (held["epoch"], held["rate"], held["none"], held["big"]) == (3, 0.5, None, 2**40)
  assert held["flags"] == [True, (1, "a")]
  np.testing.assert_array_equal(held["transposed"], base.transpose(2, 0, 1)[1:])
  np.testing.assert_array_equal(held["parameter"], np.arange(2, dtype=np.float32))
  np.testing.assert_array_equal(held["stretched"], np.ones((4, 3), np.float32))
  assert held["empty"].shape == (0, 3) and held["scalar"].shape == () and held["scalar"] == 5
  assert held["bfloat16"].dtype == ml_dtypes.bfloat16 and held["bfloat16"].tolist() == [0, 1, 2]
  assert held["bool"].tolist() == [True, False]
  state = held["state_dict"]
  assert list(state)[:2] == ["0.weight", "0.bias"] and state["0.weight"].tolist()[1] == [3, 4, 5]
  assert state["1.num_batches_tracked"].dtype == np.int64
  held["base"][0, 0, 1] = 99  # storages stay shared, as they are in PyTorch
  assert held["transposed"][0, 0, 0] == 99


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_is_read_back_bit_for_bit(dtype, tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, 960, np.uint8)
  noise = noise % 2 if dtype == np.bool_ else noise
  full = noise.view(dtype)[:60].reshape(3, 4, 5)
  state = {"full": full, "view": full.T[1:, ::2], "scalar": full[0, 0, :1].reshape(())}
  state |= {"empty": full[:0], "": full}
  torch_files.write(tmp_path / "x.pt", state)
  back = torch_files.read(tmp_path / "x.pt")
  assert list(back) == list(state)
  for key, value in state.items():
    assert (back[key].dtype, back[key].shape) == (value.dtype, value.shape)
    assert back[key].tobytes() == value.tobytes()


def test_tied_weights_are_stored_once_and_storages_are_aligned(tmp_path):
  weight = np.ones((64, 64), np.float32)
  torch_files.write(tmp_path / "x.pt", {"embed": weight, "head": weight, "one": SIX})
  with (tmp_path / "x.pt").open("rb") as file:
    members = stored_zip.directory(file)
  storages = [m for name, m in members.items() if name.startswith("archive/data/")]
  assert [m.size for m in storages] == [weight.nbytes, SIX.nbytes]
  assert all(m.start % 64 == 0 for m in storages)
  assert (torch_files.read(tmp_path / "x.pt")["head"] == weight).all()


def test_the_same_weights_give_the_same_bytes(tmp_path):
  for name in ("x.pt", "y.pt"):
    torch_files.write(tmp_path / name, {"six": SIX})
  assert (tmp_path / "x.pt").read_bytes() == (tmp_path / "y.pt").read_bytes()


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "x.pt"
  torch_files.write(path, {"six": SIX})
  before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
  try:
    with pytest.raises(CheckpointError, match=r"x\.pt: cannot be written .* are free there"):
      torch_files.write(path, {"large": np.zeros(100_000)})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_writing_names_what_it_cannot_write(tmp_path):
  with pytest.raises(CheckpointError, match="'w' is a complex64"):
    torch_files.write(tmp_path / "x.pt", {"w": np.zeros(2, np.complex64)})
  with pytest.raises(CheckpointError, match="'w' is a list"):
    torch_files.write(tmp_path / "x.pt", {"w": [1.0]})
  with pytest.raises(CheckpointError, match="no such folder"):
    torch_files.write(tmp_path / "absent" / "x.pt", {"six": SIX})
  assert not list(tmp_path.iterdir())


class Call:
  """Pickles as a call, as an attacker's object does."""

  def __init__(self, function, *arguments):
    self.reduced = (function, arguments)

  def __reduce__(self):
    return self.reduced


@pytest.mark.parametrize(
  ("attack", "name"),
  [
    (Call(os.system, "touch ran"), "posix.system"),
    (Call(eval, "open('ran', 'w')"), "__builtin__.eval"),
    (Call(exec, "open('ran', 'w')"), "__builtin__.exec"),
    (Call(getattr, "", "join"), "__builtin__.getattr"),
    (Call(subprocess.Popen, ["touch", "ran"]), "Popen"),
    (np.ones(3), "numpy"),
    (Path("ran"), "pathlib"),
    (random.Random(0), "random.Random"),
  ],
)
def test_pickles_that_call_anything_are_refused_by_name(attack, name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = archive(tmp_path / "x.pt", pickle.dumps({"w": attack}, protocol=2))
  message = refusal(path)
  assert name in message and "nothing was run" in message
  assert not (tmp_path / "ran").exists()
  archive(path, pickle.dumps({"w": attack}, protocol=4))
  assert "pickle protocol 2" in refusal(path)


def test_whole_modules_are_refused(tmp_path):
  module = b"ctorch.nn.modules.linear\nLinear\n)\x81}b"
  message = refusal(archive(tmp_path / "x.pt", pickled({"m": module})))
  assert "torch.nn.modules.linear.Linear" in message and "state_dict" in message
  assert "attributes" in refusal(archive(tmp_path / "x.pt", pickled(b"}" + code({"a": 1}) + b"b")))
  assert "NEWOBJ" in refusal(archive(tmp_path / "x.pt", pickled(b")\x81")))


def test_callbacks_of_old_lightning_files_are_only_names(tmp_path):
  key = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
  data_pkl = pickled(b"}" + code("callbacks") + b"}" + key + code({"best": "x"}) + b"ss")
  callbacks = torch_files.read(archive(tmp_path / "x.ckpt", data_pkl))["callbacks"]
  assert callbacks == {
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": {"best": "x"}
  }
  assert "makes no sense" in refusal(archive(tmp_path / "x.ckpt", pickled(key + b")R")))
  assert "bare name" in refusal(archive(tmp_path / "x.ckpt", pickled({"a": key})))


LAUGHS = (
  b"(](NNNNNNNNNNe" + b"".join(b"q%c](" % i + b"h%c" % i * 10 + b"e" for i in range(20)) + b"t"
)
DEEP = b"]" * 5000 + b"a" * 4999


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ({"w": tensor(offset=1)}, "beyond its storage"),
    ({"w": tensor(strides=(4, 1))}, "beyond its storage"),
    ({"w": tensor(shape=(2, 2**62))}, "beyond its storage"),
    ({"w": tensor(strides=(3, 2**63 - 1))}, "beyond its storage"),
    ({"w": tensor(shape=(0, 3), offset=7)}, "beyond its storage"),
    ({"w": tensor(shape=(2, -3))}, "wrong kind"),
    ({"w": tensor(offset=-1)}, "wrong kind"),
    ({"w": tensor(shape=(2**64, 3), strides=(0, 1))}, "wrong kind"),
    ({"w": tensor(shape=("2", 3))}, "wrong kind"),
    ({"w": tensor(shape=(1,) * 40, strides=(1,) * 40)}, "wrong kind"),
    ({"w": tensor(shape=(2, 3), strides=(1,))}, "makes no sense"),
    ({"w": tensor(shape=(2**40, 3), strides=(0, 1))}, "times the"),
    ({"w": tensor(shape=(2**62, 2**62), strides=(0, 0))}, "times the"),
    ({str(i): tensor((2**10, 2**7), (0, 0)) for i in range(3)}, "times the"),
    ({"w": tensor(count=2**40)}, "storage 0 has 24 bytes"),
    ({"w": tensor(count=5)}, "storage 0 has 24 bytes"),
    ({"w": tensor(count=-6)}, "storage 0 has 24 bytes"),
    ({"w": tensor(key="1")}, "storage '1' is not in the file"),
    ({"w": tensor(key="../data.pkl")}, "not in the file"),
    ({"w": tensor(kind="Complex")}, "torch.ComplexStorage"),
    ({"w": tensor(), "v": tensor(kind="Int")}, "both float32 and int32"),
    ({"w": tensor(kind="Bool", count=24)}, "booleans"),
    ({"w": code(1) + b"Q"}, "makes no sense"),
    ({"w": LAUGHS}, "unfolds to"),
    (DEEP, "a list"),
    ({"w": DEEP}, "nested deeper"),
    (b"}q\x00X\x01\x00\x00\x00ah\x00s", "contains itself"),
    (b"}X\xff\xff\xff\xff", "breaks off"),
    (b"}r\xff\xff\xff\xffj\xff\xff\xff\x7f", "makes no sense"),
    (b"}" * (inert_pickle.MAX_OPCODES + 1), "opcodes allowed"),
    (b"}(" + code("a") + code(1) + code("a") + code(2) + b"u", "twice"),
    (b"}" + code(2**61 - 1) + b"Ns", "key of a dictionary"),
    (b"}" + code((1, 2)) + b"Ns", "key of a dictionary"),
    (tensor(), "holds a ndarray"),
    (b"", "makes no sense"),
  ],
  ids=lambda part: part if isinstance(part, str) else "",
)
def test_impossible_and_enormous_contents_are_refused(value, message, tmp_path):
  with cpu_time() as taken:
    assert message in refusal(archive(tmp_path / "x.pt", pickled(value)))
  assert taken.seconds < 3


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "cut short"),
    (b"hello" * 100, "not a zip file"),
    (torch_legacy.HEAD + b"\x80\x02M", "breaks off"),
  ],
)
def test_files_of_other_kinds_are_named(content, message, tmp_path):
  (tmp_path / "x.pt").write_bytes(content)
  assert message in refusal(tmp_path / "x.pt")


def test_archives_of_other_kinds_are_named(tmp_path):
  path, state = tmp_path / "x.pt", pickled({"w": tensor()})
  assert torch_files.read(archive(path, state))["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
  assert "compressed" in refusal(archive(path, state, method=zipfile.ZIP_DEFLATED))
  assert "TorchScript" in refusal(archive(path, state, {"a/constants.pkl": b""}))
  assert "single folder" in refusal(archive(path, state, {"b/data.pkl": b""}))
  assert "big-endian" in refusal(archive(path, state, {"a/byteorder": b"big"}))
  assert "cannot be read" in refusal(tmp_path)
  assert "cannot be read" in refusal(tmp_path / "absent.pt")
  with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
    file.writestr("a/data/0", SIX.tobytes())
  assert "twice" in refusal(path)


def test_two_members_cannot_claim_the_same_bytes(tmp_path):
  # A member's bytes hold a second member, header and all, to which the directory points.
  inner = b"PK\x03\x04" + bytes(22) + struct.pack("<HH", 8, 0) + b"a/data/1" + SIX.tobytes()
  path = archive(tmp_path / "x.pt", pickled({}), {"a/data/1": SIX.tobytes(), "a/data/2": inner})
  content = bytearray(path.read_bytes())
  entry = content.index(b"a/data/1", content.index(b"PK\x01\x02")) - 46
  content[entry + 42 : entry + 46] = struct.pack("<L", content.index(inner))
  path.write_bytes(content)
  assert "overlaps" in refusal(path)


def test_every_truncation_and_every_flipped_bit_of_the_data_is_noticed(tmp_path):
  path, whole = tmp_path / "x.pt", GOLDEN.read_bytes()
  for size in range(0, len(whole), 101):
    path.write_bytes(whole[:size])
    refusal(path)
  with GOLDEN.open("rb") as file:
    members = stored_zip.directory(file).values()
  for member in members:
    if member.size and ("/data/" in member.name or member.name.endswith("data.pkl")):
      damaged = bytearray(whole)
      damaged[member.start + member.size // 2] ^= 4
      path.write_bytes(damaged)
      assert "checksum" in refusal(path)


def test_pytorch_is_never_imported():
  code = "import sys, mellow_jax.convert.sources; sys.exit('torch' in sys.modules)"
  root = Path(__file__).parents[2]
  subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
