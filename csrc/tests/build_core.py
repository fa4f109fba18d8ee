"""Builds csrc/tests/test_core.cpp and all kernels under sanitizers: python build_core.py OUT_DIR [--machine aarch64].

CXX names the compiler. Standard library only, so that it runs before anything is installed.
"""

import argparse
import json
import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CSRC = Path(__file__).parents[1]
BUILD = json.loads((CSRC / "build_flags.json").read_text())
# -Wno-uninitialized: GCC 12 sees it in its own AVX-512 headers.
FLAGS = [*BUILD["all"], *BUILD["openmp"], "-O1", "-g", "-Wno-uninitialized"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--machine", default=platform.machine())
    parser.add_argument("--sanitize", default="address,undefined")
    parser.add_argument("--static", action="store_true", help="link everything in, for an emulator without libraries")
    options = parser.parse_args()
    compiler = os.environ.get("CXX", "g++")
    units = BUILD["units"].get(options.machine, BUILD["units"]["other"])
    sanitize = [f"-fsanitize={options.sanitize}", "-fno-sanitize-recover=all"]
    # The kernels are under test, and not the plain loops, which would take most of the time under sanitizers.
    flags = {CSRC / f"core/{name}.cpp": [*sanitize, *more] for name, more in units.items()}
    flags[CSRC / "tests/test_core.cpp"] = []

    def compile_one(source: Path) -> str:
        target = str(options.out / f"{source.stem}.o")
        subprocess.run([compiler, *FLAGS, *flags[source], "-c", str(source), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, flags))
    link = [*FLAGS, *sanitize, *(["-static"] if options.static else [])]
    subprocess.run([compiler, *link, *objects, "-o", str(options.out / "test_core")], check=True)


if __name__ == "__main__":
    main()
