"""Runs in the sandbox as a whole program: asks an untrusted `generate_input(rng)` for inputs, each of its own seed.

Standard input is one JSON object: `code` and `seeds`. A line of output is a JSON list: ["value", text of Python] or
["error", what was wrong].
"""

import json
import os
import random
import sys
import types

_MAX_CHARS = 100_000  # of one input


def main() -> None:
    """Answers what standard input asks."""
    asked = json.loads(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    module = sys.modules["program"] = types.ModuleType("program")
    try:
        exec(compile(asked["code"], "<code>", "exec"), vars(module))
        for seed in asked["seeds"]:
            try:
                text = repr(vars(module)["generate_input"](random.Random(seed)))
                answer = ["value", text] if len(text) <= _MAX_CHARS else ["error", "too long"]
            except BaseException as error:
                answer = ["error", type(error).__name__]
            print(json.dumps(answer), file=answers, flush=True)
    except BaseException:
        pass  # no line is no input
    os._exit(0)


if __name__ == "__main__":
    main()
