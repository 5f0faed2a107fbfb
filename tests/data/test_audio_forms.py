"""Audio as Python programs give it: taken where it is plain, else refused with the form wanted."""

import io

import numpy as np
import pytest
import soundfile

from mellow_jax.config import AudioConfig
from mellow_jax.data import audio, audio_forms, presets
from mellow_jax.errors import AudioError

CFG = AudioConfig(clip_seconds=0.5)
CLEAN = presets.PRESETS["clean"]
RATE = 44_100
WAV = (0.3 * np.sin(np.arange(RATE) * 0.06)).astype(np.float32)


def content(wav=WAV, **form):
  file = io.BytesIO()
  soundfile.write(file, wav, RATE, **{"format": "WAV", "subtype": "FLOAT", **form})
  return file.getvalue()


class Tensor:
  """An array of another library, as torch's are to numpy."""

  def __init__(self, wav, error=None):
    self.wav, self.error = wav, error

  def __array__(self, dtype=None, copy=None):
    if self.error:
      raise self.error
    return self.wav if dtype is None else self.wav.astype(dtype)


class Decoder:
  """Audio of the datasets library from version 4 on: torchcodec's decoder with these keys."""

  def __getitem__(self, key):
    return {"array": WAV, "sampling_rate": RATE}[key]


class Named(io.BytesIO):
  name = "a.wav"


def at_its_end():
  file = io.BytesIO(content())
  file.seek(0, 2)
  return file


