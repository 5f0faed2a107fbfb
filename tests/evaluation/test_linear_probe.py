"""The linear probe: what is embedded, what is classified, and chance where labels mean nothing."""

import json

import numpy as np
import pytest
import tiny

from mellow_jax import checkpoint
from mellow_jax.data import records, scenes
from mellow_jax.data.scene_audio import SceneClips
from mellow_jax.evaluation import linear_probe
from mellow_jax.evaluation.benchmarks import rows

ROWS = {"train": 160, "val": 100}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Entailment rows of generated scenes with their clips, and a model of random weights."""
  folder, cfg = tmp_path_factory.mktemp("probe"), tiny.run().model
  clips = SceneClips(cfg.audio.sample_rate, cfg.audio.clip_samples)
  for split, count in ROWS.items():
    scenes.write(scenes.Scenes(split, 0, count, {"entailment": 1.0}), clips, folder)
  tokenizer = scenes.build_tokenizer()
  checkpoint.save_model(folder / "model", tiny.params(cfg), cfg, "clean", tokenizer)
  return folder


@pytest.fixture(scope="module")
def embedded(files):
  model = checkpoint.load_model(files / "model")
  return [
    linear_probe.embed(
      model, linear_probe.entailment_items(str(files / f"{split}.json")), files, batch_size=60
    )
    for split in ROWS
  ]


@pytest.mark.parametrize(
  ("question", "expected"),
  [
    ('Based on the audio, what can be said about the hypothesis - "A dog barks."?', "A dog barks."),
    ("hypothesis: a dog is heard indoors.", "a dog is heard indoors."),
  ],
)
def test_the_hypothesis_alone_is_read(question, expected):
  assert linear_probe.hypothesis(question) == expected


def test_embeddings_are_of_the_row_they_stand_for(files, embedded):
  """Each is the same in another batch, at another place."""
  train, _ = embedded
  assert train.audio.shape == train.text.shape == (ROWS["train"], 32)
  model = checkpoint.load_model(files / "model")
  found = records.read(files / "train.json")
  few = [0, 61, 159]
  items = [rows.from_record(found[i]) for i in few]
  again = linear_probe.embed(model, items, files, batch_size=60)
  np.testing.assert_allclose(again.audio, train.audio[few], atol=1e-5)
  np.testing.assert_allclose(again.text, train.text[few], atol=1e-5)
  assert np.ptp(train.audio, axis=0).max() > 0.01 and np.ptp(train.text, axis=0).max() > 0.01
  for i in range(ROWS["train"]):
    verdict = found[i].answer.partition(") ")[2]
    assert (
      train.classes[i]
      == {
        "it is definitely true": "entailment",
        "it is definitely false": "contradiction",
        "it is plausible": "neutral",
      }[verdict]
    )


def test_words_alone_find_what_they_can(embedded):
  """A hypothesis with a circumstance is neutral or false, one without is true or false."""
  found = linear_probe.measure(*embedded)
  assert found["text alone"]["accuracy"] > 0.5
  assert found["audio and text"]["accuracy"] > 0.5
  assert found["audio alone"]["accuracy"] < 0.45


def test_shuffled_labels_are_at_chance(embedded):
  train, test = embedded
  x, y = (np.hstack([part.audio, part.text]) for part in embedded)
  found = []
  for seed in range(5):
    shuffled = np.random.default_rng(seed).permutation(train.classes).tolist()
    found.append(linear_probe.probe(x, shuffled, y, test.classes)["accuracy"])
  # 500 guesses: a third, give or take three and a half standard deviations.
  assert abs(np.mean(found) - 1 / 3) < 3.5 * (2 / 9 / 500) ** 0.5


def test_the_command(files, capsys, tmp_path):
  output = tmp_path / "probe.json"
  flags = ["probe", f"--checkpoint={files / 'model'}", f"--output={output}", "--batch_size=60"]
  flags += [f"--train={files / 'train.json'}", f"--test={files / 'val.json'}"]
  assert linear_probe.main(flags) == 0
  out = capsys.readouterr().out
  content = json.loads(output.read_text())
  assert content["rows"] == ROWS["val"]
  accuracy = content["scores"]["audio and text"]["accuracy"]
  assert f"audio and text  {100 * accuracy:8.2f}" in out


def test_bad_input_is_one_line(files, capsys, tmp_path):
  def fails(message, **changes):
    names = {"checkpoint": files / "model", "train": files / "train.json"}
    names |= {"test": files / "val.json", **changes}
    flags = [f"--{name}={value}" for name, value in names.items() if value]
    assert linear_probe.main(["probe", *flags]) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ") and message in err

  fails("--test is missing", test=None)
  fails("nowhere.json", test=tmp_path / "nowhere.json")
  rows = json.loads((files / "val.json").read_text())
  other = tmp_path / "captions.json"
  other.write_text(json.dumps([{**rows[0], "input": "caption the audio", "answer": "a dog"}]))
  fails("none of its 1 rows is about a hypothesis", test=other)
  one = tmp_path / "one.json"
  one.write_text(json.dumps(rows[:1]))
  fails("all training rows are", train=one, test=one, audio_root=files, batch_size=60)
