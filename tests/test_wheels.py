"""The wheels of a release: what is in them, and that each ranks programs in an environment without a compiler."""

import base64
import csv
import hashlib
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from benches.tools import release_check, wheels

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "build/wheels"
RANK = "import sys; from codescaler import cli; sys.exit(cli.main(['rerank', 'problem.md', 'a.py', 'b.py']))"


@pytest.fixture(scope="module")
def pure(tmp_path_factory):
    """The archive of the sources, and the pure wheel that is built from it."""
    return wheels.build_pure_wheel(tmp_path_factory.mktemp("pure"))


@pytest.fixture(scope="module")
def native(pure, tmp_path_factory):
    """The pure wheel with a file in place of an extension."""
    extension = tmp_path_factory.mktemp("extension") / "_C.cpython-311-aarch64-linux-gnu.so"
    extension.write_bytes(b"not a library")
    return wheels.add_extension(pure, extension, "3.11", wheels.MACHINES["aarch64"])


def rank_programs(wheel, folder, *, dependencies, python=sys.executable):
    """Installs a wheel into a new environment, and ranks there, with no program on the PATH but Python's own.

    `dependencies` is a folder of packages that the environment sees, for torch is too large to be copied.
    """
    environment = {"PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(folder)}

    def run(*command):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run(python, "-m", "venv", "--without-pip", "bare")
    (site,) = (folder / "bare/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies}\n")  # a path alone: no .pth file in it is read
    bare = str(folder / "bare/bin/python")
    run(bare, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--ignore-installed", str(wheel))
    (folder / "problem.md").write_text("Write a function that adds two numbers.")
    (folder / "a.py").write_text("def add(a, b):\n    return a + b")
    (folder / "b.py").write_text("def add(a, b):\n    return a - b")
    assert run(bare, "-P", "-c", "import codescaler; print(codescaler.__file__)").startswith(str(site))
    return run(bare, "-P", "-c", RANK), run(bare, "-P", "-m", "codescaler.cli", "info")


def test_the_pure_wheel_ranks_and_says_what_is_slow(pure, tmp_path):
    ranking, info = rank_programs(pure, tmp_path, dependencies=sysconfig.get_path("purelib"))
    assert ranking.index("a.py") < ranking.index("b.py")
    assert "without C++ kernels" in ranking
    assert "several passes over memory" in ranking
    assert "manylinux_2_28" in info
    assert "pip install ." in info


def test_a_native_wheel_is_the_pure_one_and_an_extension(pure, native):
    assert native.name.endswith("-cp311-cp311-manylinux_2_28_aarch64.whl")
    with zipfile.ZipFile(native) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    extra = set(files) - set(zipfile.ZipFile(pure).namelist())
    assert extra == {"codescaler/_C.cpython-311-aarch64-linux-gnu.so"}
    (record,) = (name for name in files if name.endswith(".dist-info/RECORD"))
    rows = {name: digest for name, digest, _ in csv.reader(files[record].decode().splitlines())}
    assert set(rows) == set(files)
    for name, content in files.items():
        if name != record:
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert rows[name] == f"sha256={digest}", name
    assert b"Root-Is-Purelib: false" in files[record.replace("RECORD", "WHEEL")]


def test_the_checklist_holds_a_good_wheel_and_names_what_is_wrong(pure, native, tmp_path):
    assert list(release_check.check_wheel(pure)) == []
    version = release_check.read_version(ROOT)
    missing = list(release_check.check_wheels(ROOT, tmp_path, version))
    assert len(missing) == 2 + len(wheels.MACHINES) * len(wheels.PYTHONS)
    renamed = tmp_path / native.name.replace("aarch64", "x86_64")
    renamed.write_bytes(pure.read_bytes())
    assert [line.partition(" says ")[2] for line in release_check.check_wheel(renamed)][:1] == [
        "inside that its tag is py3-none-any"
    ]


def test_the_checklist_compares_the_files_of_a_wheel_with_the_commit(tmp_path):
    names = {"codescaler/a.py": "codescaler/a.py", "kernels/b.py": "codescaler/kernels/b.py"}
    wheel = tmp_path / "codescaler-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for committed, packed in names.items():
            (tmp_path / committed).parent.mkdir()
            (tmp_path / committed).write_text("pass\n")
            archive.write(tmp_path / committed, packed)
        archive.writestr("codescaler/_C.cpython-311-x86_64-linux-gnu.so", b"")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]

    def check_after_commit():
        subprocess.run([*git, "add", "codescaler", "kernels"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "a"], check=True)
        return [*release_check.check_sources(wheel, release_check.read_commit(tmp_path))]

    subprocess.run([*git, "init", "-q"], check=True)
    assert check_after_commit() == []
    (tmp_path / "kernels/b.py").write_text("pass  # later\n")
    (tmp_path / "codescaler/c.css").write_text("pass\n")
    assert check_after_commit() == [f"{wheel.name} is not of this commit: 2 files differ, codescaler/c.css first"]


@pytest.mark.skipif(sys.platform != "linux", reason="readelf reads the libraries of Linux")
def test_the_checklist_names_what_an_extension_asks_of_its_system(tmp_path):
    (built,) = (ROOT / "codescaler").glob("_C.cpython-*.so")
    needed, *_ = release_check.check_extension(str(built))
    assert "libstdc++.so.6" in needed  # linked in where a wheel is built
    source = tmp_path / "a.c"
    source.write_text("int arc4random(void);\nint call(void) { return arc4random(); }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", "-o", tmp_path / "a.so", source], check=True)
    assert [*release_check.check_extension(str(tmp_path / "a.so"))] == ["no library promises it arc4random"]


