"""PyTorch state_dicts to our parameters and back: total and exact, or it fails naming the keys."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mellow_jax.config import (
  CNN14Config,
  GPT2Config,
  HTSATConfig,
  LinearConfig,
  ModelConfig,
  SmolLM2Config,
  TransformerConfig,
)
from mellow_jax.convert import rules
from mellow_jax.errors import CheckpointError
from mellow_jax.models import htsat, lora, mel, mellow

EMBEDDING = "decoder/embed/embedding"
# Types whose every value float32 holds.
EXACT = ("float32", "float16", "bfloat16")
# Names that PyTorch's wrappers of modules add, wherever in a model they were put.
_WRAPPER = re.compile(
  r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_ANOTHER = "another architecture; for one of other sizes than the released give --like=FOLDER"


class Line(NamedTuple):
  """One entry of a conversion: where it comes from and where it goes (None: computed, dropped)."""

  key: str
  path: str | None
  shape: tuple[int, ...]
  dtype: str


class Recognised(NamedTuple):
  """A state_dict whose keys are as the table has them."""

  kind: str  # a key of rules.MARKERS
  state_dict: dict[str, np.ndarray]
  renamed: tuple[str, str] | None  # an example: a key of the file, and as it is here


def recognise(state_dict: dict[str, np.ndarray]) -> Recognised:
  """What a file holds, with the prefixes taken off that training and saving put before its keys.

  Those are the wrappers of PyTorch, wherever they stand, and whatever stands before all keys of
  a model, such as "model." of Lightning or "transformer." of Hugging Face's GPT-2.

  Raises CheckpointError where the keys are of no kind, or of several models.
  """
  bare = {key: _WRAPPER.sub("", key) for key in state_dict}
  kind, prefix = _kind_and_prefix(list(bare.values()))
  names = {key: _in_table(name, prefix, rules.MARKERS[kind].root) for key, name in bare.items()}
  found: dict[str, str] = {}
  for key, name in names.items():
    if name in found:
      raise CheckpointError(
        f"keys {found[name]!r} and {key!r} are both {name!r}: save the state_dict of one model"
      )
    found[name] = key
  renamed = next(((key, name) for key, name in names.items() if key != name), None)
  return Recognised(kind, {name: state_dict[key] for name, key in found.items()}, renamed)


def _kind_and_prefix(keys: list[str]) -> tuple[str, str]:
  """What keys are of, and what stands before those of the kind's marker."""
  for kind, marker in rules.MARKERS.items():
    regex = re.compile(rf"((?:.*?\.)?)(?:{marker.key})")
    prefixes = sorted({match[1] for key in keys if (match := regex.fullmatch(key))})
    if len(prefixes) > 1:
      raise CheckpointError(
        f"its keys are of several models, which start with {_some(map(repr, prefixes))}: "
        "save the state_dict of one"
      )
    if prefixes:
      return kind, prefixes[0]
  raise CheckpointError(
    f"none of Mellow, HTSAT, CNN14, SmolLM2, GPT-2 and adapters of peft: of its {len(keys)} keys, "
    f"the first of which are {_some(keys)}, none is of these"
  )


def _in_table(key: str, prefix: str, root: str) -> str:
  """A key with what the table has before it, a root, in the place of what the file has."""
  # The head of a language model stands beside the model: "lm_head." and "model.", "transformer.".
  outer = re.sub(r"[^.]+\.$", "", prefix)
  if key in (f"{prefix}lm_head.weight", f"{outer}lm_head.weight"):
    return "lm_head.weight"
  return root + key.removeprefix(prefix) if key.startswith(prefix) else key


def config_of(state_dict: dict[str, np.ndarray]) -> ModelConfig:
  """The configuration of the model whose weights, or part of them, these are.

  Keys tell the classes of encoder, mapper and decoder; what a part alone does not tell is as
  released. Raises CheckpointError as `recognise` does.
  """
  (kind, state_dict, _), cfg = recognise(state_dict), ModelConfig()

  def has(marker: str) -> bool:
    return any(re.match(marker, key) for key in state_dict)

  if kind == "cnn14" or has(r"audio_encoder\.base\.cnn14\."):
    cfg.encoder = CNN14Config()
  if kind == "gpt2" or has(r"(caption_decoder\.lm\.)?(base_model\.model\.)?transformer\."):
    cfg.decoder, cfg.pad_id = GPT2Config(), 0
    cfg.sep_id = cfg.end_id = cfg.decoder.vocab - 1
  if has(r"audio_encoder\.mapper\."):
    cfg.mapper = TransformerConfig()
  elif has(r"audio_encoder\.projection\.linear\."):
    cfg.mapper = LinearConfig(bias="audio_encoder.projection.linear.bias" in state_dict)
  return cfg


