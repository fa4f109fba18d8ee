"""Preferences by measured cost among programs that passed. Knows costs, not how they are measured.

A program's costs are of the same tests in several rounds. In each round every program of the problem runs once, so that
a machine that slows down slows all of them.

The rule: chosen's slowest round times `FACTOR` is below rejected's fastest. The rule withstands noise. If two programs
cost the same, each order of their 2 k rounds is equally likely. Then all k of one lie below all k of the other in 1 of
C(2 k, k) cases: 1 of 252 for 5 rounds. The factor covers what does not vary from round to round and is no merit, such
as code that lies better in memory.
"""

from collections.abc import Iterator, Sequence

from codescaler.data.prefer.preference import Preference, make_preference
from codescaler.data.programs import LabelledProblem
from codescaler.errors import InvalidInput

FACTOR = 1.2
MIN_ROUNDS = 5
RULE = (
    f"of two programs that passed every test, chosen's slowest of at least {MIN_ROUNDS} rounds times {FACTOR} is below "
    "rejected's fastest; the rounds of both took turns"
)


def is_clearly_cheaper(chosen: Sequence[float], rejected: Sequence[float], factor: float = FACTOR) -> bool:
    """Whether the slowest round of one times `factor` is below the fastest of the other.

    Raises: InvalidInput if the rounds are not as many of both, or fewer than `MIN_ROUNDS`.
    """
    if len(chosen) != len(rejected) or len(chosen) < MIN_ROUNDS:
        raise InvalidInput(
            f"costs of {len(chosen)} and {len(rejected)} rounds; measure both in the same {MIN_ROUNDS} rounds or more"
        )
    return max(chosen) * factor < min(rejected)


def make_efficiency_preferences(problem: LabelledProblem) -> Iterator[Preference]:
    """Yields every pair of programs that passed and were measured, where one is clearly cheaper."""
    measured = [program for program in problem.programs if program.passed and program.cost_seconds]
    rounds = {len(program.cost_seconds) for program in measured}
    if len(rounds) > 1 or any(number < MIN_ROUNDS for number in rounds):
        raise InvalidInput(
            f"the task {problem.task_id!r:.80} has costs of {sorted(rounds)} rounds; measure all of its programs in "
            f"the same {MIN_ROUNDS} rounds or more"
        )
    for chosen in measured:
        for rejected in measured:
            if chosen is not rejected and is_clearly_cheaper(chosen.cost_seconds, rejected.cost_seconds):
                evidence = {
                    "rule": f"max(chosen) * {FACTOR} < min(rejected)",
                    "chosen_seconds": list(chosen.cost_seconds),
                    "rejected_seconds": list(rejected.cost_seconds),
                }
                yield make_preference(problem, chosen, rejected, "efficiency", evidence)
