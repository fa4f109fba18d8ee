"""Preferences by tests: which of two programs passed more of them. Knows verdicts only."""

from collections.abc import Iterator

from codescaler.data.prefer.preference import Preference, make_preference
from codescaler.data.programs import LabelledProblem, Program
from codescaler.errors import InvalidInput

RULES = {
    "all": "chosen passed every test, rejected did not (CodeScaler, arXiv:2602.17684)",
    "acecoder": "chosen passed at least 0.8 of the tests, rejected more than none and at least 0.4 less (AceCoder, "
    "arXiv:2502.01718)",
}
# In tenths, so that 0.8 - 0.4 is 0.4.
_MIN_RATE_TENTHS, _MIN_GAP_TENTHS = 8, 4


def make_correctness_preferences(problem: LabelledProblem, rule: str = "all") -> Iterator[Preference]:
    """Yields every pair of programs that satisfies a rule of `RULES`.

    Raises: InvalidInput if the rule is unknown, or needs the number of tests where a program has none.
    """
    if rule not in RULES:
        raise InvalidInput(f"rule {rule!r} is unknown; choose one of {', '.join(RULES)}")
    for chosen in problem.programs:
        for rejected in problem.programs:
            is_better = (
                chosen.passed and not rejected.passed if rule == "all" else _is_acecoder(chosen, rejected, problem)
            )
            if is_better:
                yield make_preference(problem, chosen, rejected, "correctness", _make_evidence(chosen, rejected, rule))


def _is_acecoder(chosen: Program, rejected: Program, problem: LabelledProblem) -> bool:
    (good, of_good), (bad, of_bad) = _count_tests(chosen, problem), _count_tests(rejected, problem)
    # The rates are good / of_good and bad / of_bad; both sides are multiplied out, which keeps them whole.
    return (
        10 * good >= _MIN_RATE_TENTHS * of_good
        and 10 * (good * of_bad - bad * of_good) >= _MIN_GAP_TENTHS * of_good * of_bad
        and bad > 0
    )


def _count_tests(program: Program, problem: LabelledProblem) -> tuple[int, int]:
    if program.passed_tests is None or not program.num_tests:
        raise InvalidInput(
            f"the task {problem.task_id!r:.80} has a program with passed_tests {program.passed_tests} of num_tests "
            f"{program.num_tests}; the rule acecoder needs both: label again, or use the rule all"
        )
    return program.passed_tests, program.num_tests


def _make_evidence(chosen: Program, rejected: Program, rule: str) -> dict[str, object]:
    tests = {
        name: {"passed_tests": program.passed_tests, "num_tests": program.num_tests}
        for name, program in (("chosen", chosen), ("rejected", rejected))
    }
    return {"rule": rule, **tests}