def _some(names: Any) -> str:
  names = sorted(names)
  return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def plan(state_dict: dict[str, np.ndarray], cfg: ModelConfig) -> list[Line]:
  """Every entry's destination.

  Raises CheckpointError, naming the keys, unless each key matches exactly one rule, each parameter
  of what the file holds is filled exactly once, and all shapes and types are right.
  """
  kind, state_dict, _ = recognise(state_dict)
  table = rules.table(kind, cfg)
  lines, shapes = [], {}
  for key, array in state_dict.items():
    found = rules.match(key, table)
    if len(found) != 1:
      what = "matches no rule" if not found else "matches several rules"
      raise CheckpointError(f"key {key!r} {what}: the file is of {_ANOTHER}")
    (rule, path), *_ = found
    line = Line(key, path and path.replace(".", "/"), array.shape, str(array.dtype))
    lines.append(line)
    if line.path is not None:
      shapes[line.path] = _shape(line, rule.transform)
  expected = _expected(kind, shapes, cfg)
  _check_total(lines, expected, table)
  for line in lines:
    if line.path and shapes[line.path] != expected[line.path].shape:
      raise CheckpointError(
        f"key {line.key!r} has shape {line.shape}, which gives {line.path} the shape "
        f"{shapes[line.path]} instead of {expected[line.path].shape}: {_ANOTHER}"
      )
  for line, made in _made(lines, computed(cfg, kind)):
    if line.shape != made.shape:
      what = f"has shape {line.shape} instead of {made.shape}"
      raise CheckpointError(f"key {line.key!r} {what}: {_of_another(line.key, cfg)}")
  return lines


def _shape(line: Line, transform: rules.Transform) -> tuple[int, ...]:
  """Our shape of an entry; raises CheckpointError for types and numbers of axes that cannot be."""
  if line.dtype not in EXACT:
    raise CheckpointError(f"key {line.key!r} is {line.dtype}: only {', '.join(EXACT)} are exact")
  try:
    return transform.there(np.broadcast_to(np.float32(0), line.shape)).shape
  except ValueError:  # a transpose of other axes
    raise CheckpointError(f"key {line.key!r} has shape {line.shape}: {_ANOTHER}") from None


def _expected(kind: str, shapes: dict[str, tuple[int, ...]], cfg: ModelConfig) -> dict[str, Any]:
  """The parameters that a file of a kind must fill, as ShapeDtypeStructs by path.

  Which layers LoRA adapts, and its rank, are those of the file.
  """
  flat = mellow.flatten(mellow.abstract(cfg)[1])
  if kind in ("htsat", "cnn14"):
    return {name: x for name, x in flat.items() if name.startswith("encoder/")}
  if kind in ("smollm2", "gpt2"):
    return {name: x for name, x in flat.items() if name.startswith("decoder/")}
  if kind == "mellow":
    return flat
  ranks = [shape[-1] for name, shape in shapes.items() if name.endswith("/lora_a")]
  whole = lora.abstract(flat, shapes, max(ranks, default=0))
  if kind == "adapter":
    return {name: x for name, x in whole.items() if name not in flat}
  return whole


def _check_total(lines: list[Line], expected: dict[str, Any], table: list[rules.Rule]) -> None:
  filled = [line.path for line in lines if line.path]
  twice = (
    sorted({path for path in filled if filled.count(path) > 1})
    if len(set(filled)) != len(filled)
    else []
  )
  if twice:
    raise CheckpointError(f"filled twice: {_some(twice)}")
  unknown = set(filled) - set(expected)
  if unknown:
    keys = [line.key for line in lines if line.path in unknown]
    raise CheckpointError(f"keys {_some(keys)} are of {_ANOTHER}")
  missing = set(expected) - set(filled)
  if missing:
    inverted = _inverted(table)
    theirs = {path: _torch_keys(path, inverted)[0][0] for path in missing}
    named = [f"{key!r} (here {path})" for path, key in theirs.items()]
    raise CheckpointError(f"missing from the file: {_some(named)}; it is cut, or of {_ANOTHER}")


