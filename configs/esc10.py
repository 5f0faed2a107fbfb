"""Real recordings: the small model of configs/demo.py goes on with ESC-10's environmental sounds.

  make demo
  mellow train --config=esc10 --workdir=runs/esc10 \\
    --config.data.train=esc10/train.json --config.data.val=esc10/val.json \\
    --config.data.audio_root=esc10 --config.data.mix="{'ESC10-MCQ.json': 4.0}"
  mellow evaluate predict --checkpoint=runs/esc10/model --benchmark=reasonaqa \\
    --data=esc10/val.json --redraw_options=5 --output=runs/esc10/redrawn.jsonl
  mellow evaluate score --predictions=runs/esc10/redrawn.jsonl

The mix repeats the questions with options, which are one row in seven and the hardest to learn.
`--config=esc10:scratch` starts from random weights. For a table of your own: docs/finetune.md.
"""

import dataclasses

from mellow_jax import config
from mellow_jax.configs import demo
from mellow_jax.errors import ConfigError


def get_config(arg: str = "") -> config.Config:
  """The run from the demo's weights in runs/demo/model, or with arg "scratch" from none."""
  if arg not in ("", "scratch"):
    raise ConfigError(f"esc10:{arg}: write esc10 or esc10:scratch")
  base = demo.get_config()
  decoder = dataclasses.replace(base.model.decoder, vocab=96)  # as many as the rows' 85, or more
  return dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, decoder=decoder, text_tokens=40),
    data=config.DataConfig(
      tokenizer="words",
      preset="clean",
      another_clip_share=0.3,
      augment=True,
      cache_clips=True,
    ),
    init_from=() if arg == "scratch" else ("runs/demo/model",),
    encoder_train_mode=True,  # SpecAugment
    steps=8_000,
  )
