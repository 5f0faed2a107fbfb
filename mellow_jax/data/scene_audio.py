"""Synthetic listening scenes: events sampled from a seed, and their waveform.

  silence | noise [beep    ]      [drum] [drum] noise | silence
                     [bell ]
            `---------- a scene, 2 to 4 s ----------'

Source: our own.
"""

import functools
import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

KINDS = ("beep", "bell", "buzz", "chirp", "drum", "hiss", "rattle", "siren")
# Hz: the tone, the lowest partial, the sawtooth, the start of the sweep, the middle of the swing.
PITCHES = {
  "beep": {"low": 440.0, "high": 1760.0},
  "bell": {"low": 420.0, "high": 1050.0},
  "buzz": {"low": 110.0, "high": 330.0},
  "chirp": {"low": 500.0, "high": 1600.0},
  "siren": {"low": 650.0, "high": 1800.0},
}
LOUDNESS = {"loud": 0.4, "soft": 0.1}  # peak amplitude: 12 dB apart
SPLITS = ("train", "val", "test")
MIN_SAMPLE_RATE = 16_000  # Hz; the higher sounds do not fit below
SCENE_SECONDS = (2.0, 4.0)
SINGLE_SECONDS = (0.4, 1.2)  # a sound that comes once
PAIR_SECONDS = (0.6, 1.2)  # one of two sounds that overlap
REPEAT_SECONDS = (0.3, 0.4)  # a sound that comes two or three times
REPEAT_GAP_SECONDS = 0.2  # pause between repetitions
GAP_SECONDS = 0.15  # shortest pause between events that do not overlap
RAMP_SECONDS = 0.01  # fade at both ends of a sound, so that edges do not click
NOISE_SECONDS = 8.0  # length of the noise that scenes take stretches of
SCENE_STREAM, ROW_STREAM = 0, 1  # keep the random numbers of scenes and of rows apart

_PATH = re.compile(r"scenes/(\w+)/(0|[1-9]\d*)/(0|[1-9]\d*)\.wav", re.ASCII)


class Event(NamedTuple):
  """A sound, or one to three repetitions of it."""

  kind: str
  onset: float  # seconds from the scene's start
  duration: float  # seconds, of one repetition
  count: int
  pitch: str  # "low" or "high"; "" for kinds without pitch
  loudness: str  # "loud" or "soft"
  detune: float  # factor on the pitch or the pace, 0.92 to 1.08
  texture: float  # 0 to 1, which stretch of noise to use

  @property
  def length(self) -> float:
    """Seconds from the first repetition's start to the last one's end."""
    return self.count * self.duration + (self.count - 1) * REPEAT_GAP_SECONDS

  @property
  def end(self) -> float:
    """Seconds from the scene's start."""
    return self.onset + self.length

  def overlaps(self, other: "Event") -> bool:
    """Whether a moment belongs to both."""
    return self.onset < other.end and other.onset < self.end


class Scene(NamedTuple):
  """One to three events of different kinds, in order of onset, over faint noise."""

  events: tuple[Event, ...]
  duration: float  # seconds
  position: float  # 0 to 1, where in the silence around it the scene lies
  noise: float  # peak of the background
  texture: float  # 0 to 1, which stretch of noise to use

  @property
  def kinds(self) -> list[str]:
    """The events' kinds, in order of onset."""
    return [event.kind for event in self.events]

  @property
  def groups(self) -> list[list[Event]]:
    """Events in order, those that overlap together."""
    groups: list[list[Event]] = []
    for event in self.events:
      if groups and any(event.overlaps(other) for other in groups[-1]):
        groups[-1].append(event)
      else:
        groups.append([event])
    return groups

  @property
  def caption(self) -> str:
    """The kinds in order, such as "beep and bell then drum"."""
    # Which of two overlapping sounds began is hard to hear, so their names are in ABC order.
    return " then ".join(" and ".join(sorted(e.kind for e in group)) for group in self.groups)


def generator(seed: int, split: str, stream: int, number: int) -> np.random.Generator:
  """Random numbers of their own for every scene and every row of every split.

  Raises ValueError for an unknown split and for numbers out of range.
  """
  if split not in SPLITS:
    raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
  if not 0 <= seed < 2**32 or number < 0:
    raise ValueError(f"seed {seed} must be in [0, 2**32) and number {number} at least 0")
  # The number comes last, as it alone may take more than one 32-bit word of the key.
  key = np.random.SeedSequence((seed, SPLITS.index(split), stream, number))
  return np.random.default_rng(key)


