"""The forms in which Python programs give audio: files, bytes, arrays with their sample rate.

Taken are those of soundfile and librosa (samples, rate), scipy (rate, samples), torchaudio
(channels first) and Hugging Face (`{"array": ..., "sampling_rate": ...}`), where they are plain.
"""

import contextlib
import numbers
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from mellow_jax.data.sound_files import MAX_CHANNELS
from mellow_jax.errors import AudioError

# Whatever `normalize` takes: it says so itself of what it does not.
Source = Any
WANTED = (
  "give a path, the bytes of a sound file, (samples, sample rate) with samples as floats in "
  '[-1, 1], or {"array": samples, "sampling_rate": rate}'
)
# The value of full scale, and that of silence, of samples that are stored as integers.
_SCALES = {
  "int8": (2.0**7, 0),
  "uint8": (2.0**7, 128),
  "int16": (2.0**15, 0),
  "int32": (2.0**31, 0),
}
# Below it samples of 32 bits are those of 16 in a wider type, unless they are of 24, shifted by 8.
_LEAST_INT32 = 2**16


class Samples(NamedTuple):
  """An array of samples as it was given."""

  name: str  # for messages
  rate: int  # Hz
  wav: np.ndarray  # [frames, channels], of floats or integers

  def read(self, start: int, stop: int) -> Float32[np.ndarray, "frames channels"]:
    """The samples of some frames, full scale at 1."""
    wav = self.wav[start:stop]
    scale, middle = _SCALES.get(self.wav.dtype.name, (1.0, 0))
    if scale == 1.0:
      return wav.astype(np.float32)
    return ((wav.astype(np.float64) - middle) / scale).astype(np.float32)


def _refuse(name: str, why: str) -> AudioError:
  return AudioError(f"{name}: {why}: {WANTED}", "undecodable")


def normalize(given: Any) -> str | bytes | Samples:
  """The path, the bytes or the samples that are given.

  Raises AudioError, which names the form wanted, for anything else.
  """
  if isinstance(given, Mapping):
    given = _of_mapping(given)
  if isinstance(given, str | os.PathLike):
    path = os.fspath(given)
    return os.fsdecode(path) if isinstance(path, bytes) else path
  if isinstance(given, bytes | bytearray | memoryview):
    return bytes(given)
  if hasattr(given, "read"):
    return _read_all(given)
  if isinstance(given, tuple | list) and len(given) == 2:
    first, second = (_is_number(value) for value in given)
    if first != second:
      samples, rate = reversed(given) if first else given
      return _samples(samples, rate)
  if isinstance(given, list | tuple | np.ndarray) or hasattr(given, "__array__"):
    raise _refuse(f"{type(given).__name__} without a sample rate", "its length is unknown")
  with contextlib.suppress(TypeError, KeyError, IndexError):  # torchcodec's decoder has these keys
    return _samples(given["array"], given["sampling_rate"])
  raise _refuse(f"{type(given).__name__} {given!r:.60}", "is no audio")


def _of_mapping(given: Mapping[str, Any]) -> Any:
  """What stands in a row's audio as Hugging Face decodes it, or keeps it encoded."""
  if given.get("array") is not None:
    if given.get("sampling_rate") is None:
      raise _refuse(f"keys {', '.join(map(str, given))}", "lack sampling_rate")
    return given["array"], given["sampling_rate"]
  for key in ("bytes", "path"):
    if given.get(key) is not None:
      return given[key]
  raise _refuse(f"keys {', '.join(map(str, given)) or 'none'}", "name no audio")


def _read_all(file: Any) -> bytes:
  """The whole of an open file, wherever it stands."""
  name = str(getattr(file, "name", type(file).__name__))
  with contextlib.suppress(OSError, ValueError, AttributeError):
    file.seek(0)
  try:
    content = file.read()
  except (OSError, ValueError) as error:  # ValueError: it is closed, or is read as text
    raise _refuse(name, f"cannot be read ({error})") from None
  if not isinstance(content, bytes | bytearray):
    raise _refuse(name, 'is opened as text, not with "rb"')
  return bytes(content)


def _is_number(value: Any) -> bool:
  """A Python number, a scalar or an array of no dimension."""
  return isinstance(value, numbers.Number) or getattr(value, "shape", None) == ()


def _samples(given: Any, rate: Any) -> Samples:
  try:
    wav = np.asarray(given)
  except (
    TypeError,
    ValueError,
    RuntimeError,
  ) as error:  # a ragged list; a tensor that is elsewhere
    raise _refuse(f"samples of type {type(given).__name__}", f"are no array ({error})") from None
  name = f"array {wav.dtype}{list(wav.shape)}"
  is_float = np.issubdtype(wav.dtype, np.floating)
  if not (is_float or wav.dtype.name in _SCALES) or wav.ndim not in (1, 2):
    raise AudioError(
      f"{name}: give floating-point samples in [-1, 1], or integers of 8, 16 or 32 bits at full "
      "scale, shaped [samples], [samples, channels] or [channels, samples]",
      "undecodable",
    )
  is_low = wav.dtype == np.int32 and 0 < np.abs(wav.astype(np.int64)).max(initial=0) < _LEAST_INT32
  if is_low and np.any(wav % 2**8):
    raise AudioError(
      f"{name}: holds samples of 16 bits in a type of 32: give them as int16", "scale"
    )
  wav = wav[:, None] if wav.ndim == 1 else wav
  if wav.shape[0] <= MAX_CHANNELS < wav.shape[1]:
    wav = wav.T
  return Samples(name, _whole_rate(name, rate), wav)


def _whole_rate(name: str, rate: Any) -> int:
  try:
    whole = int(rate)
  except (TypeError, ValueError, OverflowError):
    whole = None
  if whole is None or whole != rate or isinstance(rate, bool):
    raise AudioError(f"{name}: sample rate {rate!r}: give whole hertz, such as 44100", "rate")
  return whole
