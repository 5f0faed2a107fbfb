"""The engine's answers are those of single requests, whatever joins and leaves beside them."""

import dataclasses
import queue
import threading
import time
from concurrent.futures import CancelledError, Future

import jax
import numpy as np
import pytest
import tiny

from mellow_jax import checkpoint
from mellow_jax.errors import AudioError, BusyError, QuestionError
from mellow_jax.inference import engine as engine_lib
from mellow_jax.inference.api import Mellow, NotAsked, Prompt
from mellow_jax.inference.decide import Choice, YesNo
from mellow_jax.inference.decode import Sampling
from mellow_jax.inference.engine import Engine, Request

MOST = 24
RATE = 16_000


@pytest.fixture(scope="module")
def model(tiny_config, tmp_path_factory) -> Mellow:
  folder = tmp_path_factory.mktemp("engine") / "model"
  checkpoint.save_model(folder, tiny.params(tiny_config), tiny_config, "training", tiny.tokenizer())
  return Mellow.load(folder)


@pytest.fixture(scope="module")
def engine(model):
  with Engine(model, slots=4, max_new_tokens=MOST) as found:
    yield found


def clips(n: int) -> list[tuple[np.ndarray, int]]:
  rng = np.random.default_rng(0)
  return [(rng.normal(0, 0.1, RATE).astype(np.float32), RATE) for _ in range(n)]


WORDS = ["what", "is", "heard", "in", "the", "audio", "a", "dog", "barks", "then", "rain", "falls"]


def prompts(model: Mellow, n: int) -> list:
  rng, sounds = np.random.default_rng(1), clips(5)
  rows = []
  for _ in range(n):
    first, second = rng.integers(5, size=2)
    rows.append((sounds[first], sounds[second], " ".join(rng.choice(WORDS, 5))))
  return rows


def begun(call) -> Future:
  """What a call in another thread returns or raises; the test goes on where it waits for ever."""
  found = Future()

  def run() -> None:
    try:
      found.set_result(call())
    except Exception as error:
      found.set_exception(error)

  threading.Thread(target=run, daemon=True).start()
  return found


def fails(*_):
  raise RuntimeError("the device is gone")


def ids(engine: Engine, prompt: Prompt, most: int = 3) -> list[int]:
  return begun(lambda: [t.id for t in engine.stream(Request(prompt, most))]).result(60)


def long_answered(model: Mellow, engine: Engine) -> Prompt:
  found = map(model.prompt, prompts(model, 20))
  return next(prompt for prompt in found if len(ids(engine, prompt, MOST)) > 8)


class Held:
  """The thread of an engine, which waits until all is submitted that a test wants together."""

  def __init__(self, engine: Engine):
    self.engine, self._go = engine, threading.Event()

  def __enter__(self) -> None:
    waits = threading.Event()
    begun(lambda: self.engine.call(lambda: waits.set() or self._go.wait(60)))
    assert waits.wait(60)

  def __exit__(self, *_) -> None:
    self._go.set()


def test_64_requests_at_random_times_get_the_tokens_of_single_ones(model, engine):
  rows = prompts(model, 64)
  rng = np.random.default_rng(2)
  most = rng.integers(1, MOST + 1, size=len(rows))
  found, sampled = [None] * len(rows), rng.random(len(rows)) < 0.3

  def ask(i: int) -> None:
    request = Request(model.prompt(rows[i]), int(most[i]), temperature=0.9 * sampled[i], seed=i)
    found[i] = list(engine.stream(request))

  threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(rows))]
  for thread in threads:
    thread.start()
    time.sleep(rng.exponential(0.002))
  for thread in threads:
    thread.join()
  lengths = set()
  for i, row in enumerate(rows):
    sampling = Sampling(max_new_tokens=MOST, temperature=0.9 * float(sampled[i]))
    answer = model.answer(row[0], row[2], audio2=row[1], sampling=sampling, seed=i)
    ids = [token.id for token in found[i]]
    expected = answer.tokens[0]
    assert len(ids) == min(expected, most[i])
    assert answer.text.startswith(model.tokenizer.decode(ids).strip())
    if expected < most[i]:  # else the end token counts on one side alone
      continue
    if expected == most[i] == MOST:
      total = sum(token.log_prob for token in found[i])
      np.testing.assert_allclose(total, answer.log_probs[0], rtol=1e-4, atol=1e-4)
    lengths.add(len(ids))
  assert len(lengths) > 5 and engine.running == engine.waiting == 0


