"""What decoders share: attention over a cache, recomputed layers, a tied head, a loss in pieces."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mellow_jax.config import GPT2Config, SmolLM2Config
from mellow_jax.models import attention, example_rng, lora

QUERIES = 128  # positions that attend at a time, in pieces
Layout = Literal["columns", "rows"]  # what lies side by side in a fused decoder's kernels


class LayerCache(NamedTuple):
  """Keys (already rotated) and values of one layer, for T slots; the first axis is rows x heads.

  The two are one axis, as the products want them: from an array of four axes XLA on CPU makes one
  of three for every token, a copy of the cache. Slots stand last where a product yields them.
  """

  k: Float[Array, "BK G T"]
  v: Float[Array, "BK T G"]

  def grow(self, slots: int) -> "LayerCache":
    """The same with so many slots more."""
    none, room = (0, 0), (0, slots)
    return LayerCache(jnp.pad(self.k, (none, none, room)), jnp.pad(self.v, (none, room, none)))

  def change(self, first: int, f: Callable[[Array], Array]) -> "LayerCache":
    """The same with f of what stands in the slots from `first` on."""
    k, v = f(self.k[..., first:]), f(self.v[:, first:])
    return LayerCache(self.k.at[..., first:].set(k), self.v.at[:, first:].set(v))


Cache = tuple[LayerCache, ...]


class Context(NamedTuple):
  """What a layer reads beside its input."""

  positions: PyTree  # what a decoder's layers need to know of them; None where they need nothing
  mask: Bool[Array, "b L T"]  # True where a position may attend to a slot
  keys: Key[Array, "B"] | None = None  # an example's, of dropout; None: there is none
  first: int = 0  # the first position that the layer is asked for; it reads those before, too
  only: Int[Array, "B"] | None = None  # the one position of each row that it is asked for instead
  # Positions of what several parts of the sequence share, and of each part; None: it is one.
  shared: tuple[int, int] | None = None
  method: str = "scores"  # how a sequence attends to itself, as Decoder.attention

  @property
  def asks_all(self) -> bool:
    """Whether the layer is asked for every position that it reads."""
    return self.first == 0 and self.only is None

  def part(self, number: int | Int[Array, ""]) -> "Context":
    """The same with keys of its own for a layer, or for a part of one."""
    return self if self.keys is None else self._replace(keys=example_rng.fold(self.keys, number))

  def asked(self, x: Array) -> Array:
    """Of an array by position, on its second axis, the positions that the layer is asked for."""
    if self.only is None:
      return x[:, self.first :]
    return jnp.take_along_axis(x, self.only.reshape(-1, *[1] * (x.ndim - 1)), axis=1)


def attend(
  q: Float[Array, "B l N G"],
  k: Float[Array, "B L K G"],
  v: Float[Array, "B L K G"],
  context: Context,
  cache: LayerCache | None,
  start: Int[Array, ""] | int,
  *,
  dropout: float = 0.0,
) -> tuple[Float[Array, "B l NG"], LayerCache]:
  """What the asked of L new positions gather from all slots; N / K query heads share a key head.

  With a cache, keys and values are written to its slots start to start + L first. dropout is the
  rate on the attention weights, where the context has keys.
  """
  (b, l, kv_heads, size), mask, queries = k.shape, context.asked(context.mask), q.shape[1]
  draws = dropout > 0 and context.keys is not None
  method = "scores" if cache is not None or draws else context.method
  if method in attention.KERNELS and queries == l and not context.shared:
    y = attention.KERNELS[method](q, k, v, mask).reshape(b, l, -1)
    return y, LayerCache(*_slots(k, v))
  k, v = _slots(k, v)
  if cache is not None:
    k = jax.lax.dynamic_update_slice(cache.k, k.astype(cache.k.dtype), (0, 0, start))
    v = jax.lax.dynamic_update_slice(cache.v, v.astype(cache.v.dtype), (0, start, 0))
  q = q.reshape(b, queries, kv_heads, -1, size).transpose(0, 2, 3, 1, 4)
  pieces = () if cache is not None or draws else _pieces(context, method, queries)
  if pieces:
    # A piece looks at no slots that none of it may attend to, so a third of the work falls away.
    # Its scores stay in the processor's cache, and are computed again for the gradient.
    def looks(x: Array, slots: Sequence[slice], axis: int) -> Array:
      parts = [jax.lax.slice_in_dim(x, of.start or 0, of.stop, axis=axis) for of in slots]
      return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=axis)

    y = jnp.concatenate(
      [
        _gather_again(
          q[..., n:m, :], looks(k, slots, 2), looks(v, slots, 1), looks(mask[:, n:m], slots, 2)
        )
        for n, m, slots in pieces
      ],
      axis=3,
    )
  else:
    y = _gather(q, k, v, mask, dropout, context.keys)
  return y.transpose(0, 3, 1, 2, 4).reshape(b, queries, -1), LayerCache(k, v)


def _pieces(context: Context, method: str, queries: int) -> list[tuple[int, int, list[slice]]]:
  """The pieces of a sequence that attend one after the other: first and end, and slots they see."""
  first = context.first
  if context.shared:
    common, own = context.shared
    of_parts = range(common - first, queries, own)
    parts = [(n, n + own, [slice(common), slice(first + n, first + n + own)]) for n in of_parts]
    return parts if first else [(0, common, [slice(common)]), *parts]
  if method == "scores" or queries <= QUERIES:
    return []
  count = -(-queries // QUERIES)
  ends = itertools.pairwise(queries * i // count for i in range(count + 1))
  return [(n, m, [slice(first + m)]) for n, m in ends]


def _slots(k: Float[Array, "B L K G"], v: Float[Array, "B L K G"]) -> tuple[Array, Array]:
  """Keys and values as a LayerCache has them."""
  b, l, kv_heads, size = k.shape
  k = k.transpose(0, 2, 3, 1).reshape(b * kv_heads, size, l)
  return k, v.swapaxes(1, 2).reshape(b * kv_heads, l, size)


def _gather(
  q: Float[Array, "B K H L G"],
  k: Float[Array, "BK G T"],
  v: Float[Array, "BK T G"],
  mask: Bool[Array, "b L T"],
  dropout: float = 0.0,
  keys: Key[Array, "B"] | None = None,
) -> Float[Array, "B K H L G"]:
  """What some positions gather from the values of the slots that the mask shows them."""
  # Heads come before positions on both sides of each product: in any other order XLA on CPU
  # copies the whole cache, transposed, for every token.
  shape = q.shape
  q = q.reshape(len(k), -1, shape[-1])
  scores = jnp.einsum("nqg,ngt->nqt", q, k, preferred_element_type=jnp.float32)
  scores = scores.reshape(*shape[:-1], k.shape[-1]) * shape[-1] ** -0.5
  scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
  weights = example_rng.dropout(jax.nn.softmax(scores, axis=-1), dropout, keys).astype(v.dtype)
  return jnp.einsum("nqt,ntg->nqg", weights.reshape(len(k), -1, k.shape[-1]), v).reshape(shape)


def after(dy: Array, x: Array) -> Array:
  """x, which cannot be had before dy: what a gradient computes again of it is not computed before.

  XLA on CPU ignores optimization barriers, on which jax.checkpoint relies: it computes things again
  at once, or finds that it has them already, and keeps them until they are wanted.
  """
  return x + (0 * dy.ravel()[0]).astype(x.dtype)  # NaN stays NaN, so XLA must not leave it out


@jax.custom_vjp
def _gather_again(
  q: Float[Array, "B K H L G"],
  k: Float[Array, "BK G T"],
  v: Float[Array, "BK T G"],
  mask: Bool[Array, "b L T"],
) -> Float[Array, "B K H L G"]:
  """As `_gather`; nothing of it but its inputs is kept for the gradient."""
  return _gather(q, k, v, mask)


def _gather_kept(*inputs: Array) -> tuple[Array, tuple[Array, ...]]:
  return _gather_again(*inputs), inputs


def _gather_gradient(inputs: tuple[Array, ...], dy: Array) -> tuple[Array | None, ...]:
  q, k, v, mask = inputs
  return *jax.vjp(functools.partial(_gather, mask=mask), after(dy, q), k, v)[1](dy), None


_gather_again.defvjp(_gather_kept, _gather_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def nll(
  hidden: Float[Array, "*B D"],
  embedding: Float[Array, "V D"],
  ids: Int[Array, "*B"],
  dtype: jnp.dtype,
  keeps: bool,
) -> Float[Array, "*B"]:
  """Negative log-likelihood of tokens, in nats, from hidden states and the tied head.

  For its gradient a sum of exponentials is kept for each token, and logits where `keeps` says so:
  else they are computed again. Products are of `dtype`, also those of the gradient: from the
  derivative of a product with a float32 result JAX makes products in float32.
  """
  return _nll_kept(hidden, embedding, ids, dtype, keeps)[0]


def tied_logits(hidden: Array, embedding: Array, dtype: jnp.dtype) -> Float[Array, "*B V"]:
  """Logits in float32 of the head that is the embedding itself."""
  table = embedding.astype(dtype)
  return jnp.einsum(
    "...d,vd->...v", hidden.astype(dtype), table, preferred_element_type=jnp.float32
  )


def _nll_kept(
  hidden: Array, embedding: Array, ids: Array, dtype: jnp.dtype, keeps: bool
) -> tuple[Array, tuple[Array | None, ...]]:
  logits = tied_logits(hidden, embedding, dtype)
  most, total = jax.lax.platform_dependent(logits, cpu=_exponentials, default=_exponentials_at_once)
  total = jnp.log(total)
  chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0] - most
  kept = (hidden, embedding, ids, total + most, logits if keeps else None)
  return total - chosen, kept


def _exponentials(logits: Float[Array, "*B V"]) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
  """The largest of some logits, and the sum of the exponentials of how much they are above it."""
  most = jnp.max(logits, axis=-1)
  return most, jnp.sum(jnp.exp(logits - most[..., None]), axis=-1)


def _exponentials_at_once(
  logits: Float[Array, "*B V"],
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
  """The same; the logits are read once, for more exponentials.

  Source: Milakov and Gimelshein 2018, Online normalizer calculation for softmax.
  """

  def join(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    (a_most, a_sum), (b_most, b_sum) = a, b
    most = jnp.maximum(a_most, b_most)
    return most, a_sum * jnp.exp(a_most - most) + b_sum * jnp.exp(b_most - most)

  # The least number, and not -inf, which less itself is no number.
  none = (jnp.finfo(logits.dtype).min, jnp.zeros((), logits.dtype))
  return jax.lax.reduce((logits, jnp.ones_like(logits)), none, join, (logits.ndim - 1,))


def _nll_gradient(
  dtype: jnp.dtype, keeps: bool, kept: tuple[Array | None, ...], dy: Array
) -> tuple[Array | None, ...]:
  hidden, embedding, ids, total, logits = kept
  if logits is None:
    logits = tied_logits(after(dy, hidden), embedding, dtype)
  is_chosen = jnp.arange(logits.shape[-1]) == ids[..., None]
  change = dy[..., None] * (jnp.exp(logits - total[..., None]) - is_chosen)
  change, table, wide = change.astype(dtype), embedding.astype(dtype), jnp.float32
  by_hidden = jnp.einsum("...v,vd->...d", change, table, preferred_element_type=wide)
  by_table = jnp.einsum("...v,...d->vd", change, hidden.astype(dtype), preferred_element_type=wide)
  return by_hidden.astype(hidden.dtype), by_table.astype(embedding.dtype), None


nll.defvjp(_nll_kept, _nll_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _apart(y: Float[Array, "*B m"], ends: tuple[int, ...]) -> list[Array]:
  """As jnp.split along the last axis; its gradient is one array, not a sum of padded ones."""
  return jnp.split(y, ends, axis=-1)


def _apart_kept(y: Array, ends: tuple[int, ...]) -> tuple[list[Array], None]:
  return _apart(y, ends), None


def _apart_gradient(ends: tuple[int, ...], kept: None, dy: list[Array]) -> tuple[Array]:
  return (jnp.concatenate(dy, axis=-1),)


_apart.defvjp(_apart_kept, _apart_gradient)


def together(x: Float[Array, "*B n"], *layers: nnx.Module) -> list[Array]:
  """What each of several linear layers makes of one input.

  Plain ones without a bias are one product with their kernels side by side. It reads the input
  once, and the gradient of the input is one product, too, where it would be a sum of several.
  """
  if not all(type(layer) is nnx.Linear and layer.bias is None for layer in layers):
    return [layer(x) for layer in layers]
  kernels = [layer.kernel[...].astype(layer.dtype) for layer in layers]
  *ends, _ = itertools.accumulate(kernel.shape[1] for kernel in kernels)
  return _apart(x.astype(layers[0].dtype) @ jnp.concatenate(kernels, axis=1), tuple(ends))


class RowLinear(nnx.Module):
  """A linear layer whose kernel has the weights of an output side by side.

  A product with one row XLA on GPU takes apart into products and sums. Along such a kernel they are
  one operation; along one of nnx.Linear the products are written to memory and read again. In a
  product with a few rows XLA on CPU reads such a kernel as it lies; one of nnx.Linear it copies
  first, in pieces, to bring the same weights together.
  """

  def __init__(self, n_in: int, n_out: int, dtype: jnp.dtype, *, use_bias: bool):
    self.dtype, self.kernel = dtype, nnx.Param(jnp.zeros((n_out, n_in), dtype))
    self.bias = nnx.Param(jnp.zeros(n_out)) if use_bias else None

  def __call__(self, x: Float[Array, "*B n"]) -> Float[Array, "*B m"]:
    y = jnp.einsum("...n,mn->...m", x.astype(self.dtype), self.kernel[...].astype(self.dtype))
    return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class Decoder(nnx.Module):
  """A language model over embeddings, with an explicit key/value cache.

  A subclass makes `embed`, `blocks`, `norm` and, fused by columns, `head`; and it says in `begin`
  how an input learns its position. Fused, it computes the same from the parameters that its `fuse`
  makes: fewer and longer products, for decoding one token at a time.
  """

  cfg: SmolLM2Config | GPT2Config
  dtype: jnp.dtype
  fused: Layout | None
  dropout: float = 0.0  # rate, while training
  logits_bytes: int = 2**26  # of the logits that training holds at a time, a few times over
  # How a sequence attends to itself: "scores" has all scores at once; "pieces" those of some
  # positions at a time; the others are KERNELS of attention.py, where nothing is drawn.
  attention: str = "scores"

  def begin(
    self, x: Float[Array, "B L D"], positions: Int[Array, "B L"], context: Context
  ) -> tuple[Float[Array, "B L D"], Context]:
    """What the first layer reads: embeddings at their positions, and the context of all layers."""
    raise NotImplementedError

  def _begin(
    self, x: Array, positions: Array, mask: Array, keys: Array | None
  ) -> tuple[Float[Array, "B L D"], Context]:
    context = Context(None, mask, keys, method=self.attention)
    return self.begin(x.astype(self.dtype), positions, context)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    positions: Int[Array, "B L"],
    mask: Bool[Array, "b L T"],
    cache: Cache | None = None,
    start: Int[Array, ""] | int = 0,
    keys: Key[Array, "B"] | None = None,
    only: Int[Array, "B"] | None = None,
  ) -> tuple[Float[Array, "B l D"], Cache]:
    """Embeddings to normalised hidden states, and the keys and values of every layer.

    mask is True where a position may attend to a slot. With a cache, the L new positions are
    written to its slots start to start + L and attention runs over all T slots; without one, the
    slots are the L positions themselves, and the mask shows none of them a later one. With keys,
    one an example, dropout is as the config says. With only, the last layer computes that position
    of each row and no other (l = 1); else all of them.
    """
    x, context = self._begin(x, positions, mask, keys)
    layers = []
    for i, block in enumerate(self.blocks):
      if i == len(self.blocks) - 1:
        context = context._replace(only=only)
      x, layer = block(x, context.part(i), None if cache is None else cache[i], start)
      layers.append(layer)
    return self.norm(x), tuple(layers)

  def states(
    self,
    x: Float[Array, "B L D"],
    positions: Int[Array, "B L"],
    mask: Bool[Array, "b L T"],
    keys: Key[Array, "B"] | None = None,
    first: int = 0,
    shared: tuple[int, int] | None = None,
  ) -> Float[Array, "B l D"]:
    """The hidden states alone, from position `first` on, for training; see `remat` in the config.

    shared says how many positions stand once for all, and how many each of several parts has after
    them; first is then 0 or the first of the parts.

    Of the last layer no others are computed, unless something random there would be drawn anew.
    With remat, layers of one structure run in a loop over their stacked parameters. XLA on CPU
    would see through a recomputation that is written out layer by layer, and keep everything after
    all.
    """
    x, context = self._begin(x, positions, mask, keys)
    context = context._replace(shared=shared)
    *blocks, last = self.blocks
    x = (self._recomputed if self.cfg.remat else self._kept)(blocks, x, context)
    is_random = keys is not None and (self.dropout > 0 or lora.has_dropout(last))
    context = context.part(len(blocks))._replace(first=0 if is_random else first)

    def run(x: Float[Array, "B L D"]) -> Float[Array, "B l D"]:
      return last(x, context)[0]

    x = (jax.checkpoint(run) if self.cfg.remat else run)(x)
    return self.norm(x[:, first - context.first :])

  def _kept(self, blocks: Sequence, x: Float[Array, "B L D"], context: Context) -> Array:
    """The output of some layers, what they compute kept for the gradient."""
    for i, block in enumerate(blocks):
      x, _ = block(x, context.part(i))
    return x

  def _recomputed(self, blocks: Sequence, x: Float[Array, "B L D"], context: Context) -> Array:
    """The output of some layers, recomputed for the gradient."""
    parts = [(i, *nnx.split(block)) for i, block in enumerate(blocks)]
    for graphdef, alike in itertools.groupby(parts, key=lambda part: part[1]):
      numbers, _, states = zip(*alike, strict=True)
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

      @jax.checkpoint
      def layer(x, numbered, graphdef=graphdef):
        number, state = numbered
        return nnx.merge(graphdef, state)(x, context.part(number))[0], None

      x, _ = jax.lax.scan(layer, x, (jnp.asarray(numbers), stacked))
    return x

  def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Next-token logits in float32; the output head is the embedding itself."""
    if self.fused == "columns":
      hidden, kernel = hidden.astype(self.dtype), self.head.kernel[...]
      return jnp.einsum("...d,dv->...v", hidden, kernel, preferred_element_type=jnp.float32)
    return tied_logits(hidden, self.embed.embedding[...], self.dtype)

  def nll(self, hidden: Float[Array, "B R D"], ids: Int[Array, "B R"]) -> Float[Array, "B R"]:
    """Negative log-likelihood of each token, in nats.

    Where the logits of all positions would be the largest array of training, they are computed some
    positions at a time, and again for the gradient.
    """

    def piece(hidden: Float[Array, "B r D"], ids: Int[Array, "B r"], is_only: bool) -> Array:
      if self.fused:
        return optax.softmax_cross_entropy_with_integer_labels(self.logits(hidden), ids)
      return nll(hidden, self.embed.embedding[...], ids, self.dtype, is_only)

    return self._in_pieces(piece, hidden, ids)

  def is_first_choice(
    self, hidden: Float[Array, "B R D"], ids: Int[Array, "B R"]
  ) -> Bool[Array, "B R"]:
    """Whether greedy decoding would choose each token after those before it."""

    def piece(hidden: Float[Array, "B r D"], ids: Int[Array, "B r"], is_only: bool) -> Array:
      return self.logits(hidden).argmax(axis=-1) == ids

    return self._in_pieces(piece, hidden, ids)

  def _in_pieces(
    self, piece: Callable[[Array, Array, bool], Array], hidden: Array, ids: Int[Array, "B R"]
  ) -> Array:
    """What `piece` makes of each position from its logits, some positions at a time if many.

    It is told whether it is the only one.
    """
    b, r = ids.shape
    pieces = min(-(-4 * b * r * self.cfg.vocab // self.logits_bytes), r)
    if pieces == 1:
      return piece(hidden, ids, True)
    rest = -r % pieces
    hidden, ids = jnp.pad(hidden, ((0, 0), (0, rest), (0, 0))), jnp.pad(ids, ((0, 0), (0, rest)))
    split = jax.tree.map(
      lambda x: x.reshape(b, pieces, -1, *x.shape[2:]).swapaxes(0, 1), (hidden, ids)
    )
    found = jax.lax.map(lambda x: piece(*x, False), split)
    return found.swapaxes(0, 1).reshape(b, -1)[:, :r]
