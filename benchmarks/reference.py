"""The public PyTorch code from a checkout of its branch `training`, as a contestant.

It is imported, never copied. In the place of a download from the hub it gets a Llama of the size of
our decoder; weights are ours, converted.
"""

import importlib
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from torch.nn import functional

from benchmarks import inputs, rounds
from mellow_jax.config import ModelConfig, OptimConfig, SmolLM2Config
from mellow_jax.parallel import keep_freed_memory

INPUTS = 4  # batches that take turns
FRAMES = 1001  # of a clip's spectrogram
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Setup(NamedTuple):
  """What a training contestant needs."""

  checkout: Path
  cfg: ModelConfig
  batch: int
  weights: Path  # folder of reference.npz
  lean: bool  # without the work that changes nothing
  dtype: str  # of a lean one's products
  compiled: bool = False  # a lean one's decoder, by PyTorch


def llama_config(d: SmolLM2Config) -> transformers.LlamaConfig:
  """Hugging Face's configuration of our decoder."""
  return transformers.LlamaConfig(
    vocab_size=d.vocab,
    hidden_size=d.width,
    intermediate_size=d.mlp,
    num_hidden_layers=d.layers,
    num_attention_heads=d.heads,
    num_key_value_heads=d.kv_heads,
    head_dim=d.head_size,
    rms_norm_eps=d.norm_eps,
    rope_parameters={"rope_type": "default", "rope_theta": d.rope_theta},
    max_position_embeddings=8192,
    tie_word_embeddings=True,
  )


def load(checkout: Path, cfg: ModelConfig, weights: Path) -> torch.nn.Module:
  """The checkout's model with the weights of reference.npz."""
  llama = transformers.LlamaForCausalLM(llama_config(cfg.decoder))
  hub = sys.modules["transformers"]  # another module object once it has loaded a model
  hub.AutoModelForCausalLM.from_pretrained = lambda name: llama
  hub.AutoModelWithLMHead = None  # the checkout imports and never uses it; transformers 5 has none
  sys.path.insert(0, str(checkout.absolute()))
  model = importlib.import_module("models.mellow").Mellow(
    audioenc_name="HTSAT",
    d_in=768,
    d_out=cfg.decoder.width,
    text_decoder="smollm2",
    prefix_length=40,
    use_pretrained_audioencoder=False,
    freeze_audio_encoder_weights=True,
    freeze_text_decoder_weights=False,
  )
  with np.load(weights / "reference.npz") as file:
    state = {name: torch.from_numpy(array) for name, array in file.items()}
  model.load_state_dict(state, strict=True)
  return model.to(DEVICE)


def wait() -> None:
  if DEVICE == "cuda":
    torch.cuda.synchronize()


def peak_gib() -> float | None:
  if DEVICE == "cuda":
    return torch.cuda.max_memory_allocated() / 2**30
  return rounds.peak_gib()


