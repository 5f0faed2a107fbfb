"""A JSON list read item by item gives what the whole of it gives, or is refused as that is."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mellow_jax.data import json_stream, records
from mellow_jax.errors import DataError

anything = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
  max_leaves=6,
)
tokens = st.lists(
  st.sampled_from([*"[]{},: \n", "1", "2.", "e5", '"a"', "null", "tru"]), max_size=9
)


class Piece(io.StringIO):
  """Gives a character or two at a time, so that everything is met at an edge."""

  def read(self, count):
    return super().read(min(count, 2))


def items(text):
  stream = json_stream.items_of(Piece(text), json.JSONDecoder())
  try:
    return list(stream)
  except ValueError:
    return None


@settings(max_examples=500)
@given(
  st.builds(json.dumps, st.lists(anything, max_size=4), indent=st.sampled_from([None, 1]))
  | st.builds("".join, tokens)
)
def test_items_are_those_of_the_whole(text):
  try:
    whole = json.loads(text)
  except ValueError:
    whole = None
  assert items(text) == (whole if isinstance(whole, list) else None)


ROW = dict.fromkeys(records.FIELDS, "") | {"filepath1": "a.wav", "input": "b?", "answer": "c"}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "holds no rows"),
    ("3", "it begins with neither"),
    ("[1, 2", "it ends before its ']', after item 2"),
    ("[1, 2 3]", "no ',' or ']' follows it, after item 2"),
    ("[1,]", "Expecting value, after item 1"),
    ("[] []", "something follows its ']'"),
    ("[" * 100_000, "nested too deep, after item 0"),
    ('["\udcff"]', "not UTF-8 at byte 2"),
  ],
)
def test_what_is_no_list_is_named(tmp_path, text, message):
  path = tmp_path / "rows.json"
  path.write_bytes(text.encode(errors="surrogateescape"))
  with pytest.raises(DataError, match=message) as error:
    list(records.scan(path))
  assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_rows_that_are_sound_are_those_that_reading_takes(tmp_path):
  """Row by row, what `each` finds no fault with is what `read` takes, and as it takes it."""
  changes = [{}, {"answer": ""}, {"input": " "}, {"filepath2": "../a"}, {"filepath1": "x\\y.wav"}]
  changes += [{"caption1": 3}, {"extra": "x"}, {"_note": 1}, {"filepath1": ""}]
  path = tmp_path / "rows.json"
  for change in changes:
    path.write_text(json.dumps([ROW | change]))
    (checked,) = records.scan(path)
    try:
      (record,) = records.read(path)
    except DataError as error:
      field, fault = checked.faults[0]
      assert fault in str(error) and field in str(error)
    else:
      assert not checked.faults
      assert records.Record(*checked.fields, row=0) == record
