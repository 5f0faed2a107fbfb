import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import tiny
from flax import nnx

from mellow_jax.config import ModelConfig, SmolLM2Config
from mellow_jax.inference import decode
from mellow_jax.inference.decode import Sampling
from mellow_jax.models import decoder as decoder_lib
from mellow_jax.models import mellow

# One layer compiles in half the time; what layers do to each other is tested with the tiny config.
FLAT = SmolLM2Config(vocab=64, width=32, layers=1, heads=4, kv_heads=2, head_size=8, mlp=48)
SMALL_VOCAB = dataclasses.replace(FLAT, vocab=3)


class Decoder:
  """A model of random weights and its jitted functions."""

  def __init__(self, cfg: ModelConfig, seed: int = 0):
    self.cfg = cfg
    self.graphdef, _ = mellow.abstract(cfg)
    self.params = tiny.params(cfg, seed)

  def without_end(self) -> "Decoder":
    """Its end token gets logit 0, which is never the largest of many."""
    embed = self.params["decoder"]["embed"]
    embed["embedding"] = embed["embedding"].at[self.cfg.end_id].set(0.0)
    return self

  def prefix(self, batch: int, seed: int = 1) -> jax.Array:
    shape = (batch, self.cfg.prefix_tokens, self.cfg.decoder.width)
    return jax.random.normal(jax.random.key(seed), shape)

  @functools.partial(jax.jit, static_argnums=(0, 5))
  def _generate(self, params, prefix, lengths, keys, sampling):
    return decode.generate(nnx.merge(self.graphdef, params), prefix, lengths, keys, sampling)

  def generate(self, prefix, lengths, sampling, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(prefix))
    answers = self._generate(self.params, prefix, jnp.asarray(lengths), keys, sampling)
    return jax.tree.map(np.asarray, answers)

  @functools.partial(jax.jit, static_argnums=0)
  def _logits(self, params, prefix, lengths, answers):
    model = nnx.merge(self.graphdef, params)
    return model.decoder.logits(model.hidden(prefix, lengths, answers))

  def logits(self, prefix, lengths, answers):
    """Of every answer position, without a cache."""
    return np.asarray(
      self._logits(self.params, prefix, jnp.asarray(lengths), jnp.asarray(answers)), np.float64
    )

  @functools.partial(jax.jit, static_argnums=0)
  def _score(self, params, prefix, lengths, options, option_lengths):
    model = nnx.merge(self.graphdef, params)
    return decode.score(model, prefix, lengths, options, option_lengths)

  def score(self, prefix, lengths, options, option_lengths):
    args = (jnp.asarray(x) for x in (lengths, options, option_lengths))
    return np.asarray(self._score(self.params, prefix, *args))


