"""A folder in which the commands of README and docs run: small files under the names used there."""

import csv
import json
import shutil

import jax
import numpy as np
import soundfile
import tiny

from mellow_jax import checkpoint, config, config_help
from mellow_jax.data import scenes
from mellow_jax.data.scene_audio import SceneClips
from mellow_jax.models import lora, mellow

ENTAILMENT = "Dataset,Audio file,Caption,Entailment,Neutral,Contradiction\n"
CAPTIONS = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
SOUNDS = ("dog", "rain", "bell", "wind")


def model_flags():
  """Flags that give a full-size config the sizes of the folder's model."""
  fields = config_help.fields(tiny.run().model, "config.model")
  return [f"{field.flag}={field.value}" for field in fields if field.value is not None]


def write_rows(folder, clips, mix=scenes.MIX, **tables):
  """Generated rows and clips below folder, as tables of so many rows: train.json, val.json, ..."""
  for name, count in tables.items():
    split = "val" if name in ("val", "test") else "train"
    found = scenes.write(scenes.Scenes(split, 0, count, mix), clips, folder)
    found.rename(folder / f"{name}.json")


def write_csv(path, header, *rows):
  with path.open("w", newline="") as file:
    csv.writer(file).writerows([header, *rows])


def write_models(folder):
  """A whole model under the names of the pages, and LoRA weights for it."""
  cfg, tokenizer = tiny.run().model, scenes.build_tokenizer()
  flat = mellow.flatten(tiny.params(cfg))
  where = config.LoRAConfig(kernels=("decoder/.*/attn/[qv]/kernel",), rank=4)
  factors = lora.init(flat, where, jax.random.key(0))
  for name in ("weights/mellow", "weights/base", "runs/demo/model", "runs/esc10-lm/model"):
    checkpoint.save_model(folder / name, flat, cfg, "clean", tokenizer)
  checkpoint.save_model(folder / "weights/adapter", factors, cfg, "clean", tokenizer)


def write(folder):
  """All that README and docs take for granted: a model, clips, tables, the files of publishers."""
  cfg = tiny.run().model.audio
  clips = SceneClips(cfg.sample_rate, cfg.clip_samples)
  write_models(folder)
  write_rows(folder / "runs/demo/ask", clips, val=2)
  (folder / "runs/demo/ask/val.json").rename(folder / "runs/demo/ask/rows.json")
  write_rows(folder / "reasonaqa/audio", clips, train=24, val=60)
  write_rows(folder / "esc10", clips, train=16, val=8)
  for part in ("mcq.json", "mcq_captions.json"):  # those rows of val.json that a page keeps by hand
    shutil.copy(folder / "esc10/val.json", folder / "esc10" / part)
  shutil.copy(folder / "esc10/train.json", folder / "esc10/three.json")
  write_rows(folder / "audio", clips, {"entailment": 1.0}, train=24, test=12)
  for table in ("train.json", "test.json"):
    shutil.move(folder / "audio" / table, folder / table)
  for table in ("train.json", "val.json"):
    shutil.move(folder / "reasonaqa/audio" / table, folder / "reasonaqa" / table)

  first, second = (np.asarray(clips.load(f"scenes/val/0/{i}.wav")) for i in (1, 2))
  for name in ("a.wav", "clip.wav", "runs/demo/ask/1.wav"):
    soundfile.write(folder / name, first, cfg.sample_rate)
  for name in ("b.wav", "runs/demo/ask/2.wav"):
    soundfile.write(folder / name, second, cfg.sample_rate)
  soundfile.write(folder / "long.wav", np.concatenate([first, second, first]), cfg.sample_rate)
  (folder / "clips").mkdir()
  captions, questions = [], []
  for i in range(16):
    name, sound = f"{i}.wav", SOUNDS[i % 4]
    wav = 0.5 * np.sin(np.arange(16_000) * (i + 3) / 90)
    for path in (folder / name, folder / "clips" / name):
      soundfile.write(path, wav, 16_000)
    captions.append((name, f"a {sound} is heard", sound))
    questions.append((name, "which sound is heard? a) dog b) rain c) bell d) wind", sound))
  write_csv(folder / "held_out.csv", ["file", "question", "answer"], *questions[-4:])
  write_csv(folder / "clips.csv", ["file", "question", "answer"], *questions)
  for name in ("questions", "held_out"):
    write_csv(folder / f"{name}.csv", ["file", "question", "answer"], *questions[:4])
  (folder / "docs").mkdir()
  clip = json.loads((folder / "esc10/val.json").read_text())[0]["filepath1"]
  own = [(clip, "is there a bell in it?", "yes"), (clip, "is it rain?", "no")]
  write_csv(folder / "docs/esc10_questions.csv", ["file", "question", "answer"], *own)
  write_csv(folder / "captions.csv", ["file", "caption", "label"], *captions)
  run = {"seed": 0, "data": {"source": "scenes", "mix": scenes.MIX}}
  (folder / "runs/demo/run.json").write_text(json.dumps(run))
  write_mmau(folder)
  write_downloads(folder)


def write_mmau(folder):
  """Four questions in MMAU's form, their clips, and the answers of another model."""
  (folder / "MMAU").mkdir()
  questions = [
    {
      "id": f"q{i}",
      "audio_id": f"./{i}.wav",
      "question": "Which sound is heard?",
      "choices": list(SOUNDS),
      "answer": SOUNDS[i],
      "task": "sound",
      "difficulty": "easy",
    }
    for i in range(4)
  ]
  (folder / "MMAU/mmau-test-mini.json").write_text(json.dumps(questions))
  answers = [{"id": row["id"], "prediction": SOUNDS[0]} for row in questions]
  (folder / "theirs.json").write_text(json.dumps(answers))
  for i in range(4):
    shutil.copy(folder / f"{i}.wav", folder / f"MMAU/{i}.wav")


def write_downloads(folder):
  """A part of the official files of ReasonAQA's sources."""
  (folder / "downloads").mkdir()
  text = ENTAILMENT + "ClothoV2,c.wav,['x'],it barks,it may bark,it is silent\n"
  (folder / "downloads/clotho_entailment_evaluation.csv").write_text(text)
  text = CAPTIONS + "c.wav,1,2,3,4,5\n"
  (folder / "downloads/clotho_captions_evaluation.csv").write_text(text)
  path = folder / "audio/ClothoV21/evaluation/c.wav"
  path.parent.mkdir(parents=True)
  soundfile.write(path, np.zeros(8000), 8000)
