"""Builds the C++ extension `codescaler._C`; everything else about the package stands in pyproject.toml."""

import json
import platform
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

# One translation unit per instruction set; which of them runs is decided on the user's machine.
ISA_FLAGS = json.loads(Path("csrc/isa_flags.json").read_text())
if platform.machine() not in ("x86_64", "AMD64"):
    ISA_FLAGS = {"isa_generic": []}

# -ffp-contract=off: a compiler that fuses a * b + c in one loop and not in its tail would break bit-identity.
# -Wno-maybe-uninitialized: GCC 12 sees it in its own AVX-512 headers.
FLAGS = ["-O3", "-fopenmp", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-maybe-uninitialized"]

SOURCES = ["csrc/bindings/module.cpp", "csrc/core/kernels.cpp", *(f"csrc/core/{name}.cpp" for name in ISA_FLAGS)]
HEADERS = sorted(str(path) for pattern in ("*.h", "*.inc", "*.json") for path in Path("csrc").rglob(pattern))


class BuildWithIsaFlags(build_ext):
    """Adds each source's own flags to the compiler's command line."""

    def build_extensions(self) -> None:
        compile_one = self.compiler._compile

        def compile_with_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):  # type: ignore[no-untyped-def]
            flags = ISA_FLAGS.get(Path(src).stem, [])
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *flags], pp_opts)

        self.compiler._compile = compile_with_flags
        super().build_extensions()


# Source files are compiled beside one another, on as many cores as there are.
ParallelCompile(default=0).install()

setup(
    ext_modules=[
        Pybind11Extension(
            "codescaler._C",
            SOURCES,
            depends=HEADERS,
            cxx_std=17,
            extra_compile_args=FLAGS,
            extra_link_args=["-fopenmp"],
        )
    ],
    cmdclass={"build_ext": BuildWithIsaFlags},
)
