"""How far frozen embeddings of a checkpoint separate entailment from neutral and contradiction.

  python -m mellow_jax.evaluation.linear_probe --checkpoint=DIR --train=train.json \\
    --test=test.json [--audio_root=DIR] [--output=probe.json]

The entailment rows of both files are used, of CLE in the paper. A clip's embedding is the mean of
the audio tokens that the mapper gives; a hypothesis' is the mean of the decoder's last states, read
without the clip. Both side by side, each dimension scaled to unit variance over the training rows,
go into a logistic regression. Neither network is trained.

What the hypotheses alone give, and the clips alone, stands beside it: a linear classifier adds the
two and cannot compare them, so that words typical of a class are all it can use.

Source: the paper's table 5, which probes contrastive models and Pengi so. Which states are pooled
and how strongly the classifier is regularised is not said there; here it is scikit-learn's default.
"""

import functools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_fscore_support
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mellow_jax import checkpoint, cli, files, parallel, progress
from mellow_jax.checkpoint import LoadedModel
from mellow_jax.config import ModelConfig
from mellow_jax.data import audio, choices, presets, prompts, records
from mellow_jax.errors import DataError
from mellow_jax.evaluation.benchmarks import rows
from mellow_jax.evaluation.benchmarks.items import Item
from mellow_jax.evaluation.metrics import entailment
from mellow_jax.inference import notes
from mellow_jax.inference.notes import NoteCounts
from mellow_jax.models import mellow
from mellow_jax.training import step

