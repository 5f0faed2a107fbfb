"""A float32 model multiplies in float32 on every device, another as JAX has it there."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import tiny

from mellow_jax import parallel
from mellow_jax.checkpoint import LoadedModel
from mellow_jax.evaluation.inspection import events
from mellow_jax.inference.api import Mellow
from mellow_jax.inference.decide import YesNo
from mellow_jax.inference.engine import Engine, Request
from mellow_jax.training import programs

CLIP = np.zeros(16_000, np.float32), 16_000


@pytest.fixture
def compiled(tmp_path):
  """The text of each program that was compiled in a test, by name."""
  before = jax.config.values["jax_dump_ir_to"]
  jax.config.update("jax_dump_ir_to", str(tmp_path))
  yield lambda: {path.stem: path.read_text() for path in tmp_path.glob("*.mlir")}
  jax.config.update("jax_dump_ir_to", before)


def products(program: str) -> set[str]:
  """Of products and convolutions of float32: HIGHEST or DEFAULT."""
  lines = re.findall(r"stablehlo\.(?:dot_general|convolution).*", program)
  return {kind for x in lines if "bf16" not in x for kind in re.findall("HIGHEST|DEFAULT", x)}


def model(dtype: str) -> Mellow:
  cfg = tiny.config(dtype=dtype)
  return Mellow(LoadedModel(tiny.params(cfg), cfg, "training", tiny.tokenizer()))


def test_answers_scores_and_events(compiled):
  float32 = model("float32")
  float32.answer(CLIP, "rain ?")
  float32.score([(CLIP, None, "rain ?")], [["a dog", "rain"]])
  list(float32.stream_answer(CLIP, "rain ?"))
  with Engine(float32, slots=2, max_new_tokens=4) as engine:
    list(engine.stream(Request(float32.prompt((CLIP, None, "rain ?")), 4)))
    engine.decide(float32.prompt((CLIP, None, "rain ?")).clips, YesNo("is rain heard"))
  events.make_detector(float32.cfg)(float32.params["encoder"], CLIP[0][None])
  found = {name: products(text) for name, text in compiled().items()}
  assert len([name for name, kinds in found.items() if kinds]) >= 8, found
  assert not {name for name, kinds in found.items() if "DEFAULT" in kinds}


def test_training_and_validation():
  def kinds(dtype: str) -> list[set[str]]:
    cfg = tiny.run()
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype=dtype))
    made, batch = programs.make(cfg, parallel.make_mesh((-1, 1))), programs.abstract_batch(cfg)
    each = (made.train_step, made.eval_step, made.answer)
    return [products(program.lower(made.abstract, batch).as_text()) for program in each]

  assert kinds("float32") == [{"HIGHEST"}] * 3
  assert "DEFAULT" in kinds("bfloat16")[0]
