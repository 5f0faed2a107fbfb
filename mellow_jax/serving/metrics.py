"""Prometheus metrics, in vLLM's vocabulary."""

import time
from collections.abc import Callable

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from mellow_jax.inference.engine import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ServerMetrics:
  """What has been asked and answered since the start."""

  def __init__(self):
    self.registry = prometheus.CollectorRegistry()

    def histogram(name: str, text: str) -> prometheus.Histogram:
      return prometheus.Histogram(f"mellow:{name}", text, buckets=SECONDS, registry=self.registry)

    def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> prometheus.Counter:
      return prometheus.Counter(f"mellow:{name}", text, labels, registry=self.registry)

    self.first_token = histogram("time_to_first_token_seconds", "From a body to its first token.")
    self.between = histogram("inter_token_latency_seconds", "Between two tokens of an answer.")
    self.latency = histogram("e2e_request_latency_seconds", "From a body to its whole answer.")
    self.prompt_tokens = counter("prompt_tokens", "Positions of prompts.")
    self.generation_tokens = counter("generation_tokens", "Tokens of answers.")
    self.audio_seconds = counter("audio_seconds", "Seconds of audio that the model was given.")
    self.success = counter("request_success", "Answers, by why they ended.", ("finished_reason",))
    self.refused = counter("request_refused", "Refusals, by status.", ("status",))

  def watch(self, engine: Engine) -> None:
    """Adds what the engine counts itself."""
    self.registry.register(_EngineCollector(engine))

  def text(self) -> bytes:
    """The exposition, as /metrics gives it."""
    return prometheus.generate_latest(self.registry)


class _EngineCollector:
  def __init__(self, engine: Engine):
    self._engine = engine

  def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
    engine = self._engine
    gauges = {
      "num_requests_running": ("Requests that are decoded now.", engine.running),
      "num_requests_waiting": ("Requests in the queue.", engine.waiting),
      "compile_seconds": ("Seconds of compiling at the start.", engine.compile_seconds),
      "cache_bytes": ("Bytes kept of clips.", engine.clips.bytes + engine.pairs.bytes),
    }
    counters = {
      "prefix_cache_queries": ("Pairs of clips that were asked about.", engine.pairs.queries),
      "prefix_cache_hits": ("Of them, read before.", engine.pairs.hits),
    }
    return [
      *(GaugeMetricFamily(f"mellow:{name}", *found) for name, found in gauges.items()),
      *(CounterMetricFamily(f"mellow:{name}", *found) for name, found in counters.items()),
    ]


class Clock:
  """Times of one request; time is a clock of seconds."""

  def __init__(self, metrics: ServerMetrics, now: Callable[[], float] = time.monotonic):
    self._metrics, self._now = metrics, now
    self._start, self._last = now(), None

  def token(self) -> None:
    """Counts a token."""
    now = self._now()
    if self._last is None:
      self._metrics.first_token.observe(now - self._start)
    else:
      self._metrics.between.observe(now - self._last)
    self._last = now
    self._metrics.generation_tokens.inc()

  def end(self, reason: str) -> None:
    """Counts an answer."""
    self._metrics.latency.observe(self._now() - self._start)
    self._metrics.success.labels(reason).inc()
