"""Every encoder, mapper and decoder in tiny, and every model that they make."""

import dataclasses
import itertools

import pytest
import tiny

from mellow_jax.config import (
  CNN14Config,
  GPT2Config,
  LinearConfig,
  NonlinearConfig,
  TransformerConfig,
)

ENCODERS = {
  "htsat": tiny.config().encoder,
  "cnn14": CNN14Config(channels=(6, 8, 10), classes=16),
}
MAPPERS = {
  "linear": LinearConfig(downsample=4),
  "nonlinear": NonlinearConfig(downsample=4),
  "transformer": TransformerConfig(downsample=4, layers=2, heads=4, constants=5),
}
DECODERS = {
  "smollm2": tiny.config().decoder,
  "gpt2": GPT2Config(vocab=64, positions=256, width=32, layers=2, heads=4, mlp=48),
}
NAMES = ["-".join(parts) for parts in itertools.product(ENCODERS, MAPPERS, DECODERS)]
# A few in which each part occurs; the others take their minutes with the slow tests.
QUICK = (
  "htsat-linear-gpt2",
  "htsat-transformer-smollm2",
  "cnn14-nonlinear-smollm2",
  "cnn14-transformer-gpt2",
)
# Half of them, in which any two parts occur together.
PAIRS = NAMES[0::4] + NAMES[3::4]
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]


def config(name: str, **changes):
  """The model of a name of NAMES."""
  encoder, mapper, decoder = name.split("-")
  parts = {"encoder": ENCODERS[encoder], "mapper": MAPPERS[mapper], "decoder": DECODERS[decoder]}
  return tiny.config(**parts, **changes)


def get_config(name: str):
  """A tiny run of a system as the command's --config, its encoder in training mode."""
  cfg, model = tiny.run(encoder_train_mode=True), config(name)
  model.encoder = dataclasses.replace(model.encoder, batch_statistics=True)
  model.decoder = dataclasses.replace(model.decoder, vocab=80)
  parts = {part: getattr(model, part) for part in ("encoder", "mapper", "decoder")}
  cfg.model = dataclasses.replace(cfg.model, **parts)
  return cfg