MAX_ITERATIONS = 5000
_HYPOTHESIS = re.compile(r"hypothesis[\s:-]*(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Embedded:
  """The entailment rows of a file as the classifier sees them."""

  audio: Float[np.ndarray, "N D"]
  text: Float[np.ndarray, "N D"]
  classes: list[str]


def entailment_items(path: str) -> list[Item]:
  """The entailment rows of a file; raises DataError, also where there are none."""
  found = records.read(path)
  items = [item for item in map(rows.from_record, found) if item.kind == "entailment"]
  if not items:
    raise DataError(f"{path}: none of its {len(found)} rows is about a hypothesis")
  print(f"{path}: {len(items)} of {len(found)} rows are entailment", file=sys.stderr)
  return items


def hypothesis(question: str) -> str:
  """The hypothesis that a question asks about, without quotation marks around it."""
  found = _HYPOTHESIS.search(question)
  return (found[1] if found else question).strip(' "?')


def embed_clips(
  flat: step.Flat, wav: Float[Array, "B S"], *, cfg: ModelConfig
) -> Float[Array, "B D"]:
  """The mean of each clip's audio tokens."""
  return step.merge(cfg, flat).encode(wav).astype(jnp.float32).mean(axis=1)


def embed_texts(
  flat: step.Flat, ids: Int[Array, "B L"], lengths: Int[Array, "B"], *, cfg: ModelConfig
) -> Float[Array, "B D"]:
  """The mean of the decoder's last states over each text's tokens."""
  decoder = step.merge(cfg, flat).decoder
  is_text = jnp.arange(ids.shape[1]) < lengths[:, None]
  mask = jnp.tril(jnp.ones((ids.shape[1], ids.shape[1]), bool)) & is_text[:, None]
  states = decoder.states(decoder.embed(ids), mellow.positions(is_text), mask)
  total = jnp.sum(states.astype(jnp.float32) * is_text[..., None], axis=1)
  return total / lengths[:, None]


def embed(model: LoadedModel, items: Sequence[Item], root: Path, batch_size: int) -> Embedded:
  """Each distinct clip and hypothesis goes through the network once.

  Raises AudioError naming the clip, DataError for a row whose class is unknown or about two clips.
  """
  cfg, preset, flat = model.config, presets.PRESETS[model.preset], mellow.flatten(model.params)
  classes = [choices.verdict(item.answer) for item in items]
  for item, name in zip(items, classes, strict=True):
    if name not in entailment.JUDGED or item.audio2:
      raise DataError(
        f"row {item.id}: answer {item.answer!r} about {item.audio1} {item.audio2}: one clip and a "
        "hypothesis that is true, false or plausible are needed"
      )
  exactly = mellow.exactly(cfg)
  encode = jax.jit(exactly(functools.partial(embed_clips, cfg=cfg)))
  read = jax.jit(exactly(functools.partial(embed_texts, cfg=cfg)))

  def of_clips(paths: list[str]) -> Array:
    clips = [audio.load(root / path, cfg.audio, preset, window="first").wav for path in paths]
    return encode(flat, np.stack(clips))

  counts = NoteCounts()
  for text in dict.fromkeys(hypothesis(item.question) for item in items):
    asked = prompts.question(text, preset)
    unread = prompts.unread(model.tokenizer, asked, preset.question_end, cfg.text_tokens)
    counts.add(text, notes.of_question(unread))
  counts.say()

  def of_texts(texts: list[str]) -> Array:
    ids, lengths = zip(
      *(
        prompts.encode(
          *(model.tokenizer, prompts.question(text, preset), preset.question_end),
          *(cfg.text_tokens, cfg.pad_id, cfg.end_id),
        )
        for text in texts
      ),
      strict=True,
    )
    return read(flat, np.stack(ids), np.array(lengths, np.int32))

  def each(
    names: list[str], compute: Callable[[list[str]], Array], label: str
  ) -> Float[np.ndarray, "N D"]:
    distinct = list(dict.fromkeys(names))
    found = []
    for i in progress.Bar(range(0, len(distinct), batch_size), label):
      batch = distinct[i : i + batch_size]
      # Filled up: another size would compile again.
      full = batch + batch[-1:] * (batch_size - len(batch))
      found.append(np.asarray(compute(full))[: len(batch)])
    place = {name: i for i, name in enumerate(distinct)}
    return np.concatenate(found)[[place[name] for name in names]]

  return Embedded(
    audio=each([item.audio1 for item in items], of_clips, "clips"),
    text=each([hypothesis(item.question) for item in items], of_texts, "hypotheses"),
    classes=classes,
  )


def probe(
  train: Float[np.ndarray, "N D"],
  train_classes: Sequence[str],
  test: Float[np.ndarray, "M D"],
  test_classes: Sequence[str],
) -> dict[str, float]:
  """Scores on the test rows of a classifier fitted to the training rows, in [0, 1].

  Precision, recall and F1 are means over the classes, each counting the same. Raises DataError
  where it does not converge, or where the training rows are of one class.
  """
  if len(set(train_classes)) < 2:
    raise DataError(f"all training rows are {train_classes[0]}: give rows of every class")
  classifier = LogisticRegression(max_iter=MAX_ITERATIONS)
  pipeline = make_pipeline(StandardScaler(), classifier).fit(train, list(train_classes))
  if classifier.n_iter_.max() >= MAX_ITERATIONS:
    raise DataError(f"the classifier did not converge in {MAX_ITERATIONS} iterations")
  given = pipeline.predict(test)
  means = precision_recall_fscore_support(
    list(test_classes), given, labels=sorted(set(test_classes)), average="macro", zero_division=0.0
  )
  accuracy = float(np.mean(given == np.array(test_classes)))
  return {"accuracy": accuracy, **dict(zip(("precision", "recall", "f1"), means, strict=False))}


def measure(train: Embedded, test: Embedded) -> dict[str, dict[str, float]]:
  """Scores of the embeddings side by side, of the hypotheses alone and of the clips alone."""
  parts = {"audio and text": ("audio", "text"), "text alone": ("text",), "audio alone": ("audio",)}
  found = {}
  for name, fields in parts.items():
    x, y = (np.hstack([getattr(rows, field) for field in fields]) for rows in (train, test))
    found[name] = probe(x, train.classes, y, test.classes)
  return found


def table(found: dict[str, dict[str, float]]) -> str:
  """The scores in per cent, in the columns of the paper's table 5."""
  lines = [f"{'':16}{'ACC':>8}{'P':>8}{'R':>8}{'F1':>8}"]
  for name, scores in found.items():
    values = (scores[key] for key in ("accuracy", "precision", "recall", "f1"))
    lines.append(f"{name:16}" + "".join(f"{100 * value:8.2f}" for value in values))
  return "\n".join(lines)


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  text = functools.partial(flags.DEFINE_string, default=None, flag_values=f)
  cli.define_checkpoint(f)
  text("train", help="ReasonAQA JSON file with the rows that the classifier is fitted to.")
  text("test", help="The same with the rows that it is scored on.")
  text("audio_root", help="Folder below which the clips are; by default that of --train.")
  text("output", help="JSON file for the scores.")
  cli.define_device(f)
  flags.DEFINE_integer("batch_size", 16, "Clips encoded together.", 1, flag_values=f)
  return f


def _probe(f: flags.FlagValues) -> None:
  cli.require(f, "checkpoint", "train", "test")
  parallel.require_device(f.device)
  parallel.use_compilation_cache()
  root = Path(f.audio_root or Path(f.train).parent)
  both = [entailment_items(path) for path in (f.train, f.test)]
  model = checkpoint.load_model(f.checkpoint)
  train, test = (embed(model, items, root, f.batch_size) for items in both)
  found = measure(train, test)
  print(f"linear probe, fitted to {len(train.classes)} rows, scored on {len(test.classes)}")
  print(table(found))
  if f.output:
    content = {"train": f.train, "test": f.test, "rows": len(test.classes), "scores": found}
    files.write_json(f.output, content)


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(argv, _flags(), __doc__, _probe, example="--train=FILE", waits_for="measuring")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
