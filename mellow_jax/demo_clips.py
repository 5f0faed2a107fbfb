"""The end of `make demo`: six held-out clips to ask about, the words it knows, and commands.

  python -m mellow_jax.demo_clips --workdir=runs/demo

The folder ask/ of the run gets 1.wav to 6.wav, and rows.json with a question and answer for each.
"""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mellow_jax import cli, config, files
from mellow_jax.data import scenes, sound_files, tokenizer
from mellow_jax.data.records import FIELDS, Record
from mellow_jax.errors import FlagsError

COUNT = 6


def choose(seed: int) -> list[Record]:
  """Held-out rows that ask for a caption, each of another one."""
  found: dict[str, Record] = {}
  for row in scenes.Scenes("val", seed, 100, {"caption": 1.0}):
    found.setdefault(row.caption1, row)
  return list(found.values())[:COUNT]


def write(workdir: Path) -> list[tuple[Path, str]]:
  """Writes the clips of a run of the demo, and their table; (file, caption) of each clip.

  Raises DataError where workdir holds no run.
  """
  cfg = config.from_dict(config.Config, files.read_json(workdir / "run.json", "a run's settings"))
  rate, folder = cfg.model.audio.sample_rate, workdir / "ask"
  clips = scenes.SceneClips(rate, cfg.model.audio.clip_samples)
  folder.mkdir(exist_ok=True)
  written, table = [], []
  for number, row in enumerate(choose(cfg.seed), 1):
    file = folder / f"{number}.wav"
    sound_files.write(file, clips.load(row.filepath1), rate)
    written.append((file, row.caption1))
    table.append({field: getattr(row, field) for field in FIELDS} | {"filepath1": file.name})
  files.write_json(folder / "rows.json", table)
  return written


def describe(workdir: Path, clips: Sequence[tuple[Path, str]]) -> str:
  """What to do with the clips: their captions, the words of the model, and commands to copy."""
  vocabulary = tokenizer.load_tokenizer(workdir / "model").get_vocab()
  words = sorted(word for word in vocabulary if word[0].isalpha())
  one, two, *_ = (str(file) for file, _ in clips)
  ask = f"mellow generate --checkpoint={workdir / 'model'}"
  lines = ["", "Six clips that the model was not trained on, and what is heard in each:"]
  lines += [f"  {file}  {caption}" for file, caption in clips]
  lines += [
    "",
    f"The words that it knows, {len(words)}; it reads every other word as one and the same:",
  ]
  lines += textwrap.wrap(", ".join(words), 96, initial_indent="  ", subsequent_indent="  ")
  lines += ["", "Three commands to try:"]
  if not shutil.which("mellow"):
    lines.append(f"  source {sys.prefix}/bin/activate")
  lines += [
    f'  {ask} --audio={one} --prompt="caption the audio"',
    f'  {ask} --audio={two} --prompt="is there a bell?"',
    f'  {ask} --audio={one} --audio={two} \\\n    --prompt="{scenes.QUESTIONS["difference"]}"',
  ]
  return "\n".join(lines)


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  flags.DEFINE_string("workdir", None, "Folder of a run of the demo.", flag_values=f)
  return f


def _run(f: flags.FlagValues) -> None:
  if not f.workdir:
    raise FlagsError("--workdir is missing: name the folder of a run of the demo")
  workdir = Path(f.workdir)
  print(describe(workdir, write(workdir)))


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _run, example="--workdir=DIR", waits_for="writing clips")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
