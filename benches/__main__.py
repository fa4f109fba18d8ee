"""`python benches compare bon8` runs benches/speed/compare.py with these arguments.

The root of the repository goes to the end of the path: in front, its folder kernels/ would stand for another
project's package of that name, which transformers looks for.
"""

import runpy
import sys
from pathlib import Path

SCRIPTS = {
    "speed": (
        *("best_of_n_latency", "compare", "cpu", "fusions", "likelihood", "scaling", "scheduler", "serving"),
        *("serving_faults", "startup", "threads", "train_speed"),
    ),
    "quality": (
        *("adaptive", "alarm", "average", "delta", "fault_lines", "fidelity", "fitness_order", "fp8", "judging"),
        *("labels", "likelihoods", "parity", "policies", "praising", "ranking", "reading_data", "robustness"),
        *("sampled", "smaller", "steady", "suites", "targets", "tau", "teacher_scores", "templates", "train_study"),
        "voted_labels",
    ),
    "tools": (
        "benchmarks_page",
        "compile_triton",
        "install_openrlhf",
        "install_vllm",
        "page_screenshots",
        "prose",
        "release_check",
        "roofline",
        "wheels",
    ),
}

if __name__ == "__main__":
    modules = {name: f"benches.{folder}.{name}" for folder, names in SCRIPTS.items() for name in names}
    modules["gpu"] = "benches.gpu"
    if len(sys.argv) < 2 or sys.argv[1] not in modules:
        sys.exit(f"usage: python benches {{{','.join(sorted(modules))}}} [options]; --help after the name lists them")
    sys.path.append(str(Path(__file__).parents[1]))
    from codescaler.errors import InvalidInput

    del sys.argv[0]
    try:
        runpy.run_module(modules[sys.argv[0]], run_name="__main__", alter_sys=True)
    except InvalidInput as error:
        sys.exit(f"error: {error}")