def test_no_request_waits_for_a_compilation(model, engine, tiny_config):
  """Also where the silence that an engine begins with is answered by the end alone."""
  silence = model.clip((np.zeros(RATE, np.float32), RATE))
  nothing = Prompt((silence, silence), np.full(tiny_config.text_tokens, tiny_config.pad_id), 1)
  (token,) = engine.stream(Request(nothing, 1))
  cfg = dataclasses.replace(tiny_config, end_id=token.id, answer_tokens=40)
  quiet = checkpoint.LoadedModel(tiny.params(cfg), cfg, "training", tiny.tokenizer())
  compiled = []
  with Engine(Mellow(quiet), slots=3, max_new_tokens=MOST) as found:
    assert list(found.stream(Request(nothing, MOST))) == []
    found.prepare_decisions()
    row = prompts(model, 1)[0]
    jax.monitoring.register_event_duration_secs_listener(
      lambda event, _, **__: compiled.append(event)
    )
    assert len(list(found.stream(Request(model.prompt(row), MOST)))) > 1
    for sample in range(engine_lib.SAMPLES):
      list(found.stream(Request(model.prompt(row), 2, temperature=1.0, sample=sample)))
    found.decide(model.prompt(row).clips, YesNo("is a dog heard"))
    for count in (5, 40):
      for length in (1, 20, 38):
        options = tuple(f"{i} {'rain ' * length}" for i in range(count))
        assert len(found.decide(model.prompt(row).clips, Choice("what", options)).options) == count
  assert not [event for event in compiled if "backend_compile" in event]


def test_options_have_the_log_likelihoods_of_the_api(model, engine):
  row = prompts(model, 1)[0]
  options = [["a dog barks", "rain falls", "a dog"]]
  expected = [score for score, _ in model.score([row], options, batch_size=1)[0]]
  ids, lengths = model.encode_options(options)
  found = engine.score(model.prompt(row), ids[0], lengths[0])
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_call_that_is_cancelled_while_it_waits_is_not_begun(model, engine, monkeypatch):
  prompt, cancel, scored = model.prompt(prompts(model, 1)[0]), threading.Event(), []
  monkeypatch.setattr(engine, "_options", lambda *_: scored.append(1) or np.zeros(4, np.float32))
  options = Choice("what", tuple(f"dog {i}" for i in range(255)))
  with Held(engine):
    called = begun(lambda: engine.call(lambda: scored.append(1), cancel))
    decided = begun(lambda: engine.decide(prompt.clips, options, cancel=cancel))
    while engine.waiting < 2:
      time.sleep(0.01)
    cancel.set()
  for waiting in (called, decided):
    with pytest.raises(CancelledError):
      waiting.result(60)
  assert not scored and engine.call(lambda: "on") == "on"


def test_a_failed_step_ends_what_is_decoded_and_nothing_else(model, engine, monkeypatch):
  """Also where no other table can be made at once, as for lack of memory."""
  prompt = long_answered(model, engine)
  expected = ids(engine, prompt)
  with monkeypatch.context() as broken:
    broken.setattr(engine, "_advance", fails)
    broken.setattr(engine, "_empty", fails)
    for _ in range(2):
      with pytest.raises(RuntimeError, match="the device is gone"):
        ids(engine, prompt, MOST)
  assert engine.is_alive and ids(engine, prompt) == expected


def test_a_request_that_fails_with_the_table_leaves_another_one(model, engine, monkeypatch):
  prompt, ends, joined = long_answered(model, engine), queue.SimpleQueue(), []
  expected, join = ids(engine, prompt), engine._join

  def second_fails(params, table, *rest):
    found = join(params, table, *rest)  # the table is donated
    return fails() if joined else joined.append(1) or found

  with monkeypatch.context() as broken:
    broken.setattr(engine, "_join", second_fails)
    with Held(engine):
      for _ in range(2):
        engine.submit(Request(prompt, MOST, on_end=ends.put))
    assert [str(ends.get(timeout=60)) for _ in range(2)] == ["the device is gone"] * 2
  assert ids(engine, prompt) == expected and engine.running == 0


def test_an_engine_whose_thread_fails_tells_all_that_wait(model, monkeypatch):
  prompt, ends = model.prompt(prompts(model, 1)[0]), queue.SimpleQueue()
  small = Engine(model, slots=1, max_new_tokens=4, max_queue=3)
  monkeypatch.setattr(small, "_continue", fails)  # what is no fault of a request
  with Held(small):
    for _ in range(2):
      small.submit(Request(prompt, 4, on_end=ends.put))
    called = begun(lambda: small.call(lambda: "too late"))
    while small.waiting < 3:
      time.sleep(0.01)
    late = begun(lambda: small.submit(Request(prompt, 4), wait=True))
  assert [str(ends.get(timeout=60)) for _ in range(2)] == ["the device is gone"] * 2
  with pytest.raises(RuntimeError, match="the device is gone"):
    called.result(60)
  assert isinstance(late.exception(60), BusyError | None)  # it may have had room before
  small._thread.join(60)
  assert not small.is_alive and small.running == small.waiting == 0
  with pytest.raises(BusyError, match="the engine has failed"):
    small.submit(Request(prompt, 4))
  small.close()


