"""Published sets of reference programs with their tests, as folders of their repositories hold them."""

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from codescaler.io.records import read_objects
from codescaler.tasks.reading import FORMATS, read_tasks
from codescaler.tasks.row import Row
from codescaler.tasks.taco import parse_apps_task
from codescaler.types import CallTests, StdioTests

Problem = tuple[str, str, CallTests | StdioTests]  # its name, the reference, its tests

_RUN = "def run_test(case, name):\n    case.setUpClass()\n    case(name).debug()\n    case.tearDownClass()\n"


def read_sets(folder: Path) -> Iterator[tuple[str, list[Problem]]]:
    """Yields the name and the problems of each set in a folder; what no reader knows is passed over."""
    for path in sorted(folder.rglob("exercises")):
        if path.is_dir():
            yield "exercism", list(_read_exercism(path))
    for path in sorted(folder.rglob("ClassEval_data.json")):
        yield "ClassEval", list(map(_read_classeval_row, json.loads(path.read_text())))
    apps = sorted(folder.rglob("APPS/*/*/solutions.json"))
    if apps:
        yield "APPS", [problem for path in apps for problem in _read_apps(path)]
    for path in sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.jsonl.gz")]):
        problems = list(_read_lines(path))
        if problems:
            yield f"{path.parent.parent.name}/{path.name}" if "data" in path.parent.name else path.name, problems


def _read_lines(path: Path) -> Iterator[Problem]:
    rows = [row for _, row in read_objects(path)]
    if not rows or rows[0].get("language", "python") != "python":
        return
    shapes: list[tuple[set[str], Callable[[dict[str, object]], Problem]]] = [
        ({"test_start", "canonical_solution", "entry_point"}, _read_odex_row),
        ({"code", "input", "output"}, _read_cruxeval_row),
    ]
    for fields, read in shapes:
        if fields <= set(rows[0]):
            yield from map(read, rows)
            return
    if any(shape <= set(rows[0]) for _, shapes in FORMATS.values() for shape in shapes):
        for task in read_tasks(path):
            if task.reference and task.tests:
                yield task.task_id, task.reference, task.tests


def _read_apps(path: Path) -> Iterator[Problem]:
    """Every solution of a problem that is Python 3, from its folder."""
    folder = path.parent
    row: dict[str, object] = {"problem_id": folder.name, "question": (folder / "question.txt").read_text()}
    row["input_output"] = (folder / "input_output.json").read_text()
    starter = folder / "starter_code.py"
    row["starter_code"] = starter.read_text() if starter.exists() else None
    for number, solution in enumerate(json.loads(path.read_text())):
        task = parse_apps_task(Row(row | {"solutions": json.dumps([solution])}, str(path)))
        if task.reference and task.tests:
            yield f"{task.task_id}/{number}", task.reference, task.tests


def _read_odex_row(row: dict[str, object]) -> Problem:
    name, start = str(row["entry_point"]), str(row["test_start"])
    statements = tuple(f"{start}{test}\n\ncheck({name})\n" for test in row["test"])  # type: ignore[attr-defined]
    code = f"{row['prompt']}{row['canonical_solution']}{row['suffix']}"
    prelude = start.partition("\ndef check(")[0]  # its imports, which the authors put beside the program
    return f"odex/{row['task_id']}", code, CallTests(statements, (name,), prelude)


def _read_cruxeval_row(row: dict[str, object]) -> Problem:
    return f"cruxeval/{row['id']}", str(row["code"]), CallTests((f"assert f({row['input']}) == {row['output']}",))


def _read_classeval_row(row: dict[str, object]) -> Problem:
    code, imports = str(row["solution_code"]), "\n".join(row["import_statement"])  # type: ignore[arg-type]
    return str(row["task_id"]), code, make_case_tests(str(row["test"]), code, imports)


def _read_exercism(folder: Path) -> Iterator[Problem]:
    for path in sorted(folder.glob("*/*/.meta/ex*.py")):
        tests, exercise = sorted(path.parents[1].glob("*_test.py")), path.parents[1]
        module = exercise.name.replace("-", "_")
        module = next((p.stem for p in exercise.glob("*.py") if "test" not in p.stem), module)
        if tests:
            code = path.read_text()
            beside = "".join(p.read_text() + "\n" for p in exercise.glob("test_*.py"))
            test = beside + _remove_module(
                tests[0].read_text(), {module, *(p.stem for p in exercise.glob("test_*.py"))}
            )
            yield f"exercism/{exercise.name}", code, make_case_tests(test, code, "")


def _remove_module(text: str, modules: set[str]) -> str:
    """The text of tests that import the program, without this import."""
    tree = ast.parse(text)
    aliases = {
        alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
        for alias in node.names if alias.name in modules
    }  # fmt: skip

    class Remover(ast.NodeTransformer):
        def visit_Try(self, node: ast.Try) -> ast.AST | None:
            return None if any(isinstance(each, ast.ImportFrom) for each in node.body) else self.generic_visit(node)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
            return None if node.module in modules else node

        def visit_Import(self, node: ast.Import) -> ast.AST | None:
            node.names = [alias for alias in node.names if alias.name not in {*modules, "pytest"}]
            return node if node.names else None

        def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
            return self.generic_visit(node)

        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            node.decorator_list = [each for each in node.decorator_list if "pytest" not in ast.unparse(each)]
            return self.generic_visit(node)

        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            if isinstance(node.value, ast.Name) and node.value.id in aliases:
                return ast.copy_location(ast.Name(node.attr, node.ctx), node)
            return self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Remover().visit(tree)))


def make_case_tests(text: str, code: str, prelude: str) -> CallTests:
    """Tests of `unittest.TestCase` classes: a statement for each method."""
    tree = ast.parse(text)
    cases = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    statements = tuple(
        f"run_test({case.name}, {method.name!r})"
        for case in cases for method in case.body
        if isinstance(method, ast.FunctionDef) and method.name.startswith("test")
    )  # fmt: skip
    names = tuple(dict.fromkeys(_list_defined(ast.parse(code))))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    classes = tuple(node.name for node in ast.parse(code).body if isinstance(node, ast.ClassDef))
    entry_points = tuple(name for name in names if name in used)
    return CallTests(statements, entry_points, prelude, f"import unittest\n{text}\n{_RUN}", classes)


def _list_defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name))