def convert(state_dict: dict[str, np.ndarray], cfg: ModelConfig) -> dict[str, np.ndarray]:
  """Our parameters by path, float32, of the whole model or of the part that the file holds.

  Raises CheckpointError as `plan` does, for values that are not finite, and where a head, rotation,
  front end or mask of its own contradicts the configuration.
  """
  lines = plan(state_dict, cfg)
  kind, state_dict, _ = recognise(state_dict)
  table = rules.table(kind, cfg)
  embedding = next((state_dict[line.key] for line in lines if line.path == EMBEDDING), None)
  for line, made in _made(lines, computed(cfg, kind)):
    _check_made(line.key, state_dict[line.key], made, cfg)
  flat = {}
  for line in lines:
    array = state_dict[line.key]
    if line.path is None:
      _check_dropped(line.key, array, embedding, cfg)
      continue
    transform = rules.match(line.key, table)[0][0].transform
    flat[line.path] = np.ascontiguousarray(transform.there(array), dtype=np.float32)
    if lost := flat[line.path].size - np.count_nonzero(np.isfinite(flat[line.path])):
      raise CheckpointError(
        f"key {line.key!r} holds {lost} values that are NaN or infinite: the file is damaged, or "
        "its training diverged; take an earlier checkpoint"
      )
  return flat


def _check_dropped(key: str, array: np.ndarray, embedding: Any, cfg: ModelConfig) -> None:
  """Raises CheckpointError where an entry that is not kept says other than what takes its place."""
  if key.endswith("lm_head.weight") and not np.array_equal(array, embedding, equal_nan=True):
    raise CheckpointError(f"key {key!r} differs from the embedding it should be tied to")
  if key.endswith("rotary_emb.inv_freq") and isinstance(cfg.decoder, SmolLM2Config):
    size, theta = cfg.decoder.head_size, cfg.decoder.rope_theta
    expected = theta ** -(np.arange(0, size, 2) / size)
    # Kept in bfloat16 by some. Of another theta, the last differs by more than a tenth.
    if array.shape != expected.shape or not np.allclose(array.astype(float), expected, rtol=0.01):
      raise CheckpointError(f"key {key!r} is not of head size {size} and theta {theta:g}")


def _made(lines: list[Line], made: dict[str, np.ndarray]) -> Iterator[tuple[Line, np.ndarray]]:
  """The entries that are not kept and say something, each as the configuration makes it."""
  for line in lines:
    if line.key in made and not line.key.endswith("num_batches_tracked"):
      yield line, made[line.key]


def _check_made(key: str, array: np.ndarray, made: np.ndarray, cfg: ModelConfig) -> None:
  """Raises CheckpointError where a computed entry is not as the configuration makes it."""
  # Files may be in bfloat16, which rounds by up to a 512th. Of another rate, whole bins differ.
  if not np.allclose(array.astype(float), made, rtol=0.01, atol=1e-3 * np.abs(made).max()):
    raise CheckpointError(f"key {key!r} has other values: {_of_another(key, cfg)}")


def _of_another(key: str, cfg: ModelConfig) -> str:
  """What another form of a computed entry means, for a message."""
  audio = cfg.audio
  if re.search(r"(?:spectrogram|logmel)_extractor\.", key):
    return (
      f"the weights hear another log-mel than of {audio.sample_rate} Hz, n_fft {audio.n_fft} and "
      f"{audio.mel_bins} bins, {audio.f_min:g} to {audio.f_max:g} Hz: give --like=FOLDER, a model "
      "folder with theirs"
    )
  return f"the file is of {_ANOTHER}"


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


def _inverted(table: list[rules.Rule]) -> list[tuple[str, str, rules.Transform]]:
  """(regex of our path, template of the torch key, transform) of each rule with a path."""
  return [(*_invert(rule), rule.transform) for rule in table if rule.path]


def _torch_keys(
  path: str, inverted: list[tuple[str, str, rules.Transform]]
) -> list[tuple[str, rules.Transform]]:
  """The torch keys that may fill one of our paths, with their transforms."""
  found = [(re.fullmatch(p, path.replace("/", ".")), key, t) for p, key, t in inverted]
  return [(match.expand(key), transform) for match, key, transform in found if match]


