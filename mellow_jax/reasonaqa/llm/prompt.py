"""Prompts for a language model: write five questions about the caption of a clip.

Type 1 is a plain prompt. Type 2 asks for questions of an expert in sound, about all events, the
place, how the sources interact, and the signal. Type 3 is the prompt of type 2, sent to another
model. Each prompt has a version, which every row made with it records: a change of the wording is a
new version.

The prompt ends with the form of the reply: JSON, or for servers that cannot keep to a schema the
layout in which the paper prints its questions.

Source: paper, sections C.1 and F.6, which describe the prompts. The wording here is our own.
"""

from typing import Literal

Kind = Literal["mcq", "detail"]
ReplyForm = Literal["json", "text"]
QUESTIONS = 5  # per caption
OPTIONS = 4  # per multiple-choice question

_REVISIONS = {"text": 1, "json": 2}

_TASK = """\
Somebody listens to a sound clip and is asked about it. You write the questions and their answers. \
All you know of the clip is this description of what is heard in it:

{caption}

Write exactly five {what} about the clip."""

_PLAIN = """\
Let each of the five look at another side of the clip, for example: the event that is heard, its \
main character, a well-known sound that is close to it, how somebody who hears it may feel or \
should react, its acoustic qualities."""

_EXPERT = """\
Let the questions be those of an expert in sound. Take all events of the clip into account, not \
only the first. Choose five of these sides:
- Which events are heard, how many sources are there, in what order or at what time do they sound?
- Where was it recorded: indoors or outdoors, a small or a large space, near or far, and which \
sound gives the place away?
- How do the sources affect each other: does one cause, answer, follow or cover another?
- What are the sources and surfaces made of, and what sets them into motion?
- The signal: loudness and how it changes, pitch and frequency range, attack, duration, rhythm, \
steadiness, reverberation, tone against noise.
- What do the sounds say about the situation, the mood of those who are heard, what comes next?
Draw on the setting where the sounds let one infer it."""

_RULES = """\
Rules:
- The listener hears the clip and does not know the description: never mention a description, a \
caption or a text.
- Listening must be necessary. Nobody may be able to answer from general knowledge alone, so do \
not ask what a word means or what such sounds are in general.
- Ask about this clip in particular. Do not ask questions that would suit any clip, and do not ask \
what would be if the clip were another.
- Commit to the most likely answer. Never answer that something is unknown, unclear or cannot be \
told; ask something else instead.
- Do not contradict the description."""

_MCQ_RULES = """\
- Give four options, all of them plausible and about equally long, of which exactly one is right. \
No two options may mean the same, and none may speak of other options.
- Let the right option stand at another letter from question to question."""

_DETAIL_RULES = """\
- Answer each question in one paragraph of one to three full sentences, with what is heard and \
with the reason for what is inferred from it."""

_FORMS = {
  ("mcq", "text"): """\
Write nothing but the five questions, each in this form:

Question: <the question>
a) <option>
b) <option>
c) <option>
d) <option>
Answer: <letter>) <the option of that letter, word for word>""",
  ("detail", "text"): """\
Write nothing but the five questions and answers, each in this form:

Question: <the question>
Answer: <the answer>""",
  ("mcq", "json"): """\
Write nothing but one JSON object with the five questions, in this form:

{"questions": [{"question": "<the question>", \
"options": ["a) <option>", "b) <option>", "c) <option>", "d) <option>"], \
"answer": "<letter of the right option>"}, ...]}""",
  ("detail", "json"): """\
Write nothing but one JSON object with the five questions and answers, in this form:

{"questions": [{"question": "<the question>", "answer": "<the answer>"}, ...]}""",
}


def version(type_: int, kind: Kind, form: ReplyForm = "json") -> str:
  """The version of the prompt of a type from 1 to 3, such as "mcq-1.2"."""
  return f"{kind}-{min(type_, 2)}.{_REVISIONS[form]}"


def build(caption: str, type_: int, kind: Kind, form: ReplyForm = "json") -> str:
  """The whole prompt for questions about a caption, of a type from 1 to 3."""
  what = "multiple-choice questions" if kind == "mcq" else "questions with detailed answers"
  parts = (
    _TASK.format(what=what, caption="{caption}"),
    _PLAIN if type_ == 1 else _EXPERT,
    _RULES + "\n" + (_MCQ_RULES if kind == "mcq" else _DETAIL_RULES),
    _FORMS[kind, form],
  )
  # Last, and not by format: a caption may hold braces.
  return "\n\n".join(parts).replace("{caption}", caption)
