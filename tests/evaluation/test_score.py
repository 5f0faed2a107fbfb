"""Scoring, probing and comparing files of answers, as the commands do it."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import made_predictions
import numpy as np
import pytest

from mellow_jax import evaluate
from mellow_jax.evaluation.benchmarks import prediction_files
from mellow_jax.evaluation.benchmarks.items import Item, Prediction
from mellow_jax.evaluation.metrics import free_text, intervals, rules
from mellow_jax.evaluation.metrics.coco_java import Settings
from mellow_jax.evaluation.report import content, grounding, published, sections, summary

NO_JAVA = ("--java=/nowhere/java",)  # METEOR alone would start for ten seconds


def run(*arguments):
  return evaluate.main(["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """What one model says to all kinds of questions, with the clips and with probes; another's."""
  folder, asked = tmp_path_factory.mktemp("answers"), made_predictions.items(400)
  made = {"checkpoint_sha256": "a1", "preset": "clean"}
  return {
    name: made_predictions.write(folder / f"{name}.jsonl", asked, skill, seed=seed, **fields)
    for seed, (name, skill, fields) in enumerate(
      [
        ("hears", 0.8, {"items": 400, **made}),
        ("noise", 0.1, {"heard": "noise", **made}),
        ("shuffled", 0.1, {"heard": "shuffled", **made}),
        ("permuted", 0.8, {"orders": 3, **made}),
        ("other", 0.3, {}),
      ]
    )
  }


def test_a_report_says_what_was_measured_how_and_how_sure(files, tmp_path, capsys):
  probes = [f"--probe={files[name]}" for name in ("noise", "shuffled", "permuted")]
  out = tmp_path / "report"
  assert run("score", f"--predictions={files['hears']}", *probes, f"--output={out}", *NO_JAVA) == 0
  shown = capsys.readouterr().out
  assert "The model listens" in shown and str(out / "report.html") in shown
  found = json.loads((out / "report.json").read_text())
  assert found["unanswered"] == 0 and found["predictions"]["settings"]["preset"] == "clean"
  parts = {part["kind"]: part for part in found["sections"]}
  assert set(parts) == {"choice", "binary", "entailment", "text"}
  choice = parts["choice"]["lines"][0]
  assert choice["low"] < choice["value"] < choice["high"] and choice["n"] == 100
  assert choice["value"] == pytest.approx(85, abs=10)  # 80% known and a quarter of the rest
  assert parts["choice"]["baselines"]["random"] == 25
  assert {one["key"] for one in parts["choice"]["groups"]} == {"difficulty"}  # one subtype is none
  lines = {line["name"]: line for line in parts["text"]["lines"]}
  assert (
    lines["CIDEr-D [regex]"]["value"]
    > 3 * parts["text"]["baselines"]["the same texts dealt to other items"]
  )
  for name in ("CIDEr-D [ptb]", "METEOR [ptb]", "SPICE [ptb]", "SPIDEr [ptb]"):
    assert lines[name]["value"] is None and "--java" in lines[name]["reason"]
  html = (out / "report.html").read_text()
  assert html.count("<svg") >= 7 and not re.search(r'(src|href)="http', html)
  for text in ("How sure", "400 items", "n/a", "The model listens", "By difficulty"):
    assert text in html
  markdown = (out / "report.md").read_text()
  assert "**How sure.**" in markdown and "## Does it listen?" in markdown
  assert re.search(r"METEOR \[ptb\], SPICE \[ptb\], SPIDEr \[ptb\] \| n/a \|.*--java", markdown)
  assert not list(out.glob("*.part"))


