"""Generated listening scenes as ReasonAQA rows, with exact answers: any number, from a seed.

A row and its clips follow from numbers alone, so training needs no files. The same rows as files:

  python -m mellow_jax.data.scenes --output=DIR --rows=1000 --split=train --seed=0

Source: our own. The format of the rows is ReasonAQA's.
"""

import functools
import itertools
import operator
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import soundfile
import tokenizers
from absl import flags
from jaxtyping import Float

from mellow_jax import cli, files
from mellow_jax.data import choices, tokenizer
from mellow_jax.data.records import FIELDS, Record
from mellow_jax.data.scene_audio import (
  KINDS,
  ROW_STREAM,
  SPLITS,
  Event,
  Scene,
  SceneClips,
  draw_scene,
  generator,
  scene_path,
)
from mellow_jax.errors import FlagsError

# Task to question. The first and the last are prompt keys of ReasonAQA: a preset that paraphrases
# keys would ask in words outside this vocabulary.
QUESTIONS = {
  "caption": "caption the audio",
  "presence": "which sound is heard?",
  "order": "which sound comes {end}?",
  "detail": "which sound comes {end}?",
  "count": "how many times is the {kind} heard?",
  "pitch": "is the {kind} low or high?",
  "loudness": "is the {kind} loud or soft?",
  "overlap": "do the {kind} and the {other} overlap?",
  "binary": "is there a {kind}?",
  "entailment": "hypothesis: a {kind} is heard{circumstance}.",
  "difference": "explain the difference in few words",
}
SUBTYPES = {task: f"Scenes-{task.capitalize()}.json" for task in QUESTIONS}
LETTERS = ("a)", "b)", "c)", "d)")
ENDS = ("first", "last")
TIMES = ("one", "two", "three")
VERDICTS = tuple(text.lower() for text in (choices.TRUE, choices.FALSE, choices.PLAUSIBLE))
CIRCUMSTANCES = ("indoors", "outdoors", "downstairs", "today")  # what no clip can tell
DIFFERENCE = "audio 1: {first}, whereas audio 2: {second}"
MIX = dict.fromkeys(QUESTIONS, 1.0)  # each task as often as the next

SCENES_PER_ROW = 1000  # row 7 takes the first suitable scenes from number 7000 on

Condition = Callable[[Scene], bool]
Find = Callable[..., Scene]  # the row's next scene, or the next of which a condition holds
Text = tuple[str, str]  # question and answer, or path and caption


class Scenes(Sequence):
  """Rows of a split, each a pure function of seed, split and row number."""

  def __init__(
    self,
    split: str,
    seed: int,
    size: int,
    mix: Mapping[str, float],
    warmup_mix: Mapping[str, float] | None = None,
    warmup_rows: int = 0,
  ):
    """Weighs the tasks of the first warmup_rows rows by warmup_mix, and of the others by mix.

    Raises ValueError for an unknown split or task, and for weights that are negative or all zero.
    """
    generator(seed, split, ROW_STREAM, size)  # checks split, seed and size
    self.split, self.seed, self.size = split, seed, size
    self.warmup_rows = warmup_rows if warmup_mix else 0
    self._mix = _cumulative(mix)
    self._warmup_mix = _cumulative(warmup_mix or mix)

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: SupportsIndex) -> Record:
    row = operator.index(index)
    row += self.size if row < 0 else 0
    if not 0 <= row < self.size:
      raise IndexError(f"row {operator.index(index)} of {self.size}")
    rng = generator(self.seed, self.split, ROW_STREAM, row)
    mix = self._warmup_mix if row < self.warmup_rows else self._mix
    task = list(QUESTIONS)[int(np.searchsorted(mix, rng.random(), side="right"))]
    clips = []  # path and caption of each
    find = functools.partial(self._find, itertools.count(row * SCENES_PER_ROW), clips)
    question, answer = _ASK[task](rng, find)
    (path1, caption1), (path2, caption2) = [*clips, ("", "")][:2]
    return Record(
      taskname="scenes",
      filepath1=path1,
      filepath2=path2,
      caption1=caption1,
      caption2=caption2,
      input=question,
      answer=answer,
      subtype=SUBTYPES[task],
      row=row,
    )

  def _find(
    self, numbers: Iterator[int], clips: list[Text], suits: Condition = lambda _: True
  ) -> Scene:
    """The next scene that suits; its path and caption are added to clips."""
    for number in numbers:
      scene = draw_scene(self.seed, self.split, number)
      if suits(scene):
        break
    clips.append((scene_path(self.seed, self.split, number), scene.caption))
    return scene


