"""Builds the TFDS datasets reasonaqa/rows and reasonaqa/audio, without TensorFlow.

  python -m mellow_jax.reasonaqa.tfds --data=reasonaqa --output=tfds
  mellow train ... --config.data.train=tfds/reasonaqa/rows/1.0.0

--data holds train.json, optionally val.json and test.json, and the folder audio/ or a link of
that name. `tfds build` does the same and needs TensorFlow:

  tfds build reasonaqa --imports=mellow_jax.reasonaqa.reasonaqa_dataset_builder --manual_dir=...

With --beam_pipeline_options, Apache Beam builds the shards in parallel, here or on a cluster:

  ... --beam_pipeline_options="runner=DirectRunner,direct_num_workers=8,\\
direct_running_mode=multi_processing"
"""

import functools
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mellow_jax import cli
from mellow_jax.config import DataConfig
from mellow_jax.errors import FlagsError, PipelineError, how_to_install


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  text("data", help="Folder of rows and audio.")
  text("output", help="Folder to write to.")
  cli.define_old_name(f, "manual_dir", "data")
  cli.define_old_name(f, "data_dir", "output")
  text("beam_pipeline_options", default="", help="NAME=VALUE,... of Apache Beam.")
  allowed = "Share of a split's rows whose audio may be missing."
  flags.DEFINE_float("max_bad_fraction", DataConfig().max_bad_fraction, allowed, flag_values=f)
  return f


def _build(f: flags.FlagValues) -> None:
  cli.require(f, "data", "output")
  if not importlib.util.find_spec("tensorflow_datasets"):
    raise FlagsError(f"TensorFlow Datasets is not installed: {how_to_install('tfds')}")
  import tensorflow_datasets

  from mellow_jax.reasonaqa import reasonaqa_dataset_builder

  manual_dir = Path(f.data).absolute()
  config = tensorflow_datasets.download.DownloadConfig(manual_dir=manual_dir)
  if f.beam_pipeline_options:
    if not importlib.util.find_spec("apache_beam"):
      raise FlagsError("--beam_pipeline_options: pip install apache-beam first")
    from apache_beam.options.pipeline_options import PipelineOptions

    options = [f"--{option}" for option in f.beam_pipeline_options.split(",")]
    config.beam_options = PipelineOptions(options)
  for name in ("audio", "rows"):  # audio first: where it is refused, nothing is written
    builder = reasonaqa_dataset_builder.Builder(
      config=name, data_dir=Path(f.output).absolute(), file_format="array_record"
    )
    builder.max_bad_fraction = f.max_bad_fraction
    builder.download_and_prepare(download_config=config)
    source = reasonaqa_dataset_builder.read(manual_dir)
    if dict(builder.info.metadata.items()) != reasonaqa_dataset_builder.metadata(source, name):
      raise PipelineError(
        f"{builder.data_dir}: is there already, of other rows: remove it, or give another --output"
      )
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    print(f"{builder.data_dir}: {', '.join(f'{n} {split}' for split, n in counts.items())}")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for a UserError."""
  return cli.run(
    argv,
    _flags(),
    __doc__,
    _build,
    example="--data=DIR --output=DIR",
    waits_for="writing the dataset",
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