def test_the_checklist_compares_versions(tmp_path):
    (tmp_path / "codescaler").mkdir()
    (tmp_path / "codescaler/__init__.py").write_text('__version__ = "1.1"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2 (unreleased)\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert [*release_check.check_tree(tmp_path)] == ["the tree is not clean: 2 files, ?? CHANGELOG.md first"]
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a"], check=True)
    assert len([*release_check.check_version(tmp_path, "1.2")]) == 3
    (tmp_path / "codescaler/__init__.py").write_text('__version__ = "1.2"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2\n")
    subprocess.run([*git, "tag", "v1.2"], check=True)
    assert [*release_check.check_version(tmp_path, "1.2")] == []


@pytest.mark.slow
@pytest.mark.parametrize("version", wheels.PYTHONS)
def test_each_wheel_of_this_machine_ranks(version, tmp_path):
    """On the wheels that `make wheels` has built, for each Python that is here with torch."""
    found = sorted(BUILT.glob(f"*-cp{version.replace('.', '')}-*_{os.uname().machine}.whl"))
    python = wheels.find_python(version)
    if not found or python is None:
        pytest.skip(f"no wheel or no interpreter of Python {version}: run make wheels")
    is_this = version == f"{sys.version_info[0]}.{sys.version_info[1]}"
    asked = "import torch, sysconfig; print(sysconfig.get_path('purelib'))"
    there = subprocess.run([sys.executable if is_this else python, "-c", asked], capture_output=True, text=True)
    if there.returncode:
        pytest.skip(f"Python {version} has no torch")
    ranking, info = rank_programs(
        found[-1], tmp_path, dependencies=there.stdout.strip(), python=sys.executable if is_this else python
    )
    assert ranking.index("a.py") < ranking.index("b.py")
    assert "passes over" not in ranking
    from codescaler.ops.cpu import list_supported_isas  # built here, from the same sources

    assert all(name in info for name in list_supported_isas())


@pytest.mark.slow
@pytest.mark.parametrize("openmp", ["0", "1"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_archive_builds(compiler, openmp, pure, tmp_path):
    if subprocess.run(["sh", "-c", f"command -v {compiler}"], capture_output=True).returncode:
        pytest.skip(f"{compiler} is not here")
    (archive,) = pure.parent.glob("*.tar.gz")
    compilers = {"CC": compiler, "CXX": {"gcc": "g++", "clang": "clang++"}[compiler]}
    environment = {**os.environ, **compilers, "CODESCALER_OPENMP": openmp}
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, archive]
    subprocess.run(command, env=environment, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    ranking, info = rank_programs(wheel, tmp_path, dependencies=sysconfig.get_path("purelib"))
    assert ranking.index("a.py") < ranking.index("b.py")
    assert ("without OpenMP" in info) == (openmp == "0")
