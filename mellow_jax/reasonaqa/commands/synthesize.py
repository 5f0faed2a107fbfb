"""Has a language model write ReasonAQA's synthetic questions about captions.

  python -m mellow_jax.reasonaqa synthesize --captions=clotho_captions_development.csv \
    --endpoint=http://localhost:8000/v1 --model=meta-llama/Meta-Llama-3-8B-Instruct \
    --type=1 --kind=mcq --output=synthetic/mcq-1
  python -m mellow_jax.reasonaqa synthesize --type=4 --kind=mcq --output=synthetic/mcq-4 \
    --part=synthetic/mcq-1 --part=synthetic/mcq-2 --part=synthetic/mcq-3

Any OpenAI-compatible server will do. Its key, if it wants one, is read from the environment
variable MELLOW_API_KEY. The same command goes on where an earlier one was killed or stopped: what
the model answered stands in OUTPUT/completions.jsonl and is never asked for again. Only what was
under way when the process was killed is asked for again, at most --concurrency captions a kill.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tqdm
from absl import flags

from mellow_jax import cli
from mellow_jax.errors import EndpointError, FlagsError
from mellow_jax.reasonaqa.llm import caption_files, instructions, results
from mellow_jax.reasonaqa.llm.caption_files import Caption
from mellow_jax.reasonaqa.llm.endpoint import Answer, Endpoint, Stopped, Unanswered
from mellow_jax.reasonaqa.llm.journal import Journal

KEY = "MELLOW_API_KEY"  # environment variable
MOST_FAILURES = 20  # captions in a row without an answer, after which a run gives up
_SHOWN = "<the caption>"


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("captions", help="AudioCaps', Clotho's, WavCaps' or ReasonAQA's file; csv: file, caption.")
  text("exclude", help="WavCaps' list of clips to leave out: those that others test on.")
  text("endpoint", help="Address of the server, such as http://localhost:8000/v1.")
  text("model", help="Name the server knows the model by.")
  kinds = ["mcq", "detail"]
  flags.DEFINE_enum("kind", None, kinds, "Four options, or a free answer.", flag_values=f)
  text("output", help="Folder of the results; a rerun goes on where it stopped.")
  flags.DEFINE_multi_string("part", [], "With --type=4: results of a type.", flag_values=f)
  flags.DEFINE_bool("show_prompt", False, "Show what the model is asked.", flag_values=f)
  allow = "Write the rows though some captions have no answer."
  flags.DEFINE_bool("allow_unanswered", False, allow, flag_values=f)
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  types = "Request: 1 plain, 2 an expert's, 3 the same for another model; 4: all three composed."
  number("type", None, types, lower_bound=1, upper_bound=4)
  number("limit", None, "Take the first captions only.", lower_bound=1)
  number("concurrency", 16, "Requests under way at a time.", lower_bound=1)
  number("attempts", 8, "Tries after which a request has failed.", lower_bound=1)
  number("max_tokens", 1024, "Tokens after which a completion is cut off.", lower_bound=1)
  number("seed", 0, "What the server draws depends on it, where it takes a seed.")
  share = functools.partial(flags.DEFINE_float, flag_values=f, lower_bound=0)
  share("temperature", 0.7, "0: the most probable words.")
  share("timeout_s", 300.0, "Seconds a server may take for an answer.")
  share("pause_s", 1.0, "Seconds before the second try; they double with each.")
  share("repeat_share", 0.05, "Share of the clips that may have one question with one answer.")
  share("price_in", None, "Price of a million tokens of requests.")
  share("price_out", None, "Price of a million tokens of completions.")
  return f


def _settings(f: flags.FlagValues) -> dict[str, Any]:
  """What a completion depends on; a run goes on only with the same."""
  return {
    "type": f.type,
    "kind": f.kind,
    "prompt": instructions.version(f.type, f.kind),
    "model": f.model,
    "temperature": f.temperature,
    "max_tokens": f.max_tokens,
    "seed": f.seed,
  }


def _claim(folder: Path, settings: dict[str, Any]) -> None:
  """Begins a folder of results, or raises FlagsError if it was made with other settings."""
  path = folder / "settings.json"
  folder.mkdir(parents=True, exist_ok=True)
  if not path.exists():
    part = folder / "settings.json.part"
    part.write_text(json.dumps(settings, indent=1) + "\n")
    part.replace(path)
  try:
    saved = json.loads(path.read_text())
  except ValueError:
    raise FlagsError(f"{path}: was changed: name another --output, or remove the folder") from None
  for name, value in settings.items():
    if saved.get(name) != value:
      raise FlagsError(
        f"{folder}: was made with {name} = {saved.get(name)!r}, this run has {value!r}: name "
        "another --output"
      )


class _Run:
  """One run of the command on the captions that have no answer yet."""

  def __init__(self, f: flags.FlagValues, endpoint: Endpoint, journal: Journal):
    self._f, self._endpoint, self._journal = f, endpoint, journal
    self.failures: dict[str, str] = {}  # key -> reason
    self._in_a_row = 0
    self._trouble: EndpointError | None = None

  def ask(self, caption: Caption) -> Answer:
    """In a thread of its own."""
    f = self._f
    # The same for a caption whenever it is asked.
    drawn = hashlib.sha256(f"{f.seed} {caption.key}".encode()).hexdigest()[:8]
    return self._endpoint.ask(
      instructions.request(caption.text, f.type, f.kind),
      temperature=f.temperature,
      max_tokens=f.max_tokens,
      seed=int(drawn, 16) >> 1,
    )

  def all(self, todo: Sequence[Caption], bar: tqdm.tqdm) -> None:
    """Asks about all captions, at most --concurrency at a time; raises EndpointError."""
    stop, waiting = self._endpoint.stop, iter(todo)
    running: dict[concurrent.futures.Future, Caption] = {}
    with concurrent.futures.ThreadPoolExecutor(self._f.concurrency) as pool:
      try:
        while True:
          while not stop.is_set() and len(running) < self._f.concurrency:
            if (caption := next(waiting, None)) is None:
              break
            self._journal.ask(caption.key)
            running[pool.submit(self.ask, caption)] = caption
          if not running:
            break
          done, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
          for future in done:
            bar.update(self._close(running.pop(future), future))
          bar.set_postfix(spent(self._f, self._journal), **self._endpoint.retries)
      except BaseException:
        stop.set()
        raise
    if self._trouble:
      raise self._trouble

  def _close(self, caption: Caption, future: concurrent.futures.Future) -> bool:
    """Writes down what became of a request; whether it was answered."""
    try:
      answer = future.result()
    except Stopped:
      self._journal.fail(caption.key, "stopped")
    except EndpointError as error:
      self._journal.fail(caption.key, str(error))
      self._trouble = self._trouble or error
      self._endpoint.stop.set()
    except Unanswered as error:
      self._journal.fail(caption.key, str(error))
      self.failures[caption.key] = str(error)
      self._in_a_row += 1
      if self._in_a_row == MOST_FAILURES:
        self._trouble = EndpointError(
          f"{MOST_FAILURES} captions in a row got no answer, the last: {error}: check --endpoint, "
          "--model and the server, and run again"
        )
        self._endpoint.stop.set()
    else:
      self._journal.answer(caption.key, answer)
      self._in_a_row = 0
      return True
    return False


def spent(f: flags.FlagValues, journal: Journal) -> dict[str, int | float]:
  """Tokens of all answers, and what they cost where prices are given."""
  found = {"tokens_in": journal.prompt_tokens, "tokens_out": journal.completion_tokens}
  if f.price_in is not None or f.price_out is not None:
    paid = [(f.price_in or 0) * found["tokens_in"], (f.price_out or 0) * found["tokens_out"]]
    found["cost"] = round(sum(paid) / 1e6, 4)
  return found


@contextlib.contextmanager
def _stopping(endpoint: Endpoint) -> Iterator[None]:
  """SIGTERM and Ctrl-C: what is under way is awaited and kept; a second one ends at once."""
  signals = (signal.SIGINT, signal.SIGTERM)

  def stop(*_: object) -> None:
    endpoint.stop.set()
    for number in signals:
      signal.signal(number, signal.SIG_DFL)

  before = [signal.signal(number, stop) for number in signals]
  try:
    yield
  finally:
    for number, handler in zip(signals, before, strict=True):
      signal.signal(number, handler)


def _synthesize(f: flags.FlagValues) -> int:
  """Asks about the captions, and writes the results once all are answered."""
  for name in ("captions", "endpoint", "model", "output"):
    if not f[name].value:
      raise FlagsError(f"--{name} is missing: {f[name].help}")
  if f.part:
    raise FlagsError("--part is for --type=4: drop it")
  found, count = caption_files.read(f.captions, f.exclude or "")
  found = found[: f.limit]
  endpoint = Endpoint(
    f.endpoint,
    f.model,
    api_key=os.environ.get(KEY, ""),
    attempts=f.attempts,
    timeout_s=f.timeout_s,
    pause_s=f.pause_s,
  )
  folder, settings = Path(f.output), _settings(f)
  _claim(folder, settings)
  with Journal(folder / "completions.jsonl") as journal:
    if journal.lost:
      _say(f"{journal.path}: {journal.lost} requests were under way when a process was killed")
    todo = [caption for caption in found if caption.key not in journal]
    run = _Run(f, endpoint, journal)
    bar = {"total": len(found), "initial": len(found) - len(todo), "unit": "caption"}
    with _stopping(endpoint), tqdm.tqdm(file=sys.stderr, **bar) as progress:
      run.all(todo, progress)
    unanswered = [caption for caption in found if caption.key not in journal]
    if endpoint.stop.is_set() and unanswered:
      _say(f"stopped with {len(unanswered)} captions to go: the same command goes on")
      return os.EX_TEMPFAIL
    if unanswered and not f.allow_unanswered:
      first = unanswered[0]
      raise Unanswered(
        f"{len(unanswered)} of {len(found)} captions have no answer, first {first.file}: "
        f"{run.failures[first.key]}: run again to ask again, or write the rows without with "
        "--allow_unanswered"
      )
    report = {
      "captions": len(found),
      "captions_repeated": count - len(found) if f.limit is None else 0,
      "captions_sha256": results.digest(found),
      "unanswered": [
        {"file": c.file, "caption": c.text, "reason": run.failures[c.key]} for c in unanswered
      ],
      "spent": spent(f, journal),
      "answers_without_token_counts": journal.uncounted,
    }
    answers = (
      (caption, journal.read(caption.key))
      for caption in tqdm.tqdm(found, "reading", unit="completion", file=sys.stderr)
      if caption.key in journal
    )
    clips = len({caption.file for caption in found})
    _show(
      folder,
      results.write(
        folder, answers, settings=settings, repeat_share=f.repeat_share, clips=clips, report=report
      ),
    )
  return 0


def _show(folder: Path, report: dict[str, Any]) -> None:
  """Prints what was kept and what was not."""
  print(f"{folder / 'rows.json'}: {report['kept']} rows from {report['captions']} captions")
  if report["letters"]:
    shares = (f"{letter} {n / report['kept']:.1%}" for letter, n in report["letters"].items())
    print(f"right answers by letter: {', '.join(shares)}")
  for reason, found in report["rejects"].items():
    example = f", such as: {found['examples'][0]['text'][:100]!r}" if found["count"] else ""
    print(f"{found['count']:>7} {reason}{example}")
  if report.get("unanswered"):
    print(f"{len(report['unanswered']):>7} captions without an answer")
  for name, value in report.get("spent", {}).items():
    print(f"{name}: {value}")


def _show_prompt(f: flags.FlagValues) -> None:
  """Prints the version of the request, and the request for the first caption."""
  caption = caption_files.read(f.captions, f.exclude or "")[0][0].text if f.captions else _SHOWN
  print(
    f"# {instructions.version(f.type, f.kind)}",
    instructions.request(caption, f.type, f.kind),
    sep="\n",
  )


def _say(line: str) -> None:
  tqdm.tqdm.write(line, file=sys.stderr)


def _command(f: flags.FlagValues) -> int | None:
  for name in ("type", "kind"):
    if f[name].value is None:
      raise FlagsError(f"--{name} is missing: {f[name].help}")
  if f.show_prompt and f.type < 4:
    return _show_prompt(f)
  if f.type < 4:
    return _synthesize(f)
  if f.show_prompt or not f.output:
    raise FlagsError("--type=4 composes what --part names in --output, and asks nothing")
  parts = [Path(part) for part in f.part]
  return _show(Path(f.output), results.compose(Path(f.output), parts, f.kind))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status.

  1 after one line on stderr for anything the caller can mend, 75 when it was told to stop before it
  was done.
  """
  return cli.run(argv, _flags(), __doc__, _command, example="--captions=FILE")
