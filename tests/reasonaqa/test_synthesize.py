"""Synthetic questions: a server that misbehaves, kills and stops change nothing in the results."""

import collections
import functools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import chat_server
import completion_styles
import pytest

from mellow_jax.data import records
from mellow_jax.errors import DataError, EndpointError
from mellow_jax.reasonaqa.commands import filter as filter_
from mellow_jax.reasonaqa.commands import synthesize
from mellow_jax.reasonaqa.llm import endpoint, filters, json_reply
from mellow_jax.reasonaqa.llm.endpoint import Endpoint, Unanswered
from mellow_jax.reasonaqa.llm.reply_log import ReplyLog

TESTS = Path(__file__).parents[1]
CAPTIONS, CONCURRENCY, KILLS = 120, 4, 10
RESULTS = ("rows.json", "rejects.jsonl", "report.json")
COMMAND = (
  "import sys; from mellow_jax.reasonaqa.commands import synthesize; "
  "sys.exit(synthesize.main(sys.argv))"
)


def flags(server, captions, output, **more):
  given = {
    "captions": captions,
    "endpoint": server.url,
    "model": "tiny",
    "type": 1,
    "kind": server.kind,
    "output": output,
    "concurrency": CONCURRENCY,
    "timeout_s": 3,
    "pause_s": 0.01,
    **more,
  }
  return [f"--{name}={value}" for name, value in given.items()]


def run(*arguments):
  return synthesize.main(["synthesize", *arguments])


