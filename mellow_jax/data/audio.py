"""Audio file or bytes to the float32 waveform of a clip: decode, mono, resample, fit.

Only the part that the model takes is decoded, with the margin that the resampling filter needs: ten
seconds out of an hour cost what ten seconds cost. Resampling any window equals resampling the whole
file and cutting the window from it.
"""

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from mellow_jax.config import AudioConfig
from mellow_jax.data import audio_forms, resampling, sound_files
from mellow_jax.data.audio_forms import Samples, Source
from mellow_jax.data.presets import Preset
from mellow_jax.data.sound_files import Encoded, Signal
from mellow_jax.errors import AudioError

# Full scale is 1. Lossy files go a little beyond it, floating-point files at times to some tens.
# What is larger, or consists of whole numbers, are integers that somebody forgot to scale.
LOUD_AMPLITUDE, MAX_AMPLITUDE = 2.0, 100.0
# The shortest remainder that counts as a window of its own.
MIN_WINDOW_SECONDS = 1.0
# Half the range of samples up to which a clip counts as silent: the smallest step of 16 bits.
SILENT_SWING = 2.0**-15

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
  "scale",  # integers that were not scaled to [-1, 1]
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

  @functools.cached_property
  def digest(self) -> bytes:
    """SHA-256 of the waveform's bytes."""
    return hashlib.sha256(np.ascontiguousarray(self.wav)).digest()


# --- Opening -------------------------------------------------------------------------------------


def _status(path: str) -> os.stat_result:
  """Raises AudioError for what is no file that can be opened."""
  name = sound_files.printable(path)
  try:
    status = Path(path).stat()
    if stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
      Path(path).open("rb").close()
  except FileNotFoundError:
    raise AudioError(
      f"{name}: there is no such file: check the path and the root", "missing"
    ) from None
  except (OSError, ValueError) as error:
    raise AudioError(
      f"{path!r}: cannot be opened ({error}): check the path", "unreadable"
    ) from None
  if not stat.S_ISREG(status.st_mode):
    raise AudioError(f"{name}: is not a file: check the path", "not_a_file")
  return status


@contextlib.contextmanager
def _open(
  source: Source, called: str | None = None, max_seconds: float = sound_files.MAX_SECONDS
) -> Iterator[Signal]:
  """Raises AudioError for what cannot be opened and for headers beyond the limits."""
  given = audio_forms.normalize(source)
  if isinstance(given, Samples):
    frames, channels = given.wav.shape
    sound_files.check_header(given.name, given.rate, channels, frames)
    yield Signal(given.name, given.rate, channels, frames, given.read)
    return
  if isinstance(given, bytes):
    file = Encoded(called or f"{len(given)} bytes", given, len(given), max_seconds=max_seconds)
  else:
    status = _status(given)
    file = Encoded(sound_files.printable(given), given, status.st_size, status.st_mtime_ns)
  if not file.size:
    raise AudioError(f"{file.name}: is empty: get it again or drop its record", "empty")
  try:
    with sound_files.open_signal(file) as signal:
      yield signal
  except OSError as error:  # of a network's file system, or the file is gone by now
    raise AudioError(
      f"{file.name}: cannot be read ({error.strerror or error}): check its disk, or try again",
      "unreadable",
    ) from None


# --- Clips ---------------------------------------------------------------------------------------


def _check_scale(name: str, frames: Float32[np.ndarray, "frames channels"]) -> None:
  """Raises AudioError for samples that are no sound in [-1, 1], and warns where they hardly are."""
  peak = max(frames.max(initial=0.0), -frames.min(initial=0.0))  # NaN if any of them is
  if not np.isfinite(peak):
    raise AudioError(
      f"{name}: holds samples that are NaN or infinite: export it again, or drop its record",
      "not_finite",
    )
  # Twice: the mean of two channels of whole numbers may be a half.
  if peak > MAX_AMPLITUDE or (peak >= 2 and not np.any(np.rint(2 * frames) != 2 * frames)):
    raise AudioError(
      f"{name}: holds integers as floats, samples up to {peak:g} where full scale is 1: divide them"
      " by their full scale, 32768 for 16 bits",
      "scale",
    )
  if peak > LOUD_AMPLITUDE:
    sound_files.warn(name, f"samples reach {peak:.3g}, and full scale is 1: scale them to [-1, 1]")


def _mono(
  signal: Signal, columns: slice, rate: int, start: int, stop: int
) -> Float32[np.ndarray, "_"]:
  """Output samples [start, stop) of the mean of some channels."""

  def read(begin: int, end: int) -> Float32[np.ndarray, "_"]:
    frames = signal.read(begin, end)[:, columns]
    _check_scale(signal.name, frames)
    return frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)

  return resampling.resample_window(read, signal.frames, signal.rate, rate, start, stop)


def _cut(
  signal: Signal, rate: int, preset: Preset, start: int, stop: int
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


def _total(signal: Signal, rate: int, preset: Preset) -> int:
  """Output samples of the mono signal."""
  samples = resampling.length(signal.frames, signal.rate, rate)
  return samples * signal.channels if preset.mono == "concatenate" else samples


def _clip(signal: Signal, cfg: AudioConfig, preset: Preset, start: int, total: int) -> Clip:
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

  The source is a wav, flac, ogg or mp3 file, by its path, open or as bytes, or samples with their
  rate, in each form of `audio_forms`; name is what messages call bytes. window None leaves the
  choice to the preset: a random one if it says so and rng is given, else the first.

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


def unheard(windows: Sequence[Clip]) -> float:
  """The seconds at the end of a source that `load_windows` has left out."""
  last = windows[-1]
  return last.total_seconds - last.start_seconds - last.seconds_used


def header(data: bytes, name: str, max_seconds: float) -> tuple[int, int, int]:
  """Sample rate in Hz, channels and frames of the bytes of a file.

  Nothing is decoded, unless no header tells the length: then little more than max_seconds are.
  Raises AudioError as `check` does.
  """
  with _open(data, name, max_seconds) as signal:
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
    for start in range(0, signal.frames, sound_files.BLOCK_FRAMES):
      frames = signal.read(start, min(start + sound_files.BLOCK_FRAMES, signal.frames))
      _check_scale(signal.name, frames)
      digest.update(np.ascontiguousarray(frames))
      least, most = min(least, float(frames.min())), max(most, float(frames.max()))
  seconds = signal.frames / signal.rate
  return Survey(seconds, max(-least, most, 0.0), (most - least) / 2, digest.digest())
