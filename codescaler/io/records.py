"""JSON-lines records: rows to score, and groups of candidate programs for one problem. Knows formats, no model.

    row    {"prompt": ..., "response": ...} or {"messages": [{"role": ..., "content": ...}, ...]}, which are scored as
           they stand
    group  {"task_id": ..., "prompt": ..., "candidates": [{"code": ... or null, "passed": true or false,
           "score": a number, of a reward model, "negative": the rule that made it}, ...]}; the last three may be
           absent
    pair   {"prompt": ..., "chosen": ..., "rejected": ...[, "margin": ...]}, a group of two; the paper's names
           {"question_content": ..., "code_pos": ..., "code_neg": ...} are read too

A prompt is a text or a list of messages, also under the names question, instruction and input. The sides of a pair may
be lists of messages, which may hold those of the prompt. Each record may have a "system", the reward model's system
prompt. A group or pair may say which "split" it is of. Other fields may stand beside these and are left alone. All
errors are `InvalidInput` and name file and line.
"""

import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from codescaler.errors import InvalidInput
from codescaler.io.json import parse_json
from codescaler.io.turns import Message, Problem, join_contents, parse_prompt, read_prompt, read_system, split_answer

MAX_LINE_CHARS = 2**26  # a row larger than 64 MB is a file without line ends, and would fill the memory
MAX_BLANK_LINES = 10_000  # one after the other; 51 KB of gzip hold 50 million
MAX_UNPACKED_RATIO = 256  # of gzip, which can reach 1032; programs that are equal but for a line reach 100
_ANY_UNPACKED_BYTES = 2**20
MAX_ARRAY_CHARS = 2**28  # an array is parsed as a whole, which takes several times as much memory


@dataclass(frozen=True)
class Candidate:
    """One candidate program. `passed` and `score` are None where nobody knows.

    `code` is None where none was found, or a blank one: an empty block parses, but there is nothing to run or to score.
    `negative` names the rule by which a program was made that does not answer the problem, see `codescaler data
    negatives`. It is None for all others.
    """

    code: str | None
    passed: bool | None = None
    score: float | None = None
    negative: str | None = None


@dataclass(frozen=True)
class Group:
    """The candidate programs of one problem. `task_id` tells problems apart in a split; `name` is for messages.

    `prompt` is the text of the problem, and `turns` are its messages where it is more than one text. `margin` is by how
    much a correct program should score above an incorrect one, `split` what the record says of itself. `system` is the
    reward model's system prompt, None where the record has none.
    """

    task_id: str
    prompt: str
    candidates: tuple[Candidate, ...]
    name: str = "group"
    margin: float = 0.0
    split: str | None = None
    turns: tuple[Message, ...] | None = None
    system: str | None = None

    @property
    def problem(self) -> Problem:
        """What a reward model reads before a program."""
        return self.prompt if self.turns is None else self.turns

    @property
    def codes(self) -> list[str]:
        """The distinct programs, in order, without candidates that have none."""
        return list(dict.fromkeys(candidate.code for candidate in self.candidates if candidate.code is not None))


