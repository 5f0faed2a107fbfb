"""PyTorch state_dicts to our parameters and back: total and exact, or it fails naming the keys."""

import re
from typing import Any, NamedTuple

import numpy as np
from librosa import filters

from mellow_jax.config import ModelConfig
from mellow_jax.convert import rules
from mellow_jax.errors import CheckpointError
from mellow_jax.models import htsat, mellow

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# Types whose every value float32 holds.
EXACT = ("float32", "float16", "bfloat16")


class Line(NamedTuple):
  """One entry of a conversion: where it comes from and where it goes (None: computed, dropped)."""

  key: str
  path: str | None
  shape: tuple[int, ...]
  dtype: str


def kind_of(state_dict: dict[str, np.ndarray]) -> str:
  """ "mellow", "htsat" or "smollm2".

  Raises CheckpointError where the keys are of none of them.
  """
  for kind, (marker, _) in rules.TABLES.items():
    if marker in state_dict:
      return kind
  raise CheckpointError(
    f"neither Mellow, HTSAT nor SmolLM2: none of {', '.join(m for m, _ in rules.TABLES.values())} "
    f"is among its {len(state_dict)} keys, the first of which are {_some(state_dict)}"
  )


def _some(names: Any) -> str:
  names = sorted(names)
  return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def plan(state_dict: dict[str, np.ndarray], cfg: ModelConfig) -> list[Line]:
  """Every entry's destination.

  Raises CheckpointError, naming the keys, unless each key matches exactly one rule, each parameter
  of the part is filled exactly once, and all shapes and types are right.
  """
  table = rules.TABLES[kind_of(state_dict)][1]
  lines = []
  for key, array in state_dict.items():
    found = rules.match(key, table)
    if len(found) != 1:
      what = "matches no rule" if not found else "matches several rules"
      raise CheckpointError(f"key {key!r} {what}: the file is not of the released architecture")
    path = found[0][1]
    lines.append(Line(key, path and path.replace(".", "/"), array.shape, str(array.dtype)))
  abstract = mellow.flatten(mellow.abstract(cfg)[1])
  _check_total(lines, abstract)
  transforms = {key: rules.match(key, table)[0][0].transform for key in state_dict}
  for line in lines:
    if line.path is None:
      continue
    if line.dtype not in EXACT:
      raise CheckpointError(f"key {line.key!r} is {line.dtype}: only {', '.join(EXACT)} are exact")
    shape = transforms[line.key].there(state_dict[line.key]).shape
    if shape != abstract[line.path].shape:
      raise CheckpointError(
        f"key {line.key!r} has shape {line.shape}, which gives {line.path} the shape {shape} "
        f"instead of {abstract[line.path].shape}: another architecture"
      )
  return lines


def _check_total(lines: list[Line], abstract: dict[str, Any]) -> None:
  filled = [line.path for line in lines if line.path]
  twice = (
    sorted({path for path in filled if filled.count(path) > 1})
    if len(set(filled)) != len(filled)
    else []
  )
  if twice:
    raise CheckpointError(f"filled twice: {_some(twice)}")
  unknown = set(filled) - set(abstract)
  if unknown:
    keys = [line.key for line in lines if line.path in unknown]
    raise CheckpointError(f"keys of another architecture: {_some(keys)}")
  parts = {path.split("/")[0] for path in filled}
  missing = {p for p in abstract if p.split("/")[0] in parts} - set(filled)
  if missing:
    raise CheckpointError(f"missing from the file: what fills {_some(missing)}")


def convert(state_dict: dict[str, np.ndarray], cfg: ModelConfig) -> dict[str, np.ndarray]:
  """Our parameters by path, float32, of the whole model or of the part that the file holds.

  Raises CheckpointError as `plan` does, and where a head of its own contradicts the tied embedding.
  """
  lines = plan(state_dict, cfg)
  table = rules.TABLES[kind_of(state_dict)][1]
  flat = {}
  for line in lines:
    array = state_dict[line.key]
    if line.path is None:
      if line.key.endswith(HEAD):
        embedding = state_dict[line.key.removesuffix(HEAD) + EMBEDDING]
        if not np.array_equal(array, embedding, equal_nan=True):
          raise CheckpointError(f"key {line.key!r} differs from the embedding it should be tied to")
      continue
    transform = rules.match(line.key, table)[0][0].transform
    flat[line.path] = np.ascontiguousarray(transform.there(array), dtype=np.float32)
  return flat


_GROUP = re.compile(r"\([^()]*\)")


def _invert(rule: rules.Rule) -> tuple[str, str]:
  """(regex of our path, template of the torch key) of a rule."""
  groups = _GROUP.findall(rule.key)
  path = re.escape(rule.path)
  key = rule.key.replace(r"\.", ".")
  for i, group in enumerate(groups, start=1):
    path = path.replace(rf"\\{i}", group)
    key = key.replace(group, rf"\{i}", 1)
  return path, key


def reverse(flat: dict[str, np.ndarray], cfg: ModelConfig) -> dict[str, np.ndarray]:
  """The full state_dict that the PyTorch code loads, computed entries and tied head included.

  Raises CheckpointError where flat is not a whole model.
  """
  missing = set(mellow.flatten(mellow.abstract(cfg)[1])) - set(flat)
  if missing:
    raise CheckpointError(f"not a whole model, missing {_some(missing)}")
  inverted = [(*_invert(rule), rule.transform) for rule in rules.MELLOW if rule.path]
  state_dict = computed(cfg)
  for path, array in flat.items():
    dotted = path.replace("/", ".")
    matches = [(re.fullmatch(p, dotted), key, t) for p, key, t in inverted]
    ((match, key, transform),) = [m for m in matches if m[0]]
    state_dict[match.expand(key)] = transform.back(np.asarray(array))
  head, embedding = (f"caption_decoder.lm.{name}" for name in (HEAD, EMBEDDING))
  state_dict[head] = state_dict[embedding]
  return state_dict


def computed(cfg: ModelConfig) -> dict[str, np.ndarray]:
  """The entries that the PyTorch code keeps beside its weights, made from the configuration.

  Source: torchlibrosa's STFT as a convolution and mel matrix; the buffers of Swin's windows.
  """
  audio, encoder, prefix = cfg.audio, cfg.encoder, "audio_encoder.base.htsat."
  n = audio.n_fft
  window = np.hanning(n + 1)[:-1]
  angle = -2 * np.pi * (np.arange(n // 2 + 1)[:, None] * np.arange(n)[None] % n) / n
  mel = filters.mel(
    sr=audio.sample_rate, n_fft=n, n_mels=audio.mel_bins, fmin=audio.f_min, fmax=audio.f_max
  )
  stft = prefix + "spectrogram_extractor.stft.conv_"
  entries = {
    stft + "real.weight": (np.cos(angle) * window)[:, None].astype(np.float32),
    stft + "imag.weight": (np.sin(angle) * window)[:, None].astype(np.float32),
    prefix + "logmel_extractor.melW": np.ascontiguousarray(mel.T, dtype=np.float32),
    prefix + "bn0.num_batches_tracked": np.zeros((), np.int64),
  }
  for stage, depth in enumerate(encoder.depths):
    grid = encoder.sizes(audio).image_side // (encoder.patch * 2**stage)
    window_side = min(encoder.window, grid)
    for block in range(depth):
      name = f"{prefix}layers.{stage}.blocks.{block}."
      entries[name + "attn.relative_position_index"] = htsat.relative_position_index(
        window_side
      ).astype(np.int64)
      if block % 2 and window_side < grid:
        entries[name + "attn_mask"] = htsat.shift_mask(grid, window_side, window_side // 2)
  return entries