def draw_scene(seed: int, split: str, number: int) -> Scene:
  """Scene `number` of a split. Raises ValueError as `generator` does."""
  rng = generator(seed, split, SCENE_STREAM, number)
  size = (1, 1, 2, 2, 2, 3, 3, 3)[rng.integers(8)]
  kinds = [KINDS[k] for k in rng.permutation(len(KINDS))[:size]]
  # Index of an event that starts during the one before it.
  late = int(rng.integers(1, size)) if size > 1 and rng.random() < 0.35 else None
  while True:  # until the events fit
    events, onsets, end = [], [], 0.0
    for k, kind in enumerate(kinds):
      event = _draw_event(rng, kind, late in (k, k + 1))
      if k == late:
        # Neither hides the other: they are equally loud and share a third of a second or more.
        event = event._replace(loudness=events[-1].loudness)
        onsets.append(onsets[-1] + rng.uniform(0.0, 0.4 * events[-1].length))
      else:
        onsets.append(end + GAP_SECONDS)
      events.append(event)
      end = max(end, onsets[-1] + event.length)
    needed = end + GAP_SECONDS
    if needed <= SCENE_SECONDS[1]:
      break
  # What the scene lasts beyond that becomes longer pauses, shared out at random.
  duration = rng.uniform(max(needed, SCENE_SECONDS[0]), SCENE_SECONDS[1])
  delays = np.sort(rng.uniform(0.0, duration - needed, size))
  if late is not None:
    delays[late] = delays[late - 1]
  return Scene(
    events=tuple(
      event._replace(onset=float(onset + delay))
      for event, onset, delay in zip(events, onsets, delays, strict=True)
    ),
    duration=duration,
    position=rng.random(),
    noise=10.0 ** rng.uniform(-3.0, -2.0),
    texture=rng.random(),
  )


def _draw_event(rng: np.random.Generator, kind: str, overlaps: bool) -> Event:
  """An event without its onset. One that overlaps another sounds once."""
  count = 1 if overlaps else (1, 1, 2, 3)[rng.integers(4)]
  seconds = PAIR_SECONDS if overlaps else SINGLE_SECONDS if count == 1 else REPEAT_SECONDS
  return Event(
    kind=kind,
    onset=0.0,
    duration=rng.uniform(*seconds),
    count=count,
    pitch=("low", "high")[rng.integers(2)] if kind in PITCHES else "",
    loudness=("loud", "soft")[rng.integers(2)],
    detune=rng.uniform(0.92, 1.08),
    texture=rng.random(),
  )


def render(scene: Scene, sample_rate: int, clip_samples: int) -> Float[np.ndarray, "S"]:
  """The scene inside a clip of silence, |x| < 1; the same samples for the same scene.

  Raises ValueError if the clip is shorter than the scene.
  """
  samples = int(scene.duration * sample_rate)
  if samples > clip_samples:
    raise ValueError(f"{clip_samples} samples cannot hold a scene of {scene.duration:.2f} s")
  clip = np.zeros(clip_samples, np.float32)
  start = int(scene.position * (clip_samples - samples))
  ground = clip[start : start + samples]
  ground += np.float32(scene.noise) * _stretch(_noises(sample_rate)[0], scene.texture, samples)
  for event in scene.events:
    sound = _sound(event, sample_rate)
    for repetition in range(event.count):
      onset = event.onset + repetition * (event.duration + REPEAT_GAP_SECONDS)
      first = int(onset * sample_rate)
      ground[first : first + len(sound)] += sound
  return clip


def scene_path(seed: int, split: str, number: int) -> str:
  """The audio path of a scene in records."""
  return f"scenes/{split}/{seed}/{number}.wav"


@dataclass(frozen=True)
class SceneClips:
  """The waveforms of the scenes that rows name."""

  sample_rate: int  # Hz, 16000 or more
  clip_samples: int  # length of every clip, 4 s or more

  def __post_init__(self):
    """Raises ValueError if some scenes would not fit."""
    if self.sample_rate < MIN_SAMPLE_RATE:
      raise ValueError(f"sample_rate {self.sample_rate} is below {MIN_SAMPLE_RATE} Hz")
    if self.clip_samples < SCENE_SECONDS[1] * self.sample_rate:
      raise ValueError(f"clip_samples {self.clip_samples} is less than {SCENE_SECONDS[1]} s")

  def load(self, path: str, rng: np.random.Generator | None = None) -> Float[np.ndarray, "S"]:
    """The clip at a path that `scene_path` gives. Raises ValueError for any other path.

    rng is for readers that crop at random; nothing here is.
    """
    match = _PATH.fullmatch(path)
    if not match:
      raise ValueError(f"{path!r} names no scene: expected scenes/<split>/<seed>/<number>.wav")
    scene = draw_scene(int(match[2]), match[1], int(match[3]))
    return render(scene, self.sample_rate, self.clip_samples)