def start(arguments):
  """The command in a process of its own."""
  return subprocess.Popen(
    [sys.executable, "-c", COMMAND, *arguments],
    env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  _, err = process.communicate(timeout=120)
  return process.returncode, err


def results(folder):
  return {name: (folder / name).read_bytes() for name in RESULTS}


def logged(folder):
  """The complete lines of a log."""
  lines = (folder / "completions.jsonl").read_text().splitlines(keepends=True)
  return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """(captions, folder, server) of a run that nobody killed, for a kind of questions."""

  @functools.cache
  def make(kind):
    folder = tmp_path_factory.mktemp(kind)
    captions = chat_server.write_captions(folder / "sounds.csv", CAPTIONS)
    with chat_server.serving(kind, delay_s=0) as server:
      assert run(*flags(server, captions, folder / "out", concurrency=16)) == 0
    return captions, folder / "out", server

  return make


@pytest.mark.parametrize("kind", ["mcq", "detail"])
def test_each_caption_is_asked_until_it_is_answered_and_no_longer(undisturbed, kind):
  _, folder, server = undisturbed(kind)
  assert server.answered() == dict.fromkeys(range(CAPTIONS), 1)
  faults = [e["outcome"] for e in server.log if e["outcome"] != "answered"]
  assert set(faults) == {*chat_server.FAULTS, "slow"}
  assert len(server.log) == CAPTIONS + len(faults)
  attempts = {e["answered"]: e["attempts"] for e in logged(folder) if "answered" in e}
  assert sorted(attempts.values()) == sorted(server.attempts.values())


@pytest.mark.parametrize("kind", ["mcq", "detail"])
def test_each_question_is_a_row_or_a_reject_with_its_reason(undisturbed, kind):
  _, folder, _ = undisturbed(kind)
  rows, report = (
    records.read(folder / "rows.json"),
    json.loads((folder / "report.json").read_text()),
  )
  rejects = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
  assert report["kept"] == len(rows) > 50 and report["rejected"] == len(rejects)
  assert all(reject["reason"] and reject["file"] for reject in rejects)
  counts = collections.Counter(reject["reason"] for reject in rejects)
  assert counts == {
    why: found["count"] for why, found in report["rejects"].items() if found["count"]
  }
  assert set(filters.REASONS) <= set(report["rejects"])
  assert {"the model refused", "the completion is empty"} <= set(counts)
  assert "is cut off" in counts and "repeated across clips" in counts
  for found in report["rejects"].values():
    assert len(found["examples"]) == min(found["count"], 5)
  if kind == "mcq":
    assert counts["the answer names no one option"] and set(report["letters"]) == set("abcd")
    assert all(f" {row.answer} " in f"{row.input} " for row in rows)
  names = {"mcq": "sounds-MCQ.json", "detail": "sounds-Detail.json"}
  assert {row.subtype for row in rows} == {names[kind]}
  # In the order of the captions, whatever came back first.
  order = [int(Path(row.filepath1).stem) for row in rows]
  assert order == sorted(order)
  counted = [i for i in range(CAPTIONS) if i % 13]
  assert report["spent"] == {
    "tokens_in": sum(300 + i for i in counted),
    "tokens_out": 50 * len(counted),
  }
  assert report["answers_without_token_counts"] == CAPTIONS - len(counted)


@pytest.mark.slow
def test_ten_kills_change_nothing_and_nothing_written_down_is_asked_again(undisturbed, tmp_path):
  captions, folder, _ = undisturbed("mcq")
  out, rng, known = tmp_path / "out", random.Random(0), [set()]
  with chat_server.serving("mcq") as server:
    for life in range(KILLS):
      process = start(flags(server, captions, out))
      server.strike(process.pid, rng.randint(1, 14))
      assert finish(process)[0] == -signal.SIGKILL
      with server.lock:
        server.life = life + 1
      known.append({e["answered"] for e in logged(out) if "answered" in e})
    status, err = finish(start(flags(server, captions, out)))
    assert status == 0, err
    asked_again = CAPTIONS - len(known[-1])
  assert results(out) == results(folder)
  # By the server's own count: what had its answer on disk was never asked for again.
  keys = {c.key: chat_server.number_of(c.text) for c in synthesize.caption_files.read(captions)[0]}
  for entry in server.log:
    assert entry["caption"] not in {keys[key] for key in known[entry["life"]]}
  # The only captions answered twice are those that were under way at a kill.
  twice = sum(server.answered().values()) - CAPTIONS
  assert 0 <= twice <= KILLS * CONCURRENCY and asked_again > 0
  # And the log agrees: every request is logged before it is sent.
  events = logged(out)
  asked, answered = (sum(name in e for e in events) for name in ("asked", "answered"))
  assert answered == CAPTIONS and twice <= asked - answered <= KILLS * CONCURRENCY
  assert f"{asked - answered} requests were in flight" in err


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_asks_nothing_twice(undisturbed, tmp_path):
  captions, folder, _ = undisturbed("detail")
  with chat_server.serving("detail") as server:
    for requests in (5, 30):
      process = start(flags(server, captions, tmp_path / "out"))
      server.strike(process.pid, requests, signal.SIGTERM)
      status, err = finish(process)
      assert status == os.EX_TEMPFAIL and "the same command goes on" in err
      assert len(server.log) < requests + 20  # nothing new is begun
    assert run(*flags(server, captions, tmp_path / "out", concurrency=16)) == 0
  assert server.answered() == dict.fromkeys(range(CAPTIONS), 1)
  assert results(tmp_path / "out") == results(folder)
  assert not any("failed" in e and e["reason"] != "stopped" for e in logged(tmp_path / "out"))


def test_the_key_goes_to_the_server_and_nowhere_else(tmp_path, monkeypatch, capsys):
  key = "sk-secret-1234"
  monkeypatch.setenv(synthesize.KEY, key)
  captions = chat_server.write_captions(tmp_path / "sounds.csv", 3)
  with chat_server.serving("mcq", script=lambda n, attempt: "401 bad key {key}") as server:
    assert run(*flags(server, captions, tmp_path / "out")) == 1
  with chat_server.serving("mcq", script=lambda n, attempt: "") as good:
    assert run(*flags(good, captions, tmp_path / "out")) == 0
  assert {e["key"] for e in server.log + good.log} == {f"Bearer {key}"}
  said = "".join(capsys.readouterr())
  assert "status 401: bad key Bearer [key]: check --endpoint, --model and the key" in said
  written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
  assert key not in said and key.encode() not in written


def test_captions_without_an_answer_are_named_and_left_out_only_when_allowed(tmp_path, capsys):
  captions = chat_server.write_captions(tmp_path / "sounds.csv", 12)
  faults = {4: "400 the prompt is too long", 8: "500"}
  with chat_server.serving("mcq", script=lambda n, attempt: faults.get(n, "")) as server:
    arguments = flags(server, captions, tmp_path / "out", attempts=3)
    assert run(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 2 of 12 captions have no answer, first clips/4.wav: the server")
    assert "status 400: the prompt is too long" in error
    assert not (tmp_path / "out/rows.json").exists()
    assert server.attempts[4] == 1 and server.attempts[8] == 3
    assert run(*arguments, "--allow_unanswered") == 0
    assert server.answered() == dict.fromkeys(set(range(12)) - set(faults), 1)
  report = json.loads((tmp_path / "out/report.json").read_text())
  assert [u["file"] for u in report["unanswered"]] == ["clips/4.wav", "clips/8.wav"]
  assert "3 attempts failed, the last: status 500" in report["unanswered"][1]["reason"]


def test_a_server_that_answers_nobody_is_given_up(tmp_path, capsys):
  captions = chat_server.write_captions(tmp_path / "sounds.csv", 60)
  with chat_server.serving("mcq", script=lambda n, attempt: "400 no such parameter") as server:
    assert run(*flags(server, captions, tmp_path / "out")) == 1
  assert len(server.log) < 20 + CONCURRENCY
  assert "20 captions in a row got no answer, the last: the server" in capsys.readouterr().err


def asking(server, **options):
  return Endpoint(server.url, "tiny", **{"attempts": 3, "pause_s": 0.01, **options})


def ask(server, **options):
  return asking(server, **options).ask("sound number 1", seed=1)


def test_a_server_sets_the_pause(monkeypatch):
  with chat_server.serving("mcq", script=lambda n, attempt: "429" if attempt < 3 else "") as server:
    asker, waits = asking(server), []
    monkeypatch.setattr(asker.stop, "wait", waits.append)
    assert asker.ask("sound number 1").attempts == 3
  # Retry-After is 0.2 s, and the pauses of our own are shorter.
  assert max(waits) >= 0.15


@pytest.mark.parametrize(
  ("value", "seconds"),
  [
    *[("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("soon", 0.0), (None, 0.0)],
    ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
  ],
)
def test_retry_after_is_a_number_or_a_date(value, seconds):
  assert endpoint._retry_after(value) == seconds
  later = endpoint.email.utils.formatdate(endpoint.time.time() + 60, usegmt=True)
  assert 58 <= endpoint._retry_after(later) <= 60


def test_nobody_there_and_addresses_that_are_none():
  with chat_server.serving("mcq") as server:
    pass
  with pytest.raises(Unanswered, match="2 attempts failed, the last: no connection"):
    ask(server, attempts=2)
  for url in ("localhost:8000", "ftp://x/v1", "http://", "http://a b/", "http://x:port/v1"):
    with pytest.raises(EndpointError, match="is no address such as http://localhost:8000/v1"):
      endpoint.chat_url(url)
  with pytest.raises(EndpointError, match="holds a password"):
    endpoint.chat_url("http://me:secret@host/v1")
  assert endpoint.chat_url("https://h/v1/?v=2") == "https://h/v1/chat/completions?v=2"


def test_another_server_is_not_followed():
  with (
    chat_server.serving("mcq", script=lambda n, attempt: "307") as server,
    pytest.raises(EndpointError, match="status 307"),
  ):
    ask(server)


def test_a_folder_of_other_settings_is_refused(undisturbed, capsys):
  captions, folder, server = undisturbed("mcq")
  for change, name in ({"seed": 1}, "seed"), ({"model": "other"}, "model"), ({"type": 2}, "type"):
    before = results(folder)
    assert run(*flags(server, captions, folder, **change)) == 1
    assert f"was made with {name} = " in capsys.readouterr().err
    assert results(folder) == before


def test_settings_may_be_corrected_until_the_first_reply(tmp_path, capsys):
  captions, out = chat_server.write_captions(tmp_path / "sounds.csv", 3), tmp_path / "out"
  with chat_server.serving("mcq", script=lambda n, attempt: "404 no such model") as server:
    assert run(*flags(server, captions, out, model="tyni")) == 1
  assert "check --endpoint, --model and the key" in capsys.readouterr().err
  with chat_server.serving("mcq", script=lambda n, attempt: "404" if n else "") as server:
    assert run(*flags(server, captions, out, concurrency=1)) == 1  # one reply is there
    assert run(*flags(server, captions, out, model="tyni")) == 1
  assert f"{out}: was made with model = 'tiny', this run has 'tyni'" in capsys.readouterr().err
  with chat_server.serving("mcq", script=lambda n, attempt: "") as server:
    assert run(*flags(server, captions, out)) == 0
  assert server.answered() == {1: 1, 2: 1}
  assert {row["_model"] for row in json.loads((out / "rows.json").read_text())} == {"tiny"}
  assert json.loads((out / "report.json").read_text())["model"] == "tiny"
  # Rows that are finished stay, also where someone has removed the replies.
  (out / "completions.jsonl").unlink()
  before = results(out)
  assert run(*flags(server, captions, out, model="tyni")) == 1 and results(out) == before


def test_a_log_is_held_by_one_run_and_damage_is_named(tmp_path):
  path = tmp_path / "completions.jsonl"
  with ReplyLog(path) as first:
    first.asked("a")
    with pytest.raises(DataError, match="another run writes to it"):
      ReplyLog(path)
  path.write_text(path.read_text() + '{"answered": "b", "compl')
  with ReplyLog(path) as again:
    assert again.lost == 1 and "b" not in again
    again.answered("b", endpoint.Reply("Rain?", "stop", 3, None, 1, 0.5))
    assert again.read("b").completion == "Rain?"
  with ReplyLog(path) as again:
    assert "b" in again and (again.prompt_tokens, again.uncounted) == (3, 1)
  path.write_text("nonsense\n" + path.read_text())
  with pytest.raises(DataError, match=r"completions.jsonl, line 1: was changed"):
    ReplyLog(path)


@pytest.mark.parametrize("limit", [None, 2])
def test_types_one_to_three_make_type_four(tmp_path, capsys, limit):
  captions = chat_server.write_captions(tmp_path / "sounds.csv", 4)
  parts = []
  with chat_server.serving("detail", script=lambda n, attempt: "") as server:
    for type_ in (1, 2, 3):
      parts.append(f"--part={tmp_path / str(type_)}")
      more = {"limit": limit} if limit and type_ == 3 else {}
      assert run(*flags(server, captions, tmp_path / str(type_), type=type_, **more)) == 0
  arguments = ["--type=4", "--kind=detail", f"--output={tmp_path / 'all'}"]
  if limit:
    assert run(*arguments, *parts) == 1
    assert "3: was made of other captions than" in capsys.readouterr().err
    return
  assert run(*arguments, *parts[:2]) == 1
  assert "is made of types 1, 2 and 3, and --part names 1, 2" in capsys.readouterr().err
  assert run(*arguments, parts[0].replace("part", "output"), *parts) == 1
  assert "is a part itself: name another --output" in capsys.readouterr().err
  assert run(*arguments, *parts) == 0
  report = json.loads((tmp_path / "all/report.json").read_text())
  # This server writes the same for each type: what an earlier type has is not taken again.
  assert report["kept"] == report["parts"]["1"]["kept"] > 0
  assert report["rejects"]["also of an earlier type"]["count"] == 2 * report["kept"]
  notes = json.loads((tmp_path / "all/rows.json").read_text())[0]
  assert notes["_type"] == 1 and notes["_prompt"] == "detail-1.2" and notes["_model"] == "tiny"

  # What is left of a part after another filter is a part, and says what it is of.
  filtered, path = f"--output={tmp_path / 'filtered'}", tmp_path / "1/rows.json"
  rows = json.loads(path.read_text())
  rows[0] |= {"input": "How old is the dog?", "answer": "The age of the dog is unknown."}
  path.write_text(json.dumps(rows))
  assert filter_.main(["filter", f"--data={path}", filtered]) == 0
  assert f"rows from {report['kept']} questions" in capsys.readouterr().out
  kept = len(json.loads((tmp_path / "filtered/rows.json").read_text()))
  assert kept == len(rows) - 1
  arguments[-1] = f"--output={tmp_path / 'again'}"
  assert run(*arguments, f"--part={tmp_path / 'filtered'}", *parts[1:]) == 0
  again = json.loads((tmp_path / "again/report.json").read_text())
  assert again["parts"] == report["parts"] | {"1": report["parts"]["1"] | {"kept": kept}}
  assert again["kept"] == report["kept"] and again["captions_sha256"] == report["captions_sha256"]


@pytest.mark.parametrize(
  "change", ["a row more", "no report", "not of a run", "no object", "a row"]
)
def test_a_part_that_no_run_made_is_told_in_a_line(tmp_path, capsys, change):
  captions, part = chat_server.write_captions(tmp_path / "sounds.csv", 2), tmp_path / "1"
  with chat_server.serving("detail", script=lambda n, attempt: "") as server:
    assert run(*flags(server, captions, part)) == 0
  rows = json.loads((part / "rows.json").read_text())
  if change == "a row more":  # the report beside is of other rows
    (part / "rows.json").write_text(json.dumps([*rows, rows[0]]))
  elif change == "no report":
    (part / "report.json").unlink()
  elif change == "a row":
    (part / "rows.json").write_text(json.dumps([rows[0], {**rows[0], "input": 3}]))
  else:
    (part / "report.json").write_text('{"kept": 2}' if change == "not of a run" else "[]")
  place, message = part, "1/report.json: is not of a run of type 1, 2 or 3: name the --output of"
  if change == "a row more":
    place = tmp_path / "filtered"
    assert filter_.main(["filter", f"--data={part / 'rows.json'}", f"--output={place}"]) == 0
    message = message.replace("1/", "filtered/", 1)
  if change == "no report":
    message = "1/report.json: is not the report of finished results"
  if change == "a row":
    message = "1/rows.json, row 1 (from 0): has not ReasonAQA's fields as texts: mend or drop it"
  capsys.readouterr()
  assert run("--type=4", "--kind=detail", f"--output={tmp_path / 'all'}", f"--part={place}") == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ") and message in line


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--type is missing"),
    (["--type=1", "--kind=mcq"], "--data is missing"),
    (["--type=4", "--kind=mcq"], "--type=4 composes what --part names"),
    (["--type=5", "--kind=mcq"], "--type"),
    (["--type=1", "--kind=essay"], "--kind"),
    (["--type=1", "--kind=mcq", "--captions=x.csv", "--endpoint=x", "--model=m", "--output=o"],
     "x.csv: cannot be read"),
    (["captions.csv"], "'captions.csv' is no flag"),
  ],
)  # fmt: skip
def test_flags_that_cannot_be(arguments, message, capsys):
  assert run(*arguments) == 1
  assert capsys.readouterr().err.startswith("error: ") and message
  assert run(*arguments) == 1 and message in capsys.readouterr().err


def test_the_request_is_shown_with_its_version(tmp_path, capsys):
  captions = chat_server.write_captions(tmp_path / "sounds.csv", 1)
  shown = {}
  for type_ in (1, 2, 3):
    assert run(f"--type={type_}", "--kind=mcq", f"--captions={captions}", "--show_prompt") == 0
    shown[type_] = capsys.readouterr().out
  assert shown[1].startswith("# mcq-1.2\n") and shown[2].startswith("# mcq-2.2\n")
  assert shown[3] == shown[2] != shown[1]
  assert all("A dog barks at sound number 0" in text for text in shown.values())


def test_a_request_shown_as_plain_text_has_the_papers_layout(capsys):
  assert run("--type=1", "--kind=mcq", "--replies=text", "--show_prompt") == 0
  shown = capsys.readouterr().out
  assert shown.startswith("# mcq-1.1\n") and "Question: <the question>\na) <option>" in shown


@pytest.mark.parametrize("kind", ["mcq", "detail"])
def test_of_replies_in_json_nothing_is_lost(tmp_path, monkeypatch, kind):
  """Each reply keeps to the schema that its request names."""
  captions = chat_server.write_captions(tmp_path / "sounds.csv", 12)
  found = completion_styles.MCQ[0] if kind == "mcq" else completion_styles.DETAIL[0]
  pairs = [(q[0], tuple(q[1]), q[1][q[2]]) if kind == "mcq" else (q[0], (), q[1]) for q in found]
  reply = chat_server.as_json(pairs, kind), "stop"
  monkeypatch.setattr(chat_server, "completion", lambda number, kind, schema: reply)
  with chat_server.serving(kind, script=lambda n, attempt: "") as server:
    assert run(*flags(server, captions, tmp_path / "out", repeat_share=1)) == 0
  assert all(entry["schema"] == json_reply.response_format(kind) for entry in server.log)
  report = json.loads((tmp_path / "out/report.json").read_text())
  assert report["kept"] == 60 and report["rejected"] == 0


def test_a_server_that_takes_no_schema_is_asked_for_text(tmp_path, capsys):
  captions = chat_server.write_captions(tmp_path / "sounds.csv", 40)
  refuses = chat_server.serving("mcq", script=lambda n, attempt: "400 no such field")
  with refuses as server:
    assert run(*flags(server, captions, tmp_path / "out")) == 1
    assert "--replies=text asks for no schema" in capsys.readouterr().err
  with chat_server.serving("mcq", script=lambda n, attempt: "") as server:
    assert run(*flags(server, captions, tmp_path / "out", replies="text")) == 0
  assert not any(entry["schema"] for entry in server.log)
  assert json.loads((tmp_path / "out/rows.json").read_text())[0]["_prompt"] == "mcq-1.1"


def test_clips_that_are_excluded_are_counted(tmp_path, capsys):
  found = [{"id": f"Y{i}.wav", "caption": f"A dog barks at sound number {i}"} for i in range(3)]
  captions, lists = tmp_path / "as_final.json", tmp_path / "blacklist.json"
  captions.write_text(json.dumps({"data": found}))
  lists.write_text('{"AudioSet": ["Y0.wav", "Y2.wav", "Y9.wav"]}')
  with chat_server.serving("mcq", script=lambda n, attempt: "") as server:
    assert run(*flags(server, captions, tmp_path / "out", exclude=lists)) == 0
  assert server.answered() == {1: 1}
  assert f"{lists}: 2 clips of {captions} are left out\n" in capsys.readouterr().err
  assert json.loads((tmp_path / "out/report.json").read_text())["clips_excluded"] == 2


def test_synthesis_needs_no_jax():
  code = "import sys, mellow_jax.reasonaqa.commands.synthesize; sys.exit('jax' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True, cwd=TESTS.parent)
