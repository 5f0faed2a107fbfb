"""Answers a benchmark's questions, on all devices and by any number of processes.

  python -m mellow_jax.evaluate predict --checkpoint=DIR --benchmark=mmau --data=DIR \\
    --output=predictions.jsonl

A rerun goes on where the last run was stopped; the output appears when it is complete. Several
processes share the work, started as those of training are: by SLURM, Open MPI or on a TPU pod each
finds the others, elsewhere each is given --coordinator=HOST:PORT --processes=N --process_id=I.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags
from jaxtyping import Bool

from mellow_jax import checkpoint, parallel
from mellow_jax.ask import GREEDY, Mellow, QuestionError, Row
from mellow_jax.checkpoint import CheckpointError
from mellow_jax.config import AudioConfig, ConfigError
from mellow_jax.data import audio, prompts, quarantine, scenes
from mellow_jax.data.audio import AudioError, Clip
from mellow_jax.data.records import RecordError
from mellow_jax.decode import Sampling
from mellow_jax.evaluation import probes, readers, templates
from mellow_jax.evaluation.schema import Item, Prediction
from mellow_jax.predictions import PredictionsError, SharedPredictions

SHOWN = 5  # prompts that --show_prompts prints unless --limit says otherwise
NAMED = 5  # missing files that are named
READERS = 8  # threads that read clips
READ_AHEAD = 64  # questions whose clips are read before it is their turn
KEPT_CLIPS = 256  # that have been read, for items about the same clip


class FlagsError(ValueError):
  """Flags that do not go together; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class _Question:
  """An item as it is put to the model: one line of the output."""

  item: Item
  order: tuple[int, ...]
  prompt: str
  options: tuple[str, ...]  # as they are shown, with letters; in the item's own order


def _flags() -> flags.FlagValues:
  """A set of the command's own: absl's global one would be filled by whoever imports this."""
  f = flags.FlagValues()
  flags.DEFINE_bool("help", False, "Show this.", flag_values=f, short_name="h")
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  choice = functools.partial(flags.DEFINE_enum, flag_values=f)
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  switch = functools.partial(flags.DEFINE_bool, default=False, flag_values=f)
  text("checkpoint", help="Model folder, from the converter or from training.")
  choice("benchmark", None, list(readers.BENCHMARKS), "What is asked.")
  text("data", help="Folder of the benchmark's published files, or the file of its questions.")
  text("audio_root", help="Folder below which the clips are; by default that of the questions.")
  text("output", help="JSONL file for the answers; a rerun goes on where it stopped.")
  text("preset", help="release, training or clean; by default the model folder's.")
  styles = list(templates.STYLES)
  choice("prompt_style", None, styles, "By default plain for clean models, else reference.")
  switch("show_prompts", help=f"Print the first prompts, {SHOWN} or --limit, and stop.")
  number("limit", 0, "Ask only about so many items, the first; 0: about all.", lower_bound=0)
  text("quarantine", help="File of rows to leave out, from `mellow_jax.reasonaqa check`.")
  switch("allow_missing", help="Leave out the items whose audio is not there.")
  switch("options_loglik", help="Score each choice by its log-likelihood, too.")
  choice("audio", "clips", ["clips", "noise", "silence", "shuffled"], "What is heard.")
  seconds = ["none", "same", "random"]
  choice("audio2", "same", seconds, "What an item of one clip hears second; none: silence.")
  number("permute_options", 1, "Orders in which the choices are shown.", lower_bound=1)
  choice("window", "first", ["first", "center"], "Part of a long clip that is heard.")
  number("seed", 0, "What the probes draw depends on it.", lower_bound=0)
  number("max_new_tokens", GREEDY.max_new_tokens, "Tokens after which an answer is cut off.")
  number("batch_size", 8, "Items answered together, on each device.", lower_bound=1)
  text("coordinator", help="HOST:PORT of process 0; none: this process is alone.")
  number("processes", None, "Processes of this run.")
  number("process_id", None, "Number of this one, from 0.")
  return f


# --- What is asked -------------------------------------------------------------------------------


