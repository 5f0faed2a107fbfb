"""The command that shows what a model hears beside what it says."""

import dataclasses
import json

import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
import soundfile
import tiny

from mellow_jax import checkpoint, inspect
from mellow_jax.data import audio, audioset
from mellow_jax.data.audio import Clip
from mellow_jax.evaluation.inspection import events, hallucination, inspecting, picture
from mellow_jax.inference.api import Answer, Mellow
from mellow_jax.models import logmel

RATE = 16_000
STEP = 1 / 8  # s: the tiny encoder tells 8 steps of its 1 s apart


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  """A noise of 2.5 s and a tone of 0.3 s."""
  folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
  tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(0.3 * RATE)) / RATE)
  soundfile.write(folder / "long.wav", 0.1 * rng.standard_normal(int(2.5 * RATE)), RATE)
  soundfile.write(folder / "short.wav", tone, RATE)
  return folder


@pytest.fixture(scope="module")
def audioset_folder(tmp_path_factory):
  """A model of random weights whose encoder has AudioSet's number of classes."""
  encoder = dataclasses.replace(tiny.config().encoder, classes=len(audioset.CLASSES))
  cfg = tiny.config(encoder=encoder)
  folder = tmp_path_factory.mktemp("audioset") / "model"
  checkpoint.save_model(folder, tiny.params(cfg), cfg, "training", tiny.tokenizer())
  return folder


def run(capsys, checkpoint, output, *arguments):
  """(exit status, stdout, stderr) of the command."""
  argv = ["inspect", f"--checkpoint={checkpoint}", f"--output={output}", *map(str, arguments)]
  status = inspect.main(argv)
  return status, *capsys.readouterr()


def test_a_long_clip_is_asked_about_window_by_window(clips, audioset_folder, tmp_path, capsys):
  arguments = [f"--audio={clips / 'long.wav'}", "--prompt=what is heard ?", "--threshold=0.5"]
  status, out, _ = run(capsys, audioset_folder, tmp_path, *arguments)
  content = json.loads((tmp_path / "long.json").read_text())
  assert status == 0
  # The half second that is left is less than counts as a window.
  heard = ["0.0-1.0 s of 2.5 s", "1.0-2.0 s of 2.5 s"]
  assert [answer["heard"] for answer in content["answers"]] == [[text] for text in heard]
  own = Mellow.load(audioset_folder).answer_windows(clips / "long.wav", "what is heard ?")
  assert [answer["answer"] for answer in content["answers"]] == [answer.text for answer in own]
  (clip,) = content["clips"]
  assert clip["step_seconds"] == STEP and clip["total_seconds"] == 2.5
  assert all(len(event["probabilities"]) == 2 / STEP for event in clip["events"])
  assert content["rule"] == {"applies": True, "text": hallucination.RULE}
  for answer in content["answers"]:
    assert answer["check"]["threshold"] == 0.5
    assert f"{answer['heard'][0]}: {answer['answer']}" in out
  assert content["pictures"] == ["long.png"]
  assert matplotlib.image.imread(tmp_path / "long.png").shape[1] == 900


def timeline(seconds):
  """A clip of so many windows of 1 s in which nothing is heard."""
  clips = tuple(
    Clip(np.zeros(RATE, np.float32), float(i), 1.0, float(seconds)) for i in range(seconds)
  )
  probabilities = np.zeros((round(seconds / STEP), len(audioset.CLASSES)), np.float32)
  return events.Timeline(
    "x", clips, np.zeros((50 * seconds, 16), np.float32), probabilities, STEP, 0.02
  )


def test_words_are_checked_against_the_window_they_are_about():
  dog, heard = audioset.CLASSES.index("Dog"), timeline(2)
  heard.probabilities[10, dog] = 0.7  # 1.25 s: in the second window
  answer = Answer(
    texts=("a dog barks",),
    log_probs=(-1.0,),
    tokens=(3,),
    finish_reasons=("stop",),
    notes=(),
    heard=("", ""),
  )
  first, second = (inspecting.report_answer(answer, i, [heard], 0.1) for i in range(2))
  assert first["check"]["unsupported"] == ["dog", "barks"]
  assert second["check"]["unsupported"] == ["barks"]
  (found,) = inspecting.report_clip(heard, 1, 0.1)["detected"]
  assert (found["name"], found["at_seconds"]) == ("Dog", 1.25)
  # Of two clips either may support a word.
  both = inspecting.report_answer(answer, 1, [timeline(2), heard], 0.1)
  assert both["check"] == second["check"]


