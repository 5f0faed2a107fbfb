"""The training command.

  python -m mellow_jax.train --config=configs/demo.py --workdir=runs/demo [--config.FIELD=VALUE ...]

The same command again resumes from the last checkpoint. The workdir gets checkpoints/, the model
folder model/ at the end, run.json, TensorBoard files, and what mellow_jax/runlog.py lists.

Of several processes, each is given --coordinator=HOST:PORT --processes=N --process_id=I, with I
from 0 to N - 1, or --coordinator=auto where SLURM, Open MPI or a TPU pod tell. All must see the
same files.
"""

import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from mellow_jax import checkpoint, initial, optim, parallel, step
from mellow_jax.checkpoint import CheckpointError
from mellow_jax.config import Config, ConfigError
from mellow_jax.data import bad_records, pipeline, prompts
from mellow_jax.data.audio import AudioError
from mellow_jax.data.pipeline import PipelineError
from mellow_jax.data.records import RecordError
from mellow_jax.data.workers import StalledError
from mellow_jax.models import mellow
from mellow_jax.parallel import say
from mellow_jax.runlog import RunLog, Spent
from mellow_jax.step import Batch, TrainState


class DivergedError(RuntimeError):
  """A loss or gradient that is no finite number; the message says how to go on."""


# Raised with a message for the person who started the run; anything else is a defect of ours.
KNOWN_ERRORS = (
  AudioError,
  CheckpointError,
  ConfigError,
  DivergedError,
  PipelineError,
  RecordError,
  OSError,
)
# Config fields that a run may change on its way: none changes what a step computes.
FREE = (
  *("mesh", "save_every", "keep", "eval_every", "eval_batches", "sample_answers", "log_every"),
  *("init_from", "data.train", "data.val", "data.audio_root", "data.tokenizer", "data.threads"),
  *("data.cache_clips", "data.max_bad_fraction", "data.workers", "data.timeout_seconds"),
)


def check(cfg: Config) -> None:
  """Raises ConfigError, naming the field, for a run that no machine can carry out."""
  for name in ("batch_size", "steps", "save_every", "keep", "eval_every", "log_every"):
    if getattr(cfg, name) < 1:
      raise ConfigError(f"config.{name} {getattr(cfg, name)} must be at least 1")
  if not 0 <= cfg.seed < 2**31:
    raise ConfigError(f"config.seed {cfg.seed} must be from 0 to 2**31 - 1")
  if cfg.data.preset not in prompts.PRESETS:
    raise ConfigError(f"config.data.preset {cfg.data.preset!r}: use {', '.join(prompts.PRESETS)}")
  if cfg.batch_size % jax.device_count():
    raise ConfigError(
      f"config.batch_size {cfg.batch_size} does not divide over {jax.device_count()} devices"
    )


def settings(cfg: Config, rows: int) -> dict[str, Any]:
  """What two runs must share for one to resume the other, by field."""
  plain = json.loads(json.dumps(dataclasses.asdict(cfg)))
  leaves = jax.tree_util.tree_leaves_with_path(plain, is_leaf=lambda x: not isinstance(x, dict))
  named = {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}
  return {"rows": rows, **{name: x for name, x in named.items() if name not in FREE}}


def validate(state: TrainState, batches: Iterator[Batch], eval_step: Callable) -> float:
  """Mean loss over the answer tokens of all batches."""
  loss, tokens = 0.0, 0
  for batch in batches:
    batch_loss, batch_tokens = eval_step(state.trainable, state.frozen, batch)
    loss, tokens = loss + float(batch_loss), tokens + int(batch_tokens)
  return loss / max(tokens, 1)


def sample_answers(
  state: TrainState, batch: Batch, encoder: pipeline.Encoder, count: int, answer_step: Callable
) -> list[dict[str, str]]:
  """The first `count` validation questions with the right answer and the model's."""
  found = answer_step(state.trainable, state.frozen, batch)
  tokens, lengths = np.asarray(found.tokens)[:, 0], np.asarray(found.lengths)[:, 0]
  heard = np.flatnonzero(parallel.to_host(batch.loss_mask).any(axis=1))  # the others are left out
  shown = []
  for i in heard[:count].tolist():
    row, text = encoder.rows[i], encoder.tokenizer.decode(tokens[i, : lengths[i]].tolist())
    shown.append({"question": row.input, "expected": row.answer, "answer": text})
  return shown


