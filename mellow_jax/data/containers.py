"""What the header of a sound file claims about its length, and whether the file bears it out.

Programs that write to a pipe or are killed leave sizes of 0 or "unknown", browsers count the header
as well, downloads end early. libsndfile believes the claims. Here they are compared with the bytes
that are there; where they differ, `Layout` says which bytes to decode under which header. Nothing
is decoded here.

Sources: RIFF and RF64 (EBU Tech 3306), Wave64, AIFF-C, Apple's CAF, RFC 3533 (Ogg), RFC 9639
(FLAC), ISO/IEC 11172-3 (MPEG audio) with the length headers of LAME and Fraunhofer.
"""

import functools
import io
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# Sizes that exceed the file by less count the header as well; what they claim is whole.
SLACK = 128  # bytes
# A size from here up means "unknown": what programs write when they stream.
_STREAMED = 0x7FFF_0000
_MOST_HEAD = 2**20  # bytes of a header that is rewritten
_BLOCK = 2**18  # bytes read at a time


class Part(NamedTuple):
  """A range of a file's bytes that is decoded as a file of its own, below a header of ours."""

  head: bytes
  start: int
  stop: int


@dataclass(frozen=True)
class Layout:
  """How to decode a file."""

  parts: tuple[Part, ...] = ()  # one after the other; none: the file as it is
  is_mpeg: bool = False  # libsndfile guesses the length of MPEG audio, unless a header tells it
  is_counted: bool = False  # no header tells the length: decode to the end to know it
  cut: str = ""  # what is not there of what is claimed: the file must not be used
  least: int = 0  # frames that decode at least, unless the last is cut
  loss: str = ""  # what seems to be missing, though nothing claims it


def layout(file: io.BufferedIOBase, size: int) -> Layout:
  """How to decode a file of so many bytes; of a container that is not known here, as it is."""
  start = _after_tags(file, 0, size)
  magic = _at(file, start, 4)
  if magic in _CHUNKED:
    return _chunked(file, start, size)
  if magic in (b".snd", b"dns."):
    return _au(file, start, size)
  if magic == b"NIST":
    return _nist(file, start, size)
  if magic == b"fLaC":
    return _flac(file, start, size)
  if magic == b"OggS":
    return _ogg(file, start, size)
  if _frame_bytes(magic):
    return _mpeg(file, start, size)
  return Layout()


def _at(file: io.BufferedIOBase, start: int, count: int) -> bytes:
  file.seek(start)
  return file.read(count)


def _after_tags(file: io.BufferedIOBase, start: int, stop: int) -> int:
  """Where the sound begins after tags of ID3v2."""
  while len(head := _at(file, start, 10)) == 10 and head[:3] == b"ID3" and max(head[6:]) < 128:
    length = 0
    for byte in head[6:]:
      length = length << 7 | byte
    if start + 10 + length >= stop:
      break
    start += 10 + length + 10 * (head[5] >> 4 & 1)  # with a footer
  return start


# --- Chunks: RIFF, RF64, Wave64, AIFF, CAF -------------------------------------------------------


class _Form(NamedTuple):
  """How a container writes its chunks."""

  size: str  # struct's letter for the size of a chunk
  first: int  # where the first chunk begins
  data: bytes  # the name of the chunk of samples
  name: int = 4  # bytes of a chunk's name
  align: int = 2  # chunks begin at multiples of it
  own: int = 0  # bytes of name and size that the size counts as well
  whole: int = 4  # where the size of the whole stands; 0: nowhere


_CHUNKED = {
  b"RIFF": _Form("<I", 12, b"data"),
  b"RIFX": _Form(">I", 12, b"data"),
  b"RF64": _Form("<I", 12, b"data"),
  b"BW64": _Form("<I", 12, b"data"),
  b"FORM": _Form(">I", 12, b"SSND"),
  b"riff": _Form("<Q", 40, b"data", name=16, align=8, own=24, whole=16),
  b"caff": _Form(">Q", 8, b"data", align=1, whole=0),
}
_MPEG_IN_WAV = 0x55
_USUAL_CHUNKS = (b"LIST", b"id3 ", b"bext", b"cue ", b"smpl", b"iXML", b"fact", b"PEAK", b"JUNK")


class _Chunk(NamedTuple):
  name: bytes
  start: int  # of its content
  size: int  # of its content, as claimed
  size_at: int  # where that stands
  form: str  # struct's letter for it


def _chunks(file: io.BufferedIOBase, form: _Form, start: int, stop: int) -> Iterator[_Chunk]:
  """The chunks up to the first that does not fit."""
  width = struct.calcsize(form.size)
  at = start + form.first
  while at < stop and len(head := _at(file, at, form.name + width)) == form.name + width:
    size = max(struct.unpack_from(form.size, head, form.name)[0] - form.own, 0)
    content = at + len(head)
    yield _Chunk(head[:4], content, size, at + form.name, form.size)
    at = content + size
    at += (start - at) % form.align