def _read_items(f: flags.FlagValues) -> list[Item]:
  for name in ("benchmark", "data"):
    if not f[name].value:
      raise FlagsError(f"--{name} is missing")
  left_out = quarantine.read(f.quarantine) if f.quarantine else {}
  items = readers.read(f.benchmark, f.data, quarantined=left_out, say=_say)
  return items[: f.limit or None]


def _style(f: flags.FlagValues, preset: str) -> templates.Style:
  return templates.STYLES[f.prompt_style] if f.prompt_style else templates.style_for(preset)


def _questions(
  f: flags.FlagValues, items: Sequence[Item], style: templates.Style, preset: str
) -> list[_Question]:
  """Each item in each of its orders, one after the other."""
  known, found = prompts.PRESETS[preset], []
  for item in items:
    for order in probes.orders(item, f.permute_options, f.seed):
      shown = templates.options(style, item, order)
      answers = [prompts.answer(text, known, task="other", training=False) for text in shown]
      asked = prompts.question(templates.prompt(style, f.benchmark, item, order), known)
      own = tuple(answers[order.index(i)] for i in range(len(order)))
      found.append(_Question(item, order, asked, own))
  return found


def _show_prompts(f: flags.FlagValues) -> None:
  """Prints the first prompts, word for word."""
  items = _read_items(f)[: f.limit or SHOWN]
  preset = f.preset or (checkpoint.load_model(f.checkpoint).preset if f.checkpoint else "release")
  style = _style(f, preset)
  print(f"benchmark {f.benchmark}, prompt style {style}, preset {preset}")
  end = prompts.PRESETS[preset].question_end
  follows = {"none": "nothing", "string": "a space and the end token", "token": "the end token"}
  print(f"after the prompt follows {follows[end]}")
  for question in _questions(f, items, style, preset):
    print(f"\n{question.item.id}\n{question.prompt}")


def _without_missing(f: flags.FlagValues, items: list[Item]) -> tuple[list[Item], list[str]]:
  """The items whose audio is there, and the paths of what is not. Raises FlagsError for those."""
  if f.benchmark == "scenes" or f.audio in ("noise", "silence"):
    return items, []
  root, slots = _root(f), {path for item in items for path in (item.audio1, item.audio2) if path}
  absent = sorted(path for path in slots if not (root / path).is_file())
  if not absent:
    return items, []
  known, left = readers.BENCHMARKS[f.benchmark], set(absent)
  heard = [item for item in items if item.audio1 not in left and item.audio2 not in left]
  more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
  found = f"{len(absent)} of {len(slots)} clips are not below {root}: "
  found += f"{', '.join(absent[:NAMED])}{more}"
  if not f.allow_missing or not heard:
    where = f"get them ({'; '.join(known.sources)}), " if known.sources else ""
    raise FlagsError(
      f"{found}: {where}name their folder with --audio_root, or leave the {len(items) - len(heard)} "
      f"of {len(items)} items about them out with --allow_missing"
    )
  _say(f"{found}: {len(items) - len(heard)} of {len(items)} items are left out")
  return heard, absent


def _root(f: flags.FlagValues) -> Path:
  return Path(f.audio_root or readers.table_path(f.benchmark, f.data).parent)


# --- What is heard -------------------------------------------------------------------------------


def _whole(wav: np.ndarray, cfg: AudioConfig) -> Clip:
  """A clip that is as long as the model hears."""
  return Clip(wav, 0.0, cfg.clip_seconds, cfg.clip_seconds)


