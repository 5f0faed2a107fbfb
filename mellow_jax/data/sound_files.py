"""A sound file as frames in any order, of the length that decodes, whatever its header claims.

libsndfile decodes, from the file itself or, where its header lies, from the bytes that
`containers.layout` names.
"""

import contextlib
import functools
import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32

from mellow_jax import files
from mellow_jax.data import containers
from mellow_jax.data.containers import Layout, Part
from mellow_jax.errors import AudioError

# Limits on what a header may claim. Without them a rate of 1 Hz asks for gigabytes of output, and
# a damaged flac or mp3 for terabytes.
MAX_CHANNELS = 16
MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz
MAX_SECONDS = 4 * 3600.0
BLOCK_FRAMES = 2**20  # decoded at a time, where all of a source is

_FAR = 2**40  # bytes, more than any file has
_WANTED = "give wav, flac, ogg or mp3, or get it again"
logger = logging.getLogger("mellow_jax")


@dataclass(frozen=True)
class Signal:
  """An opened source, its header checked."""

  name: str
  rate: int  # Hz
  channels: int
  frames: int
  read: Callable[[int, int], Float32[np.ndarray, "frames channels"]]  # (start, stop), in frames


def printable(path: str) -> str:
  """A path for messages: its name may be no UTF-8."""
  return path.encode("utf-8", "backslashreplace").decode()


def check_header(name: str, rate: int, channels: int, frames: int) -> None:
  """Raises AudioError for what lies beyond the limits of this module."""
  if not MIN_RATE <= rate <= MAX_RATE:
    raise AudioError(
      f"{name}: sample rate {rate} Hz is outside {MIN_RATE} to {MAX_RATE}: convert it to 32000 Hz",
      "rate",
    )
  if not 1 <= channels <= MAX_CHANNELS:
    raise AudioError(
      f"{name}: {channels} channels, where 1 to {MAX_CHANNELS} are read: mix it down to mono",
      "channels",
    )
  if frames < 1:
    raise AudioError(f"{name}: holds no samples: replace it or drop its record", "no_samples")
  if frames > MAX_SECONDS * rate:
    raise AudioError(
      f"{name}: claims {frames / rate:.0f} s, more than {MAX_SECONDS:.0f}: split it, or get it "
      "again if it is shorter",
      "too_long",
    )


class _Spliced(io.RawIOBase):
  """A part of a file below a header of ours, for libsndfile to read.

  is_endless claims more bytes than any file has: of MPEG audio without a header libsndfile gives
  no more frames than it guesses from the number of bytes.
  """

  def __init__(self, file: io.BufferedIOBase, part: Part, *, is_endless: bool):
    self._file, self._part, self._is_endless = file, part, is_endless
    self._size = len(part.head) + part.stop - part.start
    self._at = 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._at

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
    if whence == os.SEEK_END and not offset and self._is_endless:
      base = _FAR
    self._at = max(base + offset, 0)
    return self._at

  def readinto(self, buffer: Any) -> int:
    head, at = self._part.head, self._at
    if at < len(head):
      found = head[at : at + len(buffer)]
    else:
      self._file.seek(self._part.start + at - len(head))
      found = self._file.read(max(min(len(buffer), self._size - at), 0))
    buffer[: len(found)] = found
    self._at += len(found)
    return len(found)


def _reason(error: Exception) -> str:
  """What libsndfile says, without the name, which may be no UTF-8."""
  return getattr(error, "error_string", None) or str(error)


def _foreign(source: "Encoded") -> str:
  """What a file that libsndfile does not open is, where its first bytes tell; else ""."""
  with source.open() as file:
    head = file.read(files.HEAD_BYTES)
  if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3":
    kind = "MPEG-4 (m4a, mp4)" if head[4:8] == b"ftyp" else "Matroska or WebM"
    return f"is {kind}, which is not read; convert it to wav, flac, ogg or mp3"
  return files.foreign(head)


class _SequentialFile(soundfile.SoundFile):
  """A file that is read on and on: soundfile seeks before and after each read, which GSM cannot."""

  def seekable(self) -> bool:
    return False


def _open_first() -> None:
  """Opens, reads and closes one file in memory and fails to open another, while importing.

  cffi builds the types of libsndfile's functions when each is first called. cffi 2.1.1 now and then
  aborts the process (an assertion in realize_c_type) where several threads are first at once: here
  no other thread can be.
  """
  file = io.BytesIO()
  soundfile.write(file, np.zeros(2, np.float32), MIN_RATE, format="WAV")
  file.seek(0)
  with soundfile.SoundFile(file) as sound:
    sound.seek(1)
    sound.read(1, dtype="float32", always_2d=True)
  with contextlib.suppress(soundfile.SoundFileError):
    soundfile.SoundFile(os.devnull)