def _sound(event: Event, sample_rate: int) -> Float[np.ndarray, "n"]:
  """One repetition of an event, at its loudness and faded at both ends."""
  sound = _waveform(event, sample_rate)
  sound *= LOUDNESS[event.loudness]
  ramp = _ramp(sample_rate)
  sound[: len(ramp)] *= ramp
  sound[-len(ramp) :] *= ramp[::-1]
  return sound


def _waveform(event: Event, sample_rate: int) -> Float[np.ndarray, "n"]:
  """One repetition of an event before its loudness, within [-1, 1]."""
  samples = int(event.duration * sample_rate)
  t = _seconds(sample_rate)[:samples]
  white, bright = _noises(sample_rate)
  # Python numbers keep float32 arrays float32.
  hertz = event.detune * (PITCHES[event.kind][event.pitch] if event.pitch else 1.0)
  turn = 2 * math.pi * hertz  # radians a second
  match event.kind:
    case "beep":  # a steady tone
      sound = np.sin(turn * t)
    case "bell":  # struck partials, not harmonic, fading: the higher, the sooner
      fade = np.exp(t * (-2.5 / event.duration))
      sound = np.sin(turn * t)
      sound += 0.9 * fade * np.sin(2.76 * turn * t)
      sound += 0.8 * fade * fade * np.sin(5.4 * turn * t)
      sound *= fade / 2.7
    case "buzz":  # a sawtooth: all harmonics
      sound = hertz * t
      sound -= np.floor(sound)
      sound = 2.0 * sound - 1.0
    case "chirp":  # one sweep, up to three times the frequency it starts from
      rise = math.log(3.0) / event.duration
      sound = np.sin(turn / rise * np.expm1(rise * t))
    case "drum":  # a thump: a tone that falls from 290 to 90 Hz and dies away
      fall = -np.expm1(-18.0 * t)
      sound = np.sin(turn * (90.0 * t + 200.0 / 18.0 * fall))
      sound *= np.exp(t * (-5.0 / event.duration))
    case "hiss":  # steady noise, high frequencies only
      sound = 1.0 * _stretch(bright, event.texture, samples)
    case "rattle":  # nine strokes of noise a second
      stroke = 9.0 * hertz * t
      stroke -= np.floor(stroke)
      sound = np.exp(-6.0 * stroke) * _stretch(white, event.texture, samples)
    case "siren":  # a tone and its octave that swing by 40% five times a second
      wave = turn * (t - 0.4 / (10 * math.pi) * np.cos(10 * math.pi * t))
      sound = (np.sin(wave) + 0.5 * np.sin(2.0 * wave)) / 1.5
    case _:
      raise ValueError(f"no sound is called {event.kind!r}")
  return sound


@functools.lru_cache
def _seconds(sample_rate: int) -> Float[np.ndarray, "n"]:
  """The time of each sample of the longest sound."""
  return np.arange(math.ceil(SINGLE_SECONDS[1] * sample_rate), dtype=np.float32) / sample_rate


@functools.lru_cache
def _ramp(sample_rate: int) -> Float[np.ndarray, "n"]:
  return np.linspace(0.0, 1.0, round(RAMP_SECONDS * sample_rate), dtype=np.float32)


@functools.lru_cache
def _noises(sample_rate: int) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
  """Noise with |x| <= 1, deviation 0.3: white, and with nothing below 3.5 kHz.

  Raises ValueError below MIN_SAMPLE_RATE.
  """
  if sample_rate < MIN_SAMPLE_RATE:
    raise ValueError(f"sample_rate {sample_rate} is below {MIN_SAMPLE_RATE} Hz")
  samples = round(NOISE_SECONDS * sample_rate)
  white = np.random.default_rng(0).standard_normal(samples)
  spectrum = np.fft.rfft(white)
  spectrum[np.fft.rfftfreq(samples, 1 / sample_rate) < 3500.0] = 0.0
  bright = np.fft.irfft(spectrum, samples)
  white, bright = (np.clip(0.3 * x / x.std(), -1.0, 1.0) for x in (white, bright))
  return white.astype(np.float32), bright.astype(np.float32)


def _stretch(noise: Float[np.ndarray, "n"], texture: float, samples: int) -> Float[np.ndarray, "m"]:
  """A view of the noise, from anywhere in it that leaves enough."""
  start = int(texture * (len(noise) - samples))
  return noise[start : start + samples]
