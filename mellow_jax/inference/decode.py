"""Answers, token by token: prefill, key/value cache, greedy and sampled decoding, beams, scoring.

Pure functions of a model and arrays. Everything from the prefix to the last token is one
computation to be jitted, with one loop inside, which stops as soon as every answer has ended. A row
that has ended early goes through the remaining steps with the others, since a batch shares its
matrix products, but changes no more.

The prefix of P slots is computed once a question, however many answers it gets. Generated tokens
stand in the slots after it; their rotary positions follow on the last heard slot, so the padding of
a masked question leaves no gap:

  slots      [ audio 1 | sep | audio 2 | sep | question | padding ] [ answer ]
  attended     yes       yes   yes       yes   yes        cfg.mask_padding?  up to the current token
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mellow_jax.models import mellow
from mellow_jax.models.decoder import Cache
from mellow_jax.models.mellow import MellowModel


@dataclass(frozen=True, kw_only=True)
class Sampling:
  """How answers are chosen. Greedy by default, as the reference decodes whatever it is told."""

  max_new_tokens: int = 300  # release
  temperature: float = 0.0  # 0: the most probable token each time
  top_k: int = 0  # draw from the k most probable tokens; 0: from all
  top_p: float = 1.0  # draw from the fewest tokens that hold this share of the probability
  samples: int = 1  # answers a question
  beams: int = 1  # above 1: search for the most probable answer as a whole

  def __post_init__(self):
    def require(holds: bool, message: str) -> None:
      if not holds:
        raise ValueError(message)

    require(self.max_new_tokens >= 1, f"max_new_tokens {self.max_new_tokens} must be at least 1")
    require(
      0 <= self.temperature < math.inf, f"temperature {self.temperature} must be 0 or more, finite"
    )
    require(self.top_k >= 0, f"top_k {self.top_k} must be 0 (off) or more")
    require(0 < self.top_p <= 1, f"top_p {self.top_p} must be above 0 and at most 1 (off)")
    require(self.samples >= 1, f"samples {self.samples} must be at least 1")
    require(self.beams >= 1, f"beams {self.beams} must be at least 1")
    if self.beams > 1:
      require(self.temperature == 0, "beams search, temperature draws: choose one")
      require(
        self.samples <= self.beams, f"{self.samples} samples are more than {self.beams} beams hold"
      )
    elif self.temperature == 0:
      require(self.samples == 1, "greedy samples are all the same: set temperature above 0")
    if self.temperature == 0:
      require(
        self.top_k == 0 and self.top_p == 1, "top_k and top_p need a temperature above 0 to draw at"
      )


class Generation(NamedTuple):
  """n answers to each question, from beams the most probable first."""

  tokens: Int[Array, "B n R"]  # padded with the end token
  lengths: Int[Array, "B n"]  # tokens before the end token
  log_probs: Float[
    Array, "B n"
  ]  # natural, summed over the answer and its end token, at temperature 1
  steps: Int[Array, ""]  # tokens decoded before the loop stopped


def keep_top_k(logits: Float[Array, "*B V"], k: int) -> Float[Array, "*B V"]:
  """Leaves the k largest logits, and those equal to the last of them; the others become -inf."""
  if not 0 < k < logits.shape[-1]:
    return logits
  least = jax.lax.top_k(logits, k)[0][..., -1:]
  return jnp.where(logits >= least, logits, -jnp.inf)


def keep_top_p(logits: Float[Array, "*B V"], p: float) -> Float[Array, "*B V"]:
  """Leaves the fewest most probable tokens whose probabilities sum to p or more.

  Tokens as probable as the last of them stay, too. Sorting 49,152 tokens takes longer than a layer
  of the decoder; instead, the least probability that is kept is found bit by bit: floats above 0
  are in the order of their bits read as integers.

  Source: Holtzman et al. 2020, nucleus sampling.
  """
  if p >= 1:
    return logits
  probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
  bits = jax.lax.bitcast_convert_type(probs, jnp.int32)
  shape = (*logits.shape[:-1], 1)
  # Tokens from `least` up always hold p; those from `beyond` up never do.
  least = jnp.zeros(shape, jnp.int32)
  beyond = jnp.full(shape, jax.lax.bitcast_convert_type(jnp.float32(1), jnp.int32) + 1)

  def halve(_: Int[Array, ""], bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    least, beyond = bounds
    middle = (least + beyond) // 2
    enough = jnp.sum(jnp.where(bits >= middle, probs, 0), axis=-1, keepdims=True) >= p
    return jnp.where(enough, middle, least), jnp.where(enough, beyond, middle)

  least, _ = jax.lax.fori_loop(0, 30, halve, (least, beyond))  # 1.0 is below 2^30
  return jnp.where(bits >= least, logits, -jnp.inf)


def choose(
  logits: Float[Array, "B V"], keys: Key[Array, "B"], sampling: Sampling
) -> Int[Array, "B"]:
  """The next token of each row; filters see the logits after the temperature, top-k first."""
  if sampling.temperature == 0:
    # The first of the largest. XLA on CPU takes four times as long to argmax.
    is_largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    return jnp.min(jnp.where(is_largest, ids, ids[-1]), axis=-1)
  logits = keep_top_p(keep_top_k(logits / sampling.temperature, sampling.top_k), sampling.top_p)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _log_prob(logits: Float[Array, "*B V"], tokens: Int[Array, "*B"]) -> Float[Array, "*B"]:
  """log softmax of the tokens, without an array of it."""
  chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)


# --- Cache ---------------------------------------------------------------------------------------


def _take(
  x: Float[Array, "BK ..."], rows: int, chosen: Int[Array, "rows"]
) -> Float[Array, "NK ..."]:
  """Keys or values of the chosen ones of a number of rows."""
  return x.reshape(rows, -1, *x.shape[1:])[chosen].reshape(-1, *x.shape[1:])


def _prefill(
  model: MellowModel,
  prefix: Float[Array, "B P D"],
  text_lengths: Int[Array, "B"],
  copies: int,
  max_new_tokens: int,
) -> tuple[Float[Array, "B V"], Cache, Bool[Array, "rows P"]]:
  """First logits; cache with room for an answer and heard slots, for every copy of a question."""
  hidden, cache = model.prefill(prefix, text_lengths)
  if copies > 1:  # of several devices, each would be sent the caches of all for it
    chosen = jnp.repeat(jnp.arange(len(prefix)), copies)
    cache = jax.tree.map(lambda x: _take(x, len(prefix), chosen), cache)
  # The last token is never read, so it needs no slot.
  cache = tuple(layer.grow(max_new_tokens - 1) for layer in cache)
  heard = jnp.repeat(model.is_heard(text_lengths), copies, axis=0)
  return model.decoder.logits(hidden), cache, heard


def _read(
  model: MellowModel,
  tokens: Int[Array, "rows"],
  i: Int[Array, ""],
  heard: Bool[Array, "rows P"],
  cache: Cache,
) -> tuple[Float[Array, "rows V"], Cache]:
  """Puts the answer's token i into the cache: the logits of token i + 1."""
  rows, slots = heard.shape
  answer = jnp.arange(cache[0].v.shape[1] - slots) <= i
  mask = jnp.concatenate([heard, jnp.broadcast_to(answer, (rows, len(answer)))], axis=1)
  position = jnp.sum(heard, axis=1, dtype=jnp.int32)[:, None] + i
  x = model.decoder.embed(tokens[:, None])
  hidden, cache = model.decoder(x, position, mask[:, None], cache, slots + i)
  return model.decoder.logits(hidden[:, 0]), cache


