"""Writes ReasonAQA's generated questions: a language model writes them about captions.

  mellow reasonaqa synthesize --data=clotho_captions_development.csv \\
    --endpoint=http://localhost:8000/v1 --model=meta-llama/Meta-Llama-3-8B-Instruct \\
    --type=1 --kind=mcq --output=synthetic/mcq-1
  mellow reasonaqa synthesize --type=4 --kind=mcq --output=synthetic/mcq-4 \\
    --part=synthetic/mcq-1 --part=synthetic/mcq-2 --part=synthetic/mcq-3

Any OpenAI-compatible server will do. It is asked for JSON of one schema by `response_format`, which
vLLM and llama.cpp take; --replies=text is for servers that do not, and more of it is rejected. The
API key is read from the environment variable MELLOW_API_KEY. The same command continues a run that
was killed or stopped: replies in OUTPUT/completions.jsonl are never requested again. After a kill
the requests in flight are sent again, at most --concurrency.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tqdm
from absl import flags

from mellow_jax import cli, files, progress
from mellow_jax.errors import FlagsError
from mellow_jax.reasonaqa.llm import caption_files, prompt, requests, results
from mellow_jax.reasonaqa.llm.caption_files import Caption
from mellow_jax.reasonaqa.llm.endpoint import Endpoint, Unanswered
from mellow_jax.reasonaqa.llm.reply_log import ReplyLog
from mellow_jax.reasonaqa.llm.requests import Requests, RequestSettings

KEY = "MELLOW_API_KEY"  # environment variable
_SHOWN = "<the caption>"


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("data", help="AudioCaps', Clotho's, WavCaps' or ReasonAQA's file; csv: file, caption.")
  cli.define_old_name(f, "captions", "data")
  text("exclude", help="WavCaps' list of clips to leave out: those of other test sets.")
  text("endpoint", help="URL of the server, such as http://localhost:8000/v1.")
  text("model", help="Name the server knows the model by.")
  kinds = ["mcq", "detail"]
  flags.DEFINE_enum("kind", None, kinds, "Four options, or a free answer.", flag_values=f)
  forms = ["json", "text"]
  flags.DEFINE_enum("replies", "json", forms, "What to ask the server for.", flag_values=f)
  text("output", help="Folder of the results; a rerun continues where it stopped.")
  flags.DEFINE_multi_string("part", [], "With --type=4: results of a type.", flag_values=f)
  flags.DEFINE_bool("show_prompt", False, "Show the prompt.", flag_values=f)
  allow = "Write the rows though some captions have no reply."
  flags.DEFINE_bool("allow_unanswered", False, allow, flag_values=f)
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  types = "Prompt: 1 plain, 2 an expert's, 3 the same for another model; 4: all three composed."
  number("type", None, types, lower_bound=1, upper_bound=4)
  number("limit", None, "Take the first captions only.", lower_bound=1)
  number("concurrency", 16, "Requests in flight at a time.", lower_bound=1)
  number("attempts", 8, "Attempts after which a request has failed.", lower_bound=1)
  number("max_tokens", 1024, "Tokens after which a completion is cut off.", lower_bound=1)
  number("seed", 0, "Seed of the server's sampling, where it takes one.")
  share = functools.partial(flags.DEFINE_float, flag_values=f, lower_bound=0)
  share("temperature", 0.7, "Of sampling; 0: greedy.")
  share("timeout_s", 300.0, "Seconds a server may take for a reply.")
  share("pause_s", 1.0, "Seconds before the second attempt; they double with each.")
  share("repeat_share", 0.05, "Share of the clips that may have one question with one answer.")
  share("price_in", None, "Price of a million tokens of prompts.")
  share("price_out", None, "Price of a million tokens of completions.")
  return f


def _claim(folder: Path, settings: dict[str, Any], log: ReplyLog) -> None:
  """Begins a folder of results, or raises FlagsError if it was made with other settings.

  Those of a run without a reply count for nothing: a wrong --model is corrected so.
  """
  path = folder / "settings.json"
  if not path.exists() or not (len(log) or (folder / "rows.json").exists()):
    files.write_json(path, settings)
  saved = files.read_json(path, "the settings of a run")
  for name, value in settings.items():
    if saved.get(name) != value:
      raise FlagsError(
        f"{folder}: was made with {name} = {saved.get(name)!r}, this run has {value!r}: name "
        "another --output"
      )


def _tokens(f: flags.FlagValues, log: ReplyLog) -> dict[str, int | float]:
  """Tokens of all replies, and their cost where prices are given."""
  counts = {"tokens_in": log.prompt_tokens, "tokens_out": log.completion_tokens}
  if f.price_in is not None or f.price_out is not None:
    costs = [(f.price_in or 0) * counts["tokens_in"], (f.price_out or 0) * counts["tokens_out"]]
    counts["cost"] = round(sum(costs) / 1e6, 4)
  return counts


def _request(
  f: flags.FlagValues,
  endpoint: Endpoint,
  settings: RequestSettings,
  captions: Sequence[Caption],
  log: ReplyLog,
) -> dict[str, str] | None:
  """Requests the replies that are missing; why each failed, or None if the run was stopped."""
  pending = [caption for caption in captions if caption.key not in log]
  run = Requests(endpoint, log, settings, f.replies)
  done = len(captions) - len(pending)
  with (
    requests.stopping_on_signals(endpoint),
    progress.Bar(total=len(captions), initial=done, unit="caption") as bar,
  ):

    def on_reply(answered: bool) -> None:
      bar.update(answered)
      bar.set_postfix(_tokens(f, log), **endpoint.retries)

    run.send(pending, f.concurrency, on_reply)
  stopped = endpoint.stop.is_set() and any(caption.key not in log for caption in captions)
  return None if stopped else run.failures


def _generate(f: flags.FlagValues) -> int:
  """Requests replies about the captions, and writes the results once all are there."""
  cli.require(f, "data", "endpoint", "model", "output")
  if f.part:
    raise FlagsError("--part is for --type=4: drop it")
  captions, count, excluded = caption_files.read(f.data, f.exclude or "")
  if f.exclude:
    _print_above_bar(f"{f.exclude}: {excluded} clips of {f.data} are left out")
  captions = captions[: f.limit]
  endpoint = Endpoint(
    f.endpoint,
    f.model,
    api_key=os.environ.get(KEY, ""),
    attempts=f.attempts,
    timeout_s=f.timeout_s,
    pause_s=f.pause_s,
  )
  sampling = {name: f[name].value for name in ("model", "temperature", "max_tokens", "seed")}
  version = prompt.version(f.type, f.kind, f.replies)
  settings = RequestSettings(type=f.type, kind=f.kind, prompt=version, **sampling)
  folder = Path(f.output)
  with files.made_folder(folder), ReplyLog(folder / "completions.jsonl") as log:
    _claim(folder, dataclasses.asdict(settings), log)
    if log.lost:
      _print_above_bar(f"{log.path}: {log.lost} requests were in flight when a process was killed")
    failures = _request(f, endpoint, settings, captions, log)
    unanswered = [caption for caption in captions if caption.key not in log]
    if failures is None:
      _print_above_bar(f"stopped with {len(unanswered)} captions to go: the same command goes on")
      return os.EX_TEMPFAIL
    if unanswered and not f.allow_unanswered:
      first = unanswered[0]
      raise Unanswered(
        f"{len(unanswered)} of {len(captions)} captions have no answer, first {first.file}: "
        f"{failures[first.key]}: run again to ask again, or write the rows without with "
        "--allow_unanswered"
      )
    replies = (
      (caption, log.read(caption.key))
      for caption in progress.Bar(captions, "reading", unit="completion")
      if caption.key in log
    )
    report = results.of_replies(
      folder,
      replies,
      settings=dataclasses.asdict(settings),
      repeat_share=f.repeat_share,
      clips=len({caption.file for caption in captions}),
      report={
        "captions": len(captions),
        "captions_repeated": count - len(captions) if f.limit is None else 0,
        "clips_excluded": excluded,
        "captions_sha256": results.digest(captions),
        "unanswered": [
          {"file": c.file, "caption": c.text, "reason": failures[c.key]} for c in unanswered
        ],
        "spent": _tokens(f, log),
        "answers_without_token_counts": log.uncounted,
      },
    )
  print(results.summary(folder, report))
  return 0


def _print_above_bar(line: str) -> None:
  tqdm.tqdm.write(line, file=sys.stderr)


def _show_prompt(f: flags.FlagValues) -> None:
  """Prints the version of the prompt, and the prompt for the first caption."""
  caption = caption_files.read(f.data, f.exclude or "").captions[0].text if f.data else _SHOWN
  of = f.type, f.kind, f.replies
  print(f"# {prompt.version(*of)}", prompt.build(caption, *of), sep="\n")


def _command(f: flags.FlagValues) -> int | None:
  for name in ("type", "kind"):
    if f[name].value is None:
      raise FlagsError(f"--{name} is missing: {f[name].help}")
  if f.type < 4:
    return _show_prompt(f) if f.show_prompt else _generate(f)
  if f.show_prompt or not f.output:
    raise FlagsError("--type=4 composes what --part names in --output, and asks nothing")
  folder = Path(f.output)
  report = results.compose(folder, [Path(part) for part in f.part], f.kind)
  print(results.summary(folder, report))
  return 0


def main(argv: Sequence[str]) -> int:
  """The command.

  Returns 0, 1 after a UserError, or 75 if it was stopped by a signal before it was done.
  """
  return cli.run(argv, _flags(), __doc__, _command, example="--data=FILE", waits_for="starting")