def test_questions_that_could_not_be_asked_are_counted_wrong_and_named(files, tmp_path, capsys):
  rows = [json.loads(line) for line in files["hears"].read_text().splitlines()]
  # Of each kind the first that is right becomes a failure, and every seventh.
  failed = {row["item"]["kind"]: i for i, row in reversed([*enumerate(rows)]) if i % 7 == 0}
  for i in failed.values():
    rows[i] |= {"prediction": "", "failure": f"{i}.wav: is empty: get it again"}
  path = tmp_path / "some.jsonl"
  path.write_text("\n".join(map(json.dumps, rows)))
  assert run("score", f"--predictions={path}", f"--output={tmp_path}", *NO_JAVA) == 0
  shown = capsys.readouterr().out
  assert f"{len(failed)} of 400 questions could not be asked and count as wrong answers: " in shown
  report = json.loads((tmp_path / "report.json").read_text())
  expected = {rows[i]["item"]["id"]: rows[i]["failure"] for i in failed.values()}
  assert report["not_asked"] == expected
  assert all(name in (tmp_path / "report.md").read_text() for name in expected)
  assert sum(part["items"] for part in report["sections"]) == 400  # none is dropped
  # It is as if the model had said nothing, but no style of answering is blamed, and the reference's
  # rule, which takes nothing for "a", does not take this for an answer.
  for i in failed.values():
    del rows[i]["failure"]
  path.write_text("\n".join(map(json.dumps, rows)))
  assert run("score", f"--predictions={path}", f"--output={tmp_path}", *NO_JAVA) == 0
  silent = json.loads((tmp_path / "report.json").read_text())
  for part, other in zip(report["sections"], silent["sections"], strict=True):
    for line, same in zip(part["lines"], other["lines"], strict=True):
      if not line["name"].startswith("letter_reference"):
        assert (line["name"], line["value"]) == (same["name"], same["value"])
    assert sum(f["count"] for f in part["failures"]) <= sum(f["count"] for f in other["failures"])


@pytest.mark.parametrize(
  ("kind", "benchmark"),
  [
    ("choice", "mmau"),
    ("choice", "table"),
    ("entailment", "cle"),
    ("binary", "clothoaqa"),
    ("text", "table"),
  ],
)
def test_no_question_that_could_not_be_asked_is_right_by_any_rule(kind, benchmark):
  failed = [
    Prediction(item=item, benchmark=benchmark, prompt="?", prediction="", failure="no audio")
    for item in made_predictions.items(40, kinds=(kind,))
  ]
  (section,) = sections.split(failed)
  lines = summary.summarise(section, Settings(java="/nowhere/java"), seed=0).lines
  # BLEU of nothing is not quite 0, as in the reference.
  assert max(line.value for line in lines if line.value is not None) < 1e-9
  assert {line.unread for line in lines} <= {None, 0.0}
  if kind in ("choice", "entailment"):  # an empty answer that was given is the reference's "a"
    silent = [dataclasses.replace(p, failure="") for p in failed]
    share = np.mean([rules.gold_letter(p) == "a" for p in silent])
    assert 0 < share == rules.judge(rules.REFERENCE, silent)[0].mean()


def test_a_question_that_could_not_be_asked_leaves_the_figures_of_log_likelihoods():
  said = [
    Prediction(
      item=item,
      benchmark="scenes",
      prompt="?",
      prediction="a)",
      option_log_probs=tuple((-1.0 if c == item.answer else -9.0, 2) for c in item.choices),
    )
    for item in made_predictions.items(10, kinds=("choice",))
  ]
  told = " Of 9 of 10 questions: the others could not be asked."

  def measured():
    (section,) = sections.split(said)
    part = summary.summarise(section, Settings(), seed=0)
    lines = {line.name: line.value for line in part.lines if "loglik" in line.name}
    counted = sum(one.count for one in part.calibration)
    return lines, counted, content.calibration_text(part).endswith(told)

  names = ("option_loglik [sum]", "option_loglik [per token]")
  assert measured() == (dict.fromkeys(names, 100.0), 10, False)
  said[3] = dataclasses.replace(said[3], prediction="", option_log_probs=(), failure="no audio")
  assert measured() == (dict.fromkeys(names, 90.0), 9, True)


def test_a_report_on_a_part_of_a_benchmark_says_so(tmp_path, capsys):
  asked = made_predictions.items(12, kinds=("choice",))
  path, whole = tmp_path / "p.jsonl", "1000 multiple-choice questions on sound, music and speech"
  beside = "Figures that others printed, only where the same rule scored the same benchmark."
  for settings, part, said in (
    ({"limit": 0, "quarantine_sha256": ""}, "", ["Every item has its answer."]),
    (
      {"limit": 12, "quarantine_sha256": "ab"},
      "the first 12 items, without rows in quarantine",
      [
        "Every item that was asked has its answer. Only the first 12 items were asked (--limit).",
        "Rows in quarantine were not asked (--quarantine).",
      ],
    ),
    (
      {"missing_audio": ["a.wav", "b.wav"]},
      "without items about 2 absent clips",
      ["Every item that was asked has its answer. 2 clips were not there"],
    ),
    (
      {"items": 20},
      "without 8 items that have no answer",
      ["8 items have no answer and are left out of every figure."],
    ),
  ):
    made_predictions.write(path, asked, 0.5, benchmark="mmau", **{"items": 12, **settings})
    assert run("score", f"--predictions={path}") == 0
    shown = capsys.readouterr().out
    assert f"{whole} ({part})\n" in shown if part else f"{whole}\n" in shown
    theirs = f" Theirs are of all its items; ours: {part}." if part else ""
    assert f"{beside}{theirs}\n" in shown
    assert all(text in shown for text in said)


