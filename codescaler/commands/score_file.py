"""Scores a file of JSON lines that may be larger than memory, and goes on where a killed run stopped."""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from codescaler.engine import Engine
from codescaler.errors import InvalidInput, WeightsError
from codescaler.evaluate.combination import CombinedScorer
from codescaler.io.files import open_output, write_text_file
from codescaler.io.json import read_json
from codescaler.io.records import Group, parse_group, parse_row, read_lines
from codescaler.io.resumable import ResumableFile, compute_file_digest, lock, require_new_file
from codescaler.text.program import Conversation, make_conversation

_PROBE = [("Write a function that doubles a number.", "def double(x):\n    return 2 * x")]
_FLUSH_ROWS = 64

Line = tuple[str, str, dict[str, Any]]


def score_lines(engine: Engine, lines: Iterable[Line]) -> Iterator[str]:
    """Yields each line's text with its score added; every other byte stays as it was.

    Raises: as `Engine.score_stream`; WeightsError: a score is not finite.
    """
    rows = ((name, text, Conversation(*parse_row(record, name))) for name, text, record in lines)
    for_pairs, for_names, for_output = itertools.tee(rows, 3)  # each at most 512 rows behind the other
    scores = engine.score_stream((pair for _, _, pair in for_pairs), (name for name, _, _ in for_names))
    for score, (name, text, _) in zip(scores, for_output, strict=False):
        yield f"{_open_row(text)}{_require_finite(score, name)!r}}}"


def score_file(
    engine: Engine, source: Path, target: Path, advance: Callable[[int], None], lines: Iterator[Line] | None = None
) -> int:
    """Scores the rows of `source` into `target`, which appears when it is whole; returns the number of rows.

    `lines` are those of `source` that are scored, by default all.

    Until then the rows are in `target`.partial, beside the settings that made them. The same call goes on from there,
    and the file becomes the one of an undisturbed run, since a score does not depend on what is scored with it.
    `advance` is told of rows done.

    Raises:
        InvalidInput: `target` is there already, another run is writing it, or its partial file was made from other
            rows, another model or other settings; as `score_lines`. OutputUnavailable: it cannot be written, e.g. a
            full disk; the rows so far are kept.
    """
    require_new_file(target)
    partial, settings_path = (target.with_name(target.name + end) for end in (".partial", ".partial.json"))
    lines = read_lines(source) if lines is None else lines
    with open_output(partial, "a+") as output:
        lock(output, partial)
        settings = make_settings(engine, are_programs=False)
        if output.tell():
            require_same_settings(settings, settings_path)
        else:
            write_text_file(settings_path, json.dumps(settings, indent=2) + "\n")
        num_rows = num_told = _skip_done(lines, output, partial, source)
        advance(num_rows)
        for line in score_lines(engine, lines):
            output.write(f"{line}\n".encode())
            num_rows += 1
            if num_rows % _FLUSH_ROWS == 0:
                output.flush()
                advance(num_rows - num_told)
                num_told = num_rows
        advance(num_rows - num_told)
        output.flush()
        partial.replace(target)
        settings_path.unlink()
    return num_rows


def score_groups(
    engine: Engine | CombinedScorer,
    source: Path,
    target: Path,
    advance: Callable[[int], None],
    lines: Iterator[Line] | None = None,
) -> int:
    """Adds a score to every program of the groups of `source`, as a teacher's; returns the number of groups.

    `target`, `lines` and a killed run are as in `score_file`.

    Raises: as `score_file`.
    """
    settings = _describe_scorer(engine) | {"groups": compute_file_digest([source])}
    with ResumableFile(target, settings) as output:
        advance(len(output.done))
        groups = ((_group(record, name), record) for name, _, record in lines or read_lines(source))
        for_scores, for_output = itertools.tee(output.skip_done(groups, lambda item: item[0].task_id))
        named_pairs = (
            (f"{group.name}: candidates[{index}]", make_conversation(group.problem, candidate.code, group.system))
            for group, _ in for_scores
            for index, candidate in enumerate(group.candidates)
            if candidate.code is not None
        )
        for_names, for_pairs = itertools.tee(named_pairs)
        scores = engine.score_stream((pair for _, pair in for_pairs), (name for name, _ in for_names))
        num_groups = len(output.done)
        for group, record in for_output:
            candidates = list(record["candidates"])
            for index, candidate in enumerate(group.candidates):
                if candidate.code is not None:
                    score = _require_finite(next(scores), f"{group.name}: candidates[{index}]")
                    candidates[index] = {**candidates[index], "score": score}
            output.write(record | {"candidates": candidates})
            num_groups += 1
            advance(1)
    return num_groups


