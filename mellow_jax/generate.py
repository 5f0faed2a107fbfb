"""Questions about audio, answered: the class `Mellow` and the command.

  python -m mellow_jax.generate --checkpoint=DIR --audio=a.wav [--audio=b.wav] --prompt="..."
  python -m mellow_jax.generate --checkpoint=DIR --manifest=rows.json --audio_root=DIR \
    --output=predictions.jsonl
"""

from mellow_jax.data.audio import Clip, Source
from mellow_jax.decode import Sampling

GREEDY = Sampling()
Row = tuple[Source | Clip, Source | Clip | None, str]  # first clip, second or None, question
