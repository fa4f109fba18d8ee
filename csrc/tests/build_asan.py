"""Builds csrc/tests/test_core.cpp and all kernels with AddressSanitizer and UBSan: python build_asan.py OUT_DIR.

Standard library only, so that it runs before anything is installed. CXX names the compiler.
"""

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CSRC = Path(__file__).parents[1]
SANITIZE = ["-g", "-fopenmp", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# GCC 12 sees these in its own AVX-512 headers.
QUIET = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", *QUIET, *SANITIZE]


def main() -> None:
    out, compiler = Path(sys.argv[1]), os.environ.get("CXX", "g++")
    isa_flags = json.loads((CSRC / "isa_flags.json").read_text())
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    sources = [CSRC / f"core/{name}.cpp" for name in isa_flags if is_x86 or name == "isa_generic"]
    sources += [CSRC / "core/kernels.cpp", CSRC / "tests/test_core.cpp"]

    def compile_one(source: Path) -> str:
        target = str(out / f"{source.stem}.o")
        flags = [*FLAGS, *isa_flags.get(source.stem, [])]
        subprocess.run([compiler, *flags, "-c", str(source), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    subprocess.run([compiler, *SANITIZE, *objects, "-o", str(out / "test_core")], check=True)


if __name__ == "__main__":
    main()
