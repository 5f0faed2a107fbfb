"""What `mellow generate` does: prints the answer to a question, or writes those to a manifest."""

import dataclasses
import functools
import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import tqdm
from absl import flags

from mellow_jax import parallel
from mellow_jax.data import audio, records
from mellow_jax.data.audio import Clip
from mellow_jax.errors import AudioError, FlagsError
from mellow_jax.inference import predictions
from mellow_jax.inference.api import Mellow, Row, logger
from mellow_jax.inference.decode import Sampling


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


def answer(f: flags.FlagValues) -> None:
  """Does what the flags of `mellow generate` say."""
  parallel.require_device(f.device)
  (_answer_manifest if f.data else _answer_prompt)(f, _sampling(f))
