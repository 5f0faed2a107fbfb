"""The training command.

  python -m mellow_jax.train --config=configs/demo.py --workdir=runs/demo [--config.FIELD=VALUE ...]

The same command again resumes from the last checkpoint. The workdir gets checkpoints/, the model
folder model/ at the end, metrics.jsonl, answers.jsonl and TensorBoard files.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorboardX
import tokenizers
from absl import app, flags, logging
from jax.sharding import Mesh
from jaxtyping import Array, Float
from ml_collections import config_flags

from mellow_jax import checkpoint, optim, parallel, step
from mellow_jax.checkpoint import CheckpointError
from mellow_jax.config import Config, ConfigError
from mellow_jax.data import pipeline, prompts, scenes, words
from mellow_jax.data.audio import AudioError
from mellow_jax.data.pipeline import PipelineError
from mellow_jax.data.records import Record, RecordError
from mellow_jax.models import mellow
from mellow_jax.step import Batch, TrainState

# Raised with a message for the person who started the run; anything else is a defect of ours.
KNOWN_ERRORS = (AudioError, CheckpointError, ConfigError, PipelineError, RecordError, OSError)

EMBEDDING = "decoder/embed/embedding"

CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config().")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints and metrics.")


def make_tokenizer(cfg: Config, rows: Sequence[Record]) -> tokenizers.Tokenizer:
  """The tokenizer that config.data.tokenizer asks for.

  Raises CheckpointError or ConfigError, saying what to give.
  """
  if cfg.data.source == "scenes":
    tokenizer, source = scenes.build_tokenizer(), "scenes"
  elif cfg.data.tokenizer == "words":
    texts = (text for row in rows for text in (row.input, row.answer))
    tokenizer, source = words.build_tokenizer(texts), "words"
  else:
    folders = [cfg.data.tokenizer] if cfg.data.tokenizer else list(cfg.init_from)[::-1]
    if not folders:
      raise ConfigError("no tokenizer: give --config.data.tokenizer=FOLDER or --config.init_from")
    tokenizer, source = checkpoint.load_tokenizer(folders[0]), folders[0]
  if tokenizer.get_vocab_size() > cfg.model.decoder.vocab:
    raise ConfigError(
      f"config.model.decoder.vocab {cfg.model.decoder.vocab} has no room for the "
      f"{tokenizer.get_vocab_size()} tokens of tokenizer {source!r}"
    )
  return tokenizer


def init_flat(cfg: Config, tokenizer: tokenizers.Tokenizer) -> dict[str, Array]:
  """Parameters before step 0: fresh ones, replaced by those of each folder of init_from.

  Where a folder's tokenizer is another one, the tokens that both know keep their embedding.
  Raises CheckpointError where a folder's parameters are not this model's.
  """
  flat = mellow.flatten(mellow.init_params(cfg.model, cfg.seed))
  for folder in cfg.init_from:
    loaded, _, _ = checkpoint.load_params(folder)
    if EMBEDDING in loaded and EMBEDDING in flat:
      old = checkpoint.load_tokenizer(folder).get_vocab()
      loaded[EMBEDDING] = move_embeddings(
        loaded[EMBEDDING], flat[EMBEDDING], old, tokenizer.get_vocab()
      )
    for name, value in loaded.items():
      if name not in flat or flat[name].shape != value.shape:
        ours = flat[name].shape if name in flat else "absent"
        raise CheckpointError(
          f"{folder}: another architecture: {name} is {value.shape} there, {ours} in config.model"
        )
    flat.update(loaded)
    say(f"{folder}: {len(loaded)} of {len(flat)} arrays taken")
  return flat


def move_embeddings(
  loaded: Float[Array, "U D"],
  fresh: Float[Array, "V D2"],
  old: dict[str, int],
  new: dict[str, int],
) -> Float[Array, "W D"]:
  """Embeddings of a vocabulary in the order of another; tokens only the new one has stay fresh."""
  if old == new or loaded.shape[1] != fresh.shape[1]:
    return loaded
  shared = sorted(set(old) & set(new))
  source, target = ([vocab[token] for token in shared] for vocab in (old, new))
  say(f"{len(shared)} of {len(new)} tokens keep their embedding")
  return fresh.at[np.asarray(target)].set(loaded[np.asarray(source)])


def calibrate(flat: dict[str, Array], cfg: Config, batches: Iterable[Batch]) -> dict[str, Array]:
  """Sets bn0's running statistics to those of the first training batches' mel bins."""
  moments = jax.jit(functools.partial(step.mel_moments, cfg=cfg.model))
  found = [moments(batch.wav1) for batch in batches]
  mean, square = (np.mean([f[i] for f in found], axis=0) for i in range(2))
  variance = np.maximum(square - mean**2, 1e-3)
  return {
    **flat,
    "encoder/bn0/mean": jnp.asarray(mean, jnp.float32),
    "encoder/bn0/var": jnp.asarray(variance, jnp.float32),
  }


def run_meta(cfg: Config) -> dict[str, Any]:
  """What two runs must share for one to resume the other."""
  plain = json.loads(json.dumps(dataclasses.asdict(cfg)))
  free = ("mesh", "save_every", "keep", "eval_every", "eval_batches", "sample_answers", "log_every")
  for name in free:
    plain.pop(name)
  # Files may move and threads may change: neither changes what a step reads.
  for name in ("train", "val", "audio_root", "tokenizer", "threads"):
    plain["data"].pop(name)
  plain.pop("init_from")
  return plain


class MetricsLog:
  """Metrics as JSON lines and TensorBoard, and the line a person reads."""

  def __init__(self, workdir: pathlib.Path, start_step: int):
    self.path = workdir / "metrics.jsonl"
    if self.path.exists():
      # Lines after the restored step would be written a second time.
      whole = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
      kept = [line + "\n" for line in whole if json.loads(line)["step"] <= start_step]
      self.path.write_text("".join(kept))
    self._file = self.path.open("a", buffering=1)
    self._board = tensorboardX.SummaryWriter(str(workdir), purge_step=start_step + 1)

  def write(self, step_number: int, values: dict[str, float]) -> None:
    """One line of metrics; floats keep every digit."""
    self._file.write(json.dumps({"step": step_number, **values}) + "\n")
    for name, value in values.items():
      self._board.add_scalar(name, value, step_number)

  def write_answer(self, step_number: int, shown: dict[str, str]) -> None:
    """A sample answer, as a line of answers.jsonl and as text on the board."""
    with (self.path.parent / "answers.jsonl").open("a") as file:
      file.write(json.dumps({"step": step_number, **shown}) + "\n")
    self._board.add_text(shown["question"], shown["answer"], step_number)

  def close(self) -> None:
    """Flushes both."""
    self._file.close()
    self._board.close()


def say(text: str) -> None:
  """A line for the person who watches; only the first process speaks."""
  if jax.process_index() == 0:
    print(text, flush=True)


def validate(
  state: TrainState, encoder: pipeline.Encoder, cfg: Config, mesh: Mesh, eval_step: Any
) -> float:
  """Mean loss over the answer tokens of the first eval_batches batches of the validation rows."""
  loss, tokens = 0.0, 0
  for arrays in pipeline.eval_batches(encoder, batch_size=cfg.batch_size, count=cfg.eval_batches):
    host = jax.tree.map(_shard, Batch(**arrays))
    batch_loss, batch_tokens = eval_step(
      state.trainable, state.frozen, parallel.place_batch(host, mesh)
    )
    loss, tokens = loss + float(batch_loss), tokens + int(batch_tokens)
  return loss / max(tokens, 1)


def sample_answers(
  state: TrainState, encoder: pipeline.Encoder, cfg: Config, mesh: Mesh, answer_step: Any
) -> list[dict[str, str]]:
  """The first validation questions with the right answer and the model's."""
  (arrays,) = pipeline.eval_batches(encoder, batch_size=cfg.batch_size, count=1)
  host = jax.tree.map(_shard, Batch(**arrays))
  found = answer_step(state.trainable, state.frozen, parallel.place_batch(host, mesh))
  shown = []
  for i in range(min(cfg.sample_answers, cfg.batch_size, len(encoder.rows))):
    tokens = np.asarray(found.tokens[i, 0])[: int(found.lengths[i, 0])]
    row = encoder.rows[i]
    text = encoder.tokenizer.decode(tokens.tolist())
    shown.append({"question": row.input, "expected": row.answer, "answer": text})
  return shown