def _cumulative(mix: Mapping[str, float]) -> Float[np.ndarray, "tasks"]:
  """The tasks' weights, summed up to 1, in the order of QUESTIONS."""
  if unknown := sorted(set(mix) - set(QUESTIONS)):
    raise ValueError(f"unknown task {unknown[0]!r}; known: {', '.join(QUESTIONS)}")
  weights = np.array([mix.get(task, 0.0) for task in QUESTIONS])
  if not (weights >= 0.0).all() or not 0.0 < weights.sum() < np.inf:
    raise ValueError(f"the weights of a mix must be at least 0 and not all 0, not {dict(mix)}")
  sums = np.cumsum(weights)
  return sums / sums[-1]


def _pick(rng: np.random.Generator, things: Sequence) -> Any:
  return things[int(rng.integers(len(things)))]


def _absent(rng: np.random.Generator, scene: Scene) -> list[str]:
  """The kinds that do not occur, shuffled."""
  return [KINDS[k] for k in rng.permutation(len(KINDS)) if KINDS[k] not in scene.kinds]


def _ask_caption(rng: np.random.Generator, find: Find) -> Text:
  return QUESTIONS["caption"], find().caption


def _ask_presence(rng: np.random.Generator, find: Find) -> Text:
  scene = find()
  options = [_pick(rng, scene.kinds), *_absent(rng, scene)[:3]]
  return choices.multiple_choice(QUESTIONS["presence"], options, rng)


def _find_end(rng: np.random.Generator, find: Find) -> tuple[Scene, str, str]:
  """A scene, one of its ends in time, and the sound there."""
  end = _pick(rng, ENDS)
  at = -ENDS.index(end)
  # Of two sounds that overlap, neither is asked for as the first or the last.
  scene = find(lambda scene: len(scene.groups) > 1 and len(scene.groups[at]) == 1)
  return scene, end, scene.kinds[at]


def _ask_order(rng: np.random.Generator, find: Find) -> Text:
  scene, end, right = _find_end(rng, find)
  # The scene's other sounds are among the options: presence alone does not tell.
  others = [kind for kind in scene.kinds if kind != right]
  options = [right, *others, *_absent(rng, scene)][:4]
  return choices.multiple_choice(QUESTIONS["order"].format(end=end), options, rng)


def _ask_detail(rng: np.random.Generator, find: Find) -> Text:
  """The question of order without options, as ReasonAQA asks its questions both ways."""
  _, end, right = _find_end(rng, find)
  return QUESTIONS["detail"].format(end=end), right


def _ask_attribute(
  rng: np.random.Generator,
  find: Find,
  *,
  task: str,
  values: tuple[str, ...],
  value: Callable[[Event], str],
) -> Text:
  """A question about one event, to which each of the values is the answer equally often."""
  right = _pick(rng, values)
  scene = find(lambda scene: right in map(value, scene.events))
  event = _pick(rng, [event for event in scene.events if value(event) == right])
  options = [right, *(other for other in values if other != right)]
  return choices.multiple_choice(QUESTIONS[task].format(kind=event.kind), options, rng)


def _pairs(scene: Scene, overlap: bool) -> list[tuple[Event, Event]]:
  """Pairs of events, in either order, that overlap or that do not."""
  pairs = itertools.permutations(scene.events, 2)
  return [(one, other) for one, other in pairs if one.overlaps(other) is overlap]


def _ask_overlap(rng: np.random.Generator, find: Find) -> Text:
  yes = bool(rng.integers(2))
  scene = find(lambda scene: bool(_pairs(scene, yes)))
  one, other = _pick(rng, _pairs(scene, yes))
  question = QUESTIONS["overlap"].format(kind=one.kind, other=other.kind)
  return question, "yes" if yes else "no"


def _ask_binary(rng: np.random.Generator, find: Find) -> Text:
  scene, yes = find(), bool(rng.integers(2))
  kind = _pick(rng, scene.kinds if yes else _absent(rng, scene))
  return QUESTIONS["binary"].format(kind=kind), "yes" if yes else "no"


def _ask_entailment(rng: np.random.Generator, find: Find) -> Text:
  """A hypothesis is false if its sound is absent, plausible if it adds what no clip can tell.

  Each verdict is as likely as the next. The words alone, without the audio, suffice for two thirds
  of the answers: false hypotheses come with and without a circumstance, the others do not.
  """
  scene, right = find(), _pick(rng, VERDICTS)
  _, false, plausible = VERDICTS
  kind = _pick(rng, _absent(rng, scene) if right == false else scene.kinds)
  adds = right == plausible or (right == false and bool(rng.integers(2)))
  circumstance = f" {_pick(rng, CIRCUMSTANCES)}" if adds else ""
  stem = QUESTIONS["entailment"].format(kind=kind, circumstance=circumstance)
  options = [right, *(other for other in VERDICTS if other != right)]
  return choices.multiple_choice(stem, options, rng)


