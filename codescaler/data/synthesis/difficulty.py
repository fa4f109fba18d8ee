"""How hard a new problem is, estimated by how far solutions of a language model disagree, and which one is kept.

For each candidate statement a model writes inputs and solutions. Inputs are calls, which are varied, or programs that
make them for a whole program. Solutions run on the inputs in the sandbox. `delta` is 1 minus the mean share of the
majority output (`compute_disagreement`). Of the candidates of a walk the one with the largest delta is kept, if the
mean share is at least `floor`: where nobody agrees with anybody, the problem is usually broken. Source: QueST, arXiv
2510.17715. The floor is ours.
"""

import ast
import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codescaler.data.execution.outputs import Capturer, Interface, Output, collect_outputs
from codescaler.data.execution.votes import Vote, compute_disagreement, hold_weighted_vote
from codescaler.data.prefer.leakage import HeldOut, LeakFinder
from codescaler.data.sample.sampling import Completion, Request, Sampler, Sampling
from codescaler.data.synthesis.asking import ask_in_order, make_request, read_answer
from codescaler.data.synthesis.generate import REASONS, count_candidates
from codescaler.data.synthesis.inputs import make_inputs, read_calls
from codescaler.data.synthesis.prompts import write_calls_prompt, write_inputs_prompt, write_solution_prompt
from codescaler.data.synthesis.suite_inputs import write_inputs
from codescaler.errors import InvalidInput
from codescaler.io.records import read_lines
from codescaler.io.resumable import ResumableFile, compute_digest, compute_file_digest
from codescaler.text.extraction import extract_code

_REASONS = {
    **REASONS,
    "it has": "without enough inputs or solutions",
    "solutions agree": "below the floor of agreement",
    "its answer": "with one answer",
    "no input": "without a majority",
    "a solution": "with a held-out program",
}


@dataclass(frozen=True)
class DifficultySettings:
    """How a candidate is judged.

    Attributes:
        num_inputs: T. num_generators: answers with calls, or with a program that makes inputs.
        floor: of the mean share of the majority, below which a problem counts as broken.
        min_share: of the weighted majority on one input, from which on its output is a test's.
    """

    num_inputs: int = 20
    num_generators: int = 2
    floor: float = 0.3
    min_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("num_inputs", "num_generators"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} {getattr(self, name)}; give a whole number of at least 1")
        for name in ("floor", "min_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} {getattr(self, name)}; give a number from 0 to 1")