@pytest.mark.parametrize(
  ("skills", "said"),
  [
    # With its clips, with noise, with other items' clips.
    ((0.8, 0.1, 0.1), "The model listens: "),
    # Noise upsets a deaf model, too: that another item's clips cost it nothing gives it away.
    ((0.3, 0.0, 0.3), "The model answers without listening: "),
    ((0.3, 0.3, 0.3), "The model answers without listening: "),
  ],
)
def test_the_report_tells_a_model_that_listens_from_one_that_does_not(
  tmp_path, capsys, skills, said
):
  asked = made_predictions.items(900, kinds=("choice", "binary"))
  paths = [
    made_predictions.write(tmp_path / f"{heard}.jsonl", asked, skill, heard=heard, seed=i)
    for i, (heard, skill) in enumerate(zip(("clips", "noise", "shuffled"), skills, strict=True))
  ]
  probes = [f"--probe={path}" for path in paths[1:]]
  assert run("score", f"--predictions={paths[0]}", *probes) == 0
  shown = capsys.readouterr().out
  assert re.search(f"^{said}.*other items' clips.*$", shown, re.M)
  assert shown.count("The model ") == 1


@pytest.mark.parametrize(("clips", "listens"), [(0.0004, False), (0.02, True)])
def test_a_sure_difference_of_nothing_is_no_listening(clips, listens):
  """As of a captioner whose captions are all wrong, with noise in fewer words."""
  loss = grounding.Loss(
    **{"section": "caption", "pooled": False, "probe": "noise", "figure": "CIDEr-D", "unit": ""},
    **{"n": 80, "clips": clips, "probed": 0.0, "low": clips / 2, "high": 2 * clips, "p": 0.0001},
    **{"same_text": 0.0, "same_option": None},
  )
  assert grounding._verdict([loss])[0] is listens


def test_sections_of_different_sizes_are_pooled(tmp_path, capsys):
  """Repeated, as the annotations of a list are checked at one of its places, drawn anew."""
  asked = made_predictions.items(7, kinds=("choice", "binary"))
  clips = made_predictions.write(tmp_path / "clips.jsonl", asked, 0.5, seed=1)
  noise = made_predictions.write(tmp_path / "noise.jsonl", asked, 0.3, heard="noise", seed=2)
  for _ in range(8):
    assert run("score", f"--predictions={clips}", f"--probe={noise}") == 0
  assert "Whether the model listens" in capsys.readouterr().out


def test_few_items_decide_nothing(files, tmp_path, capsys):
  asked = made_predictions.items(16, kinds=("binary",))
  clips = made_predictions.write(tmp_path / "clips.jsonl", asked, 0.5, seed=1)
  noise = made_predictions.write(tmp_path / "noise.jsonl", asked, 0.3, heard="noise", seed=2)
  assert run("score", f"--predictions={clips}", f"--probe={noise}") == 0
  shown = capsys.readouterr().out
  assert "Whether the model listens is not decided here, 16 items are too few to say: " in shown


@pytest.mark.parametrize(
  ("right", "said", "interval"),
  [
    # Of right answers with clips, each wrong with noise. 1 - 0.025 ** (1 / 3) = 0.7076.
    ("111", "not decided here, 3 items are too few to say", "-41.5 to 100.0"),
    # The bootstrap's interval is above 0, but the paired test has p > 0.05.
    ("1111000", "not decided here, 7 items are too few to say", "14.3 to 85.7"),
    ("1" * 12, "The model listens", "47.1 to 100.0"),
  ],
)
def test_the_model_listens_only_where_interval_and_paired_test_agree(
  tmp_path, capsys, right, said, interval
):
  asked = [
    dataclasses.replace(item, answer="yes")
    for item in made_predictions.items(len(right), kinds=("binary",))
  ]
  clips, noise = (
    made_predictions.write(tmp_path / f"{heard}.jsonl", asked, 1, heard=heard)
    for heard in ("clips", "noise")
  )
  for path, answers in ((clips, right), (noise, "0" * len(right))):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, yes in zip(rows, answers, strict=True):
      row["prediction"] = "yes" if yes == "1" else "no"
    path.write_text("\n".join(map(json.dumps, rows)))
  assert run("score", f"--predictions={clips}", f"--probe={noise}") == 0
  shown = capsys.readouterr().out
  assert said in shown and f"95% interval {interval}, {len(right)} items, p " in shown


