"""What `mellow generate` does: asks about clips, prints the answers or adds them to a file."""

import codecs
import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from mellow_jax import checkpoint, cli, parallel, progress
from mellow_jax.data import audio, records, tables
from mellow_jax.data.audio import Clip
from mellow_jax.data.records import Record
from mellow_jax.errors import AudioError, FlagsError
from mellow_jax.inference import predictions
from mellow_jax.inference.api import Answer, Mellow, NotAsked, Row, log_progress, logger
from mellow_jax.inference.decode import Sampling
from mellow_jax.inference.engine import Engine
from mellow_jax.inference.notes import NoteCounts

# Names of the files in a folder that are clips; another may be given by itself.
ENDINGS = ("wav", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "aifc", "au", "caf", "w64")


@dataclass(frozen=True)
class _Job:
  """What is asked."""

  entries: Sequence[Record]
  root: Path  # that the paths of the entries start from
  table: str | None  # the file of the entries, where they come from one


def sampling_of(f: flags.FlagValues) -> Sampling:
  """How the flags of `cli.define_sampling` have tokens chosen; raises FlagsError."""
  used = {
    "greedy": (),
    "sample": ("temperature", "top_k", "top_p", "samples"),
    "beam": ("beams", "samples"),
  }[f.sampling]
  for name in ("temperature", "top_k", "top_p", "samples", "beams"):
    if f[name].present and name not in used:
      other = "beam" if name == "beams" else "sample"
      remedy = "drop one of them" if f["sampling"].present else f"add --sampling={other}"
      raise FlagsError(f"--{name} does nothing with --sampling={f.sampling}: {remedy}")
  if f.vote and (f.sampling != "sample" or f.samples < 2):
    raise FlagsError("--vote is among samples: add --sampling=sample and --samples=5")
  try:
    return Sampling(max_new_tokens=f.max_new_tokens, **{name: f[name].value for name in used})
  except ValueError as error:
    raise FlagsError(f"--sampling={f.sampling}: {error}") from None


# --- What is asked -------------------------------------------------------------------------------


def _job(f: flags.FlagValues, words: Sequence[str]) -> _Job:
  """The questions that flags and arguments ask; raises FlagsError or DataError."""
  if not f.data and not f.audio and not f.prompt and len(words) == 1 and _is_table(words[0]):
    return _table(f, words[0])
  if f.data:
    if f.audio or words:
      raise FlagsError("--data holds clips and questions: drop --audio and what is no flag")
    return _table(f, f.data)
  if f.audio and len(f.audio) > 2:
    raise FlagsError(f"--audio is given {len(f.audio)} times: give it once or twice")
  paths, question = cli.clips_and_question(f.audio, f.prompt, words, f.audio_root or "")
  if table := next(filter(tables.is_named, paths), None):
    raise FlagsError(f"{table}: is a table by its name, which holds its questions: give it alone")
  if not paths:
    raise FlagsError(
      'give either --audio and --prompt, or clips and a question: clip.wav "caption the audio", or '
      "--data and --output"
    )
  if not question:
    example = 'clip.wav "caption the audio"'
    raise FlagsError(f"--prompt is missing: ask a question after the clips, as {example}")
  pairs = [tuple(f.audio)] if f.audio else [(path,) for path in _clips(paths)]
  entries = [
    Record("", first, "".join(second), "", "", question, "", "", row)
    for row, (first, *second) in enumerate(pairs)
  ]
  return _Job(entries, Path(f.audio_root or ""), None)


def _is_table(path: str) -> bool:
  """Whether a file is a table and no clip, by its name or because it holds text."""
  if tables.is_named(path):
    return True
  try:
    if not Path(path).is_file():
      return False
  except (OSError, ValueError):  # a question may be too long for a path
    return False
  with Path(path).open("rb") as file:
    head = file.read(4096)
  try:
    codecs.getincrementaldecoder("utf-8")().decode(head)
  except UnicodeDecodeError:
    return False
  return bool(head) and b"\0" not in head


def _table(f: flags.FlagValues, path: str) -> _Job:
  entries, root = records.read(path, answers=False), Path(f.audio_root or Path(path).parent)
  if not f.output and not f.json:
    raise FlagsError("--output is missing: name a file for the answers, or print them with --json")
  absent = records.missing_audio(entries, root)
  if absent and (f.strict or len(absent) == len(entries.audio_paths())):
    raise FlagsError(
      f"{path}: {len(absent)} audio files are not below {root}, first {absent[0]}: "
      "check --audio_root"
    )
  return _Job(entries, root, path)


