"""Audio file or bytes to the float32 waveform of a clip: decode, mono, resample, fit.

Only the part that the model takes is decoded, with the margin that the resampling filter needs: ten
seconds out of an hour cost what ten seconds cost. Resampling any window equals resampling the whole
file and cutting the window from it.
"""

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import soundfile
from jaxtyping import Float32

from mellow_jax.config import AudioConfig
from mellow_jax.data import resampling
from mellow_jax.data.presets import Preset
from mellow_jax.errors import AudioError

# Limits on what a header may claim. Without them a rate of 1 Hz asks for gigabytes of output, and
# a damaged flac or mp3 for terabytes.
MAX_CHANNELS = 16
MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz
MAX_SECONDS = 4 * 3600.0
# Full scale is 1. Floating-point files may go beyond it, and real ones near 100 exist; at this size
# the samples are integers that somebody forgot to scale.
MAX_AMPLITUDE = 1e4
# The shortest remainder that counts as a window of its own.
MIN_WINDOW_SECONDS = 1.0
# Half the range of samples up to which a clip counts as silent: the smallest step of 16 bits.
SILENT_SWING = 2.0**-15
# A RIFF size from here up means "unknown": what programs write when they stream.
_STREAMED_RIFF = 0x7FFF_0000
_BLOCK_FRAMES = 2**20  # decoded at a time, where all of a source is