class Training:
  """Its training step; a turn returns the seconds of one."""

  def __init__(self, setup: Setup, steps: int):
    self.setup, self._steps, cfg = setup, steps, setup.cfg
    if setup.lean and steps:
      keep_freed_memory()  # as ours does: beside a strong baseline no state of the machine decides
    self.model = load(setup.checkout, cfg, setup.weights).train()
    tracker = importlib.import_module("utils.utils").GradNormTracker
    self._downsample = importlib.import_module("models.decoder").downsample
    recipe = OptimConfig()
    self._norms = tracker(initial_l2_norm=recipe.clip_norm, initial_max_norm=10 * recipe.clip_norm)
    self._trained = [p for p in self.model.parameters() if p.requires_grad]
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if setup.lean:
      settings["fused"] = True
    self._adam = torch.optim.Adam(self._trained, **settings)
    self._llama = self.model.caption_decoder.lm.model
    if setup.compiled:
      self._llama = torch.compile(self._llama)
    self.batches = [self._batch(seed) for seed in range(INPUTS)]
    self._next = itertools.cycle(self.batches)
    if steps:
      self._run()  # warms up

  def _batch(self, seed: int) -> dict:
    arrays = inputs.examples(self.setup.cfg, self.setup.batch, seed)
    tensors = {name: torch.from_numpy(x).to(DEVICE) for name, x in arrays.items()}
    return {
      "audio1": tensors["wav1"],
      "audio2": tensors["wav2"],
      "input": {"input_ids": tensors["text_ids"].long()},
      "answer": {"input_ids": tensors["answer_ids"].long()},
    }

  def loss(self, batch: dict) -> torch.Tensor:
    """Mean loss of the answer tokens that are not padding."""
    first = self.setup.cfg.prefix_tokens - 1
    if self.setup.lean:
      with torch.autocast(DEVICE, torch.bfloat16, enabled=self.setup.dtype == "bfloat16"):
        logits = self._lean_logits(batch).float()
    else:
      logits = self.model(batch).logits[:, first:-1]
    return functional.cross_entropy(
      logits.reshape(-1, logits.shape[-1]),
      batch["answer"]["input_ids"].flatten(),
      ignore_index=self.setup.cfg.pad_id,
    )

  def _lean_logits(self, batch: dict) -> torch.Tensor:
    """Of the answer alone, from a frozen encoder that is no part of the gradient."""
    encoder, lm = self.model.audio_encoder, self.model.caption_decoder.lm
    with torch.no_grad():
      out = encoder.base.htsat(torch.cat([batch["audio1"], batch["audio2"]]))
    frames = encoder.base.c2l(out["framewise_output"])
    rows = torch.cat([out["latent_output"].unsqueeze(1), frames], 1)
    audio1, audio2 = self._downsample(encoder.projection(rows)).chunk(2)
    embed = lm.get_input_embeddings()
    sep = embed(torch.full((len(audio1), 1), self.setup.cfg.sep_id, device=DEVICE))
    answer = embed(batch["answer"]["input_ids"][:, :-1])
    question = embed(batch["input"]["input_ids"])
    x = torch.cat([audio1, sep, audio2, sep, question, answer], 1)
    hidden = self._llama(inputs_embeds=x, use_cache=False).last_hidden_state
    return lm.lm_head(hidden[:, self.setup.cfg.prefix_tokens - 1 :])

  def backward(self, batch: dict) -> tuple[float, float]:
    """Fills gradients; the loss, and their norm before they are clipped."""
    loss = self.loss(batch)
    self._adam.zero_grad()
    loss.backward()
    if self.setup.lean:
      norm = torch.nn.utils.clip_grad_norm_(self._trained, OptimConfig().clip_norm)
    else:
      norm, _ = self._norms.track_and_clip_(list(self.model.named_parameters()))
    return loss.item(), float(norm)

  def _run(self) -> None:
    self.backward(next(self._next))
    self._adam.step()

  def turn(self) -> float:
    def steps() -> None:
      for _ in range(self._steps):
        self._run()
      wait()

    return rounds.timed(steps)[0] / self._steps

  def peak_gib(self) -> float | None:
    return peak_gib()


def first_step(setup: Setup) -> tuple[float, float]:
  """Loss and norm of the gradient of the first batch, without dropout."""
  made = Training(setup, steps=0)
  made.model.eval()
  return made.backward(made.batches[0])


class Encoder:
  """Its HTSAT on waveforms, without gradients; a turn returns the seconds of a batch."""

  def __init__(self, checkout: Path, cfg: ModelConfig, batch: int, weights: Path, turns: int):
    model = load(checkout, cfg, weights).eval()
    self._run = model.audio_encoder.base.htsat
    wavs = [inputs.examples(cfg, batch, seed)["wav1"] for seed in range(INPUTS)]
    self._inputs, self._turns = [torch.from_numpy(x).to(DEVICE) for x in wavs], turns
    self.turn()  # warms up

  @torch.inference_mode()
  def turn(self) -> float:
    def batches() -> None:
      for i in range(self._turns):
        self._run(self._inputs[i % INPUTS])
      wait()

    return rounds.timed(batches)[0] / self._turns

  @torch.inference_mode()
  def outputs(self) -> dict[str, np.ndarray]:
    """What it makes of the first batch; each step's events stand 32 times there."""
    found = self._run(self._inputs[0])
    events = found["framewise_output"][:, ::32]
    return {
      name: x.cpu().numpy()
      for name, x in {"latent": found["latent_output"], "framewise events": events}.items()
    }

  def peak_gib(self) -> float | None:
    return peak_gib()


class HuggingFaceEncoder(Encoder):
  """The HTSAT of transformers' CLAP, of the same sizes, on log-mel spectrograms."""

  def __init__(self, batch: int, turns: int):
    config = transformers.ClapAudioConfig()
    self._run = transformers.ClapAudioModel(config).eval().to(DEVICE)
    shape = (batch, 1, FRAMES, config.num_mel_bins)
    self._inputs, self._turns = [torch.randn(shape, device=DEVICE) for _ in range(INPUTS)], turns
    self.turn()  # warms up


