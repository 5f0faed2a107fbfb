"""Tells lmms-eval of the model: the entry point `mellow` of its group `lmms_eval.models`.

Apart from the model itself, which is imported only where somebody asks for `--model mellow`.
"""

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST = ModelManifest(
  model_id="mellow", simple_class_path="mellow_jax.evaluation.external.lmms.MellowLmms"
)
