"""What stands in for clips and options follows from seed and item, and is never the item's own."""

import math

import numpy as np
import pytest

from mellow_jax.evaluation.benchmarks import probes
from mellow_jax.evaluation.benchmarks.items import Item


def item(number: int, choices: int = 4, audio2: str = "") -> Item:
  return Item(
    id=f"item {number}",
    kind="choice",
    audio1=f"{number}.wav",
    audio2=audio2,
    question="which?",
    choices=tuple("abcdefgh"[:choices]),
    answer="a",
  )


def test_orders_begin_with_the_own_and_none_comes_twice():
  found = [probes.orders(item(i), 24, seed=0) for i in range(5)]
  for orders in found:
    assert orders[0] == (0, 1, 2, 3)
    assert len(set(orders)) == math.factorial(4)
  assert len({tuple(orders) for orders in found}) == 5  # each item has its own
  assert probes.orders(item(0), 3, seed=0) == found[0][:3]  # more are the same and others
  assert probes.orders(item(0), 24, seed=1) != found[0]


def test_two_choices_have_two_orders_and_then_the_same_again():
  found = probes.orders(item(0, choices=2), 6, seed=0)
  assert found[0] == (0, 1)
  assert [sorted(found[i : i + 2]) for i in (0, 2, 4)] == [[(0, 1), (1, 0)]] * 3


def test_without_choices_there_is_one_order():
  assert probes.orders(item(0, choices=0), 5, seed=0) == [()]


@pytest.mark.parametrize("count", [2, 3, 50])
def test_shuffled_clips_are_all_others(count):
  paths = [f"{i}.wav" for i in range(count)]
  instead = probes.shuffled(paths, seed=0)
  assert sorted(instead.values()) == sorted(paths) == sorted(instead)
  assert all(path != other for path, other in instead.items())
  assert instead == probes.shuffled(paths[::-1], seed=0)
  assert count == 2 or instead != probes.shuffled(paths, seed=1)


def test_noise_is_of_its_path_and_seed():
  one, again, other, seeded = (
    probes.noise(path, 16_000, seed) for path, seed in (("a", 0), ("a", 0), ("b", 0), ("a", 1))
  )
  assert np.array_equal(one, again) and one.dtype == np.float32
  assert abs(np.sqrt(np.mean(one**2)) - probes.NOISE_RMS) < 0.005
  for different in (other, seeded):
    assert abs(np.corrcoef(one, different)[0, 1]) < 0.05


SINGLE = [item(i) for i in range(20)]
PAIR = item(7, audio2="9.wav")


@pytest.mark.parametrize("heard", ["clips", "noise"])
def test_slots_of_the_own_clips(heard):
  """Noise is drawn by the path it replaces."""
  for second, expected in (("same", "3.wav"), ("none", None)):
    slots = probes.Slots([*SINGLE, PAIR], heard, second, seed=0)
    assert slots(SINGLE[3]) == ("3.wav", expected)
    assert slots(PAIR) == ("7.wav", "9.wav")


def test_silence_is_in_both():
  slots = probes.Slots(SINGLE, "silence", "random", seed=0)
  assert slots(SINGLE[0]) == slots(PAIR) == (None, None)


@pytest.mark.parametrize("heard", ["clips", "shuffled"])
def test_a_random_second_clip_is_never_the_items_own(heard):
  drawn = []
  for seed in range(10):
    slots = probes.Slots(SINGLE, heard, "random", seed)
    drawn.append([slots(one) for one in SINGLE])
    for one, (first, second) in zip(SINGLE, drawn[-1], strict=True):
      assert second not in (first, one.audio1)
      assert (first == one.audio1) == (heard == "clips")
    assert len({second for _, second in drawn[-1]}) > 5
    assert drawn[-1] == [probes.Slots(SINGLE[::-1], heard, "random", seed)(one) for one in SINGLE]
  assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
  ("heard", "second", "least"),
  [
    ("clips", "same", 1),
    ("clips", "random", 2),
    ("shuffled", "same", 2),
    ("shuffled", "random", 3),
  ],
)
def test_too_few_clips_to_choose_from(heard, second, least):
  probes.Slots(SINGLE[:least], heard, second, seed=0)(SINGLE[0])
  with pytest.raises(ValueError, match=f"{least - 1} clips are too few"):
    probes.Slots(SINGLE[: least - 1], heard, second, seed=0)
