"""Lengths that steps are compiled for, and batches of one length: few slots, the same rows."""

import collections

import grain
import numpy as np
import pytest

from mellow_jax.data import answer_lengths


def test_lengths_are_those_that_leave_the_fewest_slots_empty():
  lengths = np.repeat([3, 30, 61], [50, 40, 2])
  assert answer_lengths.choose(lengths, 3, 250) == (8, 32, 64, 250)
  assert answer_lengths.choose(lengths, 2, 64) == (32, 64)
  assert answer_lengths.choose(np.array([3]), 4, 22) == (8, 22)
  assert answer_lengths.choose(np.array([21]), 4, 22) == (22,)

  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 60, 200)
  found = answer_lengths.choose(lengths, 2, 64)

  def slots(allowed):
    return sum(answer_lengths.least(int(n), allowed) for n in lengths)

  assert slots(found) == min(slots((top, 64)) for top in range(8, 64, 8))


def test_shapes_are_few_and_hold_every_batch():
  rng = np.random.default_rng(1)
  lengths = np.minimum(rng.geometric(0.05, 4000), 100)
  allowed = answer_lengths.choose(lengths, 4, 128)
  shapes = answer_lengths.shapes(lengths, allowed, 4, 32)
  assert len(shapes) <= 2 * len(allowed)
  costs, whole = [], []
  for _ in range(200):
    needed = np.sort(rng.choice(lengths, 32)).reshape(4, 8).max(axis=1)
    shape = next(s for s in shapes if (needed <= s).all())
    costs.append(sum(shape))
    whole.append(4 * answer_lengths.least(int(needed[-1]), allowed))
  assert np.mean(costs) < 0.75 * np.mean(whole)


def test_needed_slots_end_with_the_last_token_that_counts():
  mask = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
  np.testing.assert_array_equal(answer_lengths.needed(mask), [2, 3, 0, 4])


def test_parts_hold_the_rows_by_length_and_know_their_places():
  mask = np.arange(6) < np.array([5, 1, 3, 2])[:, None]
  arrays = {"loss_mask": mask, "answer_ids": np.arange(24).reshape(4, 6)}
  short, long = answer_lengths.in_parts(arrays, 2, first=8)
  np.testing.assert_array_equal(short["rows"], [9, 11])
  np.testing.assert_array_equal(long["rows"], [10, 8])
  np.testing.assert_array_equal(long["answer_ids"], arrays["answer_ids"][[2, 0]])
  assert answer_lengths.cut(short, 2)["answer_ids"].shape == (2, 2)


def grouped(rows=1000, batch_size=8, seed=0):
  """The order of grouped rows whose answers have 1 to 40 tokens, and those lengths."""
  lengths = np.random.default_rng(2).integers(1, 41, rows)
  ds = grain.MapDataset.range(rows).shuffle(seed=seed).repeat()
  made = answer_lengths.Grouped(
    ds, ds, lambda i: int(lengths[i]), allowed=(8, 16, 32, 40), batch_size=batch_size, seed=seed
  )
  return made, ds, lengths


def test_groups_hold_the_same_rows_and_mostly_one_length():
  made, ds, lengths = grouped()
  size = answer_lengths.WINDOW * 8
  for window in range(3):
    found = [made[i] for i in range(window * size, (window + 1) * size)]
    plain = [ds[i] for i in range(window * size, (window + 1) * size)]
    assert collections.Counter(found) == collections.Counter(plain) and found != plain
    tops = [answer_lengths.least(int(lengths[i]), (8, 16, 32, 40)) for i in found]
    batches = [tops[i : i + 8] for i in range(0, size, 8)]
    assert sum(len(set(batch)) > 1 for batch in batches) <= 3
    assert sorted(map(max, batches)) != [*map(max, batches)]  # in random order


@pytest.mark.parametrize("start", [0, 5, 255, 256, 700])
def test_a_group_follows_from_its_place_alone(start):
  whole, resumed = grouped()[0], grouped()[0]
  assert resumed[start] == [whole[i] for i in range(start + 1)][-1]
