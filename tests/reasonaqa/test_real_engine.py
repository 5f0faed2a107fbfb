"""Synthesis speaks the protocol of a real engine, with a model that is built on the spot.

  pip install -e '.[torch]' "transformers[serving]"
  python -m pytest -m torch tests/reasonaqa/test_real_engine.py

`transformers serve` serves a small Llama that was trained, in this test, to write five questions.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import chat_server
import completion_styles
import pytest

from mellow_jax.reasonaqa.commands import synthesize
from mellow_jax.reasonaqa.llm import caption_files, prompt

pytestmark = pytest.mark.torch
# So that every request ends with the turn of the model.
TEMPLATE = (
  "{% for m in messages %}<user>{{ m['content'] }}<end>{% endfor %}"
  "{% if add_generation_prompt %}<model>{% endif %}"
)
COMPLETION = completion_styles.MCQ_STYLES["as asked"](completion_styles.MCQ[0])


def build_tokenizer(texts):
  import tokenizers
  import transformers

  inner = tokenizers.Tokenizer(tokenizers.models.BPE())
  inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=1000,
    special_tokens=["<user>", "<end>", "<model>"],
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  inner.train_from_iterator(texts, trainer)
  built = transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner, eos_token="<end>", pad_token="<end>"
  )
  built.chat_template = TEMPLATE
  return built


def build_model(folder, requests):
  """A Llama that answers each of the requests with COMPLETION."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  for name in ("fastapi", "uvicorn"):
    pytest.importorskip(name, reason='needs "transformers[serving]"')
  torch.manual_seed(0)
  torch.set_num_threads(1)  # more only wait for each other over so small a model
  tokenizer = build_tokenizer([*requests, COMPLETION])
  config = transformers.LlamaConfig(
    vocab_size=len(tokenizer),
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=2048,
    bos_token_id=None,
    eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.eos_token_id,
  )
  model = transformers.LlamaForCausalLM(config)
  ids = [tokenizer(f"<user>{r}<end><model>{COMPLETION}<end>")["input_ids"] for r in requests]
  optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
  for step in range(600):
    example = torch.tensor([ids[step % len(ids)]])
    labels = example.clone()
    labels[:, : ids[step % len(ids)].index(tokenizer.convert_tokens_to_ids("<model>")) + 1] = -100
    loss = model(input_ids=example, labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if loss < 0.003:
      break
  assert loss < 0.02
  model.save_pretrained(folder)
  tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
  """(address, model, captions) of `transformers serve`."""
  folder = tmp_path_factory.mktemp("engine")
  table = chat_server.write_captions(folder / "sounds.csv", 4)
  texts = [caption.text for caption in caption_files.read(table)[0]]
  build_model(folder / "model", [prompt.build(text, 1, "mcq", "text") for text in texts])
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  code = "from transformers.cli.transformers import main; main()"
  serve = ["serve", str(folder / "model"), "--host=127.0.0.1", f"--port={port}", "--device=cpu"]
  with (folder / "log").open("w") as log:
    server = subprocess.Popen(
      [sys.executable, "-c", code, *serve],
      env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
      stdout=log,
      stderr=log,
    )
  try:
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
      try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
        break
      except (urllib.error.URLError, OSError):
        assert server.poll() is None, (folder / "log").read_text()
        time.sleep(0.5)
    yield f"{url}/v1", str(folder / "model"), table
  finally:
    server.kill()
    server.wait()


def arguments(engine, output):
  url, model, table = engine
  return [
    *("--type=1", "--kind=mcq", "--replies=text", "--temperature=0"),
    *("--concurrency=2", "--pause_s=0.1"),
    *(f"--endpoint={url}", f"--model={model}", f"--captions={table}", f"--output={output}"),
  ]


def test_a_real_engine_writes_rows_and_a_kill_changes_none(engine, tmp_path):
  assert synthesize.main(["synthesize", *arguments(engine, tmp_path / "out")]) == 0
  rows = json.loads((tmp_path / "out/rows.json").read_text())
  report = json.loads((tmp_path / "out/report.json").read_text())
  text, options, right = completion_styles.MCQ[0][0]
  assert rows[0]["input"].startswith(f"{text} a) {options[0]} b) ")
  assert rows[0]["answer"] == f"{'abcd'[right]}) {options[right]}"
  assert len(rows) == 20 and report["completions"] == {"cut off": 0, "with 5 rows": 4}
  assert report["spent"]["tokens_in"] > 0 and report["spent"]["tokens_out"] > 0

  code = (
    "import sys; from mellow_jax.reasonaqa.commands import synthesize; synthesize.main(sys.argv)"
  )
  again = arguments(engine, tmp_path / "again")
  process = subprocess.Popen([sys.executable, "-c", code, *again])
  log = tmp_path / "again/completions.jsonl"
  while not log.exists() or '"answered"' not in log.read_text():
    assert process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert synthesize.main(["synthesize", *again]) == 0
  for name in ("rows.json", "rejects.jsonl", "report.json"):
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
