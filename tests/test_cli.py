"""One line for what the caller can mend, for Ctrl-C, and for a reader of stdout that has gone."""

import importlib
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags

from mellow_jax import cli, config_help, parallel, train
from mellow_jax.errors import ConfigError, LateError


@pytest.mark.parametrize(
  ("flag", "line"),
  [
    ("--config.stepz=3", "unknown config field --config.stepz: --help_config lists"),
    ("--config.optim.rate=3", "unknown config field --config.optim.rate: --help_config"),
    ("--bogus", "Unknown command line flag 'bogus'; --help lists the flags"),
    ("word", "'word' is no flag: write --config=NAME"),
  ],
)
def test_a_wrong_flag_is_named_with_a_remedy(capsys, flag, line):
  f, argv = cli.flag_values(), ["mellow x", "--config=demo", flag]
  cli.define_config(f, argv)
  assert cli.run(argv, f, "Doc.", lambda f: 0, example="--config=NAME") == 1
  assert capsys.readouterr().err.startswith(f"error: {line}")


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("x =", "mend the file: SyntaxError: invalid syntax"),
    ("x = 1", "mend the file: AttributeError: "),
    ("def get_config(): return int('y')", "mend the file: ValueError: invalid literal"),
  ],
)
def test_a_broken_config_file_is_told_in_one_line(tmp_path, capsys, monkeypatch, text, line):
  monkeypatch.delitem(sys.modules, "config_config", raising=False)  # loaded by another test
  path = tmp_path / "own.py"
  path.write_text(text)
  assert _read_config(str(path)) == 1
  assert capsys.readouterr().err.startswith(f"error: flag --config={path}: {line}")


@pytest.mark.parametrize("name", ["demo", "finetune", "mellow", "esc10", "ablations"])
def test_an_unknown_argument_of_a_config_is_refused(capsys, name):
  assert _read_config(f"{name}:nope") == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"error: flag --config={name}:nope: {name}:nope: ")


def _read_config(value):
  f, argv = cli.flag_values(), ["mellow x", f"--config={value}"]
  cli.define_config(f, argv)
  return cli.run(argv, f, "Doc.", lambda f: 0, example="--config=NAME")


@pytest.mark.parametrize("flag", ["--dry_run", "--dry-run"])
def test_a_flag_is_taken_with_dashes_and_with_underscores(flag):
  f, found = cli.flag_values(), []
  flags.DEFINE_bool("dry_run", False, "Write nothing.", flag_values=f)
  flags.DEFINE_string("output_name", "", "A name.", flag_values=f)
  argv = ["mellow x", flag, "--output-name=a-b--c-d"]
  assert (
    cli.run(argv, f, "Doc.", lambda f: found.append((f.dry_run, f.output_name)), example="") == 0
  )
  assert found == [(True, "a-b--c-d")]


def test_a_config_field_is_taken_with_dashes():
  argv = ["mellow x", "--config=demo", "--config.batch-size=7", "--config.data.val-share=0.5"]
  f, found = cli.flag_values(), []
  cli.define_config(f, argv)
  assert cli.run(argv, f, "Doc.", lambda f: found.append(f.config), example="--config=NAME") == 0
  assert (found[0].batch_size, found[0].data.val_share) == (7, 0.5)


def test_an_old_name_of_a_flag_stands_for_the_new_one_and_is_not_in_the_help():
  f = cli.flag_values()
  flags.DEFINE_multi_string("data", [], "Rows.", flag_values=f)
  cli.define_old_name(f, "rows", "data")
  found = []
  do = lambda f: found.append(f.data)  # noqa: E731
  assert cli.run(["mellow x", "--rows=a", "--data=b"], f, "Doc.", do, example="") == 0
  assert found == [["a", "b"]]
  assert "--data" in cli.help_text("Doc.", f) and "--rows" not in cli.help_text("Doc.", f)


def test_help_config_lists_every_field_with_type_value_and_comment(capsys):
  argv = ["mellow x", "--config=demo", "--config.batch_size=7", "--help_config"]
  f = cli.flag_values()
  cli.define_config(f, argv)
  assert cli.run(argv, f, "Doc.", lambda f: pytest.fail("ran"), example="--config=NAME") == 0
  out = capsys.readouterr().out
  assert "--config.batch_size  int = 7\n    examples a step, over all devices\n" in out
  # From a base class; from the comment above the line.
  assert "--config.model.mapper.downsample  int = " in out
  assert '"": that of the last of init_from; "words": a token for each' in " ".join(out.split())
  found = [*config_help.fields(f.config)]
  assert len(found) > 90 and all(field.comment and field.type for field in found)


