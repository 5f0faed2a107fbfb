"""Completions in the styles in which language models write questions, with what a reader finds.

Each style takes questions that were written by hand and sets them as a model would. What a reader
finds in a completion are (question, options, answer) with a detailed question's options empty.
"""

import json
import textwrap

# Question, four options, index of the right one.
MCQ = [
  [
    ("What is the main sound event in the clip?",
     ["Rain on a tin roof", "A dog barking", "Wind in the trees", "A door slamming"], 1),
    ("How many barks are heard before the pause?", ["2", "3", "4", "More than 5"], 1),
    ("Where was this most likely recorded?",
     ["In a small, tiled bathroom", "Outdoors, in a quiet yard", "In a car", "In a large hall"], 1),
    ("Which of these is the barking most similar to?",
     ["Coughing (short bursts)", "A violin", "A kettle: steady hiss", "Running water"], 0),
    ("How does the loudness change?",
     ["It rises", "It falls", "It stays the same", "It rises, then falls"], 3),
  ],
  [
    ("What does the engine do at the end of the clip?",
     ["It stops", "It stalls and restarts", "It revs up to about 4.5 kHz", "It backfires"], 2),
    ("Which sound comes first?",
     ["The horn", "The horn and the engine", "The engine", "The brakes"], 1),
    ("What is the horn's pitch like?", ["High", "Low", "Rising", "It wavers"], 0),
    ("Is the listener near the road? Choose the best option.",
     ["Yes, within 2 m", "Yes, but behind a wall", "No, far away", "No, indoors"], 3),
    ("What surface do the tyres roll on?", ["Gravel", "Asphalt", "Sand", "Snow"], 0),
  ],
  [
    ("Which emotion would the crowd's noise suggest?",
     ["Boredom", "Joy and excitement", "Anger", "Grief"], 1),
    ("The clapping is best described as…",
     ["rhythmic", "scattered", "a single clap", "muffled"], 1),
    ('What follows the shout of "Bravo!"?',
     ["Silence", "Whistling", "A drum roll", "More shouting"], 1),
    ("What is the approximate length of the applause?",
     ["Under 1 second", "1 to 3 seconds", "4 to 6 seconds", "Over 8 seconds"], 3),
    ("Which frequency range do the whistles occupy?",
     ["20-60 Hz", "100-300 Hz", "500 Hz", "1-4 kHz"], 3),
  ],
  [
    ("What produces the splashing sound?",
     ["A person diving in", "A duck landing", "Rain", "A boat's wake"], 1),
    ("How far apart are the quacks?", ["About 0.5 s", "About 2 s", "10 s", "They overlap"], 3),
    ("Which source is the closest to the microphone?",
     ["The duck", "The hunter", "The wind", "The dog at his side"], 1),
    ("What would a birdwatcher conclude from this recording?",
     ["A duck call is in use", "A flock takes off", "An owl hunts", "No birds are near"], 0),
    ("What is the relation between the call and the quacks?",
     ["The quacks answer the call", "The call answers the quacks", "They are unrelated",
      "The call ends before any quack"], 0),
  ],
]  # fmt: skip
# Question, answer.
DETAIL = [
  [
    ("What sound event is present in the clip?",
     "A dog barks four times in quick succession, and after a pause it barks once more."),
    ("What can be inferred about the environment?",
     "There is hardly any reverberation, so the dog is outdoors or in a large open space."),
    ("How would you describe the dog's bark?",
     "It is a short, low-pitched sound with a sharp attack: most of its energy is below 1.5 kHz."),
    ("What should a listener do on hearing this?",
     "Somebody nearby would look out for the dog; the barking is loud and sounds like a warning."),
    ("What is this sound most similar to?",
     "The short bursts are close to coughing, or to somebody who knocks on a hollow wooden box."),
  ],
  [
    ("Which two sources are heard, and in what order?",
     "First a horn is blown twice (about 0.3 s each), then an engine revs up and fades away."),
    ("How does the pitch of the engine change?",
     "It rises steadily while the engine revs up, and falls once the vehicle has passed."),
    ("Describe the loudness of the horn.",
     "The horn is the loudest sound of the clip, with a sudden start and an equally sudden end."),
    ("What is the interaction between the horn and the engine?",
     "The engine answers the horn: it begins to rev up just after the second blow, as if the driver"
     " were in a hurry."),
    ("What mood does the recording convey?",
     "It conveys impatience, since the horn is repeated and the engine is driven hard."),
  ],
  [
    ("What is the crowd doing?",
     'The crowd claps and cheers, and a man shouts "Bravo!" over the applause.'),
    ("How regular is the clapping?",
     "At first it is scattered; towards the end it falls into one rhythm of roughly 2 claps a"
     " second."),
    ("Which acoustic properties reveal the size of the hall?",
     "The long reverberation tail of about 1.8 s, and the way single claps blur into a broadband"
     " noise, point to a large hall."),
    ("Why is the whistling easy to pick out?",
     "It lies between 1 and 4 kHz, above most of the applause, and it is tonal rather than noisy."),
    ("What is likely to happen next?",
     "The performers are probably called back on stage, since the applause grows instead of dying"
     " away."),
  ],
]  # fmt: skip


