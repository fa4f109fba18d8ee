"""From a file to tasks: which format its records are in, and that no two of them are the same problem."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

from codescaler.errors import InvalidInput
from codescaler.io.records import read_objects
from codescaler.tasks.calls import parse_humaneval_task, parse_leetcode_task, parse_mbpp_task
from codescaler.tasks.contests import parse_codecontests_plus_task, parse_codecontests_task
from codescaler.tasks.harnesses import HARNESS_SHAPES, parse_harness_task
from codescaler.tasks.livecodebench import parse_livecodebench_task
from codescaler.tasks.own import parse_own_task
from codescaler.tasks.row import Row
from codescaler.tasks.taco import parse_apps_task, parse_taco_task
from codescaler.types import Task

Reader = Callable[[Row], Task]

# What reads a record of each format, and the fields that tell it from the others, in each shape that it comes in.
FORMATS: dict[str, tuple[Reader, tuple[frozenset[str], ...]]] = {
    "codescaler": (parse_own_task, (frozenset({"task_id", "prompt", "tests"}),)),
    "mbpp": (parse_mbpp_task, (frozenset({"task_id", "code", "test_list"}),)),
    "leetcode": (parse_leetcode_task, (frozenset({"query", "completion", "entry_point", "test"}),)),
    "humaneval-x": (parse_harness_task, HARNESS_SHAPES),
    "humaneval": (parse_humaneval_task, (frozenset({"prompt", "canonical_solution", "entry_point", "test"}),)),
    "livecodebench": (parse_livecodebench_task, (frozenset({"question_id", "question_content", "public_test_cases"}),)),
    "codecontests": (
        parse_codecontests_task,
        (frozenset({"name", "description", "public_tests"}), frozenset({"name", "statement", "tests"})),
    ),
    "codecontests+": (parse_codecontests_plus_task, (frozenset({"id", "description", "test_cases"}),)),
    "apps": (parse_apps_task, (frozenset({"problem_id", "question", "input_output"}),)),
    "taco": (parse_taco_task, (frozenset({"question", "input_output"}),)),
}


def read_tasks(path: str | Path, format: str = "auto", *, left_out: list[InvalidInput] | None = None) -> list[Task]:
    """Returns the problems of a file: JSON lines, or a JSON array of objects; a name that ends in .gz is unpacked.

    `format` is a name of `FORMATS`; "auto" tells each record's by its fields. Problems without an id that is theirs
    everywhere get one with the name of their source: "mbpp/601", "leetcode/two-sum". With `left_out`, a record that
    cannot be used, or whose task_id has occurred, is passed over, and its error added there.

    Raises: InvalidInput if the file or a record cannot be used, or a task_id occurs twice; file and line are named.
        With `left_out`, if no record can be used.
    """
    if format != "auto" and format not in FORMATS:
        raise InvalidInput(f"format {format!r} is not known; use auto or one of {', '.join(FORMATS)}")
    choose_reader = functools.partial(_choose_reader, names=FORMATS if format == "auto" else (format,))
    return _read(Path(path), choose_reader, left_out)


def read_challenge_tasks(path: str | Path) -> list[Task]:
    """Returns the problems of a file of MBPP that have challenge tests, with those in place of the published three."""

    def choose_reader(row: Row) -> Reader:
        _choose_reader(row, ("mbpp",))
        return functools.partial(parse_mbpp_task, challenge=True)

    return [task for task in _read(Path(path), choose_reader) if task.tests is not None]


def _read(path: Path, choose_reader: Callable[[Row], Reader], left_out: list[InvalidInput] | None = None) -> list[Task]:
    tasks: dict[str, Task] = {}
    for name, record in read_objects(path, left_out):
        row = Row(record, name)
        try:
            task = choose_reader(row)(row)
            if task.task_id in tasks:
                raise InvalidInput(
                    f"{name}: task_id {task.task_id!r:.80} is that of {tasks[task.task_id].name} too; remove one of "
                    "them"
                )
        except InvalidInput as error:
            if left_out is None:
                raise
            left_out.append(error)
        else:
            tasks[task.task_id] = task
    if left_out and not tasks:
        raise left_out[0]
    return list(tasks.values())


def _choose_reader(row: Row, names: Iterable[str]) -> Reader:
    """What reads the first of these formats of which the record has all that tells it."""
    fields = set(row.values)
    for name in names:
        reader, shapes = FORMATS[name]
        if any(shape <= fields for shape in shapes):
            return reader
    known = "; ".join(f"{name}: {', '.join(sorted(shape))}" for name in names for shape in FORMATS[name][1])
    raise InvalidInput(f"{row.name} has the fields {', '.join(sorted(fields))!r:.200}, none of these sets: {known}")
