"""Problems in several languages, with a test program behind the program: HumanEval-X, mxeval and MultiPL-E.

The prompt is the start of a program. The exit status of program and tests together decides.
Source: github.com/THUDM/CodeGeeX, codegeex/benchmark/; github.com/amazon-science/mxeval; github.com/nuprl/MultiPL-E.
"""

import re
from dataclasses import replace

from codescaler.tasks.calls import parse_humaneval_task
from codescaler.tasks.row import Row
from codescaler.text.extract import LANGUAGES, read_language, resolve_language
from codescaler.types import StdioTests, Task

HARNESS_SHAPES = (
    frozenset({"task_id", "prompt", "declaration", "canonical_solution", "test"}),
    frozenset({"task_id", "language", "prompt", "entry_point", "test"}),
    frozenset({"name", "language", "prompt", "tests"}),
)
# What HumanEval-X puts before a program, and what makes a failed assertion of JavaScript end with a status.
_PRELUDES = {
    "cpp": "#include <bits/stdc++.h>\nusing namespace std;",
    "javascript": 'console.assert = require("assert")',
}
_FUNCTION = re.compile(r"\bdef\s+(\w+)\s*\(")
_CALL = re.compile(r"\ncheck\(\w+\)\s*\Z")


def parse_harness_task(row: Row) -> Task:
    """A row of one of the sets. What is in Python is read as HumanEval is, so that its verdicts cannot be forged."""
    task_id = row.read_text("task_id" if "task_id" in row.values else "name")
    language = read_language(row.values, row.name) or resolve_language(task_id.partition("/")[0])
    if language is None:
        raise row.make_error("language", f"give one of {', '.join(LANGUAGES)}")
    prompt, test = row.read_text("prompt"), row.read_text(row.find_first("test", "tests"))
    if language == "python":
        return _parse_python_task(row, task_id, prompt, test)
    solution = row.read_text_or_none("canonical_solution")
    return Task(
        task_id,
        prompt,
        StdioTests((("", ""),), _PRELUDES.get(language, ""), language=language, harness=test),
        reference=None if solution is None else prompt + solution,
        name=row.name,
    )


def _parse_python_task(row: Row, task_id: str, prompt: str, test: str) -> Task:
    names = _FUNCTION.findall(prompt)
    entry_point = row.read_text_or_none("entry_point") or (names[-1] if names else "")
    solution = row.read_text_or_none("canonical_solution")
    fields = {"task_id": task_id, "prompt": prompt, "entry_point": entry_point, "test": _CALL.sub("\n", test)}
    task = parse_humaneval_task(Row({**fields, "canonical_solution": solution or ""}, row.name))
    return task if solution is not None else replace(task, reference=None)
