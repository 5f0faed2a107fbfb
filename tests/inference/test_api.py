"""Rows and clips at the boundary of Python: taken where they are plain, else one line."""

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tiny

from mellow_jax.checkpoint import LoadedModel
from mellow_jax.errors import AudioError, QuestionError
from mellow_jax.inference import api
from mellow_jax.inference.decode import Sampling

RATE = 16_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
CLIP = (NOISE, RATE)


@pytest.fixture(scope="module")
def model(tiny_model_folder) -> api.Mellow:
  return api.Mellow.load(tiny_model_folder)


def test_no_rows_have_no_answers(model):
  assert model.answers([]) == [] and model.score([], []) == []


# In a process of its own: types are checked in tests alone.
REFUSED = """
import sys
import numpy as np
from mellow_jax.errors import UserError
from mellow_jax.inference.api import Mellow
from mellow_jax.inference.decide import Choice, Rating, YesNo

model, clip = Mellow.load(sys.argv[1]), (np.zeros(16_000, np.float32), 16_000)
row = (clip, None, "rain ?")

def refused(call, *words):
  try:
    call()
  except UserError as error:
    assert all(word in str(error) for word in words) and "\\n" not in str(error), error
  else:
    raise AssertionError(words)

for folder in (None, 3, "", b"model", ["model"]):
  refused(lambda: Mellow.load(folder), "is no path of a model folder: name one")
refused(lambda: Mellow(sys.argv[1]), "use Mellow.load(FOLDER)")
for size in (0, -1, 2.5, None, "8"):
  refused(lambda: model.answers([row], batch_size=size), "batch_size", "give 1 or more")
  refused(lambda: model.score([row], [["a"]], batch_size=size), "batch_size", "give 1 or more")
for bad in ((clip, "rain ?"), clip, None, 3, (*row, 1)):
  refused(lambda: model.answers([bad]), "give (first clip, second clip or None, question)")
for question in (None, 3, b"rain ?", ["rain ?"]):
  refused(lambda: model.answer(clip, question), "the question is", "give a str")
for bad in (None, clip[0], 3, {}):
  refused(lambda: model.answer(bad, "rain ?"), "give a path")
for window in ("middle", "random", "all", None):
  refused(lambda: model.answer(clip, "rain ?", window=window), 'choose "first" or "center"')
for seed in (None, 1.5, 2**70, "1"):
  refused(lambda: model.answer(clip, "rain ?", seed=seed), "seed", "give a whole number")
for sampling in (None, {"top_p": 0.5}):
  refused(lambda: model.answer(clip, "rain ?", sampling=sampling), "give a Sampling")
refused(lambda: model.answers(None), "rows None", "give rows of")
for options in ([[1, 2]], [["a", None]], [None]):
  refused(lambda: model.score([row], options), "give each row a list of texts")
for question in (5, None, b"rain ?"):
  for make in (YesNo, lambda q: Choice(q, ("a", "b")), lambda q: Rating(q, ("a", "b"))):
    refused(lambda: make(question), "question", "give a str")
refused(lambda: YesNo("rain ?", yes=1), "yes 1 is int: give a str")
for options in ((1, 2), "ab", None, 3, ("a", None)):
  refused(lambda: Choice("rain ?", options), "options", "give a tuple of texts")
  refused(lambda: Rating("rain ?", options), "levels", "give a tuple of texts")
for question in ("rain ?", None, 3, ("a", "b")):
  refused(lambda: model.decide(clip, {"q": question}), "q: ", "give a YesNo, a Choice or a Rating")
refused(lambda: model.decide(clip, Choice("rain ?", ("a", "b"))), "questions", "give a dict")
refused(lambda: model.decide(clip, {"q": YesNo("rain ?")}, state=5), "q: state 5 is int")
for text, fault in (("a" * 10_001, "allowed: shorten it"), ("a\\ud800", "half a surrogate pair")):
  refused(lambda: model.score([row], [["b", text]]), "option 'a", fault)
  refused(lambda: model.score([row, row], [["a"], [text]]), "row 1: option 'a", fault)
  for make in (lambda t: Choice("rain ?", ("b", t)), lambda t: Rating("rain ?", ("b", t))):
    refused(lambda: model.decide(clip, {"q": make(text)}), "q: option 'a", fault)
  for asked in (YesNo(text), YesNo("rain ?", no=text), Choice(text, ("a", "b"))):
    refused(lambda: model.decide(clip, {"q": asked}), "q: question: text", fault)
refused(
  lambda: model.decide(clip, {"q": Choice("?", ("a", "b"), {"a": "\\udfff"})}), "q: question: text"
)
refused(lambda: Choice("rain ?", ("a",), ["a"]), "descriptions", "give a dict")
refused(lambda: Choice("rain ?", ("a",), {"a": 5}), "description of 'a' 5 is int: give a str")
"""