def letters(case="a", left="", right=")"):
  return [f"{left}{chr(ord(case) + i)}{right}" for i in range(4)]


def lettered(options, marks=None):
  return [f"{m} {o}" for m, o in zip(marks or letters(), options, strict=True)]


def blocks(make, between="\n\n", before="", after=""):
  """A style that sets one question after the other."""

  def style(questions):
    return before + between.join(make(i, *q) for i, q in enumerate(questions, 1)) + after

  return style


def mcq_line(head, marks, answer, gap="\n", indent=""):
  def make(i, question, options, right):
    named = lettered(options, marks)
    values = {"i": i, "q": question, "letter": chr(ord("a") + right), "text": options[right]}
    values |= {"LETTER": values["letter"].upper(), "named": named[right].strip(" *->")}
    lines = [head.format(**values), *(indent + line for line in named), answer.format(**values)]
    return gap.join(lines)

  return make


def as_json(questions, item, wrap=lambda items: items, indent=1, ascii_only=False):
  items = [item(i, *q) for i, q in enumerate(questions, 1)]
  return json.dumps(wrap(items), indent=indent, ensure_ascii=ascii_only)


def fenced(text, language="json"):
  return f"Here you go:\n\n```{language}\n{text}\n```\nLet me know if you need more!"


def ticked(mark):
  def make(i, question, options, right):
    named = [o + (mark if n == right else "") for n, o in enumerate(lettered(options))]
    return "\n".join([f"{i}. {question}", *named])

  return make


def answer_key(questions):
  body = blocks(mcq_line("{i}. {q}", letters("A", right="."), ""))(questions)
  key = "\n".join(f"{i}. {'ABCD'[q[2]]}" for i, q in enumerate(questions, 1))
  return f"{body}\n\n**Answer Key:**\n{key}"


def two_a_line(i, question, options, right):
  a, b, c, d = lettered(options)
  return f"Q{i}. {question}\n{a}    {b}\n{c}    {d}\nAns: {'abcd'[right]}"


