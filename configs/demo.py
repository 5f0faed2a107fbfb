"""The embedded default: a small Mellow learns to listen to generated scenes on two CPU cores.

Sizes, curriculum and rates follow a trial on such a machine; `make demo` prints what they reach.
"""

from mellow_jax import config
from mellow_jax.errors import ConfigError


def get_config(arg: str = "") -> config.Config:
  """The run of `make demo`."""
  if arg:
    raise ConfigError(f"demo:{arg}: write demo")
  model = config.ModelConfig(
    audio=config.AudioConfig(
      sample_rate=16_000,
      clip_seconds=5.12,
      n_fft=1024,
      hop_samples=640,  # 129 frames
      mel_bins=32,
      f_min=50.0,
      f_max=8000.0,
      min_power=10**-4.5,  # a floor above the scenes' digital silence: without it nothing is learnt
      stft="fft",
    ),
    encoder=config.HTSATConfig(
      chunks=2,
      patch=8,
      width=48,
      depths=(2, 2),
      heads=(3, 6),
      window=4,
      classes=64,
      tscam_init_scale=4.0,
      # Not for the demo, which has no end of scenes: for a run on a few clips that starts from it.
      spec_augment=True,
      time_stripe_frames=16,
      mel_stripe_bins=6,
    ),
    mapper=config.NonlinearConfig(downsample=16, dropout=0.0, c2l_init_std=1.0),
    decoder=config.SmolLM2Config(
      vocab=66,  # the scenes' whole language
      width=96,
      layers=3,
      heads=4,
      kv_heads=2,
      head_size=24,
      mlp=192,
      rope_theta=10_000.0,
    ),
    text_tokens=24,
    answer_tokens=22,
    sep_id=0,
    end_id=0,
    pad_id=1,
    mask_padding=True,
  )
  return config.Config(
    model=model,
    data=config.DataConfig(
      source="scenes",
      preset="clean",
      another_clip_share=0.3,
      # Captions first: they teach the encoder within a minute. Then mostly multiple choice: at half
      # of the rows the model finds out within some hundred steps how letters and options go
      # together, at a quarter it takes thousands.
      warmup_mix={"caption": 0.5, "binary": 0.3, "detail": 0.2},
      warmup_share=0.12,
      mix={
        "presence": 0.55,
        "binary": 0.15,
        "caption": 0.10,
        "detail": 0.08,
        "difference": 0.06,
        "entailment": 0.06,
      },
    ),
    optim=config.OptimConfig(
      optimizer="adamw",
      learning_rate=1.2e-3,
      schedule="cosine",
      warmup_steps=200,
      b2=0.95,
      weight_decay=0.01,
      clip="global_norm",
      clip_norm=1.0,
      freeze=(),
    ),
    batch_size=16,
    steps=5000,
    calibrate_batches=16,
    save_every=1000,
    eval_every=500,
    eval_batches=8,
    log_every=50,
  )