_open_first()


class Encoded(NamedTuple):
  """An encoded file: a path, or its bytes."""

  name: str  # for messages
  content: str | bytes
  size: int  # bytes
  mtime_ns: int = 0
  max_seconds: float = MAX_SECONDS  # that are decoded where no header tells the length

  def open(self) -> io.BufferedIOBase:
    """Its bytes from the first on."""
    if isinstance(self.content, bytes):
      return io.BytesIO(self.content)
    return Path(self.content).open("rb")


class _Decoder:
  """The frames of one file, or of a part of it, in any order.

  Raises AudioError where libsndfile does not open it.
  """

  def __init__(self, source: Encoded, part: Part | None = None, *, is_endless: bool = False):
    self._source, self._part, self._is_endless = source, part, is_endless
    self._file, self._sound, self._at = None, None, 0
    self._open()
    self.rate, self.channels = self._sound.samplerate, self._sound.channels
    self.form, self.codec = self._sound.format, self._sound.subtype
    self.frames = self._sound.frames  # as claimed

  def _open(self) -> None:
    self.close()
    source, part = self._source, self._part
    if part is None and isinstance(source.content, bytes):
      part = Part(
        b"", 0, source.size
      )  # BytesIO raises where a damaged file is sought before itself
    if part:
      self._file = _Spliced(source.open(), part, is_endless=self._is_endless)
    else:
      self._file = os.fsencode(source.content)  # it may be no UTF-8
    try:
      # TypeError: soundfile wants to be told how to read a file called ".raw".
      self._sound, self._at = _SequentialFile(self._file), 0
    except (soundfile.SoundFileError, TypeError) as error:
      self.close()
      foreign = _foreign(source)
      why = f", it {foreign}" if foreign else f" ({_reason(error)}): {_WANTED}"
      raise AudioError(f"{source.name}: cannot be decoded{why}", "undecodable") from None

  def close(self) -> None:
    for held in (self._sound, self._file):
      if hasattr(held, "close"):
        held.close()

  def _read(self, frames: int) -> Float32[np.ndarray, "frames channels"]:
    wav = self._sound.read(frames, dtype="float32", always_2d=True)
    self._at += len(wav)
    return wav

  def _go_to(self, start: int) -> None:
    if soundfile.SoundFile.seekable(self._sound):
      self._at = self._sound.seek(start)
      return
    if start < self._at:
      self._open()
    self._skip_to(start)

  def _skip_to(self, start: int) -> None:
    while self._at < start and len(self._read(min(start - self._at, BLOCK_FRAMES))):
      pass

  def read(self, start: int, stop: int) -> Float32[np.ndarray, "frames channels"]:
    """Raises AudioError where they do not decode."""
    name, at = self._source.name, self._at
    try:
      self._at = stop  # where nobody knows better
      if at != start:
        self._go_to(start)
      else:
        self._at = start
      wav = self._read(stop - start)
    except soundfile.SoundFileError as error:
      raise AudioError(f"{name}: is damaged ({_reason(error)}): get it again", "damaged") from None
    if len(wav) < stop - start:
      raise AudioError(
        f"{name}: ends at frame {start + len(wav)} of the {self.frames} its header claims: get it "
        "again, or convert it to wav",
        "damaged",
      )
    return wav

  def count(self) -> tuple[int, bool]:
    """The frames that decode, to the limit of length, and whether they end well."""
    frames, block = 0, BLOCK_FRAMES
    while block and frames <= self._source.max_seconds * max(self.rate, MIN_RATE):
      try:
        self._skip_to(frames)
        found = len(self._read(block))
      except soundfile.SoundFileError:
        self._open()
        block //= 32  # the block in which a fault stands is lost
        continue
      frames += found
      if not found:
        return frames, True
    return frames, block > 0


