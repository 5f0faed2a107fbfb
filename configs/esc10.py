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

A real language model answers behind the demo's encoder with `make real-lm` and one of:

  --config=esc10:smollm2-frozen   SmolLM2-135M-Instruct as it is; encoder and mapper are trained
  --config=esc10:smollm2-lora     with LoRA of rank 8 and alpha 16 on its queries and values
  --config=esc10:smollm2          trained in full
  --config=esc10:smollm2-random   the same from random weights, to compare with

40 questions about the held-out clips in words that no training row has, for
`mellow evaluate predict --benchmark=table`, are in docs/esc10_questions.csv.
"""

import dataclasses

from mellow_jax import config
from mellow_jax.configs import demo
from mellow_jax.errors import ConfigError

REAL_LM = "runs/real-lm/model"  # of `make real-lm`
ARGUMENTS = (
  *("", "scratch"),
  *("smollm2", "smollm2-frozen", "smollm2-lora", "smollm2-random"),
)


def get_config(arg: str = "") -> config.Config:
  """The run from the demo's weights in runs/demo/model; with "scratch" from none.

  With "smollm2" and what may follow it, the demo's encoder meets a language model of 135M.
  """
  if arg not in ARGUMENTS:
    raise ConfigError(f"esc10:{arg}: write esc10 or esc10: with one of {', '.join(ARGUMENTS[1:])}")
  base = demo.get_config()
  cfg = dataclasses.replace(
    base,
    model=dataclasses.replace(
      base.model,
      decoder=dataclasses.replace(base.model.decoder, vocab=96),  # as many as the rows' 85, or more
      text_tokens=40,
    ),
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
  if arg.startswith("smollm2"):
    _add_real_lm(cfg, arg)
  return cfg


def _add_real_lm(cfg: config.Config, arg: str) -> None:
  """SmolLM2 in place of the demo's decoder; rates and steps are ours, for minutes on two cores."""
  cfg.model.decoder = config.SmolLM2Config()
  cfg.model.pad_id = 17
  cfg.model.text_tokens, cfg.model.answer_tokens = 56, 26  # the rows' longest
  cfg.init_from = ("runs/demo/model:encoder", REAL_LM)
  if arg == "smollm2-random":
    cfg.init_from, cfg.data.tokenizer = cfg.init_from[:1], REAL_LM
  else:
    cfg.data.tokenizer = ""  # the language model's
  cfg.optim.learning_rate = 1e-3 if arg in ("smollm2-frozen", "smollm2-lora") else 3e-4
  cfg.optim.warmup_steps = 20
  if arg in ("smollm2-frozen", "smollm2-lora"):
    cfg.optim.freeze = ("decoder/.*",)
  if arg == "smollm2-lora":
    cfg.optim.lora = config.LoRAConfig(
      kernels=(r"decoder/.*/attn/[qv]/kernel",), rank=8, alpha=16.0, dropout=0.1
    )
  # Twenty minutes on two cores: where the decoder is fixed, a step is cheaper.
  cfg.batch_size, cfg.steps = 8, 330 if cfg.optim.freeze else 240
  cfg.save_every, cfg.eval_every = cfg.steps // 3, cfg.steps // 2