def reverse(flat: dict[str, np.ndarray], cfg: ModelConfig) -> dict[str, np.ndarray]:
  """The state_dict that PyTorch code loads, with its computed entries and its tied head.

  Of a whole model, with or without LoRA, of its encoder or decoder alone, or of LoRA factors alone.
  Raises CheckpointError where flat is none of these.
  """
  kind = _kind_of_params(flat, cfg)
  expected = _expected(kind, {name: x.shape for name, x in flat.items()}, cfg)
  missing, unknown = set(expected) - set(flat), set(flat) - set(expected)
  if missing or unknown:
    what = f"missing {_some(missing)}" if missing else f"with {_some(unknown)}"
    raise CheckpointError(f"not a whole model and no part that has a file of its own: {what}")
  wrong = [name for name, x in flat.items() if x.shape != expected[name].shape]
  if wrong:
    raise CheckpointError(f"shapes do not fit together: {_some(wrong)}")
  inverted, state_dict = _inverted(rules.table(kind, cfg)), computed(cfg, kind)
  for path, array in flat.items():
    keys = _torch_keys(path, inverted)
    if len(keys) > 1:  # peft renames what it adapts
      is_adapted = f"{path.rpartition('/')[0]}/lora_a" in flat
      keys = [entry for entry in keys if (".base_layer." in entry[0]) == is_adapted]
    if not keys:  # LoRA elsewhere than in the decoder
      raise CheckpointError(f"{path} has no name in files of peft, which adapts the decoder alone")
    ((key, transform),) = keys
    state_dict[key] = transform.back(np.asarray(array))
    if path == EMBEDDING and kind.startswith("mellow"):
      lm = re.match(r"caption_decoder\.lm\.(base_model\.model\.)?", key)[0]
      state_dict[lm + "lm_head.weight"] = state_dict[key]
  return state_dict


def _kind_of_params(flat: dict[str, np.ndarray], cfg: ModelConfig) -> str:
  """The kind of file, a key of rules.MARKERS, that holds these parameters."""
  factors = [name for name in flat if name.endswith(("/lora_a", "/lora_b"))]
  if factors and len(factors) == len(flat):
    return "adapter"
  parts = {name.split("/")[0] for name in flat}
  if not factors and parts == {"encoder"}:
    return cfg.encoder.kind
  if not factors and parts == {"decoder"}:
    return cfg.decoder.kind
  return "mellow with LoRA" if factors else "mellow"


def computed(cfg: ModelConfig, kind: str = "mellow") -> dict[str, np.ndarray]:
  """The entries that a kind of file has beside its weights, made from the configuration."""
  if kind == "gpt2":
    mask = np.tri(cfg.decoder.positions, dtype=np.float32)[None, None]
    return {f"h.{layer}.attn.bias": mask for layer in range(cfg.decoder.layers)}
  if kind in ("smollm2", "adapter"):
    return {}
  prefix = {"htsat": "sed_model.", "cnn14": ""}.get(kind, f"audio_encoder.base.{cfg.encoder.kind}.")
  match cfg.encoder:
    case HTSATConfig():
      buffers = {**_norm_counts(prefix, ["bn0"]), **_window_buffers(cfg, prefix)}
    case CNN14Config():
      norms = [f"conv_block{i + 1}.bn{j}" for i in range(len(cfg.encoder.channels)) for j in (1, 2)]
      buffers = _norm_counts(prefix, ["bn0", *norms])
  return {**_log_mel(cfg, prefix), **buffers}


def _log_mel(cfg: ModelConfig, prefix: str) -> dict[str, np.ndarray]:
  """The Fourier transform as a convolution, and the mel matrix.

  Source: torchlibrosa.
  """
  audio, n = cfg.audio, cfg.audio.n_fft
  window = np.hanning(n + 1)[:-1]
  angle = -2 * np.pi * (np.arange(n // 2 + 1)[:, None] * np.arange(n)[None] % n) / n
  bank = mel.filter_bank(audio.sample_rate, n, audio.mel_bins, audio.f_min, audio.f_max)
  stft = prefix + "spectrogram_extractor.stft.conv_"
  return {
    stft + "real.weight": (np.cos(angle) * window)[:, None].astype(np.float32),
    stft + "imag.weight": (np.sin(angle) * window)[:, None].astype(np.float32),
    prefix + "logmel_extractor.melW": np.ascontiguousarray(bank.T),
  }


def _norm_counts(prefix: str, names: list[str]) -> dict[str, np.ndarray]:
  """The number of batches that each batch norm has tracked, which nothing reads."""
  return {f"{prefix}{name}.num_batches_tracked": np.zeros((), np.int64) for name in names}


def _window_buffers(cfg: ModelConfig, prefix: str) -> dict[str, np.ndarray]:
  """Indices and masks of Swin's windows."""
  encoder, entries = cfg.encoder, {}
  for stage, depth in enumerate(encoder.depths):
    grid = encoder.sizes(cfg.audio).image_side // (encoder.patch * 2**stage)
    window_side = min(encoder.window, grid)
    for block in range(depth):
      name = f"{prefix}layers.{stage}.blocks.{block}."
      index = htsat.relative_position_index(window_side)
      entries[name + "attn.relative_position_index"] = index.astype(np.int64)
      if block % 2 and window_side < grid:
        entries[name + "attn_mask"] = htsat.shift_mask(grid, window_side, window_side // 2)
  return entries