# --- Decoding ------------------------------------------------------------------------------------


class Decoding:
  """Hugging Face's Llama with our weights and a cache; a turn returns the seconds of an answer."""

  def __init__(self, cfg: ModelConfig, batch: int, tokens: int, weights: Path):
    self.model = transformers.LlamaForCausalLM(llama_config(cfg.decoder)).eval()
    part = "caption_decoder.lm."
    with np.load(weights / "reference.npz") as file:
      names = [name for name in file.files if name.startswith(part)]
      state = {name.removeprefix(part): torch.from_numpy(file[name]) for name in names}
    self.model.load_state_dict(state, strict=True)
    self.model.to(DEVICE, getattr(torch, cfg.dtype))
    self.prefix = torch.from_numpy(inputs.prefix(cfg, batch)).to(DEVICE, self.model.dtype)
    self.count = tokens
    self._step = self.model
    self._cached(1)  # warms up

  def _cache(self) -> transformers.Cache:
    """An empty one."""
    return transformers.DynamicCache(config=self.model.config)

  @torch.inference_mode()
  def _cached(self, count: int) -> torch.Tensor:
    """Greedy tokens, keys and values kept."""
    cache = self._cache()
    out = self.model(inputs_embeds=self.prefix, past_key_values=cache, logits_to_keep=1)
    tokens = [out.logits[:, -1].argmax(-1)]
    while len(tokens) < count:
      out = self._step(tokens[-1][:, None], past_key_values=cache, logits_to_keep=1)
      tokens.append(out.logits[:, -1].argmax(-1))
    return torch.stack(tokens, 1)

  def tokens(self) -> np.ndarray:
    return self._cached(self.count).cpu().numpy()

  @torch.inference_mode()
  def log_probs(self) -> np.ndarray:
    """Of the most probable first tokens, natural."""
    logits = self.model(inputs_embeds=self.prefix, use_cache=False, logits_to_keep=1).logits
    return logits[:, -1].float().log_softmax(-1).amax(-1).cpu().numpy()

  def turn(self) -> float:
    return rounds.timed(self.tokens)[0]


class Compiled(Decoding):
  """Hugging Face's Llama with a static cache, its step compiled by PyTorch."""

  def __init__(self, cfg: ModelConfig, batch: int, tokens: int, weights: Path):
    super().__init__(cfg, batch, tokens, weights)
    slots = self.prefix.shape[1] + tokens
    self._static = transformers.StaticCache(config=self.model.config, max_cache_len=slots)
    self._cache = self._emptied
    # CUDA graphs, where there are any.
    self._step = torch.compile(self.model, mode="reduce-overhead" if DEVICE == "cuda" else None)
    for _ in range(2):  # compiles, and once more where the first answer changed what was assumed
      self._cached(min(tokens, 3))

  def _emptied(self) -> transformers.Cache:
    self._static.reset()
    return self._static


class Uncached(Decoding):
  """As the public PyTorch code decodes: all anew for every token, logits at every position.

  Timed at the first, a middle and the last token only, since a token takes seconds.
  """

  def __init__(self, cfg: ModelConfig, batch: int, tokens: int, weights: Path):
    super().__init__(cfg, batch, tokens, weights)
    answer = self._cached(tokens)
    self._sequences = [self._extended(answer[:, :n]) for n in places(tokens)]

  @torch.inference_mode()
  def _extended(self, tokens: torch.Tensor) -> torch.Tensor:
    """The sequence after these tokens."""
    return torch.cat([self.prefix, self.model.get_input_embeddings()(tokens)], 1)

  @torch.inference_mode()
  def _token(self, sequence: torch.Tensor) -> np.ndarray:
    logits = self.model(inputs_embeds=sequence, use_cache=False).logits
    return logits[:, -1].argmax(-1).cpu().numpy()

  def tokens(self) -> np.ndarray:
    """Those at `places` alone."""
    return np.stack([self._token(sequence) for sequence in self._sequences], 1)

  def turn(self) -> float:
    return super().turn() / len(self._sequences) * self.count


def places(tokens: int) -> list[int]:
  """Of an answer's tokens, those that are timed without a cache."""
  return [0, tokens // 2, tokens - 1]
