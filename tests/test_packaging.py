"""What a user installs: a source archive that builds, and a wheel that works from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benches.tools.wheels import build_source_archive

ROOT = Path(__file__).parents[1]


def run(*command, cwd, **environment):
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from the source archive, so that a file missing there is missed here.

    Its kernels are not optimised, since most of the time goes there: `make setup` has built them as they are used.
    """
    folder = tmp_path_factory.mktemp("packaging")
    compiler = folder / "compiler"
    compiler.write_text('#!/bin/sh\nexec g++ "$@" -O0\n')  # the last option is heeded
    compiler.chmod(0o755)
    archive = build_source_archive(folder)
    command = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, archive)
    run(*command, cwd=folder, CC=str(compiler), CXX=str(compiler))
    (wheel,) = folder.glob("codescaler-*.whl")
    return wheel


def test_the_wheel_holds_one_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"codescaler"}
    assert {"codescaler/kernels/__init__.py", "codescaler/py.typed"} <= set(names)
    assert any(name.startswith("codescaler/_C") and name.endswith((".so", ".pyd")) for name in names)


def test_the_wheel_works_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import codescaler.engine, codescaler.kernels, codescaler.ops
backend = codescaler.ops.select_backend("cpu", "cpu")
assert codescaler.__file__.startswith({str(site)!r}), codescaler.__file__
assert "kernels" not in sys.modules
print(backend.description)
"""
    assert run("-I", "-c", code, cwd=empty).startswith("C++ ")


@pytest.mark.parametrize("compiler", ["g++", "aarch64-linux-gnu-g++"])
def test_a_machine_without_units_of_its_own_names_the_generic_kernels_only(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not here")
    flags = json.loads((ROOT / "csrc/build_flags.json").read_text())
    target = tmp_path / "kernels.o"
    command = [compiler, *flags["all"], *flags["units"]["other"]["kernels"], "-c", ROOT / "csrc/core/kernels.cpp"]
    subprocess.run([*command, "-o", target], check=True)
    symbols = subprocess.run(["nm", "-uC", target], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in symbols if name.startswith("codescaler::k")} == {"codescaler::kGeneric"}


NANO = ROOT / "codescaler/nano"


def test_the_wheel_holds_a_reward_model_that_ranks(wheel, tmp_path):
    held = {info.filename: info.file_size for info in zipfile.ZipFile(wheel).infolist()}
    model = {name: size for name, size in held.items() if name.startswith("codescaler/nano/")}
    assert {Path(name).name for name in model} == {path.name for path in NANO.iterdir()}
    assert sum(model.values()) <= 48 * 10**6
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    (empty / "problem.md").write_text("Write a function that adds two numbers.")
    (empty / "a.py").write_text("def add(a, b):\n    return a + b")
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
from codescaler import cli
sys.exit(cli.main(["rerank", "problem.md", "a.py"]))
"""
    assert "a.py" in run("-I", "-c", code, cwd=empty)
