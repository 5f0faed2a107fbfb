"""What can happen to files, and how to tell that nothing came of it."""

import contextlib
import resource

import numpy as np

from mellow_jax.models import mellow


def assert_equal(found, expected):
  found, expected = mellow.flatten(found), mellow.flatten(expected)
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
    assert np.asarray(found[name]).tobytes() == np.asarray(value).tobytes(), name


@contextlib.contextmanager
def files_of_at_most(size):
  """No process of Linux or macOS may then write a longer file: a full disk, wherever this runs."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def one_line(caught):
  text = str(caught.value)
  assert "\n" not in text
  return text


def delete(path, rng):
  path.unlink()


def truncate(path, rng):
  path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def flip(path, rng):
  content = bytearray(path.read_bytes())
  content[rng.integers(len(content))] ^= 1 << rng.integers(8)
  path.write_bytes(content)


def zero(path, rng):
  path.write_bytes(bytes(path.stat().st_size))


DAMAGES = [delete, truncate, zero, flip]
