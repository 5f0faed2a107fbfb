"""Captions are read from what their sources publish, and nothing of it is guessed or skipped."""

import json

import pytest

from mellow_jax.data import records
from mellow_jax.errors import DataError
from mellow_jax.reasonaqa.llm import caption_files
from mellow_jax.reasonaqa.llm.caption_files import Caption

CLOTHO = "file_name," + ",".join(f"caption_{i}" for i in range(1, 6))


def write(path, text):
  path.write_text(text)
  return path


@pytest.mark.parametrize(("part", "rows", "different"), [("test", 4875, 4757), ("val", 2475, 2390)])
def test_audiocaps_is_read_as_it_was_published(reference_data, part, rows, different):
  found, count, excluded = caption_files.read(reference_data / f"meta/audiocaps/{part}.csv")
  assert (count, len(found), excluded) == (rows, different, 0)
  assert all(c.file.startswith(f"AudioCapsLarger/{part}/Y") for c in found)
  assert {(c.source, c.taskname) for c in found} == {("AudioCaps", "audiocaps")}
  assert len({c.key for c in found}) == len(found)


def test_a_clip_of_audiocaps_is_found_where_reasonaqa_has_it(reference_data):
  found = caption_files.read(reference_data / "meta/audiocaps/test.csv").captions
  sample = json.loads((reference_data / "meta/readme_sample.json").read_text())[0]
  assert (sample["filepath1"], sample["caption1"]) in {(c.file, c.text) for c in found}


def test_clotho_has_five_captions_a_clip(tmp_path):
  path = write(
    tmp_path / "clotho_captions_development.csv",
    f"{CLOTHO}\nrain.wav,It rains,Rain falls,Rain  falls,It pours,Wet\nsea.wav,a,b,c,d,e\n",
  )
  found, count, _ = caption_files.read(path)
  assert count == 10 and len(found) == 9  # a caption that a clip has twice is asked about once
  assert found[0] == Caption("Clotho", "ClothoV21/development/rain.wav", "It rains")
  assert [c.text for c in found[:4]] == ["It rains", "Rain falls", "It pours", "Wet"]
  assert found[0].taskname == "clothov21"


def test_wavcaps_is_read_without_what_others_test_on(tmp_path):
  clips = [
    {"id": "Yabc.wav", "caption": "A dog barks.", "duration": 10.0, "audio": "wav_path"},
    {"id": "Ydef.wav", "caption": "Rain.", "duration": 10.0, "audio": "wav_path"},
  ]
  data = json.dumps({"num_captions_per_audio": 1, "data": clips})
  path = write(tmp_path / "as_final.json", data)
  folder = "WavCaps/AudioSet_SL_flac"
  assert [c.file for c in caption_files.read(path)[0]] == [
    f"{folder}/Yabc.flac",
    f"{folder}/Ydef.flac",
  ]
  lists = write(tmp_path / "blacklist.json", '{"FreeSound": ["1"], "AudioSet": ["Yabc.wav"]}')
  (caption,), count, excluded = caption_files.read(path, exclude=lists)
  assert (count, excluded) == (1, 1)
  assert caption == Caption("WavCaps", f"{folder}/Ydef.flac", "Rain.")
  sounds = write(tmp_path / "sb_final.json", data.replace("Yabc.wav", "2219"))
  (caption, _), _, excluded = caption_files.read(sounds, lists)  # of SoundBible it lists nothing
  assert caption.file == "WavCaps/SoundBible_flac/2219.flac" and excluded == 0


def test_the_captions_of_reasonaqa_itself_are_taken(tmp_path):
  row = dict.fromkeys(records.FIELDS, "") | {"filepath1": "ClothoV21\\development\\a.wav"}
  rows = [
    row | {"input": "caption the audio", "answer": "It rains.", "subtype": "Clotho.json"},
    row | {"input": "is it raining?", "answer": "yes", "subtype": "ClothoAQA.json"},
    row | {"input": "caption both audios", "answer": "x", "filepath2": "b", "subtype": "C.json"},
  ]
  path = write(tmp_path / "train.json", json.dumps(rows))
  found = [Caption("Clotho", "ClothoV21/development/a.wav", "It rains.")]
  assert caption_files.read(path) == (found, 1, 0)


