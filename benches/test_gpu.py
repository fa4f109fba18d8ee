"""The GPU kit where there is no GPU: a wrong kernel shows, a later call goes on, and TRL's loss is TRL's."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from benches.gpu.__main__ import main
from benches.gpu.parts import PARTS, Part
from benches.gpu.results import Results
from benches.gpu.training import compute_trl_loss
from codescaler.testing import save_chat, save_random_checkpoint

ROOT = Path(__file__).parents[1]

# Imported by the processes of a part: SwiGLU without its gate, which is finite and of the right shape.
PLANTED = """
import codescaler.kernels.glu as module
import torch

def glu(gate_up_TF2, y_TF, *, is_gelu):
    y_TF.copy_(gate_up_TF2[:, y_TF.shape[1]:])

module.glu = glu
"""


def run_kit(out, *options, **environment):
    command = [sys.executable, str(ROOT / "benches"), "gpu", "--small", "--out", str(out), *options]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment)
    return run.returncode, run.stdout, json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_a_planted_wrong_kernel_turns_its_row_red(tmp_path):
    (tmp_path / "planted.py").write_text(PLANTED)
    environment = {"PYTEST_PLUGINS": "planted", "PYTHONPATH": str(tmp_path)}
    status, table, results = run_kit(tmp_path / "out", "--only", "operations", **environment)
    verdicts = {row["name"]: row["is_ok"] for row in results["operations"]}
    assert status == 1
    assert verdicts == {"glu": False, "rms_norm": True, "time": True}
    assert "FAIL" in table
    status, table, results = run_kit(tmp_path / "out", "--only", "operations")
    assert (status, {row["is_ok"] for row in results["operations"]}) == (0, {True})


def test_a_part_that_dies_is_a_red_row_and_stops_no_other(tmp_path):
    environment = {"PYTEST_PLUGINS": "no_such_plugin"}
    status, _, results = run_kit(tmp_path / "out", "--only", "operations", "environment", **environment)
    assert status == 1
    (row,) = results["operations"]
    assert row["is_ok"] is False and row["fault"].startswith("exit status 1, see log.txt")
    assert results["environment"][-1] == results["environment"][-1] | {"name": "time", "is_ok": True}


def test_a_part_is_cut_off_when_its_time_is_up(tmp_path):
    status, _, results = run_kit(tmp_path / "out", "--only", "training", "--minutes", "0.05")
    assert status == 1
    assert results["training"][-1]["fault"] == "cut off after 3 s"


def test_a_later_call_goes_on_where_the_first_ended(tmp_path):
    part, counted = Part("a", "", 1), Part("b", "", 1, num_processes=2, is_counted=True)
    results = Results(tmp_path / "first")
    for name, is_ok in (("good", True), ("bad", False), ("time", False)):
        for some in (part, counted):
            results.parts.setdefault(some.name, [])
            results.add(some.name, {"name": name, "is_ok": is_ok, "figures": {"n": 1}, "fault": ""})
    later = Results(tmp_path / "second", earlier=tmp_path / "first" / "results.json")
    assert not later.is_finished("a")
    later.start(part)
    later.start(counted)
    assert later.list_names_done("a") == ["good"]
    assert later.list_names_done("b") == []
    assert Results(tmp_path / "first").parts == {}  # a call that is not told to resume shows nothing of before


def test_rows_that_processes_share_are_added_up(tmp_path):
    results = Results(tmp_path)
    results.start(Part("a", "", 1))
    for is_ok, fault in ((True, ""), (False, "wrong")):
        results.add("a", {"name": "n", "is_ok": is_ok, "figures": {"passed": 2}, "fault": fault})
    assert results.parts["a"] == [{"name": "n", "is_ok": False, "figures": {"passed": 4}, "fault": "wrong"}]


def test_every_part_is_a_module():
    for part in PARTS:
        assert (ROOT / f"benches/gpu/{part.name}.py").is_file()


def test_without_a_gpu_the_kit_says_what_to_do(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["--only", "environment", "--out", str(tmp_path)]) == 1
    assert "make gpu SMALL=1" in json.loads((tmp_path / "results.json").read_text())["environment"][0]["fault"]


def test_the_loss_in_trls_layout_is_trls(tmp_path):
    from benches.speed.train_speed import load_trl

    save_random_checkpoint(tmp_path, "qwen3", num_hidden_layers=1, vocab_size=300)
    save_chat(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|im_end|>"}'
    )
    pairs = [(torch.arange(3, 20), torch.arange(3, 9)), (torch.arange(5, 11), torch.arange(7, 40))]
    with tempfile.TemporaryDirectory() as out:
        trl = load_trl(tmp_path, out)
        expected = trl.compute_loss(pairs)
        expected.backward()
        gradients = {name: p.grad.clone() for name, p in trl.trainer.model.named_parameters()}
        trl.trainer.model.zero_grad()
        loss = compute_trl_loss(trl.trainer.model, [(a.tolist(), b.tolist()) for a, b in pairs], 0)
        loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in trl.trainer.model.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6), name
