"""One preference: of two programs for one problem, which is better, in what, and how that is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codescaler.data.programs import LabelledProblem, Program

MEASURED_ASPECTS = ("correctness", "efficiency", "readability")


@dataclass(frozen=True)
class Preference:
    """`chosen` is better than `rejected` in `aspect`.

    Attributes:
        evidence: what was measured, and the rule that it satisfies.
        margin: training asks that chosen scores above rejected by this much more; 0 asks for the order alone.
        is_human: a person said so; else it was measured.
    """

    task_id: str
    prompt: str
    split: str | None
    chosen: Program
    rejected: Program
    aspect: str
    evidence: Mapping[str, Any]
    margin: float = 0.0
    is_human: bool = False


def make_preference(
    problem: LabelledProblem, chosen: Program, rejected: Program, aspect: str, evidence: Mapping[str, Any]
) -> Preference:
    """A measured preference between two programs of a problem."""
    return Preference(problem.task_id, problem.prompt, problem.split, chosen, rejected, aspect, evidence)
