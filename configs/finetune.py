"""Fine-tuning converted weights on one's own clips: a table of file, question and answer.

  mellow train --config=finetune:lora --workdir=runs/mine \\
    --config.data.train=clips.csv --config.init_from="('weights/mellow',)"

docs/finetune.md goes through it. The numbers are ours, chosen for a few thousand rows; none is from
the paper.
"""

from mellow_jax import config
from mellow_jax.errors import ConfigError


def get_config(arg: str = "") -> config.Config:
  """Everything but the audio encoder is trained; with arg "lora" small matrices beside it."""
  if arg not in ("", "lora"):
    raise ConfigError(f"finetune:{arg}: write finetune or finetune:lora")
  lora = config.LoRAConfig()
  freeze = ("encoder/.*",)
  if arg == "lora":
    lora = config.LoRAConfig(
      kernels=(r"decoder/.*/(q|k|v|o|gate|up|down)/kernel",), rank=16, alpha=32.0, dropout=0.05
    )
    freeze = (".*",)
  return config.Config(
    data=config.DataConfig(
      preset="training",  # prompts and padding as the weights know them
      val_share=0.1,
    ),
    optim=config.OptimConfig(
      optimizer="adamw",
      learning_rate=3e-4 if arg == "lora" else 3e-5,
      schedule="cosine",
      warmup_steps=50,
      weight_decay=0.01,
      clip="global_norm",
      clip_norm=1.0,
      freeze=freeze,
      lora=lora,
    ),
    batch_size=16,
    steps=1000,
    save_every=100,
    eval_every=100,
  )
