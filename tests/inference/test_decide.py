"""Decisions: formulas by hand, words of questions, limits, and the command."""

import json

import numpy as np
import pytest

from mellow_jax import decide as command
from mellow_jax.errors import QuestionError
from mellow_jax.inference import decide
from mellow_jax.inference.decide import Choice, Rating, YesNo


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
  )
  assert decide.phrase(question, lambda text: "(" not in text) == (
    "what is it? a) dog b) rain",
    ["a) dog", "b) rain"],
  )
  assert decide.phrase(question, lambda text: False) == ("what is it?", ["dog", "rain"])
  many = Choice("which?", tuple(f"sound {i}" for i in range(255)))
  assert decide.phrase(many, lambda text: True) == ("which?", list(many.options))
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