def _clips(paths: Sequence[str]) -> Iterator[str]:
  """The paths, in place of a folder the clips in it; raises FlagsError where it has none."""
  for path in paths:
    if not Path(path).is_dir():
      yield path
      continue
    inside = sorted(str(file) for file in Path(path).rglob("*") if file.is_file())
    clips = [file for file in inside if file.lower().rpartition(".")[2] in ENDINGS]
    if not clips:
      raise FlagsError(f"{path}: no file in it ends in {', '.join(ENDINGS)}: name the clips")
    if others := sorted(set(inside) - set(clips)):
      says = "%s: %d of its %d files are no clips by their endings, first %s"
      logger.info(says, path, len(others), len(inside), others[0])
    yield from clips


def _rows(
  f: flags.FlagValues, model: Mellow, job: _Job, entries: Iterable[Record]
) -> Iterator[Row]:
  """Entries with their audio loaded, or the error that loading it gave."""

  @functools.lru_cache(64)  # rows about the same clip follow each other
  def load(path: str) -> Clip | AudioError:
    try:
      return audio.load(job.root / path, model.cfg.audio, model.preset, window=f.window)
    except AudioError as error:
      return error

  for entry in entries:
    clips = [load(path) for path in (entry.filepath1, entry.filepath2) if path]
    bad = next((clip for clip in clips if isinstance(clip, AudioError)), None)
    if bad and f.strict and job.table:
      raise AudioError(f"{job.table}, row {entry.row} (from 0): {bad}", bad.reason)
    yield bad or clips[0], clips[1] if len(clips) > 1 else None, entry.input


# --- What is said --------------------------------------------------------------------------------


def _as_json(entry: Record, answer: Answer | NotAsked) -> dict[str, Any]:
  """An answer, or why there is none, with its row."""
  fields = dataclasses.asdict(entry)
  if isinstance(answer, NotAsked):
    return {**fields, "prediction": "", "failure": answer.message, "reason": answer.reason}
  return {
    **fields,
    "prediction": answer.text,
    "finish_reason": answer.finish_reason,
    "log_prob": answer.log_prob,
    **{name: value for name, value in dataclasses.asdict(answer).items() if value is not None},
    "notes": {note.kind: note.detail for note in answer.notes},
  }


def _texts(answer: Answer) -> list[str]:
  """The answers to a question, for people; after a vote the one, and how many agree."""
  if answer.agreed is None:
    return list(answer.texts)
  return [f"{answer.text} ({answer.agreed} of {len(answer.texts)} agree)"]


def _shown(entry: Record) -> str:
  """The clips of an entry, for people; a name may hold bytes that are no UTF-8."""
  name = " and ".join(filter(None, (entry.filepath1, entry.filepath2)))
  return name.encode("utf-8", "backslashreplace").decode()


def _say_failures(name: str, total: int, failures: Sequence[dict[str, Any]]) -> int:
  """The last line, and the exit status."""
  says = f"{name}: {total - len(failures)} answers"
  if failures:
    first = failures[0]
    says += (
      f", {len(failures)} of {total} rows could not be asked, first row {first['row']} "
      f"from 0 ({first['failure']}): the same command tries them again"
    )
  (logger.warning if failures else logger.info)(says)
  return predictions.INCOMPLETE if failures else 0


def _voted(f: flags.FlagValues, entry: Record, answer: Answer | NotAsked) -> Answer | NotAsked:
  return answer.vote(entry.input) if f.vote and isinstance(answer, Answer) else answer


# --- Answers -------------------------------------------------------------------------------------


def _print(f: flags.FlagValues, model: Mellow, job: _Job, sampling: Sampling) -> int:
  """Prints the answers, one clip's as its text comes."""
  counts, failures = NoteCounts(all_windows=f.window == "all"), []
  is_one = len(job.entries) == 1
  for entry, answer in _answers(f, model, job, sampling):
    answer = _voted(f, entry, answer)
    if isinstance(answer, NotAsked):
      failures.append(_as_json(entry, answer))
      logger.warning(answer.message)
    else:
      counts.add(_shown(entry), answer.notes)
    if f.json:
      print(json.dumps(_as_json(entry, answer)), flush=True)
    elif isinstance(answer, Answer) and f.window == "all":
      print("\n".join(f"{answer.heard[0]}: {text}" for text in _texts(answer)), flush=True)
    elif isinstance(answer, Answer) and not is_one:
      print("\n".join(f"{_shown(entry)}: {text}" for text in _texts(answer)), flush=True)
    elif isinstance(answer, Answer) and not _streams(job, sampling):
      print("\n".join(_texts(answer)), flush=True)
  counts.say()
  return 0 if is_one else _say_failures("printed", len(job.entries), failures)


def _streams(job: _Job, sampling: Sampling) -> bool:
  return len(job.entries) == 1 and sampling.samples == sampling.beams == 1