def test_an_interval_of_values_that_are_all_alike_is_no_certainty():
  alike, share = np.full(20, 2.5), 1 - 0.025 ** (1 / 20)
  assert intervals.interval(alike, seed=0) == (None, None)
  rows = np.ones((20, 2))
  assert intervals.interval_of(rows, lambda s: s[:, 0] / s[:, 1], seed=0) == (None, None)
  ends = 2.5 * (1 - share) - 10 * share, 2.5 * (1 - share) + 10 * share
  assert intervals.difference_interval(alike, seed=0, most=10.0) == pytest.approx(ends)
  most = 100 * np.ones(20)
  assert intervals.percent_interval(most, seed=0) == pytest.approx((100 * 0.025 ** (1 / 20), 100))
  assert intervals.percent_interval(0 * most, seed=0) == pytest.approx((0, 100 * share))


def test_the_permuted_options_of_an_item_are_one_trial(files):
  many = prediction_files.read(files["permuted"])
  assert many.permuted and len(many.predictions) == 800
  for section in sections.split(many.predictions):
    if section.kind == "choice":
      part = summary.summarise(section, Settings(), seed=0)
      assert (part.items, part.answers) == (100, 300)
      assert part.lines[0].n == 100


def test_other_models_files_are_joined_to_the_questions(tmp_path, reference_data, capsys):
  """MMAU's own form: a list, the texts as model_output."""
  data = reference_data / "meta/mmau"
  rows = json.loads((data / "mmau-test-mini.json").read_text())
  said = [{"id": row["id"], "model_output": row["answer"]} for row in rows[:-10]]
  path = tmp_path / "others.json"
  path.write_text(json.dumps(said))
  flags = (f"--predictions={path}", "--benchmark=mmau", f"--data={data}", *NO_JAVA)
  assert run("score", *flags, f"--output={tmp_path}/out") == 0
  found = json.loads((tmp_path / "out/report.json").read_text())
  (part,) = found["sections"]
  lines = {line["name"]: line["value"] for line in part["lines"]}
  assert lines["mmau_official"] == lines["mmau_official [as written]"] == 100
  assert lines["letter_reference [whole]"] < 1 and lines["option-text accuracy"] == 100
  assert found["unanswered"] == 10
  paper = [one for one in part["beside"] if one["value"] == 61.26]
  assert [(one["group"], one["ours"]) for one in paper] == [("sound", pytest.approx(0, abs=1))]
  assert "10 items have no answer" in (tmp_path / "out/report.md").read_text()


def test_contradicting_annotators_are_scored_by_majority_and_where_they_agree():
  votes = {"is it rain?": ["yes", "yes", "no"], "is it wind?": ["no", "no", "no"]}
  predictions = [
    Prediction(
      item=Item(id=f"{question}{i}", kind="binary", audio1="a.wav", question=question, answer=one),
      benchmark="clothoaqa",
      prompt=question,
      prediction="yes" if "rain" in question else "another",
    )
    for question, given in votes.items()
    for i, one in enumerate(given)
  ]
  (section,) = sections.split(predictions)
  lines = {one.name: one for one in summary.summarise(section, Settings(), seed=0).lines}
  assert lines["yes_or_no"].value == pytest.approx(100 / 3) and lines["yes_or_no"].unread == 50
  assert lines["contains"].value == pytest.approx(500 / 6)  # "no" is in "another"
  assert (lines["yes_or_no [majority]"].value, lines["yes_or_no [majority]"].n) == (50, 2)
  assert (lines["yes_or_no [unanimous]"].value, lines["yes_or_no [unanimous]"].n) == (0, 1)


