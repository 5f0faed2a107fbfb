"""The zip layout of a PyTorch checkpoint, read strictly: members stored as they are, side by side.

`zipfile` reads archives of every kind and trusts what they declare. A checkpoint needs less, so
more can be refused: compression, encryption, comments, a name twice, members that overlap, sizes
beyond the file, wrong checksums. What is accepted costs no more memory than the file has bytes.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from mellow_jax.errors import CheckpointError

MAX_MEMBERS = 100_000  # some two hundred times Mellow's

_END, _LOCATOR, _END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_ENTRY, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_FULL = 0xFFFFFFFF  # in a 32-bit field: the value stands in the zip64 extra field
_DAMAGED = "its zip directory is damaged; download or copy the file again"


@dataclass(frozen=True)
class Member:
  """Where a member's bytes lie in the file."""

  name: str
  start: int  # bytes from the start of the file
  size: int  # bytes in the file
  crc: int
  is_plain: bool  # neither compressed nor encrypted


def directory(file: BinaryIO) -> dict[str, Member]:
  """The members of the open archive by name, none of whose bytes belongs to another.

  Raises CheckpointError.
  """
  try:
    start, table, count = _central_directory(file)
    members = _entries(file, start, table, count)
  except (struct.error, UnicodeDecodeError, OverflowError):
    raise CheckpointError(_DAMAGED) from None
  end = 0
  for member in sorted(members.values(), key=lambda m: (m.start, m.size)):
    if member.start < end:
      raise CheckpointError(f"member {member.name[:100]!r} overlaps another; the file is damaged")
    end = member.start + member.size
  if end > start:
    raise CheckpointError("a member reaches beyond the file's data; download or copy it again")
  return members


def refuse_packed(members: Iterable[Member]) -> None:
  """Raises CheckpointError where a member is compressed or encrypted."""
  for member in members:
    if not member.is_plain:
      raise CheckpointError(
        f"member {member.name[:100]!r} is compressed or encrypted, which PyTorch never does; "
        "unpack the archive and use the checkpoint in it, or re-save it with torch.save"
      )


def read(file: BinaryIO, member: Member) -> np.ndarray:
  """A plain member's bytes as uint8, checked against its checksum. Raises CheckpointError."""
  content = np.empty(member.size, np.uint8)
  file.seek(member.start)
  if file.readinto(content) != member.size or zlib.crc32(content) != member.crc:
    raise CheckpointError(
      f"member {member.name[:100]!r} does not match its checksum; download or copy the file again"
    )
  return content


def write(
  file: BinaryIO, members: Iterable[tuple[str, bytes | np.ndarray]], alignment: int
) -> None:
  """Writes the members in order, each starting at a multiple of `alignment` bytes.

  The same members give the same bytes: no time is recorded.
  """
  with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
    for name, content in members:
      info = zipfile.ZipInfo(name)
      raw = memoryview(content)
      is_wide = raw.nbytes >= _FULL // 2  # zipfile then adds 20 bytes of zip64 to the header
      start = file.tell() + 30 + len(name.encode()) + 20 * is_wide + 4
      padding = -start % alignment
      # "FB" is the field PyTorch fills with padding; readers skip fields they do not know.
      info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
      with archive.open(info, "w", force_zip64=is_wide) as stream:
        stream.write(raw)


def _bytes_at(file: BinaryIO, start: int, size: int) -> bytes:
  file.seek(start)
  return file.read(size)


def _central_directory(file: BinaryIO) -> tuple[int, bytes, int]:
  """Where the directory starts, its bytes, and the number of its entries."""
  end = file.seek(0, 2) - 22
  if end < 0 or not (tail := _bytes_at(file, end, 22)).startswith(_END):
    raise CheckpointError(
      "it is cut short, or not a zip file: there is no zip directory at its end; "
      "download or copy it again"
    )
  count, size, start, comment = struct.unpack("<10xHLLH", tail)
  if end >= 20 and (locator := _bytes_at(file, end - 20, 20)).startswith(_LOCATOR):
    locator_at, (end,) = end - 20, struct.unpack("<8xQ4x", locator)
    record = _bytes_at(file, end, 56) if end < locator_at else b""
    if not record.startswith(_END64):
      raise CheckpointError(_DAMAGED)
    count, size, start = struct.unpack("<32xQQQ", record)
  if comment or start + size != end:
    raise CheckpointError(_DAMAGED)
  if count > MAX_MEMBERS:
    raise CheckpointError(f"it has {count} members, more than the {MAX_MEMBERS} allowed")
  return start, _bytes_at(file, start, size), count


def _entries(file: BinaryIO, start: int, table: bytes, count: int) -> dict[str, Member]:
  members: dict[str, Member] = {}
  at = 0
  for _ in range(count):
    if table[at : at + 4] != _ENTRY:
      raise CheckpointError(_DAMAGED)
    fields = struct.unpack_from("<8xHH4xLLLHHH8xL", table, at)
    flags, method, crc, packed, size, name_size, extra_size, comment_size, header = fields
    extra_at = at + 46 + name_size
    raw_name, extra = table[at + 46 : extra_at], table[extra_at : extra_at + extra_size]
    at = extra_at + extra_size + comment_size
    name = raw_name.decode()
    size, packed, header = _widen(extra, size, packed, header)
    if name in members:
      raise CheckpointError(f"member {name[:100]!r} is there twice; the file is damaged")
    local = _bytes_at(file, header, 30 + name_size) if header < start else b""
    if not local.startswith(_LOCAL) or local[30:] != raw_name:
      raise CheckpointError(_DAMAGED)
    local_name_size, local_extra_size = struct.unpack("<26xHH", local[:30])
    if local_name_size != name_size:
      raise CheckpointError(_DAMAGED)
    content = header + 30 + name_size + local_extra_size
    is_plain = method == 0 and not flags & 1 and packed == size
    members[name] = Member(name, content, packed, crc, is_plain)
  if at != len(table):
    raise CheckpointError(_DAMAGED)
  return members


def _widen(extra: bytes, *values: int) -> list[int]:
  """Takes the values that do not fit in 32 bits from the zip64 extra field, in zip's order."""
  wide = b""
  while extra:
    kind, size = struct.unpack_from("<HH", extra)
    if kind == 1:
      wide = extra[4 : 4 + size]
    extra = extra[4 + size :]
  widened = []
  for value in values:
    if value == _FULL:
      (value,), wide = struct.unpack_from("<Q", wide), wide[8:]
    widened.append(value)
  return widened
