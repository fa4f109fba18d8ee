"""Builds the wheels of a release: `make wheels`.

The pure wheel is built from the source archive, and a native wheel is the pure wheel with one extension more.

- GCC compiles, because its OpenMP is torch's. The objects of csrc/core serve every Python.
- Zig links, because it brings the symbols of an old glibc. So the wheel runs on any Linux since then.
- libstdc++ is linked in. libgomp is not even named: `ops/cpu/openmp.py` shows the extension the library that torch has
  loaded. So there is one pool of threads.
- An extension includes the headers of its Python. Those of AArch64 are the ones of x86-64: `pyconfig.h` differs in
  what CPython's own sources ask, and in no type that an extension sees. So a Python must have the `pyconfig.h` of one
  machine: what pyenv, conda and uv install has. Debian's own asks for that of AArch64, which is not there.
"""

import argparse
import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GLIBC = "2.28"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
FLAGS = json.loads((ROOT / "csrc/build_flags.json").read_text())


@dataclass(frozen=True)
class Machine:
    """A processor that wheels are built for, and the GCC that compiles for it."""

    name: str
    compiler: str

    @property
    def tag(self) -> str:
        return f"manylinux_{GLIBC.replace('.', '_')}_{self.name}"

    def find_library(self, name: str) -> str:
        """The path of a library of this compiler."""
        done = subprocess.run([self.compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        return done.stdout.strip()


MACHINES = {
    "x86_64": Machine("x86_64", os.environ.get("CXX", "g++")),
    "aarch64": Machine("aarch64", os.environ.get("AARCH64_CXX", "aarch64-linux-gnu-g++")),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benches wheels", description=__doc__.partition("\n\n")[0])
    parser.add_argument("out", type=Path, help="folder of the archive and the wheels; what it held of them goes")
    parser.add_argument("--machines", nargs="+", choices=MACHINES, default=list(MACHINES))
    parser.add_argument("--pythons", nargs="+", default=list(PYTHONS), help="versions; each is looked for on the PATH")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("codescaler-*.whl"), *out.glob("codescaler-*.tar.gz")):
        old.unlink()
    shutil.rmtree(out / "objects", ignore_errors=True)  # their dates do not say which commit they are of
    pure = build_pure_wheel(out)
    for name in options.machines:
        machine = MACHINES[name]
        if shutil.which(machine.compiler) is None:
            print(f"{name}: no wheel, because {machine.compiler} is not there")
            continue
        objects = out / "objects" / name
        objects.mkdir(parents=True, exist_ok=True)
        core = compile_core(machine, objects)
        for version in options.pythons:
            if (python := find_python(version)) is None:
                print(f"{name}, Python {version}: no wheel, because python{version} is not on the PATH")
                continue
            extension = build_extension(machine, python, core, objects / version)
            print(add_extension(pure, extension, version, machine))
    print(pure)


def build_pure_wheel(out: Path) -> Path:
    """The source archive, and from it the wheel without an extension."""
    archive = build_source_archive(out)
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(archive) as members:
            members.extractall(scratch, filter="data")
        (source,) = Path(scratch).glob("codescaler-*/")
        _run(
            *(sys.executable, "setup.py", "-q", "bdist_wheel", "-d", out.resolve()),
            cwd=source,
            env={**os.environ, "CODESCALER_PURE": "1"},
        )
    (wheel,) = out.glob("codescaler-*-py3-none-any.whl")
    return wheel


def build_source_archive(out: Path) -> Path:
    """One process at a time: setuptools gathers the files in a folder of the working tree, and removes it."""
    with (ROOT / "setup.py").open() as lock, tempfile.TemporaryDirectory() as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run(sys.executable, "setup.py", "-q", "egg_info", "-e", scratch, "sdist", "-d", out, cwd=ROOT)
    (archive,) = out.glob("codescaler-*.tar.gz")
    return archive


def compile_core(machine: Machine, objects: Path) -> list[Path]:
    """Objects of csrc/core, which know no Python."""
    sources = FLAGS["units"][machine.name]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count()) as pool:
        return list(pool.map(lambda name: _compile(machine, f"core/{name}.cpp", sources[name], objects), sources))


def build_extension(machine: Machine, python: str, core: list[Path], objects: Path) -> Path:
    """Compiles the bindings for one Python, and links everything."""
    import pybind11

    objects.mkdir(exist_ok=True)
    asked = "import sysconfig, sys; print(sysconfig.get_path('include'), '%d%d' % sys.version_info[:2])"
    include, version = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    bindings = _compile(machine, "bindings/module.cpp", [f"-I{include}", f"-I{pybind11.get_include()}"], objects)
    extension = objects / f"_C.cpython-{version}-{machine.name}-linux-gnu.so"
    exports = objects / "exports"
    exports.write_text("{ global: PyInit__C; local: *; };\n")
    threads = objects / "threads.c"  # a variable of glibc 2.32, which libstdc++ reads; 0: there may be several
    threads.write_text('__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;\n')
    _run(
        *(sys.executable, "-m", "ziglang", "cc", "-target", f"{machine.name}-linux-gnu.{GLIBC}", "-shared", "-s"),
        *("-nostdlib++", f"-Wl,--version-script={exports}", "-Wl,--gc-sections"),  # or random_device's arc4random stays
        *("-o", extension, threads, bindings, *core),
        # libgcc.a before Zig's own runtime, in whose table of features __builtin_cpu_supports finds none.
        *(machine.find_library(name) for name in ("libstdc++.a", "libgcc.a", "libgcc_s.so.1")),
        *("-lm", "-lpthread"),
    )
    return extension


def add_extension(pure: Path, extension: Path, version: str, machine: Machine) -> Path:
    """The pure wheel with `extension` in it, under the tag of its Python and machine."""
    python = f"cp{version.replace('.', '')}"
    tag = f"{python}-{python}-{machine.tag}"
    wheel = pure.with_name(pure.name.replace("py3-none-any", tag))
    with zipfile.ZipFile(pure) as source:
        files = {name: source.read(name) for name in source.namelist() if not name.endswith("/RECORD")}
    (info,) = {name.partition("/")[0] for name in files if name.endswith(".dist-info/WHEEL")}
    files[f"codescaler/{extension.name}"] = extension.read_bytes()
    lines = files[f"{info}/WHEEL"].decode().splitlines()
    kept = [line for line in lines if line and not line.startswith(("Tag:", "Root-Is-Purelib:"))]
    files[f"{info}/WHEEL"] = "\n".join([*kept, "Root-Is-Purelib: false", f"Tag: {tag}", ""]).encode()
    rows = [f"{name},sha256={_hash(content)},{len(content)}\n" for name, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(_describe_member(name), content)
    return wheel


def find_python(version: str) -> str | None:
    """The interpreter of a version. A shim that only says that it is not chosen is none."""
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        return None
    return python


def _compile(machine: Machine, source: str, flags: list[str], objects: Path) -> Path:
    target = objects / f"{Path(source).stem}.o"
    common = [*FLAGS["all"], *FLAGS["openmp"], "-fPIC", "-fvisibility=hidden", "-g0"]
    _run(machine.compiler, *common, *flags, "-c", ROOT / "csrc" / source, "-o", target)
    return target


def _describe_member(name: str) -> zipfile.ZipInfo:
    """One date and one mode, so that the same sources make the same wheel."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
    return info


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _run(*command: object, **options: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