def _ask_difference(rng: np.random.Generator, find: Find) -> Text:
  first = find().caption
  second = find(lambda scene: scene.caption != first).caption
  return QUESTIONS["difference"], DIFFERENCE.format(first=first, second=second)


_ASK: dict[str, Callable[[np.random.Generator, Find], Text]] = {
  "caption": _ask_caption,
  "presence": _ask_presence,
  "order": _ask_order,
  "detail": _ask_detail,
  "count": functools.partial(
    _ask_attribute, task="count", values=TIMES, value=lambda event: TIMES[event.count - 1]
  ),
  "pitch": functools.partial(
    _ask_attribute, task="pitch", values=("low", "high"), value=lambda event: event.pitch
  ),
  "loudness": functools.partial(
    _ask_attribute, task="loudness", values=("loud", "soft"), value=lambda event: event.loudness
  ),
  "overlap": _ask_overlap,
  "binary": _ask_binary,
  "entailment": _ask_entailment,
  "difference": _ask_difference,
}


def build_tokenizer() -> tokenizers.Tokenizer:
  """A word-level tokenizer of all words that rows can contain."""
  templates = [re.sub(r"{\w+}", " ", text) for text in (*QUESTIONS.values(), DIFFERENCE)]
  words = (*KINDS, *LETTERS, *ENDS, *TIMES, *VERDICTS, *CIRCUMSTANCES, "then", "and", "yes", "no")
  return tokenizer.build_tokenizer([*templates, *words])


def write(rows: Scenes, clips: SceneClips, output: Path) -> Path:
  """Writes the rows' clips below a folder, then <split>.json, and returns the latter's path.

  The clips are float32: 16 bits would round them, and training would not be quite the same.
  """
  table = output / f"{rows.split}.json"
  table.unlink(missing_ok=True)  # the table of earlier clips: its presence means all is written
  (output / "scenes" / rows.split / str(rows.seed)).mkdir(parents=True, exist_ok=True)
  listed = []
  for record in rows:
    for path in filter(None, (record.filepath1, record.filepath2)):
      soundfile.write(output / path, clips.load(path), clips.sample_rate, subtype="FLOAT")
    listed.append({field: getattr(record, field) for field in FIELDS})
  files.write_json(table, listed)
  return table


def _mix(f: flags.FlagValues, name: str) -> dict[str, float]:
  """Weights from a flag such as --mix=caption=0.8,binary=0.2."""
  try:
    return {task: float(weight) for task, weight in (part.split("=") for part in f[name].value)}
  except ValueError:
    raise FlagsError(f"--{name}={','.join(f[name].value)}: write task=weight,...") from None


def _flags() -> flags.FlagValues:
  f = cli.flag_values()
  number = functools.partial(flags.DEFINE_integer, flag_values=f)
  flags.DEFINE_string("output", None, "Folder to write to.", flag_values=f)
  number("rows", None, "How many rows.", lower_bound=1)
  flags.DEFINE_enum("split", "train", list(SPLITS), "Rows of this split.", flag_values=f)
  number("seed", 0, "Rows and clips follow from it.")
  flags.DEFINE_list("mix", [], "TASK=WEIGHT,... of the tasks; by default even.", flag_values=f)
  flags.DEFINE_list("warmup_mix", [], "The same, for the first rows.", flag_values=f)
  number("warmup_rows", 0, "How many rows follow --warmup_mix.")
  number("sample_rate", 16_000, "Hz.")
  flags.DEFINE_float("clip_seconds", 5.12, "Seconds of a clip.", flag_values=f)
  return f


def _scenes(f: flags.FlagValues) -> None:
  for name in ("output", "rows"):
    if f[name].value is None:
      raise FlagsError(f"--{name} is missing: {f[name].help}")
  mix, warmup_mix = _mix(f, "mix") or MIX, _mix(f, "warmup_mix") or None
  try:
    rows = Scenes(f.split, f.seed, f.rows, mix, warmup_mix, f.warmup_rows)
    clips = SceneClips(f.sample_rate, round(f.sample_rate * f.clip_seconds))
  except ValueError as error:
    raise FlagsError(str(error)) from None
  print(f"{write(rows, clips, Path(f.output))}: {len(rows)} rows")


def main(argv: Sequence[str]) -> int:
  """The command; its exit status, 1 after one line on stderr for anything the caller can mend."""
  return cli.run(
    argv, _flags(), __doc__, _scenes, example="--output=DIR --rows=1000", waits_for="writing clips"
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
