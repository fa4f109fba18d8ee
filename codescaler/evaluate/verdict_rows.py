"""Files of one program a row, with its verdict, to groups: EvalPlus' samples, HumanEval-X, CodeJudge.

EvalPlus    {task_id, solution or completion[, base_status, plus_status]}, whose status is "pass" or "fail"
HumanEval-X {task_id, prompt, generation, passed or result}, whose language is in its `language`, else in its id
CodeJudge   {question_id, program, pass}
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.text.extract import resolve_language
from codescaler.types import Task

Named = tuple[str, Mapping[str, Any]]

_WHOLE = ("solution", "program")
_CONTINUING = ("generation", "completion")  # the prompt


def gather_verdict_rows(records: Iterable[Named], tasks: Sequence[Task]) -> Iterator[Named]:
    """Yields records that are groups as they are, then a group for each problem that rows are of.

    The prompt is that of the row, else of the task with its id in any case.

    Raises: InvalidInput if a row has no prompt, or a verdict that is not understood.
    """
    prompts = {task.task_id.lower(): task.prompt for task in tasks}
    groups: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, record in records:
        field = next((key for key in (*_WHOLE, *_CONTINUING) if isinstance(record.get(key), str)), None)
        task_id = record.get("task_id", record.get("question_id"))
        if "candidates" in record or field is None or task_id is None:
            yield name, record
            continue
        prompt = record.get("prompt", prompts.get(str(task_id).lower()))
        if not isinstance(prompt, str):
            raise InvalidInput(f"{name} has no prompt; give the problem {str(task_id)!r:.80} by --tasks")
        code = record[field] if field in _WHOLE else prompt + record[field]
        language = record.get("language") or resolve_language(str(task_id).partition("/")[0])
        known = {} if language is None else {"language": language}
        new = {"task_id": task_id, **known, "prompt": prompt, "candidates": []}
        _, group = groups.setdefault(str(task_id), (name, new))
        group["candidates"].append({"code": code, "passed": _read_verdict(record, name)})
    yield from groups.values()


def _read_verdict(record: Mapping[str, Any], name: str) -> bool | None:
    """Whether a program passed; None where the row does not say."""
    for key in ("passed", "pass"):
        if key in record:
            value = record[key]
            if value is not None and not isinstance(value, bool):
                raise InvalidInput(f"{name}: {key} is {value!r:.80}; give true or false")
            return value
    statuses = [record[key] for key in ("base_status", "plus_status") if record.get(key) is not None]
    if statuses:
        return all(status == "pass" for status in statuses)
    result = record.get("result")
    return None if result is None else result == "passed"
