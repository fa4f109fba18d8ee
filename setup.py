"""Builds the C++ extension `codescaler._C`; everything else about the package stands in pyproject.toml.

Environment:
    CODESCALER_OPENMP=0: kernels of one thread. They are also made where the compiler has no OpenMP.
    CODESCALER_PURE=1: no extension, for the wheel of platforms without a wheel of their own.
"""

import json
import os
import sys
import sysconfig
import tempfile
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

# -ffp-contract=off: a compiler that fuses a * b + c in one loop and not in its tail would break bit-identity.
# -Wno-maybe-uninitialized: GCC 12 sees it in its own AVX-512 headers.
FLAGS = json.loads(Path("csrc/build_flags.json").read_text())

# One translation unit per instruction set, and `kernels`; which runs is decided on the user's machine. A build for
# several processors at once (universal2) has the generic one.
MACHINE = sysconfig.get_platform().rpartition("-")[2].replace("amd64", "x86_64").replace("arm64", "aarch64")
UNITS = FLAGS["units"].get(MACHINE, FLAGS["units"]["other"])

SOURCES = ["csrc/bindings/module.cpp", *(f"csrc/core/{name}.cpp" for name in UNITS)]
HEADERS = sorted(str(path) for pattern in ("*.h", "*.inc", "*.json") for path in Path("csrc").rglob(pattern))


class BuildWithUnitFlags(build_ext):
    """Adds to the compiler's command line what it needs for OpenMP, and each source's own flags."""

    def build_extensions(self) -> None:
        has_openmp = os.environ.get("CODESCALER_OPENMP") != "0" and self._has_openmp()
        for extension in self.extensions:
            extension.extra_compile_args += FLAGS["openmp" if has_openmp else "no_openmp"]
            extension.extra_link_args += FLAGS["openmp"] if has_openmp else []
        compile_one = self.compiler._compile

        def compile_with_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):  # type: ignore[no-untyped-def]
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *UNITS.get(Path(src).stem, [])], pp_opts)

        self.compiler._compile = compile_with_flags
        super().build_extensions()

    def _has_openmp(self) -> bool:
        """Whether a program with OpenMP compiles and links; says so where it does not."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile([str(source)], folder, extra_postargs=FLAGS["openmp"])
                self.compiler.link_executable(objects, "probe", folder, extra_postargs=FLAGS["openmp"])
            except (CompileError, LinkError):
                print("codescaler: this compiler has no OpenMP, so the kernels use one thread", file=sys.stderr)
                return False
        return True


# Source files are compiled beside one another, on as many cores as there are or as MAX_JOBS says.
ParallelCompile("MAX_JOBS", default=0).install()

setup(
    ext_modules=[]
    if os.environ.get("CODESCALER_PURE") == "1"
    else [
        Pybind11Extension(
            "codescaler._C",
            SOURCES,
            depends=HEADERS,
            extra_compile_args=list(FLAGS["all"]),
        )
    ],
    cmdclass={"build_ext": BuildWithUnitFlags},
)
