"""What the tensors of a LoRA checkpoint of the package peft do not tell: alpha, and its config.

Source: github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from mellow_jax import files
from mellow_jax.config import ModelConfig
from mellow_jax.convert import sources
from mellow_jax.errors import CheckpointError
from mellow_jax.models import lora

CODE_RANK = CODE_ALPHA = 256  # of the public training code, which adapts queries and values
BASES = {"smollm2": "HuggingFaceTB/SmolLM2-135M", "gpt2": "openai-community/gpt2"}
# Of adapter_config.json: whatever changes the product, or stands beside it, where it is set.
REFUSED = (
  "use_rslora",
  "use_dora",
  "lora_bias",
  "rank_pattern",
  "alpha_pattern",
  "modules_to_save",
  "layer_replication",
  "alora_invocation_tokens",
  "trainable_token_indices",
)
# Of init_lora_weights: those that change the base model, too, when peft loads the adapter.
CHANGES_BASE = re.compile("pissa|olora|corda|loftq")


def is_factor(path: str) -> bool:
  """Whether a parameter is one of LoRA's."""
  return path.endswith(("/lora_a", "/lora_b"))


def default_alpha(flat: Mapping[str, np.ndarray]) -> tuple[float, str]:
  """Alpha where nothing tells it, and whose it is.

  The paper's is twice the rank: 16 of 8, 512 of 256. The training code has 256 of 256, with which
  it adapts queries and values, where the paper has keys and queries.
  """
  rank = lora.rank(dict(flat))
  layers = {path.split("/")[-2] for path in flat if is_factor(path)}
  if layers == {"q", "v"} and rank == CODE_RANK:
    return CODE_ALPHA, "the training code's for queries and values of rank 256"
  return 2.0 * rank, "the paper's, twice the rank"


def read_alpha(weights: Path, rank: int) -> float | None:
  """Alpha as the adapter_config.json beside an adapter's weights has it, None without that file.

  Raises CheckpointError where the file is of anything but plain LoRA of this rank.
  """
  path = weights.parent / sources.ADAPTER_CONFIG
  if not path.exists():
    return None
  content = files.read_json(path, "a configuration of peft")
  if not isinstance(content, dict) or content.get("peft_type") != "LORA":
    raise CheckpointError(f"{path}: it is not of LoRA")
  changed = [name for name in REFUSED if content.get(name)]
  if content.get("bias") not in (None, "none"):
    changed.append("bias")
  if CHANGES_BASE.match(str(content.get("init_lora_weights")).lower()):
    changed.append(f"init_lora_weights = {content['init_lora_weights']}")
  if changed:
    raise CheckpointError(f"{path}: {', '.join(changed)} is set, and only plain LoRA is read")
  alpha = content.get("lora_alpha")
  if content.get("r") != rank or type(alpha) not in (int, float) or not alpha > 0:
    raise CheckpointError(
      f"{path}: r {content.get('r')!r} and lora_alpha {alpha!r} do not suit factors of rank {rank}"
    )
  return float(alpha)


def write_config(
  weights: Path, keys: Iterable[str], cfg: ModelConfig, rank: int, alpha: float
) -> None:
  """Writes the adapter_config.json that peft looks for beside an adapter's weights."""
  matches = [re.fullmatch(r"base_model\.model\.(.*)\.lora_A\.weight", key) for key in keys]
  content = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": BASES[cfg.decoder.kind],
    "r": rank,
    "lora_alpha": alpha,
    "lora_dropout": 0.0,
    "bias": "none",
    "fan_in_fan_out": cfg.decoder.kind == "gpt2",  # its linear layers are [in, out]
    "target_modules": sorted(match[1] for match in matches if match),
  }
  files.write_json(weights.parent / sources.ADAPTER_CONFIG, content)
