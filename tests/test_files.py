"""Files appear whole or not at all; lines cut off by a kill are cut off the file."""

import json
from pathlib import Path

import pytest
from damage import files_of_at_most

from mellow_jax import files
from mellow_jax.errors import DataError


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
  path = tmp_path / "new" / "a.txt"
  files.write_text(path, "one\n")
  with pytest.raises(RuntimeError), files.replacing(path) as file:
    file.write("half")
    raise RuntimeError
  assert path.read_text() == "one\n"
  assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_is_replaced_whole_or_stays_as_it_was(tmp_path):
  path = tmp_path / "folder"
  with files.replacing_folder(path) as part:
    (part / "a").write_text("1")
  with files.replacing_folder(path) as part:
    (part / "b").write_text("2")
  assert [p.name for p in path.iterdir()] == ["b"]
  with pytest.raises(RuntimeError), files.replacing_folder(path) as part:
    (part / "c").write_text("3")
    raise RuntimeError
  assert [p.name for p in tmp_path.iterdir()] == ["folder"]
  assert [p.name for p in path.iterdir()] == ["b"]


def test_what_gave_way_to_a_folder_that_never_came_is_put_back(tmp_path, monkeypatch):
  path = tmp_path / "folder"
  with files.replacing_folder(path) as part:
    (part / "a").write_text("1")
  rename = Path.rename
  monkeypatch.setattr(Path, "rename", lambda self, to: rename(self, None if to == path else to))
  with pytest.raises(TypeError), files.replacing_folder(path) as part:
    (part / "b").write_text("2")
  assert (tmp_path / "folder.old/a").read_text() == "1"  # as after a kill
  monkeypatch.undo()
  with pytest.raises(RuntimeError), files.replacing_folder(path):
    raise RuntimeError
  assert [p.name for p in tmp_path.iterdir()] == ["folder"]
  assert [p.name for p in path.iterdir()] == ["a"]


def test_what_is_set_aside_takes_the_place_of_what_was(tmp_path):
  for content in ("1", "2"):
    with files.replacing_folder(tmp_path / "folder") as part:
      (part / "a").write_text(content)
    assert files.set_aside(tmp_path / "folder", ".damaged") == tmp_path / "folder.damaged"
  assert [p.name for p in tmp_path.iterdir()] == ["folder.damaged"]
  assert (tmp_path / "folder.damaged/a").read_text() == "2"


def test_a_number_that_is_none_is_not_written(tmp_path):
  with pytest.raises(ValueError):
    files.write_json(tmp_path / "a.json", {"x": float("nan")})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [10, 2**16 - 4, 2**17])
def test_a_line_cut_off_by_a_kill_is_cut_off_the_file(tmp_path, size):
  path = tmp_path / "lines.jsonl"
  files.append_lines(path, [{"i": 0}, {"i": 1}], sync=True)
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"i": "' + b"x" * size)
  assert files.read_lines(path) == [{"i": 0}, {"i": 1}]
  files.cut_partial_line(path)
  assert path.read_bytes() == whole
  files.append_lines(path, [{"i": 2}], sync=False)
  assert [line["i"] for line in files.read_lines(path)] == [0, 1, 2]


def test_a_changed_line_is_named(tmp_path):
  path = tmp_path / "lines.jsonl"
  path.write_text(json.dumps({"i": 0}) + "\nno json\n")
  with pytest.raises(DataError, match=r"lines\.jsonl, line 2"):
    files.read_lines(path)
  assert files.read_lines(tmp_path / "absent") == []
  with pytest.raises(DataError, match="absent"):
    files.read_json(tmp_path / "absent", "a run's settings")


def test_a_line_that_never_ended_leaves_an_empty_file(tmp_path):
  path = tmp_path / "lines.jsonl"
  path.write_text("cut")
  files.cut_partial_line(path)
  files.cut_partial_line(tmp_path / "absent")
  assert path.read_bytes() == b""


def test_no_empty_folder_is_left_after_a_failed_start(tmp_path):
  with pytest.raises(ValueError, match="bad"), files.made_folder(tmp_path / "a" / "b"):
    assert (tmp_path / "a" / "b").is_dir()
    raise ValueError("bad")
  assert not list(tmp_path.iterdir())
  with pytest.raises(ValueError, match="bad"), files.replacing(tmp_path / "a" / "x.txt"):
    raise ValueError("bad")
  assert not list(tmp_path.iterdir())
  with pytest.raises(ValueError, match="bad"), files.made_folder(tmp_path / "a" / "b"):
    (tmp_path / "a" / "kept.txt").write_text("")
    raise ValueError("bad")
  assert [path.name for path in tmp_path.rglob("*")] == ["a", "kept.txt"]


@pytest.mark.parametrize(
  ("head", "what"),
  [
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    (b"\xef\xbb\xbf\n <!DOCTYPE html>", "web page"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"a" * 100 + bytes(157) + b"ustar\0", "tar archive"),
    (b"RIFF", ""),
    (b"", ""),
  ],
)
def test_what_is_often_found_in_the_place_of_a_file_is_named(head, what):
  assert what in files.foreign(head) and bool(what) == bool(files.foreign(head))


def write(path):
  with files.replacing(path, "wb") as file:
    file.write(bytes(100_000))


def write_in_folder(path):
  with files.replacing_folder(path) as folder:
    (folder / "rows").write_bytes(bytes(100_000))


def append(path):
  files.append_lines(path, [{"text": "x" * 100_000}], sync=True)


@pytest.mark.parametrize("put", [write, write_in_folder, append])
def test_what_a_full_disk_does_not_take_is_named(tmp_path, put):
  path = tmp_path / "made"
  with files_of_at_most(50_000), pytest.raises(OSError, match="File too large: ") as caught:
    put(path)
  assert caught.value.filename == str(path)
  assert put is append or not list(tmp_path.iterdir())
