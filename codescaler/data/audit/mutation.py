"""Which changes of a reference a suite lets pass, and which of these do the same on all inputs that were tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codescaler.data.execution.outputs import Capturer, Interface, Output, collect_outputs
from codescaler.types import Verdict


@dataclass(frozen=True)
class Survivor:
    """A mutant that passes all tests, and an input on which it differs from the reference, with both outputs."""

    code: str
    arguments: str
    expected: str
    seen: str | None


@dataclass(frozen=True)
class Mutation:
    """What became of the mutants of a reference.

    Attributes:
        made, killed: mutants, and those that a test rejects.
        equivalent: those that pass, and differ on no input that was tried. unknown: those that pass, where no input
            could be made.
        survivors: those that pass, and differ.
    """

    made: int
    killed: int
    equivalent: int
    unknown: int
    survivors: tuple[Survivor, ...]

    @property
    def score(self) -> float | None:
        """The share of killed mutants of those that differ for certain; None if there is none."""
        counted = self.killed + len(self.survivors)
        return self.killed / counted if counted else None


def classify_mutants(
    runner: Capturer,
    verdicts: Mapping[str, Verdict],
    interface: Interface | None,
    inputs: Sequence[str],
    expected: Sequence[Output | None],
) -> Mutation:
    """Compares the mutants that passed with the reference, whose outputs are `expected`, on some inputs."""
    passed = [code for code, verdict in verdicts.items() if verdict.passed]
    killed = sum(verdict.passed is False for verdict in verdicts.values())
    if interface is None or not any(output is not None for output in expected):
        return Mutation(len(verdicts), killed, 0, len(passed), ())
    survivors = []
    jobs = [(code, interface, inputs) for code in passed]
    for code, outputs in zip(passed, collect_outputs(runner, jobs), strict=True):
        place = find_difference(expected, outputs)
        if place is not None:
            reference, seen = expected[place], outputs[place]
            assert reference is not None
            survivors.append(Survivor(code, inputs[place], reference.text, None if seen is None else seen.text))
    return Mutation(len(verdicts), killed, len(passed) - len(survivors), 0, tuple(survivors))


def find_difference(expected: Sequence[Output | None], outputs: Sequence[Output | None]) -> int | None:
    """The place of the first output that is not the expected one, where one is expected."""
    pairs = zip(expected, outputs, strict=True)
    return next((i for i, (a, b) in enumerate(pairs) if a is not None and get_key(b) != a.key), None)


def get_key(output: Output | None) -> Any:
    """The key of an output; no output has one that nothing else has."""
    return ("no output",) if output is None else output.key