UPPER, DOTS, ROUND = letters("A"), letters("A", right="."), letters("a", "(", ")")
MCQ_STYLES = {
  "as asked": blocks(mcq_line("Question: {q}", letters(), "Answer: {named}")),
  "numbered": blocks(mcq_line("{i}. {q}", letters(), "Answer: {named}")),
  "bold": blocks(mcq_line("**{i}. {q}**", UPPER, "**Answer: {named}**"), before="Sure!\n\n"),
  "headings": blocks(
    mcq_line("### Question {i}\n\n{q}\n", DOTS, "\n**Correct Answer:** {named}"),
    before="## Multiple-Choice Questions\n\n",
  ),
  "one line": blocks(
    mcq_line("Question: {q}", UPPER, "\nAnswer: {named}", gap=" "), between="\n"
  ),
  "one line with its answer": blocks(
    mcq_line("{i}) {q}", letters(), "Answer: {letter}", gap=" "), between="\n"
  ),
  "letter only": blocks(mcq_line("Q{i}: {q}", UPPER, "Answer: {LETTER}", indent="   ")),
  "round brackets": blocks(mcq_line("{i}. {q}", ROUND, "Answer: ({letter})")),
  "bullets": blocks(
    mcq_line("{i}. **{q}**", [f"   - {m}" for m in UPPER], "   - **Correct answer:** {LETTER}")
  ),
  "bold letters": blocks(
    mcq_line("**Question {i}:** {q}", [f"* **{m}**" for m in DOTS], "\n**Answer:** **{named}**")
  ),
  "colons": blocks(mcq_line("Q: {q}", letters("A", right=":"), "A: {LETTER}")),
  "text only": blocks(mcq_line("{i}. {q}", letters(), "Answer: {text}")),
  "sentence": blocks(mcq_line("{i}. {q}", UPPER, "The correct answer is {named}.")),
  "capitals": blocks(mcq_line("QUESTION {i}:\n{q}", UPPER, "ANSWER: {LETTER}")),
  "option words": blocks(
    mcq_line("{i}. {q}", [f"Option {m}:" for m in "ABCD"], "Correct option: {LETTER}")
  ),
  "dashes": blocks(mcq_line("{i} . {q}", [f"{m} -" for m in "ABCD"], "Answer - {LETTER}")),
  "answer key": answer_key,
  "explanations": blocks(
    mcq_line(
      "{i}. {q}",
      letters(),
      "Answer: {named}\nExplanation: This follows from what is heard: {text}, as a reader can see.",
    )
  ),
  "reasons in line": blocks(
    mcq_line("{i}. {q}", letters(), "Answer: {named}. This is because it is heard.")
  ),
  "thoughts": blocks(
    mcq_line("Question: {q}", letters(), "Answer: {named}"),
    before="<think>\nQuestion: what to ask?\na) this b) that\nAnswer: a\n</think>\n\n",
  ),
  "quoted": blocks(mcq_line("> {i}. {q}", [f"> {m}" for m in letters()], "> Answer: {letter}")),
  "ruled": blocks(
    mcq_line("**Question {i}**\n{q}", UPPER, "**Correct Answer: Option {LETTER}**"),
    between="\n\n---\n\n",
    after="\n\n---\n\nThese questions cover different aspects of the clip.",
  ),
  "ticks": blocks(ticked(" ✓")),
  "marked": blocks(ticked(" (correct)")),
  "two a line": blocks(two_a_line),
  "no labels": blocks(mcq_line("{q}", UPPER, "\nAnswer: {LETTER}\n"), before="Here they are.\n\n"),
  "windows": lambda q: MCQ_STYLES["numbered"](q).replace("\n", "\r\n"),
  "loose": lambda q: MCQ_STYLES["as asked"](q).replace("\n", "\n\n").replace(" ", "  "),
  "escaped": lambda q: MCQ_STYLES["numbered"](q).replace(". ", "\\. ").replace(")", "\\)"),
  "json": lambda q: as_json(
    q, lambda i, t, o, r: {"question": t, "options": o, "answer": o[r]}
  ),
  "json letters": lambda q: fenced(
    as_json(
      q,
      lambda i, t, o, r: {
        "id": i,
        "question": t,
        "options": dict(zip("ABCD", o, strict=True)),
        "answer": "ABCD"[r],
        "explanation": "It is heard.",
      },
      wrap=lambda items: {"questions": items},
    )
  ),
  "json in full": lambda q: as_json(
    q,
    lambda i, t, o, r: {
      "question": f"{i}. {t}",
      "choices": lettered(o, UPPER),
      "correct_answer": lettered(o, UPPER)[r],
    },
    ascii_only=True,
  ),
  "json lines": lambda q: "\n".join(
    json.dumps({"q": t, "a": o[0], "b": o[1], "c": o[2], "d": o[3], "answer": "abcd"[r]})
    for t, o, r in q
  ),
  "json, two answers": lambda q: fenced(
    as_json(
      q,
      lambda i, t, o, r: {
        "question": t,
        "options": [{"letter": m, "text": x} for m, x in zip("abcd", o, strict=True)],
        "answer_letter": "abcd"[r],
        "answer_text": o[r],
      },
    ),
    language="",
  ),
}  # fmt: skip


def detail_line(pattern):
  return lambda i, question, answer: pattern.format(i=i, q=question, a=answer)


def wrapped(i, question, answer):
  text = f"{i}. Question: {question}\n"
  return text + textwrap.fill(f"Answer: {answer}", 44, subsequent_indent="   ")


