"""Limits that act while a request is read: nothing is decoded past one, and no URL is fetched."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pybase64
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from mellow_jax.data import audio
from mellow_jax.errors import AudioError, RequestError

CONVERT = "convert it first: ffmpeg -i clip.m4a clip.wav"


@dataclass(frozen=True, kw_only=True)
class Limits:
  """What a request may ask for."""

  body_bytes: int = 16 * 2**20
  bodies_bytes: int = 48 * 2**20  # of all requests that are being read or decoded
  body_seconds: float = 20.0  # until the whole body is there
  request_seconds: float = 60.0  # until the answer is complete
  audio_seconds: float = 30.0
  audio_samples: int = 6_000_000  # in all channels: 30 s of stereo at 96 kHz
  rates: tuple[int, int] = (4_000, 192_000)  # Hz
  channels: int = 8
  questions: int = 64  # of one decision


class Bodies:
  """Reads bodies of requests, as many at once as fit into the memory for them."""

  def __init__(self, limits: Limits):
    self._limits, self._used = limits, 0

  @contextlib.asynccontextmanager
  async def read(self, request: HttpRequest) -> AsyncIterator[bytes]:
    """The body, whose memory counts until the context ends. Raises RequestError."""
    limits, taken = self._limits, 0
    claimed = request.headers.get("content-length", "")
    if claimed.isdecimal() and int(claimed) > limits.body_bytes:
      raise _too_large(limits)
    parts: list[bytes] = []
    try:
      async with asyncio.timeout(limits.body_seconds):
        async for part in request.stream():
          taken += len(part)
          self._used += len(part)
          if taken > limits.body_bytes:
            raise _too_large(limits)
          if self._used > limits.bodies_bytes:
            raise RequestError(429, "too many large requests at once: try again in a second")
          parts.append(part)
      body = b"".join(parts)
      parts.clear()
      yield body
    except ClientDisconnect:  # nobody reads the answer; counted as where a client goes later
      raise RequestError(499, "the client is gone") from None
    except TimeoutError:
      raise RequestError(
        408, f"the body was not complete after {limits.body_seconds:g} s: send it faster"
      ) from None
    finally:
      self._used -= taken


def _too_large(limits: Limits) -> RequestError:
  return RequestError(
    413, f"the body is larger than {limits.body_bytes / 2**20:g} MiB: cut the clip"
  )


def read_json(body: bytes) -> Any:
  """The value of a JSON body. Raises RequestError for what is none, or nested too deeply."""
  try:
    return orjson.loads(body)
  except ValueError as error:
    raise RequestError(400, f"the body is no JSON ({error}): send a JSON object") from None


def decode_base64(text: Any, name: str, limits: Limits) -> bytes:
  """The bytes of base64 text, with or without "data:...;base64," before it."""
  if not isinstance(text, str):
    raise RequestError(400, f"{name}: give a string of base64", name)
  if text.startswith(("http:", "https:", "file:", "ftp:")):
    raise RequestError(400, f"{name}: no URL is fetched: send the audio itself, as base64", name)
  if text.startswith("data:"):
    head, comma, text = text.partition(",")
    if not comma or not head.endswith(";base64"):
      raise RequestError(400, f"{name}: write data:audio/wav;base64,...", name)
  if len(text) > limits.body_bytes * 4 // 3 + 4:
    raise _too_large(limits)
  try:
    try:
      data = pybase64.b64decode(text, validate=True)
    except ValueError:  # in lines, perhaps
      data = pybase64.b64decode("".join(text.split()), validate=True)
  except ValueError as error:
    raise RequestError(400, f"{name}: is no base64 ({error})", name) from None
  if not data:
    raise RequestError(400, f"{name}: is empty", name)
  return data


def check_audio(data: bytes, name: str, limits: Limits) -> None:
  """Reads a file's header. Raises RequestError for what is no audio or beyond the limits."""
  if data[4:8] == b"ftyp" or data[:4] == b"\x1aE\xdf\xa3":
    raise RequestError(400, f"{name}: m4a, mp4 and webm are not read: {CONVERT}", name)
  try:
    rate, channels, frames = audio.header(data, name, limits.audio_seconds)
  except AudioError as error:
    raise RequestError(400, str(error), name) from None
  least, most = limits.rates
  if not least <= rate <= most:
    raise RequestError(400, f"{name}: {rate} Hz is outside {least} to {most}: resample it", name)
  if channels > limits.channels:
    raise RequestError(400, f"{name}: {channels} channels, more than {limits.channels}", name)
  if frames > limits.audio_seconds * rate or frames * channels > limits.audio_samples:
    raise RequestError(
      400, f"{name}: {frames / rate:.0f} s are more than {limits.audio_seconds:g}: cut it", name
    )
