import dataclasses
import inspect
import math

import pytest

from codescaler.cli import _make_parser
from codescaler.errors import InvalidInput
from codescaler.train import TrainConfig
from codescaler.train.config import list_settings


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("method", "qlora", "choose one of 'full', 'lora', 'head'"),
        ("parallel", "pipeline", "choose one of"),
        ("dtype", "float16", "choose one of"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", math.nan, "above 0"),
        ("epochs", -1, "above 0"),
        ("max_steps", 0, "of at least 1"),
        ("max_steps", 2.5, "whole number"),
        ("step_tokens", True, "whole number"),
        ("warmup_fraction", 1.5, "at most 1"),
        ("weight_decay", "0.1", "give a number"),
        ("beta1", 1.0, "at most 0.999999"),
        ("gradient_checkpointing", 1, "True or False"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name, value, message):
    with pytest.raises(InvalidInput, match=f"{name}=.*{message}"):
        TrainConfig(**{name: value})


def test_the_learning_rate_rises_and_falls():
    config = TrainConfig(learning_rate=1.0, warmup_fraction=0.2, final_fraction=0.1)
    rates = [config.compute_learning_rate(step, 50) for step in range(50)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[30] == pytest.approx(0.55) and 0.1 < rates[-1] < 0.11
    assert TrainConfig(learning_rate=1.0).compute_learning_rate(0, 1) == 1.0


def test_each_method_has_a_learning_rate_of_its_own():
    assert [TrainConfig(method=m).peak_learning_rate for m in ("full", "lora", "head")] == [1e-5, 2e-4, 1e-3]


def test_a_setting_is_said_once_for_the_docstring_and_the_command_line(capsys):
    with pytest.raises(SystemExit):
        _make_parser().parse_args(["train", "--help"])
    shown, docstring = " ".join(capsys.readouterr().out.split()), inspect.getdoc(TrainConfig)
    settings = [*list_settings()]
    assert [setting.name for setting in settings] == [field.name for field in dataclasses.fields(TrainConfig)]
    for setting in settings:
        assert f"\n    {setting.name}: {setting.text}" in docstring
        assert f"--{setting.name.replace('_', '-')} " in shown and setting.text in shown
        assert all(said in setting.text for said in (setting.meaning, setting.default, setting.allowed))


def test_defaults_are_allowed_and_none_stands_only_where_its_meaning_is_said():
    for setting, field in zip(list_settings(), dataclasses.fields(TrainConfig), strict=True):
        setting.check(field.default)
        assert setting.may_be_none == (field.default is None) == (field.metadata["unset"] is not None)