DETAIL_STYLES = {
  "as asked": blocks(detail_line("Question: {q}\nAnswer: {a}")),
  "numbered": blocks(detail_line("{i}. Question: {q}\n   Answer: {a}")),
  "short labels": blocks(detail_line("Q{i}: {q}\nA{i}: {a}")),
  "letters": blocks(detail_line("Q: {q}\nA: {a}"), between="\n"),
  "bold": blocks(detail_line("**Question {i}:** {q}\n\n**Answer:** {a}"), before="Of course!\n\n"),
  "bold letters": blocks(detail_line("**Q{i}. {q}**\n**A:** {a}")),
  "headings": blocks(detail_line("### {i}. {q}\n\n{a}"), before="# Questions and Answers\n\n"),
  "labelled headings": blocks(detail_line("## Question {i}\n{q}\n\n## Answer {i}\n{a}")),
  "indented": blocks(detail_line("{i}. **{q}**\n   {a}")),
  "answer below": blocks(detail_line("{i}) {q}\n\nAnswer:\n{a}")),
  "one line": blocks(detail_line("Question: {q} Answer: {a}"), between="\n"),
  "bullets": blocks(detail_line("- **Question:** {q}\n- **Answer:** {a}")),
  "wrapped": blocks(wrapped),
  "ruled": blocks(
    detail_line("**Question {i}**\n{q}\n**Answer**: {a}"),
    between="\n\n---\n\n",
    after="\n\nLet me know if you would like more questions!",
  ),
  "thoughts": blocks(
    detail_line("Question: {q}\nAnswer: {a}"), before="<think>Q: What?\nA: That.</think>\n"
  ),
  "quoted": blocks(detail_line("> **Q:** {q}\n>\n> **A:** {a}")),
  "asides": blocks(detail_line("{i}. Question: {q}\nAnswer: {a}\nType: acoustic (hard)")),
  "sections": blocks(
    detail_line("**Part {i}**\n\nQ{i}: {q}\nA{i}: {a}"), after="\n\nI hope these help."
  ),
  "windows": lambda q: DETAIL_STYLES["short labels"](q).replace("\n", "\r\n"),
  "json": lambda q: as_json(q, lambda i, t, a: {"question": t, "answer": a}),
  "json short": lambda q: fenced(as_json(q, lambda i, t, a: {"q": t, "a": a}, indent=None)),
  "json keyed": lambda q: as_json(
    q,
    lambda i, t, a: {"Question": t, "Answer": a},
    wrap=lambda items: {f"pair_{n}": item for n, item in enumerate(items)},
    ascii_only=True,
  ),
}  # fmt: skip


# --- What must not be kept as it stands ----------------------------------------------------------
# Each takes the layout that was asked for, and leaves or adds what is no part of a question. The
# letter of a wrong option, and a caption, stand for those of the model.

ROMAN = ("I", "II", "III", "IV", "V")
CAPTION = "A dog barks near a busy road while the wind blows hard"


def wrong(right):
  return (right + 1) % 4


def asked(question, options, right, answer=""):
  lines = [f"Question: {question}", *lettered(options)]
  return "\n".join([*lines, f"Answer: {answer or lettered(options)[right]}"])


def each(pattern):
  """A style with a question in the pattern: {q}, {a} to {d}, {right}, {letter}, {other} ..."""

  def make(i, question, options, right):
    other = wrong(right)
    values = dict(zip("abcd", options, strict=True)) | {"i": i, "q": question}
    values |= {"right": options[right], "letter": "abcd"[right], "LETTER": "ABCD"[right]}
    values |= {"other": options[other], "olet": "abcd"[other], "OLET": "ABCD"[other]}
    values |= {"roman": ROMAN[i - 1], "caption": CAPTION}
    values |= {"word": ("One", "Two", "Three", "Four", "Five")[i - 1], "left": 5 - i}
    values["options"] = "\n".join(lettered(options))
    values["line"] = " ".join(lettered(options))
    return pattern.format(**values)

  return blocks(make)


def marking(right_mark, wrong_mark="", before=False):
  """A style with marks at the options, and the answer below."""

  def make(i, question, options, right):
    marks = [right_mark if n == right else wrong_mark for n in range(4)]
    marked = [f"{m} {o}" if before else f"{o} {m}" for m, o in zip(marks, options, strict=True)]
    return asked(question, [text.strip() for text in marked], right, "abcd"[right])

  return blocks(make)


def then_corrected(text):
  """A style that corrects its second answer after the last."""
  return lambda questions: (
    MCQ_STYLES["numbered"](questions)
    + "\n\n"
    + text.format(letter="abcd"[wrong(questions[1][2])], LETTER="ABCD"[wrong(questions[1][2])])
  )


