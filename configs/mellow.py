"""The paper's run: Mellow, 167M parameters, on ReasonAQA.

The pretrained parts come from the converter, the rows and audio from their publishers:

  mellow convert --input=HTSAT_AudioSet_Saved_1.ckpt --output=weights/htsat
  mellow convert --input=hf://HuggingFaceTB/SmolLM2-135M --output=weights/smollm2
  mellow train --config=mellow --workdir=runs/mellow \\
    --config.data.train=reasonaqa/train.json --config.data.val=reasonaqa/val.json \\
    --config.data.audio_root=reasonaqa/audio

Sources: "paper" is the publication, appendix E.2; "training" the public training code.
"""

from mellow_jax import config
from mellow_jax.errors import ConfigError

ROWS = 968_071  # paper, table 1: training rows


def get_config(arg: str = "") -> config.Config:
  """The paper's run on any number of devices.

  arg "random" starts from random weights instead of the pretrained parts.
  """
  if arg not in ("", "random"):
    raise ConfigError(f"mellow:{arg}: write mellow or mellow:random")
  epochs = 30  # paper
  batch_size = 4 * 8  # training: 4 a GPU; the number of GPUs is not published, 8 assumed
  return config.Config(
    model=config.ModelConfig(
      audio=config.AudioConfig(stft="fft"),  # training: a convolution; see docs/differences.md
      encoder=config.HTSATConfig(
        batch_statistics=True,  # training: the frozen encoder is left in training mode
        spec_augment=True,  # training
        stochastic_depth=0.1,  # training
      ),
    ),
    data=config.DataConfig(preset="training", another_clip_share=1.0),  # training
    optim=config.OptimConfig(
      optimizer="adam_l2",  # paper: Adam; training: with L2 decay in the gradient
      learning_rate=1e-3,  # paper
      schedule="cosine_per_epoch",  # paper: cosine; training: stepped once an epoch
      weight_decay=1e-4,  # training
      clip="running_norm",  # training
      clip_norm=0.5,  # training
      freeze=("encoder/.*",),  # training: HTSAT; its c2l belongs to the mapper and is trained
    ),
    init_from=() if arg == "random" else ("weights/htsat", "weights/smollm2"),  # paper: both
    batch_size=batch_size,
    steps=epochs * (ROWS // batch_size),
    encoder_train_mode=False,  # training: True; see docs/differences.md
    save_every=1000,
    eval_every=5000,
  )
