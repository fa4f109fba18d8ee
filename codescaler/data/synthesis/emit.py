"""Judged walks to problems with majority-voted tests, to a card, and to data for fine-tuning the generator."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codescaler import __version__
from codescaler.data.prefer import leakage
from codescaler.io.files import write_text_file
from codescaler.io.records import read_lines
from codescaler.io.resumable import compute_file_digest
from codescaler.tasks import make_task_record
from codescaler.types import CallTests, StdioTests, Task, Tests

_NEARLY = 0.9  # of the largest share of a majority


def make_problem(record: Mapping[str, Any]) -> Task | None:
    """The problem that is kept of a judged walk, None if none is.

    Outputs of its tests are the majority's. The text shows the shortest of those that nearly the most agree on.
    """
    if record["kept"] is None:
        return None
    candidate = record["candidates"][record["kept"]]
    call, cases = candidate["entry_point"], candidate["cases"]
    given, output = choose_example(cases)
    example = (
        f"Example input:\n{given.strip()}\n\nExample output:\n{output.strip()}"
        if call is None
        else f"For example:\n\nassert {call}({given}) == {output}"
    )
    tests: Tests = (
        StdioTests(tuple((given, output) for given, output, _ in cases))
        if call is None
        else CallTests(tuple(f"assert {call}({given}) == {output}" for given, output, _ in cases), (call,))
    )
    return Task(
        f"synth/{record['task_id'].partition('/')[2]}",
        f"{candidate['statement']}\n\n{example}",
        tests,
        difficulty=f"{candidate['delta']:.4f}",
        license=" and ".join(record["licenses"]) or None,
        tags=tuple(record["concepts"]),
    )


def choose_example(cases: Sequence[tuple[str, str, float]]) -> tuple[str, str]:
    """The input and output of the shortest case whose share is at least 0.9 of the largest."""
    most = max(share for _, _, share in cases)
    agreed = [(given, output) for given, output, share in cases if share >= _NEARLY * most]
    return min(agreed, key=lambda case: len(case[0]) + len(case[1]))


def emit_problems(judged: Path, target: Path) -> int:
    """Writes the kept problems as tasks, and beside them a card; returns how many.

    One whose text is nearly that of an earlier one, or whose solution is the same under other names, is left out.
    """
    pairs = [(record, make_problem(record)) for _, _, record in read_lines(judged)]
    made = [(record, task) for record, task in pairs if task is not None]
    kept = leave_out_repeated(made)
    lines = [
        {**make_task_record(task), "seeds": record["seeds"], "generator": record["generator"]} for record, task in kept
    ]
    card = {
        "made_by": f"codescaler {__version__}",
        "source": {judged.name: compute_file_digest([judged])},
        "walks": len(pairs),
        "problems": len(kept),
        "left_out": {"another problem of the file, or nearly": len(made) - len(kept)},
        "tests": "outputs are those of a weighted majority of sampled solutions; nobody has checked them",
        "leakage": leakage.RULE,
        "problems_by_license": dict(sorted(Counter(name for record, _ in kept for name in record["licenses"]).items())),
        "seeds_shown": {task.task_id: [seed["task_id"] for seed in record["seeds"]] for record, task in kept},
        "concepts": {task.task_id: list(task.tags) for _, task in kept},
        "seeds_by_concept": dict(sorted(part for record, _ in kept for part in record["concept_seeds"].items())),
    }
    write_text_file(target.with_name(f"{target.name}.card.json"), json.dumps(card, indent=2) + "\n")
    write_text_file(target, "".join(f"{json.dumps(line)}\n" for line in lines))
    return len(kept)


def leave_out_repeated(problems: Sequence[tuple[Mapping[str, Any], Task]]) -> list[tuple[Mapping[str, Any], Task]]:
    """Those that are not nearly an earlier one, by their statements and by their solutions."""
    finder = leakage.LeakFinder(leakage.HeldOut(), ())  # what most say is no boilerplate here: it is what repeats
    kept = []
    for record, task in problems:
        candidate = record["candidates"][record["kept"]]
        statement, solution = candidate["statement"], candidate["solution"]
        if finder.find(task.task_id, statement) is None and finder.find_program(solution) is None:
            finder.add(task.task_id, statement, solution)
            kept.append((record, task))
    return kept


def emit_sft(judged: Path, target: Path) -> int:
    """Writes a conversation for each candidate, for fine-tuning the generator by rejection; returns how many.

    `kept` says whether it is the one to learn from. `rejected` is the reason of a gate, null if it only was easier.
    """
    lines = [
        {
            "task_id": f"{record['task_id']}/{place}",
            "messages": [
                {"role": "user", "content": record["prompt"]},
                {"role": "assistant", "content": candidate["answer"]},
            ],
            "kept": place == record["kept"],
            "delta": candidate.get("delta"),
            "rejected": candidate["rejected"],
        }
        for _, _, record in read_lines(judged)
        for place, candidate in enumerate(record["candidates"])
    ]
    write_text_file(target, "".join(f"{json.dumps(line)}\n" for line in lines))
    return len(lines)
