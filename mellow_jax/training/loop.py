"""The training loop: set up, step by step, validate and save on the way, finish."""

import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

from mellow_jax import checkpoint, config, files, parallel, progress
from mellow_jax.config import Config
from mellow_jax.data import bad_records
from mellow_jax.errors import CheckpointError, ConfigError, DivergedError
from mellow_jax.training import (
  checkpoints,
  features,
  init,
  programs,
  report,
  step,
  trace,
  validation,
)
from mellow_jax.training.checkpoints import Counters, TrainCheckpoints
from mellow_jax.training.loader import Loader
from mellow_jax.training.metrics import MetricsWriter, Timer, batch_digest
from mellow_jax.training.programs import Programs
from mellow_jax.training.step import Batch, Flat, Parts, TrainState


@dataclasses.dataclass(kw_only=True)
class Run:
  """A training run under way: its parts, then what changes from step to step."""

  cfg: Config
  workdir: pathlib.Path
  loader: Loader
  programs: Programs
  checkpoints: TrainCheckpoints
  settings: dict[str, Any]  # that a run must share with this one to resume it
  start: int  # the step that this process started from
  writer: MetricsWriter
  timer: Timer

  state: TrainState
  counters: Counters  # saved in each checkpoint beside those of the loader
  saved: int  # the newest step in a checkpoint
  # The step for each of step.answer_slots that came.
  compiled: dict[tuple[int, ...], Callable] = dataclasses.field(default_factory=dict)
  pending: tuple[int, step.Metrics, dict[str, str]] | None = None  # the last step, not yet logged
  timed: int = 0  # steps of this process up to the pending one whose time is not a compilation's


def train(
  cfg: Config,
  workdir: pathlib.Path,
  profile: range = range(0),
  stop_requested: Callable[[], bool] = lambda: False,
) -> TrainState:
  """Runs or resumes a training run and returns its last state.

  profile holds the steps to trace. stop_requested is called before each step; once it is true, the
  last step is saved and its state returned. Raises the errors of the parts, each with a message
  that says what to change.
  """
  with own_folder(workdir):
    timer = Timer()
    with timer.section("start"):
      run = setup(cfg, workdir, timer)
    with contextlib.closing(run.loader.train(run.start, run.counters)) as batches:
      return _train(run, batches, profile, stop_requested)


@contextlib.contextmanager
def own_folder(workdir: pathlib.Path) -> Iterator[None]:
  """Makes the folder of a run and keeps other runs out of it; a failed start leaves no empty one.

  Raises ConfigError where another run is in it.
  """
  lock = files.locked(workdir) if parallel.is_first() else contextlib.nullcontext(True)
  with files.made_folder(workdir), lock as is_free:
    if parallel.any_process(not is_free):
      raise ConfigError(
        f"{workdir}: another run is writing there: wait for its end, or name another --workdir"
      )
    try:
      yield
    except BaseException:
      with contextlib.suppress(OSError):  # absent, or not empty
        (workdir / "checkpoints").rmdir()
      raise


def _train(
  run: Run, batches: Iterator[Batch], profile: range, stop_requested: Callable[[], bool]
) -> TrainState:
  cfg, workdir = run.cfg, run.workdir
  profile = range(max(profile.start, run.start + 1), min(profile.stop, cfg.steps + 1))

  for number in range(run.start + 1, cfg.steps + 1):
    if stop_requested():
      return stop(run)

    # ---------------------------------------------------------------- step
    with run.timer.section("data"):  # the device may still be busy with the step before
      batch = next(batches)
    if profile and number == profile[0]:
      jax.profiler.start_trace(str(workdir / "profile"))
    run_step(run, number, batch)
    if profile and number == profile[-1]:
      jax.block_until_ready(run.state)
      jax.profiler.stop_trace()
      parallel.log(f"trace of steps {profile[0]} to {number}: {workdir / 'profile'}")
      if jax.process_index() == 0:
        parallel.log(trace.summary(workdir / "profile"))

    # ---------------------------------------------------------------- validation, checkpoint
    saves, validates = (
      number % every == 0 or number == cfg.steps for every in (cfg.save_every, cfg.eval_every)
    )
    if saves or validates:
      # Metrics are written before the checkpoint of their step: a resumed run misses no line.
      log_pending(run)
    if validates:
      with run.timer.section("evaluate"), progress.stage("validating", parallel.log):
        validate(run, number)
    if saves:
      with run.timer.section("save"):
        if attempt(save, run, number):
          run.saved = number

  return finish(run)


