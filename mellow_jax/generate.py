"""Answers questions about audio: one, or a whole manifest of them.

  mellow generate --checkpoint=DIR --audio=a.wav [--audio=b.wav] --prompt="..."
  mellow generate --checkpoint=DIR --data=rows.json --audio_root=DIR \\
    --output=predictions.jsonl
"""

import dataclasses
import functools
import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import tqdm
from absl import flags

from mellow_jax import cli, parallel
from mellow_jax.data import audio, records
from mellow_jax.data.audio import Clip
from mellow_jax.errors import AudioError, FlagsError
from mellow_jax.inference import predictions
from mellow_jax.inference.api import GREEDY, Mellow, Row, logger
from mellow_jax.inference.decode import Sampling


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("checkpoint", help="Model folder, from the converter or from training.")
  flags.DEFINE_multi_string("audio", [], "Audio file; twice for two clips.", flag_values=f)
  text("prompt", help="The question about --audio.")
  text("data", help="ReasonAQA JSON file whose rows are answered.")
  cli.define_old_name(f, "manifest", "data")
  cli.define_device(f)
  text("audio_root", help="Folder below which the clips of --data are; its own folder if absent.")
  text("output", help="JSONL file for the answers to --data; a rerun goes on where it stopped.")
  text("preset", help="release, training or clean; by default the model folder's.")
  kinds = ["greedy", "sample", "beam"]
  flags.DEFINE_enum("sampling", "greedy", kinds, "How tokens are chosen.", flag_values=f)
  windows = ["first", "center", "all"]
  flags.DEFINE_enum(
    "window",
    "first",
    windows,
    "Part of a long clip that is used; all: one after another.",
    flag_values=f,
  )
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  number("max_new_tokens", GREEDY.max_new_tokens, "Tokens after which an answer is cut off.")
  number("top_k", 0, "Sample from the k most probable tokens; 0: from all.")
  number("samples", 1, "Answers a question, from sample or beam.")
  number("beams", 4, "Beams of --sampling=beam.")
  number("seed", 0, "Seed of --sampling=sample.")
  number("batch_size", 8, "Rows of --data answered together.", lower_bound=1)
  share = functools.partial(flags.DEFINE_float, flag_values=f)
  share("temperature", 1.0, "Of --sampling=sample: below 1 for more probable tokens.")
  share("top_p", 1.0, "Sample from the fewest tokens that hold this share of the probability.")
  return f


def _sampling(f: flags.FlagValues) -> Sampling:
  used = {
    "greedy": (),
    "sample": ("temperature", "top_k", "top_p", "samples"),
    "beam": ("beams", "samples"),
  }[f.sampling]
  for name in ("temperature", "top_k", "top_p", "samples", "beams"):
    if f[name].present and name not in used:
      raise FlagsError(f"--{name} does nothing with --sampling={f.sampling}: drop one of them")
  try:
    return Sampling(max_new_tokens=f.max_new_tokens, **{name: f[name].value for name in used})
  except ValueError as error:
    raise FlagsError(f"--sampling={f.sampling}: {error}") from None


def _answer_prompt(f: flags.FlagValues, sampling: Sampling) -> None:
  """Prints the answer about --audio."""
  if not 1 <= len(f.audio) <= 2:
    raise FlagsError(f"--audio is given {len(f.audio)} times: give it once or twice")
  if not f.prompt:
    raise FlagsError("--prompt is missing: ask a question about --audio")
  if f.window == "all" and len(f.audio) > 1:
    raise FlagsError("--window=all takes one --audio: choose first or center for two")
  model = Mellow.load(f.checkpoint, f.preset)
  if f.window == "all":
    found = model.answer_windows(f.audio[0], f.prompt, sampling=sampling, seed=f.seed)
  else:
    second = f.audio[1] if len(f.audio) > 1 else None
    how = {"sampling": sampling, "seed": f.seed, "window": f.window}
    found = [model.answer(f.audio[0], f.prompt, audio2=second, **how)]
  for answer in found:
    where = f"{answer.heard[0]}: " if f.window == "all" else ""
    print("\n".join(where + text for text in answer.texts))


def _rows(
  f: flags.FlagValues, model: Mellow, entries: Sequence[records.Record], root: Path
) -> Iterator[Row]:
  """Rows of --data with their audio loaded."""

  @functools.lru_cache(64)  # rows about the same clip follow each other
  def load(path: str) -> Clip:
    return audio.load(root / path, model.cfg.audio, model.preset, window=f.window)

  for entry in entries:
    try:
      second = load(entry.filepath2) if entry.filepath2 else None
      yield load(entry.filepath1), second, entry.input
    except AudioError as error:
      raise AudioError(f"{f.data}, row {entry.row} (from 0): {error}", error.reason) from None


def _sha256(path: Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def _answer_manifest(f: flags.FlagValues, sampling: Sampling) -> None:
  """Appends the answers to the rows of --data to --output."""
  if not f.output:
    raise FlagsError("--output is missing: name a file for the answers")
  if f.window == "all":
    raise FlagsError("--window=all is for --audio: choose first or center for --data")
  entries, root = records.read(f.data), Path(f.audio_root or Path(f.data).parent)
  if absent := records.missing_audio(entries, root):
    raise FlagsError(
      f"{f.data}: {len(absent)} audio files are not below {root}, first {absent[0]}: "
      "check --audio_root"
    )
  model = Mellow.load(f.checkpoint, f.preset)
  settings = {
    "checkpoint_sha256": _sha256(Path(f.checkpoint) / "config.json"),  # it has all digests
    "manifest_sha256": _sha256(Path(f.data)),
    "preset": model.preset.name,
    "window": f.window,
    "seed": f.seed,
    **dataclasses.asdict(sampling),
  }
  output = predictions.Predictions(f.output, settings)
  how = {"sampling": sampling, "seed": f.seed, "batch_size": f.batch_size}
  left = [entries[i] for i in range(output.done, len(entries))]
  answers = model.stream(_rows(f, model, left, root), first_row=output.done, **how)
  answered = zip(left, answers, strict=True)
  with tqdm.tqdm(total=len(entries), initial=output.done, unit="row", file=sys.stderr) as bar:
    while batch := list(itertools.islice(answered, f.batch_size)):
      output.append(
        {**dataclasses.asdict(entry), "prediction": answer.text, **dataclasses.asdict(answer)}
        for entry, answer in batch
      )
      bar.update(len(batch))
  logger.info("%s: %d answers", f.output, output.done)


def _generate(f: flags.FlagValues) -> None:
  if not f.checkpoint:
    raise FlagsError("--checkpoint is missing: name a model folder")
  parallel.require_device(f.device)
  if bool(f.data) == bool(f.audio):
    raise FlagsError("give either --audio and --prompt, or --data and --output")
  (_answer_manifest if f.data else _answer_prompt)(f, _sampling(f))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _generate, example="--audio=FILE, --prompt='...'")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