def test_entailment_by_text_and_by_the_references_labels():
  asked = made_predictions.items(60, kinds=("entailment",))
  predictions = [
    Prediction(
      item=item,
      benchmark="cle",
      prompt="?",
      # Every "plausible" is taken for "definitely false"; the last answer is no option.
      prediction="who knows?"
      if item is asked[-1]
      else "b) It is definitely false"
      if "plausible" in item.answer
      else f"{'abcd'[item.choices.index(item.answer)]}) {item.answer}",
    )
    for item in asked
  ]
  (section,) = sections.split(predictions)
  part = summary.summarise(section, Settings(), seed=0)
  lines = {one.name: one.value for one in part.lines}
  assert lines["option neutral"] == 0 and lines["letter_reference contradiction"] == 0  # swapped
  assert part.confusion["neutral"].keys() <= {"contradiction", "no option"}
  paper = {one.figure: ours for one, ours in part.beside}
  assert paper["letter_reference accuracy"] == lines["letter_reference accuracy"]
  assert [one.reason for one in part.failures] == ["no option named"]


@pytest.mark.parametrize("write", ["{letter}", "{letter}) {text}", "{text}"])
def test_letters_are_those_of_the_order_in_which_options_were_shown(write):
  for item in made_predictions.items(8, kinds=("choice",)):
    order = (2, 0, 3, 1)
    shown = [item.choices[i] for i in order]
    said = Prediction(
      item=item,
      benchmark="scenes",
      prompt="?",
      prediction=write.format(letter="abcd"[shown.index(item.answer)], text=item.answer),
      order=order,
    )
    judged = {rule.name: rule.judge(said) for rule in rules.of_kind("choice", [said])}
    letter, text = "{letter}" in write, "{text}" in write
    assert judged["option"] is True
    assert judged["letter_strict"] is (True if letter else None)
    assert judged["option-text accuracy"] is (True if text else None)
    assert judged["mmau_official"] is text
    # Whatever holds no letter counts as "a".
    assert judged["letter_reference"] is (letter or shown[0] == item.answer)


def test_option_log_likelihoods_are_scored_where_they_are_given():
  (item,) = made_predictions.items(1, kinds=("choice",))
  right = item.choices.index(item.answer)
  scores = tuple((-1.0 if i == right else -9.0, 2) for i in range(4))
  said = Prediction(
    item=item,
    benchmark="scenes",
    prompt="?",
    prediction="",
    order=(3, 2, 1, 0),
    option_log_probs=scores,
  )
  names = {rule.name: rules.judge(rule, [said])[0][0] for rule in rules.of_kind("choice", [said])}
  assert names["option_loglik [sum]"] == names["option_loglik [per token]"] == 1
  assert names["option"] == 0
  without = dataclasses.replace(said, option_log_probs=())
  assert not any("loglik" in rule.name for rule in rules.of_kind("choice", [without]))


def test_two_models_are_compared_on_the_same_items(files, tmp_path, capsys):
  out = tmp_path / "compare.json"
  assert run("compare", files["hears"], files["other"], f"--output={out}") == 0
  shown = capsys.readouterr().out
  assert "multiple choice: A is better" in shown and "McNemar, exact" in shown
  found = {(d["section"], d["figure"]): d for d in json.loads(out.read_text())["differences"]}
  d = found["yes/no", "yes_or_no"]
  assert d["only_first"] - d["only_second"] == pytest.approx(
    (d["first"] - d["second"]) * d["n"] / 100
  )
  assert d["low"] < d["first"] - d["second"] < d["high"] and d["p"] < 0.01
  assert found["text rows", "CIDEr-D [regex]"]["test"] == "permutation"
  assert run("compare", files["hears"], files["hears"]) == 0
  assert "no difference beyond chance" in capsys.readouterr().out


def test_files_that_answer_other_items_are_not_compared(files, tmp_path, capsys):
  lines = files["other"].read_text().splitlines()
  short, other = tmp_path / "short.jsonl", tmp_path / "other.jsonl"
  short.write_text("\n".join(lines[:-3]))
  other.write_text("\n".join([lines[0].replace("what is heard?", "what?"), *lines[1:]]))
  for path, said in (
    (short, "answers 3 items that .*short.jsonl does not"),
    (other, "'q0' is another item"),
    (files["noise"], "--probe"),
    (files["permuted"], "--probe"),
  ):
    assert run("compare", files["hears"], path) == 1
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1


