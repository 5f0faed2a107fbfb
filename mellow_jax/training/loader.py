"""Input pipeline of a run: its rows as global batches on the mesh, and a count of bad records."""

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from mellow_jax import checkpoint, parallel
from mellow_jax.config import Config
from mellow_jax.data import answer_lengths, bad_records, pipeline, records
from mellow_jax.data.features import FeatureClips, named, open_folder
from mellow_jax.data.presets import PRESETS
from mellow_jax.data.records import Rows
from mellow_jax.training import checkpoints, features, init, survey
from mellow_jax.training.metrics import MetricsWriter
from mellow_jax.training.step import Batch


class Loader:
  """Loads the batches of a run; each process loads its own rows of each.

  `cfg` is the run's config with a vocabulary as large as its tokenizer. `usual_tokens` is about the
  number of answer tokens of a batch of any rows, where batches are of answers of one length.
  `content` is that of `checkpoints.run_settings`. Losses of validation compare if `scored` is the
  same. Raises the errors of the rows and of the tokenizer, each saying what to change.
  """

  def __init__(self, cfg: Config, mesh: Mesh, workdir: pathlib.Path):
    self.rows, val_rows, clips = pipeline.sources(cfg, parallel.log)
    self.tokenizer, self.cfg = init.tokenizer(cfg, self.rows)
    cfg = self.cfg
    if cfg.data.features:
      features.check(cfg)
      paths = named(self.rows, val_rows)
      clips = open_folder(cfg.data.features, features.made_by(cfg), clips, paths)
    self._encoder = pipeline.Preprocessor(self.rows, clips, self.tokenizer, cfg.model, cfg.data)
    self.val_encoder = dataclasses.replace(self._encoder, rows=val_rows)
    self.mesh = mesh
    self.usual_tokens: float | None = None
    self._lengths, self._shapes = self._answer_lengths()
    shard = jax.process_index()
    self._part = {"shard": shard, "shards": jax.process_count()}
    self.report_name = f"bad_records.{shard}.jsonl" if shard else "bad_records.jsonl"
    self._report = bad_records.BadRecords(workdir / self.report_name)
    self._reported: dict[str, int] = {}
    self.content, self.scored = self._content(), self._scored()

  def _content(self) -> dict[str, str]:
    """Digests of what the run learns from, whose paths may change."""
    rows, clips = self.rows, self._encoder.clips
    found = {
      checkpoints.DIGEST: rows.digest if isinstance(rows, Rows) else "",  # scenes: by the config
      checkpoints.TOKENIZER: checkpoint.digest_json({"": self.tokenizer.to_str()})[:16],
    }
    if PRESETS[self.cfg.data.preset].long == "random":
      # Features have some windows of a clip; without them each time another one is cropped.
      found[checkpoints.WINDOWS] = "none"
      if isinstance(clips, FeatureClips):
        places = ((path, clips.places.get(path)) for path in rows.audio_paths())
        windows = {path: place[1] for path, place in places if place}
        found[checkpoints.WINDOWS] = checkpoint.digest_json(windows)[:16]
    return found

  def _scored(self) -> int:
    """A number that follows from the rows that validation scores."""
    rows = self.val_encoder.rows
    count = min(self.cfg.eval_batches * self.cfg.batch_size, len(rows))
    found = hashlib.sha256(str(count).encode())
    if isinstance(rows, Rows):  # scenes follow from the config
      for row in itertools.islice(rows, count):
        found.update(records.content(row))
    return int(found.hexdigest()[:12], 16)

  def _answer_lengths(self) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The lengths of answers that steps are compiled for, and the slots of a batch's parts."""
    cfg, most = self.cfg, self.cfg.model.answer_tokens
    if cfg.data.answer_lengths == 1:
      return (), []
    sample = answer_lengths.sample(self.rows)
    found = np.array([self._encoder.answer_length(row) for row in sample])
    allowed = answer_lengths.choose(found, cfg.data.answer_lengths, most)
    if cfg.data.group_answers:
      self.usual_tokens = float(found.mean()) * cfg.batch_size
    parallel.log(f"steps for answers of up to {', '.join(map(str, allowed))} tokens")
    return allowed, answer_lengths.shapes(found, allowed, cfg.accumulate, cfg.batch_size)

  def _place(self, arrays: dict[str, np.ndarray]) -> Batch | tuple[Batch, ...]:
    """A batch on the mesh; where answers have several lengths, in parts, each as short as it may.

    All processes must call it, as they take the same shape.
    """
    if not self._shapes:
      return parallel.place_batch(Batch(**arrays), self.mesh)
    count = self.cfg.accumulate
    first = self._part["shard"] * len(arrays["loss_mask"])  # in the global batch
    parts = answer_lengths.in_parts(arrays, count, first) if count > 1 else [arrays]
    needed = np.array([answer_lengths.needed(part["loss_mask"]).max() for part in parts])
    needed = parallel.max_over_processes(needed)
    shape = next(shape for shape in self._shapes if (needed <= shape).all())
    batches = [
      Batch(**answer_lengths.cut(part, slots)) for part, slots in zip(parts, shape, strict=True)
    ]
    return parallel.place_batch(tuple(batches) if count > 1 else batches[0], self.mesh)

  def train(
    self, start_step: int, counters: Mapping[str, int]
  ) -> Iterator[Batch | tuple[Batch, ...]]:
    """The batches of all steps from start_step on, without end.

    counters are those of the checkpoint of start_step.
    """
    data = self.cfg.data
    self._tally = bad_records.Tally(
      data.max_bad_fraction, len(self.rows), counters, parallel.sum_over_processes
    )
    for arrays in pipeline.train_batches(
      self._encoder,
      seed=self.cfg.seed,
      batch_size=self.cfg.batch_size,
      start_step=start_step,
      shuffle=data.source != "scenes",  # the order of scenes is a curriculum
      groups=self._lengths if data.group_answers else (),
      note=self._report.add,
      **self._part,
    ):
      self._tally.add(arrays.pop("bad"), len(arrays["wav1"]))
      yield self._place(arrays)

  def validation(
    self, count: int, skipped: list[bad_records.BadRecord], numbers: Sequence[int] | None = None
  ) -> Iterator[Batch]:
    """The first `count` batches of the validation rows; their bad records join `skipped`.

    numbers: only those rows, in this order.
    """
    encoder = self.val_encoder
    if numbers is not None:
      encoder = dataclasses.replace(encoder, rows=[encoder.rows[number] for number in numbers])
    for arrays in pipeline.eval_batches(
      encoder,
      batch_size=self.cfg.batch_size,
      count=count,
      left_out=skipped,
      **self._part,
    ):
      yield parallel.place_batch(Batch(**arrays), self.mesh)
    self._report.add(skipped)

  def faults(self) -> Iterator[str]:
    """Lines about rows whose texts the model cannot take whole; generated ones are never such."""
    if self.cfg.data.source == "files":
      yield from survey.faults("training", self._encoder)
      yield from survey.faults("validation", self.val_encoder)

  def counters(self) -> dict[str, int]:
    """Counts of bad records for a checkpoint; all processes must call it."""
    return self._tally.counters()

  def check_bad_records(self, writer: MetricsWriter, number: int) -> None:
    """Reports new bad records up to a step; the final counts also go into the metrics.

    Raises PipelineError where they are too many. All processes must call it.
    """
    counters = self._tally.check()
    bad, is_last = bad_records.by_reason(counters), number == self.cfg.steps
    if bad and (is_last or bad != self._reported):
      parallel.log(f"{bad_records.describe(counters)}: see {self.report_name}")
    self._reported = bad
    if bad and is_last:
      writer.write(number, bad)
