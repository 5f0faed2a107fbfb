"""Decisions: formulas by hand, words of questions, limits, and the command."""

import json

import numpy as np
import pytest

from mellow_jax import decide as command
from mellow_jax.errors import QuestionError
from mellow_jax.inference import api, decide, notes
from mellow_jax.inference.decide import Choice, Rating, YesNo
from mellow_jax.inference.notes import Note

NOISE = (np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32), 16_000)


def test_probabilities_and_confidence_by_hand():
  found = decide.decision(Choice("?", ("a", "b", "c")), np.log([0.7, 0.2, 0.1]))
  assert found.probabilities == pytest.approx((0.7, 0.2, 0.1)) and found.best == "a"
  assert found.confidence == pytest.approx((0.7 - 1 / 3) / (2 / 3))
  rating = decide.decision(Rating("?", ("low", "mid", "high")), np.log([0.1, 0.2, 0.7]))
  assert rating.expected == pytest.approx(1.6)
  # Mean distance from "high" is 0.4; of equal levels it is 2/3 from the middle.
  assert rating.confidence == pytest.approx(1 - 0.4 / (2 / 3))
  even = decide.decision(Choice("?", ("a", "b")), [-5.0, -5.0])
  assert even.confidence == pytest.approx(0)


def test_a_temperature_flattens():
  found = decide.decision(YesNo("?"), np.log([0.8, 0.2]), temperature=2.0)
  assert found.probabilities[0] == pytest.approx(2 / 3)


def test_very_improbable_options_are_no_nan():
  found = decide.decision(Choice("?", ("a", "b")), [-2000.0, -3000.0])
  assert found.probabilities == (1.0, 0.0)


def test_options_are_listed_where_they_fit():
  question = Choice("what is it?", ("dog", "rain"), {"rain": "drops on a roof"})
  assert decide.phrase(question, lambda text: True) == (
    "what is it? a) dog b) rain (drops on a roof)",
    ["a) dog", "b) rain"],
    (),
  )
  dropped = (Note("descriptions_dropped", "of 1 options"),)
  assert decide.phrase(question, lambda text: "(" not in text) == (
    "what is it? a) dog b) rain",
    ["a) dog", "b) rain"],
    dropped,
  )
  assert decide.phrase(question, lambda text: False) == ("what is it?", ["dog", "rain"], dropped)
  many = Choice("which?", tuple(f"sound {i}" for i in range(255)))
  assert decide.phrase(many, lambda text: True) == ("which?", list(many.options), ())
  assert decide.phrase(YesNo("", yes="a dog barks"), lambda text: True)[0] == "yes: a dog barks"


@pytest.mark.parametrize(
  ("make", "says"),
  [
    (lambda: Choice("?", ()), "give 1 to 255"),
    (lambda: Choice("?", tuple(map(str, range(256)))), "256 options"),
    (lambda: Choice("?", ("a", "a")), "twice"),
    (lambda: Choice("?", ("a b", "c", " a  b")), "options: 'a b' is given twice"),
    (lambda: Choice("?", ("a", " ")), "empty"),
    (lambda: Choice("?", ("a",), {"b": "bell"}), "'b' is of no option"),
    (lambda: Rating("?", ("a", "b", "a")), "levels: 'a' is given twice"),
    (lambda: Rating("?", tuple(map(str, range(11)))), "give 1 to 10"),
  ],
)
def test_wrong_questions_are_refused(make, says):
  with pytest.raises(QuestionError, match=says):
    make()


LONG = " ".join(["rain", "falls"] * 4)  # 8 tokens, as many as the tiny model reads of an option


@pytest.fixture(scope="module")
def model(tiny_model_folder) -> api.Mellow:
  return api.Mellow.load(tiny_model_folder)


def test_options_that_are_cut_are_said(model, caplog):
  question = Choice("what ?", (f"{LONG} one", f"two {LONG}", "rain"))
  found = model.decide(NOISE, {"q": question})["q"]
  cut = Note(
    "option_cut", f"9 tokens, 8 are read of {notes.quoted(f'{LONG} one')}, and 1 more options"
  )
  assert cut in found.notes
  assert caplog.text.count("options are cut after 8 tokens, the first is: rain falls") == 1
  short = model.decide(NOISE, {"q": Choice("what ?", ("a dog", "rain"))})["q"]
  assert not [note for note in short.notes if "option" in note.kind]


