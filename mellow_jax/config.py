"""Every choice a run can make, as dataclasses.

The defaults are the architecture of the released Mellow weights and the recipe of its training
code. Each field names its unit and where its value comes from: "release" is the public inference
code, "training" the public training code, "paper" the publication of 2025.
"""

import dataclasses
import math
import operator
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mellow_jax.data.presets import PRESETS
from mellow_jax.errors import ConfigError


@dataclass(kw_only=True)
class AudioConfig:
  """Waveform to log-mel spectrogram."""

  sample_rate: int = 32_000  # Hz; paper, appendix E.1
  clip_seconds: float = 10.0  # seconds of a clip that the model takes; paper, appendix E.1
  n_fft: int = 1024  # samples per frame, and the length of the Hann window; release
  hop_samples: int = 320  # samples between frames; release
  mel_bins: int = 64  # release
  f_min: float = 50.0  # Hz, lower edge of the first mel bin; release
  f_max: float = 14_000.0  # Hz, upper edge of the last mel bin; release
  min_power: float = 1e-10  # power below which a bin reads as silence (-100 dB); release
  # "convolution": rounds as the reference does, release; "fft": quicker, and the same to 0.01 dB
  # but where a frame is 75 dB below full scale. TPUs take matrix products for either.
  stft: str = "convolution"

  @property
  def clip_samples(self) -> int:
    return round(self.sample_rate * self.clip_seconds)

  @property
  def frames(self) -> int:
    """Frames of a clip's spectrogram, which are centred (1001)."""
    return 1 + self.clip_samples // self.hop_samples


# --- Encoders ------------------------------------------------------------------------------------
# A model's encoder is one of the classes below, each with `kind`, `row_width` (D of the rows that
# it makes of a clip), `clip_rows` (which they are) and `check`.


class ClipRows(NamedTuple):
  """The rows that an encoder makes of a clip, for the mapper."""

  single: int  # that come first, each an audio token of its own
  steps: int = 0  # distinct rows after them, which the downsampler pools
  frames: int = 1  # equal rows that each of these stands for


def _require(holds: bool, message: str) -> None:
  if not holds:
    raise ConfigError(f"config.model: {message}")


class HTSATSizes(NamedTuple):
  """What follows from HTSAT's configuration and the number of mel bins."""

  image_side: int  # pixels along a side of the folded log-mel image
  frames: int  # after the resize in time
  grid: int  # patches along a side after the last stage
  steps: int  # distinct time steps that the encoder tells apart (32, one every 0.31 s)
  bands: int  # frequency bands of the last stage (2)


