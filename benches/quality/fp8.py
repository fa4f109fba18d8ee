"""Says what fp8 does to rankings, on a GPU or emulated on a CPU: `python benches fp8 MODEL GROUPS`.

MODEL is the folder of a reward model, or `nano`. GROUPS are labelled programs. Scores in bfloat16 are compared with
scores in fp8 and bfloat16, by the rule and with all linear layers in fp8. On a CPU the reference backend emulates fp8:
its products are of fp8 numbers, in the order of PyTorch.
Exit status 1 unless
    mean Kendall's tau of a problem's distinct programs, by the rule >= 0.95.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benches.harness.options import parse_count, report_progress
from benches.harness.results import RESULTS
from benches.quality.tau import kendall_tau
from codescaler.commands.info import describe_environment
from codescaler.engine import Engine
from codescaler.io.records import read_groups
from codescaler.io.tables import format_table
from codescaler.metrics import bootstrap_interval
from codescaler.ops import select_backend
from codescaler.quantize.sensitivity import quantize
from codescaler.testing import describe_device

LEAST_TAU = 0.95
BY_THE_RULE, EVERYWHERE = "by the rule", "every linear layer"
LIMITS = {BY_THE_RULE: None, EVERYWHERE: math.inf}


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    torch.set_num_threads(arguments.threads)
    groups = list(read_groups(arguments.groups))
    place = {"device": arguments.device, "backend": "reference" if arguments.device == "cpu" else "triton"}
    taus: dict[str, list[float]] = {}
    num_layers = {}
    with tempfile.TemporaryDirectory() as scratch:
        exact = Engine.from_pretrained(arguments.model, dtype="bfloat16", **place)
        for name, limit in LIMITS.items():
            report = quantize(arguments.model, Path(scratch) / name, limit=limit, quantization="fp8")
            num_layers[name] = len(report.choice.linears)
            report_progress(f"{name}: {num_layers[name]} linear layers are fp8, change {report.choice.change:.3f}")
            rounded = Engine.from_pretrained(report.folder, dtype="bfloat16", **place)
            taus[name] = []
            for group in groups:
                pairs = [(group.prompt, program) for program in group.codes]
                taus[name].append(kendall_tau(rounded.score(pairs), exact.score(pairs)))
                report_progress(f"{name}: {group.task_id} {taus[name][-1]:.3f}")
    means = {name: float(np.mean(values)) for name, values in taus.items()}
    intervals = {name: bootstrap_interval(values) for name, values in taus.items()}
    rows = [
        (name, str(num_layers[name]), f"{means[name]:.4f}", "[{:.4f}, {:.4f}]".format(*intervals[name]))
        for name in taus
    ]
    print(f"Kendall's tau of fp8 to bfloat16 scores, {len(groups)} problems")
    print(format_table(("fp8", "linear layers", "mean tau", "95% interval"), rows))
    holds = means[BY_THE_RULE] >= LEAST_TAU
    print(f"{'PASS' if holds else 'FAIL'}: by the rule the mean must be {LEAST_TAU}")
    if arguments.save:
        values = {
            **describe_environment("reference"),
            "device": describe_device(torch.device(arguments.device), "CPU"),
            "backend": select_backend(place["backend"], arguments.device).description,
            "groups": arguments.groups.name,
            "num_problems": len(groups),
            "num_fp8_linears": num_layers,
            "mean_tau": means,
            "interval": intervals,
            "tau": taus,
            "holds": holds,
        }
        (RESULTS / f"fp8_{arguments.save}.json").write_text(json.dumps(values, indent=2) + "\n")
    return 0 if holds else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches fp8", description=__doc__.partition("\n\n")[0])
    parser.add_argument("model", help="folder of a reward model, or nano")
    parser.add_argument("groups", type=Path, help="JSON lines of labelled programs; .gz too")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the models run (%(default)s)")
    parser.add_argument("--threads", type=parse_count, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/fp8_NAME.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
