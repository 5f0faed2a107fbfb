"""Rows of several sources: each row in its place, and each source by its weight."""

import collections
import json

import pytest

from mellow_jax.data import pipeline, selection
from mellow_jax.data.records import FIELDS, Record, Rows
from mellow_jax.errors import ConfigError, DataError


class Numbered(Rows):
  """Rows of a source that say where they come from."""

  def __init__(self, name, count):
    self.path, self._count = name, count

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    index = range(self._count)[index]
    fields = dict.fromkeys(FIELDS, "") | {"taskname": self.path, "filepath1": f"{self.path}{index}"}
    return Record(**fields | {"subtype": "AB"[index % 2]}, row=index)


# Grain takes milliseconds to shuffle a handful of rows, and none for more.
PARTS = [Numbered("a", 100), Numbered("b", 60), Numbered("c", 400)]


def drawn(rows, count, seed=5, start=0):
  ds = pipeline._in_order(rows, seed)
  return [(ds[i].taskname, ds[i].row) for i in range(start, start + count)]


def test_joined_rows_keep_their_places():
  joined = selection.join(PARTS, ())
  every = [row for part in PARTS for row in part]
  assert len(joined) == 560 and list(joined) == every
  places = (-1, -560, 99, 100, 159, 160, -401)
  assert [joined[i] for i in places] == [every[i] for i in places]
  for index in (560, -561):
    with pytest.raises(IndexError, match=rf"row {index} of 560"):
      joined[index]
  assert selection.join(PARTS[:1], (2.0,)) is PARTS[0]


def test_without_weights_every_row_is_drawn_once_an_epoch():
  found = drawn(selection.join(PARTS, ()), 1120)
  for epoch in (found[:560], found[560:]):
    assert sorted(epoch) == [(part.path, i) for part in PARTS for i in range(len(part))]
  assert found[:560] != found[560:]


@pytest.mark.parametrize("weights", [(3.0, 1.0, 2.0), (0.5, 0.1, 0.4), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("start", [0, 7, 10**9])
def test_each_source_has_its_share_of_any_stretch(weights, start):
  found = drawn(selection.join(PARTS, weights), 240, start=start)
  counts = collections.Counter(name for name, _ in found)
  for part, weight in zip(PARTS, weights, strict=True):
    assert counts[part.path] == pytest.approx(240 * weight / sum(weights), abs=2)


def test_each_source_has_epochs_of_its_own_in_orders_of_their_own():
  found = drawn(selection.join(PARTS, (2.0, 2.0, 1.0)), 1000)
  for part in PARTS[:2]:
    order = [row for name, row in found if name == part.path]
    size = len(part)
    epochs = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    assert len(epochs) > 3 and all(sorted(epoch) == [*range(size)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
  alike = drawn(selection.join([PARTS[0], Numbered("d", 100)], (1.0, 1.0)), 600)
  orders = [[row for name, row in alike if name == of] for of in "ad"]
  epochs = [order[i : i + 100] for order in orders for i in range(0, 300, 100)]
  assert len(epochs) == len({tuple(epoch) for epoch in epochs}) == 6


def test_without_shuffling_sources_alternate_in_their_order():
  parts = [PARTS[0], Numbered("b", 3)]
  found = drawn(selection.join(parts, (1.0, 1.0)), 8, seed=None)
  assert [name for name, _ in found[:2]] * 4 == [name for name, _ in found]
  assert [row for name, row in found if name == "b"] == [0, 1, 2, 0]


def test_a_mix_repeats_subtypes_of_every_source():
  parts = [Numbered("a", 5), Numbered("b", 3)]
  repeated = selection.repeat(parts, {"A": 2.0, "B": 0.0})
  assert [[row.row for row in part] for part in repeated] == [[0, 0, 2, 2, 4, 4], [0, 0, 2, 2]]
  with pytest.raises(ConfigError, match=r"leaves no row of d"):
    selection.repeat([*PARTS, Numbered("d", 1)], {"A": 0.0})


def test_a_clip_that_two_sources_name_is_held_out_of_both():
  parts = [Numbered("a", 10), selection.SelectedRows(Numbered("a", 10), [9, 8, 7, 6, 5, 4, 3, 2])]
  train, val, held, count = selection.hold_out(parts, 0.3)
  assert (held, count) == (3, 10)
  clips = [{row.filepath1 for part in of for row in part} for of in (train, val)]
  assert not clips[0] & clips[1] and len(clips[1]) == 3
  assert sum(map(len, [*train, *val])) == 18


# --- Quarantine files ----------------------------------------------------------------------------

ID = "0123456789abcdef"


def test_ids_and_reasons_are_read(tmp_path):
  path = tmp_path / "quarantine.json"
  path.write_text(json.dumps({"version": 1, "rows": {ID: ["silent", "answer is empty"]}}))
  assert selection.read_quarantine(path) == {ID: ("silent", "answer is empty")}
  path.write_text('{"version": 1, "rows": {}}')
  assert selection.read_quarantine(path) == {}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "is not a quarantine file"),
    ("[" * 100_000, "is not a quarantine file"),
    ("[]", "expected an object with 'rows' by id"),
    ('{"version": 1}', "expected an object with 'rows' by id"),
    ('{"version": 1, "rows": []}', "expected an object with 'rows' by id"),
    ('{"version": 2, "rows": {}}', "has version 2, expected 1"),
    ('{"rows": {}}', "has version None, expected 1"),
    ('{"version": 1, "rows": {"12": []}}', "'12' is no id of a row"),
    (f'{{"version": 1, "rows": {{"{ID}": "silent"}}}}', f"row {ID}: expected a list of reasons"),
    (f'{{"version": 1, "rows": {{"{ID}": [1]}}}}', f"row {ID}: expected a list of reasons"),
  ],
)
def test_what_is_no_quarantine_file_is_refused(tmp_path, text, message):
  path = tmp_path / "quarantine.json"
  path.write_text(text)
  with pytest.raises(DataError, match=message) as caught:
    selection.read_quarantine(path)
  assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(DataError, match=r"none\.json: is not a quarantine file \(No such file"):
    selection.read_quarantine(tmp_path / "none.json")
