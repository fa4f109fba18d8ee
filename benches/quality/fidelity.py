"""Says what int8 does to rankings: `python benches fidelity MODEL GROUPS`.

MODEL is the folder of a reward model, GROUPS are labelled programs as for `python benches ranking`. MODEL is scored in
float32 as it is, and quantised, on the validation problems that have a correct and an incorrect program. Exit status 1
unless
    mean Kendall's tau of a problem's distinct programs >= 0.95, and
    |best of N, int8 - float32| <= 1.5 points, its paired 95% bootstrap interval holding 0.
The layers that stay as they are, and what each would do, are of the rule's own measurement
(`codescaler.quantize.sensitivity`). The speed is that of the rule's int8 beside bfloat16, in turn.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benches.harness.options import parse_count, report_progress
from benches.harness.results import RESULTS
from benches.harness.systems import select_every_linear
from benches.quality.ranking import read_splits
from benches.quality.tau import is_mixed, kendall_tau
from codescaler.checkpoint.load import open_checkpoint
from codescaler.commands.info import describe_environment
from codescaler.engine import Engine
from codescaler.io.records import Group
from codescaler.io.tables import format_table
from codescaler.metrics import best_of_n, bootstrap_interval
from codescaler.model.projections import list_linear_names
from codescaler.ops import select_backend
from codescaler.quantize import sensitivity as quantize
from codescaler.quantize.int8 import save_quantized
from codescaler.testing import measure_seconds
from codescaler.types import ACTIVATION_BITS, QuantScheme

LEAST_TAU, MOST_POINTS = 0.95, 0.015
_SPEED_PROBLEMS, _SPEED_ROUNDS = 12, 9


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    torch.set_num_threads(arguments.threads)
    groups = [group for group in read_splits(arguments.groups)["validation"] if is_mixed(group)]
    exact = Engine.from_pretrained(arguments.model, device="cpu", dtype="float32")
    checkpoint, backend = open_checkpoint(arguments.model), select_backend("cpu", "cpu")
    started = time.perf_counter()
    choice = quantize.choose_quantized(checkpoint, backend)
    report_progress(f"int8 was chosen for {len(choice.linears)} maps in {time.perf_counter() - started:.0f} s")
    names = list_linear_names(checkpoint.config.num_layers)
    scorers = {
        "by the rule": _open_with_int8(arguments.model, choice.linears),
        "every map, activations of 8 bits": _open_with_int8(arguments.model, select_every_linear(checkpoint, 8)),
        "the same, not rotated": _open_with_int8(
            arguments.model, dict.fromkeys(names, QuantScheme(8, has_hadamard=False))
        ),
        "every map, activations of 16 bits": _open_with_int8(arguments.model, select_every_linear(checkpoint, 16)),
    }
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in scorers}
    deadline = time.monotonic() + 60 * arguments.minutes
    for group in groups:
        truth = _score_group(exact, group)
        for name, engine in scorers.items():
            figures[name].append(_measure_problem(_score_group(engine, group), truth, group))
        report_progress(
            f"{group.task_id}: " + ", ".join(f"{name} {rows[-1]['tau']:.3f}" for name, rows in figures.items())
        )
        if time.monotonic() > deadline:
            break
    summary = {name: _summarize(rows) for name, rows in figures.items()}
    speed = _measure_speed(arguments.model, choice.linears, groups)
    print(f"int8 by the rule is {speed:.2f} times as fast as bfloat16")
    ours = summary["by the rule"]
    low, high = ours["best_of_n_interval"]
    holds = ours["tau"] >= LEAST_TAU and abs(ours["best_of_n_difference"]) <= MOST_POINTS and low <= 0 <= high
    count = len(figures["by the rule"])
    print(f"int8 beside float32, {count} of {len(groups)} mixed validation problems")
    print(_format_table(summary))
    fused = {kind: [f for f in choice.changes if f[0].endswith(ending)] for ending, kind in _KINDS.items()}
    by_kind = {
        bits: {
            kind: quantize.sum_in_quadrature(choice.changes, dict.fromkeys(maps, bits)) for kind, maps in fused.items()
        }
        for bits in ACTIVATION_BITS
    }
    for bits, sizes in by_kind.items():
        listed = ", ".join(f"{kind} {size:.3f}" for kind, size in sizes.items())
        print(f"where it comes from, over the standard deviation, with activations of {bits} bits: {listed}")
    print(
        f"int8 by the rule: {choice.count(8)} of {len(choice.changes)} fused linear layers with activations of 8 bits, "
        f"{choice.count(16)} of 16; the others: {choice.kept}"
    )
    print("PASS" if holds else "FAIL")
    if arguments.save:
        values = {
            **describe_environment("auto"),
            "groups": arguments.groups.name,
            "num_problems": count,
            "num_mixed_problems": len(groups),
            "limit": quantize.LIMIT,
            "quantized_linears": len(choice.linears),
            "linears": len(names),
            "fused_maps_by_activation_bits": {bits: choice.count(bits) for bits in ACTIVATION_BITS},
            "expected_change": choice.change,
            "change_by_kind": by_kind,
            "change_by_map": {", ".join(fused): change for fused, change in choice.changes.items()},
            "bits_by_map": {", ".join(f): choice.linears[f[0]].bits for f in choice.changes if f[0] in choice.linears},
            "kept": [", ".join(fused) for fused in choice.kept],
            "speed_beside_bfloat16": speed,
            "summary": summary,
            "problems": figures,
            "holds": holds,
        }
        path = RESULTS / f"fidelity_{arguments.save}.json"
        path.write_text(json.dumps(values, indent=1) + "\n")
        report_progress(f"wrote {path}")
    return 0 if holds else 1


_KINDS = {"q_proj": "qkv", "o_proj": "o", "gate_proj": "gate_up", "down_proj": "down"}


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches fidelity", description=__doc__.partition("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder of a reward model that is not quantised")
    parser.add_argument("groups", type=Path, help="JSON lines of labelled programs with a field split; .gz too")
    parser.add_argument("--threads", type=parse_count, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no problem after so many")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/fidelity_NAME.json")
    return parser


def _open_with_int8(model: Path, linears: Mapping[str, QuantScheme], **options: Any) -> Engine:
    """The model with these linear layers in int8, the others in float32 unless the engine's `options` say more."""
    with tempfile.TemporaryDirectory(prefix="codescaler-fidelity-") as folder:
        save_quantized(open_checkpoint(model), linears, Path(folder))
        engine = Engine.from_pretrained(folder, **{"device": "cpu", "dtype": "float32", **options})
        engine.score([("a", "b")])  # tokenizer and template are read on first use
    return engine


