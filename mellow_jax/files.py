"""Files that appear whole or not at all, and JSON lines that a killed process leaves usable."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from mellow_jax.errors import DataError

# The system's numbers for a file that grows no more; a write that fails so names no file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HEAD_BYTES = 512  # of a file, that `foreign` needs
# The first bytes of what is often found in the place of a file -> what it is.
_FOREIGN = {
  b"version https://git-lfs": "is a Git LFS pointer; fetch the file itself with `git lfs pull`",
  b"<": "is a web page; download the file itself",
  b"PK\x03\x04": "is a zip archive, or a workbook; unpack it and name the file in it",
  b"\x1f\x8b": "is compressed by gzip; unpack it with gunzip",
  b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it with unzstd",
  b"\xfd7zXZ": "is compressed by xz; unpack it with unxz",
  b"BZh": "is compressed by bzip2; unpack it with bunzip2",
  b"7z\xbc\xaf": "is a 7z archive; unpack it and name the file in it",
  b"PAR1": "is a Parquet file; save its rows as JSON lines or CSV",
  b"\x89HDF": "is an HDF5 file; export from it what is needed",
}


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Names path in the error of a block that writes there, where the disk is full."""
  try:
    yield
  except OSError as error:
    if error.errno in FULL and error.filename is None:
      error.filename = os.fspath(path)
    raise


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
  """A file to write into; it takes the place of path once the block ends and its bytes are on disk.

  Until then path stays as it was, and after an error nothing is left. Folders above it are made.
  mode is "w" (UTF-8 with "\\n" as it stands) or "wb".
  """
  path = Path(path)
  part = path.with_name(path.name + ".part")
  text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
  with made_folder(path.parent):
    try:
      with naming(path), part.open(mode, **text) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      part.replace(path)
    except BaseException:
      part.unlink(missing_ok=True)
      raise


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike) -> Iterator[Path]:
  """An empty folder to write into; it takes the place of path once the block ends.

  A folder that stood at path gives way only then. After an error nothing is left of the new one.
  """
  path = Path(path)
  part, old = (path.with_name(path.name + ending) for ending in (".part", ".old"))
  shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
  if old.exists() and not path.exists():
    old.rename(path)  # as well, between the two renames below
  try:
    part.mkdir(parents=True)
    with naming(path):
      yield part
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
      path.rename(old)
    part.rename(path)
    shutil.rmtree(old, ignore_errors=True)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    if old.exists() and not path.exists():
      old.rename(path)
    raise


@contextlib.contextmanager
def locked(path: str | os.PathLike) -> Iterator[bool]:
  """Locks a file or folder until the block ends; False where another process has locked it.

  The system unlocks what a process has locked when it ends, however that is. Where the file system
  has no locks, nothing is locked.
  """
  opened = os.open(path, os.O_RDONLY)
  try:
    try:
      fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield False
      return
    except OSError:
      pass  # it has none
    yield True
  finally:
    os.close(opened)


@contextlib.contextmanager
def made_folder(path: str | os.PathLike) -> Iterator[None]:
  """path is a folder within the block; after an error, what was made for it is gone if empty."""
  path = Path(path)
  new = [place for place in (path, *path.parents) if not place.exists()]
  path.mkdir(parents=True, exist_ok=True)
  try:
    yield
  except BaseException:
    for place in new:
      with contextlib.suppress(OSError):  # it holds something
        place.rmdir()
    raise


def set_aside(path: str | os.PathLike, ending: str) -> Path:
  """Renames a file or folder to its name and the ending, in the place of what stood there."""
  path = Path(path)
  aside = path.with_name(path.name + ending)
  shutil.rmtree(aside, ignore_errors=True)
  return path.replace(aside)


def foreign(head: bytes) -> str:
  """What a file is whose first HEAD_BYTES are of a kind no reader takes, with a remedy; or ""."""
  start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
  found = (meaning for magic, meaning in _FOREIGN.items() if start.startswith(magic))
  is_tar = head[257:262] == b"ustar"
  return next(found, "is a tar archive; unpack it and name the file in it" if is_tar else "")


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a UTF-8 file, whole or not at all."""
  with replacing(path) as file:
    file.write(text)


def write_json(path: str | os.PathLike, content: Any) -> None:
  """Writes a JSON file, whole or not at all; NaN is refused with ValueError."""
  write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def json_list(path: str | os.PathLike) -> Iterator[Callable[[Any], None]]:
  """A function that adds an item to a JSON list, which is written whole once the block ends."""
  with replacing(path) as file:
    before = "[\n"

    def add(item: Any) -> None:
      nonlocal before
      file.write(before + json.dumps(item, ensure_ascii=False))
      before = ",\n"

    yield add
    file.write("\n]\n" if before == ",\n" else "[]\n")


def read_json(path: str | os.PathLike, what: str) -> Any:
  """The content of a JSON file; `what` names it in messages, such as "a run's settings".

  Raises DataError naming the file where it is absent, unreadable or no JSON.
  """
  try:
    return json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    reason = getattr(error, "strerror", None) or error
    raise DataError(f"{path}: is not {what} ({reason}): check the path, or make it anew") from None


def append_lines(path: str | os.PathLike, lines: Iterable[dict[str, Any]], *, sync: bool) -> None:
  """Adds objects to a file of JSON lines; with sync, returns once they are on disk."""
  text = "".join(json.dumps(line) + "\n" for line in lines)
  with naming(path), Path(path).open("ab") as file:
    file.write(text.encode())
    if sync:
      file.flush()
      os.fsync(file.fileno())


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The objects of a file of JSON lines that this package appends to; none where it is absent.

  A last line that a kill cut off is left out, and left in the file. Raises DataError naming the
  line where another is no JSON.
  """
  path, found = Path(path), []
  if not path.exists():
    return found
  for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
    try:
      found.append(json.loads(line))
    except ValueError as error:
      raise DataError(
        f"{path}, line {number}: is not JSON ({error}): the file was changed; remove that line"
      ) from None
  return found


def cut_partial_line(path: str | os.PathLike) -> None:
  """Cuts off a last line without its end, which a kill has left; the next append starts a line."""
  path = Path(path)
  if not path.exists():
    return
  with path.open("rb+") as file:
    size = file.seek(0, os.SEEK_END)
    while size:
      start = max(0, size - 2**16)
      file.seek(start)
      block = file.read(size - start)
      if b"\n" in block:
        size = start + block.rindex(b"\n") + 1
        break
      size = start
    file.truncate(size)