def has_groups(source: Path) -> bool:
    """Whether the records of a file are groups. They are what its first line is."""
    first = next(read_lines(source), None)
    return first is not None and "candidates" in first[2]


def is_scored_from(scored: str, text: str, record: dict[str, Any]) -> bool:
    """Whether a scored line was made from this line."""
    if "candidates" not in record:
        return scored.startswith(_open_row(text))
    return _remove_scores(json.loads(scored)) == _remove_scores(record)


def _remove_scores(record: dict[str, Any]) -> dict[str, Any]:
    candidates = [
        {key: value for key, value in candidate.items() if key != "score"} for candidate in record.get("candidates", ())
    ]
    return record | {"candidates": candidates}


def _group(record: dict[str, Any], name: str) -> Group:
    if "candidates" not in record:
        raise InvalidInput(f"{name} has no candidates, the lines before have; give groups alone, or rows alone")
    return parse_group(record, name)


def _require_finite(score: float, name: str) -> float:
    if not math.isfinite(score):
        raise WeightsError(f"{name} scores {score}; look for non-finite weights in this checkpoint")
    return score


def _open_row(text: str) -> str:
    """A row's text up to where its score stands."""
    return f'{text[:-1].rstrip()}, "score": '


def make_settings(engine: Engine, *, are_programs: bool) -> dict[str, Any]:
    """What scores depend on. The bits of one score stand for weights, template, backend and processor."""
    return {
        "architecture": engine.config.architecture,
        "dtype": engine.dtype,
        "backend": engine.backend,
        "pooling": engine.pooling,
        "truncation": engine.truncation,
        "max_length": engine.max_length,
        **engine.text.describe(are_programs=are_programs),
        "probe_score": float(engine.score(_PROBE)[0]),
    }


def _describe_scorer(scorer: Engine | CombinedScorer) -> dict[str, Any]:
    if isinstance(scorer, Engine):
        return make_settings(scorer, are_programs=True)
    members = {name: make_settings(engine, are_programs=True) for name, engine in scorer.engines.items()}
    return {"members": members, "weights": dict(scorer.weights)}


def read_settings(path: Path) -> dict[str, Any]:
    """Returns what scores beside `path` were made with.

    Raises: InvalidInput.
    """
    try:
        return read_json(path)
    except WeightsError as error:
        raise InvalidInput(f"{path} cannot be read ({error}); delete the partial output to start again") from error


def require_same_settings(settings: dict[str, Any], path: Path) -> None:
    """Checks that the scores beside `path` were made with these settings.

    Raises: InvalidInput.
    """
    before = read_settings(path)
    changed = [key for key in settings if before.get(key) != settings[key]]
    if changed:
        key = changed[0]
        raise InvalidInput(
            f"{path} says that the rows so far were scored with {key} {before.get(key)!r}, and it is {settings[key]!r} "
            "now; use the same model and options, or delete the partial output to start again"
        )


def _skip_done(lines: Iterator[Line], output: BinaryIO, partial: Path, source: Path) -> int:
    """Passes over the lines that have been scored, cuts off one that was being written, and returns their number."""
    output.seek(0)
    num_rows = end = 0
    while (done := output.readline()).endswith(b"\n"):
        line = next(lines, None)
        if line is None or not done.startswith(_open_row(line[1]).encode()):
            at = f"end of {source}" if line is None else line[0]
            raise InvalidInput(f"{partial}, line {num_rows + 1} was not made from {at}; delete it to start again")
        num_rows += 1
        end += len(done)
    output.truncate(end)
    output.seek(0, os.SEEK_END)
    return num_rows
