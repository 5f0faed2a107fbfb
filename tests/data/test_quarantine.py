"""A quarantine file is read whole, or refused with what is wrong."""

import json

import pytest

from mellow_jax.data import quarantine
from mellow_jax.errors import DataError

ID = "0123456789abcdef"


def test_ids_and_reasons_are_read(tmp_path):
  path = tmp_path / "quarantine.json"
  path.write_text(json.dumps({"version": 1, "rows": {ID: ["silent", "answer is empty"]}}))
  assert quarantine.read(path) == {ID: ("silent", "answer is empty")}
  path.write_text('{"version": 1, "rows": {}}')
  assert quarantine.read(path) == {}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "is no readable quarantine file"),
    ("[" * 100_000, "is no readable quarantine file"),
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
    quarantine.read(path)
  assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(DataError, match=r"none\.json: is no readable .* \(No such file"):
    quarantine.read(tmp_path / "none.json")
