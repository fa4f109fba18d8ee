"""Problems whose tests call a function: MBPP, LeetCodeDataset, HumanEval."""

import ast
import re
from collections.abc import Iterable

from codescaler.tasks.row import Row
from codescaler.text.extract import parse_syntax_tree
from codescaler.types import CallTests, Task

_ENTRY_POINT = re.compile(r"([A-Za-z_]\w*)(\(\))?(\.[A-Za-z_]\w*)*")

# First and last id of each split, by Austin et al. 2021; ids 1-10 were their examples in prompts.
_MBPP_SPLITS = (("train", 1, 10), ("test", 11, 510), ("validation", 511, 600), ("train", 601, 974))


def parse_mbpp_task(row: Row, *, challenge: bool = False) -> Task:
    """A row of MBPP, or of its sanitized edition; with `challenge`, its harder tests alone.

    The prompt shows the first test, since the text does not name the function: "text, line break, Your code should
    pass this test:, line break, test". Entry points are what the reference defines at top level and the tests use.
    MBPP+ has more tests in the field `test`, which stand after the published three.
    """
    number = row.values.get("task_id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise row.make_error("task_id", "give a whole number")
    shown, reference = row.read_texts("test_list"), row.read_text("code")
    if not shown:
        raise row.make_error("test_list", "give at least one test")
    tests = row.read_texts("challenge_test_list") if challenge else shown
    text, setup = row.read_text(row.find_first("text", "prompt")), row.read_text_or_none("test_setup_code") or ""
    if (more := row.read_text_or_none("test")) and not challenge:
        before, statements = _split_loop(more)
        tests, setup = (*tests, *statements), f"{setup}\n{before}".strip()
    call_tests = CallTests(
        tests,
        entry_points=_list_entry_points(reference, (*tests[: len(shown) + 1], setup)),
        prelude="\n".join(row.read_texts("test_imports")),
        setup=setup,
        classes=_list_classes(reference),
    )
    return Task(
        f"mbpp/{number}",
        f"{text}\nYour code should pass this test:\n{shown[0]}",
        call_tests if tests else None,
        reference=reference,
        split=next((split for split, first, last in _MBPP_SPLITS if first <= number <= last), None),
        name=row.name,
    )


def _split_loop(text: str) -> tuple[str, tuple[str, ...]]:
    """Splits tests that end with a loop over lists into what stands before it, and a statement for each turn.

    Tests of another form are one statement.
    """
    tree = parse_syntax_tree(text)
    loop = tree.body[-1] if tree is not None and tree.body else None
    if tree is None or not isinstance(loop, ast.For):
        return "", (text,)
    lengths = {
        target.id: len(statement.value.elts)
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.List)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    used = [lengths[node.id] for node in ast.walk(loop.iter) if isinstance(node, ast.Name) and node.id in lengths]
    if not used:
        return "", (text,)
    target, turns, body = (ast.unparse(part) for part in (loop.target, loop.iter, ast.Module(loop.body, [])))
    body = body.replace("\n", "\n    ")
    lines = text.encode().splitlines(keepends=True)
    before = b"".join(lines[: loop.lineno - 1]).decode()
    return before, tuple(f"for {target} in [list({turns})[{k}]]:\n    {body}" for k in range(min(used)))


def parse_leetcode_task(row: Row) -> Task:
    """A row of LeetCodeDataset, whose imports stand in "prelude", or in "prompt" as published."""
    prelude = row.read_text(row.find_first("prelude", "prompt"))
    return Task(
        f"leetcode/{row.read_text('task_id')}",
        row.read_text("query"),
        _parse_harness_tests(row, prelude),
        reference=row.read_text("completion"),
        difficulty=row.read_text_or_none("difficulty"),
        split=row.read_text_or_none("split"),
        name=row.name,
        tags=row.read_tags("tags"),
    )


def parse_humaneval_task(row: Row) -> Task:
    """A row of HumanEval. What its prompt defines before the function to write is prelude: imports and helpers."""
    prompt, entry_point = row.read_text("prompt"), row.read_text("entry_point")
    reference = prompt + row.read_text("canonical_solution")
    prelude = _take_prelude(prompt, reference, entry_point)
    return Task(
        row.read_text("task_id"), prompt, _parse_harness_tests(row, prelude), reference=reference, name=row.name
    )


def _take_prelude(prompt: str, reference: str, entry_point: str) -> str:
    """The text before what is to be written, a function or a class, and before its decorators."""
    tree = parse_syntax_tree(reference)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    named = [node for node in tree.body if isinstance(node, kinds) and node.name == entry_point] if tree else []
    if not named:
        return prompt.rpartition(f"def {entry_point}(")[0]
    first = min(node.lineno for node in (named[-1], *named[-1].decorator_list))
    return b"".join(reference.encode().splitlines(keepends=True)[: first - 1]).decode()


def _parse_harness_tests(row: Row, prelude: str) -> CallTests:
    """Tests of a harness `def check(candidate): ...`; a statement for each assert, if its body is asserts alone.

    What stands before `check` is setup. A harness of another form is one statement, its call included.
    """
    test, entry_point = row.read_text("test"), row.read_text("entry_point")
    matched = _ENTRY_POINT.fullmatch(entry_point)
    if not matched:
        raise row.make_error("entry_point", "give a name, such as 'f' or 'Solution().f'")
    classes = (matched[1],) if matched[2] else ()  # as in Solution().f
    tree = parse_syntax_tree(test)
    check = tree.body[-1] if tree is not None and tree.body else None
    if (
        isinstance(check, ast.FunctionDef)
        and check.name == "check"
        and len(check.args.args) == 1
        and not check.decorator_list
        and all(isinstance(statement, ast.Assert) for statement in check.body)
    ):
        lines = test.encode().splitlines(keepends=True)
        setup = b"".join(lines[: check.lineno - 1]).decode()
        bind = f"{check.args.args[0].arg} = {entry_point}\n"
        statements = tuple(bind + _get_source(lines, statement) for statement in check.body)
        return CallTests(statements, (matched[1],), prelude, setup.strip() and setup, classes)
    return CallTests((f"{test}\n\ncheck({entry_point})\n",), (matched[1],), prelude, classes=classes)


def _get_source(lines: list[bytes], node: ast.stmt) -> str:
    """The text of a statement. Columns count bytes, and `ast.get_source_segment` splits all lines at each call."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    taken = lines[node.lineno - 1 : node.end_lineno]
    taken[-1] = taken[-1][: node.end_col_offset]
    taken[0] = taken[0][node.col_offset :]
    return b"".join(taken).decode()


def _list_classes(reference: str) -> tuple[str, ...]:
    """Names of the classes that the reference defines at top level."""
    tree = parse_syntax_tree(reference)
    return tuple(statement.name for statement in tree.body if isinstance(statement, ast.ClassDef)) if tree else ()


def _list_entry_points(reference: str, tests: Iterable[str]) -> tuple[str, ...]:
    """Names that the reference defines at top level and a test uses, in order; none if it is no Python 3."""
    tree, trees = parse_syntax_tree(reference), map(parse_syntax_tree, tests)
    used = {node.id for test in trees if test for node in ast.walk(test) if isinstance(node, ast.Name)}
    defined: dict[str, None] = {}
    for statement in tree.body if tree else ():
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined[statement.name] = None
        elif isinstance(statement, ast.Assign):
            defined |= {target.id: None for target in statement.targets if isinstance(target, ast.Name)}
    return tuple(name for name in defined if name in used)
