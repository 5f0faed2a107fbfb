"""Pictures and a JSON file of the sound events that a model detects beside its answer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mellow_jax import files
from mellow_jax.data import audio, audioset
from mellow_jax.evaluation.inspection import events, hallucination, picture
from mellow_jax.evaluation.inspection.events import Timeline
from mellow_jax.inference.api import Answer, Mellow, say_unheard
from mellow_jax.inference.notes import NoteCounts, describe

WINDOWS_A_PICTURE = 6


def pictures(timelines: Sequence[Timeline]) -> list[range]:
  """The windows that each picture shows."""
  most = max(len(timeline.clips) for timeline in timelines)
  return [range(i, min(i + WINDOWS_A_PICTURE, most)) for i in range(0, most, WINDOWS_A_PICTURE)]


def report_clip(timeline: Timeline, top: int, threshold: float) -> dict:
  """A clip as JSON holds it: the curves that the pictures show, and all events detected."""
  classes, total = timeline.probabilities.shape[1], timeline.clips[0].total_seconds
  peaks = timeline.peaks(0, len(timeline.clips))
  shown = {}
  for page in pictures([timeline]):
    shown |= dict.fromkeys(events.top_events(timeline.peaks(page.start, page.stop), top))
  detected = [i for i in events.top_events(peaks, classes) if peaks[i] >= threshold]

  def event(i: int) -> dict:
    return {"index": i, "name": events.event_name(i, classes), "peak": float(peaks[i])}

  return {
    "file": timeline.name,
    "total_seconds": total,
    "windows": [
      {"start_seconds": clip.start_seconds, "seconds": clip.seconds_used} for clip in timeline.clips
    ],
    "step_seconds": timeline.step_seconds,
    "events": [{**event(i), "probabilities": timeline.probabilities[:, i].tolist()} for i in shown],
    "detected": [
      {
        **event(i),
        "at_seconds": float(np.argmax(timeline.probabilities[:, i]) * timeline.step_seconds),
      }
      for i in detected
    ],
  }


def report_answer(
  answer: Answer, window: int, timelines: Sequence[Timeline], threshold: float
) -> dict:
  """An answer as JSON holds it, with the check of its words against the events of its window."""
  peaks = np.max([timeline.peaks(window, window + 1) for timeline in timelines], axis=0)
  checked = None
  if hallucination.applies(len(peaks)):
    checked = hallucination.report(hallucination.check(answer.text, peaks, threshold), threshold)
  return {
    "heard": [describe(timeline.clips[window]) for timeline in timelines],
    "answer": answer.text,
    "log_prob": answer.log_prob,
    "finish_reason": answer.finish_reason,
    "check": checked,
  }


def report_rule(classes: int) -> dict:
  """The rule by which words are checked, or why it does not apply and no event is drawn."""
  if hallucination.applies(classes):
    return {"applies": True, "text": hallucination.RULE}
  why = (
    f"the encoder has {classes} classes of its own, without names: events are not drawn, and "
    f"words can be checked against AudioSet's {len(audioset.CLASSES)} alone"
  )
  return {"applies": False, "why": why, "text": hallucination.RULE}


def inspect(
  model: Mellow, paths: Sequence[str], prompt: str, output: Path, *, top: int, threshold: float
) -> dict:
  """Answers the prompt about one clip or two; writes the pictures and, last, the JSON file.

  Returns what the JSON file holds. Raises AudioError, ConfigError, QuestionError and
  OSError.
  """
  clips = [audio.load_windows(path, model.cfg.audio, model.preset) for path in paths]
  for windows in clips:
    say_unheard(windows)
  if len(clips) == 1:
    rows = [(clip, None, prompt) for clip in clips[0]]
  else:
    rows = [(clips[0][0], clips[1][0], prompt)]
  detect, encoder = events.make_detector(model.cfg), model.params["encoder"]
  model.warns, counts = False, NoteCounts(all_windows=True)
  found = model.answers(rows, batch_size=min(len(rows), events.BATCH))
  for answer in found:
    counts.add(" and ".join(paths), answer.notes)
  counts.say()
  timelines = [
    events.detect_events(path, windows, model.cfg, detect, encoder)
    for path, windows in zip(paths, clips, strict=True)
  ]
  answers = [report_answer(answer, i, timelines, threshold) for i, answer in enumerate(found)]
  rule = report_rule(model.cfg.encoder.classes)
  name, names = "+".join(Path(path).stem for path in paths), []
  for number, page in enumerate(pictures(timelines), start=1):
    names.append(f"{name}.png" if number == 1 else f"{name}-{number}.png")
    own = answers[page.start : page.stop]
    figure = picture.draw(prompt, own, timelines, page, rule, model.cfg.audio, top, threshold)
    with files.replacing(output / names[-1], "wb") as file:
      figure.savefig(file, dpi=100)
  content = {
    "prompt": prompt,
    "preset": model.preset.name,
    "answers": answers,
    "rule": rule,
    "clips": [report_clip(timeline, top, threshold) for timeline in timelines],
    "pictures": names,
  }
  files.write_json(output / f"{name}.json", content)
  return content