def test_a_table_of_ones_own_may_come_from_a_spreadsheet(tmp_path):
  path = tmp_path / "street.csv"
  path.write_bytes('\ufefffile,caption\r\na\\b.wav,"A tram, and a bell"\r\n\r\n'.encode())
  assert caption_files.read(path)[0] == [Caption("street", "a/b.wav", "A tram, and a bell")]


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("a.csv", "file,text\nx.wav,y\n", "line 1: these are the columns of no source that is known"),
    ("a.csv", "file,caption\n", "holds no rows"),
    ("a.csv", "file,caption\nx.wav,a,b\n", "line 2: has 3 cells where the header has 2"),
    ("a.csv", 'file,caption\nx.wav,"a\n', "line 2: is not CSV"),
    ("a.csv", "file,caption\nx.wav,ok\ny.wav, \n", "line 3: the caption is empty"),
    ("a.csv", "file,caption\n../x.wav,ok\n", "line 2: the clip's path leaves the audio root"),
    ("a.csv", f"file,caption\nx.wav,{'y' * 10_001}\n", "line 2: the caption has more than 10000"),
    ("a.csv", "youtube_id,caption\nabc,ok\n", "name it after one of train, val, test"),
    ("clotho.csv", f"{CLOTHO}\nx.wav,a,b,c,d,e\n", "development, validation, evaluation"),
    ("mine.json", '{"data": []}', "its name is none of WavCaps'"),
    ("sb_final.json", '{"data": 1}', "is not WavCaps' JSON"),
    ("sb_final.json", "{", "is not JSON"),
    ("sb_final.json", '{"data": [{"id": 3, "caption": "x"}]}', "clip 0 .from 0.: has no 'id'"),
    ("none.csv", None, "cannot be read"),
  ],
)
def test_what_does_not_fit_is_named(tmp_path, name, text, message):
  if text is not None:
    write(tmp_path / name, text)
  with pytest.raises(DataError, match=message) as raised:
    caption_files.read(tmp_path / name)
  assert str(tmp_path / name) in str(raised.value)


def test_only_wavcaps_has_lists_of_what_to_leave_out(tmp_path):
  path = write(tmp_path / "a.csv", "file,caption\nx.wav,ok\n")
  with pytest.raises(DataError, match="--exclude is for WavCaps' JSON"):
    caption_files.read(path, exclude=path)


@pytest.mark.parametrize(
  "lists",
  [
    {"num_captions_per_audio": 1, "data": [{"id": "1", "caption": "A dog barks."}]},  # captions
    {"freesound": ["1"]},
    {"FreeSound": {"1": "Clotho"}},
    {"FreeSound": [{"id": "1"}]},
    {},
    ["1"],
  ],
)
def test_what_lists_no_clips_by_source_is_refused_as_a_list_to_exclude(tmp_path, lists):
  """It would leave out nothing, and the clips of other test sets would be trained on."""
  clips = {"data": [{"id": "1", "caption": "A dog barks."}, {"id": "2", "caption": "Rain."}]}
  path = write(tmp_path / "fsd_final.json", json.dumps(clips))
  exclude = write(tmp_path / "list.json", json.dumps(lists))
  message = r"list\.json: holds no lists of clips by source \(AudioSet, BBC_Sound_Effects, "
  with pytest.raises(DataError, match=message):
    caption_files.read(path, exclude)
  write(exclude, '{"FreeSound": [1]}')  # an id may be a number
  assert [caption.text for caption in caption_files.read(path, exclude).captions] == ["Rain."]
