"""Scores a file in shards, which many machines may do at once, and joins them to the file that one machine writes.

    DIR/shard-00003-of-00064/scored.jsonl   the rows of some problems, problem by problem
                             settings.json  what their scores depend on
                             _SUCCESS       how many rows. It is written last

A shard in work is a folder shard-00003-of-00064.partial, which a killed run goes on with. The name of a problem says
which shard holds it. So machines agree without a word, and programs of one problem share its tokens.
"""

import json
import os
import shutil
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codescaler.commands.score_file import (
    Line,
    has_groups,
    is_scored_from,
    make_settings,
    read_settings,
    require_same_settings,
    score_file,
    score_groups,
)
from codescaler.engine import Engine
from codescaler.errors import InvalidInput, OutputUnavailable
from codescaler.io.files import open_output, write_text_file
from codescaler.io.records import parse_group, parse_row, read_lines
from codescaler.io.resumable import compute_digest, lock

SCORED, SETTINGS, SUCCESS = "scored.jsonl", "settings.json", "_SUCCESS"
MAX_SHARDS = 99_999


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `count`, from 1 on."""

    index: int
    count: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"shard-{self.index:05}-of-{self.count:05}"

    def has_problem(self, problem: str) -> bool:
        return int(problem, 16) % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """Returns the shard that "3/64" names.

    Raises: InvalidInput.
    """
    index, slash, count = text.partition("/")
    if not slash or not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in (index, count)):
        raise InvalidInput(f"--shard {text:.40}: give INDEX/COUNT, e.g. 3/64")
    if not 1 <= int(index) <= int(count):
        raise InvalidInput(f"--shard {text}: give an index from 1 to {count}")
    return Shard(int(index), int(count))


def list_shards(count: int) -> list[Shard]:
    """Returns all shards of so many.

    Raises: InvalidInput.
    """
    if not 1 <= count <= MAX_SHARDS:
        raise InvalidInput(f"--shards {count}: give a number from 1 to {MAX_SHARDS}")
    return [Shard(index, count) for index in range(1, count + 1)]


def score_shard(
    engine: Engine, source: Path, folder: Path, shard: Shard, advance: Callable[[int], None] = lambda _: None
) -> int:
    """Scores one shard of `source`, and returns the number of rows or groups that it holds. A finished shard stays.

    Raises:
        InvalidInput: the shard was made with another model, other settings or a file of another size; another run
            writes it; as `score_file`. OutputUnavailable: as `score_file`.
    """
    are_groups = has_groups(source)
    settings = make_settings(engine, are_programs=are_groups) | {
        "shard": shard.name,
        "source_bytes": source.stat().st_size,
    }
    final = folder / shard.name
    partial = final.with_name(f"{final.name}.partial")
    if final.exists():
        return _read_finished(final, settings)
    _make_folder(partial)
    with open_output(partial / SETTINGS, "a+") as file:
        lock(file, partial)
        if final.exists():  # another run has ended meanwhile
            shutil.rmtree(partial, ignore_errors=True)
            return _read_finished(final, settings)
        if file.tell():
            require_same_settings(settings, partial / SETTINGS)
        else:
            file.write(f"{json.dumps(settings, indent=2)}\n".encode())
            file.flush()
        lines = _select_lines(source, shard)
        if not (partial / SCORED).exists():
            score = score_groups if are_groups else score_file
            score(engine, source, partial / SCORED, advance, iter(lines))
        write_text_file(partial / SUCCESS, f"{len(lines)}\n")
        partial.rename(final)
    return len(lines)


def open_shard_scorer(source: Path, folder: Path, options: dict[str, Any]) -> Callable[[str], int]:
    """Opens an engine, and returns what scores the shard "3/64" as `score_shard` does."""
    engine = Engine.from_pretrained(**options)
    return lambda text: score_shard(engine, source, folder, parse_shard(text))


def join_shards(source: Path, folder: Path, write: Callable[[str], object]) -> int:
    """Gives `write` the scored lines of all shards, in the order of `source`; returns their number.

    Every line of `source` must be there exactly once, and nothing else.

    Raises:
        InvalidInput: a shard is missing or has other settings than the first; a line is missing, doubled, or not made
            from its line of `source`.
    """
    shards = _find_shards(folder)
    scored = [read_lines(folder / shard.name / SCORED) for shard in shards]
    # Siblings stand side by side in a shard. In the source they need not, so some are read before their turn.
    waiting: defaultdict[str, deque[str]] = defaultdict(deque)
    num_lines = 0
    for name, text, record in read_lines(source):
        problem = _name_problem(record, name)
        shard = int(problem, 16) % len(shards)
        while not waiting[problem]:
            line = next(scored[shard], None)
            if line is None:
                raise InvalidInput(
                    f"{folder / shards[shard].name} has no score of {name}; delete the shard and score it again"
                )
            waiting[_name_problem(_remove_score(line[2]), line[0])].append(line[1])
        joined = waiting[problem].popleft()
        if not waiting[problem]:
            del waiting[problem]
        if not is_scored_from(joined, text, record):
            raise InvalidInput(
                f"{folder / shards[shard].name} holds a line that was not made from {name}; delete the shard and "
                "score it again"
            )
        write(joined)
        num_lines += 1
    left_over = [line[0] for lines in scored if (line := next(lines, None)) is not None]
    if left_over or waiting:
        at = left_over[0] if left_over else folder
        raise InvalidInput(f"{at}: a scored line is not in {source}; give the file that was scored")
    return num_lines


def _select_lines(source: Path, shard: Shard) -> list[Line]:
    """The lines of a shard: problems in the order of their first lines, the lines of a problem side by side."""
    problems: defaultdict[str, list[Line]] = defaultdict(list)
    for line in read_lines(source):
        problem = _name_problem(line[2], line[0])
        if shard.has_problem(problem):
            problems[problem].append(line)
    return [line for lines in problems.values() for line in lines]


def _name_problem(record: dict[str, Any], name: str) -> str:
    """Names what a model reads before the program: a digest of the problem and of the system prompt."""
    if "candidates" in record:
        group = parse_group(record, name)
        parts: Any = group.problem, group.system
    else:
        pair, system = parse_row(record, name)
        parts = (pair[0] if isinstance(pair, tuple) else pair[:-1]), system
    return compute_digest([json.dumps(parts, sort_keys=True)])


def _remove_score(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "score" or "candidates" in record}


def _find_shards(folder: Path) -> list[Shard]:
    """All shards of a folder, finished and of the same settings."""
    found = sorted(folder.glob("shard-*-of-*"))
    if not found:
        raise InvalidInput(f"{folder} holds no shard; score shards into it first")
    counts = {path.name.removesuffix(".partial").rpartition("-")[2] for path in found}
    if len(counts) > 1:
        raise InvalidInput(f"{folder} holds shards of {' and of '.join(sorted(counts))}; give each its own folder")
    shards = list_shards(int(counts.pop()))
    missing = [shard for shard in shards if not (folder / shard.name / SUCCESS).is_file()]
    if missing:
        names = ", ".join(f"{shard.index}/{shard.count}" for shard in missing[:10])
        raise InvalidInput(f"{folder}: {len(missing)} of {len(shards)} shards are not finished ({names}); score them")
    first = read_settings(folder / shards[0].name / SETTINGS)
    for shard in shards:
        require_same_settings(first | {"shard": shard.name}, folder / shard.name / SETTINGS)
    return shards


def _read_finished(final: Path, settings: dict[str, Any]) -> int:
    require_same_settings(settings, final / SETTINGS)
    try:
        return int((final / SUCCESS).read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{final / SUCCESS} cannot be read ({error}); delete the folder to start again") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnavailable(f"{folder} cannot be made ({os.strerror(error.errno or 0)}); give another") from error