_Q = "Question: {q}\n{options}\nAnswer: {letter}"
HOSTILE_MCQ = {
  "options heading": each("Question: {q}\nOptions:\n{options}\nAnswer: {letter}"),
  "options in line": each("Question: {q} Options: {line}\nAnswer: {letter}"),
  "options, no colon": each("Question: {q} Options\n{options}\nAnswer: {letter}"),
  "options dash": each("Question: {q} Options - {line}\nAnswer: {letter}"),
  "choices in brackets": each("Question: {q} (Choices)\n{options}\nAnswer: {letter}"),
  "choose one": each("Question: {q} (choose one)\n{options}\nAnswer: {letter}"),
  "select one": each("Question: {q} Select one of the options below.\n{options}\nAnswer: {letter}"),
  "counter behind": each("Question: {q} ({i}/5)\n{options}\nAnswer: {letter}"),
  "counter before": each("Question: ({i}) {q}\n{options}\nAnswer: {letter}"),
  "counter of five": each("Question: {i} of 5: {q}\n{options}\nAnswer: {letter}"),
  "question of five": each("Question {i} of 5: {q}\n{options}\nAnswer: {letter}"),
  "question slash": each("Question {i}/5: {q}\n{options}\nAnswer: {letter}"),
  "roman": each("Question: {roman}. {q}\n{options}\nAnswer: {letter}"),
  "roman bracket": each("Question: {roman}) {q}\n{options}\nAnswer: {letter}"),
  "number word": each("Question: {word}: {q}\n{options}\nAnswer: {letter}"),
  "question word": each("Question: Question {word} - {q}\n{options}\nAnswer: {letter}"),
  "hash": each("Question: #{i} {q}\n{options}\nAnswer: {letter}"),
  "keycap": each("Question: {i}\ufe0f\u20e3 {q}\n{options}\nAnswer: {letter}"),
  "double number": each("{i}. {i}. {q}\n{options}\nAnswer: {letter}"),
  "number and Q": each("{i}. Q{i} - {q}\n{options}\nAnswer: {letter}"),
  "points": each("Question: {q} [1 point]\n{options}\nAnswer: {letter}"),
  "heading inside": each("Question: Sound event: {q}\n{options}\nAnswer: {letter}"),
  "heading dash": each("Question: Sound event - {q}\n{options}\nAnswer: {letter}"),
  "tag": each("Question: [Easy] {q}\n{options}\nAnswer: {letter}"),
  "question marks": each("Question: {q} ???\n{options}\nAnswer: {letter}"),
  "MCQ": each("Question: MCQ {q}\n{options}\nAnswer: {letter}"),
  "quotes": each('Question: "{q}"\n{options}\nAnswer: {letter}'),
  "options in the question twice": each("Question: {q} {line}\n{options}\nAnswer: {letter}"),
  "ticks and answer": marking("✓"),
  "tick and cross": marking("✔", "✗"),
  "emoji": marking("✅", "❌"),
  "square root": marking("√"),
  "star before": marking("*", before=True),
  "equals and tilde": marking("=", "~", before=True),
  "box": marking("[x]", "[ ]", before=True),
  "box behind": marking("[x]", "[ ]"),
  "arrow": marking("<-"),
  "long arrow": marking("<-- correct"),
  "arrow sign": marking("←"),
  "correct in brackets": marking("(correct)"),
  "correct and wrong": marking("(correct)", "(incorrect)"),
  "right in brackets": marking("(right)", "(wrong)"),
  "true and false": marking("(True)", "(False)"),
  "T and F": marking("(T)", "(F)"),
  "dash correct": marking("- correct answer"),
  "dash right": marking("— right"),
  "yes and no": marking("- yes", "- no"),
  "this one": marking("(this one)"),
  "heard": marking("(heard in the clip)", "(not heard)"),
  "plausible": marking("", "(plausible, but not in the clip)"),
  "answer in brackets": marking("(answer)"),
  "key": marking("[key]"),
  "points a piece": marking("(1)", "(0)"),
  "exclamation": marking("(!)"),
  "bold mark": marking("**"),
  "a bold option": blocks(
    lambda i, q, o, r: asked(
      q, [f"**{x}**" if n == r else x for n, x in enumerate(o)], r, "abcd"[r]
    )
  ),
  "shouted": blocks(
    lambda i, q, o, r: asked(
      q, [f"{x} THAT".upper() if n == r else f"{x} that" for n, x in enumerate(o)], r, "abcd"[r]
    )
  ),
  "a second answer": each("Question: {q}\n{options}\nAnswer: {olet}\nAnswer: {letter}"),
  "wait": each("Question: {q}\n{options}\nAnswer: {olet}. Wait, it is {letter}."),
  "actually": each("Question: {q}\n{options}\nAnswer: {OLET}) {other}. Actually, {LETTER})."),
  "no": each("Question: {q}\n{options}\nAnswer: {olet}, no, {letter}"),
  "not this": each("Question: {q}\n{options}\nAnswer: Not {olet}, but {letter}"),
  "struck out": each("Question: {q}\n{options}\nAnswer: ~~{olet}~~ {letter}"),
  "arrow to": each("Question: {q}\n{options}\nAnswer: {olet} → {letter}"),
  "correction line": each("Question: {q}\n{options}\nAnswer: {olet}\nCorrection: {letter}"),
  "corrected answer": each("Question: {q}\n{options}\nAnswer: {olet}\nCorrected answer: {letter}"),
  "sorry": each("Question: {q}\n{options}\nAnswer: {olet}\n\nSorry, that should be {letter}."),
  "edit": each("Question: {q}\n{options}\nAnswer: {olet} (edit: {letter})"),
  "explained away": each(
    "Question: {q}\n{options}\nAnswer: {olet}) {other}\nExplanation: the answer is {letter}."
  ),
  "corrected below": then_corrected("Correction: the answer of question 2 is {letter}."),
  "corrected in a note": then_corrected("Note: for question 2, {LETTER} is the better answer."),
  "corrected in a closing": then_corrected("I hope these help, but 2 should be {letter}."),
  "corrected key": then_corrected("Answer key:\n2. {letter}"),
  "corrected by number": then_corrected("2. {letter}"),
  "corrected by label": then_corrected("Question 2 (revised): {letter}"),
  "options in a row": each("Question: {q} a) {a} / b) {b} / c) {c} / d) {d}\nAnswer: {letter}"),
  "options and or": each("Question: {q} a) {a}, b) {b}, c) {c}, or d) {d}\nAnswer: {letter}"),
  "labels of two kinds": each("Question: {q} a) {a} (b) {b} c) {c} d) {d}\nAnswer: {letter}"),
  "a fifth option": each("Question: {q}\n{options}\ne) None of these\nAnswer: {letter}"),
  "an explanation behind": each("Question: {q}\n{options}\nAnswer: {letter}) {right} (as heard)"),
  "a remark among options": each(
    "Question: {q}\na) {a}\nb) {b}\nHint: {c}\nc) {c}\nd) {d}\nAnswer: {letter}"
  ),
  "caption in the question": each(
    "Question: {q} (Caption: {caption})\n{options}\nAnswer: {letter}"
  ),
  "caption in an option": each('Question: {q}\n{options} ("{caption}")\nAnswer: {letter}'),
  "caption above": each("Caption: {caption}\n" + _Q),
  "caption below": each(_Q + "\nCaption: {caption}"),
  "section": each("Question: Section {i} {q}\n{options}\nAnswer: {letter}"),
  "aspect in brackets": each("Question: (Sound event) {q}\n{options}\nAnswer: {letter}"),
  "decimal": each("Question: 1.{i} {q}\n{options}\nAnswer: {letter}"),
  "circled": each("Question: \u2460 {q}\n{options}\nAnswer: {letter}"),
  "lettered question": each("Question: {LETTER}. {q}\n{options}\nAnswer: {letter}"),
  "ordinal": each("Question: The first question: {q}\n{options}\nAnswer: {letter}"),
  "left to go": each("Question: {q} ({left} left)\n{options}\nAnswer: {letter}"),
  "answer in the question": each("Question: {q} (Answer: {letter})\n{options}\nAnswer: {letter}"),
  "ok": marking("OK"),
  "x": marking("x"),
  "smile": marking(":)"),
  "thumb": marking("\U0001f44d"),
  "comma right": marking(", right"),
  "capital right": marking("RIGHT", "WRONG"),
  "slash": marking("/ correct"),
  "percent": marking("(100%)", "(0%)"),
  "likely": marking("(the answer)"),
  "full stop": marking("."),
  "HTML": marking("<b>"),
  "answer mark": marking("Answer"),
  "bullet mark": blocks(
    lambda i, q, o, r: asked(q, o, r, "abcd"[r]).replace(
      lettered(o)[r] + "\n", "\n", 1
    ).replace("\n\n", f"\n* {lettered(o)[r]}\n", 1)
  ),
  "letters alone": each("Question: {q}\na) A\nb) B\nc) C\nd) D\nAnswer: {letter}) {LETTER}"),
  "asked again": lambda q: (
    MCQ_STYLES["as asked"]([(t, o, wrong(r)) for t, o, r in q])
    + "\n\n```\n" + MCQ_STYLES["as asked"](q) + "\n```"
  ),
  "mend in brackets": each("Question: {q}\n{options}\nAnswer: {olet} (was {letter})"),
  "two letters": each("Question: {q}\n{options}\nAnswer: {olet} and {letter}"),
  "two lines": each("Question: {q}\n{options}\nAnswer: {olet}\n{letter}"),
  "final answer": each("Question: {q}\n{options}\nAnswer: {olet}\nFinal answer: {letter}"),
  "evidence": each("Question: {q}\n{options}\nAnswer: {letter}\nEvidence: {caption}"),
  "table": each("| {i} | {q} | {a} | {b} | {c} | {d} | {letter} |"),
  "tags": each("<question>{q}</question>\n{options}\n<answer>{letter}</answer>"),
  "all in a line": lambda q: MCQ_STYLES["as asked"](q).replace("\n", " "),
  "one line, semicolons": lambda q: MCQ_STYLES["as asked"](q).replace("\n", "; "),
  "broken lines": lambda q: MCQ_STYLES["as asked"](q).replace("\n", "\\n"),
  "half JSON": lambda q: as_json(q, lambda i, t, o, r: {"question": t, "options": o})[:-3],
  "JSON with marks": lambda q: as_json(
    q,
    lambda i, t, o, r: {
      "question": t,
      "options": [f"{x} (correct)" if n == r else x for n, x in enumerate(o)],
      "answer": "abcd"[r],
    },
  ),
  "JSON with a correction": lambda q: as_json(
    q,
    lambda i, t, o, r: {
      "question": t, "options": o, "answer": "abcd"[wrong(r)], "corrected_answer": "abcd"[r],
    },
  ),
  "JSON with options twice": lambda q: as_json(
    q,
    lambda i, t, o, r: {
      "question": " ".join([t, *lettered(o)]), "options": o, "answer": "abcd"[r]
    },
  ),
  "JSON with counters": lambda q: as_json(
    q, lambda i, t, o, r: {"question": f"{i}) {t}", "options": o, "answer": o[r]}
  ),
}  # fmt: skip


