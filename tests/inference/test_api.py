"""Rows and clips at the boundary of Python: taken where they are plain, else one line."""

import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from mellow_jax.errors import AudioError, QuestionError
from mellow_jax.inference import api
from mellow_jax.inference.decode import Sampling

RATE = 16_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
CLIP = (NOISE, RATE)


@pytest.fixture(scope="module")
def model(tiny_model_folder) -> api.Mellow:
  return api.Mellow.load(tiny_model_folder)


@pytest.mark.parametrize("size", [0, -1, 2.5, None, "8"])
def test_a_batch_size_that_is_none_is_refused(model, size):
  with pytest.raises(QuestionError, match="batch_size .*: give 1 or more"):
    next(model._run([(CLIP, None, "rain ?")], "first", size, None, ("answers",)))


def test_no_rows_have_no_answers(model):
  assert model.answers([]) == [] and model.score([], []) == []


@pytest.mark.parametrize("row", [(CLIP, "rain ?"), CLIP, None, 3, (CLIP, None, "rain ?", 1)])
def test_a_row_of_another_form_is_refused(model, row):
  with pytest.raises(QuestionError, match=r"give \(first clip, second clip or None, question\)"):
    model.prompt(row)


@pytest.mark.parametrize("question", [None, 3, b"rain ?", ["rain ?"]])
def test_a_question_that_is_no_text_is_refused(model, question):
  with pytest.raises(QuestionError, match="the question is .*: give a str"):
    model.prompt((CLIP, None, question))


def test_a_clip_of_another_form_and_a_wrong_window_are_refused(model):
  for clip in (None, NOISE, 3, {}):
    with pytest.raises(AudioError, match="give a path"):
      model.prompt((clip, None, "rain ?"))
  for window in ("middle", "random", "all", None):
    with pytest.raises(QuestionError, match='choose "first" or "center"'):
      model.clip(CLIP, window)


@pytest.mark.parametrize("options", [[], [["a"], ["b"]], [[]], ["ab"]])
def test_options_that_do_not_fit_the_rows_are_refused(model, options):
  with pytest.raises(QuestionError, match="give each row a list of options"):
    model.score([(CLIP, None, "rain ?")], options)


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
