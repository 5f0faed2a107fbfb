"""Time and memory of checking a dataset of a million rows, of clips of a second each.

  python -m benchmarks.check [--rows=1000000] [--clips=52000] [--tokenizer=DIR]

Every clip is noise of its own, every row a question of its own, and nothing is wrong: what is
measured is reading and decoding it all. The memory is that of all processes, shared pages once.
Needs Linux.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile
import tqdm

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
RATE = 8000  # samples a second
FOLDER = 1000  # clips in one
WORDS = [f"word{i}" for i in range(5000)]


def clip(number: int) -> str:
  """The path of a clip, relative to the audio root."""
  return f"{number // FOLDER:03d}/{number}.wav"


def row(number: int, path: str, rng: np.random.Generator) -> dict[str, str]:
  """A multiple choice or, every other time, a question with an answer of a sentence."""
  words = [WORDS[i] for i in rng.integers(len(WORDS), size=40)]
  fields = dict.fromkeys(("filepath2", "caption2"), "")
  fields |= {"taskname": "made", "filepath1": path, "caption1": " ".join(words[:10])}
  if number % 2:
    options = [" ".join(words[i : i + 2]) for i in (10, 12, 14, 16)]
    asked = " ".join(f"{letter}) {text}" for letter, text in zip("abcd", options, strict=True))
    texts = {"input": f"{number}: which is it? {asked}", "answer": f"b) {options[1]}"}
  else:
    texts = {"input": f"{number}: {' '.join(words[10:16])}?", "answer": " ".join(words[16:])}
  return {**fields, **texts, "subtype": "Made.json"}


def write(folder: pathlib.Path, rows: int, clips: int) -> None:
  """Writes the dataset; each clip is of one split."""
  rng, first, number = np.random.default_rng(0), 0, 0
  for i in tqdm.trange(clips, desc="clips"):
    path = folder / clip(i)
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, (0.1 * rng.standard_normal(RATE)).astype(np.float32), RATE)
  for name, share in SHARES.items():
    count, own = round(rows * share), round(clips * share)
    with (folder / f"{name}.json").open("w") as file:
      for i in tqdm.trange(count, desc=name):
        made = json.dumps(row(number, clip(first + i % own), rng))
        file.write(("[\n" if i == 0 else ",\n") + made)
        number += 1
      file.write("\n]\n")
    first += own


def memory(process: int) -> int:
  """Bytes of a process and of those below it, by proportional set size."""
  root = pathlib.Path("/proc", str(process))
  try:
    sizes = [line for line in (root / "smaps_rollup").read_text().splitlines() if "Pss:" in line]
    below = [p for task in root.glob("task/*/children") for p in task.read_text().split()]
  except OSError:  # it has ended
    return 0
  return 1024 * int(sizes[0].split()[1]) + sum(memory(int(child)) for child in below)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rows", type=int, default=1_000_000)
  parser.add_argument("--clips", type=int, default=52_000)
  parser.add_argument("--tokenizer", help="folder; without it token limits are not checked")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    write(pathlib.Path(name), args.rows, args.clips)
    command = [sys.executable, "-m", "mellow_jax.reasonaqa", "check"]
    command += [f"--rows={name}", f"--audio_root={name}"]
    command += [f"--tokenizer={args.tokenizer}"] if args.tokenizer else []
    begun, most = time.monotonic(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
      most = max(most, memory(process.pid))
      time.sleep(0.5)
    seconds = time.monotonic() - begun
  print(f"{args.rows} rows of {args.clips} clips: {seconds:.0f} s, {most / 2**30:.2f} GiB at most")
  return process.returncode


if __name__ == "__main__":
  sys.exit(main())