def _chunked(file: io.BufferedIOBase, start: int, stop: int) -> Layout:
  """How to decode a container of chunks.

  A size of the samples that is 0 or "unknown", or after which the file goes on with what is no
  chunk, is no claim: then the samples go to the end of the file.
  """
  form, codec, long = _CHUNKED[_at(file, start, 4)], 0, None
  for chunk in _chunks(file, form, start, stop):
    if chunk.name == b"ds64":  # the sizes that are too large for the others
      long = chunk.start + 8
    elif chunk.name == b"fmt ":
      codec = int.from_bytes(_at(file, chunk.start, 2), "little")
    elif chunk.name == form.data:
      break
  else:
    return Layout()
  if long and chunk.size == 2**32 - 1 and len(size := _at(file, long, 8)) == 8:
    chunk = chunk._replace(size=int.from_bytes(size, "little"), size_at=long, form="<Q")
  there = stop - chunk.start
  unknown = _STREAMED if form.size[1] == "I" and chunk.form[1] == "I" else 2**62
  if there + SLACK < chunk.size < unknown:
    return Layout(cut=f"{there} of its {chunk.size} bytes of samples are there")
  goes_on = not _ends(file, form, chunk.start + chunk.size, stop, claimed=chunk.size > 0)
  end = stop if chunk.size > there or goes_on else chunk.start + chunk.size
  if codec == _MPEG_IN_WAV:
    return _mpeg(file, chunk.start, end, is_inside=True)
  if end == chunk.start + chunk.size:
    return Layout()
  return _patched(file, start, chunk, end - chunk.start, form)


def _is_padding(file: io.BufferedIOBase, at: int, stop: int) -> bool:
  """Whether nothing but zeros stands there."""
  return not any(any(_at(file, i, min(_BLOCK, stop - i))) for i in range(at, stop, _BLOCK))


def _ends(file: io.BufferedIOBase, form: _Form, at: int, stop: int, *, claimed: bool) -> bool:
  """Whether the samples end here: a chunk or a tag follows, or nothing does, or but zeros.

  claimed: some samples are. Where none are, many zeros are silence.
  """
  for begin in {at, at + (at % form.align == 1)}:
    if begin >= stop or ((claimed or stop - begin <= SLACK) and _is_padding(file, begin, stop)):
      return True
    head = _at(file, begin, form.name + struct.calcsize(form.size))
    if head[:3] in (b"ID3", b"TAG") or head[:8] == b"APETAGEX" or head[:4] in _USUAL_CHUNKS:
      return True  # it may be cut
    if len(head) == form.name + struct.calcsize(form.size) and head[:4].isascii():
      (size,) = struct.unpack_from(form.size, head, form.name)
      if head[:4].decode().isprintable() and begin + len(head) + size - form.own <= stop + 1:
        return True
  return False


def _patched(file: io.BufferedIOBase, start: int, chunk: _Chunk, size: int, form: _Form) -> Layout:
  """The samples, so many bytes, below the file's header with this size written into it."""
  if chunk.start - start > _MOST_HEAD:
    return Layout(cut="sizes in its header are wrong")
  head = bytearray(_at(file, start, chunk.start - start))
  own = form.own if chunk.form == form.size else 0
  most = 256 ** struct.calcsize(chunk.form) - 1
  struct.pack_into(chunk.form, head, chunk.size_at - start, min(size + own, most))
  if form.whole:
    most = 256 ** struct.calcsize(form.size) - 1
    whole = len(head) + size - (0 if form.own else 8)
    struct.pack_into(form.size, head, form.whole, min(whole, most))
  return Layout(parts=(Part(bytes(head), chunk.start, chunk.start + size),))


def _au(file: io.BufferedIOBase, start: int, stop: int) -> Layout:
  head = _at(file, start, 12)
  if len(head) < 12:
    return Layout()
  order = "<I" if head[:4] == b"dns." else ">I"
  (offset,), (size,) = struct.unpack_from(order, head, 4), struct.unpack_from(order, head, 8)
  chunk = _Chunk(b"", start + offset, size, start + 8, order)
  there = stop - chunk.start
  if there + SLACK < size < _STREAMED:
    return Layout(cut=f"{there} of its {size} bytes of samples are there")
  if there < 0 or offset < 12 or size <= there <= size + SLACK:
    return Layout()
  return _patched(file, start, chunk, there, _Form(order, 0, b"", whole=0))