def train(cfg: Config, workdir: pathlib.Path) -> TrainState:
  """Runs or resumes a training run and returns its last state.

  Raises the errors of its parts, each with a message that names what to mend.
  """
  # ---------------------------------------------------------------- devices
  check(cfg)
  mesh = parallel.make_mesh(cfg.mesh)
  say(f"{jax.device_count()} x {jax.devices()[0].device_kind}, mesh {dict(mesh.shape)}")

  # ---------------------------------------------------------------- data
  rows, val_rows, clips = pipeline.sources(cfg, say)
  tokenizer = initial.tokenizer(cfg, rows)
  encoder = pipeline.Encoder(rows, clips, tokenizer, cfg.model, cfg.data)
  val_encoder = dataclasses.replace(encoder, rows=val_rows)
  part = {"shard": jax.process_index(), "shards": jax.process_count()}

  bad_name = "bad_records.jsonl" if not part["shard"] else f"bad_records.{part['shard']}.jsonl"
  bad_report = bad_records.Report(workdir / bad_name)
  new_tally = functools.partial(
    bad_records.Tally, cfg.data.max_bad_fraction, len(rows), total=parallel.total
  )

  def train_batches(start_step: int, tally: bad_records.Tally) -> Iterator[Batch]:
    for arrays in pipeline.train_batches(
      encoder,
      seed=cfg.seed,
      batch_size=cfg.batch_size,
      start_step=start_step,
      shuffle=cfg.data.source != "scenes",  # whose order is the curriculum
      note=bad_report.add,
      **part,
    ):
      tally.add(arrays.pop("bad"), len(arrays["wav1"]))
      yield parallel.place_batch(Batch(**arrays), mesh)

  def val_batches(count: int, left_out: list[bad_records.BadRecord]) -> Iterator[Batch]:
    for arrays in pipeline.eval_batches(
      val_encoder, batch_size=cfg.batch_size, count=count, left_out=left_out, **part
    ):
      yield parallel.place_batch(Batch(**arrays), mesh)
    bad_report.add(left_out)

  # ---------------------------------------------------------------- state
  # In this order: own last checkpoint, then init_from, then scratch.
  rate = optim.schedule(cfg.optim, cfg.steps, max(len(rows) // cfg.batch_size, 1))
  tx = optim.make(cfg.optim, rate)
  init_state = functools.partial(step.init_state, cfg=cfg, tx=tx)
  abstract = jax.eval_shape(init_state, mellow.flatten(mellow.abstract(cfg.model)[1]))
  sharding = parallel.shardings(abstract, mesh)
  like = jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, sharding
  )
  checkpoints = checkpoint.TrainCheckpoints(workdir / "checkpoints", keep=cfg.keep)
  run = settings(cfg, len(rows))
  state = checkpoints.restore(like, run)
  if state is not None:
    say(f"resumed from step {int(state.step)} of {workdir}")
  else:
    flat = initial.parameters(cfg, tokenizer)
    if cfg.calibrate_batches:
      say(f"measuring bn0's statistics on {cfg.calibrate_batches} batches")
      first = itertools.islice(train_batches(0, new_tally()), cfg.calibrate_batches)
      flat = initial.calibrate(flat, cfg, first, mesh)
    # From the host: each process holds all of it, each device gets its part.
    state = jax.jit(init_state, out_shardings=sharding)(jax.device_get(flat))
  trainable = sum(x.size for x in state.trainable.values())
  say(f"{trainable:,} trainable of {trainable + sum(x.size for x in state.frozen.values()):,}")
  if parallel.is_first():
    (workdir / "run.json").write_text(json.dumps(dataclasses.asdict(cfg), indent=1))

  # ---------------------------------------------------------------- compile
  batch_sharding, replicated = parallel.batch_sharding(mesh), parallel.replicated(mesh)
  train_step = step.jit_train_step(cfg, tx, sharding, batch_sharding, replicated)
  eval_step, answer_step = (
    jax.jit(
      functools.partial(function, cfg=cfg.model),
      in_shardings=(sharding.trainable, sharding.frozen, batch_sharding),
      out_shardings=replicated,
    )
    for function in (step.eval_step, step.answer)
  )

  # ---------------------------------------------------------------- loop
  start = int(state.step)
  tally, bad_said = new_tally(), {}
  log, data, spent = RunLog(workdir, start), train_batches(start, tally), Spent()

  def report(number: int, metrics: step.Metrics) -> None:
    values = {"loss": float(metrics.loss), "grad_norm": float(metrics.grad_norm)}
    if not all(map(math.isfinite, values.values())):
      raise DivergedError(
        f"step {number}: loss {values['loss']}, gradient norm {values['grad_norm']}; lower "
        "--config.optim.learning_rate and start again in another --workdir"
      )
    log.write(number, {**values, "learning_rate": float(rate(number - 1))})
    if number % cfg.log_every == 0 or number == cfg.steps:
      seconds = spent.seconds()
      speed = (number - start - 1) * cfg.batch_size / (seconds["train"] + seconds.get("data", 0))
      left = int((cfg.steps - number) * cfg.batch_size / speed) if speed else 0
      log.write_times(number, speed, spent)
      say(
        f"step {number}/{cfg.steps}  loss {values['loss']:.4f}  {speed:.1f} examples/s  "
        f"{left // 60}m{left % 60:02d}s left"
      )
      counters = tally.check()
      bad = bad_records.by_reason(counters)
      if bad and (number == cfg.steps or bad != bad_said):
        say(f"{bad_records.describe(counters)}: see {bad_name}")
      bad_said.update(bad)
      if bad and number == cfg.steps:
        log.write(number, bad)

  pending: tuple[int, step.Metrics] | None = None
  for number in range(start + 1, cfg.steps + 1):
    if number == start + 1:
      say("compiling the training step, once")
      with spent.on("compile"):
        state, metrics = train_step(state, next(data))
        metrics.loss.block_until_ready()
      say(f"compiled in {spent.seconds()['compile']:.0f} s")
    else:
      with spent.on("data"):  # the device may be busy with the step before meanwhile
        batch = next(data)
      state, metrics = train_step(state, batch)
    if pending:
      # The step before the one in flight, so that the device never waits for the host.
      report(*pending)
    pending = (number, metrics)
    saves, validates = (
      number % every == 0 or number == cfg.steps for every in (cfg.save_every, cfg.eval_every)
    )
    if saves or validates:
      # What a checkpoint holds is on record before it: a run that resumes from it misses no line.
      report(*pending)
      pending = None
    with spent.on("evaluate"):
      if validates and cfg.eval_batches:
        left_out: list[bad_records.BadRecord] = []
        loss = validate(state, val_batches(cfg.eval_batches, left_out), eval_step)
        missed = int(parallel.total(bad_records.count(left_out)).sum())
        log.write(number, {"val_loss": loss, **({"val_left_out": missed} if missed else {})})
        say(f"step {number}  validation loss {loss:.4f}")
        if missed:
          say(f"{missed} validation rows are left out, their audio is bad: see {bad_name}")
      if validates and cfg.sample_answers:
        (batch,) = val_batches(1, [])
        for shown in sample_answers(state, batch, val_encoder, cfg.sample_answers, answer_step):
          log.write_answer(number, shown)
          say("  Q {question}\n  A {answer}   (expected: {expected})".format(**shown))
    if saves:
      with spent.on("save"):
        try:
          checkpoints.save(number, state, run)
        except CheckpointError as error:
          # Training goes on: a later save may find room again.
          print(f"mellow_jax.train: {error}", file=sys.stderr, flush=True)
  log.close()

  # ---------------------------------------------------------------- model folder
  if start == cfg.steps and (workdir / "model").exists():
    say(f"nothing is left to do: all {cfg.steps} steps are done")
  else:
    flat = {k: parallel.to_host(v) for k, v in {**state.trainable, **state.frozen}.items()}
    if parallel.is_first():
      params = mellow.unflatten(flat, mellow.abstract(cfg.model)[1])
      checkpoint.save_model(
        workdir / "model", params, cfg.model, cfg.data.preset, tokenizer, overwrite=True
      )
    say(f"model folder: {workdir / 'model'}")
  checkpoints.wait()
  checkpoints.close()
  return state


def parse_flags(argv: list[str]) -> list[str]:
  """Reads the command line for `app.run` and returns what is no flag.

  The flags are defined here, since other commands have some of the same names. An unknown config
  field is one line and exit status 1.
  """
  config_flags.DEFINE_config_file("config", None, "File with get_config().")
  flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints and metrics.")
  flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, or auto.")
  flags.DEFINE_integer("processes", None, "Processes of this run.")
  flags.DEFINE_integer("process_id", None, "Number of this one, from 0.")
  flags.mark_flags_as_required(["config", "workdir"])
  try:
    return app.parse_flags_with_usage(argv)
  except KeyError as error:
    print(f"mellow_jax.train: unknown config field ({error.args[0]})", file=sys.stderr)
    sys.exit(1)


def main(argv: list[str]) -> None:
  """Entry of the command; anticipated errors are one line and exit status 1."""
  values = flags.FLAGS
  if not values["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax reports every phase of every save at INFO
  workdir = pathlib.Path(values.workdir).absolute()
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}")
    parallel.enable_compilation_cache()
    parallel.initialize(values.coordinator, values.processes, values.process_id)
    workdir.mkdir(parents=True, exist_ok=True)
    train(values.config, workdir)
  except KNOWN_ERRORS as error:
    print(f"mellow_jax.train: {error}", file=sys.stderr, flush=True)
    if isinstance(error, StalledError):
      os._exit(1)  # an ordinary exit would wait for the thread that hangs
    sys.exit(1)


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
