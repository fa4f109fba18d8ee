"""`python benches compare bon8` runs benches/compare.py with these arguments.

The root of the repository goes to the end of the path: in front, its folder kernels/ would stand for another
project's package of that name, which transformers looks for.
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    scripts = (
        *("benchmarks_page", "compare", "compile_triton", "cpu", "far", "fidelity", "fusions", "gpu", "install_vllm"),
        *("labels", "nano_data", "parity", "prose", "ranking", "robustness", "roofline", "scaling", "scheduler"),
        *("startup", "tau", "threads", "train_speed", "train_study"),
    )
    if len(sys.argv) < 2 or sys.argv[1] not in scripts:
        sys.exit(f"usage: python benches {{{','.join(scripts)}}} [options]; --help after the name lists them")
    sys.path.append(str(Path(__file__).parents[1]))
    del sys.argv[0]
    runpy.run_module(f"benches.{sys.argv[0]}", run_name="__main__", alter_sys=True)
