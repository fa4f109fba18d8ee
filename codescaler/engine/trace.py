"""Scores by line: what a reward model thinks of a program that ends after its first line, its second, and so on.

Each value is a score of its own, so the last one is the program's. All beginnings of a program and of its siblings are
one prefix tree, so that a trace costs little more than the score. Knows no engine: what scores is a function.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate

from codescaler.engine.options import is_list
from codescaler.engine.ranking import name_each, require_problem
from codescaler.errors import InvalidInput
from codescaler.text.program import Message, Pair, make_conversation, normalize_program
from codescaler.types import LineScore

NUM_SHADES = 4  # of a picture of lines, for falls and for rises
MAX_CHARS = 10**9  # of all that a trace scores


@dataclass(frozen=True)
class TracePlan:
    """What to score for the lines of several programs. Two programs may begin alike: each text is scored once.

    Attributes:
        pairs, names: what is scored, and what errors call it.
        programs: the lines of each program, which is normalised as `rerank` does.
        places: of each program the index of the pair that holds none of its lines, its first line, and so on.
    """

    pairs: list[Pair]
    names: list[str]
    programs: list[list[str]]
    places: list[list[int]]

    def read_scores(self, scores: Sequence[float]) -> list[list[LineScore]]:
        """Returns the lines of each program. `scores` are those of the pairs."""
        traces = []
        for lines, places in zip(self.programs, self.places, strict=True):
            values = [scores[place] for place in places]
            steps = zip(lines, values[1:], values, strict=False)
            traces.append([LineScore(n, text, value, value - last) for n, (text, value, last) in enumerate(steps, 1)])
        return traces


def plan_trace(
    problem: str | Sequence[Message], programs: Sequence[str], names: Sequence[str] | None, system: str | None
) -> TracePlan:
    """Returns what to score for each line of these programs of one problem."""
    require_problem(problem)
    if not is_list(programs) or not all(isinstance(text, str) for text in programs):
        raise InvalidInput("programs is not a list of strings; give one string for each program")
    names = name_each("program", len(programs), names)
    lines = [split_lines(program) for program in programs]
    if (num_chars := count_trace_chars(lines)) > MAX_CHARS:
        raise InvalidInput(
            f"the programs up to each of their lines have {num_chars} characters together, and a trace may have "
            f"{MAX_CHARS}; give fewer or shorter programs"
        )
    index_of: dict[str, int] = {"": 0} if programs else {}
    labels = ["an empty program"] * len(index_of)
    places: list[list[int]] = []
    for name, of_program in zip(names, lines, strict=True):
        places.append([])
        for number in range(len(of_program) + 1):
            start = normalize_program("\n".join(of_program[:number]))  # a blank line adds nothing
            if start not in index_of:
                index_of[start] = len(index_of)
                labels.append(f"{name}, up to line {number}")
            places[-1].append(index_of[start])
    pairs: list[Pair] = [make_conversation(problem, start, system) for start in index_of]
    return TracePlan(pairs, labels, lines, places)


def split_lines(program: str) -> list[str]:
    """The lines that a trace scores, of the program in the form that is compared."""
    return normalize_program(program).split("\n")


def count_trace_chars(programs: Iterable[Sequence[str]], num_before: int = 0) -> int:
    """Returns the characters of all beginnings of programs, which are lists of lines, each after `num_before`.

    They grow by the square of a length, so count before you make them.
    """
    lengths = [[len(line) + 1 for line in lines] for lines in programs]
    return num_before + sum(num_before + so_far for of_program in lengths for so_far in accumulate(of_program))


def find_largest_drop(lines: Iterable[LineScore], common: Set[int] = frozenset()) -> LineScore | None:
    """Returns the line at which the score falls most, None if it never falls. Lines in `common` do not count."""
    falls = (line for line in lines if line.change < 0 and line.number not in common)
    return min(falls, key=lambda line: line.change, default=None)


def find_common_lines(programs: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Returns the numbers of the lines that both of two programs hold in the same order: they do not tell them apart.

    Of any other number of programs it is none. The lines are a longest common subsequence, by the bit vectors of Hyyrö
    (2004): its time is bounded by the product of the lengths, whatever the lines are.
    """
    if len(programs) != 2:
        return []
    left, right = programs
    where: dict[str, int] = {}
    for index, text in enumerate(right):
        where[text] = where.get(text, 0) | 1 << index
    mask = (1 << len(right)) - 1
    # A bit that is 0 says that the line of the second program makes the subsequence longer, for so many of the first.
    vector, vectors = mask, []
    for text in left:
        both = vector & where.get(text, 0)
        vector = (vector + both | vector - both) & mask
        vectors.append(vector)
    pairs = []
    row, column = len(left), len(right)
    while row and column:
        if vectors[row - 1] >> column - 1 & 1:
            column -= 1
            continue
        row -= 1
        if not row or vectors[row - 1] >> column - 1 & 1:
            pairs.append((row + 1, column))
            column -= 1
    return pairs[::-1]


def choose_shades(traces: Sequence[Sequence[LineScore]]) -> list[list[int]]:
    """Returns -NUM_SHADES for the largest fall up to NUM_SHADES for the largest rise; all programs share a scale.

    A first line is no measure of it: any program differs much from none.
    """
    largest = max((abs(line.change) for lines in traces for line in lines[1:]), default=0.0)
    shares = [[line.change / largest if largest else 0.0 for line in lines] for lines in traces]
    return [[round(NUM_SHADES * max(-1.0, min(1.0, share))) for share in of_program] for of_program in shares]
