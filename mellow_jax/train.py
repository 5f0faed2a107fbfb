"""The training command.

  mellow train --config=demo --workdir=runs/demo [--config.FIELD=VALUE ...]

The same command again resumes from the last checkpoint. The workdir gets checkpoints/, the model
folders best/ (lowest validation loss so far) and model/ (the last step's), the page report.html,
run.json, TensorBoard files, and what mellow_jax/training/metrics.py lists. --profile=100:5 writes a
trace of steps 100 to 104 to profile/.

SIGTERM and Ctrl-C save the step that is running and end with exit status 75: start the same command
again. Otherwise the status is 0 where all is done, 1 after an error of one line.

Several processes find each other on TPU pods, SLURM, Open MPI and Kubernetes; elsewhere each is
given --coordinator=HOST:PORT --processes=N --process_id=I, with I from 0 to N - 1. All must see the
same files. The folder launch/ has a script for each place.
"""

import dataclasses
import faulthandler
import functools
import itertools
import json
import math
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags, logging

from mellow_jax import checkpoint, cli, config, parallel
from mellow_jax.config import Config
from mellow_jax.data import bad_records
from mellow_jax.errors import CheckpointError, ConfigError, DivergedError, FlagsError, StalledError
from mellow_jax.parallel import say
from mellow_jax.training import checkpoints as checkpoints_lib
from mellow_jax.training import init, programs, step, validation
from mellow_jax.training import report as report_page
from mellow_jax.training.loader import Feed
from mellow_jax.training.metrics import RunLog, Spent, fingerprint
from mellow_jax.training.step import TrainState


def parse_profile(text: str) -> range:
  """The steps that --profile=STEP:COUNT asks a trace of; none of "".

  Raises ConfigError for anything else.
  """
  if not text:
    return range(0)
  first, _, count = text.partition(":")
  if not (first.isdecimal() and count.isdecimal() and int(first) and int(count)):
    raise ConfigError(f"--profile={text}: give STEP:COUNT, such as 100:5")
  return range(int(first), int(first) + int(count))


def attempt(write: Callable, *args: Any) -> bool:
  """Whether it could be written; if not, a line says so, and training goes on all the same."""
  try:
    write(*args)
  except CheckpointError as error:
    print(f"warning: {error}", file=sys.stderr, flush=True)
    return False
  return True


