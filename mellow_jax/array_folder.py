"""Folders of arrays by path, written and read by Orbax in one process, without the others."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import options as ocp_options


def this_process_alone() -> ocp_options.MultiprocessingOptions:
  """Options of a checkpointer that works in this process without the others."""
  this = jax.process_index()
  return ocp_options.MultiprocessingOptions(
    primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process{this}"
  )


def _checkpointer() -> ocp.StandardCheckpointer:
  return ocp.StandardCheckpointer(multiprocessing_options=this_process_alone())


def write(folder: pathlib.Path, flat: dict[str, Any]) -> None:
  """Writes a folder that is not there yet; raises plain Exception and others on a full disk."""
  with _checkpointer() as checkpointer:
    checkpointer.save(folder, flat)


def read(folder: pathlib.Path, abstract: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """The arrays of a folder, placed as abstract says; for damage raises Exception and others."""
  with _checkpointer() as checkpointer:
    return checkpointer.restore(folder, abstract)
