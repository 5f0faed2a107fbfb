"""Questions and answers as the model gets them: prompt keys, paraphrases, token ids.

ReasonAQA writes captions and differences with short prompt keys, such as "explain the difference in
few words". In training, a key gives way to one of its paraphrases, drawn at random; in evaluation,
to one fixed sentence.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer

from mellow_jax.data.presets import End, Preset

# A tokenizer takes 2 s for a megabyte, and no more than the first few hundred tokens are kept.
MAX_CHARACTERS = 10_000

Task = Literal["difference", "caption first", "caption second", "caption both", "other"]


@dataclass(frozen=True)
class PromptKey:
  """What a prompt key stands for: its task, its fixed sentence and its paraphrases."""

  task: Task
  evaluation: str
  paraphrases: tuple[str, ...]


KEYS = {
  "explain the difference in few words": PromptKey(
    task="difference",
    evaluation="Explain the difference between the two audios in few words.",
    paraphrases=(
      "Briefly, how do the two audios differ?",
      "Give the difference between the audios in a handful of words.",
      "In short, what sets audio 1 apart from audio 2?",
      "Name the main difference between the two recordings.",
      "Sum up how these two sounds differ, as briefly as you can.",
      "Use only a few words to contrast the first audio with the second.",
      "What changes from audio 1 to audio 2? Be brief.",
      "State the contrast between both clips concisely.",
      "Tell me quickly what is different about the two audios.",
      "Compare the audios in a short phrase or two.",
      "Point out, in few words, where the two clips differ.",
      "Keep it short: how is the first recording unlike the second?",
      "A short comparison of the two audios, please.",
    ),
  ),
  "explain the difference in a sentence": PromptKey(
    task="difference",
    evaluation="Explain the difference between the two audios in one extended sentence.",
    paraphrases=(
      "Contrast the two audios in a single sentence.",
      "Write one full sentence on how the recordings differ.",
      "In one sentence, say what distinguishes audio 1 from audio 2.",
      "Describe with one longer sentence how the first clip is unlike the second.",
      "How do the two sounds differ? Reply with one complete sentence.",
      "Put the differences between both audios into one sentence.",
      "Compare the audios, taking no more than one sentence.",
      "One sentence, please: what makes these two clips different?",
      "Form a sentence that sets the first audio against the second.",
      "Express in a sentence what you hear in one audio and not in the other.",
      "Let a single sentence tell the two recordings apart.",
      "What differs between the audios? Answer within one well-formed sentence.",
      "Summarise the contrast between the two clips as a sentence.",
    ),
  ),
  "explain the difference in detail": PromptKey(
    task="difference",
    evaluation="Explain the difference between the two audios in detail.",
    paraphrases=(
      "Compare the two audios thoroughly.",
      "Give a detailed account of how audio 1 differs from audio 2.",
      "Describe at length what distinguishes the two recordings.",
      "Go through every difference you can hear between the clips.",
      "How do the two audios differ? Cover the events, the setting and the quality of the sound.",
      "Analyse both recordings and set out their differences in full.",
      "Take your time and explain in depth how the first audio is unlike the second.",
      "Write a careful comparison of the two sounds, leaving nothing out.",
      "What separates the first clip from the second? Please elaborate.",
      "List and explain the ways in which the audios differ.",
      "Provide an extensive description of the contrast between both audios.",
      "Examine the two audios closely and report how they are different.",
      "Discuss in several sentences what changes between audio 1 and audio 2.",
    ),
  ),
  "caption first audio": PromptKey(
    task="caption first",
    evaluation="caption the audio",
    paraphrases=(
      "Caption the first audio.",
      "Describe what happens in audio 1.",
      "What can be heard in the first recording?",
      "Write a caption for the first clip.",
      "Summarise the sounds of the first audio.",
      "Tell me about the first of the two audios.",
      "Which sounds make up audio 1?",
      "Put the content of the first audio into words.",
      "Listen to the first clip and say what is going on.",
      "Give a one-line description of audio 1.",
      "Ignore the second audio and describe the first.",
      "What is the first sound clip about?",
      "Report the events of the first recording.",
    ),
  ),
  "caption second audio": PromptKey(
    task="caption second",
    evaluation="caption second audio",
    paraphrases=(
      "Caption the second audio.",
      "Describe what happens in audio 2.",
      "What can be heard in the second recording?",
      "Write a caption for the second clip.",
      "Summarise the sounds of the second audio.",
      "Tell me about the latter of the two audios.",
      "Which sounds make up audio 2?",
      "Put the content of the second audio into words.",
      "Listen to the second clip and say what is going on.",
      "Give a one-line description of audio 2.",
      "Ignore the first audio and describe the second.",
      "What is the second sound clip about?",
      "Report the events of the second recording.",
    ),
  ),
  "caption both audios": PromptKey(
    task="caption both",
    evaluation="caption both audios",
    paraphrases=(
      "Caption both audios.",
      "Describe what happens in audio 1 and in audio 2.",
      "What can be heard in each of the two recordings?",
      "Write one caption for each clip.",
      "Summarise the sounds of the first audio, then those of the second.",
      "Tell me about the two audios, one after the other.",
      "Which sounds make up audio 1, and which make up audio 2?",
      "Put the content of both audios into words.",
      "Listen to the two clips and say what is going on in each.",
      "Give a one-line description of either audio in turn.",
      "Say what the first sound clip is about and what the second is about.",
      "Report the events of both recordings.",
      "Provide captions for the pair of audios.",
    ),
  ),
  "caption the audio": PromptKey(
    task="caption first",
    evaluation="caption the audio",
    paraphrases=(
      "Caption this audio.",
      "Describe the audio.",
      "What do you hear?",
      "Write a caption for this recording.",
      "Summarise what is happening in the clip.",
      "Say in plain words what this sound is.",
      "Which events can be heard here?",
      "Give a short description of the sound clip.",
      "Tell me what is going on in this recording.",
      "Describe the scene that you are listening to.",
      "Put this sound into a sentence.",
      "What is this audio about?",
    ),
  ),
}


def _key(text: str) -> PromptKey | None:
  return KEYS.get(" ".join(text.lower().split()).rstrip(" ."))


def task_of(text: str) -> Task:
  """The task behind a record's question; "other" unless it is one of the prompt keys."""
  key = _key(text)
  return key.task if key else "other"


