"""Wrong programs are wrong by every isolation and for every user, and in the same way each time."""

import pytest

from benches.quality.steady import run_busy_processes

from .wrong_programs import TIMEOUT, WRONG


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_program_is_wrong(anyones_sandbox, name):
    code, tests, allowed = WRONG[name]
    verdict = anyones_sandbox.run(code, tests)
    assert verdict.passed is False, verdict
    assert set(verdict.outcomes) <= set(allowed), verdict


def test_a_verdict_does_not_depend_on_what_else_the_machine_does(sandbox):
    """`python benches steady` does so with every wrong program, fifty times."""
    names = ["computes for ever", "returns what a pattern cannot stand", "leaves children that still live"]
    with run_busy_processes(4):
        for name in names:
            code, tests, _ = WRONG[name]
            verdict = sandbox.run(code, tests)
            assert verdict.outcomes == TIMEOUT, verdict
