"""Whether programs that pass a suite agree with its reference on inputs that the suite does not have."""

from collections.abc import Sequence
from dataclasses import dataclass

from codescaler.data.execution.outputs import Capturer, Interface, Output, collect_outputs
from codescaler.data.execution.votes import hold_vote
from codescaler.data.programs import compute_form

MIN_PROGRAMS = 3  # that differ in more than names; two may share one slip
_MAX_PROGRAMS = 12


@dataclass(frozen=True)
class Contradiction:
    """An input on which most programs that pass the suite give another output than the reference."""

    arguments: str
    reference: str
    majority: str
    share: float


def find_contradictions(
    runner: Capturer,
    programs: Sequence[str],
    interface: Interface,
    inputs: Sequence[str],
    expected: Sequence[Output | None],
) -> list[Contradiction]:
    """Inputs on which more than half of at least three strong programs agree on another output than the reference.

    Programs that differ in names only count once. An input for which the reference gives nothing may be no legal one,
    and does not count.
    """
    distinct = list({compute_form(code): code for code in programs}.values())[:_MAX_PROGRAMS]
    if len(distinct) < MIN_PROGRAMS or not inputs:
        return []
    rows = list(collect_outputs(runner, [(code, interface, inputs) for code in distinct]))
    return [
        Contradiction(text, reference.text, vote.output.text, vote.share)
        for text, reference, vote in zip(inputs, expected, hold_vote(rows), strict=True)
        if reference is not None and vote.output is not None and vote.output.key != reference.key and vote.share > 0.5
    ]