def setup(cfg: Config, workdir: pathlib.Path, timer: Timer) -> Run:
  """Builds the parts of a run, and its state: from its last checkpoint, or else a new one."""
  config.validate(cfg, devices=jax.device_count())
  if not any((workdir / "checkpoints").glob("[0-9]*")):  # a run that goes on needs no folders
    init.check_folders(cfg)
  mesh = parallel.make_mesh(cfg.mesh)
  parallel.log(f"{jax.device_count()} x {jax.devices()[0].device_kind}, mesh {dict(mesh.shape)}")
  with progress.stage("reading the rows", parallel.log):
    loader = Loader(cfg, mesh, workdir)
  cfg = loader.cfg
  for line in loader.faults():
    parallel.log(line)
  if cfg.auto_remat and not cfg.model.decoder.remat:
    # All compute the same way, also where the memory of one is not that of the others.
    fits = programs.fits(cfg, mesh, loader.usual_tokens)
    cfg.model.decoder.remat = parallel.any_process(not fits)
    parallel.log(f"model.decoder.remat: {cfg.model.decoder.remat}, by the memory of a device")
  epoch = max(len(loader.rows) // cfg.batch_size, 1)
  compiled = programs.make(cfg, mesh, epoch, loader.usual_tokens)

  saved = TrainCheckpoints(workdir / "checkpoints", keep=cfg.keep)
  settings = checkpoints.run_settings(cfg, len(loader.rows), loader.content)
  restored = saved.restore(compiled.abstract, settings)
  if restored:
    state, counters = restored[0], comparable(restored[1], loader.scored)
    parallel.log(f"resumed from step {int(state.step)} of {workdir}")
  else:
    with progress.stage("making the first state", parallel.log):
      state, counters = first_state(cfg, loader, compiled), {"scored": loader.scored}
  if cfg.data.features:
    features.check_encoder(cfg.data.features, state.frozen)
  trainable, frozen = (
    sum(x.size for x in part.values()) for part in (state.trainable, state.frozen)
  )
  held = sum(x.nbytes for x in jax.tree.leaves(state)) / 2**20
  parallel.log(
    f"{trainable:,} trainable of {trainable + frozen:,}, {held:,.0f} MiB with the moments of Adam"
  )
  start = int(state.step)
  if start > cfg.steps:
    raise ConfigError(f"{workdir}: step {start} is done: give --config.steps={start} or more")
  if parallel.is_first():
    files.write_text(workdir / "run.json", json.dumps(dataclasses.asdict(cfg), indent=1))

  return Run(
    cfg=cfg,
    workdir=workdir,
    loader=loader,
    programs=compiled,
    checkpoints=saved,
    settings=settings,
    start=start,
    writer=MetricsWriter(workdir, start),
    timer=timer,
    state=state,
    counters=counters,
    saved=start,
  )


def comparable(counters: Counters, scored: int) -> Counters:
  """Counters of a checkpoint, without the best validation where it scored other rows than this run.

  best/ would not be written again if the loss on the rows before was lower than it gets on these.
  """
  if counters.get("scored", scored) != scored:
    parallel.log("validation scores other rows than before: the lowest loss is found anew")
    counters = {k: x for k, x in counters.items() if k not in ("best_val_loss", "best_step")}
  return {**counters, "scored": scored}


def first_state(cfg: Config, loader: Loader, compiled: Programs) -> TrainState:
  """The state before step 1, from init_from or from scratch."""
  flat = init.parameters(cfg, loader.tokenizer)
  if cfg.calibrate_batches:
    parallel.log(f"measuring bn0's statistics on {cfg.calibrate_batches} batches")
    first = itertools.islice(loader.train(0, {}), cfg.calibrate_batches)
    flat = init.calibrate(flat, cfg, first, loader.mesh)
  # From the host: each process holds all parameters, each device takes its part.
  return compiled.init_state(jax.device_get(flat))


def run_step(run: Run, number: int, batch: Batch | Parts) -> None:
  """Dispatches a step, then logs the one before, so that the device never waits for the host."""
  audit = {"batch": batch_digest(batch)} if run.cfg.audit else {}
  slots = step.answer_slots(batch)
  is_new = slots not in run.compiled
  if is_new:
    several = run.cfg.data.answer_lengths > 1
    lengths = f"for answers of up to {', '.join(map(str, slots))} tokens" if several else "once"
    parallel.log(f"compiling the training step, {lengths}")
    stage, before = progress.stage("compiling", parallel.log, is_said=True), run.timer.seconds()
    with run.timer.section("compile"), stage:
      compiled = run.compiled[slots] = run.programs.train_step.lower(run.state, batch).compile()
      run.state, metrics = compiled(run.state, batch)
      metrics.loss.block_until_ready()
    needed = compiled.memory_analysis().temp_size_in_bytes / 2**20
    seconds = run.timer.seconds()["compile"] - before.get("compile", 0)
    parallel.log(f"compiled in {seconds:.0f} s; a step takes {needed:,.0f} MiB for a while")
  else:
    run.state, metrics = run.compiled[slots](run.state, batch)
  log_pending(run)
  run.pending = (number, metrics, audit)
  run.timed += not is_new


def log_pending(run: Run) -> None:
  """Writes the metrics of the last step, unless they are written already.

  Raises DivergedError after config.optim.max_skipped steps in a row whose loss or gradient is not
  finite.
  """
  if not run.pending:
    return
  (number, metrics, audit), run.pending, cfg = run.pending, None, run.cfg
  loss, grad_norm = float(metrics.loss), float(metrics.grad_norm)
  if in_a_row := int(metrics.skipped_in_a_row):
    why = f"loss {loss}, gradient norm {grad_norm}"
    parallel.log(f"step {number}: {why}: no update")
    run.writer.write(number, {"skipped": int(metrics.skipped), "why": why, **audit})
    if in_a_row >= min(cfg.optim.max_skipped, cfg.steps):
      run.checkpoints.wait()
      raise DivergedError(
        f"step {number}: {why}; no update since step {number - in_a_row}, whose parameters are "
        "kept. Lower --config.optim.learning_rate and start again in another --workdir, or look "
        "for what is wrong with these batches"
      )
  else:
    values = {"loss": loss, "grad_norm": grad_norm, "learning_rate": float(metrics.learning_rate)}
    run.writer.write(number, {**values, **audit})
  patience = 2.0 if number - run.start < cfg.log_every else 8.0  # seconds without a line
  if number % cfg.log_every == 0 or number == cfg.steps:
    attempt(run.checkpoints.poll)
    log_progress(run, number, loss)
    run.writer.write_times(number, speed(run), run.timer)
    run.loader.check_bad_records(run.writer, number)
  elif parallel.silent_seconds() > patience:
    log_progress(run, number, loss)


def speed(run: Run) -> float:
  """Examples/s of the steps that were timed, waiting for data included."""
  seconds = run.timer.seconds()
  return run.timed * run.cfg.batch_size / (seconds["train"] + seconds.get("data", 0))


def log_progress(run: Run, number: int, loss: float) -> None:
  """Prints loss, and speed and time left once a step was timed."""
  text = f"step {number}/{run.cfg.steps}  loss {loss:.4f}"
  if run.timed:
    examples_per_s = speed(run)
    left = int((run.cfg.steps - number) * run.cfg.batch_size / examples_per_s)
    text += f"  {examples_per_s:.1f} examples/s  {left // 60}m{left % 60:02d}s left"
  parallel.log(text)


def validate(run: Run, number: int) -> None:
  """Writes the validation loss and sample answers, and the model folder best/ where it is due."""
  cfg, loader = run.cfg, run.loader
  if cfg.eval_batches:
    skipped: list[bad_records.BadRecord] = []
    batches = loader.validation(cfg.eval_batches, skipped)
    loss, right, answers = validation.scores(run.state, batches, run.programs.eval_step)
    bad = int(parallel.sum_over_processes(bad_records.count(skipped)).sum())
    found = {"val_loss": loss, "val_accuracy": right / max(answers, 1), "val_answers": answers}
    run.writer.write(number, {**found, **({"val_left_out": bad} if bad else {})})
    parallel.log(
      f"step {number}  validation loss {loss:.4f}, {right} of {answers} answers right word for word"
    )
    if bad:
      parallel.log(
        f"{bad} validation rows are left out, their audio is bad: see {loader.report_name}"
      )
    if cfg.keep_best and loss < run.counters.get("best_val_loss", math.inf):
      run.counters |= {"best_val_loss": loss, "best_step": number}
      attempt(write_model, run, "best", step.inference_params(run.state, cfg))
  if cfg.sample_answers:
    rows, count = len(loader.val_encoder.rows), cfg.sample_answers
    numbers = validation.spread(rows, count, cfg.batch_size)
    (batch,) = loader.validation(1, [], numbers)
    for shown in validation.sample_answers(
      run.state,
      batch,
      numbers,
      loader.val_encoder,
      count,
      run.programs.answer,
      run.workdir / "clips",
    ):
      run.writer.write_answer(number, shown)
      parallel.log(
        "  {clip1}\n  Q {question}\n  A {answer}   (expected: {expected})".format(**shown)
      )


def save(run: Run, number: int) -> None:
  """Starts writing a checkpoint; raises CheckpointError as TrainCheckpoints.save does."""
  run.checkpoints.save(number, run.state, run.settings, run.counters | run.loader.counters())


def write_model(run: Run, name: str, params: Flat) -> None:
  """Writes a model folder into the run's folder; raises CheckpointError where it cannot."""
  params = {k: parallel.to_host(v) for k, v in params.items()}
  if parallel.is_first():
    cfg, folder = run.cfg, run.workdir / name
    checkpoint.save_model(
      folder, params, cfg.model, cfg.data.preset, run.loader.tokenizer, overwrite=True
    )


def attempt(write: Callable, *args: Any) -> bool:
  """Whether the write succeeded; if not, a warning is printed and training goes on."""
  try:
    write(*args)
  except CheckpointError as error:
    print(f"warning: {error}", file=sys.stderr, flush=True)
    return False
  return True


def stop(run: Run) -> TrainState:
  """Ends a run before its last step, with a checkpoint of the step that it has come to."""
  log_pending(run)
  number = int(run.state.step)
  with run.timer.section("save"):
    if run.saved < number:
      save(run, number)
    run.checkpoints.close()
  close_logs(run, number)
  parallel.log(f"stopped as asked after step {number}; the same command goes on from there")
  return run.state


def finish(run: Run) -> TrainState:
  """Ends a run after its last step, with the model folder and the report."""
  model = run.workdir / "model"
  if run.start == run.cfg.steps and model.exists():
    run.writer.close()
    parallel.log(f"nothing is left to do: all {run.cfg.steps} steps are done")
  else:
    try:
      with run.timer.section("save"):
        write_model(run, "model", step.inference_params(run.state, run.cfg))
        if run.cfg.optim.lora.kernels:
          write_model(run, "adapter", step.adapter(run.state, run.cfg))
    finally:
      close_logs(run, run.cfg.steps)
    if parallel.is_first():
      report.write(run.workdir)
    page = run.workdir / "report.html"
    parallel.log(f"model folder: {model}, the run on one page: {page}")
  run.checkpoints.close()
  return run.state


def close_logs(run: Run, number: int) -> None:
  """Writes where the time went since the last line of times, and closes the logs."""
  run.writer.write_times(number, speed(run), run.timer)
  run.writer.close()