def _nist(file: io.BufferedIOBase, start: int, stop: int) -> Layout:
  """The header of NIST's SPHERE is lines such as "sample_count -i 16000"."""
  head = _at(file, start, 1024)
  fields = dict(re.findall(rb"(?m)^(\w+) -i (\d{1,15})\s*$", head))
  sizes = [fields.get(name) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
  length = re.match(rb"NIST_1A\s+(\d{1,6})\s", head)
  if None in sizes or not length:
    return Layout()
  claimed, there = math.prod(map(int, sizes)), stop - start - int(length[1])
  is_plain = b"shorten" not in head
  return Layout(
    cut=f"{there} of its {claimed} bytes of samples are there"
    if is_plain and there < claimed
    else ""
  )


# --- FLAC ----------------------------------------------------------------------------------------


def _flac(file: io.BufferedIOBase, start: int, stop: int) -> Layout:
  """How to decode FLAC: the last frame tells its number, by which it may hold more than claimed."""
  head = bytearray(_at(file, start, 42))
  if len(head) < 42 or head[4] & 127:
    return Layout()
  total = int.from_bytes(head[21:26], "big") & (2**36 - 1)
  end = _flac_end(file, head, start, stop)
  if end and end < total < _MOST_SAMPLES:
    return Layout(cut=f"{end} of its {total} samples are there")
  if total and end <= total:
    # Behind a tag, libsndfile finds the first frame but not the others.
    return Layout(parts=(Part(b"", start, stop),) if start else ())
  head[21] &= 0xF0  # a total of 0 is none
  head[22:26] = bytes(4)
  return Layout(parts=(Part(bytes(head), start + 42, stop),), is_counted=True, least=end)


_MOST_SAMPLES = 2**33  # larger claims are no length at all
_FLAC_BLOCKS = (0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << i for i in range(8)))
# By their codes in a frame's header; with other codes it does not say, or says it further on.
_FLAC_RATES = dict(enumerate((88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000), 1))
_FLAC_RATES |= {9: 44_100, 10: 48_000, 11: 96_000}
_FLAC_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}


def _flac_end(file: io.BufferedIOBase, head: bytearray, start: int, stop: int) -> int:
  """Samples up to the end of the last frame, as its header says; 0 where none is found."""
  block, longest = int.from_bytes(head[10:12], "big"), int.from_bytes(head[15:18], "big")
  form = _FlacForm(
    rate=int.from_bytes(head[18:21], "big") >> 4,
    channels=(head[20] >> 1 & 7) + 1,
    bits=(head[20] << 4 & 16 | head[21] >> 4) + 1,
  )
  at = max(stop - max(2 * longest, 2**16), start + 42)
  tail = _at(file, at, stop - at)
  for sync in (b"\xff\xf8", b"\xff\xf9"):
    found = tail.rfind(sync)
    while found >= 0:
      if end := _flac_frame_end(tail[found : found + 16], block, form):
        return end
      found = tail.rfind(sync, 0, found)
  return 0


class _FlacForm(NamedTuple):
  """What the header of a file says of all its frames."""

  rate: int  # Hz
  channels: int
  bits: int  # a sample


def _is_of_form(frame: bytes, form: _FlacForm) -> bool:
  """Whether a frame's header agrees with the file's, where it says the same itself."""
  rate, channels, bits = frame[2] & 15, frame[3] >> 4, frame[3] >> 1 & 7
  return (
    _FLAC_RATES.get(rate, form.rate) == form.rate
    and rate < 15
    and (channels + 1 if channels < 8 else 2) == form.channels
    and channels < 11
    and _FLAC_BITS.get(bits, form.bits) == form.bits
    and bits != 3
    and not frame[3] & 1
  )


