import dataclasses
import math

import pytest

from codescaler.commands.train import _TRAIN_SETTINGS
from codescaler.errors import InvalidInput
from codescaler.train import TrainConfig


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
    rates = [config.learning_rate_at(step, 50) for step in range(50)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[30] == pytest.approx(0.55) and 0.1 < rates[-1] < 0.11
    assert TrainConfig(learning_rate=1.0).learning_rate_at(0, 1) == 1.0


def test_each_method_has_a_learning_rate_of_its_own():
    assert [TrainConfig(method=m).peak_learning_rate for m in ("full", "lora", "head")] == [1e-5, 2e-4, 1e-3]


def test_the_command_has_an_option_for_each_setting():
    assert [*_TRAIN_SETTINGS] == [field.name for field in dataclasses.fields(TrainConfig)]
