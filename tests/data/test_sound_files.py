"""The length of a file is what decodes, whatever its header claims."""

import errno
import io
import logging
import os
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from mellow_jax.config import AudioConfig
from mellow_jax.data import audio, containers, presets, sound_files
from mellow_jax.errors import AudioError

CLEAN = presets.PRESETS["clean"]
CFG = AudioConfig(clip_seconds=1.0)
RATE = 16_000
FORMS = {
  "wav": {"format": "WAV", "subtype": "PCM_16"},
  "wav of 24 bits": {"format": "WAVEX", "subtype": "PCM_24"},
  "big-endian wav": {"format": "WAV", "subtype": "PCM_16", "endian": "BIG"},
  "rf64": {"format": "RF64", "subtype": "PCM_16"},
  "w64": {"format": "W64", "subtype": "PCM_16"},
  "aiff": {"format": "AIFF", "subtype": "PCM_16"},
  "au": {"format": "AU", "subtype": "PCM_16"},
  "caf": {"format": "CAF", "subtype": "PCM_16"},
  "adpcm": {"format": "WAV", "subtype": "IMA_ADPCM"},
  "ms adpcm": {"format": "WAV", "subtype": "MS_ADPCM"},
  "gsm": {"format": "WAV", "subtype": "GSM610"},
  "flac": {"format": "FLAC"},
  "ogg": {"format": "OGG", "subtype": "VORBIS"},
  "opus": {"format": "OGG", "subtype": "OPUS"},
  "mp3": {"format": "MP3", "bitrate_mode": "CONSTANT"},
  "variable mp3": {"format": "MP3", "bitrate_mode": "VARIABLE"},
}
# Where the size of the samples stands, counted from their first byte, and how.
SIZES = {
  "wav": (-4, "<I"),
  "big-endian wav": (-4, ">I"),
  "rf64": (None, "<Q"),
  "w64": (-8, "<Q"),
  "aiff": (-12, ">I"),
  "au": (None, ">I"),
  "caf": (-12, ">Q"),
}


def sound(seconds=3.0, channels=1, rate=RATE, seed=0):
  wav = np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
  return (0.1 * wav).astype(np.float32)


def encoded(form, wav=None, rate=RATE) -> bytes:
  file = io.BytesIO()
  soundfile.write(file, sound() if wav is None else wav, rate, **FORMS[form])
  return file.getvalue()


def with_size(form, raw, size, wav=None):
  """The file with another size of its samples in the header."""
  place, letter = SIZES[form]
  samples = 2 * len(sound() if wav is None else wav)
  first = len(raw) - samples if form != "aiff" else raw.index(b"SSND") + 16
  if form == "rf64":
    at = raw.index(b"ds64") + 16
  elif form == "au":
    at = 8
  else:
    at = raw.index(b"data" if form != "aiff" else b"SSND") + (16 if form == "w64" else 4)
    assert form in ("w64", "aiff", "caf") or at == first + place
  most = 256 ** struct.calcsize(letter) - 1
  return raw[:at] + struct.pack(letter, min(size, most)) + raw[at + struct.calcsize(letter) :]


def seconds(raw):
  return audio.survey(raw).seconds


def one_line(caught, name):
  text = str(caught.value)
  assert "\n" not in text and name in text
  return text


# --- No claim ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 2**64, 1000], ids=["zero", "unknown", "too small"])
@pytest.mark.parametrize("form", SIZES)
def test_sizes_that_are_no_claim_are_not_believed(form, size):
  raw = encoded(form)
  found = audio.load(with_size(form, raw, size), CFG, CLEAN, window="center")
  expected = audio.load(raw, CFG, CLEAN, window="center")
  assert found.total_seconds == 3.0 and found.start_seconds == 1.0
  np.testing.assert_array_equal(found.wav, expected.wav)