def test_help_config_without_a_config_says_what_is_missing(capsys):
  f = cli.flag_values()
  cli.define_config(f, ["mellow x"])
  argv = ["mellow x", "--help_config"]
  assert cli.run(argv, f, "Doc.", lambda f: 0, example="--config=NAME") == 1
  assert capsys.readouterr().err.startswith("error: --config is missing: name the config")


# What has the flag --device, by its module, and what else it wants.
WITH_DEVICE = {
  "ablate": ["--workdir=out"],
  "cache_features": ["--config=mellow", "--output=features"],
  "decide": ["--checkpoint=model", "a.wav", "--question=what?"],
  "evaluation.commands.predict": [
    "--checkpoint=model",
    "--benchmark=table",
    "--data=a.csv",
    "--output=a.jsonl",
  ],
  "evaluation.linear_probe": ["--checkpoint=model", "--train=a.json", "--test=a.json"],
  "generate": ["--checkpoint=model", "--audio=a.wav", "--prompt=what?"],
  "inspect": ["--checkpoint=model", "--audio=a.wav"],
  "serve": ["--checkpoint=model", "--port={port}"],
  "train": ["--config=demo", "--workdir=out"],
}


def test_what_has_the_flag_device_is_known():
  package = Path(cli.__file__).parent
  paths = (p for p in package.rglob("*.py") if "cli.define_device(" in p.read_text())
  assert {".".join(p.relative_to(package).with_suffix("").parts) for p in paths} == {*WITH_DEVICE}


@pytest.mark.parametrize(
  ("module", "device"),
  [*((module, "gpu") for module in WITH_DEVICE), ("generate", "tpu"), ("train", "tpu")],
)
def test_a_device_that_is_not_here_is_one_line(tmp_path, module, device):
  """A CPU does not take its place in silence."""
  if module == "serve":
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
  (tmp_path / "model").mkdir()
  (tmp_path / "model" / "config.json").write_text("no model")  # that would be told if it were read
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  code = f"import sys; from mellow_jax.{module} import main; sys.exit(main(sys.argv))"
  command = [sys.executable, "-c", code, f"--device={device}"]
  command += [flag.format(port=port) for flag in WITH_DEVICE[module]]
  environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TPU_SKIP_MDS_QUERY": "1"}
  done = subprocess.run(
    command, capture_output=True, text=True, check=False, env=environ, cwd=tmp_path, timeout=120
  )
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith(f"error: --device={device}: JAX finds none here")
  assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
  "module", ["decide", "evaluation.commands.predict", "generate", "inspect", "serve"]
)
def test_a_preset_that_is_none_is_one_line_before_anything_is_read(module, capsys):
  command = importlib.import_module(f"mellow_jax.{module}")
  assert command.main([f"mellow {module}", "--checkpoint=absent", "--preset=relase"]) == 1
  says = "error: flag --preset=relase: value should be one of <release|training|clean>\n"
  assert capsys.readouterr().err == says


def test_a_device_that_cannot_be_used_is_named_with_the_reason(monkeypatch):
  def fail():
    raise RuntimeError("Unable to initialize backend 'tpu': ABORTED: in use by process 7\nmore")

  monkeypatch.setattr(jax, "default_backend", fail)
  with pytest.raises(ConfigError, match=r"finds none here \(.*in use by process 7\): on a TPU VM"):
    parallel.require_device("tpu")


