"""Weights come from files, folders and the hub, and arrive as one flat state_dict."""

import json
import logging

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from mellow_jax.convert import sources, stored_zip, torch_files
from mellow_jax.errors import CheckpointError

STATE = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "a.bias": np.ones(2, ml_dtypes.bfloat16),
  "b.steps": np.array(3),
}


def wrapped(path, keys: tuple[str, ...]) -> None:
  """Writes STATE as the only item of a dictionary, or of dictionaries inside each other."""
  opened = "".join(f"}}X{chr(len(key))}\0\0\0{key}" for key in keys)
  torch_files.write(path, STATE)
  with path.open("rb") as file:
    members = {
      name: stored_zip.read(file, member) for name, member in stored_zip.directory(file).items()
    }
  data_pkl = members["archive/data.pkl"].tobytes()
  nested = data_pkl[:2] + opened.encode() + data_pkl[2:-1] + b"s" * len(keys) + b"."
  members["archive/data.pkl"] = np.frombuffer(nested, np.uint8)
  with path.open("wb") as file:
    stored_zip.write(file, members.items(), 64)


def assert_state(source, path) -> None:
  held, origin = sources.load_state_dict(str(source))
  assert origin == path and type(held) is dict and set(held) == set(STATE)
  for key, value in STATE.items():
    assert (held[key].dtype, held[key].shape) == (value.dtype, value.shape)
    assert held[key].tobytes() == value.tobytes()


def refusal(source) -> str:
  with pytest.raises(CheckpointError) as caught:
    sources.load_state_dict(str(source))
  assert "\n" not in str(caught.value)
  return str(caught.value)


def write_shards(folder) -> None:
  names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
  save_file({"a.weight": STATE["a.weight"]}, folder / names[0])
  save_file({"a.bias": STATE["a.bias"], "b.steps": STATE["b.steps"]}, folder / names[1])
  places = {"a.weight": names[0], "a.bias": names[1], "b.steps": names[1]}
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("name", ["v0.ckpt", "x.pt", "x.pth", "model.safetensors"])
def test_a_file_and_the_folder_that_holds_it_are_the_same(name, tmp_path):
  save = (lambda path, state: save_file(state, path)) if "safe" in name else torch_files.write
  save(tmp_path / name, STATE)
  (tmp_path / "config.json").write_text("{}")
  assert_state(tmp_path / name, tmp_path / name)
  assert_state(tmp_path, tmp_path / name)


def test_shards_are_joined(tmp_path):
  write_shards(tmp_path)
  index = tmp_path / "model.safetensors.index.json"
  assert_state(tmp_path, index)
  assert_state(index, index)


def test_shards_must_be_as_their_index_says(tmp_path):
  write_shards(tmp_path)
  index, shard = tmp_path / "model.safetensors.index.json", "model-00002-of-00002.safetensors"
  save_file({"b.steps": STATE["b.steps"], "c": STATE["b.steps"]}, tmp_path / shard)
  assert f"{shard}: {index.name} disagrees with it about a.bias, c" in refusal(tmp_path)
  (tmp_path / shard).unlink()
  assert f"{shard}: missing" in refusal(tmp_path)
  for text in ("", "[" * 100_000, "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'):
    index.write_text(text)
    assert "not an index" in refusal(tmp_path)
  outside = tmp_path.parent / "model-00001-of-00001.safetensors"
  index.write_text(json.dumps({"weight_map": {"a": f"../{outside.name}"}}))
  assert "not an index" in refusal(tmp_path)
  index.unlink()
  assert "no model.safetensors.index.json" in refusal(tmp_path)


def test_several_candidates_are_listed(tmp_path):
  torch_files.write(tmp_path / "v0.ckpt", STATE)
  torch_files.write(tmp_path / "v0_s.ckpt", STATE)
  assert "name one of them: v0.ckpt, v0_s.ckpt" in refusal(tmp_path)
  write_shards(tmp_path)
  listed = refusal(tmp_path)
  assert listed.endswith("name one of them: model.safetensors.index.json, v0.ckpt, v0_s.ckpt")


def test_places_without_a_checkpoint_are_named(tmp_path):
  assert "holds no checkpoint" in refusal(tmp_path)
  assert "no such file or folder" in refusal(tmp_path / "absent.pt")
  (tmp_path / "x.txt").write_text("")
  assert "x.txt: unknown kind of file" in refusal(tmp_path / "x.txt")


@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("model", "state_dict")])
def test_wrappers_are_taken_off(keys, tmp_path):
  wrapped(tmp_path / "x.ckpt", keys)
  assert_state(tmp_path / "x.ckpt", tmp_path / "x.ckpt")