@pytest.mark.parametrize("extra", [1, 8, 36, 44])
@pytest.mark.parametrize("form", SIZES)
def test_a_size_that_counts_the_header_is_no_loss(form, extra):
  raw = encoded(form)
  own = {"w64": 24, "aiff": 8, "caf": 4}.get(form, 0)
  assert seconds(with_size(form, raw, 2 * len(sound()) + own + extra)) == 3.0


@pytest.mark.parametrize("whole", [0, 36, 96_044, 2**31, 2**32 - 1])
def test_riff_size_8_too_large(whole):
  raw = encoded("wav")
  assert seconds(raw[:4] + struct.pack("<I", whole) + raw[8:]) == 3.0


@pytest.mark.parametrize("zeros", [129, 4096, 2**18 + 1])
@pytest.mark.parametrize("form", ["wav", "rf64", "aiff", "caf"])
def test_a_file_filled_up_with_zeros_is_no_longer(form, zeros):
  assert seconds(encoded(form) + bytes(zeros)) == 3.0


def test_zeros_below_a_size_of_0_are_silence():
  assert seconds(with_size("wav", encoded("wav", 0 * sound()), 0)) == 3.0


@pytest.mark.parametrize("more", [b"LIST\4\0\0\0abcd", b"TAG" + bytes(125), b"", bytes(3)])
@pytest.mark.parametrize("samples", [48_000, 47_999])
def test_chunks_after_the_samples_are_no_samples(more, samples):
  wav = (sound()[:samples, 0] * 128 + 128).astype(np.uint8)  # an odd number of bytes
  raw = encoded("wav")
  head = (
    raw[:22] + struct.pack("<HIIHH", 1, RATE, RATE, 1, 8) + b"data" + struct.pack("<I", samples)
  )
  pad = b"\0" * (samples % 2) if more else b""
  assert seconds(head + wav.tobytes() + pad + more) == samples / RATE


def without_length(raw):
  """An mp3 as a program writes it that cannot go back: without the frame that tells the length."""
  return raw[containers._frame_bytes(raw) :]


