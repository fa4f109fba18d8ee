"""Scores by line: what a reward model thinks of a program that ends after its first line, its second, and so on.

Each value is a score of its own, so the last one is the program's. All beginnings of a program and of its siblings are
one prefix tree, so that a trace costs little more than the score. Knows no engine: what scores is a function.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codescaler.engine.options import is_list
from codescaler.engine.ranking import ScorePairs, compute_finite, require_problem
from codescaler.errors import InvalidInput
from codescaler.text.program import Message, make_conversation, normalize_program


@dataclass(frozen=True)
class LineScore:
    """A line of a program, and the score of the program that ends with it.

    Attributes:
        number: from 1 on. text: without its line end.
        score: raw reward of the program up to this line. change: from the score before it; of the first line, from
            the score of an empty program. A blank line has the score of the line before it.
    """

    number: int
    text: str
    score: float
    change: float


def trace_programs(
    score_pairs: ScorePairs,
    problem: str | Sequence[Message],
    programs: Sequence[str],
    names: Sequence[str] | None,
    system: str | None,
) -> list[list[LineScore]]:
    """Returns the lines of each program, which is normalised as `rerank` does; `score_pairs` takes pairs and names."""
    require_problem(problem)
    if not is_list(programs) or not all(isinstance(text, str) for text in programs):
        raise InvalidInput("programs is not a list of strings; give one string for each program")
    names = names or [f"program {index}" for index in range(len(programs))]
    lines = [normalize_program(program).split("\n") for program in programs]
    # Two programs may begin alike, and a blank line adds nothing: each text is scored once.
    starts = {"": "an empty program"} if programs else {}
    for name, of_program in zip(names, lines, strict=True):
        for number in range(1, len(of_program) + 1):
            starts.setdefault(_join(of_program[:number]), f"{name}, up to line {number}")
    pairs = [make_conversation(problem, start, system) for start in starts]
    scores = dict(zip(starts, compute_finite(score_pairs, pairs, [*starts.values()]), strict=True))
    traces = []
    for of_program in lines:
        values = [scores[_join(of_program[:number])] for number in range(len(of_program) + 1)]
        traces.append(
            [
                LineScore(number, text, values[number], values[number] - values[number - 1])
                for number, text in enumerate(of_program, 1)
            ]
        )
    return traces


def find_largest_drop(lines: Iterable[LineScore]) -> LineScore | None:
    """Returns the line at which the score falls most, None if it never falls."""
    return min((line for line in lines if line.change < 0), key=lambda line: line.change, default=None)


def find_common_lines(lines: Sequence[LineScore], beside: Sequence[LineScore]) -> set[int]:
    """Returns the numbers of the lines of the first program that stand in the second too, in the same order.

    They do not tell the programs apart.
    """
    from difflib import SequenceMatcher

    matcher = SequenceMatcher(None, [line.text for line in lines], [line.text for line in beside], autojunk=False)
    return {lines[block.a + offset].number for block in matcher.get_matching_blocks() for offset in range(block.size)}


def _join(lines: Sequence[str]) -> str:
    return normalize_program("\n".join(lines))