def test_an_engine_that_cannot_be_prepared_ends(model, monkeypatch):
  def engines() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "engine"]

  before = engines()
  monkeypatch.setattr(Engine, "_burst", fails)
  with pytest.raises(RuntimeError, match="the device is gone"):
    Engine(model, slots=1, max_new_tokens=4)
  assert engines() == before


def test_what_fails_on_the_device_is_not_kept():
  class Failed:
    nbytes = 1

    def block_until_ready(self):
      raise RuntimeError("the device is gone")

  kept = engine_lib._ByContent(max_bytes=100)
  with pytest.raises(RuntimeError):
    kept.get(1, Failed)
  assert kept.get(1, lambda: np.ones(1)) == np.ones(1)


def test_clips_and_pairs_are_read_once(model, engine):
  row = prompts(model, 1)[0]
  before = engine.clips.hits, engine.pairs.hits, engine.pairs.queries
  for question in ("a dog barks", "rain falls", "what is heard"):
    list(engine.stream(Request(model.prompt((*row[:2], question)), 2)))
  assert engine.pairs.queries == before[2] + 3 and engine.pairs.hits >= before[1] + 2


def test_the_oldest_go_first_where_memory_is_bounded():
  kept = engine_lib._ByContent(max_bytes=100)
  for name in (1, 2, 1, 3):
    kept.get(name, lambda: np.zeros(40, np.uint8))
  made = []
  for name in (1, 3, 2):
    kept.get(name, lambda name=name: made.append(name) or np.zeros(40, np.uint8))
  assert made == [2] and kept.bytes == 80


@pytest.mark.parametrize("how", [{}, {"temperature": 0.9, "top_p": 0.9, "samples": 3}])
def test_rows_get_the_answers_of_batches(model, engine, how):
  rows = prompts(model, 13)
  how = {"sampling": Sampling(max_new_tokens=MOST, **how), "seed": 3, "strict": False}
  how["numbers"] = np.random.default_rng(4).integers(1000, size=len(rows)).tolist()
  rows[5] = (b"no audio", None, "what is heard")
  found = list(engine.answers(iter(rows), **how))
  expected = model.answers(rows, batch_size=4, **how)
  assert found[5] == expected[5] and isinstance(found[5], NotAsked)
  for one, other in zip(found[:5] + found[6:], expected[:5] + expected[6:], strict=True):
    np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-4, atol=1e-4)
    assert dataclasses.replace(one, log_probs=other.log_probs) == other
  assert len({answer.texts for answer in found[6:]}) > 3 and engine.running == 0


def test_answers_before_a_bad_row_come_first(model, engine):
  rows, found = [*prompts(model, 3), (b"no audio", None, "what is heard")], []
  with pytest.raises(AudioError):
    found.extend(engine.answers(rows, sampling=Sampling(max_new_tokens=4)))
  assert len(found) == 3
  with pytest.raises(QuestionError, match="beams"):
    next(engine.answers(rows, sampling=Sampling(beams=2)))


def test_numbers_that_are_not_as_many_as_the_rows_are_told(model, engine):
  rows = prompts(model, 3)
  for numbers, answers, says in (([5], 1, "1 for more rows"), ([5, 6, 7, 8], 3, "4 for 3 rows")):
    found = []
    with pytest.raises(QuestionError, match=f"numbers: {says}: give each row one"):
      found.extend(engine.answers(rows, sampling=Sampling(max_new_tokens=4), numbers=numbers))
    assert len(found) == answers


def test_a_cancelled_request_frees_its_row(model, engine):
  row = prompts(model, 1)[0]
  for _ in range(20):
    stream = engine.stream(Request(model.prompt(row), MOST, temperature=5.0))
    next(stream)
    stream.close()
  assert len(list(engine.stream(Request(model.prompt(row), 3)))) <= 3
  assert engine.running == 0


def test_the_most_probable_tokens_come_with_the_chosen_one(model, engine):
  row = prompts(model, 1)[0]
  for token in engine.stream(Request(model.prompt(row), 6, top=3)):
    assert len(token.top) == 3 and token.top[0][0] == token.id
    assert token.top[0][1] == pytest.approx(token.log_prob, abs=1e-4)
    assert token.top[0][1] >= token.top[1][1] >= token.top[2][1]


def test_a_full_queue_and_a_closed_engine_say_so(model):
  row = prompts(model, 1)[0]
  with Engine(model, slots=1, max_new_tokens=4, max_queue=1) as small:
    with pytest.raises(QuestionError, match="from 1 to 4"):
      small.submit(Request(model.prompt(row), 5))
    refused = 0
    for _ in range(50):
      try:
        small.submit(Request(model.prompt(row), 4))
      except BusyError as error:
        refused += 1
        assert "try again" in str(error)
    assert refused
  with pytest.raises(BusyError, match="closed"):
    small.submit(Request(model.prompt(row), 4))
