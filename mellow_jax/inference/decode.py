"""Decoding, token by token: prefill, key/value cache, greedy, sampled and beam decoding, scoring.

Pure functions of a model and arrays, to be jitted by the caller. `prefill` reads a batch of
prefixes, `step` one more token of each row; everything else is made of the two:

  generate   whole answers, in one computation with one loop
  streaming  `begin`, then `step` and `append` as often as tokens are wanted
  serving    a table of rows that advance together; `insert` puts a new request into a free row

The prefix of P positions is computed once a question, however many answers it gets. Generated
tokens stand in the R cache positions after it; their rotary positions follow on the last attended
position of the prefix, so the padding of a masked question leaves no gap:

  cache      [ audio 1 | sep | audio 2 | sep | question | padding ] [ answer ]
  attended     yes       yes   yes       yes   yes        cfg.mask_padding?  up to the current token

A row that has ended goes through the remaining steps with the others, since a batch shares its
matrix products, but its answer changes no more.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mellow_jax.errors import QuestionError
from mellow_jax.models import mellow
from mellow_jax.models.decoder import Cache
from mellow_jax.models.mellow import MellowModel


@dataclass(frozen=True, kw_only=True)
class Sampling:
  """How tokens are chosen. Greedy by default, as the reference decodes whatever it is told.

  Raises QuestionError for values out of range or that do not go together.
  """

  max_new_tokens: int = 300  # release
  temperature: float = 0.0  # 0: the most probable token each time
  top_k: int = 0  # sample from the k most probable tokens; 0: from all
  top_p: float = 1.0  # sample from the fewest tokens that hold this share of the probability
  samples: int = 1  # answers a question
  beams: int = 1  # above 1: search for the most probable answer as a whole

  def __post_init__(self):
    def require(holds: bool, message: str) -> None:
      if not holds:
        raise QuestionError(message)

    require(self.max_new_tokens >= 1, f"max_new_tokens {self.max_new_tokens} must be at least 1")
    require(
      0 <= self.temperature < math.inf, f"temperature {self.temperature} must be 0 or more, finite"
    )
    require(self.top_k >= 0, f"top_k {self.top_k} must be 0 (off) or more")
    require(0 < self.top_p <= 1, f"top_p {self.top_p} must be above 0 and at most 1 (off)")
    require(self.samples >= 1, f"samples {self.samples} must be at least 1")
    require(self.beams >= 1, f"beams {self.beams} must be at least 1")
    if self.beams > 1:
      require(self.temperature == 0, "beams search, temperature samples: choose one")
      require(
        self.samples <= self.beams, f"{self.samples} samples are more than {self.beams} beams hold"
      )
    elif self.temperature == 0:
      require(self.samples == 1, "greedy samples are all the same: set temperature above 0")
    if self.temperature == 0:
      require(self.top_k == 0 and self.top_p == 1, "top_k and top_p need a temperature above 0")


class Generation(NamedTuple):
  """n answers to each question, from beams the most probable first."""

  tokens: Int[Array, "B n R"]  # padded with the end token
  lengths: Int[Array, "B n"]  # tokens before the end token
  log_probs: Float[Array, "B n"]  # natural, end token included, at temperature 1
  steps: Int[Array, ""]  # tokens decoded before the loop stopped


def keep_top_k(logits: Float[Array, "*B V"], k: int) -> Float[Array, "*B V"]:
  """Leaves the k largest logits, and those equal to the last of them; the others become -inf."""
  if not 0 < k < logits.shape[-1]:
    return logits
  least = jax.lax.top_k(logits, k)[0][..., -1:]
  return jnp.where(logits >= least, logits, -jnp.inf)


def keep_top_p(
  logits: Float[Array, "*B V"], p: float | Float[Array, "*B 1"]
) -> Float[Array, "*B V"]:
  """Leaves the fewest most probable tokens whose probabilities sum to p or more.

  Tokens as probable as the last of them stay, too. Sorting 49,152 tokens takes longer than a layer
  of the decoder; instead, the least probability that is kept is found bit by bit: floats above 0
  are in the order of their bits read as integers.

  Source: Holtzman et al. 2020, nucleus sampling.
  """
  if isinstance(p, float | int) and p >= 1:
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


class RowSampling(NamedTuple):
  """How the tokens of each row are chosen, where requests differ; as in `Sampling`."""

  temperature: Float[Array, "rows"]
  top_p: Float[Array, "rows"]


def choose(
  logits: Float[Array, "B V"], keys: Key[Array, "B"], sampling: Sampling | RowSampling
) -> Int[Array, "B"]:
  """The next token of each row; filters see the logits after the temperature, top-k first."""
  if isinstance(sampling, RowSampling):
    is_greedy = (sampling.temperature == 0)[:, None]

    def sample() -> Int[Array, "B"]:
      scaled = logits / jnp.where(is_greedy, 1, sampling.temperature[:, None])
      kept = keep_top_p(scaled, sampling.top_p[:, None])
      drawn = jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)
      return jnp.where(is_greedy[:, 0], choose(logits, keys, Sampling()), drawn)

    # While all rows are greedy, none waits for the filter.
    return jax.lax.cond(jnp.all(is_greedy), lambda: choose(logits, keys, Sampling()), sample)
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


# --- Prefill and step ----------------------------------------------------------------------------


class DecodeState(NamedTuple):
  """What the decoder has read of each row: a plain pytree, whose arrays begin with the rows.

  The R cache positions for generated tokens are a ring. A step writes the keys and values of all
  rows at one of them, as one slice; a row attends to those written since its own prefill, at most
  R steps ago. So rows that began at different times share a table, each at its own position.
  """

  cache: Cache  # P + R positions
  attention_mask: Bool[Array, "rows P"]
  generated: Int[Array, "rows"]  # tokens read since the prefill
  column: Int[Array, ""]  # of the ring, where the next step writes


def prefill(
  model: MellowModel,
  prefix: Float[Array, "B P D"],
  text_lengths: Int[Array, "B"],
  max_new_tokens: int,
  copies: int = 1,
  audio: Cache | None = None,
) -> tuple[Float[Array, "rows V"], DecodeState]:
  """Reads prefixes: the logits of the first token, and the state for max_new_tokens of them.

  There are B x copies rows, those of one question side by side. With audio, the cache of
  `MellowModel.read_audio`, prefix holds the question alone. Raises ConfigError where the decoder
  has too few positions.
  """
  model.cfg.check_length(max_new_tokens)
  batch = len(prefix)
  hidden, cache = model.prefill(prefix, text_lengths, audio)
  if copies > 1:  # of several devices, each would be sent the caches of all for it
    chosen = jnp.repeat(jnp.arange(batch), copies)
    cache = jax.tree.map(lambda x: _take(x, batch, chosen), cache)
  state = DecodeState(
    # The last token is never read, so it needs no room.
    cache=tuple(layer.grow(max_new_tokens - 1) for layer in cache),
    attention_mask=jnp.repeat(model.attention_mask(text_lengths), copies, axis=0),
    generated=jnp.zeros(batch * copies, jnp.int32),
    column=jnp.int32(0),
  )
  return jnp.repeat(model.decoder.logits(hidden), copies, axis=0), state


def step(
  model: MellowModel, tokens: Int[Array, "rows"], state: DecodeState
) -> tuple[Float[Array, "rows V"], DecodeState]:
  """Reads one token of each row: the logits of the next one, and the new state.

  For a row that has ended or is free, any token does: its logits mean nothing.
  """
  cache, attention_mask, generated, column = state
  prefix_positions = attention_mask.shape[1]
  ring = cache[0].v.shape[1] - prefix_positions
  steps_ago = column - jnp.arange(ring)
  steps_ago = jnp.where(steps_ago < 0, steps_ago + ring, steps_ago)
  mask = jnp.concatenate([attention_mask, steps_ago <= generated[:, None]], axis=1)
  positions = jnp.sum(attention_mask, axis=1, dtype=jnp.int32) + generated
  hidden, cache = model.decoder(
    model.decoder.embed(tokens[:, None]),
    positions[:, None],
    mask[:, None],
    cache,
    prefix_positions + column,
  )
  state = DecodeState(
    cache=cache,
    attention_mask=attention_mask,
    generated=jnp.minimum(generated + 1, ring),
    column=jnp.where(column + 1 < ring, column + 1, 0),
  )
  return model.decoder.logits(hidden[:, 0]), state


def insert(table: PyTree, row: Int[Array, ""], new: PyTree) -> PyTree:
  """Writes a request that `prefill` has just read over one row of a table.

  table and new are a DecodeState, a SampleState or a tuple of them; new has one row, and needs no
  room for generated tokens (max_new_tokens 1). The other rows stay as they are, at any position.
  """

  def write(whole: Array, part: Array) -> Array:
    if whole.ndim == 0:  # the ring belongs to the table
      return whole
    start = (row * len(part), *[0] * (part.ndim - 1))
    return jax.lax.dynamic_update_slice(whole, part, start)

  return jax.tree.map(write, table, new)


def _take(x: Float[Array, "BK ..."], rows: int, chosen: Int[Array, "n"]) -> Float[Array, "NK ..."]:
  """Keys or values of the chosen ones of a number of rows."""
  return x.reshape(rows, -1, *x.shape[1:])[chosen].reshape(-1, *x.shape[1:])


# --- Greedy and sampled --------------------------------------------------------------------------


class SampleState(NamedTuple):
  """The answer of each row so far; its last token is chosen and not yet read."""

  token: Int[Array, "rows"]  # the end token, once it has ended
  lengths: Int[Array, "rows"]  # tokens before the end token
  log_probs: Float[Array, "rows"]  # natural, summed, at temperature 1
  has_ended: Bool[Array, "rows"]
  keys: Key[Array, "rows"]


def append(
  state: SampleState,
  logits: Float[Array, "rows V"],
  sampling: Sampling | RowSampling,
  end_id: int,
) -> SampleState:
  """Chooses the next token of each row that has not ended."""
  token = choose(logits, jax.vmap(jax.random.fold_in)(state.keys, state.lengths), sampling)
  token = jnp.where(state.has_ended, end_id, token)
  log_prob = jnp.where(state.has_ended, 0, _log_prob(logits, token))
  has_ended = state.has_ended | (token == end_id)
  return SampleState(
    token=token,
    lengths=state.lengths + ~has_ended,
    log_probs=state.log_probs + log_prob,
    has_ended=has_ended,
    keys=state.keys,
  )


def begin(
  model: MellowModel,
  prefix: Float[Array, "B P D"],
  text_lengths: Int[Array, "B"],
  keys: Key[Array, "B"],
  sampling: Sampling,
) -> tuple[SampleState, DecodeState]:
  """Reads prefixes and chooses the first token of each of sampling.samples answers."""
  n = sampling.samples
  logits, state = prefill(model, prefix, text_lengths, sampling.max_new_tokens, n)
  keys = jax.vmap(lambda key: jax.random.split(key, n))(keys).reshape(len(logits))
  return append(no_answer(keys), logits, sampling, model.cfg.end_id), state


def no_answer(keys: Key[Array, "rows"]) -> SampleState:
  """The state of rows before their first token."""
  rows = len(keys)
  return SampleState(
    token=jnp.zeros(rows, jnp.int32),
    lengths=jnp.zeros(rows, jnp.int32),
    log_probs=jnp.zeros(rows, jnp.float32),
    has_ended=jnp.zeros(rows, bool),
    keys=keys,
  )


def generate(
  model: MellowModel,
  prefix: Float[Array, "B P D"],
  text_lengths: Int[Array, "B"],
  keys: Key[Array, "B"],
  sampling: Sampling,
) -> Generation:
  """Answers to a batch of questions; the loop stops as soon as every answer has ended.

  Each question has its own key, so its samples do not depend on the rest of the batch.
  """
  if sampling.beams > 1:
    return _beam_search(model, prefix, text_lengths, sampling)
  most, end_id = sampling.max_new_tokens, model.cfg.end_id
  # i is the index of the last token, which is chosen and not yet read.
  Loop = tuple[Int[Array, ""], Int[Array, "rows R"], SampleState, DecodeState]

  def goes_on(loop: Loop) -> Bool[Array, ""]:
    i, _, sampled, _ = loop
    return (i < most - 1) & ~jnp.all(sampled.has_ended)

  def advance(loop: Loop) -> Loop:
    i, tokens, sampled, state = loop
    logits, state = step(model, sampled.token, state)
    sampled = append(sampled, logits, sampling, end_id)
    return i + 1, tokens.at[:, i + 1].set(sampled.token), sampled, state

  sampled, state = begin(model, prefix, text_lengths, keys, sampling)
  tokens = jnp.full((len(sampled.token), most), end_id, jnp.int32).at[:, 0].set(sampled.token)
  i, tokens, sampled, _ = jax.lax.while_loop(
    goes_on, advance, (jnp.int32(0), tokens, sampled, state)
  )
  answers = (tokens, sampled.lengths, sampled.log_probs)
  shape = (len(prefix), sampling.samples)
  return Generation(*(x.reshape(*shape, *x.shape[1:]) for x in answers), steps=i + 1)


# --- Beam search ---------------------------------------------------------------------------------


class _Beams(NamedTuple):
  """Answers of one kind, most probable first: growing or ended."""

  tokens: Int[Array, "B n R"]
  lengths: Int[Array, "B n"]
  log_probs: Float[Array, "B n"]  # -inf: no answer

  def best(self, n: int) -> tuple["_Beams", Int[Array, "B n"]]:
    """The n most probable, and their indices."""
    log_probs, chosen = jax.lax.top_k(self.log_probs, n)
    tokens = jnp.take_along_axis(self.tokens, chosen[..., None], axis=1)
    return _Beams(tokens, jnp.take_along_axis(self.lengths, chosen, axis=1), log_probs), chosen

  def join(self, other: "_Beams") -> "_Beams":
    return _Beams(*(jnp.concatenate(pair, axis=1) for pair in zip(self, other, strict=True)))


def _extend(
  i: Int[Array, ""], growing: _Beams, ended: _Beams, logits: Float[Array, "B n V"], end_id: int
) -> tuple[_Beams, _Beams, Int[Array, "B n"]]:
  """Adds token i to the growing answers; also the beam that each new one came from."""
  batch, n, vocab = logits.shape
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


def _beam_search(
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
  # i is the index of the growing answers' last token, which is chosen and not yet read.
  Loop = tuple[Int[Array, ""], _Beams, _Beams, DecodeState]

  def goes_on(loop: Loop) -> Bool[Array, ""]:
    i, growing, ended, _ = loop
    hopeful = growing.log_probs[:, 0] > ended.log_probs[:, sampling.samples - 1]
    return (i < most - 1) & jnp.any(hopeful)

  def advance(loop: Loop) -> Loop:
    i, growing, ended, state = loop
    logits, state = step(model, growing.tokens[:, :, i].reshape(-1), state)
    logits = logits.reshape(batch, n, -1)
    growing, ended, parents = _extend(i + 1, growing, ended, logits, end_id)
    rows = (parents + jnp.arange(batch)[:, None] * n).reshape(-1)
    # The beams of a question share its prefix: only what they generated changes places.
    first = model.cfg.prefix_tokens
    cache = (layer.change(first, lambda x: _take(x, len(rows), rows)) for layer in state.cache)
    return i + 1, growing, ended, state._replace(cache=tuple(cache))

  logits, state = prefill(model, prefix, text_lengths, most, n)
  none = _Beams(
    tokens=jnp.full((batch, n, most), end_id, jnp.int32),
    lengths=jnp.zeros((batch, n), jnp.int32),
    log_probs=jnp.full((batch, n), -jnp.inf),
  )
  empty = none._replace(log_probs=none.log_probs.at[:, 0].set(0))
  growing, ended, _ = _extend(jnp.int32(0), empty, none, logits.reshape(batch, n, -1), end_id)
  loop = jax.lax.while_loop(goes_on, advance, (jnp.int32(0), growing, ended, state))
  i, growing, ended, _ = loop
  # At max_new_tokens an answer is cut off where it stands.
  answers, _ = ended.join(growing).best(sampling.samples)
  return Generation(*answers, steps=i + 1)


# --- Scoring -------------------------------------------------------------------------------------


def score(
  model: MellowModel,
  prefix: Float[Array, "B P D"],
  text_lengths: Int[Array, "B"],
  options: Int[Array, "B O R"],
  option_lengths: Int[Array, "B O"],
  audio: Cache | None = None,
) -> Float[Array, "B O"]:
  """Natural log-likelihood of each of a question's given answers, summed over its tokens.

  An end token counts where the options hold one. Divide by option_lengths for the mean a token. An
  option of no tokens, which fills up a question with fewer options, scores -inf. With audio, as in
  `prefill`, prefix holds the question alone. Raises ConfigError where the decoder has too few
  positions.

  The options stand side by side after one prefix, and none sees another:

              prefix     option 1   option 2
    prefix    causal     -          -
    option 1  attended   causal     -
    option 2  attended   -          causal
  """
  batch, o, r = options.shape
  model.cfg.check_length(r)
  prefix_positions, read = model.cfg.prefix_tokens, r - 1  # the last token is only predicted
  prefix_mask = model.attention_mask(text_lengths)
  embedded = model.decoder.embed(options[:, :, :-1].reshape(batch, o * read))
  owner = jnp.concatenate([jnp.full(prefix_positions, -1), jnp.repeat(jnp.arange(o), read)])
  is_visible = (owner[None] == owner[:, None]) | (owner[None] == -1)
  mask = jnp.concatenate([prefix_mask, jnp.ones((batch, o * read), bool)], axis=1)
  after = jnp.sum(prefix_mask, axis=1, dtype=jnp.int32)[:, None] + jnp.tile(jnp.arange(read), o)
  x = jnp.concatenate([prefix, embedded], axis=1)
  start = prefix_positions - prefix.shape[1]
  if audio is not None:
    audio = tuple(layer.grow(x.shape[1]) for layer in audio)
  hidden, _ = model.decoder(
    x,
    jnp.concatenate([mellow.positions(prefix_mask), after], axis=1)[:, start:],
    (is_visible & mellow.causal(mask))[:, start:],
    audio,
    start,
  )
  width = hidden.shape[-1]
  first = jnp.broadcast_to(
    mellow.last_state(hidden, prefix_mask[:, start:])[:, None, None], (batch, o, 1, width)
  )
  rest = hidden[:, prefix.shape[1] :].reshape(batch, o, read, width)
  states = jnp.concatenate([first, rest], axis=2)

  def log_likelihood(option: tuple[Array, Array, Array]) -> Float[Array, "B"]:
    states, tokens, lengths = option
    log_probs = _log_prob(model.decoder.logits(states), tokens)
    return jnp.sum(jnp.where(jnp.arange(r) < lengths[:, None], log_probs, 0), axis=1)

  # One option at a time: the logits of all of them would be the largest array by far.
  by_option = (x.swapaxes(0, 1) for x in (states, options, option_lengths))
  found = jax.lax.map(log_likelihood, tuple(by_option)).swapaxes(0, 1)
  return jnp.where(option_lengths > 0, found, -jnp.inf)