@pytest.mark.parametrize("form", ["mp3", "variable mp3"])
@pytest.mark.parametrize("length", [1.0, 5.0])
def test_mp3_without_length_header(form, length):
  wav = sound(length)
  wav[: len(wav) // 2] *= 0.01  # so that frames vary
  raw = without_length(encoded(form, wav))
  assert abs(seconds(raw) - length) <= 2 * 1152 / RATE  # the coder's own delay is in it
  windows = audio.load_windows(raw, CFG, CLEAN)
  assert len(windows) == length
  center = audio.load(raw, CFG, CLEAN, window="center")
  assert abs(center.start_seconds - (length - 1) / 2) < 1152 / RATE


def test_mp3_whose_length_header_lies():
  raw = bytearray(encoded("variable mp3"))
  at = max(raw.find(b"Xing"), raw.find(b"Info")) + 8
  (frames,) = struct.unpack_from(">I", raw, at)
  for claimed in (0, 3, frames - 1, frames + 1, 5 * frames):
    raw[at : at + 4] = struct.pack(">I", claimed)
    assert abs(seconds(bytes(raw)) - 3.0) <= 2 * 1152 / RATE


def test_mp3s_that_follow_each_other_are_heard_to_the_end():
  assert abs(seconds(2 * encoded("mp3")) - 6.0) <= 4 * 1152 / RATE


def test_mp3_inside_a_wav_is_decoded_to_its_end():
  raw = without_length(encoded("mp3"))
  form = struct.pack("<HHIIHH", 0x55, 1, RATE, 8000, 1, 0)
  head = b"RIFF" + struct.pack("<I", len(raw) + 36) + b"WAVEfmt \x10\0\0\0" + form
  assert seconds(head + b"data" + struct.pack("<I", len(raw)) + raw) == seconds(raw)


@pytest.mark.parametrize("zeros", [1, 8])
def test_mp3_inside_a_wav_that_begins_with_zeros(zeros):
  raw = bytes(zeros) + encoded("variable mp3", sound(channels=2))
  form = struct.pack("<HHIIHH", 0x55, 2, RATE, 8000, 1, 0)
  head = b"RIFF" + struct.pack("<I", len(raw) + 36) + b"WAVEfmt \x10\0\0\0" + form
  whole = head + b"data" + struct.pack("<I", len(raw)) + raw
  assert containers.layout(io.BytesIO(whole), len(whole)).is_mpeg


@pytest.mark.parametrize("offset", [0, 8, 11])
@pytest.mark.parametrize("size", [0, 1000, 2**32 - 1])
def test_an_au_file_whose_samples_begin_within_its_header(offset, size):
  raw = encoded("au")
  for magic, order in ((b".snd", ">"), (b"dns.", "<")):
    head = magic + struct.pack(f"{order}II", offset, size)
    assert containers.layout(io.BytesIO(head + raw[12:]), len(raw)) == containers.Layout()


def flac_total(raw, total):
  (word,) = struct.unpack_from(">Q", raw, 18)
  return raw[:18] + struct.pack(">Q", word >> 36 << 36 | total) + raw[26:]


@pytest.mark.parametrize("total", [0, 1, 20_000, 47_999])
def test_flac_whose_length_is_unknown_or_too_small(total):
  raw = encoded("flac")
  found = audio.load(flac_total(raw, total), CFG, CLEAN, window="center")
  assert found.total_seconds == 3.0
  np.testing.assert_array_equal(found.wav, audio.load(raw, CFG, CLEAN, window="center").wav)


def test_what_looks_like_a_frame_of_another_flac_is_none():
  raw, whole = encoded("flac"), encoded("flac", sound(channels=2))
  rate = encoded("flac", rate=RATE // 2)
  end = raw.rfind(b"\xff\xf8")
  for other in (whole, rate):
    # A frame's header of another form, of a number far too low, within the last frame.
    frame = other[other.index(b"\xff\xf8", 42) :][:16]
    made = raw[: end + 20] + frame + raw[end + 20 :]
    assert not containers.layout(io.BytesIO(made), len(made)).cut


@pytest.mark.parametrize("form", ["ogg", "opus"])
def test_chained_streams_are_heard_one_after_the_other(form):
  first, second = encoded(form), encoded(form, sound(2.0, seed=1))
  found = audio.load_windows(first + second, CFG, CLEAN)
  assert len(found) == 5 and found[0].total_seconds == seconds(first) + seconds(second)
  np.testing.assert_array_equal(found[0].wav, audio.load(first, CFG, CLEAN).wav)
  last = audio.load_windows(second, CFG, CLEAN)[1].wav
  np.testing.assert_allclose(found[4].wav, last, rtol=0, atol=1e-5)
  with pytest.raises(AudioError, match="chain of streams of several"):
    audio.survey(first + encoded(form, sound(1.0, channels=2)))


# --- Cut short -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.75, 0.95])
@pytest.mark.parametrize("form", FORMS)
def test_a_file_cut_short_says_so_in_every_format(form, share, tmp_path):
  raw = encoded(form)
  path = tmp_path / "half.sound"
  path.write_bytes(raw[: int(share * len(raw))])
  for window in ("first", "center"):
    with pytest.raises(AudioError, match="cut short") as caught:
      audio.load(path, CFG, CLEAN, window=window)
    # Of the last frame of flac nothing tells whether it is cut or damaged.
    assert caught.value.reason == "cut_short" or (form, share) == ("flac", 0.95)
    one_line(caught, str(path))


@pytest.mark.parametrize("form", ["mp3", "ogg", "flac"])
def test_a_stream_cut_short_is_heard_and_named_once(form, tmp_path, caplog):
  raw = encoded(form)
  if form == "mp3":
    raw = without_length(raw)[:-100]
  elif form == "flac":
    raw = flac_total(raw, 0)[:-100]
  else:
    at = raw.rindex(b"OggS") + 5
    raw = raw[:at] + bytes([raw[at] & ~4]) + raw[at + 1 :]
  path = tmp_path / f"cut.{form}"
  path.write_bytes(raw)
  with caplog.at_level(logging.WARNING, logger="mellow_jax"):
    for _ in range(3):
      clip = audio.load(path, CFG, CLEAN, window="center")
  assert 2.5 < clip.total_seconds < 3.2
  (record,) = [r for r in caplog.records if str(path) in r.getMessage()]
  assert "cut short" in record.getMessage()


# --- Good files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_file_is_decoded_as_it_is(form):
  raw = encoded(form)
  how = containers.layout(io.BytesIO(raw), len(raw))
  assert not how.parts and not how.is_counted and not how.cut and not how.loss


@pytest.mark.parametrize("form", ["gsm", "adpcm", "ms adpcm"])
def test_wavs_of_telephones_are_heard(form, tmp_path):
  path = tmp_path / "a.wav"
  path.write_bytes(encoded(form))
  whole, _ = soundfile.SoundFile(path), None
  wav = whole.read(whole.frames, dtype="float32") if form != "gsm" else None
  for window, start in (("first", 0), ("center", 1)):
    clip = audio.load(path, AudioConfig(clip_seconds=1.0, sample_rate=32_000), CLEAN, window=window)
    assert abs(clip.total_seconds - 3.0) < 0.1 and abs(clip.start_seconds - start) < 0.05
  if wav is not None:
    assert np.abs(audio.survey(path).peak - np.abs(wav).max()) < 1e-6
  release = presets.PRESETS["release"]
  stereo = tmp_path / "b.wav"
  stereo.write_bytes(encoded(form, sound(channels=1 if form == "gsm" else 2)))
  assert audio.load(stereo, CFG, release, window="center").wav.any()


@pytest.mark.parametrize("fails", ["open", "read"])
def test_a_disk_that_fails_is_an_error_of_the_file(fails, tmp_path, monkeypatch):
  path = tmp_path / "a.wav"
  path.write_bytes(encoded("wav"))
  audio.check(path)

  class Failing(io.BytesIO):
    def read(self, *_):
      raise OSError(errno.EIO, "Input/output error")

  def open_(_):
    if fails == "open":
      raise OSError(errno.ESTALE, "Stale file handle")
    return Failing()

  monkeypatch.setattr(sound_files.Encoded, "open", open_)
  with pytest.raises(AudioError, match=r"a\.wav: cannot be read \((Stale|Input)") as caught:
    audio.load(path, CFG, CLEAN)
  assert caught.value.reason == "unreadable" and "unreadable" not in audio.LASTING


def test_a_file_name_that_is_no_utf8(tmp_path):
  path = tmp_path / "caf\udce9.wav"
  try:
    path.write_bytes(encoded("wav"))
  except (OSError, UnicodeError):
    pytest.skip("this file system takes UTF-8 alone")
  assert audio.load(path, CFG, CLEAN).total_seconds == 3.0
  path.write_bytes(b"<html>")
  with pytest.raises(AudioError, match=r"caf.udce9.wav: cannot be decoded") as caught:
    audio.load(str(path), CFG, CLEAN)
  str(caught.value).encode()


# --- Cases and other encoders --------------------------------------------------------------------

CASES = {
  "04_riff_size_8_too_large/riff_plus8.wav": 1.0,
  "05_mp3_without_length_header/cbr_1s.mp3": 1.0,
  "05_mp3_without_length_header/vbr_30s.mp3": 30.0,
  "07_wav_header_never_finished/sizes_zero.wav": 1.0,
  "08_ogg_cut_short/cut.ogg": "cut short",
  "09_file_name_not_utf8/clip.wav": 1.0,
  "14_wav_of_telephones/gsm610.wav": 2.0,
}


@pytest.mark.parametrize("case", CASES)
def test_case(case, reference_data):
  path, expected = reference_data / "cases" / case, CASES[case]
  if isinstance(expected, str):
    with pytest.raises(AudioError, match=expected):
      audio.survey(path)
  else:
    assert abs(audio.survey(path).seconds - expected) < 0.15


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3", "w64", "aiff", "au", "caf"])
def test_what_ffmpeg_writes_to_a_pipe(form):
  command = ["ffmpeg", "-v", "error", "-i", "-", "-f", form, "-"]
  raw = subprocess.run(command, input=encoded("wav"), capture_output=True, check=True).stdout
  assert abs(seconds(raw) - 3.0) <= 2 * 1152 / RATE


def test_a_length_is_counted_once_of_a_file_that_tells_none(tmp_path, monkeypatch):
  path = tmp_path / "a.mp3"
  path.write_bytes(without_length(encoded("mp3")))
  monkeypatch.setattr(sound_files.time, "time_ns", lambda: path.stat().st_mtime_ns + 10**10)
  counted, count = [], sound_files._Decoder.count
  monkeypatch.setattr(sound_files._Decoder, "count", lambda self: counted.append(1) or count(self))
  for _ in range(3):
    audio.load(path, CFG, CLEAN)
  assert len(counted) == 1


def test_the_end_of_a_flac_is_decoded_once_and_again_where_the_file_has_changed(
  tmp_path, monkeypatch
):
  path, wav = tmp_path / "a.flac", sound(15)
  path.write_bytes(encoded("flac", wav))
  monkeypatch.setattr(sound_files.time, "time_ns", lambda: path.stat().st_mtime_ns + 10**10)
  starts, read = [], sound_files._Decoder.read

  def noted(self, start, stop):
    starts.append(start)
    return read(self, start, stop)

  monkeypatch.setattr(sound_files._Decoder, "read", noted)
  for _ in range(3):
    audio.load(path, CFG, CLEAN)
  assert starts == [len(wav) - 1, 0, 0, 0]
  raw = bytearray(path.read_bytes())
  raw[-40:-20] = bytes(20)  # the last frame no longer decodes, and the size is the same
  path.write_bytes(raw)
  os.utime(path, (1, 1))
  with pytest.raises(AudioError, match="its end does not decode"):
    audio.load(path, CFG, CLEAN)


def test_flac_behind_an_id3_tag_is_heard_to_its_end():
  tag = b"ID3\x03\0\0" + bytes([0, 0, 2, 0]) + bytes(256)
  raw = encoded("flac")
  assert seconds(tag + raw) == seconds(raw) == 3.0
  wav = audio.load(tag + raw, CFG, CLEAN).wav
  np.testing.assert_array_equal(wav, audio.load(raw, CFG, CLEAN).wav)


def test_a_list_of_notes_that_is_cut_is_no_sound():
  raw = encoded("wav")
  assert seconds(raw + b"LIST" + struct.pack("<I", 1000) + b"INFO" + bytes(300)) == seconds(raw)


def test_a_nist_file_cut_short_is_refused():
  file = io.BytesIO()
  soundfile.write(file, sound(), RATE, format="NIST", subtype="PCM_16")
  raw = file.getvalue()
  assert seconds(raw) == 3.0
  with pytest.raises(AudioError, match=r"cut short, .* bytes of samples are there"):
    seconds(raw[: len(raw) // 2])


@pytest.mark.parametrize(
  ("raw", "what"),
  [
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    (b"<!DOCTYPE html>", "web page"),
    (struct.pack(">I", 24) + b"ftypM4A " + bytes(99), "MPEG-4"),
    (b"\x1aE\xdf\xa3" + bytes(99), "WebM"),
    (b"PK\3\4" + bytes(99), "zip archive"),
  ],
)
def test_what_is_no_sound_file_is_named(raw, what):
  with pytest.raises(AudioError, match=f"cannot be decoded, it is .*{what}"):
    seconds(raw)