def test_what_is_not_a_state_dict_is_named(tmp_path):
  wrapped(tmp_path / "x.ckpt", ("weights",))
  message = refusal(tmp_path / "x.ckpt")
  assert "'weights' is a OrderedDict, not a tensor" in message and "state_dict, model" in message
  torch_files.write(tmp_path / "x.ckpt", {})
  assert "holds no tensors" in refusal(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"\x80\x04N.", "bare pickle"),
    (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    (b"<!DOCTYPE html>", "web page"),
    (b"\xef\xbb\xbf\n <html>", "web page"),
    (b"Entry not found", "is text ('Entry not found')"),
    (b"\x1f\x8b\x08\0", "compressed by gzip"),
    (b"\x89HDF\r\n", "HDF5"),
    (b"a" * 100 + bytes(157) + b"ustar\0", "tar archive"),
    (b'{"error": "gated"}', "not an index"),
  ],
)
@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors", "x.gguf", "x"])
def test_files_of_other_kinds_are_named(content, message, name, tmp_path):
  (tmp_path / name).write_bytes(content)
  assert message in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["x.PTH", "x.bin", "x.safetensors", "x.ckpt", "x.gguf", "x"])
def test_the_kind_of_a_file_is_told_by_its_content(name, tmp_path):
  torch_files.write(tmp_path / name, STATE)
  assert_state(tmp_path / name, tmp_path / name)
  save_file(STATE, tmp_path / name)
  assert_state(tmp_path / name, tmp_path / name)


def test_a_folder_of_training_holds_one_checkpoint(tmp_path):
  for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
    (tmp_path / name).write_bytes(b"")
  torch_files.write(tmp_path / "pytorch_model.bin", STATE)
  assert_state(tmp_path, tmp_path / "pytorch_model.bin")
  save_file(STATE, tmp_path / "model.safetensors")
  assert_state(tmp_path, tmp_path / "model.safetensors")


def test_shards_of_pytorch_are_joined_and_none_leads_back(tmp_path):
  shard, index = "pytorch_model-00001-of-00001.bin", tmp_path / "pytorch_model.bin.index.json"
  index.write_text(json.dumps({"weight_map": dict.fromkeys(STATE, shard)}))
  torch_files.write(tmp_path / shard, STATE)
  assert_state(tmp_path, index)
  assert_state(index, index)
  (tmp_path / shard).write_bytes(index.read_bytes())
  assert f"it is JSON, not a shard of {index.name}" in refusal(tmp_path)


def test_a_hub_that_does_not_answer_is_told_in_one_line(capsys):
  log = logging.getLogger("huggingface_hub.utils._http")
  with sources.one_retry_line("hf://owner/repo"):
    for number in range(1, 6):
      log.warning("no answer")
      log.warning("Retrying in 1s [Retry %d/5].", number)
  out = capsys.readouterr().err
  assert out == "hf://owner/repo: the hub does not answer, trying for half a minute\n"


def test_damaged_safetensors_are_refused(tmp_path):
  path = tmp_path / "model.safetensors"
  save_file(STATE, path)
  whole = path.read_bytes()
  unknown = whole.replace(b'"BF16"', b'"BF61"')
  float8 = whole.replace(b'"BF16"', b'"F4"  ')
  for damaged in (b"", whole[:50], whole[:-1], b"\xff" * 8 + whole[8:], unknown, float8):
    path.write_bytes(damaged)
    assert "no readable safetensors file" in refusal(path)