FORMS = {
  "float rate": (WAV, 44_100.0),
  "a rate of numpy": (WAV, np.float64(44_100)),
  "a rate of no dimension": (WAV, np.array(44_100)),
  "rate first, as scipy": (RATE, WAV),
  "a list of two": [WAV, RATE],
  "float64": (WAV.astype(np.float64), RATE),
  "samples as a list": (WAV.tolist(), RATE),
  "one channel last": (WAV[:, None], RATE),
  "one channel first": (WAV[None], RATE),
  "channels first": (np.stack([WAV, WAV]), RATE),
  "channels last": (np.stack([WAV, WAV], axis=1), RATE),
  "not contiguous": (np.stack([WAV, WAV], axis=1)[:, 0], RATE),
  "a tensor, channels first": (Tensor(WAV[None]), RATE),
  "Hugging Face": {"array": WAV, "sampling_rate": RATE},
  "Hugging Face, with its path": {"path": "a.wav", "array": WAV, "sampling_rate": RATE},
  "Hugging Face, encoded": {"path": "a.wav", "bytes": content()},
  "Hugging Face's decoder": Decoder(),
  "BytesIO": io.BytesIO(content()),
  "BytesIO at its end": at_its_end(),
  "an open file": Named(content()),
  "bytearray": bytearray(content()),
  "memoryview": memoryview(content()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_whose_meaning_is_plain_is_heard(form):
  expected = audio.load((WAV, RATE), CFG, CLEAN, window="center")
  for _ in range(2):  # an open file can be read again
    found = audio.load(FORMS[form], CFG, CLEAN, window="center")
    assert found.total_seconds == 1.0
    np.testing.assert_allclose(found.wav, expected.wav, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", ["int16", "int32", "uint8", "int8"])
@pytest.mark.parametrize("is_rate_first", [True, False])
def test_integers_of_a_type_with_a_full_scale_are_heard_as_the_file(width, is_rate_first):
  scale = {"int16": 2**15, "int32": 2**31, "uint8": 2**7, "int8": 2**7}[width]
  wav = np.round(WAV.astype(np.float64) * scale + (128 if width == "uint8" else 0)).astype(width)
  found = audio.load((RATE, wav) if is_rate_first else (wav, RATE), CFG, CLEAN)
  expected = audio.load((WAV, RATE), CFG, CLEAN)
  np.testing.assert_allclose(found.wav, expected.wav, rtol=0, atol=1.5 / scale + 1e-6)


def test_24_bits_in_a_type_of_32_may_be_quiet():
  quiet = np.round(WAV.astype(np.float64) * 200).astype(np.int32) << 8  # as scipy reads such a file
  found = audio.load((RATE, quiet), CFG, CLEAN)
  expected = audio.load((RATE, quiet / 2.0**31), CFG, CLEAN)
  assert 0 < np.abs(quiet).max() < 2**16
  np.testing.assert_allclose(found.wav, expected.wav, rtol=0, atol=1e-9)


REFUSED = {
  "array alone": (WAV, "ndarray without a sample rate"),
  "list alone": (WAV.tolist(), "list without a sample rate"),
  "None": (None, "NoneType None: is no audio"),
  "a number": (3, "int 3: is no audio"),
  "two arrays": ((WAV, WAV), "tuple without a sample rate"),
  "two numbers": ((1, 2), "tuple without a sample rate"),
  "three things": ((WAV, RATE, 1), "tuple without a sample rate"),
  "half a hertz": ((WAV, 44_100.5), "44100.5: give whole hertz"),
  "rate NaN": ((WAV, float("nan")), "nan: give whole hertz"),
  "rate infinite": ((WAV, float("inf")), "inf: give whole hertz"),
  "rate True": ((WAV, True), "True: give whole hertz"),
  "rate complex": ((WAV, 1j), "give whole hertz"),
  "rate 0": ((WAV, 0), "sample rate 0 Hz"),
  "negative rate": ((WAV, -RATE), "sample rate -44100 Hz"),
  "a text for a rate": ((WAV, "44100"), "tuple without a sample rate"),
  "ragged": (([[0.0], [0.0, 1.0]], RATE), "are no array"),
  "texts": ((["a", "b"], RATE), "give floating-point samples"),
  "three dimensions": ((WAV[None, None], RATE), "give floating-point samples"),
  "a scalar": ((0.5, RATE), "tuple without a sample rate"),
  "int64": (((WAV * 32_767).astype(np.int64), RATE), "give floating-point samples"),
  "16 bits in 32": (((WAV * 32_767).astype(np.int32), RATE), "give them as int16"),
  "integers as floats": (((WAV * 32_767).round(), RATE), "integers as floats.*divide"),
  "quiet integers as floats": (((WAV * 20).round(), RATE), "integers as floats.*divide"),
  "integers, averaged": (((WAV * 20).round() + 0.5, RATE), "integers as floats.*divide"),
  "integers, resampled": ((WAV * 3399, RATE), "integers as floats.*divide"),
  "NaN": ((np.where(WAV > 0.2, np.nan, WAV), RATE), "NaN or infinite"),
  "no samples": ((WAV[:0], RATE), "holds no samples"),
  "no samples in two channels": ((np.zeros((2, 0), np.float32), RATE), "no samples|0 channels"),
  "a tensor elsewhere": ((Tensor(WAV, TypeError("on cuda:0")), RATE), "are no array"),
  "a tensor that learns": ((Tensor(WAV, RuntimeError("requires grad")), RATE), "are no array"),
  "an empty dict": ({}, "keys none: name no audio"),
  "a dict without its rate": ({"array": WAV}, "lack sampling_rate"),
  "a dict of nothing": ({"path": None, "bytes": None}, "name no audio"),
  "a text file": (io.StringIO("abc"), 'not with "rb"'),
  "empty BytesIO": (io.BytesIO(), "is empty"),
  "empty bytes": (b"", "is empty"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_any_other_form_is_one_line_that_says_what_to_give(form):
  given, message = REFUSED[form]
  for call in (audio.survey, lambda given: audio.load(given, CFG, CLEAN)):
    with pytest.raises(AudioError, match=message) as caught:
      call(given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_closed_file_is_refused():
  file = io.BytesIO(content())
  file.close()
  with pytest.raises(AudioError, match="cannot be read"):
    audio.load(file, CFG, CLEAN)


@pytest.mark.parametrize("peak", [1.0, 1.05, 1.9, 5.0, 20.0])
def test_clipped_floats_are_heard_and_loud_ones_named(peak, caplog):
  raw = content(WAV / 0.3 * peak)
  assert abs(np.abs(audio.load(raw, CFG, CLEAN).wav).max() - peak) < 0.02 * peak
  loud = [r for r in caplog.records if "full scale is 1" in r.getMessage()]
  assert len(loud) == (peak > audio.LOUD_AMPLITUDE)


@pytest.mark.parametrize("wav", [np.zeros(RATE), np.sign(WAV)], ids=["silence", "square"])
def test_whole_numbers_within_full_scale_are_sound(wav):
  assert audio.load((wav, RATE), CFG, CLEAN).total_seconds == 1.0


def test_case_of_integers_as_floats(reference_data):
  folder = reference_data / "cases/03_integer_scale_as_float"
  assert audio.survey(folder / "scaled.wav").peak < 1
  for read in (audio.survey, lambda path: audio.load(path, AudioConfig(), CLEAN)):
    with pytest.raises(AudioError, match=r"integers as floats.*32768 for 16 bits") as caught:
      read(folder / "quiet_int16_as_float.wav")
    assert caught.value.reason == "scale"


def test_the_form_is_told_without_decoding():
  assert audio_forms.normalize("a.wav") == "a.wav"
  assert audio_forms.normalize(bytearray(b"ab")) == b"ab"
  assert audio_forms.normalize((WAV, 8000)).rate == 8000
