"""What `mellow evaluate predict` does: asks a benchmark's questions and writes the answers."""

import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tqdm
from absl import flags

from mellow_jax import checkpoint, cli, parallel
from mellow_jax.data import presets, prompts, scenes, selection
from mellow_jax.errors import DataError, FlagsError, QuestionError
from mellow_jax.evaluation.benchmarks import (
  catalogue,
  prediction_files,
  probes,
  prompt_styles,
  runner,
)
from mellow_jax.evaluation.benchmarks.items import Item
from mellow_jax.evaluation.benchmarks.prompt_styles import Style
from mellow_jax.evaluation.benchmarks.runner import Asking, Question
from mellow_jax.inference import answering, predictions
from mellow_jax.inference.api import Mellow
from mellow_jax.inference.decode import Sampling
from mellow_jax.inference.predictions import INCOMPLETE, Predictions

NAMED = 5  # missing files that are named


# --- What is asked -------------------------------------------------------------------------------


def _read_items(f: flags.FlagValues) -> list[Item]:
  cli.require(f, "benchmark", "data")
  left_out = selection.read_quarantine(f.quarantine) if f.quarantine else None
  how = {"quarantined": left_out, "option_sets": f.redraw_options, "say": _say}
  return catalogue.read(f.benchmark, f.data, **how)


def _style(f: flags.FlagValues, preset: str) -> Style:
  return prompt_styles.STYLES[f.prompt_style] if f.prompt_style else prompt_styles.style_for(preset)


def _questions(
  f: flags.FlagValues, items: Sequence[Item], style: Style, preset: str
) -> list[Question]:
  """Each item in each of its orders, one after the other."""
  known, found = presets.PRESETS[preset], []
  for item in items:
    for order in probes.orders(item, f.permute_options, f.seed):
      shown = prompt_styles.options(style, item, order)
      answers = [prompts.answer(text, known, task="other", training=False) for text in shown]
      asked = prompts.question(prompt_styles.prompt(style, f.benchmark, item, order), known)
      own = tuple(answers[order.index(i)] for i in range(len(order)))
      found.append(Question(item, order, asked, own))
  return found


def _show_prompts(f: flags.FlagValues, shown: int) -> None:
  """Prints the first prompts, word for word: --limit of them, or `shown`."""
  items = _read_items(f)[: f.limit or shown]
  preset = f.preset or (checkpoint.load_model(f.checkpoint).preset if f.checkpoint else "release")
  if preset not in presets.PRESETS:
    raise FlagsError(f"--preset={preset} is unknown: one of {', '.join(presets.PRESETS)}")
  style, end = _style(f, preset), presets.PRESETS[preset].question_end
  follows = {"none": "nothing", "string": "a space and the end token", "token": "the end token"}
  print(f"benchmark {f.benchmark}, prompt style {style}, preset {preset}")
  print(f"after each prompt follows {follows[end]}")
  for question in _questions(f, items, style, preset):
    print(f"\n{question.item.id}\n{question.prompt}")


def _count_cut(model: Mellow, questions: Sequence[Question]) -> int:
  """How many prompts have more tokens than the model reads, with the end token that follows."""
  slots, end = model.cfg.text_tokens, model.preset.question_end
  room = slots - (end != "none")
  texts = (question.prompt for question in questions)
  return sum(prompts.unread(model.tokenizer, text, end, slots).tokens > room for text in texts)


def _say_cut_options(model: Mellow, questions: Sequence[Question]) -> None:
  """Says how many choices have more tokens than the model reads of an option.

  Raises DataError naming the item where a cut makes different choices the same.
  """
  count = 0
  for question in questions:
    try:
      count += sum(found.over > 0 for found in model.check_options(question.options))
    except QuestionError as error:
      raise DataError(f"item {question.item.id}: {error}") from None
  if count:
    total = sum(len(question.options) for question in questions)
    _say(f"{count} of {total} choices exceed {model.cfg.answer_tokens} tokens and are cut")


# --- What is heard -------------------------------------------------------------------------------


def _root(f: flags.FlagValues) -> Path:
  return Path(f.audio_root) if f.audio_root else catalogue.audio_root(f.data)


def _reads_clips(f: flags.FlagValues) -> bool:
  """Whether what is heard comes from files."""
  return f.benchmark != "scenes" and f.audio not in ("noise", "silence")


def _present(f: flags.FlagValues, items: list[Item]) -> tuple[list[Item], list[str]]:
  """The items whose audio is there, and the paths that are not.

  Raises FlagsError listing the latter, unless --allow_missing leaves their items out.
  """
  if not _reads_clips(f):
    return items, []
  root, paths = _root(f), {path for item in items for path in (item.audio1, item.audio2) if path}
  missing = sorted(path for path in paths if not (root / path).is_file())
  if not missing:
    return items, []
  absent, sources = set(missing), catalogue.BENCHMARKS[f.benchmark].sources
  heard = [item for item in items if absent.isdisjoint((item.audio1, item.audio2))]
  more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
  found = f"{len(missing)} of {len(paths)} clips are not below {root}: "
  found += f"{', '.join(missing[:NAMED])}{more}"
  without = f"{len(items) - len(heard)} of {len(items)} items"
  if not f.allow_missing:
    where = f" ({'; '.join(sources)})" if sources else ""
    raise FlagsError(
      f"{found}: get them{where}, name their folder with --audio_root, or leave {without} out with "
      "--allow_missing"
    )
  if not heard:
    raise FlagsError(f"{found}: no item is left: check --audio_root")
  _say(f"{found}: {without} are left out")
  return heard, missing


