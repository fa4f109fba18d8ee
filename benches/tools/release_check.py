"""Says whether a release is ready: `make release-check`. Exit status 1 if a line of the checklist fails.

1. The version is the same in pyproject.toml, in the package, on top of the changelog, and in the tag of this commit.
2. The tree is clean.
3. The generated pages are what the results give.
4. The source archive and the wheels of every machine and Python are there, and carry their license.
5. The archive and the wheels hold the sources of this commit.
6. A native wheel asks for no newer glibc than its tag says, and brings or names no OpenMP of its own.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benches.tools import benchmarks_page
from benches.tools.wheels import GLIBC, MACHINES, PYTHONS

ROOT = Path(__file__).parents[2]
# Committed in a folder of the package, and no part of it.
NOT_PACKED = {"codescaler/examples/README.md", "codescaler/examples/mbpp_unseen.jsonl.gz"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python benches release_check", description=__doc__.partition("\n\n")[0])
    parser.add_argument("wheels", type=Path, help="the folder that `make wheels` filled")
    wheels: Path = parser.parse_args().wheels
    version = read_version(ROOT)
    problems = [*check_version(ROOT, version), *check_tree(ROOT), *check_pages(), *check_wheels(ROOT, wheels, version)]
    for problem in problems:
        print(f"FAIL: {problem}")
    print(f"{version}: {f'{len(problems)} lines of the checklist fail' if problems else 'ready to publish'}")
    return 1 if problems else 0


def read_version(root: Path) -> str:
    """The version that pyproject.toml gives."""
    return _find(r'^version = "(.+)"$', (root / "pyproject.toml").read_text())


def check_version(root: Path, version: str) -> Iterator[str]:
    """Yields each place that names another version than pyproject.toml."""
    package = _find(r'^__version__ = "(.+)"$', (root / "codescaler/__init__.py").read_text())
    if package != version:
        yield f"codescaler/__init__.py says {package}, and pyproject.toml {version}"
    title = _find(r"^## (.+)$", (root / "CHANGELOG.md").read_text())
    if title != version:
        yield f"the changelog begins with {title!r}; it should begin with {version!r}"
    tags = _ask_git(root, "tag", "--points-at", "HEAD").split()
    if f"v{version}" not in tags:
        yield f"this commit has the tags {tags}, and not 'v{version}'"


def check_tree(root: Path) -> Iterator[str]:
    """Yields a line if files differ from the commit."""
    changed = _ask_git(root, "status", "--porcelain").splitlines()
    if changed:
        yield f"the tree is not clean: {len(changed)} files, {changed[0].strip()} first"


def check_pages() -> Iterator[str]:
    """Yields a line if the page of benchmarks is old."""
    if benchmarks_page.main(["--check"]):
        yield "docs/benchmarks.md or a picture is old: run python benches benchmarks_page"


def check_wheels(root: Path, folder: Path, version: str) -> Iterator[str]:
    """Yields each file that is missing, and what is wrong with those that are there."""
    committed = read_commit(root)
    archive = folder / f"codescaler-{version}.tar.gz"
    if archive.exists():
        yield from check_sources(archive, committed)
    else:
        yield f"{archive.name} is not in {folder}"
    native = [f"{tag}-{tag}-{machine.tag}" for machine in MACHINES.values() for tag in map(_format_tag, PYTHONS)]
    for tag in (*native, "py3-none-any"):
        wheel = folder / f"codescaler-{version}-{tag}.whl"
        if wheel.exists():
            yield from check_wheel(wheel)
            yield from check_sources(wheel, committed)
        else:
            yield f"{wheel.name} is not in {folder}"


def read_commit(root: Path) -> dict[str, str]:
    """Path and hash of each file of the commit."""
    lines = _ask_git(root, "ls-tree", "-r", "-z", "HEAD").split("\0")
    return {path: about.split()[2] for about, _, path in (line.partition("\t") for line in lines if line)}


def check_sources(built: Path, committed: dict[str, str]) -> Iterator[str]:
    """Yields a line if a wheel or the archive of sources holds other sources than the commit."""
    if built.suffix == ".whl":
        with zipfile.ZipFile(built) as wheel:
            names = [name for name in wheel.namelist() if re.match(r"codescaler/(?!_C\.cpython)", name)]
            files = {name.replace("codescaler/kernels/", "kernels/"): wheel.read(name) for name in names}
        wanted = re.compile(r"(codescaler|kernels)/.*")
    else:
        with tarfile.open(built) as archive:
            members = [(member.name.partition("/")[2], archive.extractfile(member)) for member in archive]
            files = {name: file.read() for name, file in members if file and name in committed}
        wanted = re.compile(r"(codescaler|kernels|csrc)/.*|setup\.py|pyproject\.toml")
    differing = {path for path in committed if wanted.fullmatch(path)} - files.keys() - NOT_PACKED
    differing |= {path for path, content in files.items() if committed.get(path) != _hash_blob(content)}
    if differing:
        yield f"{built.name} is not of this commit: {len(differing)} files differ, {min(differing)} first"


def check_wheel(wheel: Path) -> Iterator[str]:
    """Yields what is wrong with one wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name.partition("/")[0] for name in names if name.endswith(".dist-info/WHEEL"))
        tag = _find(r"^Tag: (.+)$", archive.read(f"{info}/WHEEL").decode())
        if not wheel.stem.endswith(tag):
            yield f"{wheel.name} says inside that its tag is {tag}"
        if f"{info}/licenses/LICENSE" not in names:
            yield f"{wheel.name} has no license"
        if bundled := [name for name in names if re.search("gomp|libomp|iomp", name)]:
            yield f"{wheel.name} brings {bundled[0]}: there would be two pools of threads"
        extensions = [name for name in names if name.startswith("codescaler/_C.") and name.endswith(".so")]
        if len(extensions) != (tag != "py3-none-any"):
            yield f"{wheel.name} holds {len(extensions)} extensions"
        for name in extensions:
            with tempfile.TemporaryDirectory() as folder:
                yield from (f"{wheel.name}: {problem}" for problem in check_extension(archive.extract(name, folder)))


