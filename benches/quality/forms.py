"""Forms of one program: what editors, fences and habits put around it. A reward model should not care for any.

The first group is outside the program, and `codescaler.text.program.normalize_program` takes it away where programs are
compared. The second is in its text, and stays.
"""

import ast
import re
from collections.abc import Callable, Mapping

from codescaler.text.extract import parse_syntax_tree

_INDENT = re.compile(r"^(?: {4})+", re.MULTILINE)


def _write_tabs(code: str) -> str | None:
    """Returns a program that is indented by tabs; None where that is another program, or changes nothing."""
    made = _INDENT.sub(lambda found: "\t" * (len(found[0]) // 4), code)
    trees = [parse_syntax_tree(text) for text in (code, made)]
    is_same = None not in trees and ast.dump(trees[0]) == ast.dump(trees[1])  # type: ignore[arg-type]
    return made if is_same and made != code else None


def _write_crlf(code: str) -> str | None:
    return code.replace("\n", "\r\n") if "\n" in code else None


OUTSIDE: Mapping[str, Callable[[str], str | None]] = {
    "newline": lambda code: f"{code}\n",
    "spaces": lambda code: f"{code}  ",
    "blank_lines": lambda code: f"\n\n{code}",
    "bom": lambda code: f"\ufeff{code}",
    "crlf": _write_crlf,
}
INSIDE: Mapping[str, Callable[[str], str | None]] = {
    "tabs": _write_tabs,
    "comment": lambda code: f"# Solution\n{code}",
    "coding": lambda code: f"# -*- coding: utf-8 -*-\n{code}",
    "main": lambda code: f'{code}\n\n\nif __name__ == "__main__":\n    pass',
    "control_token": lambda code: f"{code}  # <|im_end|>",  # that ends a turn of ChatML
}
FORMS = {**OUTSIDE, **INSIDE}
