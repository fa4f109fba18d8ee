"""Suites by vote are counted as a loop counts them, and a problem's programs run in the real sandbox."""

import dataclasses

import pytest

from benches.quality import suites
from benches.quality.suites import Problem, run_problem, summarize
from codescaler.data.execution.outputs import parse_output
from codescaler.io.records import parse_group
from codescaler.sandbox import Limits, Sandbox
from codescaler.types import CallTests, Task


def row(text):
    return [None if word == "-" else parse_output(word) for word in text.split()]


def test_rates_are_those_of_held_out_programs(monkeypatch):
    monkeypatch.setattr(suites, "LEAST_SHARE", 0.5)
    right, wrong = row("1 2 3"), row("1 2 4")
    samples = [(right, True), (wrong, False), (right, True), (row("1 2 -"), True), (row("9 2 3"), False)]
    problem = Problem("t", 1, right, samples, [row("1 2 3"), row("- - -")])
    hard = Problem("u", 1, right, [(wrong, False)] * 5, [])
    rates = summarize([problem, hard])
    three = rates["by_voters"]["3"]
    assert (rates["problems"], rates["problems_that_count"]) == (2, 1)
    assert (three["correct"], three["TPR"]) == (2, 0.5)  # the fourth sample, and the reference
    assert (three["agreeing"], three["TPR_agreeing"]) == (1, 1.0)
    assert (three["wrong"], three["TNR"]) == (3, pytest.approx(2 / 3))
    assert (three["wrong_mutants"], three["TNR_mutants"]) == (2, 0.5)
    assert three["tests_of_a_suite"] == 3 and three["minimal_tests_of_a_suite"] == 2
    assert rates["by_accuracy"]["0% to 10%"]["TPR"] == 0.0
    failing = dataclasses.replace(problem, failed_shown=frozenset({1, 4}))  # the first three without the wrong one
    three = summarize([failing])["by_voters"]["3"]
    assert (three["TPR"], three["correct"]) == (0.5, 2) and three["TNR"] == pytest.approx(2 / 3)
    none = dataclasses.replace(problem, failed_shown=frozenset({0, 1}))
    assert summarize([none])["by_voters"]["3"]["without_suite"] == 1
    assert [rates["by_agreement"][least]["without_suite"] for least in ("0.0", "0.9")] == [0, 1]


def test_programs_run_on_own_and_made_inputs():
    task = Task("t", "p", CallTests(("assert f(2) == 4", "assert f(5) == 25"), ("f",)), "def f(x):\n    return x * x")
    codes = [("def f(x):\n    return x ** 2", True), ("def f(x):\n    return x + x", False), (None, False)]
    candidates = [{"code": code, "passed": passed} for code, passed in codes]
    group = parse_group({"task_id": "t", "prompt": "p", "candidates": candidates}, "group")
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=4.0), num_workers=1) as sandbox:
        problem = run_problem(sandbox, task, group, 6, 4)
    assert problem.num_own == 2 and [output.text for output in problem.reference[:2]] == ["4", "25"]
    assert len(problem.reference) > 4 and problem.accuracy == 0.5
    assert [output.key for output in problem.samples[0][0]] == [output.key for output in problem.reference]
    assert problem.mutants and all(len(each) == len(problem.reference) for each in problem.mutants)