def _rows(
  f: flags.FlagValues, model: Mellow, questions: Sequence[_Question], slots: probes.Slots
) -> Iterator[Row]:
  """The questions with their clips, which threads read ahead. Raises AudioError naming the item."""
  cfg, root = model.cfg.audio, _root(f)
  silent = _whole(np.zeros(cfg.clip_samples, np.float32), cfg)
  if f.benchmark == "scenes":
    generated = scenes.SceneClips(cfg.sample_rate, cfg.clip_samples)

  def read(path: str) -> Clip:
    if f.audio == "noise":
      return _whole(probes.noise(path, cfg.clip_samples, f.seed), cfg)
    if f.benchmark == "scenes":
      return _whole(generated.load(path), cfg)
    return audio.load(root / path, cfg, model.preset, window=f.window)

  with futures.ThreadPoolExecutor(READERS) as pool:
    # The same path gives the same clip: the model encodes it once in a batch.
    start = functools.lru_cache(KEPT_CLIPS)(lambda path: pool.submit(read, path))
    started: collections.deque = collections.deque()
    for question in itertools.chain(questions, [None] * READ_AHEAD):
      paths = slots(question.item) if question else ()
      started.append((question, [path and start(path) for path in paths]))
      if len(started) > READ_AHEAD:
        question, clips = started.popleft()
        try:
          first, second = (clip.result() if clip else silent for clip in clips)
        except AudioError as error:
          raise AudioError(f"item {question.item.id}: {error}", error.reason) from None
        yield first, second, question.prompt


# --- Answers -------------------------------------------------------------------------------------


def _room(model: Mellow, questions: Sequence[_Question]) -> tuple[int, int]:
  """The most options of a question, and the most tokens of an option."""
  encode = functools.partial(
    prompts.encode_answer,
    model.tokenizer,
    preset=model.preset,
    slots=model.cfg.answer_tokens,
    pad_id=model.cfg.pad_id,
    end_id=model.cfg.end_id,
  )
  texts = {text for question in questions for text in question.options}
  longest = max((encode(text)[1] for text in texts), default=0)
  return max((len(question.options) for question in questions), default=0), longest


def _lines(
  f: flags.FlagValues,
  model: Mellow,
  questions: Sequence[_Question],
  mine: Sequence[int],
  batch: int,
) -> Iterator[list[dict[str, Any]]]:
  """The predictions for some of the questions, by their numbers, a batch at a time."""
  slots = probes.Slots([question.item for question in questions], f.audio, f.audio2, f.seed)
  room = _room(model, questions) if f.options_loglik else (0, 0)
  passed: collections.deque[Row] = collections.deque()

  def passing() -> Iterator[Row]:
    for row in _rows(f, model, [questions[i] for i in mine], slots):
      passed.append(row)
      yield row

  sampling = Sampling(max_new_tokens=f.max_new_tokens)
  answers = model.stream(passing(), sampling=sampling, batch_size=batch)
  for start in range(0, len(mine), batch):
    numbers = mine[start : start + batch]
    texts = [answer.text for answer in itertools.islice(answers, len(numbers))]
    rows = [passed.popleft() for _ in numbers]
    chosen = [i for i, n in enumerate(numbers) if f.options_loglik and questions[n].options]
    found: dict[int, list[tuple[float, int]]] = {}
    if chosen:
      options = [questions[numbers[i]].options for i in chosen]
      scores = model.score([rows[i] for i in chosen], options, batch_size=batch, room=room)
      found = dict(zip(chosen, scores, strict=True))
    yield [
      {
        "row": number,
        **dataclasses.asdict(
          Prediction(
            item=questions[number].item,
            benchmark=f.benchmark,
            prompt=questions[number].prompt,
            prediction=texts[i],
            order=questions[number].order,
            option_log_probs=tuple(found.get(i, ())),
            heard=f.audio,
          )
        ),
      }
      for i, number in enumerate(numbers)
    ]


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def _predict(f: flags.FlagValues) -> None:
  for name in ("checkpoint", "output"):
    if not f[name].value:
      raise FlagsError(f"--{name} is missing")
  parallel.initialize(f.coordinator or "", f.processes, f.process_id)
  everything = _read_items(f)
  items, missing = _without_missing(f, everything)
  devices = jax.local_devices()
  model = Mellow.load(f.checkpoint, f.preset, devices=devices, say=_say)
  style = _style(f, model.preset.name)
  questions = _questions(f, items, style, model.preset.name)
  cut = _count_cut(model, questions)
  if cut:
    _say(f"{cut} of {len(questions)} prompts exceed {model.cfg.text_tokens} tokens and are cut")
  settings = {
    "benchmark": f.benchmark,
    "data_sha256": _sha256(json.dumps([dataclasses.asdict(item) for item in everything]).encode()),
    "items": len(items),
    "missing_audio": missing,
    "limit": f.limit,
    "quarantine_sha256": _sha256(Path(f.quarantine).read_bytes()) if f.quarantine else "",
    # It holds the digests of all parameters.
    "checkpoint_sha256": _sha256((Path(f.checkpoint) / "config.json").read_bytes()),
    "preset": model.preset.name,
    "prompt_style": str(style),
    "prompts_cut": cut,
    "max_new_tokens": f.max_new_tokens,
    "window": f.window,
    "audio": f.audio,
    "audio2": f.audio2,
    "permute_options": f.permute_options,
    "options_loglik": f.options_loglik,
    "seed": f.seed,
  }
  output = SharedPredictions(f.output, len(questions), jax.process_index())
  done = _begin(output, settings)
  _answer(f, model, questions, output, np.flatnonzero(~done).tolist(), f.batch_size * len(devices))
  if parallel.is_first():
    output.finish()
  _say(f"{f.output}: {len(questions)} answers to {len(items)} items of {f.benchmark}")


