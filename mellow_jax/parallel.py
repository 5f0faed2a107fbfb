"""Devices: the mesh, where each array of the state lies, and how host batches become global."""

import os
import pathlib

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from mellow_jax.config import ConfigError


def make_mesh(shape: tuple[int, int]) -> Mesh:
  """All devices as (data, fsdp); one of the two sizes may be -1, meaning what is left.

  Raises ConfigError where the shape does not use every device.
  """
  devices = jax.device_count()
  data, fsdp = shape
  if data == -1:
    data = devices // max(fsdp, 1)
  elif fsdp == -1:
    fsdp = devices // max(data, 1)
  if data < 1 or fsdp < 1 or data * fsdp != devices:
    raise ConfigError(f"config.mesh {tuple(shape)} does not cover the {devices} devices present")
  return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
  """A NamedSharding for each array of the abstract state.

  Every array is divided along its largest axis that the fsdp axis divides; small ones and those
  that no axis fits are copied to every device.
  """
  parts = mesh.shape["fsdp"]

  def place(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    fitting = [i for i, size in enumerate(leaf.shape) if size % parts == 0 and size >= parts]
    if parts == 1 or not fitting or np.prod(leaf.shape) < 2**10:
      return NamedSharding(mesh, PartitionSpec())
    axis = max(fitting, key=lambda i: leaf.shape[i])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

  return jax.tree.map(place, tree)


def replicated(mesh: Mesh) -> NamedSharding:
  """On every device a copy."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The examples of a batch, divided over all devices."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree:
  """This process's rows of a batch as one global array over all processes' devices."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def enable_compilation_cache() -> pathlib.Path:
  """Keeps compiled programs on disk, so that a second start does not compile again.

  The folder is MELLOW_CACHE, or ~/.cache/mellow_jax.
  """
  folder = pathlib.Path(os.environ.get("MELLOW_CACHE", "~/.cache/mellow_jax")).expanduser()
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  return folder