def log_softmax(x: np.ndarray) -> np.ndarray:
  x = x - x.max(axis=-1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def token_log_probs(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
  return np.take_along_axis(log_softmax(logits), tokens[..., None], axis=-1)[..., 0]


LENGTHS = np.array([1, 2, 3, 4, 5, 6, 7, 8])


# --- Greedy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_padding", [False, True])
def test_cached_decoding_gives_the_tokens_of_the_full_forward(mask_padding):
  decoder = Decoder(tiny.config(mask_padding=mask_padding)).without_end()
  prefix = decoder.prefix(8)
  answers = decoder.generate(prefix, LENGTHS, Sampling(max_new_tokens=200))
  tokens = answers.tokens[:, 0]
  logits = decoder.logits(prefix, LENGTHS, tokens)
  np.testing.assert_array_equal(tokens, logits.argmax(axis=-1))
  assert (answers.lengths == 200).all() and answers.steps == 200
  assert len(np.unique(tokens)) > 20  # no trivial answers
  expected = token_log_probs(logits, tokens).sum(axis=1)
  np.testing.assert_allclose(answers.log_probs[:, 0], expected, rtol=1e-4)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
  """With this seed all of eight answers end, after 6 to 34 tokens."""
  return Decoder(tiny.config(decoder=FLAT), seed=4)


def test_answers_stop_at_the_end_token_and_stay_there(decoder):
  prefix, end = decoder.prefix(8), decoder.cfg.end_id
  answers = decoder.generate(prefix, LENGTHS, Sampling(max_new_tokens=100))
  tokens, lengths = answers.tokens[:, 0], answers.lengths[:, 0]
  assert len(set(lengths)) > 3 and lengths.max() < 100  # rows end at different steps
  logits = decoder.logits(prefix, LENGTHS, tokens)
  for row, length in enumerate(lengths):
    assert (tokens[row, :length] != end).all() and (tokens[row, length:] == end).all()
    np.testing.assert_array_equal(tokens[row, : length + 1], logits[row].argmax(-1)[: length + 1])
    expected = token_log_probs(logits, tokens)[row, : length + 1].sum()
    np.testing.assert_allclose(answers.log_probs[row, 0], expected, rtol=1e-4, atol=1e-4)


def test_the_loop_stops_once_every_row_has_ended(decoder):
  answers = decoder.generate(decoder.prefix(8), LENGTHS, Sampling(max_new_tokens=100))
  assert answers.steps == answers.lengths.max() + 1 < 100


def test_a_row_does_not_depend_on_its_batch(decoder):
  sampling = Sampling(max_new_tokens=40, temperature=1.0, samples=2)
  prefix, keys = decoder.prefix(8), jax.random.split(jax.random.key(5), 8)

  def run(rows: slice) -> np.ndarray:
    lengths = jnp.asarray(LENGTHS[rows])
    return decoder._generate(decoder.params, prefix[rows], lengths, keys[rows], sampling).tokens

  np.testing.assert_array_equal(run(slice(0, 8))[2:4], run(slice(2, 4)))


def test_masked_padding_does_not_matter_however_long():
  found = []
  for slots in (8, 16):
    decoder = Decoder(tiny.config(mask_padding=True, text_tokens=slots))
    model = nnx.merge(decoder.graphdef, decoder.params)
    audio = jax.random.normal(jax.random.key(3), (2, 4, decoder.cfg.audio_tokens, 32))
    ids = np.full((4, slots), decoder.cfg.pad_id, np.int32)
    lengths = np.array([2, 5, 7, 8])
    for row, length in enumerate(lengths):
      ids[row, :length] = np.arange(10, 10 + length) + row
    prefix = model.prefix(audio[0], audio[1], jnp.asarray(ids))
    found.append(decoder.generate(prefix, lengths, Sampling(max_new_tokens=50)))
  np.testing.assert_array_equal(found[0].tokens, found[1].tokens)
  np.testing.assert_allclose(found[0].log_probs, found[1].log_probs, rtol=1e-4)


@pytest.mark.parametrize("layout", ["columns", "rows"])
@pytest.mark.parametrize("queries", [decoder_lib.QUERIES, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_the_fused_decoder_is_the_plain_one(dtype, tolerance, queries, layout, monkeypatch):
  monkeypatch.setattr(decoder_lib, "QUERIES", queries)  # all at once or in pieces
  plain = Decoder(tiny.config(dtype=dtype))
  fused = Decoder(plain.cfg)
  fused.graphdef, fused.params = mellow.fuse(plain.cfg, plain.params, layout)
  _, abstract = mellow.abstract(plain.cfg, fused=layout)
  assert jax.tree.map(jnp.shape, fused.params) == jax.tree.map(lambda x: x.shape, abstract)
  assert {x.dtype.name for x in jax.tree.leaves(fused.params["decoder"]) if x.ndim == 2} == {dtype}
  prefix = plain.prefix(8)
  answers = np.random.default_rng(0).integers(1, 64, (8, 20))
  expected = plain.logits(prefix, LENGTHS, answers)
  found = fused.logits(prefix, LENGTHS, answers)
  np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
  if dtype == "float32":
    greedy = Sampling(max_new_tokens=20)
    tokens = [decoder.generate(prefix, LENGTHS, greedy).tokens for decoder in (plain, fused)]
    np.testing.assert_array_equal(*tokens)
  scores = fused.score(prefix, LENGTHS, answers[:, None], np.full((8, 1), 20))[:, 0]
  np.testing.assert_allclose(scores, token_log_probs(expected, answers).sum(1), rtol=tolerance)


# --- Sampling ------------------------------------------------------------------------------------

PROBS = np.array([0.02, 0.3, 0.05, 0.25, 0.15, 0.01, 0.1, 0.12])
DRAWS = 4000


def draw(sampling: Sampling, logits: np.ndarray) -> np.ndarray:
  """How often each token is chosen."""
  keys = jax.random.split(jax.random.key(7), DRAWS)
  rows = jnp.tile(jnp.asarray(logits, jnp.float32), (DRAWS, 1))
  return np.bincount(decode.choose(rows, keys, sampling), minlength=logits.size)


def p_value(counts: np.ndarray, probs: np.ndarray) -> float:
  """That draws from probs would deviate so much or more; 0 if an impossible token was drawn."""
  if counts[probs == 0].any():
    return 0.0
  possible = probs > 0
  return scipy.stats.chisquare(counts[possible], counts.sum() * probs[possible]).pvalue


def nucleus(probs: np.ndarray, p: float) -> np.ndarray:
  """Sorts, as the textbook does."""
  order = np.argsort(-probs)
  kept = order[: np.searchsorted(np.cumsum(probs[order]), p) + 1]
  result = np.zeros_like(probs)
  result[kept] = probs[kept] / probs[kept].sum()
  return result


def test_nucleus_samples_follow_the_filtered_distribution():
  expected = nucleus(PROBS, 0.8)
  assert (expected > 0).sum() == 4
  counts = draw(Sampling(temperature=1.0, top_p=0.8), np.log(PROBS))
  assert p_value(counts, expected) > 0.01
  # The same test tells when nothing is filtered, and when only the most probable token is taken.
  assert p_value(draw(Sampling(temperature=1.0), np.log(PROBS)), expected) < 1e-6
  assert p_value(draw(Sampling(), np.log(PROBS)), expected) < 1e-6


def test_top_k_samples_follow_the_filtered_distribution():
  expected = np.where(PROBS >= 0.15, PROBS, 0)
  expected /= expected.sum()
  assert p_value(draw(Sampling(temperature=1.0, top_k=3), np.log(PROBS)), expected) > 0.01
  assert p_value(draw(Sampling(temperature=1.0, top_k=4), np.log(PROBS)), expected) < 1e-6


def test_temperature_sharpens():
  expected = PROBS**2 / (PROBS**2).sum()
  assert p_value(draw(Sampling(temperature=0.5), np.log(PROBS)), expected) > 0.01
  assert p_value(draw(Sampling(temperature=1.0), np.log(PROBS)), expected) < 1e-6


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_keep_top_p_agrees_with_sorting(p):
  logits = np.random.default_rng(3).standard_normal((5, 1000)).astype(np.float32) * 3
  kept = np.isfinite(decode.keep_top_p(jnp.asarray(logits), p))
  probs = np.exp(log_softmax(logits.astype(np.float64)))
  np.testing.assert_array_equal(kept, [nucleus(row, p) > 0 for row in probs])


def test_filters_keep_ties_and_can_be_off():
  logits = jnp.log(jnp.array([0.1, 0.3, 0.3, 0.3]))
  np.testing.assert_array_equal(np.isfinite(decode.keep_top_p(logits, 0.5)), [0, 1, 1, 1])
  np.testing.assert_array_equal(np.isfinite(decode.keep_top_k(logits, 2)), [0, 1, 1, 1])
  for same in (decode.keep_top_p(logits, 1.0), decode.keep_top_k(logits, 0)):
    np.testing.assert_array_equal(same, logits)


def test_sampled_answers_follow_the_model(decoder):
  """Through prefill, copies of the cache and a step of the loop, not the filter alone."""
  prefix = decoder.prefix(1)
  sampling = Sampling(max_new_tokens=2, temperature=1.5, top_p=0.9, samples=DRAWS)
  answers = decoder.generate(prefix, [8], sampling)
  first, second = answers.tokens[0].T
  probs = np.exp(log_softmax(decoder.logits(prefix, [8], answers.tokens[:, 0])[0, 0] / 1.5))
  assert p_value(np.bincount(first, minlength=64), nucleus(probs, 0.9)) > 0.01
  # After the most frequent first token that does not end the answer:
  token = np.bincount(first[first != decoder.cfg.end_id]).argmax()
  logits = decoder.logits(prefix, [8], np.array([[token, 0]]))[0, 1]
  counts = np.bincount(second[first == token], minlength=64)
  assert counts.sum() > 200
  assert p_value(counts, nucleus(np.exp(log_softmax(logits / 1.5)), 0.9)) > 0.01


def test_seeds_reproduce_and_samples_differ(decoder):
  prefix = decoder.prefix(2)
  sampling = Sampling(max_new_tokens=30, temperature=1.0, samples=4)
  first, again, other = (decoder.generate(prefix, [3, 8], sampling, seed=s) for s in (1, 1, 2))
  np.testing.assert_array_equal(first.tokens, again.tokens)
  assert (first.tokens != other.tokens).any(axis=2).all()
  assert len({row.tobytes() for row in first.tokens.reshape(8, -1)}) == 8


# --- Beams ---------------------------------------------------------------------------------------


def test_beams_find_no_less_probable_answers_than_greedy():
  decoder = Decoder(tiny.config(decoder=FLAT))
  better = 0
  for seed in range(8):
    decoder.params = tiny.params(decoder.cfg, seed)
    prefix = decoder.prefix(4, seed)
    greedy = decoder.generate(prefix, LENGTHS[:4], Sampling(max_new_tokens=12))
    beams = decoder.generate(prefix, LENGTHS[:4], Sampling(max_new_tokens=12, beams=8))
    gain = beams.log_probs[:, 0] - greedy.log_probs[:, 0]
    assert (gain > -1e-4).all()
    better += (gain > 1e-2).sum()
  assert better > 16  # of 32: the search does search


def all_answers(vocab: int, most: int, end: int) -> list[tuple[int, ...]]:
  """Every answer that ends, or is cut off, within `most` tokens."""
  found = []
  for n in range(1, most + 1):
    for tokens in itertools.product(range(vocab), repeat=n):
      if end not in tokens[:-1] and (tokens[-1] == end or n == most):
        found.append(tokens)
  return found


def test_beam_search_is_exhaustive_where_the_beams_hold_everything():
  cfg = tiny.config(decoder=SMALL_VOCAB, mask_padding=True)
  decoder, most, n = Decoder(cfg), 4, 5
  candidates = all_answers(3, most, cfg.end_id)
  padded = np.array([[*t, *[cfg.end_id] * (most - len(t))] for t in candidates])
  counts = np.array([len(t) for t in candidates])
  prefix, lengths = decoder.prefix(2), np.array([3, 8])
  beams = decoder.generate(
    prefix, lengths, Sampling(max_new_tokens=most, beams=len(padded), samples=n)
  )
  for row in range(2):
    tiled = jnp.tile(prefix[row], (len(padded), 1, 1))
    logits = decoder.logits(tiled, np.full(len(padded), lengths[row]), padded)
    each = np.where(np.arange(most) < counts[:, None], token_log_probs(logits, padded), 0).sum(1)
    best = np.argsort(-each)[:n]
    np.testing.assert_array_equal(beams.tokens[row], padded[best])
    np.testing.assert_allclose(beams.log_probs[row], each[best], rtol=1e-4)
    ends = np.array([candidates[b][-1] == cfg.end_id for b in best])
    np.testing.assert_array_equal(beams.lengths[row], counts[best] - ends)


def test_beam_search_stops_early():
  decoder = Decoder(tiny.config(decoder=FLAT))
  embed = decoder.params["decoder"]["embed"]
  prefix = decoder.prefix(2)
  first = decoder.generate(prefix, [4, 8], Sampling(max_new_tokens=1)).tokens[:, 0, 0]
  # The end token is as good as the best first token, and a little better.
  embed["embedding"] = (
    embed["embedding"].at[decoder.cfg.end_id].set(1.5 * embed["embedding"][first[0]])
  )
  answers = decoder.generate(prefix[:1], [4], Sampling(max_new_tokens=60, beams=3))
  assert answers.steps < 60 and answers.tokens[0, 0, 0] == decoder.cfg.end_id


# --- A table of rows -----------------------------------------------------------------------------


@pytest.mark.parametrize(
  "sampling", [Sampling(max_new_tokens=9), Sampling(max_new_tokens=9, temperature=1.0)]
)
def test_a_request_inserted_while_others_decode_gives_the_tokens_it_gives_alone(sampling):
  """Seven requests take turns in three rows, whose ring of 8 is written over several times."""
  decoder = Decoder(tiny.config(mask_padding=True))
  prefix, keys = decoder.prefix(7), jax.random.split(jax.random.key(0), 7)
  alone = decoder.generate(prefix, LENGTHS[:7], sampling)
  end_id = decoder.cfg.end_id

  @functools.partial(jax.jit, static_argnums=4)
  def begin(params, prefix, length, key, sampling):
    model = nnx.merge(decoder.graphdef, params)
    return decode.begin(model, prefix[None], length[None], key[None], sampling)

  @jax.jit
  def advance(params, sampled, state):
    logits, state = decode.step(nnx.merge(decoder.graphdef, params), sampled.token, state)
    return decode.append(sampled, logits, sampling, end_id), state

  insert = jax.jit(decode.insert)
  shapes = jax.eval_shape(
    lambda: decode.begin(
      nnx.merge(decoder.graphdef, decoder.params), prefix[:3], jnp.ones(3, int), keys[:3], sampling
    )
  )
  table = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  table = (table[0]._replace(has_ended=jnp.ones(3, bool)), table[1])
  waiting, rows, found = list(range(7)), {}, {i: [] for i in range(7)}
  one = dataclasses.replace(sampling, max_new_tokens=1)
  for time in range(100):
    # The first three begin at steps 0, 2 and 4, the others once a row is free.
    for row in {0, 1, 2} - rows.keys():
      if waiting and time >= 2 * row:
        rows[row] = waiting.pop(0)
        i = rows[row]
        new = begin(decoder.params, prefix[i], jnp.int32(LENGTHS[i]), keys[i], one)
        table = insert(table, jnp.int32(row), new)
        found[i].append(int(new[0].token[0]))
    for row, i in list(rows.items()):
      if found[i][-1] == end_id or len(found[i]) == sampling.max_new_tokens:
        del rows[row]
    if not rows and not waiting:
      break
    table = advance(decoder.params, *table)
    for row, i in rows.items():
      found[i].append(int(table[0].token[row]))
  assert 15 < time < 60
  for i in range(7):
    assert found[i] == alone.tokens[i, 0][: alone.lengths[i, 0] + 1].tolist()


# --- Scoring -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_padding", [False, True])
def test_scores_are_sums_of_the_full_forward(mask_padding):
  decoder = Decoder(tiny.config(decoder=FLAT, mask_padding=mask_padding))
  prefix, lengths = decoder.prefix(3), np.array([2, 5, 8])
  rng = np.random.default_rng(0)
  options = rng.integers(0, 64, (3, 4, 6))
  option_lengths = np.array([[6, 1, 3, 4], [2, 2, 0, 0], [5, 6, 1, 0]])
  scores = decoder.score(prefix, lengths, options, option_lengths)
  for o in range(4):
    each = token_log_probs(decoder.logits(prefix, lengths, options[:, o]), options[:, o])
    each = np.where(np.arange(6) < option_lengths[:, [o]], each, 0).sum(axis=1)
    expected = np.where(option_lengths[:, o] > 0, each, -np.inf)
    np.testing.assert_allclose(scores[:, o], expected, rtol=1e-4)


def test_scores_of_one_token_options(decoder):
  prefix, options = decoder.prefix(2), np.array([[[3], [4]], [[5], [6]]])
  scores = decoder.score(prefix, [8, 8], options, np.ones((2, 2), int))
  first = log_softmax(decoder.logits(prefix, [8, 8], options[:, 0])[:, 0])
  np.testing.assert_allclose(scores, [[first[0, 3], first[0, 4]], [first[1, 5], first[1, 6]]], 1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_score_of_a_decoded_answer_is_its_log_probability(decoder, beams):
  prefix = decoder.prefix(4)
  sampling = Sampling(max_new_tokens=40, beams=beams, samples=beams)
  answers = decoder.generate(prefix, LENGTHS[:4], sampling)
  with_end = np.minimum(answers.lengths + 1, 40)
  scores = decoder.score(prefix, LENGTHS[:4], answers.tokens, with_end)
  np.testing.assert_allclose(scores, answers.log_probs, rtol=1e-4)


# --- Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "change",
  [
    {"max_new_tokens": 0},
    {"temperature": -1.0},
    {"temperature": float("nan")},
    {"top_k": -1, "temperature": 1.0},
    {"top_p": 0.0, "temperature": 1.0},
    {"top_p": 1.1, "temperature": 1.0},
    {"samples": 0},
    {"beams": 0},
    {"samples": 2},  # greedy
    {"top_k": 5},  # greedy
    {"top_p": 0.5},  # greedy
    {"beams": 2, "temperature": 1.0},
    {"beams": 2, "samples": 3},
  ],
)
def test_settings_that_make_no_sense_are_refused(change):
  with pytest.raises(ValueError, match=r"must|choose|set|need|more than"):
    dataclasses.replace(Sampling(), **change)