def each_detail(pattern, between="\n\n"):
  return blocks(
    lambda i, q, a: pattern.format(
      i=i,
      q=q,
      a=a,
      caption=CAPTION,
      part=CAPTION[12:40],
      roman=("I", "II", "III", "IV", "V")[i - 1],
    ),
    between=between,
  )


HOSTILE_DETAIL = {
  "swallowed by numbers": each_detail("Q {q} A {a}", between=" "),
  "in one answer": lambda q: "Question: What is heard?\nAnswer: " + " ".join(
    f"{question} {answer}" for question, answer in q
  ),
  "in one answer, in lines": lambda q: "Question: " + "\n".join(
    f"{question}\n{answer}" for question, answer in q
  ).replace("\n", "\nAnswer: ", 1),
  "in one answer, numbered": lambda q: "Question: Describe the clip.\nAnswer: " + " ".join(
    f"{i}. {answer}" for i, (_, answer) in enumerate(q, 1)
  ),
  "other labels": lambda q: "Question: {}\nAnswer: {}\n".format(*q[0]) + "\n".join(
    f"Pregunta: {question}\nRespuesta: {answer}" for question, answer in q[1:]
  ),
  "labels in a row": each_detail("Question: {q} Answer: {a}", between=" "),
  "dashes": each_detail("Q - {q}\nA - {a}"),
  "first label only": lambda q: "Question: {}\nAnswer: {}\n\n".format(*q[0]) + "\n\n".join(
    f"{question}\n{answer}" for question, answer in q[1:]
  ),
  "counter behind": each_detail("Question: {q} ({i})\nAnswer: {a}"),
  "counter before": each_detail("Question: No. {i} {q}\nAnswer: {a}"),
  "roman": each_detail("Question: {roman} - {q}\nAnswer: {a}"),
  "question question": each_detail("Question: Question {i}. {q}\nAnswer: {a}"),
  "aspect": each_detail("Question: Loudness: {q}\nAnswer: {a}"),
  "answer counted": each_detail("Question: {q}\nAnswer: A{i}: {a}"),
  "answer answered": each_detail("Question: {q}\nAnswer: Answer: {a}"),
  "answer quoted": each_detail('Question: {q}\nAnswer: "{a}"'),
  "caption in brackets": each_detail("Question: {q}\nAnswer: {a} (Caption: {caption})"),
  "caption named": each_detail("Question: {q}\nAnswer: {a} This follows from the caption."),
  "caption quoted": each_detail('Question: {q}\nAnswer: {a} "{caption}"'),
  "caption in part": each_detail('Question: {q}\nAnswer: As is said, “{part}”. {a}'),
  "caption repeated": each_detail("Question: {q}\nAnswer: {caption}. {a}"),
  "caption below": each_detail("Question: {q}\nAnswer: {a}\nCaption: {caption}"),
  "corrected": each_detail("Question: {q}\nAnswer: It is silent. Wait, no: {a}"),
  "corrected below": each_detail("Question: {q}\nAnswer: It is silent.\nCorrection: {a}"),
  "revised": each_detail("Question: {q}\nAnswer: It is silent.\nRevised answer: {a}"),
  "scratch that": each_detail("Question: {q}\nAnswer: It is silent. Scratch that. {a}"),
  "no wait": each_detail("Question: {q}\nAnswer: It is silent. No wait. {a}"),
  "taken back": each_detail("Question: {q}\nAnswer: It is silent. I take that back. {a}"),
  "that was wrong": each_detail("Question: {q}\nAnswer: It is silent. That is wrong. {a}"),
  "evidence": each_detail("Question: {q}\nAnswer: {a} Evidence: {caption}."),
  "evidence in brackets": each_detail("Question: {q}\nAnswer: {a} ({part})"),
  "heading in the answer": each_detail("Question: {q}\nAnswer: Loudness: {a}"),
  "closing in the answer": each_detail("Question: {q}\nAnswer: {a} Let me know if you need more."),
  "told to describe": lambda q: "Question: What is heard?\nAnswer: " + " ".join(
    f"Describe part {i}. {answer}" for i, (_, answer) in enumerate(q, 1)
  ),
  "dashes between": lambda q: "Question: What is heard?\nAnswer: " + " -- ".join(
    answer for _, answer in q
  ),
  "no marks at all": lambda q: "Question: What is heard?\nAnswer: " + " ".join(
    f"{question.strip('?.')}. {answer}" for question, answer in q
  ),
  "a letter": each_detail("Question: {q}\nAnswer: B."),
  "rated": each_detail("Question: {q}\nAnswer: {a} ✅"),
  "explained": each_detail("Question: {q}\nAnswer: {a} Explanation: it is heard."),
  "difficulty": each_detail("Question: {q}\nAnswer: {a} [Difficulty: easy]"),
  "note": each_detail("Question: {q}\nAnswer: {a}\n\nNote: this may not hold."),
  "list": each_detail("Question: {q}\nAnswer:\n- {a}\n- It is loud."),
  "tags": each_detail("<q>{q}</q><a>{a}</a>"),
  "all in a line": lambda q: DETAIL_STYLES["as asked"](q).replace("\n", " "),
  "JSON of several": lambda q: as_json(
    q[:1], lambda i, t, a: {"question": t, "answer": " ".join(f"{x} {y}" for x, y in q)}
  ),
  "JSON with the caption": lambda q: as_json(
    q, lambda i, t, a: {"question": t, "answer": f'{a} ("{CAPTION}")'}
  ),
  "JSON in lines": lambda q: as_json(
    q, lambda i, t, a: {"question": t, "answer": f"{a}\n\nQuestion {i + 1}\n{a}"}
  ),
}  # fmt: skip


def _plain(text):
  return " ".join(text.split())


def all_completions():
  """(kind, style, completion, what a reader finds) for each style and each set of questions."""
  yield from completions(MCQ_STYLES, DETAIL_STYLES)


def completions(mcq_styles, detail_styles, mcq=MCQ, detail=DETAIL):
  """The same for some styles and questions."""
  for style, write in mcq_styles.items():
    for questions in mcq:
      found = [(t, tuple(o), o[r]) for t, o, r in questions]
      yield "mcq", style, write(questions), found
  for style, write in detail_styles.items():
    for questions in detail:
      yield "detail", style, write(questions), [(t, (), _plain(a)) for t, a in questions]
