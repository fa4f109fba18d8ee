"""Tasks of one record, and tests in this process: what a correct program passes here, it has to pass in the sandbox."""

import json
import sys

from codescaler.sandbox.inside.comparison import choose_comparison
from codescaler.tasks import read_tasks


def read(tmp_path, record, **changes):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(record | changes))
    return read_tasks(path)[0]


def run_prelude(tests):
    """The names of a prelude, and the limit of recursion that it set, which pytest would have too."""
    limit, scope = sys.getrecursionlimit(), choose_comparison(tests.comparison)
    try:
        exec(tests.prelude, scope)
        return scope, sys.getrecursionlimit()
    finally:
        sys.setrecursionlimit(limit)


def passes(tests, program):
    """Whether each statement passes, in the order of `CallTests`: prelude, program, setup, statement."""
    outcomes = []
    for statement in tests.statements:
        scope, _ = run_prelude(tests)
        for text in (program, tests.setup):
            exec(text, scope)
        try:
            exec(statement, scope)
            outcomes.append(True)
        except AssertionError:
            outcomes.append(False)
    return outcomes
