"""Runs in the sandbox as a whole program: makes calls of an untrusted program, and prints what each gives.

Standard input is one JSON object: `prelude` and `code` to run first, and `calls`, a text of Python each. A line of
output is a JSON list: ["value", text of Python] or ["error", what was wrong]. Only plain values have a text. What the
program prints goes nowhere.
"""

import json
import os
import sys
import types
from collections import deque
from collections.abc import Mapping
from typing import Any

_MAX_CHARS = 100_000  # of one value


def main() -> None:
    """Answers what standard input asks."""
    asked = json.loads(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    module = sys.modules["program"] = types.ModuleType("program")
    names = vars(module)
    try:
        for part in ("prelude", "code"):
            exec(compile(asked[part], f"<{part}>", "exec"), names)
    except BaseException as error:
        for _ in asked["calls"]:
            print(json.dumps(["error", type(error).__name__]), file=answers)
        answers.flush()
        os._exit(0)
    for call in asked["calls"]:
        try:
            text = repr(make_plain(eval(compile(call, "<call>", "eval"), names)))
            answer = ["value", text] if len(text) <= _MAX_CHARS else ["error", "too long"]
        except BaseException as error:  # whatever a program raises
            answer = ["error", type(error).__name__]
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # threads of the program do not matter


def make_plain(value: Any) -> Any:
    """The value in types that a text of Python can write. Raises TypeError if there are none."""
    if value is None:
        return None
    scalars: tuple[type, ...] = (bool, int, float, str)
    for kind in scalars:
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {make_plain(key): make_plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(make_plain, value))
    if isinstance(value, (set, frozenset)):
        return set(map(make_plain, value))
    if isinstance(value, (list, deque)):
        return list(map(make_plain, value))
    raise TypeError(f"a {type(value).__name__} is not plain")


if __name__ == "__main__":
    main()