def test_a_level_of_logging_that_does_not_exist_is_one_line(capsys):
  assert train.main(["mellow train", "--verbosity=verbose"]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert "verbosity=verbose" in line and "debug|info|warning|error" in line
  argv = ["mellow train", "--verbosity=INFO"]
  f = train._flags(argv)
  f(argv)
  assert f.verbosity == "info"


def test_processes_that_are_late_ask_for_the_same_command_again(capsys):
  def late(f):
    raise LateError("the others are late")

  assert cli.run(["mellow x"], cli.flag_values(), "Doc.", late, example="--config=NAME") == 75
  assert capsys.readouterr().err == "error: the others are late\n"


def test_ctrl_c_ends_in_a_line(capsys):
  def interrupted(f):
    raise KeyboardInterrupt

  with pytest.raises(SystemExit, match="130"):
    cli.run(["mellow x"], cli.flag_values(), "Doc.", interrupted, example="--config=NAME")
  assert capsys.readouterr().err == "error: stopped by Ctrl-C\n"


def test_memory_that_does_not_suffice_is_a_line(capsys):
  argv, f = ["mellow x"], cli.flag_values()
  asks = lambda f: jax.numpy.zeros(2**45).block_until_ready()  # noqa: E731
  assert cli.run(argv, f, "Doc.", asks, example="--config=NAME") == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: the device has too little memory: lower the batch size")


def test_other_errors_of_jax_are_not_taken_for_a_lack_of_memory():
  def fails(f):
    raise jax.errors.JaxRuntimeError("INTERNAL: what nobody expected")

  with pytest.raises(jax.errors.JaxRuntimeError, match="nobody expected"):
    cli.run(["mellow x"], cli.flag_values(), "Doc.", fails, example="--config=NAME")


def test_a_command_works_where_stdout_is_closed():
  command = f"{shlex.quote(sys.executable)} -m mellow_jax generate --help >&-"
  done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")


def test_a_stdout_that_nobody_reads_ends_in_a_line():
  reader, writer = os.pipe()
  os.close(reader)
  command = [sys.executable, "-m", "mellow_jax", "--help"]
  done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
  os.close(writer)
  assert done.returncode == 1
  assert done.stderr == "error: the output was closed before its end\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"]])
def test_a_stdout_on_a_full_disk_ends_in_a_line(words):
  command = [sys.executable, "-m", "mellow_jax", *words]
  with Path("/dev/full").open("w") as full:
    done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
  assert done.returncode == 1
  assert done.stderr == "error: the disk is full: make room, or name another place\n"


@pytest.mark.parametrize(
  ("make", "remedy"),
  [
    (lambda path: path.mkdir(parents=True), "a file is there, where a folder is needed: name"),
    (lambda path: path.parent.mkdir(), "a file is there, where a folder is needed: name"),
    (lambda path: path.parent.parent.write_text(""), "it is a folder, where a file is needed"),
    (lambda path: (path.parent.parent / "absent").read_text(), "there is no such file or folder"),
  ],
)
def test_an_unusable_path_is_one_line_with_a_remedy(tmp_path, capsys, make, remedy):
  (tmp_path / "file").write_text("")
  path = tmp_path / "file" / "inner"
  assert cli.run(["x"], cli.flag_values(), "Doc.", lambda f: make(path), example="x") == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"error: {tmp_path}") and remedy in line and "Errno" not in line


@pytest.mark.parametrize(
  ("module", "flags"),
  [
    ("generate", ["--audio=a.wav", "--prompt=what?"]),
    ("decide", ["a.wav", "--question=what?"]),
    ("serve", []),
    ("inspect", ["--audio=a.wav"]),
    ("evaluation.commands.calibrate", ["--predictions=a.jsonl"]),
    ("evaluation.commands.predict", ["--benchmark=table", "--data=a.csv", "--output=a.jsonl"]),
    ("evaluation.linear_probe", ["--train=a.json", "--test=a.json"]),
  ],
)
def test_the_variable_names_the_model_of_each_command(module, flags, monkeypatch, capsys, tmp_path):
  """Without it all say the same line; with it they get beyond that."""
  command, argv = importlib.import_module(f"mellow_jax.{module}"), [f"mellow {module}", *flags]
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("MELLOW_CHECKPOINT", raising=False)
  assert command.main(argv) == 1
  line = "name a model folder, here or in the variable MELLOW_CHECKPOINT"
  # "starting ..." comes before, where importing takes long.
  assert capsys.readouterr().err.splitlines()[-1] == f"error: --checkpoint is missing: {line}"
  monkeypatch.setenv("MELLOW_CHECKPOINT", str(tmp_path / "absent"))
  assert command.main(argv) == 1
  assert "--checkpoint is missing" not in capsys.readouterr().err
