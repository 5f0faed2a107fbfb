"""A config that cannot be carried out is refused at once; a dict becomes what it was made of."""

import dataclasses
import json
import operator
import typing
from typing import ClassVar, Literal

import pytest
import tiny

from configs import demo, esc10, finetune, mellow
from mellow_jax import config
from mellow_jax.config import Config, DataConfig, HTSATConfig, ModelConfig, OptimConfig
from mellow_jax.errors import ConfigError

FILES = DataConfig(train="a.json", val="b.json", tokenizer="words", preset="clean")


def files(**changes):
  return tiny.run(data=dataclasses.replace(FILES, **changes))


@pytest.mark.parametrize(
  ("cfg", "message"),
  [
    (tiny.run(steps=0), "config.steps 0 must be at least 1"),
    (tiny.run(seed=2**31), "config.seed 2147483648 must be from 0 to 2**31 - 1"),
    (tiny.run(optim=OptimConfig(ema=1.0)), "config.optim.ema 1.0 must be in [0, 1)"),
    (
      tiny.run(batch_size=12, accumulate=4),
      "config.batch_size 12 does not divide over 2 devices in 4 parts (config.accumulate)",
    ),
    (files(train=""), "config.data.train is empty: give --config.data.train=PATH"),
    (files(tokenizer=""), "no tokenizer: give --config.data.tokenizer=FOLDER or"),
    (files(val=""), "config.data.val is empty: give --config.data.val=PATH, or"),
    (files(val_share=2.0, val=""), "config.data.val is empty: give --config.data.val=PATH, or"),
    (files(train="a.json,b.json", weights=(1.0,)), "(1.0,): 1 for the 2 sources of config."),
    (files(train="a.json,b.json", weights=(1.0, 0.0)), "(1.0, 0.0): each must be more than 0"),
    (
      files(cache_clips=True, preset="training"),
      "config.data.cache_clips: preset 'training' crops at random",
    ),
    (files(max_bad_fraction=float("nan")), "config.data.max_bad_fraction nan must be in [0, 1]"),
    (files(source="tfds"), "config.data.source 'tfds': use files, scenes"),
  ],
)
def test_a_run_that_cannot_be_carried_out_is_refused(cfg, message):
  with pytest.raises(ConfigError) as caught:
    config.validate(cfg, devices=2)
  assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", config.CHOICES)
def test_an_unknown_name_is_refused_with_those_that_are_known(name):
  cfg = tiny.run()
  owner, _, field = name.rpartition(".")
  setattr(operator.attrgetter(owner)(cfg) if owner else cfg, field, "neither")
  with pytest.raises(ConfigError, match=f"config.{name} 'neither': use ") as caught:
    config.validate(cfg)
  assert operator.attrgetter(name)(Config()) in str(caught.value)


def test_every_fault_has_its_line():
  cfg = files(train="", threads=0)
  cfg.steps = 0
  with pytest.raises(ConfigError) as caught:
    config.validate(cfg)
  lines = str(caught.value).splitlines()
  assert [line.split()[0] for line in lines] == [
    *("config.steps", "config.data.threads", "config.data.train")
  ]


def test_what_reads_no_rows_needs_none():
  config.validate(files(train=""), reads_data=False)
  cfg = tiny.run()
  config.validate(cfg, devices=8)
  for made in (demo.get_config(), tiny.get_config()):
    config.validate(made)
  tuned = finetune.get_config("lora")
  with pytest.raises(ConfigError, match="init_from is empty"):
    config.validate(tuned, reads_data=False)
  tuned.init_from = ("weights/mellow",)
  real = [esc10.get_config(arg) for arg in esc10.ARGUMENTS]
  for made in (mellow.get_config(), tuned, *real):
    config.validate(made, reads_data=False)


@pytest.mark.parametrize("made", [Config(), demo.get_config(), mellow.get_config()])
def test_a_config_is_what_its_json_says(made):
  assert config.from_dict(Config, json.loads(json.dumps(dataclasses.asdict(made)))) == made


@pytest.mark.parametrize("name", ["encoder", "mapper", "decoder"])
def test_the_kind_of_a_part_is_that_of_its_class(name):
  model = ModelConfig()
  getattr(model, name).kind = "other"
  with pytest.raises(ConfigError, match=f"{name}.kind 'other' belongs to another class than this"):
    config.validate_model(model)
  content = json.loads(json.dumps(dataclasses.asdict(model)))
  with pytest.raises(ConfigError, match=f"'{name}' is of kind 'other'; this version reads "):
    config.from_dict(ModelConfig, content)


def test_an_unknown_field_is_refused():
  with pytest.raises(ConfigError, match=r"unknown config field encoder\.'ears'; known: kind, "):
    config.from_dict(ModelConfig, {"encoder": {"ears": 2}})
  with pytest.raises(ConfigError, match="config field 'encoder' holds 3, where fields belong"):
    config.from_dict(ModelConfig, {"encoder": 3})


# --- Fields of several classes -------------------------------------------------------------------


@dataclasses.dataclass(kw_only=True)
class Swin:
  kind: Literal["swin"] = "swin"
  width: int = 96
  depths: tuple[int, ...] = (2, 2)


@dataclasses.dataclass(kw_only=True)
class Convolutions:
  kind: Literal["convolutions"] = "convolutions"
  width: int = 64


@dataclasses.dataclass(kw_only=True)
class Constant:
  kind: ClassVar[str] = "constant"
  width: int = 1


@dataclasses.dataclass(kw_only=True)
class Choice:
  encoder: Swin | Convolutions | Constant = dataclasses.field(default_factory=Swin)
  several: typing.Union[Convolutions, Swin] = dataclasses.field(default_factory=Swin)  # noqa: UP007


@pytest.mark.parametrize("one", [Swin(width=8, depths=(1,)), Convolutions(width=8)])
def test_a_dict_becomes_the_class_that_it_was_made_of(one):
  made = Choice(encoder=one, several=one)
  assert config.from_dict(Choice, json.loads(json.dumps(dataclasses.asdict(made)))) == made


def test_a_constant_names_its_class_as_well():
  found = config.from_dict(Choice, {"encoder": {"kind": "constant", "width": 3}})
  assert found.encoder == Constant(width=3)


def test_a_dict_without_kind_is_of_the_default_class():
  assert config.from_dict(Choice, {"encoder": {"width": 8}}).encoder == Swin(width=8)
  assert config.from_dict(Choice, {"several": {"width": 8}}).several == Swin(width=8)


def test_no_class_becomes_another():
  with pytest.raises(
    ConfigError, match="'encoder' is of kind 'cnn14'; this version reads swin, conv"
  ):
    config.from_dict(Choice, {"encoder": {"kind": "cnn14", "width": 8}})
  with pytest.raises(
    ConfigError, match=r"unknown config field encoder\.'depths'; known: kind, wid"
  ):
    config.from_dict(Choice, {"encoder": {"kind": "convolutions", "depths": [1]}})
  content = {"encoder": dataclasses.asdict(Convolutions(width=8))}
  with pytest.raises(ConfigError, match="'encoder' is of kind 'convolutions'; this version reads"):
    config.from_dict(ModelConfig, content)
  assert config.from_dict(ModelConfig, {"encoder": {"width": 8}}).encoder == HTSATConfig(width=8)