def read_lines(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields name ("rows.jsonl, line 3"), text and JSON object of one line after the other, blank ones left out.

    A name that ends in .gz is unpacked on the way. Nothing is read ahead: the file may be larger than memory.
    """
    with _open_text(path) as lines:
        yield from _iterate_lines(path, lines, json.loads)  # what cannot be written again is refused


def read_objects(path: Path, left_out: list[InvalidInput] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields name and JSON object of each record of a file of JSON lines, or of one JSON array ("items.json, item 3").

    An array is read as a whole, and may have `MAX_ARRAY_CHARS` characters. With `left_out`, a record that is no object
    is passed over, and its error added there.
    """
    with _open_text(path) as lines:
        is_array = lines.read(4096).lstrip().startswith("[")
        lines.seek(0)
        if not is_array:
            yield from ((name, record) for name, _, record in _iterate_lines(path, lines, parse_json, left_out))
            return
        text = lines.read(MAX_ARRAY_CHARS + 1)
        if len(text) > MAX_ARRAY_CHARS:
            raise InvalidInput(f"{path} is a JSON array of more than {MAX_ARRAY_CHARS} characters; use JSON lines")
        for number, value in enumerate(_parse_json(text, str(path), parse_json), start=1):
            name = f"{path}, item {number}"
            try:
                record = _require_object(value, name)
            except InvalidInput as error:
                _leave_out(error, left_out)
            else:
                yield name, record


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    """A text file, packed if its name ends in .gz; what goes wrong while it is read becomes an error of ours."""
    try:
        with _BoundedGzipFile(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield io.TextIOWrapper(file, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 ({error}); convert it") from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: a gzip file cut short, or damaged
        raise InvalidInput(f"{path} cannot be read ({error}); give a readable file of JSON lines") from error


class _BoundedGzipFile(gzip.GzipFile):
    """A packed file that is refused where it unpacks to far more than programs do."""

    def read1(self, size: int = -1) -> bytes:
        data = super().read1(size)
        packed: Any = self.fileobj
        if self.tell() > MAX_UNPACKED_RATIO * packed.tell() + _ANY_UNPACKED_BYTES:
            raise InvalidInput(
                f"{self.name} unpacks to more than {MAX_UNPACKED_RATIO} bytes for each of its own; unpack it, and give "
                "the result"
            )
        return data


def _iterate_lines(
    path: Path, lines: TextIO, parse: Callable[[str], Any], left_out: list[InvalidInput] | None = None
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    number = num_blank = 0
    while text := lines.readline(MAX_LINE_CHARS):
        number += 1
        num_blank = 0 if text.strip() else num_blank + 1
        if num_blank > MAX_BLANK_LINES:
            raise InvalidInput(f"{path}, line {number} ends {num_blank} blank lines; remove them")
        name = f"{path}, line {number}"
        if len(text) == MAX_LINE_CHARS:
            raise InvalidInput(f"{name} has {MAX_LINE_CHARS} characters or more; write one JSON object a line")
        if num_blank:
            continue
        try:
            record = _require_object(_parse_json(text, name, parse), name)
        except InvalidInput as error:
            _leave_out(error, left_out)
        else:
            yield name, text.strip(), record


def _leave_out(error: InvalidInput, left_out: list[InvalidInput] | None) -> None:
    if left_out is None:
        raise error
    left_out.append(error)


def read_groups(source: str | Path | Iterable[Group | Mapping[str, Any]]) -> list[Group]:
    """Returns the groups of a JSON-lines file, or of records in memory, after a check."""
    if isinstance(source, (str, Path)):
        return [parse_group(record, name) for name, _, record in read_lines(Path(source))]
    return [
        record if isinstance(record, Group) else parse_group(record, f"groups[{index}]")
        for index, record in enumerate(source)
    ]


def parse_group(record: Mapping[str, Any], name: str) -> Group:
    """Returns the group that a record holds, or the two programs of a pair; `name` is what errors call it."""
    if not isinstance(record, Mapping):
        raise InvalidInput(f"{name} is a {type(record).__name__}; give an object with task_id, prompt and candidates")
    split = record.get("split")
    if split is not None and not isinstance(split, str):
        raise InvalidInput(f"{name}: split is {split!r:.80}; give a string such as 'train' or 'validation'")
    for sides in _SIDES:
        if "candidates" not in record and not set(sides).isdisjoint(record):
            return _parse_pair_group(record, sides, name, split)
    task_id, candidates = record.get("task_id"), record.get("candidates")
    if not isinstance(task_id, (str, int)) or isinstance(task_id, bool):
        kind = " (this is a row: `score` takes it, groups have candidates)" if "response" in record else ""
        raise InvalidInput(f"{name}: task_id is {task_id!r:.80}; give a string or a whole number{kind}")
    if not isinstance(candidates, (list, tuple)):
        raise InvalidInput(f"{name}: candidates is {candidates!r:.80}; give a list of objects with code")
    checked = tuple(_parse_candidate(value, f"{name}: candidates[{index}]") for index, value in enumerate(candidates))
    problem = parse_prompt(read_prompt(record, name), f"{name}: prompt")
    return Group(str(task_id), candidates=checked, name=name, split=split, **_describe_problem(problem, record, name))


_SIDES = (("chosen", "rejected"), ("code_pos", "code_neg"))


def _parse_pair_group(record: Mapping[str, Any], sides: tuple[str, str], name: str, split: str | None) -> Group:
    """A pair says nothing of other programs of its problem: it is a group of its own, whose task is its prompt."""
    prompt, margin = read_prompt(record, name), record.get("margin")
    margin = 0.0 if margin is None else margin
    if not isinstance(margin, (int, float)) or isinstance(margin, bool) or not math.isfinite(margin):
        raise InvalidInput(f"{name}: margin is {margin!r:.80}; give a finite number")
    problems, programs = [], []
    for key, passed in zip(sides, (True, False), strict=True):
        answer, where = record.get(key, 0), f"{name}: {key}"
        is_answer = isinstance(answer, (str, list, tuple))
        problem, code = split_answer(prompt, answer, where) if is_answer else (parse_prompt(prompt, where), answer)
        problems.append(problem)
        programs.append(_parse_candidate({"code": code, "passed": passed}, where))
    if problems[0] != problems[1]:
        raise InvalidInput(
            f"{name}: {sides[0]} and {sides[1]} differ before their last message; give a prompt in common"
        )
    fields = _describe_problem(problems[0], record, name)
    task_id = str(record.get("task_id", fields["prompt"]))
    return Group(task_id, candidates=tuple(programs), name=name, margin=float(margin), split=split, **fields)


def _describe_problem(problem: Problem, record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the fields of a group that say what its programs answer."""
    turns = None if isinstance(problem, str) else problem
    return {"prompt": join_contents(problem), "turns": turns, "system": read_system(record, name)}


def parse_row(record: Mapping[str, Any], name: str) -> tuple[tuple[str, str] | list[Any], str | None]:
    """Returns what the engine scores for a row, and its system prompt, None where it has none.

    The first is (prompt, response), or messages, which the engine checks.
    """
    if "score" in record:
        raise InvalidInput(f"{name} has a score already, {record['score']!r:.80}; rename that field to keep both")
    system = read_system(record, name)
    if "messages" not in record:
        problem, response = parse_prompt(read_prompt(record, name), f"{name}: prompt"), record.get("response")
        if not isinstance(response, str):
            kind = " (this is a pair: `eval pairs` takes it)" if "chosen" in record else ""
            raise InvalidInput(f"{name}: response is {response!r:.80}; give a string{kind}")
        if isinstance(problem, str):
            return (problem, response), system
        return [*problem, {"role": "assistant", "content": response}], system
    messages, also = record["messages"], [key for key in ("prompt", "response") if key in record]
    if also:
        raise InvalidInput(f"{name} has messages and {also[0]}; give one or the other, and rename what is not to score")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidInput(f"{name}: messages is {messages!r:.80}; give a list of objects with role and content")
    return messages, system


def _parse_json(text: str, name: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is not JSON ({error}); write one object a line") from error


def _require_object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} holds a JSON {type(value).__name__}; write one object a line")
    return value


def _parse_candidate(value: Any, name: str) -> Candidate:
    if not isinstance(value, Mapping) or "code" not in value:
        raise InvalidInput(f"{name} is {value!r:.80}; give an object with code, null where there is no program")
    passed = value.get("passed")
    if passed is not None and not isinstance(passed, bool):
        raise InvalidInput(f"{name}: passed is {passed!r:.80}; give true or false")
    score = value.get("score")
    if score is not None and (not isinstance(score, (int, float)) or isinstance(score, bool) or math.isnan(score)):
        raise InvalidInput(f"{name}: score is {score!r:.80}; give a number")
    negative = None if value.get("negative") is None else _require_text(value, "negative", name)
    code = None if value["code"] is None else _require_text(value, "code", name)
    if code is not None and not code.strip():
        code = None
    return Candidate(code, passed, score, negative)


def _require_text(record: Mapping[str, Any], key: str, name: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise InvalidInput(f"{name}: {key} is {value!r:.80}; give a string")
    return value
