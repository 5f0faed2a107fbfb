"""The paper's ablations, table 8: a system a configuration, all but the named parts as in Mellow.

  mellow ablate --config=ablations --workdir=runs/ablations
  mellow train --config=ablations:gpt2-linear-frozen --workdir=runs/gpt2-linear-frozen
  mellow plan --config=ablations:paper/cnn14 --topology=v5e:2x4

A name joins parts by "-"; what it does not name is as in Mellow:

  htsat cnn14                      encoder
  nonlinear linear transformer     projection
  smollm2 gpt2                     decoder
  frozen lora8 lora256             how the decoder is trained, if not in full
  type2 type3 type4 wavcaps        data of the paper's run, if not type 1

By itself a name is the demo's run on generated scenes, with parts of its scale. Behind "paper/" it
is the paper's run: it needs the pretrained parts in weights/, and in reasonaqa/ the rows type1.json
to type4.json, wavcaps.json and val.json with their clips in audio/.
"""

from mellow_jax import config
from mellow_jax.configs import demo
from mellow_jax.configs import mellow as paper
from mellow_jax.errors import ConfigError

STEPS = 2000  # ours: of each system at the demo's scale; the table in an hour on two cores
PARTS = {
  *("htsat", "cnn14", "nonlinear", "linear", "transformer", "smollm2", "gpt2"),
  *("frozen", "lora8", "lora256"),
}
DATA = {"type1", "type2", "type3", "type4", "wavcaps"}
# Ranks at the paper's scale; ours at the demo's, about the same share of the decoder's width.
RANKS = {"lora8": (8, 2), "lora256": (256, 48)}


def _paper(parts: set[str]) -> config.Config:
  """The paper's run with other parts."""
  cfg = paper.get_config()
  model, folders = cfg.model, {"htsat": "weights/htsat", "smollm2": "weights/smollm2"}
  if "cnn14" in parts:
    model.encoder = config.CNN14Config(
      batch_statistics=True,  # training
      dropout=0.2,  # training
      clip_dropout=0.5,  # training
    )
    folders["htsat"] = "weights/cnn14"
  if "gpt2" in parts:
    model.decoder = config.GPT2Config()
    model.sep_id = model.end_id = 50_256  # training
    model.pad_id = 0  # training
    folders["smollm2"] = "weights/gpt2"
  if "linear" in parts:
    model.mapper = config.LinearConfig()
  if "transformer" in parts:
    model.mapper = config.TransformerConfig()
  cfg.init_from = tuple(folders.values())
  rows = [f"reasonaqa/{part}.json" for part in sorted(parts & DATA) or ["type1"]]
  if "wavcaps" in parts:
    rows.insert(0, "reasonaqa/type1.json")
  cfg.data.train, cfg.data.val = ",".join(rows), "reasonaqa/val.json"
  cfg.data.audio_root = "reasonaqa/audio"
  return cfg


def _demo(parts: set[str]) -> config.Config:
  """The demo's run with other parts, each about as large as the one that it replaces."""
  cfg = demo.get_config()
  model, mapper = cfg.model, cfg.model.mapper
  same = {"downsample": mapper.downsample, "c2l_init_std": mapper.c2l_init_std}
  cfg.steps, cfg.save_every, cfg.eval_every = STEPS, 250, 250
  if "linear" in parts:
    model.mapper = config.LinearConfig(**same)
  if "transformer" in parts:
    model.mapper = config.TransformerConfig(
      **same, dropout=mapper.dropout, layers=2, heads=4, constants=model.audio_tokens
    )
  if "cnn14" in parts:
    # Trained from nothing, batch norms need the batch's statistics in every layer.
    model.encoder = config.CNN14Config(channels=(16, 32, 48, 64), classes=64, batch_statistics=True)
    cfg.encoder_train_mode = True
  if "gpt2" in parts:
    vocab = model.decoder.vocab
    model.decoder = config.GPT2Config(
      vocab=vocab, positions=128, width=96, layers=3, heads=4, mlp=384
    )
  return cfg


def get_config(arg: str = "smollm2") -> config.Config:
  """The run of a system by name; raises ConfigError for a part that is unknown."""
  scale, _, name = arg.rpartition("/")
  parts = set(name.split("-"))
  known = PARTS | DATA if scale else PARTS
  if scale not in ("", "paper") or not parts <= known:
    raise ConfigError(f"ablations:{arg}: give parts of {', '.join(sorted(known))}, joined by -")
  cfg = _paper(parts) if scale else _demo(parts)
  for rank in (RANKS[part][0 if scale else 1] for part in parts & set(RANKS)):
    cfg.optim.lora = config.LoRAConfig(
      kernels=(r"decoder/.*/attn/[kq]/kernel",),  # paper; training: queries and values
      rank=rank,
      alpha=2.0 * rank,  # paper
      dropout=0.1,  # training
    )
  if parts & {"frozen", *RANKS}:
    cfg.optim.freeze = (*cfg.optim.freeze, "decoder/.*")
  return cfg
