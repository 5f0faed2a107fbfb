"""The rules reject the ways in which questions fail, and keep those that need the clip."""

import pytest

from mellow_jax.reasonaqa.llm import filters, leftovers
from mellow_jax.reasonaqa.llm.qa_pairs import QAPair

KEPT = [
  ("What sound event is heard in the clip?", "A dog barks twice, and a door is shut after that."),
  ("What is the acoustic property of the bark?", "It is short and loud, with a sharp attack."),
  ("What can be inferred about the environment?", "It is likely a small room; it hardly echoes."),
  ("Which sound comes first?", "The bark comes first, and the door follows after a second."),
  ("How many times does the dog bark?", "It barks twice, and there is a short pause in between."),
  ("What should I do when I hear this?", "You might want to see who is at the door."),
  ("How does her voice change?", "It grows louder and possibly more impatient towards the end."),
  ("Why is someone shouting?", "To be heard over the engine, which is close to the microphone."),
  ("What is the difference between the two barks?", "The second one is longer and higher."),
  ("How would you describe the texture of the sound?", "It is rough, as a hoarse bark often is."),
  ("Is the man's mood calm?", "Yes, he speaks slowly, with a low and steady voice."),
]
FAULTY = {
  filters.KNOWLEDGE: [
    ("What kind of sound is barking?", "Barking is a short and loud sound that dogs make."),
    ("What sound does a dog make?", "A dog barks, and at times it growls or whines."),
    ("What is the significance of a siren?", "A siren warns of an emergency vehicle."),
    ("Why do dogs bark?", "Dogs bark to warn others, or because they want something."),
    ("What is the difference between a bark and a howl?", "A howl is longer and more tonal."),
    ("What does the dog usually do at night?", "It guards the house and barks at strangers."),
    ("What is heard in the clip?", "A bark refers to the short call of a dog."),
  ],
  filters.REFUSED: [
    ("How long does the bark last?", "The length of the bark is unknown."),
    ("What is the pitch of the whistle?", "It is unclear what the pitch of the whistle is."),
    ("Who is the man in the clip?", "It is impossible to determine who he is from the sound."),
    ("Where was the clip recorded?", "There is no information about where it was recorded."),
    ("What breed is the dog?", "The breed cannot be determined from the barking alone."),
    ("How old is the speaker?", "I'm sorry, but the age of the speaker is not given."),
  ],
  filters.VAGUE: [
    ("What if the dog were not there?", "The clip would be much quieter than it is now."),
    ("How would it sound if rain was added?", "The bark would be masked in part by the rain."),
    ("How may this clip affect a listener?", "That depends on the listener and the situation."),
    ("What is the mood of the clip?", "It could be sad, or it might be tense, or possibly calm."),
    ("And then?", "The dog barks once more and runs off."),
    ("What is heard in the clip?", "A dog."),
  ],
}
OF_THE_CAPTION = [
  ("What does the caption say about the dog?", "It says that the dog barks twice."),
  ("What is heard in the clip?", "A dog barks, as described in the audio description."),
]
OPTIONS = ("A dog", "A cat", "A fox", "A seal")


@pytest.mark.parametrize(("text", "answer"), KEPT)
def test_a_question_about_the_clip_is_kept(text, answer):
  assert filters.reject_reason(QAPair(text, (), answer)) == ""
  assert filters.reject_reason(QAPair(text, OPTIONS, "A fox")) == ""


@pytest.mark.parametrize("reason", FAULTY)
def test_what_fails_is_rejected_for_its_reason(reason):
  for text, answer in FAULTY[reason]:
    assert filters.reject_reason(QAPair(text, (), answer)) == reason, (text, answer)


@pytest.mark.parametrize(
  ("answer", "reason"),
  [
    ("Unknown", filters.REFUSED),
    ("It cannot be determined", filters.REFUSED),
    ("N/A", filters.REFUSED),
    ("Something else", filters.VAGUE),
    ("Other", filters.VAGUE),
    ("An unknown animal", ""),
    ("Other dogs", ""),
  ],
)
def test_an_option_that_says_nothing_is_no_answer(answer, reason):
  assert (
    filters.reject_reason(QAPair("Who barks in the clip?", (*OPTIONS[1:], answer), answer))
    == reason
  )


@pytest.mark.parametrize(("text", "answer"), OF_THE_CAPTION)
def test_what_speaks_of_the_caption_is_found(text, answer):
  assert leftovers.fault(QAPair(text, (), answer)) == leftovers.CAPTION


@pytest.mark.parametrize(("text", "answer"), KEPT)
def test_nothing_is_left_over_in_what_is_kept(text, answer):
  assert leftovers.fault(QAPair(text, (), answer)) == ""


def test_the_same_answer_is_kept_for_the_first_clips_only():
  repetition = filters.RepetitionFilter(0.02, 300)
  calm = "Does the clip convey urgency?"
  no = "No, the clip does not convey any urgency, as it is only the sound of {}."
  found = [
    repetition.reject_reason(QAPair(calm, (), no.format(what)), f"{i}.wav")
    for i, what in enumerate(("rain", "wind", "a fan", "surf", "hail", "a tap", "a jet", "a saw"))
  ]
  assert found == [""] * 6 + [filters.REPEATED] * 2
  # A clip that has it already may have it again: it has five captions.
  assert repetition.reject_reason(QAPair(calm, (), no.format("drizzle")), "0.wav") == ""
  # The same question with answers of its own is no repetition.
  asked = "What sound event is present in the clip?"
  for i, what in enumerate(("a dog", "a train", "rain on a roof", "two men")):
    answer = f"The sound event that is present in the clip is {what}."
    assert repetition.reject_reason(QAPair(asked, (), answer), f"{i}.wav") == ""
