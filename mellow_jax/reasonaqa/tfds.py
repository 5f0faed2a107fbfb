"""Builds the TFDS datasets reasonaqa/rows and reasonaqa/audio, without TensorFlow.

  python -m mellow_jax.reasonaqa.tfds --manual_dir=reasonaqa --data_dir=tfds
  python -m mellow_jax.train ... --config.data.train=tfds/reasonaqa/rows/1.0.0

manual_dir holds train.json, if wanted val.json and test.json, and the folder audio/ or a link of
that name. The flags are those of `tfds build`, which does the same and needs TensorFlow:

  tfds build reasonaqa --imports=mellow_jax.reasonaqa.reasonaqa_dataset_builder --manual_dir=...

With --beam_pipeline_options, Apache Beam builds the shards in parallel, here or on a cluster:

  ... --beam_pipeline_options="runner=DirectRunner,direct_num_workers=8,\\
direct_running_mode=multi_processing"
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets

from mellow_jax.errors import DataError, PipelineError
from mellow_jax.reasonaqa import reasonaqa_dataset_builder


def main(argv: Sequence[str]) -> int:
  """The command, argv[0] being its name. Its exit status: 0, or 1 after an error of one line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--manual_dir", type=Path, required=True, help="folder of rows and audio")
  parser.add_argument("--data_dir", type=Path, required=True, help="folder to write to")
  parser.add_argument("--beam_pipeline_options", default="", help="NAME=VALUE,... of Apache Beam")
  parser.add_argument("--max_bad_fraction", type=float, default=0.01, help="of rows (default 0.01)")
  args = parser.parse_args(argv[1:])
  config = tensorflow_datasets.download.DownloadConfig(manual_dir=args.manual_dir.absolute())
  if args.beam_pipeline_options:
    if not importlib.util.find_spec("apache_beam"):
      print("mellow_jax.reasonaqa.tfds: pip install apache-beam first", file=sys.stderr)
      return 1
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = [f"--{option}" for option in args.beam_pipeline_options.split(",")]
    config.beam_options = PipelineOptions(flags)
  for name in ("audio", "rows"):  # audio may be refused, and then there is nothing yet
    builder = reasonaqa_dataset_builder.Builder(
      config=name, data_dir=args.data_dir.absolute(), file_format="array_record"
    )
    builder.max_bad_fraction = args.max_bad_fraction
    try:
      builder.download_and_prepare(download_config=config)
      manual = reasonaqa_dataset_builder.read(Path(config.manual_dir))
      if dict(builder.info.metadata.items()) != reasonaqa_dataset_builder.about(manual, name):
        raise PipelineError(
          f"{builder.data_dir}: is there already, of other rows: remove it, or give another "
          "--data_dir"
        )
    except (PipelineError, DataError, OSError) as error:
      print(f"mellow_jax.reasonaqa.tfds: {error}", file=sys.stderr)
      return 1
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    print(f"{builder.data_dir}: {', '.join(f'{n} {split}' for split, n in counts.items())}")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