ROW = json.dumps(
  {
    "row": 0,
    **dataclasses.asdict(
      Prediction(
        item=made_predictions.items(1)[0], benchmark="scenes", prompt="?", prediction="a) x"
      )
    ),
  }
)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", "holds no rows"),
    (ROW[:-20], "line 1: is not JSON"),
    (ROW + "\n" + ROW, "line 2: row 0 is there already, in line 1"),
    ('{"id": "q0", "prediction": "a"}', "--benchmark and --data"),
    ("[1]", "row 0 .from 0.: is int, not an object"),
    (ROW.replace('"a) x"', "7"), "prediction 7 is no text"),
    (ROW.replace('"choice"', '"choice", "colour": 1'), "is no prediction"),
    (ROW.replace('"order": []', '"order": [0, 0, 1, 2]'), r"order \[0, 0, 1, 2\]"),
    (re.sub(r'"answer": "[^"]*"', '"answer": ""', ROW), "not published"),
    (
      ROW + "\n" + ROW.replace('"row": 0', '"row": 1').replace('"clips"', '"noise"'),
      "several values of heard",
    ),
  ],
)
def test_a_file_that_cannot_be_scored_is_refused_in_one_line(tmp_path, capsys, text, said):
  path = tmp_path / "bad.jsonl"
  path.write_text(text)
  assert run("score", f"--predictions={path}") == 1
  error = capsys.readouterr().err
  assert re.search(said, error) and "bad.jsonl" in error and error.count("\n") == 1


def test_probes_that_do_not_fit_are_refused(files, tmp_path, capsys):
  other = made_predictions.write(
    tmp_path / "n.jsonl", made_predictions.items(8), 0.5, heard="noise", checkpoint_sha256="b2"
  )
  for plain, probe, said in (
    ("hears", other, "checkpoint_sha256"),
    ("hears", files["other"], "it probes nothing"),
    ("noise", files["shuffled"], "--predictions"),
  ):
    assert run("score", f"--predictions={files[plain]}", f"--probe={probe}") == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ((), "a command is missing"),
    (("judge",), "'judge' is no command"),
    (("score",), "--predictions is missing"),
    (("score", "x.jsonl"), "is no flag"),
    (("score", "--predictions=/nowhere.jsonl"), "cannot be read"),
    (("score", "--predictions=a", "--data=b"), "--benchmark is missing"),
    (("compare", "a.jsonl"), "1 files are named"),
    (("doctor", "--dta=x"), "dta"),
    (("doctor", "--data=/nowhere"), "--data=/nowhere: there is no such folder"),
  ],
)
def test_wrong_flags_are_said_in_one_line(capsys, arguments, said):
  assert run(*arguments) == 1
  error = capsys.readouterr().err
  assert said in error and error.count("\n") == 1


def test_scoring_starts_without_jax(files):
  code = (
    "import sys; from mellow_jax import evaluate; "
    f"status = evaluate.main(['evaluate', 'compare', {str(files['hears'])!r}, "
    f"{str(files['other'])!r}]); "
    "from mellow_jax.evaluation.commands import doctor, score; "
    "sys.exit(status or any(m.split('.')[0] in ('jax', 'flax', 'torch') for m in sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def test_mcnemar_is_the_binomial_test():
  assert intervals.mcnemar(0, 0) == 1
  assert intervals.mcnemar(3, 3) == 1
  assert intervals.mcnemar(0, 6) == pytest.approx(2 / 64)
  assert intervals.mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)


def test_intervals_hold_what_they_promise():
  """Of 200 samples of a known mean some 95% of intervals hold it; the same seed, the same ends."""
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(200):
    low, high = intervals.interval((rng.random(60) < 0.3).astype(float), seed=1)
    held += low <= 0.3 <= high
  assert 180 <= held <= 199
  values = rng.standard_normal(50)
  assert intervals.interval(values, seed=3) == intervals.interval(values, seed=3)
  rows = np.stack([values, np.ones(50)], axis=1)
  assert intervals.interval_of(rows, lambda s: s[:, 0] / s[:, 1], seed=3) == pytest.approx(
    intervals.interval(values, seed=3)
  )


def test_the_permutation_test_finds_a_difference_and_none():
  rng = np.random.default_rng(0)
  assert intervals.permutation(rng.standard_normal(100) + 1, seed=0) < 0.01
  assert intervals.permutation(np.tile([1.0, -1.0], 50), seed=0) > 0.9