# --- Decoding ------------------------------------------------------------------------------------


def generate(
  model: MellowModel,
  prefix: Float[Array, "B P D"],
  text_lengths: Int[Array, "B"],
  keys: Key[Array, "B"],
  sampling: Sampling,
) -> Generation:
  """Answers to a batch of questions.

  Each question has its own key, so what is drawn for it does not depend on the rest of the batch.
  """
  if sampling.beams > 1:
    return _search(model, prefix, text_lengths, sampling)
  return _draw(model, prefix, text_lengths, keys, sampling)


class _Drawn(NamedTuple):
  """State of the loop: each row's answer up to token i, which is chosen and not yet read."""

  i: Int[Array, ""]
  tokens: Int[Array, "rows R"]
  lengths: Int[Array, "rows"]
  log_probs: Float[Array, "rows"]
  has_ended: Bool[Array, "rows"]
  cache: Cache


def _draw(
  model: MellowModel,
  prefix: Float[Array, "B P D"],
  text_lengths: Int[Array, "B"],
  keys: Key[Array, "B"],
  sampling: Sampling,
) -> Generation:
  batch, n, most, end_id = len(prefix), sampling.samples, sampling.max_new_tokens, model.cfg.end_id
  rows = batch * n
  logits, cache, heard = _prefill(model, prefix, text_lengths, n, most)
  row_keys = jax.vmap(lambda key: jax.random.split(key, n))(keys).reshape(rows)

  def append(state: _Drawn, logits: Float[Array, "rows V"], cache: Cache) -> _Drawn:
    i = state.i + 1
    token = choose(logits, jax.vmap(jax.random.fold_in, (0, None))(row_keys, i), sampling)
    token = jnp.where(state.has_ended, end_id, token)
    log_prob = jnp.where(state.has_ended, 0, _log_prob(logits, token))
    has_ended = state.has_ended | (token == end_id)
    return _Drawn(
      i=i,
      tokens=state.tokens.at[:, i].set(token),
      lengths=state.lengths + ~has_ended,
      log_probs=state.log_probs + log_prob,
      has_ended=has_ended,
      cache=cache,
    )

  def step(state: _Drawn) -> _Drawn:
    logits, cache = _read(model, state.tokens[:, state.i], state.i, heard, state.cache)
    return append(state, logits, cache)

  state = _Drawn(
    i=jnp.int32(-1),
    tokens=jnp.full((rows, most), end_id, jnp.int32),
    lengths=jnp.zeros(rows, jnp.int32),
    log_probs=jnp.zeros(rows, jnp.float32),
    has_ended=jnp.zeros(rows, bool),
    cache=cache,
  )
  state = append(state, jnp.repeat(logits, n, axis=0), cache)
  state = jax.lax.while_loop(lambda s: (s.i < most - 1) & ~jnp.all(s.has_ended), step, state)
  return Generation(
    tokens=state.tokens.reshape(batch, n, most),
    lengths=state.lengths.reshape(batch, n),
    log_probs=state.log_probs.reshape(batch, n),
    steps=state.i + 1,
  )


