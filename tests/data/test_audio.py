import io
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import recipe
import soundfile
from timing import cpu_time

from mellow_jax.config import AudioConfig
from mellow_jax.data import audio, clips, presets, resampling
from mellow_jax.errors import AudioError

GOLDEN = Path(__file__).parents[1] / "golden/resample.npz"
RELEASE, TRAINING, CLEAN = (presets.PRESETS[name] for name in ("release", "training", "clean"))
CFG = AudioConfig()
SMALL = AudioConfig(clip_seconds=1.0)
FORMATS = {
  "wav": {"format": "WAV", "subtype": "PCM_16"},
  "float": {"format": "WAV", "subtype": "FLOAT"},
  "flac": {"format": "FLAC"},
  "ogg": {"format": "OGG", "subtype": "VORBIS"},
  "opus": {"format": "OGG", "subtype": "OPUS"},
  "mp3": {"format": "MP3"},
}


def noise(seconds, rate=48_000, channels=2, seed=0):
  wav = np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
  return (0.1 * wav).astype(np.float32)


def encoded(wav, rate=48_000, **form) -> bytes:
  file = io.BytesIO()
  soundfile.write(file, wav, rate, **form or FORMATS["wav"])
  return file.getvalue()


# --- Resampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_resampling_equals_torchaudio(rate):
  golden = np.load(GOLDEN)
  wav = recipe.waveform(9, samples=int(golden[f"recipe9_{rate}_n"]), rate=rate)
  found = resampling.resample(wav, rate, 32_000)
  assert len(found) == golden[f"recipe9_{rate}_len"]
  np.testing.assert_allclose(found[::97], golden[f"recipe9_{rate}_every97"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("index", range(3))
def test_resampling_of_real_clips_equals_torchaudio(reference_data, index):
  golden = np.load(GOLDEN)
  name, path = str(golden["files"][index]).split("=")
  wav, rate = soundfile.read(reference_data / path, dtype="float32", always_2d=True)
  found = resampling.resample(wav.mean(axis=1), rate, 32_000)
  assert len(found) == golden[f"{name}_len"]
  np.testing.assert_allclose(found[::97], golden[f"{name}_every97"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 44101, 48000, 96000, 383_999])
def test_resampling_a_window_equals_the_window_of_the_whole(rate):
  wav = noise(0.4, rate, 1)[:, 0]
  whole = resampling.resample(wav, rate, 32_000)
  for start, stop in ((0, 500), (1, 2), (4321, 7654), (len(whole) - 99, len(whole))):
    reads = []

    def read(a, b, reads=reads):
      reads.append(b - a)
      return wav[a:b]

    part = resampling.resample_window(read, len(wav), rate, 32_000, start, stop)
    # Sums of other lengths round otherwise.
    np.testing.assert_allclose(part, whole[start:stop], rtol=0, atol=1e-6)


def test_resampling_reads_only_what_the_window_needs():
  asked = []

  def read(start, stop):
    asked.append((start, stop))
    return np.zeros(stop - start, np.float32)

  hour = 3600 * 44_100
  resampling.resample_window(read, hour, 44_100, 32_000, 32_000_000, 32_000_000 + 320_000)
  ((start, stop),) = asked
  assert start <= 44_100_000 and 441_000 <= stop - start < 441_000 + 1000


# --- Windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_any_window_equals_decode_whole_then_crop(form, tmp_path):
  (tmp_path / "a").write_bytes(encoded(noise(3.1), **FORMATS[form]))
  decoded, rate = soundfile.read(tmp_path / "a", dtype="float32", always_2d=True)
  whole = resampling.resample(decoded.mean(axis=1), rate, 32_000)
  for window in ("first", "center", "random"):
    rng = np.random.default_rng(3)
    clip = audio.load(str(tmp_path / "a"), SMALL, CLEAN, window=window, rng=rng)
    start = round(clip.start_seconds * 32_000)
    np.testing.assert_allclose(clip.wav, whole[start : start + 32_000], rtol=0, atol=1e-6)
  assert clip.seconds_used == 1.0 and abs(clip.total_seconds - 3.1) < 0.06
  np.testing.assert_array_equal(
    audio.load((tmp_path / "a").read_bytes(), SMALL, CLEAN).wav,
    audio.load(tmp_path / "a", SMALL, CLEAN).wav,
  )


def test_windows_by_name():
  wav = noise(3.0, 32_000, 1)[:, 0]

  def start(window, preset=CLEAN, rng=None):
    clip = audio.load((wav, 32_000), SMALL, preset, window=window, rng=rng)
    at = round(clip.start_seconds * 32_000)
    np.testing.assert_array_equal(clip.wav, wav[at : at + 32_000])
    return clip.start_seconds

  assert start("first") == 0.0 and start("center") == 1.0
  rng = np.random.default_rng(0)
  assert len({start("random", rng=rng) for _ in range(5)}) == 5
  assert 0 < start(None, TRAINING, rng) < 2.0
  assert start(None, TRAINING) == start(None, CLEAN, rng) == 0.0
  with pytest.raises(ValueError, match="pass rng"):
    start("random")


def test_release_and_training_crop_long_clips_at_random():
  wav = noise(3.0, 32_000, 1)[:, 0]
  for preset in (RELEASE, TRAINING):
    rng = np.random.default_rng(0)
    assert audio.load((wav, 32_000), SMALL, preset, rng=rng).start_seconds > 0


def test_consecutive_windows_cover_the_source():
  wav = noise(3.5, 32_000, 1)[:, 0]
  cfg = AudioConfig(clip_seconds=1.25)
  clips = audio.load_windows((wav, 32_000), cfg, CLEAN)
  assert [clip.start_seconds for clip in clips] == [0.0, 1.25, 2.5]
  assert [clip.seconds_used for clip in clips] == [1.25, 1.25, 1.0]
  np.testing.assert_array_equal(np.concatenate([clip.wav for clip in clips])[:112_000], wav)
  assert audio.unheard(clips) == 0
  clips = audio.load_windows((wav[:-1], 32_000), cfg, CLEAN)  # 1 s less one sample is left
  assert len(clips) == 2 and audio.unheard(clips) == pytest.approx(1 - 1 / 32_000)
  assert len(audio.load_windows((wav[:100], 32_000), cfg, CLEAN)) == 1


# --- Mono and length -----------------------------------------------------------------------------


def three_channels(rate=48_000):
  return noise(0.2, rate, 3)


def test_release_concatenates_channels_end_to_end():
  wav = three_channels()
  each = [resampling.resample(wav[:, c], 48_000, 32_000) for c in range(3)]
  clip = audio.load((wav, 48_000), AudioConfig(clip_seconds=0.6), RELEASE)
  np.testing.assert_allclose(clip.wav, np.concatenate(each), rtol=0, atol=1e-6)
  assert clip.total_seconds == 0.6


def test_release_crop_may_span_two_channels():
  wav = three_channels(32_000)
  cfg = AudioConfig(clip_seconds=0.3)
  clip = audio.load((wav, 32_000), cfg, RELEASE, window="center")
  np.testing.assert_array_equal(clip.wav, wav.T.reshape(-1)[4800:14_400])


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
def test_release_crop_of_a_file_rewinds_for_the_next_channel(form):
  raw = encoded(noise(2.0, 32_000), 32_000, **FORMATS[form])
  wav, _ = soundfile.read(io.BytesIO(raw), dtype="float32")
  clip = audio.load(raw, SMALL, RELEASE, window="center")
  np.testing.assert_allclose(clip.wav, wav.T.reshape(-1)[48_000:80_000], rtol=0, atol=1e-6)


def test_release_repeats_short_clips():
  wav = noise(0.3, 32_000, 1)[:, 0]
  clip = audio.load((wav, 32_000), SMALL, RELEASE)
  np.testing.assert_array_equal(clip.wav, np.tile(wav, 4)[:32_000])
  assert clip.seconds_used == clip.total_seconds == 0.3


def test_training_takes_the_mean_of_the_first_two_channels():
  wav = three_channels(32_000)
  clip = audio.load((wav, 32_000), AudioConfig(clip_seconds=0.2), TRAINING)
  np.testing.assert_allclose(clip.wav, (wav[:, 0] + wav[:, 1]) / 2, rtol=0, atol=1e-7)


def test_clean_takes_the_mean_of_all_channels():
  wav = three_channels(32_000)
  clip = audio.load((wav, 32_000), AudioConfig(clip_seconds=0.2), CLEAN)
  np.testing.assert_allclose(clip.wav, wav.mean(axis=1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("preset", [TRAINING, CLEAN])
def test_training_and_clean_pad_short_clips_with_zeros(preset):
  wav = noise(0.3, 32_000, 1)[:, 0]
  clip = audio.load((wav, 32_000), SMALL, preset)
  np.testing.assert_array_equal(clip.wav, np.pad(wav, (0, 32_000 - len(wav))))


def test_samples_beyond_full_scale_are_kept():
  wav = 50 * noise(1.0, 32_000, 1)
  np.testing.assert_array_equal(audio.load((wav, 32_000), SMALL, CLEAN).wav, wav[:, 0])


# --- Bad input -----------------------------------------------------------------------------------


def patched(raw: bytes, at: int, form: str, value: int) -> bytes:
  return raw[:at] + struct.pack(form, value) + raw[at + struct.calcsize(form) :]


def bad_sources():
  wav = encoded(noise(0.5))
  loud = noise(0.5)
  yield "empty", b"", "is empty"
  yield "html", b"<html>not found</html>" * 9, "cannot be decoded"
  yield "header only", encoded(noise(0)), "holds no samples"
  yield "rate 1", patched(wav, 24, "<I", 1), "sample rate 1 Hz is outside"
  yield "rate 4 GHz", patched(wav, 24, "<I", 4_000_000_000), "sample rate|cannot be decoded"
  yield "channels", encoded(noise(0.1, channels=17)), "17 channels.*mix it down"
  yield "cut wav", wav[:-1000], "cut short"
  flac, mp3 = (encoded(noise(2.0), **FORMATS[form]) for form in ("flac", "mp3"))
  yield "cut flac", flac[: len(flac) // 2], "cut short, .* samples are there"
  yield "cut mp3", mp3[: len(mp3) // 2], "cut short, .* of its .* frames are there"
  for name, value in (("nan", np.nan), ("inf", np.inf)):
    loud[100, 0] = value
    yield name, encoded(loud, **FORMATS["float"]), "NaN or infinite"
  yield "unscaled", encoded(32_768 * noise(0.5), **FORMATS["float"]), "integers as floats.*divide"
  yield "five hours", (np.broadcast_to(np.float32(0), 5 * 3600 * 8000), 8000), "claims 18000 s"
  yield "integers", (np.zeros(9, np.int64), 8000), "give floating-point samples"
  yield "no samples", (np.zeros(0, np.float32), 8000), "holds no samples"
  yield "many channels", (np.zeros((20, 9000), np.float32), 8000), "9000 channels"


BAD = {name: rest for name, *rest in bad_sources()}


@pytest.mark.parametrize("name", BAD)
def test_bad_source_is_refused(name, tmp_path):
  source, message = BAD[name]
  calls = [source]
  if isinstance(source, bytes):
    path = tmp_path / "broken clip"
    path.write_bytes(source)
    calls.append(path)
  for given in calls:
    with pytest.raises(AudioError, match=message) as error:
      audio.load_windows(given, CFG, CLEAN)
    assert "\n" not in str(error.value)
  if isinstance(source, bytes):
    assert str(path) in str(error.value)


def test_absent_file_folder_and_pipe_are_refused(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "loop").symlink_to(tmp_path / "loop")
  (tmp_path / "a.raw").write_bytes(b"\0" * 100)
  for name, message in (
    ("absent.wav", "no such file"),
    ("", "not a file"),
    ("pipe", "not a file"),
    ("loop", "cannot be opened"),
    ("a.raw", "cannot be decoded"),
    ("a\0b", "cannot be opened"),
    ("a\ud800", "cannot be opened"),
  ):
    with pytest.raises(AudioError, match=message):
      audio.load(tmp_path / name, CFG, CLEAN)


def test_streamed_wav_of_unknown_length_is_read():
  raw = patched(encoded(noise(0.5)), 4, "<I", 0xFFFF_FFFF)
  assert audio.load(patched(raw, 40, "<I", 0xFFFF_FFFF), CFG, CLEAN).total_seconds == 0.5


def test_an_hour_costs_what_ten_seconds_cost(tmp_path):
  path = tmp_path / "hour.flac"
  with soundfile.SoundFile(path, "w", 8000, 2) as file:
    for _ in range(60):
      file.write(np.zeros((60 * 8000, 2), np.float32))
  with cpu_time() as taken:
    clip = audio.load(path, CFG, CLEAN, window="center")
  assert taken.seconds < 1.0
  assert clip.total_seconds == 3600.0 and clip.wav.shape == (320_000,)


# Mutations of each format; 1400 are 21,000 in all.
MUTATIONS = int(os.environ.get("MELLOW_MUTATIONS", "200"))
MUTATED = FORMATS | {
  "rf64": {"format": "RF64", "subtype": "PCM_16"},
  "w64": {"format": "W64", "subtype": "PCM_16"},
  "aiff": {"format": "AIFF", "subtype": "PCM_16"},
  "au": {"format": "AU", "subtype": "PCM_16"},
  "caf": {"format": "CAF", "subtype": "PCM_16"},
  "adpcm": {"format": "WAV", "subtype": "IMA_ADPCM"},
  "ms adpcm": {"format": "WAV", "subtype": "MS_ADPCM"},
  "gsm": {"format": "WAV", "subtype": "GSM610"},
  "variable mp3": {"format": "MP3", "bitrate_mode": "VARIABLE"},
}


@pytest.mark.parametrize("form", MUTATED)
def test_mutated_files_raise_audio_error_only(form):
  raw = encoded(noise(0.3, channels=1 if form == "gsm" else 2), **MUTATED[form])
  rng = np.random.default_rng(5)
  for i in range(MUTATIONS):
    bad = bytearray(raw)
    reach = 64 if i % 2 else len(raw)  # half of them in the header
    for at in rng.integers(0, reach, rng.integers(1, 6)):
      bad[at] = rng.integers(256)
    if i % 5 == 0:
      del bad[rng.integers(1, len(bad)) :]
    elif i % 5 == 1:
      bad += raw  # a stream after it
    with cpu_time() as taken:
      try:
        clip = audio.load(bytes(bad), SMALL, CLEAN, window="random", rng=rng)
        assert np.isfinite(clip.wav).all()
      except AudioError as error:
        assert "\n" not in str(error)
    assert taken.seconds < 1.0


# --- Files below a root --------------------------------------------------------------------------


def test_file_clips_load_below_their_root_and_travel_to_workers(tmp_path):
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub/a.wav").write_bytes(encoded(noise(0.5)))
  reader = pickle.loads(pickle.dumps(clips.FileClips(str(tmp_path), SMALL, TRAINING)))
  wav = reader.load("sub\\a.wav", np.random.default_rng(0))
  assert wav.shape == (32_000,) and wav.dtype == np.float32 and wav[:16_000].any()


@pytest.mark.parametrize(
  "path", ["/etc/passwd", "../a.wav", "sub/../../a.wav", "..\\a.wav", "C:\\a.wav", "a\0.wav", ""]
)
def test_file_clips_refuse_paths_that_leave_the_root(tmp_path, path):
  with pytest.raises(AudioError, match="audio path"):
    clips.FileClips(str(tmp_path), SMALL, TRAINING).load(path)


def test_file_clips_follow_symbolic_links(tmp_path):
  (tmp_path / "elsewhere.wav").write_bytes(encoded(noise(0.5)))
  (tmp_path / "root").mkdir()
  (tmp_path / "root/a.wav").symlink_to(tmp_path / "elsewhere.wav")
  assert clips.FileClips(str(tmp_path / "root"), SMALL, TRAINING).load("a.wav").any()


# --- Threads -------------------------------------------------------------------------------------

AT_ONCE = """
import sys, threading
from pathlib import Path
from mellow_jax.config import AudioConfig
from mellow_jax.data import audio
from mellow_jax.data.presets import PRESETS

start, read = threading.Barrier(32), []

def load(number):
  source = Path(sys.argv[1]) if number % 2 else Path(sys.argv[1]).read_bytes()
  start.wait()
  read.append(len(audio.load(source, AudioConfig(), PRESETS["clean"]).wav))

threads = [threading.Thread(target=load, args=(number,)) for number in range(32)]
for thread in threads:
  thread.start()
for thread in threads:
  thread.join()
assert read == [320_000] * 32, read
"""
OPENED = """
import threading, soundfile
opened, open_one = [], soundfile.SoundFile.__init__

def note(*args, **kwargs):
  opened.append(threading.current_thread() is threading.main_thread())
  open_one(*args, **kwargs)

soundfile.SoundFile.__init__ = note
import mellow_jax.data.audio
assert opened and all(opened), opened
"""


def python(*arguments):
  command = [sys.executable, "-c", *map(str, arguments)]
  found = subprocess.run(command, capture_output=True, text=True, check=False)
  assert not found.returncode, found.stderr


def test_threads_may_open_their_first_file_at_once(tmp_path):
  """cffi 2.1.1 aborts the process now and then, unless one file has been opened before."""
  soundfile.write(tmp_path / "a.wav", np.zeros(8000), 16_000)
  for _ in range(8):
    python(AT_ONCE, tmp_path / "a.wav")


def test_a_file_is_open_before_any_thread_can_start():
  python(OPENED)