# --- The answers ---------------------------------------------------------------------------------


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def _settings(
  f: flags.FlagValues, model: Mellow, style: Style, sampling: Sampling, items: Sequence[Item]
) -> dict[str, Any]:
  """What answers depend on, beside the items."""
  settings: dict[str, Any] = {
    "benchmark": f.benchmark,
    "checkpoint_sha256": checkpoint.identity(f.checkpoint),
    "preset": model.preset.name,
    "prompt_style": str(style),
  }
  asked = ("audio", "audio2", "permute_options", "options_loglik", "window", "seed")
  settings |= {name: f[name].value for name in (*asked, "max_new_tokens")}
  if _reads_clips(f):
    paths = (path for item in items for path in (item.audio1, item.audio2))
    settings["audio_root"] = predictions.root_of(paths, _root(f))
  # Of a greedy answer nothing more is said: files of before there were samples are continued.
  usual = dataclasses.asdict(Sampling(max_new_tokens=f.max_new_tokens))
  drawn = {**dataclasses.asdict(sampling), "vote": f.vote}
  return settings | {name: x for name, x in drawn.items() if x != usual.get(name, False)}


def _say_answered(f: flags.FlagValues, answers: int, items: Sequence[Item]) -> None:
  _say(f"{f.output}: {answers} answers to {len(items)} items of {f.benchmark}")
  if unknown := [item for item in items if not item.answer]:
    why = prediction_files.no_answer(unknown[0], f.benchmark)
    _say(f"{len(unknown)} of {len(items)} items cannot be scored: {why}")


def _predict(f: flags.FlagValues) -> int:
  cli.require(f, "checkpoint", "output")
  sampling = answering.sampling_of(f)
  if sampling.samples > 1 and not f.vote:
    raise FlagsError("--samples: one answer an item is scored: add --vote, or drop it")
  parallel.keep_freed_memory()
  parallel.initialize(f.coordinator or "", f.processes, f.process_id)
  parallel.require_device(f.device)
  everything = _read_items(f)
  items, missing = _present(f, everything[: f.limit or None])
  try:
    slots = probes.Slots(items, f.audio, f.audio2, f.seed)
  except ValueError as error:
    raise FlagsError(f"--audio={f.audio} --audio2={f.audio2}: {error}") from None
  devices = jax.local_devices()
  model = Mellow.load(f.checkpoint, f.preset, devices=devices)
  if f.benchmark == "scenes":
    try:
      scenes.SceneClips(model.cfg.audio.sample_rate, model.cfg.audio.clip_samples)
    except ValueError as error:
      raise FlagsError(f"{f.checkpoint}: hears too little for scenes: {error}") from None
  style = _style(f, model.preset.name)
  questions = _questions(f, items, style, model.preset.name)
  if cut := _count_cut(model, questions):
    _say(f"{cut} of {len(questions)} prompts exceed {model.cfg.text_tokens} tokens and are cut")
  model.warns = False
  if f.options_loglik:
    _say_cut_options(model, questions)
  about = {
    "items": len(items),
    "limit": f.limit if f.limit < len(everything) else 0,  # one that left items out
    "missing_audio": missing,
    "quarantine_sha256": _sha256(Path(f.quarantine).read_bytes()) if f.quarantine else "",
    "prompts_cut": cut,
  }
  asking = Asking(
    benchmark=f.benchmark,
    audio_root=_root(f),
    slots=slots,
    window=f.window,
    sampling=sampling,
    vote=f.vote,
    seed=f.seed,
    options_loglik=f.options_loglik,
    strict=f.strict,
  )
  keys = runner.keys(asking, questions)
  with Predictions(f.output, keys, jax.process_index()) as output:
    states = runner.begin(output, _settings(f, model, style, sampling, items), about)
    if output.dropped:
      _say(f"{f.output}: {output.dropped} answers to items that are asked no more are left out")
    batch = f.batch_size * len(devices)
    failures, counts = runner.answer(model, asking, questions, output, states, batch)
  counts.say()
  _say_answered(f, len(questions) - len(failures), items)
  if not failures:
    return 0
  _say(
    f"{len(failures)} of {len(questions)} questions could not be asked, first of item "
    f"{failures[0]['item']['id']} ({failures[0]['failure']}): the same command tries them again"
  )
  return INCOMPLETE


def _say(line: str) -> None:
  """A line for the person who watches, from the first process alone."""
  if parallel.is_first():
    tqdm.tqdm.write(line, file=sys.stderr)


def predict(f: flags.FlagValues, shown: int) -> int:
  """Does what the flags of `mellow evaluate predict` say; `shown` prompts with --show_prompts.

  Returns the exit status.
  """
  if not f.show_prompts:
    return _predict(f)
  _show_prompts(f, shown)
  return 0