@pytest.fixture
def cached_repo(tmp_path, monkeypatch):
  """The folder of owner/repo in a cache laid out as the hub's library does, with no network."""
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  repo, commit = tmp_path / "models--owner--repo", "0123456789" * 4
  (repo / "refs").mkdir(parents=True)
  (repo / "refs" / "main").write_text(commit)
  folder = repo / "snapshots" / commit
  folder.mkdir(parents=True)
  return folder


def test_the_hub_is_read_from_its_cache_when_offline(cached_repo):
  torch_files.write(cached_repo / "v0.ckpt", STATE)
  assert_state("hf://owner/repo/v0.ckpt", cached_repo / "v0.ckpt")
  assert_state("hf://owner/repo", cached_repo / "v0.ckpt")
  assert_state(f"hf://owner/repo/v0.ckpt@{cached_repo.name}", cached_repo / "v0.ckpt")
  assert_state(f"hf://owner/repo@{cached_repo.name}", cached_repo / "v0.ckpt")
  assert "cannot be fetched" in refusal("hf://owner/repo/v1.ckpt")
  assert "cannot be fetched" in refusal("hf://owner/other")
  assert "cannot be fetched" in refusal("hf://owner/repo/v0.ckpt@other")


def test_shards_come_from_the_hub_too(cached_repo):
  write_shards(cached_repo)
  index = cached_repo / "model.safetensors.index.json"
  assert_state("hf://owner/repo", index)
  assert_state("hf://owner/repo/model.safetensors.index.json", index)
  (cached_repo / "model-00001-of-00002.safetensors").unlink()
  assert "cannot be fetched" in refusal("hf://owner/repo/model.safetensors.index.json")


def test_an_adapter_comes_from_the_hub_with_its_configuration(cached_repo):
  save_file(STATE, cached_repo / "adapter_model.safetensors")
  assert "cannot be fetched" in refusal("hf://owner/repo/adapter_model.safetensors")
  (cached_repo / "adapter_config.json").write_text("{}")
  assert_state("hf://owner/repo", cached_repo / "adapter_model.safetensors")


def test_a_repository_is_asked_for_the_one_checkpoint_at_its_top(tmp_path, monkeypatch):
  torch_files.write(tmp_path / "v0.ckpt", STATE)
  listed, asked = ["README.md", "v0.ckpt", "onnx/model.safetensors"], []

  def list_repo_files(self, repo, revision):
    asked.append((repo, revision))
    return listed

  def download(repo, file, revision):
    asked.append((repo, file, revision))
    return str(tmp_path / file)

  monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
  monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
  assert_state("hf://owner/repo@v1", tmp_path / "v0.ckpt")
  fetched = [("owner/repo", name, "v1") for name in ("v0.ckpt", "tokenizer.json")]
  assert asked == [("owner/repo", "v1"), *fetched]
  listed.append("v0_s.ckpt")
  assert refusal("hf://owner/repo").endswith("name one of them: v0.ckpt, v0_s.ckpt")


@pytest.mark.parametrize(
  "source", ["hf://", "hf://owner", "hf://owner//x.pt", "hf://a/b/../c.pt", "hf://a/b@c@d"]
)
def test_malformed_addresses_are_refused(source):
  assert "not of the form hf://owner/repo[/file][@revision]" in refusal(source)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_names_are_read_without_values(name, tmp_path):
  save = (lambda path, state: save_file(state, path)) if "safe" in name else torch_files.write
  save(tmp_path / name, STATE)
  held, _ = sources.load_state_dict(str(tmp_path / name), names_only=True)
  assert set(held) == set(STATE)
  for key, value in STATE.items():
    assert (held[key].dtype, held[key].shape, held[key].any()) == (value.dtype, value.shape, False)
