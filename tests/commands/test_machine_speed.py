"""`codescaler info --bench`, on shapes so small that a forward takes milliseconds."""

import json

import pytest
import torch

from codescaler import cli
from codescaler.commands import machine_speed
from codescaler.commands.machine_speed import LayerTimes, format_machine, measure_machine
from codescaler.testing import ModelShape

SMALL = {
    "a": ModelShape(64, 112, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16),
    "b": ModelShape(128, 224, num_layers=5, num_heads=4, num_kv_heads=2, head_dim=16),
}


def test_a_model_s_seconds_are_its_last_layer_and_the_others():
    assert LayerTimes(last=0.5, other=2.0).predict(1) == 0.5
    assert LayerTimes(last=0.5, other=2.0).predict(4) == 6.5


def test_every_shape_is_measured_in_a_large_budget():
    measured = measure_machine(SMALL, budget_s=1000.0)
    assert [(made["shape"], made["basis"]) for made in measured["shapes"]] == [("a", "a"), ("b", "b")]
    for made in measured["shapes"]:
        assert made["programs_per_s"] == pytest.approx(8 / made["seconds"])
        assert made["share_of_peak"] > 0
    assert min(measured["peak_flops"].values()) > 0
    assert measured["num_threads"] == torch.get_num_threads()


def test_without_time_the_smallest_is_measured_and_lends_its_share():
    measured = measure_machine(SMALL, budget_s=0.0)
    first, second = measured["shapes"]
    assert (first["basis"], second["basis"]) == ("a", "a")
    assert first["share_of_peak"] == second["share_of_peak"]
    assert "the share of a" in format_machine(measured)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_peak_is_measured_once_and_none_that_is_emulated(dtype, monkeypatch):
    measured = []
    monkeypatch.setattr(machine_speed, "choose_fastest_dtype", lambda: dtype)
    monkeypatch.setattr(machine_speed, "measure_peak_flops", lambda dtype, device: measured.append(dtype) or 1e9)
    assert [*measure_machine(SMALL, budget_s=1000.0)["peak_flops"]] == [*dict.fromkeys(("float32", dtype))]
    assert measured == [*dict.fromkeys((torch.float32, getattr(torch, dtype)))]


def test_the_command_prints_a_table_and_json(monkeypatch, capsys):
    monkeypatch.setattr(machine_speed, "measure_machine", lambda: measure_machine(SMALL, budget_s=0.0))
    assert cli.main(["info", "--bench", "--json"]) == 0
    bench = json.loads(capsys.readouterr().out)["bench"]
    assert bench["workload"] == "bon8"
    assert cli.main(["info", "--bench"]) == 0
    assert "share of peak" in capsys.readouterr().out
    assert cli.main(["info", "nano", "--bench"]) != 0
    assert "--bench measures this machine" in capsys.readouterr().err