class _Beams(NamedTuple):
  """Answers of one kind, best first: still growing, or ended."""

  tokens: Int[Array, "B n R"]
  lengths: Int[Array, "B n"]
  log_probs: Float[Array, "B n"]  # -inf: no answer

  def best(self, n: int) -> tuple["_Beams", Int[Array, "B n"]]:
    """The n most probable, and which they were."""
    log_probs, chosen = jax.lax.top_k(self.log_probs, n)
    tokens = jnp.take_along_axis(self.tokens, chosen[..., None], axis=1)
    return _Beams(tokens, jnp.take_along_axis(self.lengths, chosen, axis=1), log_probs), chosen

  def join(self, other: "_Beams") -> "_Beams":
    return _Beams(*(jnp.concatenate(pair, axis=1) for pair in zip(self, other, strict=True)))


class _Searched(NamedTuple):
  """State of the beam search: growing answers hold tokens 0 to i, of which i is not yet read."""

  i: Int[Array, ""]
  growing: _Beams
  ended: _Beams
  cache: Cache


def _search(
  model: MellowModel,
  prefix: Float[Array, "B P D"],
  text_lengths: Int[Array, "B"],
  sampling: Sampling,
) -> Generation:
  """Beam search for the answers of the largest plain sum of log-probabilities.

  Without a bonus for length the sum can only fall as an answer grows. So the search stops, and has
  lost nothing that its beams could still find, once no growing answer beats an ended one.
  """
  batch, n, most, end_id = len(prefix), sampling.beams, sampling.max_new_tokens, model.cfg.end_id
  slots = model.cfg.prefix_tokens
  logits, cache, heard = _prefill(model, prefix, text_lengths, n, most)
  vocab = logits.shape[-1]

  def extend(
    i: Int[Array, ""], growing: _Beams, ended: _Beams, logits: Float[Array, "B n V"]
  ) -> tuple[_Beams, _Beams, Int[Array, "B n"]]:
    """Adds token i to the growing answers; the beam that each new one came from."""
    sums = growing.log_probs[..., None] + jax.nn.log_softmax(logits, axis=-1)
    # No more than n of the best 2 n candidates can end, so n are left to grow.
    log_probs, chosen = jax.lax.top_k(sums.reshape(batch, n * vocab), min(2 * n, n * vocab))
    parents, token = chosen // vocab, (chosen % vocab).astype(jnp.int32)
    tokens = jnp.take_along_axis(growing.tokens, parents[..., None], axis=1).at[:, :, i].set(token)
    is_end = token == end_id
    lengths = jnp.where(is_end, i, i + 1)
    ending = _Beams(tokens, lengths, jnp.where(is_end, log_probs, -jnp.inf))
    ended, _ = ended.join(ending).best(n)
    growing, kept = _Beams(tokens, lengths, jnp.where(is_end, -jnp.inf, log_probs)).best(n)
    return growing, ended, jnp.take_along_axis(parents, kept, axis=1)

  def step(state: _Searched) -> _Searched:
    tokens = state.growing.tokens[:, :, state.i].reshape(-1)
    logits, cache = _read(model, tokens, state.i, heard, state.cache)
    logits = logits.reshape(batch, n, vocab)
    growing, ended, parents = extend(state.i + 1, state.growing, state.ended, logits)
    rows = (parents + jnp.arange(batch)[:, None] * n).reshape(-1)
    # The beams of a question share its prefix: only what they generated changes places.
    cache = tuple(layer.change(slots, lambda x: _take(x, len(rows), rows)) for layer in cache)
    return _Searched(state.i + 1, growing, ended, cache)

  def goes_on(state: _Searched) -> Bool[Array, ""]:
    hopeful = state.growing.log_probs[:, 0] > state.ended.log_probs[:, sampling.samples - 1]
    return (state.i < most - 1) & jnp.any(hopeful)

  none = _Beams(
    tokens=jnp.full((batch, n, most), end_id, jnp.int32),
    lengths=jnp.zeros((batch, n), jnp.int32),
    log_probs=jnp.full((batch, n), -jnp.inf),
  )
  empty = none._replace(log_probs=none.log_probs.at[:, 0].set(0))
  logits = jnp.broadcast_to(logits[:, None], (batch, n, vocab))
  growing, ended, _ = extend(jnp.int32(0), empty, none, logits)
  state = jax.lax.while_loop(goes_on, step, _Searched(jnp.int32(0), growing, ended, cache))
  # At max_new_tokens an answer is cut off where it stands.
  answers, _ = state.ended.join(state.growing).best(sampling.samples)
  return Generation(*answers, steps=state.i + 1)


