"""How XLA compiles the programs of the tests."""

import jax

# Most programs of the tests are tiny: unoptimised they compile in half the time, by the older of
# XLA's code generators in a quarter of that, and run as fast. What the large ones spend their time
# on, products of matrices, is called and not compiled. jax 0.12 has no older generator.
SOON = {"xla_backend_optimization_level": 0}
AS_USERS_HAVE_IT = {"xla_backend_optimization_level": 3}
if jax.__version_info__ < (0, 12):
  SOON["xla_cpu_use_fusion_emitters"] = False
  AS_USERS_HAVE_IT["xla_cpu_use_fusion_emitters"] = True


def flags():
  """SOON, as XLA_FLAGS says it."""
  return " ".join(f"--{name}={value}".lower() for name, value in SOON.items())