def train(
  cfg: Config,
  workdir: pathlib.Path,
  profile: range = range(0),
  stop_asked: Callable[[], bool] = lambda: False,
) -> TrainState:
  """Runs or resumes a training run and returns its last state; profile: steps to trace.

  stop_asked is called before each step; once it is true, the last step is saved and
  returned. Raises the errors of its parts, each with a message that names what to mend.
  """
  # ---------------------------------------------------------------- devices
  config.validate(cfg, devices=jax.device_count())
  mesh = parallel.make_mesh(cfg.mesh)
  say(f"{jax.device_count()} x {jax.devices()[0].device_kind}, mesh {dict(mesh.shape)}")

  # ---------------------------------------------------------------- data
  feed = Feed(cfg, mesh, workdir)

  # ---------------------------------------------------------------- state
  # In this order: own last checkpoint, then init_from, then scratch.
  compiled = programs.make(cfg, mesh, max(len(feed.rows) // cfg.batch_size, 1))
  checkpoints = checkpoints_lib.TrainCheckpoints(workdir / "checkpoints", keep=cfg.keep)
  run = checkpoints_lib.settings(cfg, len(feed.rows), feed.digest)
  found = checkpoints.restore(compiled.abstract, run)
  counters: checkpoints_lib.Counters = {}
  if found is not None:
    state, counters = found
    say(f"resumed from step {int(state.step)} of {workdir}")
  else:
    flat = init.parameters(cfg, feed.tokenizer)
    if cfg.calibrate_batches:
      say(f"measuring bn0's statistics on {cfg.calibrate_batches} batches")
      first = itertools.islice(feed.train(0, {}), cfg.calibrate_batches)
      flat = init.calibrate(flat, cfg, first, mesh)
    # From the host: each process holds all of it, each device gets its part.
    state = compiled.init_state(jax.device_get(flat))
  trainable = sum(x.size for x in state.trainable.values())
  say(f"{trainable:,} trainable of {trainable + sum(x.size for x in state.frozen.values()):,}")
  if parallel.is_first():
    (workdir / "run.json").write_text(json.dumps(dataclasses.asdict(cfg), indent=1))

  # ---------------------------------------------------------------- loop
  start = saved = int(state.step)
  profile = range(max(profile.start, start + 1), min(profile.stop, cfg.steps + 1))
  log, data, spent = RunLog(workdir, start), feed.train(start, counters), Spent()

  def write_model(name: str, flat: dict[str, jax.Array]) -> None:
    flat = {k: parallel.to_host(v) for k, v in flat.items()}
    if parallel.is_first():
      checkpoint.save_model(
        workdir / name, flat, cfg.model, cfg.data.preset, feed.tokenizer, overwrite=True
      )

  def report(number: int, metrics: step.Metrics, audit: dict[str, str]) -> None:
    values = {"loss": float(metrics.loss), "grad_norm": float(metrics.grad_norm)}
    if in_a_row := int(metrics.skipped_in_a_row):
      why = f"loss {values['loss']}, gradient norm {values['grad_norm']}"
      say(f"step {number}: {why}: no update")
      log.write(number, {"skipped": int(metrics.skipped), "why": why, **audit})
      if in_a_row >= min(cfg.optim.max_skipped, cfg.steps):
        checkpoints.wait()
        raise DivergedError(
          f"step {number}: {why}; no update since step {number - in_a_row}, whose parameters are "
          "kept. Lower --config.optim.learning_rate and start again in another --workdir, or look "
          "for what is wrong with these batches"
        )
    else:
      log.write(
        number, {**values, "learning_rate": float(compiled.learning_rate(number - 1)), **audit}
      )
    if number % cfg.log_every == 0 or number == cfg.steps:
      attempt(checkpoints.poll)
      seconds = spent.seconds()
      speed = (number - start - 1) * cfg.batch_size / (seconds["train"] + seconds.get("data", 0))
      left = int((cfg.steps - number) * cfg.batch_size / speed) if speed else 0
      log.write_times(number, speed, spent)
      say(
        f"step {number}/{cfg.steps}  loss {values['loss']:.4f}  {speed:.1f} examples/s  "
        f"{left // 60}m{left % 60:02d}s left"
      )
      feed.check(log, number)

  pending: tuple[int, step.Metrics, dict[str, str]] | None = None
  stopped = False
  for number in range(start + 1, cfg.steps + 1):
    if stopped := stop_asked():
      break
    with spent.on("data"):  # the device may be busy with the step before meanwhile
      batch = next(data)
    audit = {"batch": fingerprint(batch)} if cfg.audit else {}
    if profile and number == profile[0]:
      jax.profiler.start_trace(str(workdir / "profile"))
    if number == start + 1:
      say("compiling the training step, once")
      with spent.on("compile"):
        state, metrics = compiled.train_step(state, batch)
        metrics.loss.block_until_ready()
      say(f"compiled in {spent.seconds()['compile']:.0f} s")
    else:
      state, metrics = compiled.train_step(state, batch)
    if pending:
      # The step before the one in flight, so that the device never waits for the host.
      report(*pending)
    pending = (number, metrics, audit)
    if profile and number == profile[-1]:
      metrics.loss.block_until_ready()
      jax.profiler.stop_trace()
      say(f"trace of steps {profile[0]} to {number}: {workdir / 'profile'}")
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
        batches = feed.validation(cfg.eval_batches, left_out)
        loss = validation.mean_loss(state, batches, compiled.eval_step)
        missed = int(parallel.total(bad_records.count(left_out)).sum())
        log.write(number, {"val_loss": loss, **({"val_left_out": missed} if missed else {})})
        say(f"step {number}  validation loss {loss:.4f}")
        if missed:
          say(f"{missed} validation rows are left out, their audio is bad: see {feed.report_name}")
        if cfg.keep_best and loss < counters.get("best_val_loss", math.inf):
          counters |= {"best_val_loss": loss, "best_step": number}
          attempt(write_model, "best", step.inference_params(state, cfg))
      if validates and cfg.sample_answers:
        (batch,) = feed.validation(1, [])
        for shown in validation.sample_answers(
          state, batch, feed.val_encoder, cfg.sample_answers, compiled.answer
        ):
          log.write_answer(number, shown)
          say("  Q {question}\n  A {answer}   (expected: {expected})".format(**shown))
    if saves:
      with spent.on("save"):
        if attempt(checkpoints.save, number, state, run, counters | feed.counters()):
          saved = number
  if stopped:
    if pending:
      report(*pending)
    if saved < int(state.step):
      checkpoints.save(int(state.step), state, run, counters | feed.counters())
    checkpoints.close()
    log.close()
    say(f"stopped as asked after step {int(state.step)}; the same command goes on from there")
    return state
  log.close()

  # ---------------------------------------------------------------- model folder
  if start == cfg.steps and (workdir / "model").exists():
    say(f"nothing is left to do: all {cfg.steps} steps are done")
  else:
    write_model("model", step.inference_params(state, cfg))
    if cfg.optim.lora.kernels:
      write_model("adapter", step.adapter(state, cfg))
    if parallel.is_first():
      report_page.write(workdir)
    say(f"model folder: {workdir / 'model'}, the run on one page: {workdir / 'report.html'}")
  checkpoints.close()
  return state


def _flags(argv: Sequence[str]) -> flags.FlagValues:
  f = cli.flag_values()
  cli.define_config(f, argv)
  text = functools.partial(flags.DEFINE_string, flag_values=f)
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  text("workdir", None, "Folder of this run: checkpoints and metrics.")
  text("coordinator", "", "HOST:PORT of process 0; none: this process is alone.")
  number("processes", None, "Processes of this run.")
  number("process_id", None, "Number of this one, from 0.")
  text("profile", "", "STEP:COUNT, the first step to trace and how many.")
  number("start_seconds", 300, "How long processes wait for each other to start.")
  number("heartbeat_seconds", 100, "Silence after which a process counts as dead.")
  text("verbosity", None, "What libraries log: debug, info, warning or error; warning if absent.")
  return f


def _train(f: flags.FlagValues) -> int:
  if not f.config:
    raise FlagsError("--config is missing: name a config, such as --config=demo")
  if not f.workdir:
    raise FlagsError("--workdir is missing: name a folder for this run")
  flags.FLAGS.mark_as_parsed()  # Grain reads its flags there when it starts workers
  faulthandler.enable()
  logging.use_absl_handler()
  logging.set_verbosity(f.verbosity or logging.WARNING)
  if not f.verbosity:
    checkpoints_lib.hush()  # Orbax reports every phase of every save at INFO
  workdir, profile = pathlib.Path(f.workdir).absolute(), parse_profile(f.profile)
  parallel.use_compilation_cache()
  if f.config.deterministic:
    parallel.make_deterministic()
  place = (f.coordinator, f.processes, f.process_id)
  parallel.initialize(*place, f.start_seconds, f.heartbeat_seconds)
  stop = parallel.Stop()
  workdir.mkdir(parents=True, exist_ok=True)
  try:
    state = train(f.config, workdir, profile, stop.asked)
  except StalledError as error:
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(1)  # an ordinary exit would wait for the thread that hangs
  except jax.errors.JaxRuntimeError:
    if jax.process_count() == 1:
      raise
    # As like as not another process has died. JAX aborts when it has been silent for long enough;
    # a collective may notice it before, and ends the same way: start all of them again.
    traceback.print_exc()
    os.abort()
  # EX_TEMPFAIL is 75, which launchers answer with the same command.
  return os.EX_TEMPFAIL if int(state.step) < f.config.steps else 0


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  example = "--config=demo --workdir=DIR"
  return cli.run(argv, _flags(argv), __doc__, _train, example=example)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