class _Chain:
  """Streams that stand one after the other in a file: one signal, one decoder open at a time."""

  def __init__(self, source: Encoded, parts: Sequence[Part]):
    """Raises AudioError where they differ in rate or channels."""
    self._source, self._parts, self._starts, self.frames = source, parts, [], 0
    self._number, self._decoder, forms = -1, None, set()
    for number in range(len(parts)):
      decoder = self._link(number)
      forms.add((decoder.rate, decoder.channels))
      self._starts.append(self.frames)
      self.frames += decoder.frames
    self.form, self.codec = decoder.form, decoder.codec
    if len(forms) > 1:
      self.close()
      raise AudioError(
        f"{source.name}: a chain of streams of several sample rates or channels: convert it to wav",
        "undecodable",
      )
    ((self.rate, self.channels),) = forms

  def close(self) -> None:
    if self._decoder:
      self._decoder.close()

  def _link(self, number: int) -> _Decoder:
    if number != self._number:
      self.close()
      self._number, self._decoder = number, _Decoder(self._source, self._parts[number])
    return self._decoder

  def read(self, start: int, stop: int) -> Float32[np.ndarray, "frames channels"]:
    """Raises AudioError where they do not decode."""
    pieces = [np.zeros((0, self.channels), np.float32)]
    ends = [*self._starts[1:], self.frames]
    for number, (begin, end) in enumerate(zip(self._starts, ends, strict=True)):
      if begin < stop and start < end:
        first, last = max(start, begin) - begin, min(stop, end) - begin
        pieces.append(self._link(number).read(first, last))
    return np.concatenate(pieces)


# --- Lengths -------------------------------------------------------------------------------------


@functools.lru_cache(4096)
def warn(name: str, text: str) -> None:
  """Logs a warning about a file, once."""
  logger.warning("%s: %s", name, text)


def _decoder(source: Encoded, how: Layout) -> _Decoder | _Chain:
  if len(how.parts) > 1:
    return _Chain(source, how.parts)
  return _Decoder(source, *how.parts, is_endless=how.is_mpeg and how.is_counted)


def _count(source: Encoded, how: Layout) -> int:
  """The frames that decode, of a file whose header does not tell their number."""
  with contextlib.closing(_decoder(source, how)) as decoder:
    frames, is_whole = decoder.count()
  is_short = frames < how.least if how.least else not is_whole
  if is_short and not how.loss:
    warn(
      source.name, f"cut short or damaged: the {frames / decoder.rate:.1f} s that decode are used"
    )
  return frames


_count_once = functools.lru_cache(2**14)(_count)


_complete: set[Encoded] = set()  # files whose end decoded
_MOST_COMPLETE = 2**16


def _check_end(source: Encoded, decoder: _Decoder | _Chain) -> None:
  if source in _complete:
    return
  try:
    decoder.read(decoder.frames - 1, decoder.frames)
  except AudioError as error:
    raise AudioError(
      f"{source.name}: its end does not decode, it is damaged or cut short: get it again",
      error.reason,
    ) from None
  if _is_settled(source) and len(_complete) < _MOST_COMPLETE:
    _complete.add(source)


def _is_settled(source: Encoded) -> bool:
  """Whether a file's size and time tell it from what may stand there later.

  What was written this moment may be written again within the same tick of the clock.
  """
  return isinstance(source.content, str) and time.time_ns() - source.mtime_ns > 2e9


@contextlib.contextmanager
def open_signal(source: Encoded) -> Iterator[Signal]:
  """A file as the signal that decodes.

  A file that does not hold what its header claims is refused. Of one without a claim, such as a
  stream, what decodes is used; where its end seems to be missing a warning says so.

  Raises AudioError for what cannot be opened, and for headers beyond the limits.
  """
  with source.open() as file:
    how = containers.layout(file, source.size)
  if how.cut:
    raise AudioError(f"{source.name}: cut short, {how.cut}: get it again", "cut_short")
  if how.loss:
    warn(source.name, f"{how.loss}: is it cut short? what decodes is used")
  decoder = _decoder(source, how)
  if decoder.codec.startswith("MPEG") and not how.is_mpeg:
    decoder.close()
    how = Layout((Part(b"", 0, source.size),), is_mpeg=True, is_counted=True)
    decoder = _decoder(source, how)
  with contextlib.closing(decoder):
    if how.is_counted:
      decoder.frames = (_count_once if _is_settled(source) else _count)(source, how)
    check_header(source.name, decoder.rate, decoder.channels, decoder.frames)
    if decoder.form == "FLAC" and not how.is_counted:
      _check_end(source, decoder)
    yield Signal(source.name, decoder.rate, decoder.channels, decoder.frames, decoder.read)


def write(path: str | os.PathLike, wav: Float32[np.ndarray, "S"], sample_rate: int) -> None:
  """Writes a mono clip with 16 bits a sample, as WAV or FLAC by the ending of path."""
  kind = Path(path).suffix.removeprefix(".").upper()
  with files.replacing(path, "wb") as file:
    soundfile.write(file, wav, sample_rate, "PCM_16", format=kind)
