"""One pool of threads: the extension uses the OpenMP library that torch has loaded."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="libraries of a process are listed on Linux only")
def test_torch_and_the_kernels_share_one_library():
    code = "import codescaler.ops.cpu; print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mapped = {line.split()[-1] for line in done.stdout.splitlines() if "/" in line}
    assert len({name for name in mapped if Path(name).name.startswith(("libgomp", "libomp", "libiomp"))}) == 1
