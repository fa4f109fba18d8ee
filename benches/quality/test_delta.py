"""Delta of real programs in the sandbox, and ranks beside scipy's definition by a loop."""

import numpy as np
import pytest

from benches.quality.delta import Measured, measure_problems, summarize
from codescaler.io.records import parse_group
from codescaler.metrics import rank
from codescaler.sandbox import Limits, Sandbox
from codescaler.types import CallTests, Task


def test_correlations_are_of_ranks():
    draw = np.random.default_rng(0)
    measured = [Measured(str(n), "abc"[n % 3], n % 3, n % 3 + draw.random(), float(draw.random())) for n in range(60)]
    found = summarize(measured)["spearman"]
    assert found["delta, level"]["mean"] == pytest.approx(
        np.corrcoef(rank([m.level for m in measured]), rank([m.delta for m in measured]))[0, 1]
    )
    assert found["delta, level"]["interval"][0] > 0.8 > found["fails, level"]["mean"]


def test_programs_that_disagree_have_a_larger_delta():
    tests = CallTests(("assert f(2) == 4", "assert f(5) == 25"), ("f",))
    tasks = {name: Task(name, "p", tests, difficulty=level) for name, level in (("a", "Easy"), ("b", "Hard"))}
    codes = {"a": ["x * x", "x ** 2", "x * x"], "b": ["x * x", "x + 7", "1 / 0"]}
    groups = [
        parse_group(
            {
                "task_id": name,
                "prompt": "p",
                "candidates": [{"code": f"def f(x):\n    return {c}", "passed": c in ("x * x", "x ** 2")} for c in of],
            },
            name,
        )
        for name, of in codes.items()
    ]
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=4.0), num_workers=1) as sandbox:
        easy, hard = measure_problems(sandbox, tasks, groups, 6)
    assert (easy.name, easy.level, easy.delta, easy.fails) == ("easy", 1, 0.0, 0.0)
    assert (hard.level, hard.fails) == (4, pytest.approx(2 / 3)) and hard.delta == pytest.approx(2 / 3)