def _flac_frame_end(frame: bytes, block: int, form: _FlacForm) -> int:
  """Samples up to the end of the frame with this header; 0 where it is none."""
  if len(frame) < 16 or not _is_of_form(frame, form):
    return 0
  # The number is coded as UTF-8 codes a character, in up to 7 bytes.
  more = max(8 - (frame[4] ^ 255).bit_length() - 1, 0)
  number = frame[4] & (127 if not more else 127 >> (more + 1))
  for byte in frame[5 : 5 + more]:
    number = number << 6 | byte & 63
  at, code = 5 + more, frame[2] >> 4
  samples = _FLAC_BLOCKS[code]
  if code in (6, 7):
    samples = int.from_bytes(frame[at : at + code - 5], "big") + 1
    at += code - 5
  at += {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
  crc = 0
  for byte in frame[:at]:
    crc ^= byte
    for _ in range(8):
      crc = crc << 1 ^ (0x107 if crc & 128 else 0)
  if at >= 16 or crc != frame[at] or not samples:
    return 0
  return (number if frame[1] & 1 else number * block) + samples


# --- Ogg -----------------------------------------------------------------------------------------


def _ogg(file: io.BufferedIOBase, start: int, stop: int) -> Layout:
  """How to decode Ogg: the links of a chain one after the other, each a stream of its own."""
  links, heads, flags, at = [], False, 0, start
  while at < stop:
    head = _at(file, at, 27 + 255)
    if head[:4] != b"OggS":
      if (found := _at(file, at, 2**17).find(b"OggS")) < 0:
        break  # a tag, or padding
      at += found
      continue
    length = 27 + head[26] + sum(head[27 : 27 + head[26]]) if len(head) > 26 else stop
    if at + length > stop:
      return Layout(cut="its last page is not there in full")
    flags = head[5]
    if flags & 2 and not heads:  # the first page of a stream, after pages of another
      links.append(at)
    heads, at = bool(flags & 2), at + length
  ends = [*links[1:], stop]
  parts = tuple(Part(b"", *ends) for ends in zip(links, ends, strict=False))
  loss = "" if flags & 4 else "its last page is not marked as the last"
  return Layout(parts=parts if len(parts) > 1 else (), loss=loss)


# --- MPEG audio ----------------------------------------------------------------------------------

# kbit/s by index, in MPEG 1 by layer, then in MPEG 2 and 2.5.
_BITRATES = {
  (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
  (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
  (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
  (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_BITRATES[False, 3] = _BITRATES[False, 2]
_MPEG_RATES = (44_100, 48_000, 32_000)  # Hz, in MPEG 1


def _frame_bytes(head: bytes) -> int:
  """The length of an MPEG frame by its first 3 bytes; 0 where they begin none."""
  if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
    return 0
  version, layer, index = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4
  rate = head[2] >> 2 & 3
  if version == 1 or layer == 4 or index in (0, 15) or rate == 3:
    return 0
  first = version == 3
  bits = _BITRATES[first, layer][index - 1] * 1000
  hertz = _MPEG_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
  padding = head[2] >> 1 & 1
  if layer == 1:
    return (12 * bits // hertz + padding) * 4
  return (144 if first or layer == 2 else 72) * bits // hertz + padding


_frame_bytes_of = functools.lru_cache(2**16)(_frame_bytes)


def _mpeg(file: io.BufferedIOBase, start: int, stop: int, *, is_inside: bool = False) -> Layout:
  """How to decode MPEG audio: to its end, unless a header in its first frame tells the length.

  That header is believed where it counts the frames that are there. is_inside: of another file.
  """
  head = _at(file, start, 192)
  claim = _claim(head)
  begin = start if claim is None else start + _frame_bytes(head)
  claimed, length = claim or (0, 0)
  frames, end = _walk(file, begin, stop)
  if claimed and frames == claimed:
    return Layout(parts=(Part(b"", start, stop),) if is_inside else (), is_mpeg=True)
  if frames < claimed - 1 and end >= stop and not 0 < length <= stop - start:
    return Layout(cut=f"{frames} of its {claimed} frames are there")
  return Layout(
    parts=(Part(b"", begin, stop),),
    is_mpeg=True,
    is_counted=True,
    # Where what follows some frame is no frame.
    least=(claimed - 1) * _frame_samples(head) if claimed and begin > start and end < stop else 0,
    loss="its last frame is not there in full" if end > stop else "",
  )


class _Claim(NamedTuple):
  """What the first frame tells of the others: 0 where it says nothing of it."""

  frames: int
  bytes: int


def _claim(head: bytes) -> _Claim | None:
  """None where the first frame is sound as the others are."""
  at = max(head.find(name, 4, 48) for name in (b"Xing", b"Info"))
  if at > 0 and len(head) >= at + 16:
    flags = head[at + 7]
    told = iter(struct.unpack_from(">2I", head, at + 8))
    return _Claim(next(told) if flags & 1 else 0, next(told) if flags & 2 else 0)
  at = head.find(b"VBRI", 36, 40)
  if at > 0 and len(head) >= at + 18:
    return _Claim(*reversed(struct.unpack_from(">2I", head, at + 10)))
  return None


def _frame_samples(head: bytes) -> int:
  layer, is_first = 4 - (head[1] >> 1 & 3), head[1] >> 3 & 3 == 3
  return {1: 384, 2: 1152, 3: 1152 if is_first else 576}[layer]


def _walk(file: io.BufferedIOBase, at: int, stop: int) -> tuple[int, int]:
  """The frames that follow each other in full, and where they end; beyond stop if one is cut."""
  frames, base, block = 0, at, b""
  while at < stop:
    if at - base + 3 > len(block):
      base, block = at, _at(file, at, _BLOCK)
    length = _frame_bytes_of(block[at - base : at - base + 3])
    if not length:
      break
    at += length
    frames += at <= stop
  return frames, at