def test_what_is_no_row_is_one_line_that_says_what_to_give(tiny_model_folder):
  command = [sys.executable, "-c", REFUSED, str(tiny_model_folder)]
  found = subprocess.run(command, capture_output=True, text=True, check=False)
  assert not found.returncode, found.stderr


@pytest.mark.parametrize("options", [[], [["a"], ["b"]], [[]], ["ab"]])
def test_options_that_do_not_fit_the_rows_are_refused(model, options):
  with pytest.raises(QuestionError, match="give each row a list of texts"):
    model.score([(CLIP, None, "rain ?")], options)


def test_a_preset_is_checked_before_the_model_is_read(tmp_path):
  with pytest.raises(QuestionError, match="preset 'relase' is unknown: one of release, training"):
    api.Mellow.load(tmp_path / "absent", "relase")


GOOD = [(CLIP, None, f"{word} ?") for word in ("rain", "dog", "one")]
PAIRS = {"sampling": Sampling(max_new_tokens=3, temperature=1.0), "batch_size": 2}


@pytest.mark.parametrize(
  ("bad", "error"),
  [((b"no audio", None, "rain ?"), AudioError), ((CLIP, None, " "), QuestionError)],
)
def test_the_answers_of_a_batch_before_its_bad_row_come_first(model, bad, error):
  expected, found = model.answers(GOOD, **PAIRS), []
  programs = model._generate._cache_size()
  with pytest.raises(error):
    found.extend(model.stream([*GOOD, bad, GOOD[0]], **PAIRS))
  assert found == expected and model._generate._cache_size() == programs


@pytest.mark.parametrize(
  ("numbers", "answers", "says"),
  [
    ([], 0, "numbers: 0 for more rows: give each row one"),
    ([5], 1, "numbers: 1 for more rows: give each row one"),
    ([5, 6, 7, 8], 3, "numbers: 4 for 3 rows: give each row one"),
  ],
)
def test_numbers_that_are_not_as_many_as_the_rows_are_told(model, numbers, answers, says):
  found = []
  with pytest.raises(QuestionError, match=says):
    found.extend(model.stream(iter(GOOD), numbers=numbers, **PAIRS))
  assert len(found) == answers


def test_options_of_any_length_take_few_programs(tiny_config):
  cfg = dataclasses.replace(tiny_config, answer_tokens=40)
  model = api.Mellow(LoadedModel(tiny.params(cfg), cfg, "training", tiny.tokenizer()))
  texts = [" ".join(["rain"] * n) for n in range(1, 40)]
  sizes = [model.encode_options([[text]])[0].shape[-1] for text in texts]
  assert sizes == [16] * 15 + [40] * 24  # an end token follows each
  short = ["a dog barks", "rain falls", "one"]
  found = model.score(GOOD[:1], [short], batch_size=1)
  padded = model.score(GOOD[:1], [short], batch_size=1, room=(3, 40))
  np.testing.assert_allclose(found, padded, rtol=1e-5)
  assert model._score._cache_size() == 2


def test_all_forms_of_a_clip_are_answered_alike(model):
  file = io.BytesIO()
  soundfile.write(file, NOISE, RATE, format="WAV", subtype="FLOAT")
  forms = [CLIP, (RATE, NOISE), {"array": NOISE, "sampling_rate": RATE}, (NOISE[None], 16_000.0)]
  rows = [(form, None, "rain ?") for form in [*forms, file, file.getvalue()]]
  answers = model.answers(rows, sampling=Sampling(max_new_tokens=3), batch_size=6)
  assert len({answer.texts for answer in answers}) == 1


def test_a_file_name_that_is_no_utf8_is_answered(tiny_model_folder, tmp_path):
  """In a process of its own: names reach it as bytes."""
  name = bytes(tmp_path) + b"/caf\xe9.wav"
  try:
    with open(name, "wb") as file:  # noqa: PTH123
      soundfile.write(file, NOISE, RATE, format="WAV")
  except OSError:
    pytest.skip("this file system takes UTF-8 alone")
  command = [sys.executable, "-m", "mellow_jax.generate", f"--checkpoint={tiny_model_folder}"]
  command += ["--prompt=rain ?", "--max_new_tokens=2", b"--audio=" + name]
  found = subprocess.run(command, capture_output=True, text=True, check=False)
  assert not found.returncode and "Traceback" not in found.stderr