def check_extension(path: str) -> Iterator[str]:
    """Yields what an extension asks of a system that the tag does not promise."""
    needed, table = (
        subprocess.run(["readelf", "-W", option, path], capture_output=True, text=True, check=True).stdout
        for option in ("-dV", "--dyn-syms")
    )
    libraries = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", needed))
    allowed = re.compile(r"lib(c|m|pthread|dl|gcc_s)\.so\.\d|ld-linux-.*")
    if unknown := sorted(library for library in libraries if not allowed.fullmatch(library)):
        yield f"it needs {', '.join(unknown)}"
    names = set(re.findall(r"GLIBC_(\w[\w.]*)", needed))
    if unknown := sorted(name for name in names if not re.fullmatch("[0-9.]+", name)):
        yield f"it needs GLIBC_{', GLIBC_'.join(unknown)}, which is of no release"
    versions = {tuple(map(int, name.split("."))) for name in names.difference(unknown)}
    if versions and max(versions) > tuple(map(int, GLIBC.split("."))):
        yield f"it needs glibc {'.'.join(map(str, max(versions)))}, and the tag says {GLIBC}"

    # A symbol without a version is of Python, or of the OpenMP that torch brings: glibc 2.28 may not have any other.
    symbols = re.findall(r" GLOBAL +\w+ +UND ([^@\s]+)$", table, re.MULTILINE)
    if unknown := sorted(name for name in symbols if not re.match("(Py|_Py|GOMP_|omp_)", name)):
        yield f"no library promises it {', '.join(unknown)}"


def _format_tag(version: str) -> str:
    return f"cp{version.replace('.', '')}"


def _hash_blob(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, pattern
    return found[1]


def _ask_git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
