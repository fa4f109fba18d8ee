"""The house rules that a machine can check: who may import whom, and one name per operation."""

import ast
import re
import sys
from pathlib import Path

import pytest

from codescaler.ops import Backend

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "codescaler"

# Rooms of the package. A module imports only from its own room and from rooms before it.
ROOMS = (
    *("errors", "types", "env", "metrics", "io", "text", "kernels", "_C", "ops", "model", "checkpoint", "quantize"),
    *("engine", "serve", "integrations", "monitor", "sandbox", "tasks", "data", "train", "evaluate", "testing"),
    *("commands", "cli"),
)
# Rooms that stand side by side: none imports another.
SIDE_BY_SIDE = {"integrations", "data", "train", "evaluate"}
# Third-party packages that a room may use besides the standard library.
LIBRARIES = {
    "metrics": {"numpy"},
    "text": {"numpy", "tree_sitter", "tokenizers", "jinja2", "markdown_it", "ruff"},
    "kernels": {"torch", "triton"},
    "ops": {"torch", "numpy"},
    "model": {"torch"},
    "checkpoint": {"torch", "safetensors", "huggingface_hub", "gguf", "tqdm"},
    "quantize": {"torch", "numpy", "safetensors"},
    "engine": {"torch", "numpy"},
    "serve": {"msgspec", "prometheus_client", "starlette", "uvicorn"},
    "sandbox": {"numpy", "pandas"},
    "integrations": {"ray", "swift", "verl"},
    "monitor": {"numpy", "transformers"},
    "data": {"torch", "numpy", "networkx", "transformers", "radon", "ruff"},
    "train": {"torch", "numpy", "safetensors", "tqdm", "matplotlib"},
    "evaluate": {"numpy", "matplotlib", "tqdm"},
    "commands": {"torch", "numpy", "tqdm"},
    "testing": {"torch", "numpy", "safetensors", "transformers", "peft", "triton"},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "kernels":
        parts = ("codescaler", *parts)
    return ".".join(parts).removesuffix(".__init__")


def room_of(module):
    """The part of a module's name after the package's: None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


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
    room = room_of(module)
    assert room in ROOMS, f"{module} is in no room: add its room to ARCHITECTURE.md and here"
    for imported in imports_of(path):
        library = imported.split(".")[0]
        if library != "codescaler":
            assert library in sys.stdlib_module_names or library in LIBRARIES.get(room, ()), f"{module}: {library}"
            continue
        target = room_of(imported)
        if target in (None, "__version__"):
            continue
        assert ROOMS.index(target) <= ROOMS.index(room), f"{module} imports {imported}"
        assert target not in ("kernels", "_C") or room in ("kernels", "ops"), (
            f"{module} imports {imported}; only ops reach native code"
        )
        assert target == room or not {target, room} <= SIDE_BY_SIDE, f"{module} imports {imported}"


def test_architecture_says_who_imports_whom():
    """The table of rooms in ARCHITECTURE.md has the rooms in their order, each with the rooms that it does import."""
    imported: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in SOURCES:
        room = room_of(module_name(path))
        targets = {room_of(name) for name in imports_of(path) if name.startswith("codescaler.")}
        if room is not None:
            imported[room] |= targets & set(ROOMS) - {room}
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*?) ?\|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    written = [(room, re.findall(r"\w+", rooms)) for room, rooms in rows]
    assert written == [(room, sorted(imported[room], key=ROOMS.index)) for room in ROOMS]


def test_the_root_holds_nine_modules_at_most():
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 9


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
PRODUCTS = {LINEAR := "linear", "int8_linear", FP8 := "fp8_linear"}
EXPERTS = "expert_mlp"  # on CPUs its products are oneDNN's
# `Backend` defines it by two others, and a backend may do both in one pass.
JOINED = "linear_glu"
OPERATIONS = Backend.__abstractmethods__ - GRADIENTS | PRODUCTS


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_an_operation_has_one_name_everywhere(operation):
    """Reference, tests, bench, Triton and (plain matrix products aside) C++ all call it the same."""
    assert f"def {operation}(" in (PACKAGE / "ops/reference.py").read_text()
    assert (ROOT / f"tests/ops/test_{operation}.py").is_file()
    assert f"def test_{operation}(" in (ROOT / "benches/speed/test_ops.py").read_text()
    if operation == FP8:  # a CPU emulates it, in the reference
        return
    has_file = operation in {*PRODUCTS, EXPERTS}
    assert (PACKAGE / (f"ops/cpu/{operation}.py" if has_file else "ops/cpu/backend.py")).is_file()
    assert f"def {operation}(" in (ROOT / f"kernels/{operation}.py").read_text()
    if operation not in (LINEAR, EXPERTS):
        assert any(f" {operation}(" in path.read_text() for path in (ROOT / "csrc/core").iterdir())
        assert operation in (ROOT / "csrc/tests/test_core.cpp").read_text()


def test_two_operations_in_one_pass_have_one_name_everywhere():
    assert JOINED in vars(Backend)
    assert f"def {JOINED}(" in (PACKAGE / "ops/triton/backend.py").read_text()
    assert (ROOT / f"tests/ops/test_{JOINED}.py").is_file()
    assert f"def test_{JOINED}(" in (ROOT / "benches/speed/test_ops.py").read_text()


@pytest.mark.parametrize("gradient", sorted(GRADIENTS))
def test_a_gradient_is_named_for_its_operation(gradient):
    """In Triton it stands beside its operation, or in a file of its own name."""
    assert gradient.removesuffix("_backward") in OPERATIONS
    assert f"def {gradient}(" in (PACKAGE / "ops/reference.py").read_text()
    files = (ROOT / f"kernels/{name}.py" for name in (gradient, gradient.removesuffix("_backward")))
    assert any(f"def {gradient}(" in path.read_text() for path in files if path.is_file())
    assert (ROOT / f"tests/ops/test_{gradient}.py").is_file()
    assert f"def test_{gradient}(" in (ROOT / "benches/speed/test_ops.py").read_text()
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
