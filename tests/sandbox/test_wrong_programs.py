"""Wrong programs are wrong by every isolation and for every user, and in the same way each time."""

import pytest

from .wrong_programs import WRONG


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_program_is_wrong(anyones_sandbox, name):
    code, tests, allowed = WRONG[name]
    verdict = anyones_sandbox.run(code, tests)
    assert verdict.passed is False, verdict
    assert set(verdict.outcomes) <= set(allowed), verdict
