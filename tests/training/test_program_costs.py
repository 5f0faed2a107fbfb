"""What a program costs: products of each kind, loops as often as they run, kernels by the grid."""

import functools

import jax
import jax.numpy as jnp

from mellow_jax.models import attention
from mellow_jax.training import program_costs

X, W = jnp.ones((4, 8)), jnp.ones((8, 16))


def flops(function, *arguments):
  return program_costs.flops(jax.jit(function).trace(*arguments).jaxpr)


def test_products_convolutions_and_loops_are_counted():
  assert flops(jnp.matmul, X, W) == 2 * 4 * 8 * 16
  assert flops(lambda x, w: jax.lax.map(lambda row: row @ w, x), X, W) == 2 * 4 * 8 * 16
  assert flops(jax.value_and_grad(lambda w: (X @ w).sum()), W) == 2 * 2 * 4 * 8 * 16
  image, kernel = jnp.ones((1, 6, 6, 3)), jnp.ones((2, 2, 3, 5))
  run = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(2, 2),
    padding="VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  assert flops(run, image, kernel) == 2 * 9 * 5 * 12


def test_what_is_computed_again_counts_again():
  def loss(w):
    return jnp.sin(jnp.sin(X @ w) @ w.T).sum()

  once, again = flops(jax.grad(loss), W), flops(jax.grad(jax.checkpoint(loss)), W)
  assert again - once == 2 * (2 * 4 * 8 * 16)


def test_a_kernel_counts_each_block():
  q, mask = jnp.ones((2, 128, 4, 64)), jnp.ones((1, 128, 128), bool)
  found = flops(attention.splash, q, q[:, :, :2], q[:, :, :2], mask)
  assert found == 2 * 4 * 2 * 2 * 128 * 128 * 64  # examples, heads, products


def test_the_traffic_of_a_loop_is_that_of_its_turns():
  def run(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

  size, layer = 64 * 64 * 4, {}
  for turns in (2, 10):
    x, w = jnp.ones((64, 64)), jnp.ones((turns, 64, 64))
    layer[turns] = program_costs.traffic(jax.jit(run).lower(x, w).compile().as_text())
  turn = (layer[10] - layer[2]) / 8
  assert 3 * size <= turn <= 9 * size  # and not the weights of all turns


def test_what_stays_on_the_chip_is_no_traffic():
  program = """
%fused (p: f32[8]) -> f32[8] {
  ROOT %add = f32[8]{0} add(%p, %p)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(128)} parameter(0)
  %slice-start = ((f32[8]{0:T(128)}), f32[4]{0:T(128)S(1)}, s32[]{:S(2)}) slice-start(%x)
  %slice-done = f32[4]{0:T(128)S(1)} slice-done(%slice-start)
  %joined = f32[8]{0:T(128)S(1)} custom-call(%slice-done), custom_call_target="ConcatBitcast"
  %near = f32[8]{0:T(128)S(1)} fusion(%joined), kind=kLoop, calls=%fused
  ROOT %far = f32[8]{0:T(128)} fusion(%near), kind=kLoop, calls=%fused
}
"""
  assert program_costs.traffic(program) == 4 * 4 + 8 * 4  # the slice, and the result


def test_operations_of_a_loop_and_of_a_call_count_as_often_as_they_run():
  program = """
%body (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %twice = f32[8]{0} add(%p, %p)
  ROOT %thrice = f32[8]{0} add(%twice, %p)
}

%condition (p.1: f32[8]) -> pred[] {
  %limit = s32[] constant(5)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %loop = f32[8]{0} while(%x), condition=%condition, body=%body
  %called = f32[8]{0} call(%loop), to_apply=%body
  ROOT %copy = f32[8]{0} copy(%called)
}
"""
  assert program_costs.operations(program) == 5 * 2 + 2 + 1
  assert program_costs.traffic(program) == 6 * 2 * 3 * 32 + 2 * 32  # two read, one written


def test_of_what_is_taken_from_a_value_the_taken_alone_counts():
  program = """
%fused (p: f32[64,8]) -> f32[16] {
  %p = f32[64,8]{1,0} parameter(0)
  %one = f32[1,8]{1,0} slice(%p), slice={[0:1], [0:8]}
  %flat = f32[512]{0} bitcast(%p)
  %narrow = bf16[512]{0} convert(%flat)
  %other = bf16[8]{0} slice(%narrow), slice={[504:512]}
  ROOT %both = f32[16]{0} custom(%one, %other)
}

%whole (q: f32[64,8]) -> f32[64,8] {
  %q = f32[64,8]{1,0} parameter(0)
  %part = f32[1,8]{1,0} slice(%q), slice={[0:1], [0:8]}
  ROOT %sum = f32[64,8]{1,0} custom(%q, %part)
}

ENTRY %main (x: f32[64,8], rows: s32[2]) -> f32[2,8] {
  %x = f32[64,8]{1,0} parameter(0)
  %rows = s32[2]{0} parameter(1)
  %taken = f32[16]{0} fusion(%x), kind=kLoop, calls=%fused
  %used = f32[64,8]{1,0} fusion(%x), kind=kLoop, calls=%whole
  ROOT %looked = f32[2,8]{1,0} gather(%used, %rows), offset_dims={1}
}
"""
  taken, used, looked = 2 * 8 * 4 + 16 * 4, 2 * 512 * 4, 2 * (16 * 4) + 2 * 4
  assert program_costs.traffic(program) == taken + used + looked
