"""Errors that the caller can mend: one base class, which every command and server catches.

Each message is one line that names the file, row, field or flag at fault and says what to do.
Anything else that is raised is a defect of this package.
"""


class UserError(ValueError):
  """A fault of input, configuration or environment that the caller can mend."""


def first_line(error: Exception) -> str:
  """The first line of a library's error, for a message of one line."""
  return (str(error).splitlines() or [repr(error)])[0][:300]


def how_to_install(extra: str) -> str:
  """The command for an extra of setup.py, for messages; the package is on no index."""
  return f"in the checkout, pip install -e '.[{extra}]'"


class ConfigError(UserError):
  """A choice of a run that cannot be carried out; the message names the field."""


class LateError(UserError):
  """Other processes of a run that did not start in time: the same command may find them later."""


class FlagsError(UserError):
  """Command-line flags that are missing or do not go together."""


class DataError(UserError):
  """Rows, tables or other files of data that cannot be used; the message names file and row."""


class AudioError(UserError):
  """Audio that cannot be used.

  reason is one word for counting, one of `mellow_jax.data.audio.REASONS`.
  """

  def __init__(self, message: str, reason: str):
    super().__init__(message, reason)  # both, so that it can be sent between processes
    self.reason = reason

  def __str__(self) -> str:
    return self.args[0]


class PipelineError(UserError):
  """Rows that cannot become examples: too many are bad, or none arrives."""


class StalledError(PipelineError):
  """No more batches come. A thread may hang in a read, so that only os._exit ends the process."""


class CheckpointError(UserError):
  """Weights or a checkpoint that cannot be written or must not be used."""


class DivergedError(UserError):
  """A loss or gradient that is not finite; the message says how to go on."""


class QuestionError(UserError):
  """A question that cannot be asked."""


class BusyError(UserError):
  """A queue that is full, or an engine that is closed: the request may be put again later."""


class RequestError(UserError):
  """A request over HTTP that is refused, with the status to answer and the field at fault."""

  def __init__(self, status: int, message: str, field: str | None = None):
    super().__init__(message)
    self.status, self.field = status, field


class PredictionsError(UserError):
  """A file of answers that cannot be continued or read."""


class EndpointError(UserError):
  """A language model's server that no request can be put to."""


class MetricUnavailable(UserError):
  """A metric that cannot be computed here: what is missing, and what to do."""

  def __init__(self, metric: str, missing: str, fix: str):
    super().__init__(f"{metric}: {missing}: {fix}")
    self.metric, self.missing, self.fix = metric, missing, fix
