"""The table of the paper's ablations: its systems, their sizes, and that nothing is done twice."""

import pytest

from mellow_jax import ablate, config, train
from mellow_jax.evaluation.commands import predict

SIZES = """
gpt2-linear-frozen          156,760,279
gpt2-nonlinear-frozen       157,351,639
gpt2-transformer-frozen     195,180,247
gpt2-linear                 156,760,279
gpt2-nonlinear              157,351,639
gpt2-transformer            195,180,247
smollm2-frozen              167,020,951
smollm2                     167,020,951
smollm2-lora8               167,481,751
smollm2-lora256             181,766,551
cnn14-smollm2               218,945,999
cnn14-gpt2                  209,522,447
"""


def test_sizes_as_the_command_prints_them(capsys):
  assert ablate.main(["mellow ablate", "--sizes"]) == 0
  assert capsys.readouterr().out.strip() == SIZES.strip()


@pytest.mark.parametrize("base", ["ablations", "ablations:paper"])
def test_every_system_is_a_run_that_can_be_carried_out(base):
  blocks = [block for block in ablate.BLOCKS if ":" in base or block != "data"]
  names = ablate.systems(blocks)
  assert len(names) == (15 if ":" in base else 11)
  seen = []
  for name in names:
    cfg = ablate.load(base, name)
    config.validate(cfg)
    assert any("decoder" in regex for regex in cfg.optim.freeze) == (
      "frozen" in name or "lora" in name
    )
    assert (cfg.model.decoder.kind, cfg.model.encoder.kind) == (
      "gpt2" if "gpt2" in name else "smollm2",
      "cnn14" if "cnn14" in name else "htsat",
    )
    assert cfg not in seen, f"{name} is another system's run"
    seen.append(cfg)


@pytest.fixture
def calls(monkeypatch):
  """What is trained and asked, in place of doing so; the first training is asked to stop."""
  found = []

  def option(argv, name):
    return next(word.split("=", 1)[1] for word in argv if word.startswith(f"--{name}="))

  def fake_train(argv):
    found.append((option(argv, "config"), [w for w in argv if w.startswith("--config.")]))
    if len(found) == 1:
      return 75
    folder = ablate.Path(option(argv, "workdir"))
    (folder / "model").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "val_loss": 2.0}\n')
    return 0

  def fake_predict(argv):
    found.append((option(argv, "audio"), option(argv, "output")))
    ablate.Path(option(argv, "output")).write_text("")
    return 0

  monkeypatch.setattr(train, "main", fake_train)
  monkeypatch.setattr(predict, "main", fake_predict)
  monkeypatch.setattr(ablate, "figures", lambda folder: {"yes/no": (97.0, 51.0)})
  return found


def test_systems_of_several_rows_are_trained_once_and_nothing_is_done_again(calls, tmp_path):
  argv = ["mellow ablate", f"--workdir={tmp_path}", "--rows=encoder,method", "--config.steps=9"]
  with pytest.raises(SystemExit) as stopped:
    ablate.main(argv)
  assert stopped.value.code == 75  # as training's: start the same command again
  assert ablate.main(argv) == 0
  trained = [call for call in calls if call[0].startswith("ablations")]
  names = ["cnn14-smollm2", "smollm2", "smollm2-frozen", "smollm2-lora8", "smollm2-lora256"]
  assert trained[1:] == [(f"ablations:{name}", ["--config.steps=9"]) for name in names]
  assert len(calls) - len(trained) == 2 * len(names)
  page = (tmp_path / "ablations.md").read_text()
  assert page.count("97.0 (51.0)") == 6 and "| HTSAT |" in page and "| fine-tuning |" in page
  assert (tmp_path / "curves.png").stat().st_size > 10_000
  done = len(calls)
  assert ablate.main(argv) == 0 and len(calls) == done


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ([], "--workdir is missing"),
    (["--workdir=x", "--rows=encoders"], "--rows=encoders: use projection, decoder"),
    (["--workdir=x", "--rows=data"], "needs the paper's data"),
    (["--workdir=x", "train"], "'train' is no flag"),
    (["--workdir=x", "--config=nosuch"], "--config=nosuch: no config of that name"),
    # What cannot be answered is not trained first.
    (["--workdir=x", "--config=ablations:paper"], "have no scenes of their own to answer: name"),
    (["--workdir=x", "--config.data.source=files"], "have no scenes of their own to answer: name"),
    (["--workdir=x", "--benchmark=mmau"], "--data is missing: name the files of --benchmark=mmau"),
    (["--workdir=x", "--benchmark=mmua", "--data=y"], "--benchmark=mmua is unknown: one of mmau,"),
    (["--workdir=x", "--benchmark=mmau", "--data=/nowhere"], "/nowhere: there is no such file"),
  ],
)
def test_what_cannot_be_done_is_one_line(words, message, calls, capsys):
  assert ablate.main(["mellow ablate", *words]) == 1
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1 and not calls


def test_the_systems_of_the_paper_answer_what_is_named(calls, tmp_path, capsys):
  table = tmp_path / "own.csv"
  argv = ["mellow ablate", f"--workdir={tmp_path}", "--config=ablations:paper", "--rows=encoder"]
  argv += ["--benchmark=table", f"--data={table}"]
  table.write_text("file,question\na.wav,is there rain?\n")
  assert ablate.main(argv) == 1 and not calls  # nothing could be scored
  assert "of the table has no answer: add the column answer" in capsys.readouterr().err
  table.write_text("file,question,answer\na.wav,is there rain?,yes\n")
  with pytest.raises(SystemExit):
    ablate.main(argv)
  assert [call[0] for call in calls] == ["ablations:paper/cnn14-smollm2"]