def _count_cut(model: Mellow, questions: Sequence[_Question]) -> int:
  """How many prompts have more tokens than the model reads. Raises QuestionError naming the item."""
  cfg, found = model.cfg, 0
  for question in questions:
    try:
      _, length = prompts.encode_question(
        model.tokenizer, question.prompt, model.preset, cfg.text_tokens + 1, cfg.pad_id, cfg.end_id
      )
    except ValueError as error:
      raise QuestionError(f"item {question.item.id}: {error}") from None
    found += length > cfg.text_tokens
  return found


def _begin(output: SharedPredictions, settings: dict[str, Any]) -> Bool[np.ndarray, "rows"]:
  """Which rows are answered already, as the first process finds it. Raises PredictionsError."""
  done, failure = np.zeros(output.rows + 1, np.int32), None  # at the end: whether it failed
  if parallel.is_first():
    try:
      done[:-1] = output.begin(settings)
    except PredictionsError as error:
      done[-1], failure = 1, error
  done = parallel.total(done)
  if done[-1]:
    raise failure or PredictionsError("the first process stopped: its message says why")
  return done[:-1].astype(bool)


def _answer(
  f: flags.FlagValues,
  model: Mellow,
  questions: Sequence[_Question],
  output: SharedPredictions,
  left: Sequence[int],
  batch: int,
) -> None:
  """Adds the predictions for the rows that are left, shared among all processes.

  In each round every process answers one batch. They all wait for the last, so that none is taken
  for dead and each learns of the others' failures.
  """
  of_round = batch * jax.process_count()
  starts = range(0, len(left), of_round)
  skip = batch * jax.process_index()
  mine = [row for start in starts for row in left[start + skip : start + skip + batch]]
  lines = _lines(f, model, questions, mine, batch)
  with tqdm.tqdm(
    total=len(questions),
    initial=len(questions) - len(left),
    unit="row",
    file=sys.stderr,
    disable=not parallel.is_first(),
  ) as bar:
    for _ in starts:
      answered, failure = 0, None
      try:
        found = next(lines, [])
        output.append(found)
        answered = len(found)
      except (AudioError, QuestionError, PredictionsError) as error:
        failure = error
      answered, failures = parallel.total(np.array([answered, failure is not None]))
      bar.update(int(answered))
      if failures:
        raise failure or PredictionsError("another process stopped: its message says why")


def _say(line: str) -> None:
  """A line for the person who watches, from the first process alone."""
  if parallel.is_first():
    tqdm.tqdm.write(line, file=sys.stderr)


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  f = _flags()
  try:
    if extra := f(argv)[1:]:
      raise FlagsError(f"{extra[0]!r} is no flag: write --benchmark=NAME, --data=DIR ...")
    if f.help:
      print(__doc__, f.get_help(), sep="\n")
      return 0
    (_show_prompts if f.show_prompts else _predict)(f)
  except (
    flags.Error,
    FlagsError,
    QuestionError,
    AudioError,
    RecordError,
    ConfigError,
    CheckpointError,
    PredictionsError,
    FileNotFoundError,
  ) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0