def _measure_speed(model: Path, linears: Mapping[str, QuantScheme], groups: Sequence[Group]) -> float:
    """The median of what bfloat16 takes over what int8 takes, for the programs of some problems, in turn."""
    options = {"device": "cpu", "dtype": "bfloat16", "prefix_memory_bytes": 0}  # nothing is kept from round to round
    engines = [Engine.from_pretrained(model, **options), _open_with_int8(model, linears, **options)]
    ratios = []
    for _ in range(_SPEED_ROUNDS + 1):
        exact, rounded = (
            measure_seconds(partial(_score_groups, engine, groups[:_SPEED_PROBLEMS]), torch.device("cpu"))
            for engine in engines
        )
        ratios.append(exact / rounded)
    return float(np.median(ratios[1:]))  # the first round prepares


def _score_groups(engine: Engine, groups: Sequence[Group]) -> None:
    for group in groups:
        _score_group(engine, group)


def _score_group(engine: Engine, group: Group) -> np.ndarray:
    return engine.score([(group.prompt, c.code) for c in group.candidates if c.code is not None])


def _measure_problem(scores: np.ndarray, truth: np.ndarray, group: Group) -> dict[str, float]:
    """One problem's figures; distinct programs only, but for best-of-N, which draws from all."""
    codes = [c.code for c in group.candidates if c.code is not None]
    right = [bool(c.passed) for c in group.candidates if c.code is not None]
    distinct = [codes.index(code) for code in dict.fromkeys(codes)]
    s, t = scores[distinct], truth[distinct]
    error = s - t
    return {
        "tau": kendall_tau(s, t),
        "rmse_over_spread": float(np.std(error) / np.std(t)),
        "same_best": float(np.argmax(s) == np.argmax(t)),
        "best_of_n_difference": best_of_n(scores, right, len(codes)) - best_of_n(truth, right, len(codes)),
    }


def _summarize(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    means = {name: float(np.mean(values)) for name, values in columns.items()}
    means["rmse_over_spread"] = float(np.sqrt(np.square(columns["rmse_over_spread"]).mean()))
    return {
        **means,
        "tau_interval": bootstrap_interval(columns["tau"]),
        "best_of_n_interval": bootstrap_interval(columns["best_of_n_difference"]),
    }


def _format_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    header = ("int8 are", "mean tau", "95% interval", "RMSE / std", "same best", "best of N", "95% interval")
    rows = [
        (
            name,
            f"{row['tau']:.4f}",
            "[{:.3f}, {:.3f}]".format(*row["tau_interval"]),
            f"{row['rmse_over_spread']:.3f}",
            f"{row['same_best']:.0%}",
            f"{100 * row['best_of_n_difference']:+.1f}",
            "[{:+.1f}, {:+.1f}]".format(*(100 * bound for bound in row["best_of_n_interval"])),
        )
        for name, row in summary.items()
    ]
    return format_table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
