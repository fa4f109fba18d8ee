"""The house rules that a machine can check: who may import whom, and one name per operation."""

import ast
import sys
from pathlib import Path

import pytest

from codescaler.ops import Backend

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "codescaler"

# Module prefix -> row; a module imports from its own row's package or from rows above (smaller numbers).
ROWS = {
    "codescaler.errors": 0,
    "codescaler.types": 0,
    "codescaler.__version__": 0,
    "codescaler.env": 0,
    "codescaler.plan": 1,
    "codescaler.metrics": 1,
    "codescaler.records": 1,
    "codescaler.report": 1,
    "codescaler.text.extract": 1,
    "codescaler.text.shaping": 1,
    "codescaler.text.token_ids": 1,
    "codescaler.kernels": 2,
    "codescaler._C": 2,
    "codescaler.ops": 3,
    "codescaler.model": 4,
    "codescaler.weights": 4,
    "codescaler.text": 4,
    "codescaler.save": 4,
    "codescaler.info": 4,
    "codescaler.quantize": 4,
    "codescaler.engine": 5,
    "codescaler.resumable": 1,
    "codescaler.score_file": 6,
    "codescaler.backbone": 7,
    "codescaler.train": 7,
    "codescaler.adapters": 7,
    "codescaler.commands": 8,
    "codescaler.cli": 9,
    "codescaler.tasks": 1,
    "codescaler.sandbox": 6,
    "codescaler.data": 7,
    "codescaler.evaluate": 7,
    "codescaler.testing": 10,
}
# Third-party packages that a row may use besides the standard library.
LIBRARIES = {
    0: set(),
    1: {"numpy", "tree_sitter"},
    2: {"torch", "triton"},
    3: {"torch", "numpy"},
    4: {"torch", "numpy", "safetensors", "huggingface_hub", "tokenizers", "jinja2"},
    5: {"torch", "numpy"},
    6: set(),
    7: {"torch", "numpy", "safetensors", "tqdm", "gguf", "matplotlib", "transformers", "radon", "ruff"},
    8: {"tqdm"},
    9: set(),
    10: {"torch", "numpy", "safetensors", "transformers", "peft", "triton"},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "kernels":
        parts = ("codescaler", *parts)
    return ".".join(parts).removesuffix(".__init__")


def row_of(module):
    prefixes = [prefix for prefix in ROWS if module == prefix or module.startswith(f"{prefix}.")]
    return ROWS[max(prefixes, key=len)] if prefixes else None


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        yield from imports_in(path, node)


def imports_in(path, node):
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0 or path.parent.name == "kernels", f"{path}: relative import"
        if node.level:
            yield f"codescaler.kernels.{node.module}"
        elif node.module == "codescaler":  # `from codescaler import _C` imports a module
            yield from (f"codescaler.{alias.name}" for alias in node.names)
        else:  # `from codescaler.errors import X` imports a name
            yield node.module


SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "kernels").glob("*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_one_way(path):
    module = module_name(path)
    if module == "codescaler":
        checking = next(node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
        assert ast.unparse(checking.test) == "TYPE_CHECKING"
        editors_only = {name for node in ast.walk(checking) for name in imports_in(path, node)}
        assert set(imports_of(path)) - editors_only == {"importlib", "typing"}, "import codescaler is instant"
        return
    row = row_of(module)
    assert row is not None, f"{module} has no row: add it to ARCHITECTURE.md and here"
    for imported in imports_of(path):
        library = imported.split(".")[0]
        if library == "codescaler":
            target = row_of(imported)
            assert target is not None and target <= row, f"{module} imports {imported}"
            assert target != 2 or row == 3 or module.startswith("codescaler.kernels"), (
                f"{module} imports {imported}; only ops reach native code"
            )
            assert row != 7 or target != 7 or imported.split(".")[1] == module.split(".")[1], (
                f"{module} imports {imported}; each part of this row stands alone"
            )
        else:
            assert library in sys.stdlib_module_names or library in LIBRARIES[row], f"{module} imports {library}"


def test_only_env_reads_the_environment():
    for path in SOURCES:
        # What runs inside a box sets what a program sees of it, and reads nothing.
        if path.name != "env.py" and "inside" not in path.parts:
            assert "os.environ" not in path.read_text() and "getenv" not in path.read_text(), path


def test_there_are_no_cupboards():
    for path in SOURCES:
        assert path.stem not in {"utils", "util", "common", "helpers", "misc"}, path


GRADIENTS = {name for name in Backend.__abstractmethods__ if name.endswith("_backward")}
# `Backend.linear` is no method of a device: what packed a layer computes it, in the layer's format.
LINEAR, CPU_ONLY = "linear", "int8_linear"
OPERATIONS = Backend.__abstractmethods__ - GRADIENTS | {LINEAR, CPU_ONLY}


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_an_operation_has_one_name_everywhere(operation):
    """Reference, tests, bench and (matrix products aside) C++ and Triton all call it the same."""
    assert f"def {operation}(" in (PACKAGE / "ops/reference.py").read_text()
    assert (ROOT / f"tests/ops/test_{operation}.py").is_file()
    assert f"def test_{operation}(" in (ROOT / "benches/test_ops.py").read_text()
    where = PACKAGE / f"ops/cpu/{operation}.py" if operation in (LINEAR, CPU_ONLY) else PACKAGE / "ops/cpu/backend.py"
    assert where.is_file()
    if operation != LINEAR:
        assert operation == CPU_ONLY or f"def {operation}(" in (ROOT / f"kernels/{operation}.py").read_text()
        assert any(f" {operation}(" in path.read_text() for path in (ROOT / "csrc/core").iterdir())
        assert operation in (ROOT / "csrc/tests/test_core.cpp").read_text()


@pytest.mark.parametrize("gradient", sorted(GRADIENTS))
def test_a_gradient_is_named_for_its_operation(gradient):
    """On a GPU gradients are the reference's: there is no kernel of that name."""
    assert gradient.removesuffix("_backward") in OPERATIONS
    assert f"def {gradient}(" in (PACKAGE / "ops/reference.py").read_text()
    assert (ROOT / f"tests/ops/test_{gradient}.py").is_file()
    assert f"def test_{gradient}(" in (ROOT / "benches/test_ops.py").read_text()
    assert any(f" {gradient}(" in path.read_text() for path in (ROOT / "csrc/core").iterdir())
    assert gradient in (ROOT / "csrc/tests/test_core.cpp").read_text()


@pytest.mark.parametrize("name", ["cpu/backend.py", "triton/backend.py", "reference.py"])
def test_a_device_has_one_class_of_operations_each_beside_its_gradient(name):
    """In the order of `Backend`, whose methods stand in one class a device, in one file."""
    tree = ast.parse((PACKAGE / "ops" / name).read_text())
    (backend,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    stated = [name for name in vars(Backend) if name in Backend.__abstractmethods__]
    methods = [node.name for node in backend.body if isinstance(node, ast.FunctionDef)]
    assigned = [node.targets[0].id for node in backend.body if isinstance(node, ast.Assign)]
    assert set(stated) <= {*methods, *assigned}
    for names in (methods, assigned):
        assert [name for name in names if name in stated] == [name for name in stated if name in names]


def test_attention_takes_its_spec_whole():
    """A new argument of attention is a field of `AttentionSpec`: no signature on the way to a kernel names another."""
    fields = {"softcap", "window", "scale"}
    for path in [*(PACKAGE / "ops").rglob("*.py"), PACKAGE / "model/decoder.py", *(ROOT / "benches").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "attention" in node.name:
                assert not fields & {argument.arg for argument in node.args.args}, f"{path}: {node.name}"