# --- Scoring -------------------------------------------------------------------------------------


def score(
  model: MellowModel,
  prefix: Float[Array, "B P D"],
  text_lengths: Int[Array, "B"],
  options: Int[Array, "B O R"],
  option_lengths: Int[Array, "B O"],
) -> Float[Array, "B O"]:
  """Natural log-likelihood of each of a question's given answers, summed over its tokens.

  An end token counts where the options hold one. Divide by option_lengths for the mean a token. An
  option of no tokens, which fills up a question with fewer options, scores -inf.

  The options stand side by side after one prefix, and none sees another:

              prefix     option 1   option 2
    prefix    causal     -          -
    option 1  all heard  causal     -
    option 2  all heard  -          causal
  """
  batch, o, r = options.shape
  slots, fed = model.cfg.prefix_tokens, r - 1  # the last token is only predicted
  heard = model.is_heard(text_lengths)
  x = jnp.concatenate(
    [prefix, model.decoder.embed(options[:, :, :-1].reshape(batch, o * fed))], axis=1
  )
  after = jnp.sum(heard, axis=1, dtype=jnp.int32)[:, None] + jnp.tile(jnp.arange(fed), o)
  owner = jnp.concatenate([jnp.full(slots, -1), jnp.repeat(jnp.arange(o), fed)])
  is_seen = (owner[None] == owner[:, None]) | (owner[None] == -1)
  heard_all = jnp.concatenate([heard, jnp.ones((batch, o * fed), bool)], axis=1)
  mask = jnp.tril(is_seen) & heard_all[:, None]
  positions = jnp.concatenate([mellow.positions(heard), after], axis=1)
  hidden, _ = model.decoder(x, positions, mask)
  first = mellow.last_heard(hidden, heard)
  first = jnp.broadcast_to(first[:, None, None], (batch, o, 1, hidden.shape[-1]))
  states = jnp.concatenate(
    [first, hidden[:, slots:].reshape(batch, o, fed, hidden.shape[-1])], axis=2
  )

  def likelihood(option: tuple[Array, Array, Array]) -> Float[Array, "B"]:
    states, tokens, lengths = option
    log_probs = _log_prob(model.decoder.logits(states), tokens)
    return jnp.sum(jnp.where(jnp.arange(r) < lengths[:, None], log_probs, 0), axis=1)

  # One option at a time: the logits of all of them would be the largest array by far.
  each = jax.lax.map(
    likelihood, (states.swapaxes(0, 1), options.swapaxes(0, 1), option_lengths.swapaxes(0, 1))
  )
  return jnp.where(option_lengths > 0, each.swapaxes(0, 1), -jnp.inf)
