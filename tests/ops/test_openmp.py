"""One pool of threads: the extension uses the OpenMP library that torch has loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codescaler.ops.cpu import openmp


@pytest.mark.skipif(sys.platform != "linux", reason="libraries of a process are listed on Linux only")
def test_torch_and_the_kernels_share_one_library():
    code = "import codescaler.ops.cpu; print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mapped = {line.split()[-1] for line in done.stdout.splitlines() if "/" in line}
    assert len({name for name in mapped if Path(name).name.startswith(("libgomp", "libomp", "libiomp"))}) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="libraries of a process are listed on Linux only")
@pytest.mark.parametrize(
    ("resident", "opened"),
    [("libgomp-b.so.1", "libgomp-b.so.1"), ("libiomp5.so", "libiomp5.so"), (None, "libgomp-a.so.1")],
)
def test_one_library_is_opened_and_loaded_only_where_none_is_resident(resident, opened, monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    for name in ("libgomp-a.so.1", "libgomp-b.so.1"):
        (tmp_path / "lib" / name).touch()
    successes = []

    def load(path, mode):
        if mode & os.RTLD_NOLOAD and Path(path).name != resident:
            raise OSError("not resident")
        successes.append((Path(path).name, bool(mode & os.RTLD_NOLOAD)))

    monkeypatch.setattr(openmp.torch, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(openmp.ctypes, "CDLL", load)
    openmp.share_library()
    assert successes == [(opened, resident is not None)]
