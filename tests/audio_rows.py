"""Rows and the clips they name, in four formats and with faults, as files, as a cache, as TFDS."""

import json

import numpy as np
import soundfile

from mellow_jax.data import cache, records
from mellow_jax.data.records import FIELDS
from mellow_jax.reasonaqa import tfds

FORMATS = ("wav", "flac", "ogg", "mp3")
KINDS = ("json", "array_record", "tfds")


def write(folder):
  """24 rows over 16 clips, of other rates than heard; 2 are bad, 1 is cut off.

  The first 4 rows validate.
  """
  rng = np.random.default_rng(0)
  rows = []
  for i in range(24):
    names = [f"{j}.{FORMATS[j % 4]}" for j in (i % 16, (i + 5) % 16)]
    path = folder / names[0]
    if not path.exists():
      soundfile.write(path, 0.1 * rng.standard_normal((22_050 * (1 + i % 3), 1 + i % 2)), 22_050)
    rows.append(dict.fromkeys(FIELDS, "") | {"filepath1": names[0], "answer": str(i)})
    rows[-1] |= {"filepath2": names[1] if i % 4 == 3 else "", "input": "what is heard?"}
    rows[-1]["subtype"] = "AB"[i % 2]
  (folder / "3.mp3").write_bytes(b"<html>")
  (folder / "6.ogg").unlink()
  half = (folder / "1.flac").read_bytes()
  (folder / "1.flac").write_bytes(half[: len(half) // 2])
  for name, part in (("train", rows), ("val", rows[:4])):
    (folder / f"{name}.json").write_text(json.dumps(part))
  return folder


def write_cache(folder, name="train", **options):
  rows = records.read(folder / f"{name}.json")
  return cache.write(rows, folder, folder / name, **{"max_bad_fraction": 0.5, **options})


def write_tfds(folder, *flags):
  if not (folder / "audio").exists():
    (folder / "audio").symlink_to(folder)
  flags = [f"--manual_dir={folder}", f"--data_dir={folder / 'tfds'}", *flags]
  return tfds.main(["tfds", *flags, "--max_bad_fraction=0.5"])


def write_all(folder):
  """The rows and clips as each of KINDS."""
  folder.mkdir(exist_ok=True)
  write(folder)
  for name in ("train", "val"):
    write_cache(folder, name, shard_bytes=100_000)
  if write_tfds(folder):
    raise AssertionError("no TFDS dataset was built")
  return folder


def paths(folder, kind):
  """Of the training rows and of the validation rows."""
  if kind == "tfds":
    return (str(folder / "tfds/reasonaqa/rows/1.0.0"),) * 2
  suffix = ".json" if kind == "json" else ""
  return tuple(str(folder / f"{name}{suffix}") for name in ("train", "val"))


def is_bad(row):
  return bool({row.filepath1, row.filepath2} & {"1.flac", "3.mp3", "6.ogg"})
