"""The converter's door from a checkout: `python -m tools.convert_weights` is `mellow convert`."""

import sys

from mellow_jax.convert.__main__ import main

if __name__ == "__main__":
  sys.exit(main(sys.argv))