Source = str | os.PathLike | bytes | tuple[np.ndarray, int]
Window = Literal["first", "center", "random"]
Reason = Literal[
  "missing",
  "not_a_file",
  "unreadable",  # the system does not open it: permissions, a loop of links
  "path",  # it would leave the audio root
  "empty",
  "undecodable",
  "no_samples",
  "rate",
  "channels",
  "too_long",
  "cut_short",
  "damaged",
  "not_finite",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
# Those of the whole file, whatever part is decoded, that trying again does not mend.
LASTING: tuple[Reason, ...] = (
  *("not_a_file", "path", "empty", "undecodable", "no_samples"),
  *("rate", "channels", "too_long", "cut_short"),
)


@dataclass(frozen=True)
class Clip:
  """A waveform of the model's input length, and where in its source it comes from.

  Seconds count the mono signal, which under the preset "release" is every channel end to end.
  """

  wav: Float32[np.ndarray, "S"]
  start_seconds: float  # where the clip begins in the signal
  seconds_used: float  # of the signal, without repetition and padding
  total_seconds: float  # of the signal


@dataclass(frozen=True)
class _Signal:
  """An opened source, its header checked."""

  name: str
  rate: int  # Hz
  channels: int
  frames: int
  read: Callable[[int, int], Float32[np.ndarray, "frames channels"]]  # (start, stop), in frames


# --- Opening -------------------------------------------------------------------------------------


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


def _check_header(name: str, rate: int, channels: int, frames: int) -> None:
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


def _open_array(wav: np.ndarray, rate: int) -> _Signal:
  name = f"array {wav.dtype}{list(wav.shape)}"
  if not np.issubdtype(wav.dtype, np.floating) or wav.ndim not in (1, 2):
    raise AudioError(
      f"{name}: give floating-point samples in [-1, 1], shaped [samples] or [samples, channels]",
      "undecodable",
    )
  wav = wav[:, None] if wav.ndim == 1 else wav
  _check_header(name, rate, wav.shape[1], wav.shape[0])
  return _Signal(name, rate, wav.shape[1], wav.shape[0], lambda a, b: wav[a:b].astype(np.float32))


def _check_riff(name: str, head: bytes, size: int) -> None:
  """A wav cut short still opens, as a shorter file; only its header tells."""
  promised = 8 + int.from_bytes(head[4:8], "little")
  # One byte less is no loss: some programs count the last padding byte and do not write it.
  if head[:4] == b"RIFF" and size + 1 < promised < _STREAMED_RIFF:
    raise AudioError(
      f"{name}: cut short, {size} of {promised} bytes are there: get it again", "cut_short"
    )


def _head(path: str) -> bytes:
  with Path(path).open("rb") as file:
    return file.read(12)


@contextlib.contextmanager
def _open(source: Source, called: str | None = None) -> Iterator[_Signal]:
  """Raises AudioError for what cannot be opened and for headers beyond the limits."""
  if isinstance(source, tuple):
    yield _open_array(*source)
    return
  if isinstance(source, bytes):
    name = called or f"{len(source)} bytes"
    size, head, file = len(source), source[:12], io.BytesIO(source)
  else:
    name = file = os.fspath(source)
    try:
      status = Path(name).stat()
      is_file = stat.S_ISREG(status.st_mode)  # opening a pipe would wait for ever
      head = _head(name) if is_file else b""
    except FileNotFoundError:
      raise AudioError(
        f"{name}: there is no such file: check the path and the root", "missing"
      ) from None
    except (OSError, ValueError) as error:
      raise AudioError(
        f"{name!r}: cannot be opened ({error}): check the path", "unreadable"
      ) from None
    if not is_file:
      raise AudioError(f"{name}: is not a file: check the path", "not_a_file")
    size = status.st_size
  if not size:
    raise AudioError(f"{name}: is empty: get it again or drop its record", "empty")
  _check_riff(name, head, size)
  try:
    # TypeError: soundfile wants to be told how to read a file called ".raw".
    sound = soundfile.SoundFile(file)
  except (soundfile.SoundFileError, TypeError) as error:
    raise AudioError(
      f"{name}: cannot be decoded ({error}): give wav, flac, ogg or mp3, or get it again",
      "undecodable",
    ) from None

  def read(start: int, stop: int) -> Float32[np.ndarray, "frames channels"]:
    try:
      if sound.tell() != start:
        sound.seek(start)
      wav = sound.read(stop - start, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
      raise AudioError(f"{name}: is damaged ({error}): get it again", "damaged") from None
    if len(wav) < stop - start:
      raise AudioError(
        f"{name}: ends at frame {start + len(wav)} of the {sound.frames} its header claims: get it "
        "again, or convert it to wav",
        "damaged",
      )
    return wav

  with sound:
    _check_header(name, sound.samplerate, sound.channels, sound.frames)
    yield _Signal(name, sound.samplerate, sound.channels, sound.frames, read)


# --- Clips ---------------------------------------------------------------------------------------


def _check_finite(name: str, frames: Float32[np.ndarray, "frames channels"]) -> None:
  if not np.abs(frames).max(initial=0.0) <= MAX_AMPLITUDE:  # true of NaN as well
    raise AudioError(
      f"{name}: holds samples that are NaN, infinite or beyond {MAX_AMPLITUDE:g}: export it again "
      "with samples in [-1, 1], or drop its record",
      "not_finite",
    )


def _mono(
  signal: _Signal, columns: slice, rate: int, start: int, stop: int
) -> Float32[np.ndarray, "_"]:
  """Output samples [start, stop) of the mean of some channels."""

  def read(begin: int, end: int) -> Float32[np.ndarray, "_"]:
    frames = signal.read(begin, end)[:, columns]
    _check_finite(signal.name, frames)
    return frames.mean(axis=1)

  return resampling.resample_window(read, signal.frames, signal.rate, rate, start, stop)


def _cut(
  signal: _Signal, rate: int, preset: Preset, start: int, stop: int
) -> Float32[np.ndarray, "_"]:
  """Output samples [start, stop) of the mono signal."""
  if preset.mono != "concatenate":
    columns = slice(0, 2) if preset.mono == "first two" else slice(None)
    return _mono(signal, columns, rate, start, stop)
  # The reference flattens [channels, samples] and so plays the channels one after the other.
  each = resampling.length(signal.frames, signal.rate, rate)
  pieces = []
  for channel in range(signal.channels):
    begin, end = max(start - channel * each, 0), min(stop - channel * each, each)
    if begin < end:
      pieces.append(_mono(signal, slice(channel, channel + 1), rate, begin, end))
  return np.concatenate(pieces)


def _total(signal: _Signal, rate: int, preset: Preset) -> int:
  """Output samples of the mono signal."""
  samples = resampling.length(signal.frames, signal.rate, rate)
  return samples * signal.channels if preset.mono == "concatenate" else samples


def _clip(signal: _Signal, cfg: AudioConfig, preset: Preset, start: int, total: int) -> Clip:
  rate, samples = cfg.sample_rate, cfg.clip_samples
  used = min(samples, total - start)
  wav = _cut(signal, rate, preset, start, start + used)
  if used < samples:
    wav = np.resize(wav, samples) if preset.short == "repeat" else np.pad(wav, (0, samples - used))
  return Clip(
    wav=np.ascontiguousarray(wav),
    start_seconds=start / rate,
    seconds_used=used / rate,
    total_seconds=total / rate,
  )


def load(
  source: Source,
  cfg: AudioConfig,
  preset: Preset,
  *,
  window: Window | None = None,
  rng: np.random.Generator | None = None,
  name: str | None = None,
) -> Clip:
  """A clip of the model's input length: one window of a longer source, the whole of a shorter one.

  The source is the path or the bytes of a wav, flac, ogg or mp3 file, or (samples, sample rate);
  name is what messages call bytes. window None leaves the choice to the preset: a random one if it
  says so and rng is given, else the first. An mp3 of varying bit rate whose header tells no length
  may be refused as cut short.

  Raises AudioError for a source that is absent, empty, unreadable, damaged or beyond the limits of
  this module, and for samples that are not finite; ValueError for an unknown window
  and for "random" without rng.
  """
  if window is None:
    window = "random" if preset.long == "random" and rng is not None else "first"
  if window not in get_args(Window):
    raise ValueError(f"window {window!r} is unknown: one of {', '.join(get_args(Window))}")
  if window == "random" and rng is None:
    raise ValueError('window "random" needs a generator: pass rng')
  with _open(source, name) as signal:
    total = _total(signal, cfg.sample_rate, preset)
    spare = max(total - cfg.clip_samples, 0)
    if window == "random":
      start = int(rng.integers(spare + 1))
    else:
      start = {"first": 0, "center": spare // 2}[window]
    return _clip(signal, cfg, preset, start, total)


def load_windows(source: Source, cfg: AudioConfig, preset: Preset) -> list[Clip]:
  """The whole source as consecutive clips.

  The last is filled up as the preset fills short clips, and left out if less than one second of the
  source remains for it; a source that is shorter in all still gives one clip.

  Raises AudioError as load does.
  """
  with _open(source) as signal:
    total = _total(signal, cfg.sample_rate, preset)
    least = min(total, round(MIN_WINDOW_SECONDS * cfg.sample_rate))
    starts = range(0, total - least + 1, cfg.clip_samples)
    return [_clip(signal, cfg, preset, start, total) for start in starts]


def header(source: Source, name: str | None = None) -> tuple[int, int, int]:
  """Sample rate in Hz, channels and frames of a source, of which nothing is decoded.

  Raises AudioError as `check` does.
  """
  with _open(source, name) as signal:
    return signal.rate, signal.channels, signal.frames


def check(source: Source) -> None:
  """Raises AudioError where a source cannot be opened or its header is beyond the limits."""
  with _open(source):
    pass


@dataclass(frozen=True)
class Survey:
  """What the whole of a source holds."""

  seconds: float
  peak: float  # the largest sample's size; full scale is 1
  swing: float  # half the way from the least to the largest sample; 0 for silence at any offset
  digest: bytes  # of rate, channels and samples, whatever format they are stored in


def survey(source: Source) -> Survey:
  """Decodes all of a source, a block at a time. Raises AudioError as load does."""
  least, most, digest = np.inf, -np.inf, hashlib.blake2b(digest_size=16)
  with _open(source) as signal:
    digest.update(f"{signal.rate} {signal.channels}".encode())
    for start in range(0, signal.frames, _BLOCK_FRAMES):
      frames = signal.read(start, min(start + _BLOCK_FRAMES, signal.frames))
      _check_finite(signal.name, frames)
      digest.update(np.ascontiguousarray(frames))
      least, most = min(least, float(frames.min())), max(most, float(frames.max()))
  seconds = signal.frames / signal.rate
  return Survey(seconds, max(-least, most, 0.0), (most - least) / 2, digest.digest())