def _plain(text: str, preset: Preset) -> str:
  return " ".join(text.split()) if preset.tidy else text


def question(text: str, preset: Preset, *, rng: np.random.Generator | None = None) -> str:
  """The question as the preset asks it, before the end token.

  With rng (training) a prompt key becomes one of its paraphrases; without (evaluation), its fixed
  sentence. Only presets that paraphrase do either.

  Source: reference, training branch, the data loader. The wording of the paraphrases is our own.
  """
  key = _key(text) if preset.paraphrase else None
  if key and rng is not None:
    # The reference lower-cases every question but these.
    return key.paraphrases[int(rng.integers(len(key.paraphrases)))]
  text = key.evaluation if key else _plain(text, preset)
  return text.lower() if preset.lower_case else text


def answer(
  text: str, preset: Preset, *, task: Task, training: bool, second: str | None = None
) -> str:
  """The answer as the preset expects it, before the end token.

  second is the caption of the second clip, for the task "caption both" under a preset that makes
  sentences of captions: raises ValueError without it. Elsewhere the text alone is the answer.

  Source: reference, training branch, the data loader.
  """

  def written(words: str) -> str:
    words = _plain(words, preset)
    # The reference leaves the case of differences alone, but only while it trains.
    return words.lower() if preset.lower_case and not (training and task == "difference") else words

  if not (preset.caption_sentence and task.startswith("caption")):
    return written(text)
  captions = {1: text} if task == "caption first" else {2: text}
  if task == "caption both":
    if second is None:
      raise ValueError("a caption of both audios needs the second caption: pass it as `second`")
    captions = {1: text, 2: second}
  # Clotho ends its captions with a full stop and AudioCaps does not: the sentence has one.
  return " ".join(
    f"The audio {i} is {written(caption).rstrip(' .')}." for i, caption in captions.items()
  )


