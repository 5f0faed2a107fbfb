"""Opens the paths of a config: the rows of each, and the clips that the rows name.

What a path is follows from what stands there:

  a file                    rows, in a form that data/tables.py reads
  a folder of TFDS          the dataset of mellow_jax.reasonaqa.reasonaqa_dataset_builder
  any other folder          a cache that mellow_jax.data.cache wrote
"""

import importlib.util
import os
import pathlib
from collections.abc import Callable, Sequence

from mellow_jax.config import Config
from mellow_jax.data import cache, clips, presets, records, selection
from mellow_jax.data.clips import Clips, FileClips, Store
from mellow_jax.data.records import Rows
from mellow_jax.errors import ConfigError, PipelineError, how_to_install


class OpenSources:
  """The sources of a run, each opened once.

  Rows that the quarantine file lists may be faulty; they are still among the rows, for the caller
  to leave out.
  """

  def __init__(self, cfg: Config):
    self._cfg = cfg
    self.listed = selection.read_quarantine(cfg.data.quarantine) if cfg.data.quarantine else {}
    self._stores: dict[str, Store] = {}  # by path
    self._roots: dict[str, FileClips] = {}  # of JSON and CSV, by root folder

  def source(self, path: str, split: str) -> Rows:
    """The rows of a path; of a TFDS dataset, those of the split.

    Raises DataError where they cannot be read, ConfigError where the package that reads them is
    missing.
    """
    data, model_audio = self._cfg.data, self._cfg.model.audio
    preset, folder = presets.PRESETS[data.preset], pathlib.Path(path)
    if (folder / "dataset_info.json").is_file():
      if not importlib.util.find_spec("tensorflow_datasets"):
        raise ConfigError(f"{path}: is a TFDS dataset: to read it, {how_to_install('tfds')}")
      from mellow_jax.data import tfds_reader  # needs that extra

      if path not in self._stores:
        of = tfds_reader.audio_of(folder)
        self._stores[path] = tfds_reader.TfdsClips(of, model_audio, preset)
      return tfds_reader.TfdsRows(path, split)
    if folder.is_dir():
      if path not in self._stores:
        self._stores[path] = cache.CacheClips(cache.Cache(path), model_audio, preset)
      return self._stores[path].cache
    rows = records.read(path, self.listed)
    root = data.audio_root or os.fspath(folder.parent)
    files = self._roots.setdefault(root, FileClips(root, model_audio, preset))
    self._stores[path] = files
    return rows

  def clips(self, sources: Sequence[Rows], log: Callable[[str], None]) -> Clips:
    """The clips of the rows of sources; logs how many of their files are absent.

    Raises PipelineError if they are too many, DataError where two sources differ in a clip.
    """
    for rows in sources:
      if isinstance(store := self._stores[rows.path], FileClips):
        _check_audio(rows, store.root, self._cfg.data.max_bad_fraction, log)
    if len({id(store) for store in self._stores.values()}) == 1:
      return next(iter(self._stores.values()))
    return clips.JoinedClips.of((self._stores[rows.path], rows.audio_paths()) for rows in sources)


def _check_audio(
  rows: Rows, root: str | os.PathLike, most: float, log: Callable[[str], None]
) -> None:
  """Logs how many rows name an absent file. Raises PipelineError where they are too many."""
  absent = set(missing := records.missing_audio(rows, root))
  if not absent:
    return
  named = sum(not absent.isdisjoint(paths) for paths in rows.clip_paths())
  found = (
    f"{rows.path}: {len(missing)} of its audio files are not below {root}, first {missing[0]}; "
    f"{named} of {len(rows)} rows name them"
  )
  if named > most * len(rows):
    raise PipelineError(
      f"{found}, more than config.data.max_bad_fraction {most:g} allows: check "
      "--config.data.audio_root, remove the rows, or allow more"
    )
  log(f"{found}: they count as bad records")
