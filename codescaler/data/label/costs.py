"""Labelled groups to groups with `cost_seconds`: what programs that passed take for their task's tests, in rounds."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from codescaler.data.label.labels import find_task, index_tasks
from codescaler.data.prefer.efficiency import MIN_ROUNDS
from codescaler.errors import InvalidInput
from codescaler.io.records import read_lines
from codescaler.io.resumable import ResumableFile, compute_digest, compute_file_digest
from codescaler.types import Task, Tests

Costs = tuple[float, ...]


class Meter(Protocol):
    """What measures programs: `codescaler.sandbox.Sandbox`."""

    def measure_many(
        self, jobs: Iterable[tuple[Sequence[str], Tests]], *, num_rounds: int
    ) -> Iterator[list[Costs | None]]:
        """Yields the costs of each problem's programs, None of one that could not be measured."""
        ...


def measure_groups(
    labelled: Path,
    tasks: Iterable[Task],
    target: Path,
    meter: Meter,
    *,
    num_rounds: int = MIN_ROUNDS,
    limits: Mapping[str, Any],
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Writes the groups of a file with `cost_seconds` of each candidate that passed, where there are two to compare.

    A killed run goes on. Returns how many programs this run measured, and how many of them it could not.

    Raises: InvalidInput if there are fewer than `MIN_ROUNDS` rounds, a group has no task, or as `ResumableFile`.
    """
    if num_rounds < MIN_ROUNDS:
        raise InvalidInput(f"num_rounds={num_rounds}; fewer than {MIN_ROUNDS} tell too little, give more")
    by_id = index_tasks(tasks)
    used = [find_task(record, name, by_id) for name, _, record in read_lines(labelled)]
    settings = {
        "groups": compute_file_digest([labelled]),
        "tests": compute_digest(repr((task.task_id, task.tests)) for task in used),
        "num_rounds": num_rounds,
        "limits": dict(limits),
    }
    num_measured = num_failed = 0
    with ResumableFile(target, settings) as output:
        advance(len(output.done))
        records = [record for _, _, record in read_lines(labelled)]
        rest = list(output.skip_done(records, lambda record: str(record["task_id"])))
        compared = [_select_compared(record, by_id[str(record["task_id"])]) for record in rest]
        jobs = ((codes, tests) for codes, tests in compared if tests is not None)
        measured = meter.measure_many(jobs, num_rounds=num_rounds)
        for record, (codes, tests) in zip(rest, compared, strict=True):
            costs = dict(zip(codes, next(measured), strict=True)) if tests is not None else {}
            num_measured += len(costs)
            num_failed += sum(cost is None for cost in costs.values())
            output.write({**record, "candidates": [_add_cost(c, costs) for c in record["candidates"]]})
            advance(1)
    return num_measured, num_failed


def _select_compared(record: Mapping[str, Any], task: Task) -> tuple[list[str], Tests | None]:
    """The distinct programs that passed, and their tests; None if there are not two to compare."""
    codes = list(dict.fromkeys(c["code"] for c in record["candidates"] if c["code"] is not None and c.get("passed")))
    return (codes, task.tests) if len(codes) > 1 else ([], None)


def _add_cost(candidate: Mapping[str, Any], costs: Mapping[str, Costs | None]) -> dict[str, Any]:
    kept = {key: value for key, value in candidate.items() if key != "cost_seconds"}
    cost = costs.get(candidate["code"]) if candidate.get("passed") else None
    return kept if cost is None else kept | {"cost_seconds": list(cost)}
