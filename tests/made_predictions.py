"""Answers made up to known shares of right ones, of every kind of question."""

import dataclasses
import json
import random

from mellow_jax.evaluation.benchmarks.items import Item, Prediction

SOUNDS = ("a dog", "rain", "a bell", "wind", "a car", "birds", "a siren", "waves")
VERDICTS = (
  "It is definitely true",
  "It is definitely false",
  "It is plausible",
  "I cannot determine",
)


def items(count, kinds=("choice", "binary", "entailment", "text"), seed=0):
  """Questions about one clip each, of the kinds in turn."""
  rng = random.Random(seed)
  found = []
  for i in range(count):
    kind, heard = kinds[i % len(kinds)], rng.choice(SOUNDS)
    fields = {"answer": heard, "question": "what is heard?"}
    if kind == "choice":
      others = rng.sample([sound for sound in SOUNDS if sound != heard], 3)
      fields["choices"] = tuple(rng.sample([heard, *others], 4))
    elif kind == "binary":
      fields["answer"] = rng.choice(["yes", "no"])
    elif kind == "entailment":
      fields |= {"answer": rng.choice(VERDICTS[:3]), "choices": VERDICTS}
    else:
      fields |= {"answer": "", "references": (f"{heard} is heard", f"there is {heard} far away")}
      fields["answer"] = fields["references"][0]
    groups = {"difficulty": rng.choice(["easy", "hard"]), "subtype": f"{kind} rows"}
    item = Item(id=f"q{i}", kind=kind, audio1=f"{i}.wav", groups=groups, **fields)
    found.append(item)
  return found


def say(item, shown, right, rng):
  """What a model writes that is right, or that guesses."""
  if item.kind == "binary":
    return item.answer if right else rng.choice(["yes", "no"])
  if item.kind == "text":
    return item.references[1] if right else f"{rng.choice(SOUNDS)} is heard nearby"
  place = shown.index(item.answer) if right else rng.randrange(len(shown))
  return f"{'abcd'[place]}) {shown[place]}"


def write(path, asked, skill, *, heard="clips", orders=1, seed=0, benchmark="scenes", **settings):
  """A predictions file in which a share of answers is known and the rest is guessed."""
  rng, rows = random.Random(seed), []
  for item in asked:
    for k in range(orders if item.choices else 1):
      order = list(range(len(item.choices)))
      if k:
        rng.shuffle(order)
      shown = [item.choices[i] for i in order]
      rows.append(
        Prediction(
          item=item,
          benchmark=benchmark,
          prompt="?",
          prediction=say(item, shown, rng.random() < skill, rng),
          order=tuple(order),
          heard=heard,
        )
      )
  lines = [json.dumps({"row": i, **dataclasses.asdict(p)}) for i, p in enumerate(rows)]
  path.write_text("".join(line + "\n" for line in lines))
  if settings:
    path.with_name(path.name + ".settings.json").write_text(json.dumps(settings))
  return path
