import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mellow_jax.data import presets, prompts

RELEASE, TRAINING, CLEAN = (presets.PRESETS[name] for name in ("release", "training", "clean"))
IN_FEW_WORDS = "explain the difference in few words"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
  """One token a character: end 0, space 1, "!" 17, letters elsewhere."""
  vocab = {"<|endoftext|>": 0, " ": 1, "!": 17, "?": 18, ".": 19}
  vocab |= {letter: 20 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
  made = Tokenizer(models.WordLevel(vocab, unk_token="?"))
  made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
  made.add_special_tokens(["<|endoftext|>"])
  return made


def drawn(text, preset, draws=400):
  rng = np.random.default_rng(0)
  return {prompts.question(text, preset, rng=rng) for _ in range(draws)}


def test_paraphrases_are_many_and_distinct():
  sentences = [p for key in prompts.KEYS.values() for p in key.paraphrases]
  assert len(sentences) == len({s.lower() for s in sentences}) == 90


@pytest.mark.parametrize("key", prompts.KEYS)
def test_training_draws_every_paraphrase(key):
  assert drawn(key, TRAINING) == set(prompts.KEYS[key].paraphrases)


def test_same_generator_same_paraphrase():
  first, second = (
    prompts.question(IN_FEW_WORDS, TRAINING, rng=np.random.default_rng(7)) for _ in range(2)
  )
  assert first == second


def test_paraphrases_keep_their_case_while_training():
  assert all(question[0].isupper() for question in drawn(IN_FEW_WORDS, TRAINING))


def test_other_questions_are_lower_cased_while_training():
  assert drawn("What Is  This?", TRAINING) == {"what is  this?"}


@pytest.mark.parametrize(
  ("key", "sentence"),
  [
    (IN_FEW_WORDS, "explain the difference between the two audios in few words."),
    (
      "explain the difference in a sentence",
      "explain the difference between the two audios in one extended sentence.",
    ),
    (
      "Explain the difference in detail.",
      "explain the difference between the two audios in detail.",
    ),
    ("caption the audio", "caption the audio"),
    ("caption first audio", "caption the audio"),
    ("caption second audio", "caption second audio"),
    ("caption both audios", "caption both audios"),
  ],
)
def test_evaluation_asks_a_fixed_sentence_in_lower_case(key, sentence):
  assert prompts.question(key, TRAINING) == sentence


def test_release_asks_as_given():
  for text in (IN_FEW_WORDS, " What  IS this? "):
    assert drawn(text, RELEASE, 3) == {prompts.question(text, RELEASE)} == {text}


def test_clean_tidies_white_space_and_nothing_else():
  assert drawn(" What  IS\nthis? ", CLEAN, 3) == {"What IS this?"}
  assert drawn(IN_FEW_WORDS, CLEAN, 3) == {IN_FEW_WORDS}
  assert prompts.answer("A  Dog. ", CLEAN, task="caption first", training=True) == "A Dog."


def test_answers_are_lower_cased_except_differences_while_training():
  def given(task, training):
    return prompts.answer("Audio 1 Has Rain", TRAINING, task=task, training=training)

  assert given("difference", True) == "Audio 1 Has Rain"
  assert given("difference", False) == given("other", True) == "audio 1 has rain"


def test_captions_become_sentences():
  def given(task, second=None):
    return prompts.answer("A dog barks.", TRAINING, task=task, training=True, second=second)

  assert given("caption first") == "The audio 1 is a dog barks."
  assert given("caption second") == "The audio 2 is a dog barks."
  both = "The audio 1 is a dog barks. The audio 2 is rain falls."
  assert given("caption both", "Rain falls") == both
  with pytest.raises(ValueError, match="second caption"):
    given("caption both")


def test_captions_of_which_no_sentence_can_be_made_are_told():
  both = "Caption  both audios."
  assert "caption of the second clip" in prompts.caption_fault(both, "rain", " ", TRAINING)
  assert "shorten it" in prompts.caption_fault(both, "a" * 6000, "b" * 6000, TRAINING)
  for question, second, preset in (
    (both, "wind", TRAINING),
    (both, "", CLEAN),
    (both, "", RELEASE),
    ("caption the audio", "", TRAINING),
    ("caption second audio", "", TRAINING),
    ("write a caption of both", "", TRAINING),
  ):
    assert prompts.caption_fault(question, "rain", second, preset) == ""


@pytest.mark.parametrize(
  ("text", "task"),
  [
    ("Explain the difference in a sentence", "difference"),
    ("caption the audio", "caption first"),
    ("caption  second audio", "caption second"),
    ("what is this?", "other"),
  ],
)
def test_tasks_of_questions(text, task):
  assert prompts.task_of(text) == task


def ids_of(tokenizer, text, end, slots):
  ids, length = prompts.encode(tokenizer, text, end, slots, 17, 0)
  assert ids.shape == (slots,) and ids.dtype == np.int32
  assert (ids[length:] == 17).all()
  return ids[:length].tolist()


def test_release_question_has_no_end_token(tokenizer):
  assert ids_of(tokenizer, "ab", RELEASE.question_end, 6) == [20, 21]


def test_training_end_token_follows_a_space(tokenizer):
  for end in (TRAINING.question_end, TRAINING.answer_end):
    assert ids_of(tokenizer, "ab", end, 6) == [20, 21, 1, 0]


def test_clean_end_token_follows_the_text(tokenizer):
  for end in (CLEAN.question_end, CLEAN.answer_end):
    assert ids_of(tokenizer, "ab", end, 6) == [20, 21, 0]


def test_padding_is_an_ordinary_token_so_length_tells_them_apart(tokenizer):
  assert ids_of(tokenizer, "a!", RELEASE.question_end, 6) == [20, 17]


def test_long_text_is_cut_and_loses_its_end(tokenizer):
  assert ids_of(tokenizer, "abcdef", RELEASE.question_end, 3) == [20, 21, 22]
  assert ids_of(tokenizer, "abcdef", TRAINING.answer_end, 3) == [20, 21, 22]


def test_clean_long_text_keeps_its_end(tokenizer):
  assert ids_of(tokenizer, "abcdef", CLEAN.answer_end, 3) == [20, 21, 0]


def test_text_without_bound_is_refused(tokenizer):
  with pytest.raises(ValueError, match=r"10001 characters.*shorten"):
    prompts.encode(tokenizer, "a" * 10_001, CLEAN.question_end, 8, 17, 0)


def test_lone_surrogate_is_refused(tokenizer):
  with pytest.raises(ValueError, match="surrogate pair at character 2"):
    prompts.encode(tokenizer, "ab\ud800", CLEAN.answer_end, 8, 17, 0)


def test_unknown_end_id_is_refused(tokenizer):
  with pytest.raises(ValueError, match="no token 999"):
    prompts.encode(tokenizer, "ab", TRAINING.answer_end, 8, 17, 999)


def test_smollm2_end_is_a_space_and_token_0(reference_data):
  tokenizer = Tokenizer.from_file(str(reference_data / "tokenizers/smollm2/tokenizer.json"))
  ids, length = prompts.encode(tokenizer, "hi there", TRAINING.question_end, 8, 17, 0)
  assert ids[:length].tolist() == [6004, 665, 216, 0]
  assert tokenizer.decode([17]) == "!"
