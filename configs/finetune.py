"""Fine-tuning on one's own clips, a table of file, question and answer, from any model folder.

  mellow train --config=finetune:lora --workdir=runs/mine \\
    --config.data.train=clips.csv --config.init_from=weights/mellow

The folder gives architecture, tokenizer and preset. docs/finetune.md goes through it. The numbers
are ours, chosen for a few dozen (small) to a few thousand rows; none is from the paper.
"""

from mellow_jax import config
from mellow_jax.errors import ConfigError

ARGUMENTS = ("", "lora", "small")


def get_config(arg: str = "") -> config.Config:
  """Everything but the audio encoder is trained.

  With arg "lora" small matrices beside the decoder's layers are; with "small" everything is, the
  encoder too, on distorted clips, as fits models of the demo's size.
  """
  if arg not in ARGUMENTS:
    raise ConfigError(f"finetune:{arg}: write finetune, finetune:lora or finetune:small")
  small, lora, freeze = arg == "small", config.LoRAConfig(), ("encoder/.*",)
  if arg == "lora":
    lora = config.LoRAConfig(
      kernels=(r"decoder/.*/(q|k|v|o|gate|up|down)/kernel",), rank=16, alpha=32.0, dropout=0.05
    )
    freeze = (".*",)
  return config.Config(
    adopt=True,
    data=config.DataConfig(
      val_share=0.1,
      augment=small,
      another_clip_share=0.3 if small else 1.0,
    ),
    optim=config.OptimConfig(
      optimizer="adamw",
      learning_rate={"": 3e-5, "lora": 3e-4, "small": 1.2e-3}[arg],
      schedule="cosine",
      warmup_steps=50,
      weight_decay=0.01,
      clip="global_norm",
      clip_norm=1.0,
      freeze=() if small else freeze,
      lora=lora,
      ema=0.99 if small else 0.0,  # a few dozen clips: single updates differ much in what they know
    ),
    encoder_train_mode=small,  # SpecAugment, where the model's encoder has it
    batch_size=16,
    steps=600 if small else 1000,
    calibrate_batches=16 if small else 0,  # the demo's model has met no recordings
    save_every=100,
    eval_every=100,
  )
