"""Writes the features that a run's frozen encoder makes of its clips, and says what made them."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

import mellow_jax
from mellow_jax import checkpoint, files
from mellow_jax.config import Config
from mellow_jax.data import features, pipeline
from mellow_jax.data.clips import EncodedClips
from mellow_jax.data.presets import PRESETS
from mellow_jax.errors import AudioError, ConfigError
from mellow_jax.models import mellow
from mellow_jax.training import init, step

# What makes features of a file, below this package.
CODE = (
  *("data/audio.py", "data/sound_files.py", "data/containers.py", "data/resampling.py"),
  *("data/presets.py", "models/logmel.py", "models/mel.py", "models/htsat.py", "models/cnn14.py"),
)
ENCODER = "encoder/"


def encoder_digest(flat: Mapping[str, Array]) -> str:
  """16 hex digits: a hash of the encoder's parameters and statistics."""
  return _digest(checkpoint.digest({k: x for k, x in flat.items() if k.startswith(ENCODER)}))


def made_by(cfg: Config) -> dict[str, str]:
  """What the features of a run depend on beside clips and weights, each with a digest or a name."""
  root = Path(mellow_jax.__file__).parent
  return {
    "configuration": _digest([asdict(cfg.model.audio), asdict(cfg.model.encoder)]),
    "preset": cfg.data.preset,
    "code": _digest([hashlib.sha256((root / name).read_bytes()).hexdigest() for name in CODE]),
    "type": mellow.resolve_dtype(cfg.model),
  }


def _digest(content: Any) -> str:
  return checkpoint.digest_json({"": content})[:16]


def check(cfg: Config) -> None:
  """Raises ConfigError for a run that cannot have an encoder's features kept."""
  data, optim = cfg.data, cfg.optim
  parameters = (p for p in mellow.flatten(mellow.abstract(cfg.model)[1]) if p.startswith(ENCODER))
  trained = [
    path
    for path in parameters
    if not (mellow.is_statistic(path) or _matches(optim.freeze, path))
    or _matches(optim.lora.kernels, path)
  ]
  changed = {
    "data.source=scenes, whose clips are made anew": data.source == "scenes",
    "data.augment": data.augment,
    "encoder_train_mode": cfg.encoder_train_mode,
    "calibrate_batches": cfg.calibrate_batches > 0,
    f"optim, which trains {trained[0] if trained else ''}": bool(trained),
  }
  for name in (name for name, holds in changed.items() if holds):
    raise ConfigError(f"config.data.features: the encoder's features change with config.{name}")


def _matches(regexes: Iterable[str], path: str) -> bool:
  return any(re.fullmatch(regex, path) for regex in regexes)


def check_encoder(folder: str, flat: Mapping[str, Array]) -> None:
  """Raises DataError where features are not those of the encoder among the parameters."""
  features.check_made_by(folder, {"encoder": encoder_digest(flat)})


def write(
  cfg: Config, output: Path, *, windows: int, batch: int, log: Callable[[str], None]
) -> tuple[int, int]:
  """Writes the features of all clips of a run; returns how many windows, and how many bad clips.

  windows is the number of random windows of a clip that the preset crops at random. Raises the
  errors of the config, the rows and the weights.
  """
  check(cfg)
  if output.exists():
    raise ConfigError(f"--output={output}: is there already: remove it, or give another")
  init.check_folders(cfg)
  train, val, clips = pipeline.sources(cfg, log)
  tokenizer, cfg = init.tokenizer(cfg, train)
  flat = init.parameters(cfg, tokenizer)
  paths = features.named(train, val)

  @jax.jit
  @mellow.exactly(cfg.model)
  def encode(flat: step.Flat, wav: Float[Array, "B S"]) -> Float[Array, "B F"]:
    return mellow.pack(step.merge(cfg.model, flat).encoder(wav))

  samples = cfg.model.audio.clip_samples
  found: dict[str, dict[str, Any]] = {}
  bad: dict[str, dict[str, Any]] = {}
  count = windows if PRESETS[cfg.data.preset].long == "random" else 0
  dtype = jax.numpy.dtype(mellow.resolve_dtype(cfg.model))
  rows = width = 0
  with files.replacing_folder(output) as folder:
    with (folder / features.ROWS).open("wb") as file:
      for group in _grouped(_windows(clips, paths, count, samples, found, bad), batch):
        filled = np.stack([*group, *[group[0]] * (batch - len(group))])
        made = np.asarray(encode(flat, filled)[: len(group)].astype(dtype))
        rows, width = rows + len(made), made.shape[1]
        file.write(made.tobytes())
        if rows // 1000 > (rows - len(made)) // 1000:
          log(f"{rows} windows of {len(found)} of {len(paths) + 1} clips")
    size = {"rows": rows, "width": width, "dtype": dtype.name}
    made = made_by(cfg) | {"encoder": encoder_digest(flat)}
    features.write_index(folder, made, found, bad, **size)
  return rows, len(bad)


def _windows(
  clips: EncodedClips,
  paths: Mapping[str, None],
  count: int,
  samples: int,
  found: dict[str, dict[str, Any]],
  bad: dict[str, dict[str, Any]],
) -> Iterator[np.ndarray]:
  """The windows of silence and of each clip, one after the other; fills found and bad."""

  def load(path: str) -> list[np.ndarray] | AudioError:
    try:
      made = [clips.load(path, None)]
      for number in range(count):
        window = clips.load(path, np.random.default_rng([number, *path.encode()]))
        if not number and np.array_equal(window, made[0]):
          break  # no longer than a window
        made.append(window)
      return made
    except AudioError as error:
      return error

  first = 1
  found[features.SILENCE] = {"first": 0, "windows": 1}
  yield np.zeros(samples, np.float32)
  with ThreadPoolExecutor(8) as pool:
    for group in _grouped(paths, 64):
      for path, made in zip(group, pool.map(load, group), strict=True):
        stamps = {"file": clips.stamp(path), "crc32": clips.crc32(path)}
        if isinstance(made, AudioError):
          bad[path] = {"message": str(made), "reason": made.reason, **stamps}
          continue
        found[path] = {"first": first, "windows": len(made), **stamps}
        first += len(made)
        yield from made


def _grouped(items: Any, size: int) -> Iterator[list]:
  group = []
  for item in items:
    group.append(item)
    if len(group) == size:
      yield group
      group = []
  if group:
    yield group