def caption_fault(text: str, words: str, second: str, preset: Preset) -> str:
  """Why no answer can be made of a row's captions; "" where one can, and for other rows.

  text is the row's question, words its answer, second the caption of its second clip.
  """
  # First what is cheap: a run looks at each of its rows.
  if not preset.caption_sentence or "caption" not in text.lower():
    return ""
  task = task_of(text)
  if task == "caption both" and not second.strip():
    return (
      f"{text!r:.80} needs the caption of the second clip as well: give the row by ReasonAQA's "
      "fields, with caption2, or ask for something else"
    )
  if not task.startswith("caption"):
    return ""
  length = len(answer(words, preset, task=task, training=True, second=second))
  return (
    f"the answer has {length} characters as a sentence, more than the {MAX_CHARACTERS} allowed: "
    "shorten it"
    if length > MAX_CHARACTERS
    else ""
  )


class Unread(NamedTuple):
  """What a model does not read of a text."""

  tokens: int  # of the text, without its end
  over: int  # of them, beyond the model's slots
  unknown: tuple[str, ...]  # words that are unknown to the tokenizer, in their order


def unknown_id(tokenizer: Tokenizer) -> int | None:
  """The token that stands for unknown words; None where every text has tokens of its own."""
  token = getattr(tokenizer.model, "unk_token", None)
  # Some tokenizers of bytes, which know every text, name their end here.
  return None if token in (None, "", "<|endoftext|>") else tokenizer.token_to_id(token)


def unread(tokenizer: Tokenizer, text: str, end: End, slots: int) -> Unread:
  """What `encode` cuts off a text, or gives to the tokenizer's token for unknown words."""
  found = tokenizer.encode(text, add_special_tokens=False)
  absent, places = unknown_id(tokenizer), zip(found.ids, found.offsets, strict=True)
  unknown = tuple(text[start:stop] for i, (start, stop) in places if i == absent)
  count = len(found.ids)
  return Unread(count, max(0, count - (slots - (end == "token"))), unknown)


def check(text: str) -> None:
  """Raises ValueError for text beyond MAX_CHARACTERS, and for half a surrogate pair."""
  if len(text) > MAX_CHARACTERS:
    raise ValueError(
      f"text of {len(text)} characters, more than the {MAX_CHARACTERS} allowed: shorten it"
    )
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f"text holds half a surrogate pair at character {error.start}, which no tokenizer reads: "
      "remove it, or decode its source as UTF-8"
    ) from None


def encode(
  tokenizer: Tokenizer, text: str, end: End, slots: int, pad_id: int, end_id: int
) -> tuple[Int32[np.ndarray, "slots"], int]:
  """Token ids of a text and its end, cut or padded on the right to slots, and their number.

  end is the preset's `question_end` or `answer_end`.
  Raises ValueError as `check` does, and for an end_id the tokenizer lacks where its string is
  needed.
  """
  check(text)
  if end == "string":
    token = tokenizer.id_to_token(end_id)
    if token is None:
      raise ValueError(f"the tokenizer has no token {end_id}: set end_id to its end of text")
    # The reference writes a space before the end token, and the space is a token of its own.
    text = f"{text} {token}"
  ids = tokenizer.encode(text, add_special_tokens=False).ids
  if end == "token":
    ids = [*ids[: slots - 1], end_id]
  # Elsewhere the reference just cuts: a text too long for its slots has no end.
  ids = ids[:slots]
  padded = np.full(slots, pad_id, np.int32)
  padded[: len(ids)] = ids
  return padded, len(ids)