def predicted(said, answer, benchmark="reasonaqa", kind="text", question="what?", **groups):
  item = Item(
    id=f"{answer}/{said}/{groups}",
    kind=kind,
    audio1="a.wav",
    question=question,
    answer=answer,
    references=(answer,) if kind == "text" else (),
    groups=groups,
  )
  return Prediction(item=item, benchmark=benchmark, prompt=question, prediction=said)


def test_short_answers_lead_with_right_or_wrong_word_for_word():
  said = [predicted("two", "two", task="detail"), predicted("a dog barks", "dog", task="detail")]
  (section,) = sections.split(said)
  part = summary.summarise(section, Settings(java="/nowhere/java"), seed=0)
  assert (part.lines[0].name, part.lines[0].value) == ("word-for-word accuracy [regex]", 50)
  assert [one.name for one in sections.headline(section)] == ["word-for-word accuracy [regex]"]
  described = [predicted("a", "a dog barks at a man", task="detail"), *said]
  (section,) = sections.split(described)
  part = summary.summarise(section, Settings(java="/nowhere/java"), seed=0)
  assert part.lines[0].name == "CIDEr-D [regex]"


def test_the_audio_1_is_belongs_to_captions_alone():
  lead = "The audio 1 is a dog"
  assert free_text.compared(predicted(lead, lead, task="caption")) == ("a dog", ("a dog",))
  assert free_text.compared(predicted(lead, lead, task="difference")) == (lead, (lead,))


def test_the_benchmarks_of_reasonaqa_stand_apart_beside_the_papers_figures():
  verdicts = ("It is definitely true", "It is definitely false", "It is plausible")
  said = [
    dataclasses.replace(one, item=dataclasses.replace(one.item, choices=verdicts), order=(0, 1, 2))
    for subtype in ("CLE", "ACE")
    for verdict in verdicts
    for one in [predicted(verdict, verdict, kind="entailment", subtype=subtype, task="entailment")]
  ]
  found = {part.name: summary.summarise(part, Settings(), seed=0) for part in sections.split(said)}
  assert list(found) == ["entailment, CLE", "entailment, ACE"]
  for name, accuracy in (("CLE", 91.16), ("ACE", 89.66)):
    part = found[f"entailment, {name}"]
    figures = {line.name: line.value for line in part.lines}
    assert figures["option macro F1"] == figures["option neutral"] == 100
    mellow = {p.figure: p.value for p, _ in part.beside if p.model == "Mellow, 167M"}
    assert mellow["letter_reference accuracy"] == accuracy and len(mellow) == 7
  (part,) = sections.split([predicted("yes", "yes", kind="binary", subtype="ClothoAQA")])
  beside = summary.summarise(part, Settings(), seed=0).beside
  assert {p.model: p.value for p, _ in beside}["SALMONN, 13B"] == 23.1


def test_tables_3_6_and_7_are_as_printed():
  values = {(p.benchmark, p.figure, p.group, p.model): p.value for p in published.FIGURES}
  assert values["mmau", "letter_reference [whole]", "hard", "Mellow, 167M"] == 32.89
  assert values["mmau", "mmau_official [as written]", "easy", "Gemini Pro v1.5"] == 57.04
  assert values["acd-3", "SPICE [ptb]", "", "Mellow, 167M"] == pytest.approx(0.187)
  assert values["clotho", "SPICE [ptb]", "", "SALMONN, 13B"] == pytest.approx(0.076)
  assert values["clothoaqa", "contains", "", "GAMA, 7B"] == 71.6


def test_a_report_made_again_keeps_its_probes(files, tmp_path, capsys):
  plain, out = f"--predictions={files['hears']}", f"--output={tmp_path}/report"
  assert run("score", plain, f"--probe={files['noise']}", out, *NO_JAVA) == 0
  shown = capsys.readouterr().out
  head, line = shown.splitlines()[2:4]
  assert head.startswith("task") and set(line) == {"-", " "}
  assert run("score", plain, out, *NO_JAVA) == 0
  assert "probe of the earlier report: " in capsys.readouterr().err
  assert json.loads((tmp_path / "report/report.json").read_text())["probes"]["losses"]
  assert run("score", plain, "--probe=", out, *NO_JAVA) == 0
  assert not json.loads((tmp_path / "report/report.json").read_text())["probes"]