@dataclass(kw_only=True)
class HTSATConfig:
  """HTSAT, the audio encoder: a Swin transformer over the folded log-mel image."""

  kind: str = "htsat"  # in config.json
  chunks: int = 4  # pieces of time stacked into the square image; release
  patch: int = 4  # pixels; release
  width: int = 96  # channels after the patch embedding; release
  depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks a stage; release
  heads: tuple[int, ...] = (4, 8, 16, 32)  # attention heads a stage; release
  window: int = 8  # patches along a side; release
  mlp_ratio: int = 4  # release
  classes: int = 527  # AudioSet events; release
  tscam_init_scale: float = 1.0  # factor on the token-semantic head's initial weights
  batch_statistics: bool = False  # bn0 uses and tracks the batch's own statistics; training: True
  spec_augment: bool = False  # stripes of time and mel set to 0 in training; training: True
  time_stripes: int = 2  # stripes an example; training
  time_stripe_frames: int = 64  # frames, upper bound (exclusive) of a stripe's width; training
  mel_stripes: int = 2  # stripes an example; training
  mel_stripe_bins: int = 8  # bins, upper bound (exclusive) of a stripe's width; training
  stochastic_depth: float = 0.0  # drop rate of the last block, rising from 0; training: 0.1

  @property
  def row_width(self) -> int:
    return self.width * 2 ** (len(self.depths) - 1)

  def sizes(self, audio: AudioConfig) -> HTSATSizes:
    side = audio.mel_bins * self.chunks
    grid = side // (self.patch * 2 ** (len(self.depths) - 1))
    return HTSATSizes(side, side * self.chunks, grid, grid * self.chunks, grid // self.chunks)

  def clip_rows(self, audio: AudioConfig) -> ClipRows:
    """The latent, then the steps as c2l maps their events; the reference repeats each to frames."""
    sizes = self.sizes(audio)
    return ClipRows(1, sizes.steps, sizes.frames // sizes.steps)

  def check(self, audio: AudioConfig) -> None:
    """Raises ConfigError, naming the fields, where sizes do not fit together."""
    stages, sizes = len(self.depths), self.sizes(audio)
    step = self.patch * 2 ** (stages - 1)
    _require(len(self.heads) == stages, "encoder.heads and encoder.depths differ in length")
    _require(sizes.image_side % step == 0, f"audio.mel_bins * encoder.chunks must divide by {step}")
    _require(
      sizes.grid % self.chunks == 0 and sizes.bands > 0,
      f"encoder.chunks {self.chunks} must divide the last stage's grid of {sizes.grid}",
    )
    for stage, heads in enumerate(self.heads):
      width, grid = self.width * 2**stage, sizes.image_side // (self.patch * 2**stage)
      _require(width % heads == 0, f"stage {stage}: {heads} heads do not divide {width} channels")
      window = min(self.window, grid)
      _require(
        grid % window == 0, f"stage {stage}: window {window} does not divide a grid of {grid}"
      )


@dataclass(kw_only=True)
class CNN14Config:
  """CNN14 of PANNs, the audio encoder of an ablation: convolutions over the log-mel spectrogram."""

  kind: str = "cnn14"  # in config.json
  channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)  # of each block; training
  classes: int = 527  # AudioSet events; training
  batch_statistics: bool = False  # batch norms use and track the batch's own; training: True
  dropout: float = 0.0  # rate after each block, in training mode; training: 0.2
  clip_dropout: float = 0.0  # rate before the clip's linear layer; training: 0.5

  @property
  def row_width(self) -> int:
    return self.channels[-1]

  @property
  def pooling(self) -> int:
    """Frames, and mel bins, that become one: every block but the last halves both."""
    return 2 ** (len(self.channels) - 1)

  def clip_rows(self, audio: AudioConfig) -> ClipRows:
    """The clip's events as c2l maps them, then the features of each step (31); none is pooled."""
    return ClipRows(1 + audio.frames // self.pooling)

  def check(self, audio: AudioConfig) -> None:
    """Raises ConfigError, naming the fields, where sizes do not fit together."""
    _require(
      min(audio.frames, audio.mel_bins) >= self.pooling,
      f"{len(self.channels)} encoder.channels leave nothing of {audio.frames} frames of "
      f"{audio.mel_bins} mel bins",
    )


# --- Mappers -------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class MapperConfig:
  """What every mapper from encoder rows to decoder embeddings has."""

  downsample: int = 8  # frames averaged into one audio token; paper, appendix E.1
  c2l_init_std: float | None = None  # initial deviation of c2l's weights; None: 1/sqrt(classes)

  def audio_tokens(self, rows: ClipRows) -> int:
    """Audio tokens that a clip becomes."""
    return rows.single + rows.steps * rows.frames // self.downsample


@dataclass(kw_only=True)
class LinearConfig(MapperConfig):
  """The linear projection of the ablations: one layer on each row."""

  kind: str = "linear"  # in config.json
  bias: bool = False  # ours: the paper's 156M do not tell, and the non-linear one has none


@dataclass(kw_only=True)
class NonlinearConfig(MapperConfig):
  """The non-linear projection of the paper's figure 2."""

  kind: str = "nonlinear"  # in config.json
  dropout: float = 0.5  # rate inside the projection, while training; release


@dataclass(kw_only=True)
class TransformerConfig(MapperConfig):
  """The non-linear projection, and a transformer that reads its rows into learnt constants.

  Reconstructed from the paper's size column: see models/mapper.py.
  """

  kind: str = "transformer"  # in config.json
  dropout: float = 0.5  # rate inside the projection, while training; release
  layers: int = 8  # ours, by the size
  heads: int = 8  # Pengi
  mlp_ratio: int = 2  # Pengi
  constants: int = 40  # audio tokens that a clip becomes; Pengi

  def audio_tokens(self, rows: ClipRows) -> int:
    """Audio tokens that a clip becomes, whatever its rows."""
    del rows
    return self.constants


# --- Decoders ------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class SmolLM2Config:
  """SmolLM2-135M, a Llama decoder."""

  kind: str = "smollm2"  # in config.json
  vocab: int = 49_152  # tokens; release
  width: int = 576  # release
  layers: int = 30  # release
  heads: int = 9  # query heads; release
  kv_heads: int = 3  # key and value heads; release
  head_size: int = 64  # release
  mlp: int = 1536  # SwiGLU width; release
  rope_theta: float = 100_000.0  # release
  norm_eps: float = 1e-5  # release
  # Rematerialisation: training stores each layer's input alone and recomputes the rest for the
  # gradient: a third more arithmetic, a fraction of the memory, the same numbers to rounding.
  remat: bool = False

  def check(self) -> None:
    """Raises ConfigError, naming the fields, where sizes do not fit together."""
    _require(self.heads % self.kv_heads == 0, "decoder.kv_heads must divide decoder.heads")


@dataclass(kw_only=True)
class GPT2Config:
  """GPT-2 small, the decoder of an ablation; separator and end are token 50256, padding is 0."""

  kind: str = "gpt2"  # in config.json
  vocab: int = 50_257  # tokens; training
  positions: int = 1024  # that it has learnt, of prefix and answer together; training
  width: int = 768  # training
  layers: int = 12  # training
  heads: int = 12  # training
  mlp: int = 3072  # width of the perceptron; training
  norm_eps: float = 1e-5  # training
  # Rate on embeddings, attention weights and branches, while training, also where the decoder is
  # frozen; 0: none; training.
  dropout: float = 0.1
  remat: bool = False  # as SmolLM2's

  @property
  def head_size(self) -> int:
    return self.width // self.heads

  def check(self) -> None:
    """Raises ConfigError, naming the fields, where sizes do not fit together."""
    _require(self.width % self.heads == 0, "decoder.heads must divide decoder.width")


@dataclass(kw_only=True)
class ModelConfig:
  """Mellow: two clips and a question in, an answer out."""

  audio: AudioConfig = field(default_factory=AudioConfig)
  encoder: HTSATConfig | CNN14Config = field(default_factory=HTSATConfig)
  mapper: LinearConfig | NonlinearConfig | TransformerConfig = field(
    default_factory=NonlinearConfig
  )
  decoder: SmolLM2Config | GPT2Config = field(default_factory=SmolLM2Config)
  text_tokens: int = 129  # slots for the question; release
  answer_tokens: int = 250  # slots for the answer in training; training
  sep_id: int = 0  # token whose embedding separates the parts of the prefix; release
  end_id: int = 0  # token that ends an answer; release
  pad_id: int = 17  # token that fills the question's slots ("!"); release
  mask_padding: bool = False  # keep the question's padding out of attention; release: False
  # Of computation; parameters are float32. "auto": bfloat16, on CPUs float32.
  dtype: str = "auto"

  @property
  def clip_rows(self) -> ClipRows:
    """The rows that the encoder makes of a clip."""
    return self.encoder.clip_rows(self.audio)

  @property
  def audio_tokens(self) -> int:
    """Tokens that a clip takes in the prefix (129)."""
    return self.mapper.audio_tokens(self.clip_rows)

  @property
  def prefix_tokens(self) -> int:
    return 2 * (self.audio_tokens + 1) + self.text_tokens

  def check_length(self, answer_tokens: int) -> None:
    """Raises ConfigError where the decoder has no positions for an answer of so many tokens."""
    needed = self.prefix_tokens + answer_tokens - 1  # the last token is not read
    if isinstance(self.decoder, GPT2Config):
      _require(
        needed <= self.decoder.positions,
        f"a prefix of {self.prefix_tokens} tokens and an answer of {answer_tokens} take {needed} "
        f"positions, the decoder has {self.decoder.positions}",
      )


@dataclass(kw_only=True)
class DataConfig:
  """Where rows and audio come from, and how they become batches."""

  # "files": the paths of train and val, each a file of rows in JSON (ReasonAQA's) or CSV, a folder
  # that mellow_jax.data.cache wrote, or one of the TFDS dataset reasonaqa/rows; "scenes": generated
  # listening scenes
  source: str = "files"
  train: str = ""  # path of the training rows; several paths, separated by commas, are mixed
  # Sampling weight of each path of train; (): every row is as likely as any other.
  weights: tuple[float, ...] = ()
  val: str = ""  # path of the validation rows; several, separated by commas, are concatenated
  val_share: float = 0.0  # of train's clips held out for validation, where val is ""
  # File of rows that are not used, in whatever source: `mellow_jax.reasonaqa check` writes it.
  quarantine: str = ""
  audio_root: str = ""  # folder that the audio paths of JSON and CSV start from; "": the rows' own
  # tokenizer.json or its folder; "": that of the last of init_from; "words": a token for each word
  # of the training rows. Scenes have their own.
  tokenizer: str = ""
  preset: str = "training"  # of preprocessing and prompts: "release", "training" or "clean"
  # Second clip of a training row that names one clip: "another" clip of the rows, training;
  # "silence"; or the "same" clip. In evaluation silence if so set, else the same clip.
  second_clip: str = "another"
  another_clip_share: float = 1.0  # under "another": share that get one, not the same; training
  # scenes: sampling weight of each task; files: times that an epoch has the rows of a subtype, if
  # not once
  mix: dict[str, float] = field(default_factory=dict)
  warmup_mix: dict[str, float] = field(default_factory=dict)  # scenes: the same at the start
  warmup_share: float = 0.0  # scenes: part of the run that samples from warmup_mix
  # Each training row gets the clips of another row: a baseline that has the text alone.
  shuffled_audio: bool = False
  # Lengths of answers that the step is compiled for, chosen from the training rows: a batch takes
  # the least that holds its longest answer, or its parts (accumulate) each theirs. 1: every answer
  # takes model.answer_tokens. The same update to rounding, but where attention has dropout, and
  # where parts have batch statistics.
  answer_lengths: int = 1
  # Questions on the same clips that share them: batch_size questions then have fewer clips. Rows
  # are grouped once, and a group has one second clip and one window of each. 1: none.
  share_prefix: int = 1
  # Batches of rows whose answers have about one length: cheaper, and other rows share a batch.
  group_answers: bool = False
  augment: bool = False  # distort training clips, mix those of one caption, redraw the options
  # Folder of `mellow cache-features`: what a frozen encoder makes of the clips, in their place.
  features: str = ""
  cache_clips: bool = False  # keep decoded clips in memory; for presets without random crops
  max_bad_fraction: float = 0.01  # of the records; with more bad audio than that the run ends
  threads: int = 2  # decoding and tokenising, in each process
  workers: int = 0  # processes that decode in place of the trainer's; for many cores
  timeout_seconds: float = 300.0  # the run ends with an error if a batch takes longer


@dataclass(kw_only=True)
class LoRAConfig:
  """LoRA: trained low-rank products added to frozen kernels; `freeze` names what else is frozen."""

  # Regexes of the paths of linear layers' kernels; (): none. The reference's are
  # r"decoder/.*/attn/[qv]/kernel" with rank and alpha 256, and the rest of the decoder frozen.
  kernels: tuple[str, ...] = ()
  rank: int = 8  # of each product; paper, table of ablations: 8 or 256
  alpha: float = 16.0  # times the product, divided by rank; paper, table of ablations: 16 or 512
  dropout: float = 0.0  # rate on what enters the product, while training


@dataclass(kw_only=True)
class OptimConfig:
  """How parameters are updated."""

  optimizer: str = "adam_l2"  # "adam_l2": decay added to the gradient, training; or "adamw"
  learning_rate: float = 1e-3  # at its peak; paper, appendix E.2
  schedule: str = "cosine_per_epoch"  # training; or "cosine" (every step) or "constant"
  warmup_steps: int = 0  # steps of linear rise; training: none
  b1: float = 0.9  # training
  b2: float = 0.999  # training
  eps: float = 1e-8  # training
  weight_decay: float = 1e-4  # training
  clip: str = "running_norm"  # per-tensor running norms, training; or "global_norm" or "none"
  clip_norm: float = 0.5  # first running norm, or the global norm allowed; training
  freeze: tuple[str, ...] = ("encoder/.*",)  # regexes of parameter paths held fixed; training
  lora: LoRAConfig = field(default_factory=LoRAConfig)
  # Decay of an exponential moving average of the trained parameters, which validation, sample
  # answers and the model folder then use. It rises from 0.1 to this. 0: none; training: none.
  ema: float = 0.0
  max_skipped: int = 5  # updates in a row without a finite loss and gradient that end the run


@dataclass(kw_only=True)
class Config:
  """A training run."""

  model: ModelConfig = field(default_factory=ModelConfig)
  data: DataConfig = field(default_factory=DataConfig)
  optim: OptimConfig = field(default_factory=OptimConfig)
  seed: int = 0  # of initial weights, data order and dropout
  # Bitwise the same results in every run on the same devices. CPUs and TPUs do so anyway; GPUs then
  # use slower kernels, which add in a fixed order, and choose none by timing.
  deterministic: bool = False
  # Model folders whose parameters start the run, later ones win. FOLDER:encoder, FOLDER:mapper or
  # FOLDER:decoder takes that part alone.
  init_from: tuple[str, ...] = ()
  # Take config.model and config.data.preset from the last of init_from; fields of theirs that the
  # command line sets stay as set.
  adopt: bool = False
  batch_size: int = 4  # examples a step, over all devices
  # Gradient accumulation: parts of a batch computed one after the other, in less memory:
  # the same update to rounding, but where the encoder uses batch statistics: those of a part.
  accumulate: int = 1
  # Attention of the decoder in training: "scores" keeps all scores for the gradient; "pieces" those
  # of no position, they are computed again; "cudnn" and "splash" are kernels of GPUs and TPUs, and
  # refused where they cannot be used. "auto": the kernel where it can, else pieces. The same
  # numbers to rounding.
  attention: str = "auto"
  # Switch model.decoder.remat on where a step would not fit the memory of a device without.
  auto_remat: bool = False
  steps: int = 1000  # optimiser steps of the run
  # In training the encoder runs with SpecAugment, stochastic depth and bn0 statistics as its config
  # says, or without, as in evaluation; training: True, also where it is frozen.
  encoder_train_mode: bool = False
  calibrate_batches: int = 0  # batches that set bn0's running statistics before step 0
  mesh: tuple[int, int] = (-1, 1)  # devices along (data, fsdp); -1: all that are left
  save_every: int = 500  # steps between checkpoints
  keep: int = 3  # checkpoints kept
  keep_best: bool = True  # weights of the lowest validation loss as a model folder, best/
  eval_every: int = 500  # steps between validations
  eval_batches: int = 16  # batches of a validation
  sample_answers: int = 3  # validation questions answered and shown at each validation
  log_every: int = 20  # steps between log lines
  audit: bool = False  # metrics.jsonl also gets a digest of each step's batch, to compare runs


# --- Checks --------------------------------------------------------------------------------------

# Values of the fields that name one of several ways.
CHOICES = {
  "model.audio.stft": ("convolution", "fft"),
  "model.dtype": ("auto", "float32", "bfloat16"),
  "attention": ("auto", "scores", "pieces", "cudnn", "splash"),
  "data.source": ("files", "scenes"),
  "data.preset": tuple(PRESETS),
  "data.second_clip": ("another", "silence", "same"),
  "optim.optimizer": ("adam_l2", "adamw"),
  "optim.schedule": ("cosine_per_epoch", "cosine", "constant"),
  "optim.clip": ("running_norm", "global_norm", "none"),
}
# Of data.source in the run.json of older versions; both are "files".
OLD_SOURCES = ("json", "array_record")
# Fields, what must hold of their numbers, and the same in words.
RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
  (
    "batch_size accumulate steps save_every keep eval_every log_every data.threads "
    "data.answer_lengths data.share_prefix "
    "optim.max_skipped optim.lora.rank",
    lambda x: x >= 1,
    "must be at least 1",
  ),
  (
    "calibrate_batches eval_batches sample_answers data.workers optim.warmup_steps "
    "optim.learning_rate optim.weight_decay",
    lambda x: x >= 0,
    "must be at least 0",
  ),
  ("seed", lambda x: 0 <= x < 2**31, "must be from 0 to 2**31 - 1"),
  ("optim.b1 optim.b2 optim.ema optim.lora.dropout", lambda x: 0 <= x < 1, "must be in [0, 1)"),
  (
    "data.another_clip_share data.max_bad_fraction data.warmup_share",
    lambda x: 0 <= x <= 1,
    "must be in [0, 1]",
  ),
  ("data.timeout_seconds optim.eps optim.clip_norm", lambda x: x > 0, "must be more than 0"),
)


def validate(cfg: Config, *, devices: int = 1, reads_data: bool = True) -> None:
  """Raises ConfigError for a run that cannot be carried out, with a line for each fault.

  A line names the field, which is also the flag that sets it, and what to give. reads_data: whether
  the run reads rows. What follows from rows, parameters or the mesh is checked where they are made.
  """
  found = [*_faults_of_fields(cfg)]
  share = cfg.data.share_prefix
  if not found and cfg.batch_size % (devices * cfg.accumulate * share):
    groups = f" of {share} questions (config.data.share_prefix)" if share > 1 else ""
    found.append(
      f"config.batch_size {cfg.batch_size} does not divide over {devices} devices in "
      f"{cfg.accumulate} parts (config.accumulate){groups}"
    )
  if share > 1 and cfg.data.source == "scenes":
    found.append("config.data.share_prefix: no two generated scenes have the same clips")
  if cfg.data.group_answers and cfg.data.answer_lengths == 1:
    found.append("config.data.group_answers needs lengths: give --config.data.answer_lengths=4")
  if reads_data and cfg.data.source in ("files", *OLD_SOURCES):
    found += _faults_of_files(cfg)
  if found:
    raise ConfigError("\n".join(found))
  validate_model(cfg.model)


def _faults_of_fields(cfg: Config) -> Iterator[str]:
  for name, known in CHOICES.items():
    value = operator.attrgetter(name)(cfg)
    if value not in known and not (name == "data.source" and value in OLD_SOURCES):
      yield f"config.{name} {value!r}: use {', '.join(known)}"
  if cfg.adopt and not cfg.init_from:
    yield "config.init_from is empty: give --config.init_from=FOLDER, a model folder to start from"
  for names, holds, words in RANGES:
    for name in names.split():
      value = operator.attrgetter(name)(cfg)
      if not holds(value):
        yield f"config.{name} {value} {words}"


def _faults_of_files(cfg: Config) -> Iterator[str]:
  """What is wrong with a run on files of rows, as far as the config alone tells."""
  data = cfg.data
  sources = [path for path in data.train.split(",") if path]
  if not sources:
    yield "config.data.train is empty: give --config.data.train=PATH"
  if not data.val and not 0 < data.val_share < 1:
    yield (
      "config.data.val is empty: give --config.data.val=PATH, or --config.data.val_share=0.1 to "
      "hold out that share of the training clips"
    )
  if data.weights and len(data.weights) != len(sources):
    yield (
      f"config.data.weights {data.weights}: {len(data.weights)} for the {len(sources)} sources of "
      "config.data.train: give one for each, or none"
    )
  if not all(0 < weight < math.inf for weight in data.weights):
    yield f"config.data.weights {data.weights}: each must be more than 0"
  if data.cache_clips and data.preset in PRESETS and PRESETS[data.preset].long == "random":
    yield (
      f"config.data.cache_clips: preset {data.preset!r} crops at random: choose another "
      "--config.data.preset, or leave it off"
    )
  if not (data.tokenizer or cfg.init_from or cfg.adopt):
    yield "no tokenizer: give --config.data.tokenizer=FOLDER or --config.init_from"


def validate_model(model: ModelConfig) -> None:
  """Raises ConfigError, naming the fields, where sizes do not fit together."""
  for name in ("encoder", "mapper", "decoder"):
    kind, own = getattr(model, name).kind, type(getattr(model, name)).kind
    _require(kind == own, f"{name}.kind {kind!r} belongs to another class than this, of {own!r}")
  model.encoder.check(model.audio)
  rows = model.clip_rows
  _require(
    rows.steps == 0 or rows.frames % model.mapper.downsample == 0,
    f"mapper.downsample must divide the {rows.frames} frames of an encoder step",
  )
  model.decoder.check()
  if isinstance(model.mapper, TransformerConfig):
    _require(
      model.decoder.width % model.mapper.heads == 0, "mapper.heads must divide decoder.width"
    )
  model.check_length(model.answer_tokens)
  for name, value in (("audio.stft", model.audio.stft), ("dtype", model.dtype)):
    known = CHOICES[f"model.{name}"]
    _require(value in known, f"{name} {value!r}: use {', '.join(known)}")


# --- Reading -------------------------------------------------------------------------------------


def from_dict(cls: type, values: Any, path: str = "") -> Any:
  """A config dataclass from the plain dict that `dataclasses.asdict` and JSON make of it.

  A field of several classes, `A | B`, holds the class that the dict's "kind" names. Each class of
  them has a field or constant `kind`. A dict without it was written before there were several, and
  is of the field's default class. path stands before the names of fields in messages.

  Raises ConfigError naming a field that is unknown, or a kind that cannot stand there.
  """
  if not isinstance(values, dict):
    raise ConfigError(f"config field {path.rstrip('.')!r} holds {values!r}, where fields belong")
  values = dict(values)
  known = {f.name: f for f in dataclasses.fields(cls)}
  if "kind" in values and "kind" not in known:
    values.pop("kind")  # a constant of the class that it has named
  unknown = sorted(set(values) - set(known))
  if unknown:
    raise ConfigError(f"unknown config field {path}{unknown[0]!r}; known: {', '.join(known)}")
  types = typing.get_type_hints(cls)
  kwargs = {}
  for name, value in values.items():
    classes = [c for c in (types[name], *typing.get_args(types[name])) if _is_config(c)]
    if classes:
      default = known[name].default_factory
      default = default if default in classes else classes[0]
      value = from_dict(_class_named(classes, default, value, path + name), value, f"{path}{name}.")
    elif isinstance(value, list):
      value = tuple(value)
    kwargs[name] = value
  return cls(**kwargs)


def _is_config(cls: object) -> bool:
  return isinstance(cls, type) and dataclasses.is_dataclass(cls)


def _class_named(classes: Sequence[type], default: type, values: object, path: str) -> type:
  """The class of those that the dict's "kind" names; the default where it has none."""
  if not isinstance(values, dict) or "kind" not in values:
    return default
  for cls in classes:
    if getattr(cls, "kind", None) == values["kind"]:
      return cls
  known = ", ".join(str(cls.kind) for cls in classes if hasattr(cls, "kind"))
  raise ConfigError(
    f"config field {path!r} is of kind {values['kind']!r}; this version reads {known or 'no kinds'}"
  )
