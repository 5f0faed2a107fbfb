import jax
import jax.numpy as jnp
import pytest

from mellow_jax.training import trace


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A trace of three products in a loop, and of a sort."""

  @jax.jit
  def run(x):
    again = jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ x), x)
    return jnp.sort(again.ravel())

  x = jnp.ones((300, 300))
  run(x).block_until_ready()
  found = tmp_path_factory.mktemp("trace")
  with jax.profiler.trace(str(found)):
    run(x).block_until_ready()
  return found


def test_shares_of_a_trace_are_of_the_time_in_operations(folder):
  found = trace.read(folder)
  assert 0 < found.busy <= found.seconds
  assert sum(found.kinds.values()) == pytest.approx(sum(found.operations.values()))
  assert {"products", trace.OTHERS} <= set(found.kinds)
  (sort,) = (name for name in found.operations if name.startswith("sort"))
  assert trace.kind(sort) == trace.OTHERS
  assert list(found.operations.values()) == sorted(found.operations.values(), reverse=True)


def test_a_summary_has_shares_that_make_a_whole(folder):
  head, *lines = trace.summary(folder).splitlines()
  assert head.endswith("% of it idle")
  kinds = [float(line.split("%")[0]) for line in lines[: len(trace.read(folder).kinds)]]
  assert sum(kinds) == pytest.approx(100, abs=0.3)


@pytest.mark.parametrize(
  ("name", "kind"),
  {
    "dot_general.3": "products",
    "gemm_fusion_dot.12": "products",
    "convolution.1": "products",
    "all-reduce-start.1": "collectives",
    "custom-call-fmhaSoftmax": "attention",
    "dynamic-update-slice_convert_fusion.1": "copies",
    "loop_multiply_convert_fusion": trace.OTHERS,
  }.items(),
)
def test_kinds_of_operations(name, kind):
  assert trace.kind(name) == kind


def test_an_operation_counts_without_those_inside_it():
  events = [(0.0, 10e9, "while"), (1e9, 4e9, "dot"), (2e9, 3e9, "copy"), (5e9, 6e9, "dot")]
  own = trace._own_seconds(events)
  assert own == [("while", 6.0), ("dot", 2.0), ("copy", 1.0), ("dot", 1.0)]
  assert trace._covered([*events, (12e9, 13e9, "late")]) == 11e9


def test_a_folder_without_a_trace_is_named(tmp_path):
  with pytest.raises(ValueError, match="has no trace"):
    trace.read(tmp_path)
  assert trace.summary(tmp_path) == f"{tmp_path} has no trace"