def test_options_that_a_cut_makes_the_same_are_refused(model):
  alike = (f"{LONG} one", "rain", f"{LONG} two")
  says = "options 1 and 3, 'rain falls .* one' and 'rain falls .* two', are the same in the 8 "
  for question in (Choice("what ?", alike), Rating("what ?", alike)):
    with pytest.raises(QuestionError, match=says):
      model.decide(NOISE, {"q": question})
  row = (NOISE, None, "what ?")
  with pytest.raises(QuestionError, match=f"row 1: {says}"):
    model.score([row, row], [["rain"], alike])
  # A benchmark's choices may repeat.
  first, _, again = model.score([row], [(f"{LONG} one", "rain", f"{LONG} one")])[0]
  assert first == pytest.approx(again)


def test_words_of_unlisted_options_that_the_tokenizer_does_not_know_are_said(model):
  options = ("a dog", "a xylophone", *(f"one {' one' * i}" for i in range(6)))
  found = model.decide(NOISE, {"q": Choice("what is heard ?", options)})["q"]
  assert Note("unknown_option_words", "xylophone") in found.notes


def test_descriptions_without_room_are_said(model):
  question = Choice("what is heard ?", ("dog", "rain"), {"rain": "falls in the audio"})
  found = model.decide(NOISE, {"q": question})["q"]
  assert Note("descriptions_dropped", "of 1 options") in found.notes


def test_the_command_says_what_is_lost(tiny_model_folder, tmp_path, capsys):
  import soundfile

  clip = tmp_path / "clip.wav"
  soundfile.write(clip, NOISE[0], NOISE[1])
  argv = ["mellow decide", str(clip), "what ?", f"--checkpoint={tiny_model_folder}"]
  for format_flag in ([], ["--json"]):
    assert command.main([*argv, f"--options={LONG} one,two {LONG}", *format_flag]) == 0
    out, err = capsys.readouterr()
    assert "questions with options cut to fit the model: 1 of 1, first" in err
  assert json.loads(out)["notes"]["option_cut"].startswith("9 tokens, 8 are read of 'rain falls")
  for options, says in (
    (f"{LONG} one,{LONG} two", "options 1 and 2, 'rain falls"),
    (f"dog,{'a' * 10_001}", "option 'aaaa"),
    ("dog,a\udce9", "option 'a\\udce9': text holds half a surrogate pair"),
  ):
    assert command.main([*argv, f"--options={options}"]) == 1
    err = capsys.readouterr().err
    assert f"error: {says}" in err and "Traceback" not in err


def test_the_command_prints_bars_or_json(tiny_model_folder, tmp_path, capsys):
  import soundfile

  clip = tmp_path / "clip.wav"
  soundfile.write(clip, np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
  argv = ["mellow decide", str(clip), f"--checkpoint={tiny_model_folder}", "--question=what is it?"]
  assert command.main([*argv, "--options=dog,rain", "--json"]) == 0
  line = json.loads(capsys.readouterr().out)
  assert sum(line["probabilities"].values()) == pytest.approx(1)
  assert line["best"] == max(line["probabilities"], key=line["probabilities"].get)
  assert command.main([*argv, "--levels=low,mid,high"]) == 0
  out = capsys.readouterr().out.splitlines()
  assert [row.split()[0] for row in out] == ["low", "mid", "high", "confidence"]
  for asked in ([str(clip), "what is it?"], [f"--audio={clip}", "--prompt=what is it?"]):
    assert command.main([argv[0], *asked, argv[2], "--options=dog,rain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == line
  assert command.main([*argv, "--levels=a,b", "--options=c,d"]) == 1
  assert "give one of them" in capsys.readouterr().err
  assert command.main([*argv, "--levels=a,a", "--json"]) == 1
  assert "levels: 'a' is given twice: each must be another" in capsys.readouterr().err
  for flag in ("--options=", "--levels="):
    assert command.main([*argv, flag]) == 1
    assert f"{flag[:-1]} is empty" in capsys.readouterr().err
  assert command.main(argv[:1] + argv[2:]) == 1
  assert "give one or two files" in capsys.readouterr().err
