"""Votes of several programs on the output for an input, with the agreement as confidence. Runs nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from codescaler.data.execution.outputs import Output

Row = Sequence[Output | None]  # of one program: an output for each input


@dataclass(frozen=True)
class Vote:
    """The output that most programs give for an input.

    `share` is the weight of the programs that gave it, of the weight of all programs. A program without an output
    counts in the second. `output` is None where no program has one.
    """

    output: Output | None
    share: float


def hold_vote(rows: Sequence[Row], weights: Sequence[float] | None = None) -> list[Vote]:
    """The vote on each input. Of outputs with the same weight, the one that an earlier program gave wins."""
    weights = [1.0] * len(rows) if weights is None else weights
    total = sum(weights)
    return [_hold_vote_on(column, weights, total) for column in zip(*rows, strict=True)]


def _hold_vote_on(column: Row, weights: Sequence[float], total: float) -> Vote:
    sums: Counter[object] = Counter()
    first: dict[object, Output] = {}
    for output, weight in zip(column, weights, strict=True):
        if output is not None:
            first.setdefault(output.key, output)
            sums[output.key] += weight  # type: ignore[assignment]
    if not total or not sums:
        return Vote(None, 0.0)
    winner = max(first, key=lambda key: sums[key])  # the first of equals
    return Vote(first[winner], sums[winner] / total)


def weigh_programs(rows: Sequence[Row]) -> list[float]:
    """How far each program can be trusted: its mean agreement with the others, squared.

    The agreement on an input is the share of the other programs that gave the same output. A program that gives
    another output than all others weighs nothing.
    """
    counts = [Counter(output.key for output in column if output is not None) for column in zip(*rows, strict=True)]
    others = max(len(rows) - 1, 1)
    return [
        (sum(_count_others(output, count) for output, count in zip(row, counts, strict=True)) / len(row) / others) ** 2
        if row
        else 0.0
        for row in rows
    ]


def _count_others(output: Output | None, count: Counter[object]) -> int:
    return 0 if output is None else count[output.key] - 1


def hold_weighted_vote(rows: Sequence[Row]) -> list[Vote]:
    """The vote in which programs weigh what `weigh_programs` says; a plain one where nobody agrees with anybody."""
    weights = weigh_programs(rows)
    return hold_vote(rows, weights if any(weights) else None)


def measure_agreement(votes: Sequence[Vote]) -> float:
    """The mean share of the majority over the inputs for which some program has an output, 0 without such an input.

    The others are mostly not legal.
    """
    shares = [vote.share for vote in votes if vote.output is not None]
    return sum(shares) / len(shares) if shares else 0.0


def compute_disagreement(rows: Sequence[Row]) -> float:
    """The difficulty of QueST: delta = 1 - (1 / T) sum_t max_o #{m: out(m, t) = o} / M, over T inputs, M programs.

    A program without an output agrees with nobody. Inputs as in `measure_agreement`; without such an input it is 1.
    """
    return 1.0 - measure_agreement(hold_vote(rows))
