"""What is lost on the way is said: text cut, words unknown, clips silent, answers unfinished."""

import numpy as np
import pytest
import tiny

from mellow_jax.data import prompts
from mellow_jax.errors import AudioError
from mellow_jax.inference import api
from mellow_jax.inference.decode import Sampling
from mellow_jax.inference.notes import Note, NoteCounts

RATE = 16_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)


@pytest.fixture(scope="module")
def model(tiny_model_folder) -> api.Mellow:
  return api.Mellow.load(tiny_model_folder)


def kinds(answer: api.Answer) -> set[str]:
  return {note.kind for note in answer.notes}


@pytest.mark.parametrize(("end", "room"), [("none", 4), ("string", 4), ("token", 3)])
def test_unread_is_what_encode_loses(end, room):
  tokenizer = tiny.tokenizer()
  for count in range(1, 7):
    text = " ".join(["heard"] * count)
    found = prompts.unread(tokenizer, text, end, 4)
    ids, _ = prompts.encode(tokenizer, text, end, 4, 1, 0)
    kept = int((ids == tokenizer.token_to_id("heard")).sum())
    assert (found.tokens, found.over) == (count, count - kept) and kept == min(count, room)


def test_unknown_words_are_named_as_they_were_written():
  found = prompts.unread(tiny.tokenizer(), "What is Gehört in the Café ?", "none", 20)
  assert found.unknown == ("Gehört", "Café") or "Geh" in found.unknown[0]


def test_a_question_in_unknown_words_a_silent_clip_and_a_short_one_are_noted(model):
  sampling = Sampling(max_new_tokens=1)
  silent = model.answer((np.zeros(RATE, np.float32), RATE), "quel son ?", sampling=sampling)
  assert {"silent_clip", "unknown_words", "answer_unfinished"} <= kinds(silent)
  assert ("unknown_words", "quel, son") in [tuple(note) for note in silent.notes]
  short = model.answer((NOISE[:160], RATE), "what is heard ?", sampling=sampling)
  assert Note("short_clip", "0.01 s") in short.notes and "silent_clip" not in kinds(short)
  plain = model.answer((NOISE, RATE), "what is heard ?", sampling=sampling)
  assert kinds(plain) <= {"answer_unfinished", "empty_answer"}


def test_a_clip_of_which_a_part_is_heard_is_noted_and_counted(model):
  sampling = Sampling(max_new_tokens=1)
  long = np.tile(NOISE, 4)
  rows = [((long, RATE), None, "rain ?"), ((NOISE, RATE), None, "rain ?")]
  counts, all_counts = NoteCounts(), NoteCounts(all_windows=True)
  for name, answer in zip("ab", model.answers(rows, sampling=sampling), strict=True):
    counts.add(name, answer.notes)
    all_counts.add(name, answer.notes)
  heard = f"0.0-{model.cfg.audio.clip_seconds:.1f} s of 4.0 s"
  assert f"clips of which a part is heard: 1 of 2, first a: {heard}" in counts.lines()
  assert not any("a part" in line for line in all_counts.lines())


def test_an_answer_says_why_it_ended_and_how_probable_it_is(model):
  for most in (1, 3, 40):
    answer = model.answer((NOISE, RATE), "rain ?", sampling=Sampling(max_new_tokens=most))
    is_cut = answer.tokens[0] == most
    assert answer.finish_reason == ("length" if is_cut else "stop")
    assert ("answer_unfinished" in kinds(answer)) == is_cut
    assert answer.log_prob == answer.log_probs[0] < 0
    stream = model.stream_answer((NOISE, RATE), "rain ?", sampling=Sampling(max_new_tokens=most))
    next(stream, "")
    assert stream.answer.texts == answer.texts
    assert stream.answer.finish_reasons == answer.finish_reasons
    np.testing.assert_allclose(stream.answer.log_prob, answer.log_prob, rtol=1e-4)


def test_a_bad_row_takes_its_own_place_alone(model):
  """Wherever the bad rows stand, the others have the answers that they have without them."""
  good = [((NOISE * gain, RATE), None, q) for gain in (1.0, 0.5) for q in ("rain ?", "a dog ?")]
  how = {"sampling": Sampling(max_new_tokens=3, temperature=1.0), "batch_size": 2}
  expected = model.answers(good, numbers=range(4), **how)
  bad = [(b"no audio", None, "rain ?"), ((NOISE, RATE), None, " ")]
  bad.append((AudioError("c.wav: is empty", "empty"), None, "rain ?"))
  rows = [bad[0], *good[:2], bad[1], bad[2], bad[0], *good[2:], bad[1]]
  numbers = [9, 0, 1, 9, 9, 9, 2, 3, 9]
  found = model.answers(rows, numbers=numbers, strict=False, **how)
  assert [one.texts for one in found if isinstance(one, api.Answer)] == [a.texts for a in expected]
  reasons = [one.reason for one in found if isinstance(one, api.NotAsked)]
  assert reasons == ["undecodable", "question", "empty", "undecodable", "question"]
  with pytest.raises(AudioError, match=r"c\.wav: is empty"):
    model.answers([bad[2]], **how)
  assert [one.reason for one in model.answers(bad[:1], strict=False, **how)] == ["undecodable"]


def test_each_kind_is_counted_with_its_first_case():
  tally = NoteCounts()
  tally.add("a.wav", [Note("silent_clip", ""), Note("silent_clip", "")])
  tally.add("b.wav", [Note("question_cut", "93 tokens, 24 are read"), Note("silent_clip", "")])
  tally.add("c.wav", [])
  assert tally.lines() == [
    "questions cut to fit the model: 1 of 3, first b.wav: 93 tokens, 24 are read",
    "silent clips: 2 of 3, first a.wav",
  ]
