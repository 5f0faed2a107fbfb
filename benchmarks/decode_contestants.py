"""The contestants of benchmarks/decode.py, and how they are timed; needs PyTorch."""

import math
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from mellow_jax.config import ModelConfig
from mellow_jax.convert import convert
from mellow_jax.inference import decode
from mellow_jax.models import mellow

END_NEVER = -1  # no token has this id: every run decodes all its tokens


def timed(run) -> tuple[float, object]:
  start = time.perf_counter()
  result = run()
  return time.perf_counter() - start, result


class Machine:
  """What all cores can do."""

  def __init__(self, cfg: ModelConfig):
    rng = np.random.default_rng(0)
    self._array = np.ones(2**28, np.float32)
    tensor, device_array = torch.from_numpy(self._array), jnp.asarray(self._array)
    read = jax.jit(jnp.max)
    self._reads = (tensor.max, lambda: read(device_array).block_until_ready())
    self._shape = (cfg.prefix_tokens, cfg.decoder.width, 2 * cfg.decoder.mlp)
    rows, inner, columns = self._shape
    a = rng.standard_normal((rows, inner), np.float32)
    b = rng.standard_normal((inner, columns), np.float32)
    multiply = jax.jit(jnp.matmul)
    torch_pair = torch.from_numpy(a), torch.from_numpy(b)
    jax_pair = jnp.asarray(a), jnp.asarray(b)
    self._products = (
      lambda: torch.matmul(*torch_pair),
      lambda: multiply(*jax_pair).block_until_ready(),
    )
    self.bandwidth()  # compiles
    self.arithmetic()

  def bandwidth(self) -> float:
    """Bytes a second of the better of two ways to read 1 GiB, the best of three."""
    return self._array.nbytes / min(timed(run)[0] for run in self._reads for _ in range(3))

  def arithmetic(self) -> float:
    """FLOP/s of the better of two ways to multiply, the best of ten."""
    return 2 * math.prod(self._shape) / min(timed(f)[0] for f in self._products for _ in range(10))


class Peer:
  """Hugging Face's Llama with our weights."""

  def __init__(self, cfg: ModelConfig, flat: dict[str, np.ndarray]):
    d = cfg.decoder
    config = transformers.LlamaConfig(
      vocab_size=d.vocab,
      hidden_size=d.width,
      intermediate_size=d.mlp,
      num_hidden_layers=d.layers,
      num_attention_heads=d.heads,
      num_key_value_heads=d.kv_heads,
      head_dim=d.head_size,
      rms_norm_eps=d.norm_eps,
      rope_parameters={"rope_type": "default", "rope_theta": d.rope_theta},
      max_position_embeddings=8192,
      tie_word_embeddings=True,
    )
    self.model = transformers.LlamaForCausalLM(config).eval()
    prefix = "caption_decoder.lm."
    weights = {
      key.removeprefix(prefix): torch.from_numpy(np.array(value))
      for key, value in convert.reverse(flat, cfg).items()
      if key.startswith(prefix)
    }
    self.model.load_state_dict(weights, strict=True)

  @torch.inference_mode()
  def cached(self, prefix: torch.Tensor, count: int) -> np.ndarray:
    """Greedy tokens, keys and values kept."""
    out = self.model(inputs_embeds=prefix, use_cache=True, logits_to_keep=1)
    tokens = [out.logits[:, -1].argmax(-1)]
    while len(tokens) < count:
      out = self.model(tokens[-1][:, None], past_key_values=out.past_key_values, logits_to_keep=1)
      tokens.append(out.logits[:, -1].argmax(-1))
    return torch.stack(tokens, 1).numpy()

  @torch.inference_mode()
  def uncached_token(self, sequence: torch.Tensor) -> np.ndarray:
    """One greedy token as the reference makes it: everything anew, every position's logits."""
    return self.model(inputs_embeds=sequence, use_cache=False).logits[:, -1].argmax(-1).numpy()

  @torch.inference_mode()
  def extend(self, prefix: torch.Tensor, tokens: np.ndarray) -> torch.Tensor:
    """The sequence after these tokens."""
    return torch.cat([prefix, self.model.get_input_embeddings()(torch.from_numpy(tokens))], 1)


