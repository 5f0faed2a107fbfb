"""What a run is fed: its rows as global batches on the mesh, and an account of what was bad."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import jax
from jax.sharding import Mesh

from mellow_jax import parallel
from mellow_jax.config import Config
from mellow_jax.data import bad_records, pipeline
from mellow_jax.data.records import Rows
from mellow_jax.parallel import say
from mellow_jax.training import init
from mellow_jax.training.metrics import RunLog
from mellow_jax.training.step import Batch


class Feed:
  """The batches of a run, of which each process makes its part.

  Raises the errors of the rows and of the tokenizer, each naming what to mend.
  """

  def __init__(self, cfg: Config, mesh: Mesh, workdir: pathlib.Path):
    self.rows, val_rows, clips = pipeline.sources(cfg, say)
    # Scenes follow from the config.
    self.digest = self.rows.digest if isinstance(self.rows, Rows) else ""
    self.tokenizer = init.tokenizer(cfg, self.rows)
    self._encoder = pipeline.Preprocessor(self.rows, clips, self.tokenizer, cfg.model, cfg.data)
    self.val_encoder = dataclasses.replace(self._encoder, rows=val_rows)
    self._cfg, self._mesh = cfg, mesh
    shard = jax.process_index()
    self._part = {"shard": shard, "shards": jax.process_count()}
    self.report_name = f"bad_records.{shard}.jsonl" if shard else "bad_records.jsonl"
    self._report = bad_records.BadRecords(workdir / self.report_name)
    self._said: dict[str, int] = {}

  def train(self, start_step: int, counters: Mapping[str, int]) -> Iterator[Batch]:
    """The batch of start_step, of the step after it, and so on for ever.

    counters are those that the run kept when it came to start_step.
    """
    data, total = self._cfg.data, parallel.total
    self._tally = bad_records.Tally(data.max_bad_fraction, len(self.rows), counters, total)
    for arrays in pipeline.train_batches(
      self._encoder,
      seed=self._cfg.seed,
      batch_size=self._cfg.batch_size,
      start_step=start_step,
      shuffle=data.source != "scenes",  # whose order is the curriculum
      note=self._report.add,
      **self._part,
    ):
      self._tally.add(arrays.pop("bad"), len(arrays["wav1"]))
      yield parallel.place_batch(Batch(**arrays), self._mesh)

  def validation(self, count: int, left_out: list[bad_records.BadRecord]) -> Iterator[Batch]:
    """The first `count` batches of the validation rows; what is bad among them joins left_out."""
    for arrays in pipeline.eval_batches(
      self.val_encoder,
      batch_size=self._cfg.batch_size,
      count=count,
      left_out=left_out,
      **self._part,
    ):
      yield parallel.place_batch(Batch(**arrays), self._mesh)
    self._report.add(left_out)

  def counters(self) -> dict[str, int]:
    """What a checkpoint keeps of the account; all processes must ask for it."""
    return self._tally.counters()

  def check(self, log: RunLog, number: int) -> None:
    """Says what was bad up to a step where that is news; the last step's goes into the metrics.

    Raises PipelineError where too much was. All processes must call it.
    """
    counters = self._tally.check()
    bad, is_last = bad_records.by_reason(counters), number == self._cfg.steps
    if bad and (is_last or bad != self._said):
      say(f"{bad_records.describe(counters)}: see {self.report_name}")
    self._said = bad
    if bad and is_last:
      log.write(number, bad)
