"""A harness's questions in Mellow's form, its letters, and the plug-in for lmms-eval.

Where lmms-eval is installed the plug-in runs over it. It needs gigabytes; where it is not, what the
plug-in imports of it is stood in for, with the contract of its model guide.
"""

import dataclasses
import importlib
import sys
import types

import numpy as np
import pytest

from mellow_jax.data import choices
from mellow_jax.evaluation.external import harness

CONTEXT = (
  "What is the sound of the\nanimal.\nA. Dog\nB. A cat\nC. Rain\n"
  "Answer with the option's letter from the given choices directly."
)
# Options that random weights will not write.
UNLIKELY = "what is heard?\nA. two four rain\nB. dog dog dog\nC. rain four two"


def test_options_are_read_off_lines():
  question, options = choices.split_lines(CONTEXT)
  assert question == "What is the sound of the\nanimal."
  assert options == ("Dog", "A cat", "Rain")
  assert choices.split_lines("Which?\n(A) one\n(B) two") == ("Which?", ("one", "two"))


@pytest.mark.parametrize(
  "context", ["Is there a dog?", "A. Dvorak wrote it. Who else?", "Which?\nB. two\nC. three", ""]
)
def test_what_has_no_options_is_asked_as_it_is(context):
  assert choices.split_lines(context) == (context, ())
  assert harness.prompt(context, (), "release") == context


def test_the_question_is_put_as_mmau_is():
  question, options = choices.split_lines("What is it?\nA. Dog\nB. A cat\nAnswer directly.")
  assert harness.prompt(question, options, "release") == "what is it? a) dog b) a cat"


@pytest.mark.parametrize(
  ("answer", "place"),
  [("b) a cat", 1), ("B", 1), ("a cat", 1), ("dog", 0), ("d) what", None), ("no idea", None)],
)
def test_the_letter_counts_before_the_text(answer, place):
  assert harness.place_of(answer, ("Dog", "A cat", "Rain")) == place
  assert harness.place_of("c) dog", ("Dog", "A cat", "Rain")) == 2


# --- The plug-in ---------------------------------------------------------------------------------


def test_lmms_eval_finds_the_model():
  registry = pytest.importorskip("lmms_eval.models.registry_v2")
  manifest = importlib.import_module("mellow_jax.evaluation.external.lmms_manifest").MANIFEST
  found = registry.ModelRegistryV2()
  found.register_manifest(manifest)
  assert found.get_model_class("mellow").__name__ == "MellowLmms"


class Model:
  """What lmms_eval.api.model.lmms promises those who subclass it."""

  is_simple = True

  def __init__(self):
    self.task_dict = {}
    self.cache_hook = types.SimpleNamespace(add_partial=lambda *what: None)


@dataclasses.dataclass
class Instance:
  """What lmms_eval.api.instance.Instance promises models."""

  request_type: str
  arguments: tuple
  idx: int
  metadata: dict

  @property
  def args(self):
    return self.arguments


@pytest.fixture(scope="module")
def lmms():
  """The module of the plug-in, over the real package if there is one."""
  try:
    importlib.import_module("lmms_eval.api.model")
    stood_in = []
  except ImportError:
    stood_in = ["lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "lmms_eval.api.instance"]
    sys.modules |= {name: types.ModuleType(name) for name in stood_in}
    sys.modules["lmms_eval.api.model"].lmms = Model
    sys.modules["lmms_eval.api.instance"].Instance = Instance
  yield importlib.import_module("mellow_jax.evaluation.external.lmms")
  for name in [*stood_in, "mellow_jax.evaluation.external.lmms"]:
    sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model(lmms, tiny_model_folder):
  model = lmms.MellowLmms(checkpoint=str(tiny_model_folder), batch_size="2", device="cuda")
  rng = np.random.default_rng(0)
  docs = [{"audio": {"array": rng.standard_normal(9000), "sampling_rate": 8000}} for _ in range(3)]
  model.task_dict = {"mmau": {"test": docs}}
  return model


def request(context, doc_id, how=None, kind="generate_until", clips=lambda doc: [doc["audio"]]):
  """A request as lmms-eval makes it; how is what the task asks of generation, or a target."""
  return sys.modules["lmms_eval.api.instance"].Instance(
    request_type=kind,
    arguments=(context, how or {}, clips, doc_id, "mmau", "test"),
    idx=0,
    metadata={"task": "mmau", "doc_id": doc_id, "repeats": 1},
  )


def test_multiple_choices_are_answered_by_a_letter(model, capsys):
  """Random weights write no letters: the most probable option is taken, whatever the batch."""
  requests = [request(UNLIKELY, i, {"max_new_tokens": 8, "until": ["\n"]}) for i in (0, 1, 2)]
  found = model.generate_until(requests)
  assert set(found) <= set("ABC")
  assert "of 3 multiple choices 3 were answered in words that pick no option" in (
    capsys.readouterr().err
  )
  assert model.generate_until(requests[1:2]) == found[1:2]
  question, options = choices.split_lines(UNLIKELY)
  clip = (np.asarray(model.task_dict["mmau"]["test"][0]["audio"]["array"], np.float32), 8000)
  asked = harness.prompt(question, options, "training")
  (scores,) = model.model.score([(clip, None, asked)], [choices.lettered(options)])
  best = max(range(3), key=lambda i: scores[i][0] / scores[i][1])
  assert found[0] == "ABC"[best]


def test_letters_that_the_model_writes_are_its_own(model, monkeypatch):
  """An answer that picks an option is taken at its word."""
  monkeypatch.setattr(harness, "place_of", lambda text, options: 1)
  assert model.generate_until([request(UNLIKELY, 0, {"max_new_tokens": 8})]) == ["B"]


def test_open_questions_get_the_models_words(model):
  asked = [request("what is heard ?", 1, {"max_new_tokens": n}) for n in (8, 2, 8)]
  words, fewer, again = model.generate_until(asked)
  clip = model.task_dict["mmau"]["test"][1]["audio"]
  own = model.model.answer((clip["array"].astype(np.float32), 8000), "what is heard ?")
  assert words == again and own.text.startswith(words) and words.startswith(fewer)
  cut = words.split()[1]
  how = {"max_new_tokens": 8, "until": cut}
  (short,) = model.generate_until([request("what is heard ?", 1, how)])
  assert short == words.split(cut)[0]


def test_targets_are_scored(model):
  words = model.generate_until([request("what is heard ?", 1)])[0]
  targets = (lambda doc: words, "a dog barks")
  asked = [request("what is heard ?", 1, target, "loglikelihood") for target in targets]
  (said, greedy), (other, other_greedy) = model.loglikelihood(asked)
  clip = (model.task_dict["mmau"]["test"][1]["audio"]["array"].astype(np.float32), 8000)
  (scores,) = model.model.score([(clip, None, "what is heard ?")], [[words, "a dog barks"]])
  assert (greedy, other_greedy) == (True, False)
  np.testing.assert_allclose([said, other], [score for score, _ in scores], rtol=1e-4)


def test_what_it_cannot_do_is_refused(model):
  with pytest.raises(ValueError, match="answers greedily here"):
    model.generate_until([request(CONTEXT, 0, {"do_sample": True})])
  with pytest.raises(ValueError, match="a request has 0 clips"):
    model.generate_until([request(CONTEXT, 0, clips=lambda doc: [])])
  with pytest.raises(NotImplementedError):
    model.generate_until_multi_round([])
