"""Runs the measurements of whole models on a tiny one: their checks pass, their figures reach the table."""

import importlib
import json
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benches.harness import options, systems
from benches.harness import results as written
from benches.quality import tau
from benches.quality.test_ranking import write_groups
from benches.speed import compare, cpu, fusions, likelihood, scaling, scheduler, startup, threads
from codescaler.testing import QWEN3_0_6B, WORKLOADS, Workload, save_chat, save_random_checkpoint

TINY = replace(QWEN3_0_6B, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, num_kv_heads=1)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Tiny sizes under the names of real ones; figures go to a folder that only the test sees."""
    for shape in options.SHAPES:
        monkeypatch.setitem(options.SHAPES, shape, TINY)
    for name in ("bon8", "bon16", "pairs"):
        monkeypatch.setitem(WORKLOADS, name, Workload(70, (3, 40, 1, 9)))
    for script in (written, cpu, tau):
        monkeypatch.setattr(script, "RESULTS", tmp_path)
    for script in (compare, systems, threads):
        # Measured again and again, it takes most of the time.
        monkeypatch.setattr(script, "measure_peak_flops", lambda *_, **_2: 1e11)
    num_threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(num_threads)


ONCE = ("--dtype", "float32", "--rounds", "1", "--save")


def test_one_command_measures_everything(results, monkeypatch, capsys):
    """Each part's own main stands in for a process that runs it, and one failed run for the operations."""
    commands = []

    def run(command, cwd):
        commands.append(command[2:])
        is_operations = "pytest" in command
        status = 1 if is_operations else importlib.import_module(f"benches.speed.{command[2]}").main(command[3:])
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(cpu, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(startup, "DEFAULT_BATCH_TOKENS", 64)
    monkeypatch.setattr(scaling, "SWEEPS", {"N": (1, 8), "P": (0,), "R": (16,)})
    cpu.main(ONCE)
    figures = cpu.load(results, "0.6b", "float32")
    table = {figure: measured for figure, *_, measured in cpu.format_lines(figures)}
    missing = {figure.partition(": ")[2] or figure for figure, value in table.items() if value == cpu.MISSING}
    assert missing == {"times as fast as vLLM", "tree attention on bon8's tree, GFLOP/s"}
    assert float(table[f"time without the fusion, {fusions.FUSED}"]) == 1.0
    assert "FAIL:" in capsys.readouterr().out
    # Of a tiny model the libraries weigh more than the weights, so the third, memory, says nothing here.
    assert list(figures["startup"]["checks"].values())[:2] == [True, True], figures["startup"]
    assert 0 < figures["startup"]["memory"]["after_import_torch_bytes"] < figures["startup"]["memory"]["peak_bytes"]


def test_startup_is_judged():
    memory = {"peak_bytes": 1250, "after_import_torch_bytes": 0, "weight_bytes": 1000, "activation_bytes": 100}
    scores = {systems.OURS: 1.0, startup.TRANSFORMERS: 1.0, systems.VLLM: 1.0}
    seconds = {systems.OURS: 2.0, startup.TRANSFORMERS: 3.0, systems.VLLM: 17.0}

    def judged(**changes):
        arguments = {"medians": seconds, "scores": scores, "memory": memory, "dtype": "float32"} | changes
        return list(startup.make_checks(**arguments).values())

    assert judged() == [True, True, True, True]
    assert judged(scores=scores | {systems.OURS: 1.001}) == [False, True, True, True]
    assert judged(medians=seconds | {systems.OURS: 3.0}) == [True, False, True, False]
    assert judged(memory=memory | {"peak_bytes": 1251}) == [True, True, False, True]


def test_bfloat16_scores_are_judged_by_confirmed_float32_scores():
    truth = compare.Truth(np.array([1.0, -1.0], dtype=np.float32), num_confirmed=2, max_difference=1e-6)
    padded = truth.scores + np.float32(0.02)

    def judged(error, **changes):
        scores = {systems.OURS: truth.scores + np.float32(error), systems.PADDED: padded}
        return compare._judge(scores, replace(truth, **changes)).is_correct

    assert judged(0.04) and not judged(0.05) and not judged(float("nan"))
    assert not judged(0.04, max_difference=2e-4) and not judged(0.04, max_difference=float("nan"))


def test_threads_that_change_bits_are_found(results, monkeypatch):
    class Engine:
        def __init__(self):
            self.scheduler = SimpleNamespace(num_threads=1)

        def score_tokens(self, ids):
            return np.full(len(ids), self.scheduler.num_threads > 2, dtype=np.float32)

    class Factory:
        @staticmethod
        def from_pretrained(*_, **__):
            return Engine()

    monkeypatch.setattr(threads, "Engine", Factory)
    assert threads.main(["--rounds", "1", "--counts", "1", "2", "3", "--save"]) == 1
    (path,) = results.glob("threads_*.json")
    assert json.loads(path.read_text())["numbers_of_threads_that_change_bits"] == [3]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_likelihoods_beside_transformers(results, dtype):
    arguments = ["--dtype", dtype, "--rounds", "1", "--save"]
    assert likelihood.main(arguments) == 0
    record = json.loads((results / f"likelihood_bon8_0.6b_{dtype}.json").read_text())
    assert set(record["systems"]) == {likelihood.OURS, likelihood.THEIRS, likelihood.REWARD}
    assert record["systems"][likelihood.THEIRS]["speedup"] == 1.0
    assert 0 < record["error"] <= record["limit"]


def test_other_log_likelihoods_are_found():
    scores = np.float32([-10.0, -30.0])
    found = {likelihood.OURS: scores + np.float32(0.01), likelihood.THEIRS: scores}
    error, limit = likelihood._judge(found, None)
    assert error > limit
    error, limit = likelihood._judge(found, scores + np.float32(0.01))
    assert error < 1e-6 < 0.02 < limit


def test_concurrent_callers(results):
    """Whatever the machine does meanwhile, bits are the same, and tasks share all but one forward."""
    scheduler.main(["--dtype", "float32", "--rounds", "1", "--save"])
    figures = json.loads((results / "scheduler_0.6b_float32.json").read_text())
    assert set(figures["ratios"]) == {"threads", "queue"}
    assert figures["has_same_bits"] and figures["token_ratio"]["asyncio"] <= 2.0


def test_a_forward_with_other_scores_is_found(monkeypatch):
    monkeypatch.setitem(
        fusions.UNDONE, "GLU: PyTorch", (fusions.replace_in_decoder(glu=lambda _: lambda x, _: x[:, ::2]), False)
    )
    assert fusions.main([*ONCE]) == 1


def test_scaling(results):
    assert scaling.main([*ONCE, "--largest", "16"]) == 0
    curves = json.loads((results / "scaling_0.6b_float32.json").read_text())["curves"]
    assert [point["N"] for point in curves["N"]] == [1, 2, 4, 8, 16]
    assert [point["P"] for point in curves["P"]] == [0]
    assert curves["N"][0]["ideal_gain"] == curves["P"][0]["ideal_gain"] == 1.0
    assert curves["N"][3]["ideal_gain"] == pytest.approx(8 * 768 / (512 + 8 * 256))
    assert (results / "scaling_0.6b_float32.png").read_bytes().startswith(b"\x89PNG")


def test_tau(tmp_path, monkeypatch):
    save_random_checkpoint(tmp_path / "rm", "qwen3", vocab_size=300, pad_token_id=299)
    save_chat(tmp_path / "rm")
    write_groups(tmp_path / "groups.jsonl", num_problems=12)
    arguments = [str(tmp_path / "rm"), str(tmp_path / "groups.jsonl"), "--save", "tiny"]
    assert tau.main(arguments) in (0, 1)  # two programs a problem are too few to say
    figures = json.loads((tmp_path / "tau_tiny.json").read_text())
    assert figures["num_problems"] == figures["num_mixed_problems"] == len(figures["tau"][systems.OURS]) == 3
    assert tau.main([*arguments, "--minutes", "0"]) in (0, 1)
    assert json.loads((tmp_path / "tau_tiny.json").read_text())["num_problems"] == 1
    monkeypatch.setattr(tau.TransformersScorer, "score_tokens", lambda _, ids: range(len(ids)))
    monkeypatch.setattr(tau, "kendall_tau", lambda left, _: 0.994 + 0.006 * isinstance(left, range))
    assert tau.main(arguments) == 1


@pytest.mark.parametrize(
    "left, right, expected",
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 1, 2], [1, 2, 3], 2 / 6**0.5),
        ([1, 1, 1], [1, 2, 3], 0.0),
    ],
)
def test_kendalls_tau(left, right, expected):
    assert tau.kendall_tau(left, right) == pytest.approx(expected)