def _answers(
  f: flags.FlagValues, model: Mellow, job: _Job, sampling: Sampling
) -> Iterator[tuple[Record, Answer | NotAsked]]:
  """The entries with their answers; the text of a single one is printed on the way."""
  first, how = job.entries[0], {"sampling": sampling, "seed": f.seed}
  if f.window == "all":
    answers = model.answer_windows(job.root / first.filepath1, first.input, **how)
    yield from ((first, answer) for answer in answers)
  elif _streams(job, sampling) and not f.json:
    second = job.root / first.filepath2 if first.filepath2 else None
    how |= {"audio2": second, "window": f.window}
    stream = model.stream_answer(job.root / first.filepath1, first.input, **how)
    for piece in stream:
      print(piece, end="", flush=True)
    print(flush=True)
    yield first, stream.answer
  else:
    how["strict"] = f.strict or len(job.entries) == 1
    with _answering(f, model, job, job.entries, **how) as answers:
      yield from zip(job.entries, answers, strict=True)


@contextlib.contextmanager
def _answering(
  f: flags.FlagValues, model: Mellow, job: _Job, entries: Sequence[Record], **how: Any
) -> Iterator[Iterator[Answer | NotAsked]]:
  """Answers to entries in their order; how is what both `Engine.answers` and `Mellow.stream` take.

  An engine answers several, in a table of --batch_size rows where each makes room as it ends. It
  knows no beams and no top_k: those go batch by batch.
  """
  sampling, rows = how["sampling"], _rows(f, model, job, entries)
  size = min(f.batch_size, len(entries))
  slots = min(f.batch_size, len(entries) * sampling.samples)
  if size < 2 or sampling.beams > 1 or sampling.top_k:
    yield model.stream(rows, batch_size=max(size, 1), **how)
    return
  with (
    Engine(
      model, slots=slots, max_new_tokens=sampling.max_new_tokens, max_queue=2 * slots
    ) as engine,
    contextlib.closing(engine.answers(rows, **how)) as answers,
  ):
    yield answers


def _write(f: flags.FlagValues, model: Mellow, job: _Job, sampling: Sampling) -> int:
  """Appends the answers to --output, those that it does not have yet."""
  settings = {
    "checkpoint_sha256": checkpoint.identity(f.checkpoint),
    "preset": model.preset.name,
    "audio_root": predictions.root_of(
      (path for entry in job.entries for path in (entry.filepath1, entry.filepath2)), job.root
    ),
    "window": f.window,
    "seed": f.seed,
    **dataclasses.asdict(sampling),
    **({"vote": True} if f.vote else {}),  # files of before have no such setting
  }
  entries, counts = job.entries, NoteCounts()
  asked = [predictions.key_of([e.filepath1, e.filepath2, e.input]) for e in entries]
  with predictions.Predictions(f.output, asked) as output:
    left = predictions.to_ask(output.begin(settings))
    if output.dropped:
      says = "%s: %d answers to rows that are asked no more are left out"
      logger.info(says, f.output, output.dropped)
    asked, done = [entries[i] for i in left], len(entries) - len(left)
    numbers = [predictions.number_of(output.keys[i]) for i in left]
    how = {"sampling": sampling, "seed": f.seed, "numbers": numbers, "strict": f.strict}
    with (
      _answering(f, model, job, asked, **how) as answers,
      progress.Bar(total=len(entries), initial=done, unit="row") as bar,
    ):
      pairs = zip(asked, answers, strict=True)
      answered = ((entry, _voted(f, entry, answer)) for entry, answer in pairs)
      while batch := list(itertools.islice(answered, f.batch_size)):
        output.append(_as_json(entry, answer) for entry, answer in batch)
        bar.update(len(batch))
        for entry, answer in batch:
          if isinstance(answer, Answer):
            counts.add(_shown(entry), answer.notes)
    failures = output.finish([dataclasses.asdict(entry) for entry in entries])
  counts.say()
  return _say_failures(f.output, len(entries), failures)


def answer(f: flags.FlagValues, words: Sequence[str]) -> int:
  """Does what the flags of `mellow generate` and the words beside them say; the exit status."""
  cli.require(f, "checkpoint")
  parallel.require_device(f.device)
  log_progress()  # what is said of a folder comes before the model is loaded
  sampling, job = sampling_of(f), _job(f, words)
  if f.window == "all" and (f.output or len(job.entries) > 1 or job.entries[0].filepath2):
    raise FlagsError("--window=all takes one --audio and prints: choose first or center")
  model = Mellow.load(f.checkpoint, f.preset)
  model.warns = False
  return (_write if f.output else _print)(f, model, job, sampling)
