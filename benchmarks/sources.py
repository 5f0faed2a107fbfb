"""Examples a second from files, from a cache and from a TFDS dataset of the same rows, in turns.

  python -m benchmarks.sources --rows=esc10/train.json --audio_root=esc10

Each round takes batches of the paper's preprocessing from each source, from the next step on, and
says how fast; the batches must be equal. Building the cache and the dataset is timed as well.
"""

import argparse
import itertools
import pathlib
import shutil
import statistics
import tempfile
import time
import zlib

import numpy as np

from mellow_jax.config import Config, DataConfig
from mellow_jax.data import cache, pipeline, records
from mellow_jax.data import tokenizer as tokenizer_lib
from mellow_jax.reasonaqa import tfds

BATCH = 16


def build(rows: pathlib.Path, audio_root: pathlib.Path, folder: pathlib.Path) -> dict[str, str]:
  """The path of each source by its kind; what is not there is written."""
  begun = time.monotonic()
  cache.write(records.read(rows), audio_root, folder / "cache")
  print(f"cache written in {time.monotonic() - begun:.1f} s")
  manual, begun = folder / "manual", time.monotonic()
  manual.mkdir()
  shutil.copy(rows, manual / "train.json")
  (manual / "audio").symlink_to(audio_root.absolute())
  if tfds.main(["tfds", f"--manual_dir={manual}", f"--data_dir={folder / 'tfds'}"]):
    raise SystemExit(1)
  print(f"TFDS dataset built in {time.monotonic() - begun:.1f} s")
  dataset = folder / "tfds/reasonaqa/rows/1.0.0"
  return {"json": str(rows), "array_record": str(folder / "cache"), "tfds": str(dataset)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rows", type=pathlib.Path, required=True)
  parser.add_argument("--audio_root", type=pathlib.Path, required=True)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--batches", type=int, default=10, help=f"of {BATCH} examples, a round")
  parser.add_argument("--threads", type=int, default=2)
  args = parser.parse_args()
  encoders, opened, speeds = {}, {}, {}
  with tempfile.TemporaryDirectory() as folder:
    paths = build(args.rows, args.audio_root, pathlib.Path(folder))
    for kind, path in paths.items():
      data = DataConfig(
        train=path, audio_root=str(args.audio_root), val_share=0.1, threads=args.threads
      )
      cfg = Config(data=data)
      begun = time.monotonic()
      rows, _, clips = pipeline.sources(cfg, lambda line: None)
      digest = rows.digest
      opened[kind] = time.monotonic() - begun
      tokenizer = tokenizer_lib.build_tokenizer(
        text for row in rows for text in (row.input, row.answer)
      )
      encoders[kind] = pipeline.Preprocessor(rows, clips, tokenizer, cfg.model, cfg.data)
      speeds[kind] = []
      print(f"{kind}: {len(rows)} rows, digest {digest}, opened in {opened[kind]:.2f} s")
    for number in range(args.rounds + 1):
      expected = None
      for kind, encoder in encoders.items():
        batches = pipeline.train_batches(
          encoder, seed=0, batch_size=BATCH, start_step=number * args.batches, shuffle=True
        )
        begun, busy = time.monotonic(), time.process_time()
        found = list(itertools.islice(batches, args.batches))
        busy, seconds = time.process_time() - busy, time.monotonic() - begun
        batches.close()
        examples = args.batches * BATCH
        if number:  # the first round warms up
          speeds[kind].append((examples / seconds, 1000 * busy / examples))
        seen = [zlib.crc32(np.ascontiguousarray(b[name])) for b in found for name in sorted(b)]
        expected = expected or seen
        assert seen == expected, f"{kind}: other batches"
  for kind, found in speeds.items():
    speed, busy = (statistics.median(part) for part in zip(*found, strict=True))
    print(f"{kind:>12}: {speed:6.1f} examples/s, {busy:.1f} ms of a core an example")


if __name__ == "__main__":
  main()