def judge_problems(
    generated: Path,
    target: Path,
    sampler: Sampler,
    sampling: Sampling,
    runner: Capturer,
    settings: DifficultySettings,
    *,
    limits: Mapping[str, Any],
    held_out: HeldOut | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Writes each walk of a file with `delta` of its candidates, and which one is `kept`; returns counts.

    `sampling.num_samples` is M, the number of solutions. A killed run goes on.

    Raises: InvalidInput if a line is not of `generate_problems`, or as `ResumableFile`.
    """
    records = [_check_generated(record, name) for name, _, record in read_lines(generated)]
    held_out = held_out or HeldOut()
    made_with = {
        "generated": compute_file_digest([generated]),
        "sampling": dataclasses.asdict(sampling),
        "answered_by": sampler.identity,
        "held_out": compute_digest(sorted(held_out.forms)),
        "limits": dict(limits),
        "prompts": [
            write_calls_prompt("...", "f"),
            write_inputs_prompt("...", None),
            write_solution_prompt("...", "f"),
        ],
        **dataclasses.asdict(settings),
    }
    judge = _Judge(runner, sampling, settings, LeakFinder(held_out, ()))
    with ResumableFile(target, made_with) as output:
        advance(len(output.done))
        left = output.skip_done(records, lambda record: str(record["task_id"]))
        for record, answers in ask_in_order(left, judge.list_requests, sampler):
            output.write(judge.judge(record, answers))
            advance(1)
    counts = count_candidates(target, _REASONS)
    counts["kept"] = sum(record["kept"] is not None for _, _, record in read_lines(target))
    return counts


def _check_generated(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    candidates = record.get("candidates")
    if not isinstance(candidates, list) or not all(
        isinstance(candidate, dict)
        and all(isinstance(candidate.get(name), str) for name in ("answer", "statement"))
        and {"entry_point", "rejected"} <= candidate.keys()
        for candidate in candidates
    ):
        raise InvalidInput(f"{name} is not a line of `codescaler data synth generate`; give the file that it wrote")
    return record


class _Judge:
    def __init__(self, runner: Capturer, sampling: Sampling, settings: DifficultySettings, leaks: LeakFinder) -> None:
        self._runner, self._sampling, self._settings, self._leaks = runner, sampling, settings, leaks

    def list_requests(self, record: Mapping[str, Any]) -> list[Request]:
        """Two requests for each candidate that has passed the gates so far: for inputs, and for solutions."""
        requests = []
        for place, candidate in enumerate(record["candidates"]):
            if candidate["rejected"] is None:
                name, seed = f"{record['task_id']}/{place}", self._sampling.seed
                statement, call = candidate["statement"], candidate["entry_point"]
                inputs = write_calls_prompt(statement, call) if call else write_inputs_prompt(statement, None)
                solution = write_solution_prompt(statement, call)
                requests.append(make_request(f"{name}/inputs", inputs, self._settings.num_generators, seed))
                requests.append(make_request(f"{name}/solutions", solution, self._sampling.num_samples, seed))
        return requests

    def judge(self, record: Mapping[str, Any], answers: Sequence[Sequence[Completion]]) -> dict[str, Any]:
        left = iter(answers)
        judged = [
            candidate if candidate["rejected"] is not None else self._judge_candidate(candidate, next(left), next(left))
            for candidate in record["candidates"]
        ]
        deltas = {place: candidate["delta"] for place, candidate in enumerate(judged) if candidate["rejected"] is None}
        kept = max(deltas, key=lambda place: deltas[place], default=None)  # the first of equals
        return {**record, "candidates": judged, "kept": kept}

    def _judge_candidate(
        self, candidate: Mapping[str, Any], makers: Sequence[Completion], solutions: Sequence[Completion]
    ) -> dict[str, Any]:
        call, count = candidate["entry_point"], self._settings.num_inputs
        programs = self._extract(solutions)
        if call is not None:
            programs = [leave_out_checks(code) for code in programs]
        inputs = self._make_inputs(candidate["statement"], call, makers)
        figures: dict[str, Any] = {"num_inputs": len(inputs), "num_solutions": len(programs)}
        if 2 * len(inputs) < count:
            return {**candidate, **figures, "rejected": f"it has {len(inputs)} of {count} inputs"}
        if 2 * len(programs) < self._sampling.num_samples:
            return {
                **candidate,
                **figures,
                "rejected": f"it has {len(programs)} of {self._sampling.num_samples} solutions",
            }
        jobs = ((code, Interface(call), inputs) for code in programs)
        rows = list(collect_outputs(self._runner, jobs))
        delta, votes = compute_disagreement(rows), hold_weighted_vote(rows)
        cases = [
            [text, vote.output.text, round(vote.share, 4)]
            for text, vote in zip(inputs, votes, strict=True)
            if vote.output is not None and vote.share >= self._settings.min_share
        ]
        best = _find_most_agreeing(rows, votes)
        figures |= {"delta": round(delta, 6), "cases": cases, "solution": programs[best]}
        return {**candidate, **figures, "rejected": self._find_fault(delta, votes, programs, cases)}

    def _make_inputs(self, statement: str, call: str | None, answers: Sequence[Completion]) -> list[str]:
        count, seed = self._settings.num_inputs, self._sampling.seed
        if call is None:
            return make_inputs(self._runner, self._extract(answers), count, seed, is_call=False)
        examples = read_calls("\n".join(map(read_answer, answers)), call)
        if examples is None:
            return []
        return write_inputs(examples, count, random.Random(f"{seed} {statement}"))[:count]

    def _extract(self, completions: Sequence[Completion]) -> list[str]:
        found = (extract_code(completion.text, self._sampling.extract)[0] for completion in completions)
        return [code for code in found if code is not None]

    def _find_fault(
        self, delta: float, votes: Sequence[Vote], programs: Sequence[str], cases: Sequence[object]
    ) -> str | None:
        if 1 - delta < self._settings.floor:
            return f"solutions agree on {1 - delta:.0%}, below the floor of {self._settings.floor:.0%}"
        if len({vote.output.key for vote in votes if vote.output is not None}) < 2:
            return "its answer does not depend on the input"
        if not cases:
            return "no input has a majority"
        leaks = filter(None, map(self._leaks.find_program, programs))  # texts in other words are found by no other gate
        if (leak := next(leaks, None)) is not None:
            return f"a solution is the reference of the held-out {leak.held_out}"
        return None


def leave_out_checks(code: str) -> str:
    """A program without the asserts beside its functions: wrong examples of its own would end it before any call."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    lines = code.split("\n")
    shared = Counter(line for node in body for line in range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for node in body:
        place = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        if isinstance(node, ast.Assert) and all(shared[line] == 1 for line in place):
            for line in place:
                lines[line - 1] = ""
    return "\n".join(lines).rstrip("\n")


def _find_most_agreeing(rows: Sequence[Sequence[Output | None]], votes: Sequence[Vote]) -> int:
    """The program that gives the output of the majority most often; of equals the first."""

    def count(row: Sequence[Output | None]) -> int:
        pairs = zip(row, votes, strict=True)
        return sum(
            output is not None and vote.output is not None and output.key == vote.output.key for output, vote in pairs
        )

    return max(range(len(rows)), key=lambda place: count(rows[place]))