def test_two_clips_and_classes_without_names(clips, tiny_model_folder, tmp_path, capsys):
  arguments = [f"--audio={clips / 'short.wav'}", f"--audio={clips / 'long.wav'}", "--top=2"]
  status, out, _ = run(capsys, tiny_model_folder, tmp_path / "new" / "folder", *arguments)
  content = json.loads((tmp_path / "new/folder/short+long.json").read_text())
  assert status == 0
  assert content["prompt"] == "explain the difference in few words"
  (answer,) = content["answers"]
  assert answer["heard"] == ["0.0-0.3 s of 0.3 s", "0.0-1.0 s of 2.5 s"]
  assert answer["check"] is None
  assert not content["rule"]["applies"]
  assert "16 classes of its own, without names" in content["rule"]["why"]
  assert "words not checked: the encoder has 16 classes" in out
  short, long = content["clips"]
  # The silence that fills the clip up is not shown: 0.3 s are 2.4 steps.
  assert [len(event["probabilities"]) for event in short["events"]] == [3, 3]
  assert all(event["name"] == f"class {event['index']}" for event in short["events"])
  assert len(long["windows"]) == 2
  assert (tmp_path / "new/folder/short+long.png").is_file()


def test_the_spectrogram_has_the_time_axis_of_the_clip(clips, tiny_config, tiny_model_folder):
  model = Mellow.load(tiny_model_folder)
  windows = audio.load_windows(clips / "long.wav", tiny_config.audio, model.preset)
  detect = events.make_detector(tiny_config)
  timeline = events.detect_events("long", windows, tiny_config, detect, model.params["encoder"])
  assert timeline.db.shape == (2 * 50, 16)  # two windows of 1 s, a frame every 20 ms
  expected = logmel.log_mel(jnp.asarray(windows[1].wav[None]), tiny_config.audio)[0]
  np.testing.assert_allclose(timeline.db[50:], expected[:50], atol=1e-3)


def test_events_stand_below_the_spectrogram_though_it_has_a_scale_of_colours(tiny_config):
  heard = timeline(2)
  heard.probabilities[:, :3] = 0.4
  rule = {"applies": True, "text": ""}
  figure = picture.draw("what?", [], [heard], range(2), rule, tiny_config.audio, 3, 0.1)
  figure.draw_without_rendering()
  _, spectrum, curves = figure.axes
  ends = [(one.get_position().x0, one.get_position().x1) for one in (spectrum, curves)]
  assert ends[0] == pytest.approx(ends[1])
  assert spectrum.child_axes[0].get_ylabel() == "dB from the peak"


def test_many_windows_make_several_pictures():
  heard = timeline(14)
  assert inspecting.pictures([heard]) == [range(6), range(6, 12), range(12, 14)]
  assert heard.steps(6, 12) == slice(48, 96)
  # Each shows its own top events, and the JSON has all of them.
  heard.probabilities[0, 5] = heard.probabilities[60, 7] = heard.probabilities[110, 9] = 0.4
  shown = inspecting.report_clip(heard, 1, 0.5)
  assert [event["index"] for event in shown["events"]] == [5, 7, 9]
  assert not shown["detected"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "0 clips: give one or two files"),
    (["--audio=a.wav"] * 3, "3 clips: give one or two files"),
    (["a.wav", "b.wav", "c.wav", "what ?"], "3 clips: give one or two files"),
    (["a.wav", "what", "is"], "'what' is no file or folder"),
    (["--audio=nowhere.wav"], "nowhere.wav: there is no such file"),
    (["nowhere.wav"], "nowhere.wav: there is no such file"),
    (["--audio=a.wav", "--threshold=2"], "threshold"),
  ],
)
def test_bad_input_is_one_line(arguments, message, tiny_model_folder, tmp_path, capsys):
  status, out, err = run(capsys, tiny_model_folder, tmp_path / "out", *arguments)
  assert status == 1 and not out
  assert message in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("style", [("--audio=", "--prompt="), ("", ""), ("", "--question=")])
def test_an_empty_question_is_refused(clips, tiny_model_folder, tmp_path, capsys, style):
  arguments = [f"{style[0]}{clips / 'short.wav'}", f"{style[1]} "]
  status, _, err = run(capsys, tiny_model_folder, tmp_path / "out", *arguments)
  assert status == 1 and "error: the question is empty" in err
  assert not (tmp_path / "out").exists()
