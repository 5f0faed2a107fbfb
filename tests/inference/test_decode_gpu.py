"""What a decoding step moves on a GPU, by the program that is compiled for it without one."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import tiny
from flax import nnx
from jax.sharding import SingleDeviceSharding

from mellow_jax import parallel
from mellow_jax.config import SmolLM2Config
from mellow_jax.inference import decode
from mellow_jax.models import mellow
from mellow_jax.training import device_plan, program_costs


@pytest.mark.gpu_aot
@pytest.mark.skipif(
  not parallel.has_gpu_plugin(),
  reason="no GPU compiler: pip install -e '.[cuda]'",
)
def test_a_step_of_one_row_reads_each_kernel_once():
  jax.config.update("jax_platforms", "cpu")  # else JAX looks for a GPU
  _, _, (gpu,) = device_plan.load_topology("h200:1")
  here = SingleDeviceSharding(gpu)

  def on_gpu(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree)

  def moved(layout, vocab):
    decoder = SmolLM2Config(vocab=vocab, layers=2)  # layers of full size
    cfg = dataclasses.replace(tiny.config(dtype="bfloat16"), decoder=decoder)
    graphdef, params = mellow.abstract(cfg, fused=layout)
    decoder = jax.eval_shape(lambda: mellow.fuse(cfg, mellow.init_params(cfg, 0), layout)[1])
    prefix = jax.ShapeDtypeStruct((1, cfg.prefix_tokens, cfg.decoder.width), jnp.float32)
    lengths, token = (jax.ShapeDtypeStruct((1,), jnp.int32) for _ in range(2))

    def begin(params, prefix, lengths):
      return decode.prefill(nnx.merge(graphdef, params), prefix, lengths, 8)[1]

    def step(params, token, state):
      return decode.step(nnx.merge(graphdef, params), token, state)

    state = jax.eval_shape(begin, decoder, prefix, lengths)
    inputs = map(on_gpu, (decoder, token, state))
    compiled = jax.jit(step, donate_argnums=2).lower(*inputs).compile()
    read = params["decoder"]["blocks"], params["decoder"]["embed"]  # which is the head as well
    kernels = sum(2 * x.size for x in jax.tree.leaves(read))  # bytes
    return program_costs.traffic(compiled.as_text()) / kernels

  by_rows, by_columns = moved("rows", 64), moved("columns", 64)
  assert by_rows < 1.3 < 1.7 < by_columns
  assert moved("rows", 8192) < 1.3  # the head is not small then