def measure(cfg: ModelConfig, batch: int, count: int, rounds: int, machine: Machine) -> dict:
  """One row of the table."""
  params = mellow.init_params(cfg, 0)
  flat = {name: np.asarray(x) for name, x in mellow.flatten(params).items()}
  peer = Peer(cfg, flat)
  rng = np.random.default_rng(0)
  scale = cfg.decoder.width**-0.5
  prefix = (scale * rng.standard_normal((batch, cfg.prefix_tokens, cfg.decoder.width))).astype(
    np.float32
  )
  torch_prefix = torch.from_numpy(prefix)
  lengths = jnp.full(batch, cfg.text_tokens, jnp.int32)
  keys = jax.random.split(jax.random.key(0), batch)

  graphdef, fused = mellow.fuse(cfg, params)

  def compiled(tokens: int):
    def run(params, prefix):
      model = nnx.merge(graphdef, params)
      sampling = decode.Sampling(max_new_tokens=tokens)
      return decode.generate(model, prefix, lengths, keys, sampling).tokens[:, 0]

    seconds, program = timed(lambda: jax.jit(run).lower(fused, prefix).compile())
    return seconds, lambda: np.asarray(program(fused, prefix))

  compile_seconds, ours = compiled(count)
  _, ours_first = compiled(1)
  tokens = peer.cached(torch_prefix, count)
  ours_tokens = ours()
  agree = bool((tokens == ours_tokens).all())
  middle = [0, count // 2, count - 1]
  sequences = [peer.extend(torch_prefix, tokens[:, :n]) for n in middle]
  agree &= all(
    (peer.uncached_token(s) == tokens[:, n]).all() for s, n in zip(sequences, middle, strict=True)
  )
  ours_first()
  times = {name: [] for name in ("reference", "hugging face", "ours", "ours, first token")}
  speeds, rates = [], []
  for _ in range(rounds):
    speeds.append(machine.bandwidth())
    rates.append(machine.arithmetic())
    per_token = statistics.mean(timed(lambda s=s: peer.uncached_token(s))[0] for s in sequences)
    times["reference"].append(per_token * count)
    times["hugging face"].append(timed(lambda: peer.cached(torch_prefix, count))[0])
    times["ours"].append(timed(ours)[0])
    times["ours, first token"].append(timed(ours_first)[0])
  median = {name: statistics.median(values) for name, values in times.items()}
  rate = {name: batch * count / median[name] for name in ("reference", "hugging face", "ours")}
  loop = (median["ours"] - median["ours, first token"]) / (count - 1)
  speed, flops = statistics.median(speeds), statistics.median(rates)
  decoder = sum(x.size for name, x in flat.items() if name.startswith("decoder/"))
  d = cfg.decoder
  slots = cfg.prefix_tokens + count / 2
  read = 4 * decoder + 4 * batch * slots * 2 * d.layers * d.kv_heads * d.head_size
  # Of the layers' matrices alone: attention and norms come on top.
  layers = sum(x.size for name, x in flat.items() if name.startswith("decoder/blocks/"))
  prefill = 2 * layers * batch * cfg.prefix_tokens / flops
  least = prefill + (count - 1) * read / speed
  return {
    "batch": batch,
    "new tokens": count,
    "tokens agree": agree,
    "tokens/s, prefill included": rate,
    "times the reference": rate["ours"] / rate["reference"],
    "times hugging face": rate["ours"] / rate["hugging face"],
    "ms a token after the first": 1e3 * loop,
    "GB/s measured": speed / 1e9,
    "GB/s of each round": [x / 1e9 for x in speeds],
    "GFLOP/s measured": flops / 1e9,
    "seconds at both limits": least,
    "times the reference at both limits": median["reference"] / least,
    "share of the bandwidth limit": read / speed / loop,
    "compile seconds": compile_seconds,
    "seconds": times,
  }