def _shard(x: np.ndarray) -> np.ndarray:
  return x[jax.process_index() :: jax.process_count()]


def train(cfg: Config, workdir: pathlib.Path) -> TrainState:
  """Runs or resumes a training run and returns its last state.

  Raises the errors of its parts, each with a message that names what to mend.
  """
  # ---------------------------------------------------------------- devices
  mesh = parallel.make_mesh(cfg.mesh)
  devices, shards = jax.device_count(), jax.process_count()
  if cfg.batch_size % devices:
    raise ConfigError(f"config.batch_size {cfg.batch_size} does not divide over {devices} devices")
  say(f"{devices} x {jax.devices()[0].device_kind}, mesh {dict(mesh.shape)}")

  # ---------------------------------------------------------------- data
  if cfg.data.preset not in prompts.PRESETS:
    raise ConfigError(f"config.data.preset {cfg.data.preset!r}: use {', '.join(prompts.PRESETS)}")
  rows, val_rows, clips = pipeline.sources(cfg)
  tokenizer = make_tokenizer(cfg, rows)
  encoder = pipeline.Encoder(rows, clips, tokenizer, cfg.model, cfg.data)
  val_encoder = dataclasses.replace(encoder, rows=val_rows)

  def batches(start_step: int) -> Iterator[Batch]:
    for arrays in pipeline.train_batches(
      encoder,
      seed=cfg.seed,
      batch_size=cfg.batch_size,
      start_step=start_step,
      shuffle=cfg.data.source != "scenes",  # whose order is the curriculum
      shard=jax.process_index(),
      shards=shards,
    ):
      yield parallel.place_batch(Batch(**arrays), mesh)

  # ---------------------------------------------------------------- state
  # In this order: own last checkpoint, then init_from, then scratch.
  rate = optim.schedule(cfg.optim, cfg.steps, max(len(rows) // cfg.batch_size, 1))
  tx = optim.make(cfg.optim, rate)
  flat_abstract = mellow.flatten(mellow.abstract(cfg.model)[1])
  abstract = jax.eval_shape(lambda flat: step.init_state(flat, cfg, tx), flat_abstract)
  sharding = parallel.shardings(abstract, mesh)
  like = jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, sharding
  )
  (workdir / "run.json").write_text(json.dumps(dataclasses.asdict(cfg), indent=1))
  checkpoints = checkpoint.TrainCheckpoints(workdir / "checkpoints", keep=cfg.keep)
  meta = run_meta(cfg)
  restored = checkpoints.restore(like, meta)
  if restored:
    state = restored[0]
    say(f"resumed from step {int(state.step)} of {workdir}")
  else:
    flat = init_flat(cfg, tokenizer)
    if cfg.calibrate_batches:
      say(f"measuring bn0's statistics on {cfg.calibrate_batches} batches")
      first = (b for b, _ in zip(batches(0), range(cfg.calibrate_batches), strict=False))
      flat = calibrate(flat, cfg, first)
    state = jax.device_put(step.init_state(flat, cfg, tx), sharding)
  trainable = sum(x.size for x in state.trainable.values())
  say(f"{trainable:,} trainable of {trainable + sum(x.size for x in state.frozen.values()):,}")

  # ---------------------------------------------------------------- compile
  replicated = parallel.replicated(mesh)
  train_step = jax.jit(
    functools.partial(step.train_step, cfg=cfg, tx=tx),
    in_shardings=(sharding, parallel.batch_sharding(mesh)),
    out_shardings=(sharding, replicated),
    donate_argnums=0,
  )
  eval_step = jax.jit(
    functools.partial(step.eval_step, cfg=cfg.model),
    in_shardings=(sharding.trainable, sharding.frozen, parallel.batch_sharding(mesh)),
    out_shardings=replicated,
  )
  answer_step = jax.jit(
    functools.partial(step.answer, cfg=cfg.model),
    in_shardings=(sharding.trainable, sharding.frozen, parallel.batch_sharding(mesh)),
    out_shardings=replicated,
  )
  start = int(state.step)
  log = MetricsLog(workdir, start)
  data = batches(start)

  def save(number: int) -> bool:
    try:
      checkpoints.save(number, state, meta)
    except CheckpointError as error:
      # Training goes on: a later save may find room again.
      logging.error("%s", error)
      return False
    return True

  # ---------------------------------------------------------------- loop
  clock = time.perf_counter()
  pending: tuple[int, step.Metrics] | None = None

  def report() -> None:
    """Writes the step before the one in flight, so that the device never waits for the host."""
    if pending is None:
      return
    number, metrics = pending
    values = {"loss": float(metrics.loss), "grad_norm": float(metrics.grad_norm)}
    log.write(number, {**values, "learning_rate": float(rate(number - 1))})
    if number % cfg.log_every == 0 or number == cfg.steps:
      elapsed = time.perf_counter() - clock
      done = number - max(start, 1)
      speed = done * cfg.batch_size / elapsed if done > 0 else 0.0
      left = (cfg.steps - number) * cfg.batch_size / speed if speed else 0.0
      say(
        f"step {number}/{cfg.steps}  loss {values['loss']:.4f}  {speed:.1f} examples/s  "
        f"{int(left) // 60}m{int(left) % 60:02d}s left"
      )

  for number in range(start + 1, cfg.steps + 1):
    batch = next(data)
    if number == start + 1:
      say("compiling the training step, once")
    state, metrics = train_step(state, batch)
    if number == start + 1:
      metrics.loss.block_until_ready()
      say(f"compiled in {time.perf_counter() - clock:.0f} s")
      clock = time.perf_counter()
    report()
    pending = (number, metrics)
    last = number == cfg.steps
    if number % cfg.save_every == 0 or last:
      save(number)
    if number % cfg.eval_every == 0 or last:
      metrics.loss.block_until_ready()
      paused = time.perf_counter()
      loss = validate(state, val_encoder, cfg, mesh, eval_step)
      log.write(number, {"val_loss": loss})
      say(f"step {number}  validation loss {loss:.4f}")
      if cfg.sample_answers:
        for shown in sample_answers(state, val_encoder, cfg, mesh, answer_step):
          log.write_answer(number, shown)
          say("  Q {question}\n  A {answer}   (expected: {expected})".format(**shown))
      clock += time.perf_counter() - paused  # examples/s and time left are of training alone
  report()
  log.close()
  checkpoints.wait()
  checkpoints.close()
  if jax.process_index() == 0:
    flat = {**state.trainable, **state.frozen}
    params = mellow.unflatten(flat, mellow.abstract(cfg.model)[1])
    checkpoint.save_model(
      workdir / "model", params, cfg.model, cfg.data.preset, tokenizer, overwrite=True
    )
    say(f"model folder: {workdir / 'model'}")
  return state


def main(argv: list[str]) -> None:
  """Entry of the command; anticipated errors are one line and exit status 1."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax reports every phase of every save at INFO
  cfg = CONFIG.value
  workdir = pathlib.Path(WORKDIR.value or f"runs/{pathlib.Path(sys.argv[0]).stem}").absolute()
  try:
    parallel.enable_compilation_cache()
    workdir.mkdir(parents=True, exist_ok=True)
    train(cfg, workdir)
  except KNOWN_ERRORS as error:
    print(f"mellow_jax.train: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  app.run(main)
