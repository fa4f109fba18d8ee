"""Measures everything that speed on a CPU is judged by, and prints one table: `python benches cpu` (make bench-cpu).

Runs the operations (benches/speed/test_ops.py), the named workloads beside transformers and, with --vllm, beside vLLM
(benches/speed/compare.py, bon8 with int8 too), start-up and memory, threads, fusions and the plot of scaling, each in a
process of its own, which saves its figures in benches/results/. The targets were set for 2 threads and bfloat16 on a
CPU with a unit for it, a Zen 5, where transformers' padded batch takes 11 times the ideal time; elsewhere that may be
less than what must be reached. Exit status 1 if a measurement finds wrong scores; a target that is missed is only
shown.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benches.harness.options import SHAPES, make_parser
from benches.harness.results import RESULTS
from benches.harness.systems import INT8, OURS, PADDED, SORTED, VLLM
from benches.speed.startup import TRANSFORMERS
from codescaler.commands.info import describe_environment
from codescaler.io.tables import format_table

ROOT = Path(__file__).parents[2]
WORKLOADS = ("bon8", "bon16", "pairs")
WITH_INT8 = ("bon8",)
OPERATIONS = "operations"

# What is held against what in a workload: a system of ours, the peer, how many times as fast it must be, and the aim.
PEERS = (
    ("bon8", OURS, PADDED, "9x", "11x"),
    ("bon8", OURS, VLLM, "1.1x", "1.25x"),
    ("bon8", INT8, PADDED, "14x", "16x"),
    ("bon8", INT8, VLLM, "1.7x", "1.95x"),
    ("bon16", OURS, PADDED, "11x", "14x"),
    ("bon16", OURS, VLLM, "1.1x", "1.25x"),
    ("pairs", OURS, PADDED, "4x", ""),
    ("pairs", OURS, SORTED, "2.5x", ""),
    ("pairs", OURS, VLLM, "1.05x", ""),
)
SHARES = ((OURS, "85%", "92%"), (INT8, "72%", "82%"))  # of the ideal time in the time
MISSING = "-"
OTHER_SHAPE = "bon8, the other shape"

Line = tuple[str, str, str, str]  # figure, must reach, aim, measured


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    parser = make_parser("cpu", "Measures everything that speed on a CPU is judged by, and prints one table.")
    parser.add_argument("--vllm", type=Path, help="interpreter of an environment that has vLLM")
    parser.add_argument("--table-only", action="store_true", help="show what benches/results/ holds, measure nothing")
    arguments = parser.parse_args(options)
    failed = [] if arguments.table_only else _measure(arguments)
    figures = load(RESULTS, arguments.shape, arguments.dtype)
    print(f"\nQwen3-{arguments.shape.upper()} shapes, {arguments.dtype}, {arguments.threads} threads; -: not measured")
    print(format_table(("figure", "must reach", "aim", "measured"), format_lines(figures)))
    if failed:
        print(f"FAIL: {', '.join(failed)}")
    return 1 if failed else 0


def _measure(arguments: argparse.Namespace) -> list[str]:
    """Runs every part; returns those that failed."""
    common = ["--dtype", arguments.dtype, "--threads", str(arguments.threads), "--save"]
    rounds = ["--rounds", str(arguments.rounds)]
    layers = [] if arguments.layers is None else ["--layers", str(arguments.layers)]
    vllm = [] if arguments.vllm is None else ["--vllm", str(arguments.vllm)]
    shape = ["--shape", arguments.shape]
    int8 = {workload: ["--quantization", "int8"] for workload in WITH_INT8}
    parts = [
        *(["compare", name, *shape, *layers, *rounds, *vllm, *int8.get(name, [])] for name in WORKLOADS),
        ["compare", "bon8", "--shape", _choose_other(arguments.shape), *layers, *rounds, *vllm, *int8["bon8"]],
        ["startup", *shape, *rounds, *vllm],  # of all layers: it is about reading them
        ["threads", *shape, *layers, *rounds],
        ["fusions", *shape, *layers, *rounds],
        ["scaling", *shape, *rounds],
    ]
    commands = {" ".join(part[:4]): [sys.executable, "benches", *part, *common] for part in parts}
    failed = [name for name, command in commands.items() if subprocess.run(command, cwd=ROOT).returncode]
    return failed + _measure_operations(arguments)


def _measure_operations(arguments: argparse.Namespace) -> list[str]:
    """Runs benches/speed/test_ops.py in one dtype and keeps the figures of our own operations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        selection = ["benches/speed/test_ops.py", "--benchmark-only", "-q", "-k", arguments.dtype]
        command = [sys.executable, "-P", "-m", "pytest", *selection, f"--benchmark-json={path}"]
        if subprocess.run(command, cwd=ROOT).returncode:
            return [OPERATIONS]
        measured = json.loads(path.read_text())["benchmarks"]
    kept = [
        {"name": bench["name"].removeprefix("test_"), "median_s": bench["stats"]["median"], **bench["extra_info"]}
        for bench in measured
        if bench["params"]["backend"] != "torch"
    ]
    name = f"{OPERATIONS}_{arguments.shape}_{arguments.dtype}.json"
    values = {**describe_environment("auto"), "operations": kept}
    (RESULTS / name).write_text(json.dumps(values, indent=2) + "\n")
    return []


def load(folder: Path, shape: str, dtype: str) -> dict[str, Any]:
    """Returns the figures that a folder of results holds, by name; those that are not there are empty."""
    paths = {name: folder / f"{name}_{shape}_{dtype}.json" for name in (OPERATIONS, "startup", "threads", "fusions")}
    files = {name: f"compare_{name}{'_int8' if name in WITH_INT8 else ''}" for name in WORKLOADS}
    paths |= {f"compare_{name}": folder / f"{file}_{shape}_{dtype}.json" for name, file in files.items()}
    paths["other shape"] = folder / f"{files['bon8']}_{_choose_other(shape)}_{dtype}.json"
    return {name: json.loads(path.read_text()) if path.exists() else {} for name, path in paths.items()}


def format_lines(figures: dict[str, Any]) -> Iterator[Line]:
    """Yields the lines of the table: targets beside what was measured."""
    titles = {f"compare_{workload}": workload for workload in WORKLOADS} | {"other shape": OTHER_SHAPE}
    compared = {title: _index_systems(figures[name]) for name, title in titles.items()}
    # Not all of the model's layers may have been run: see --layers.
    layers = {title: figures[name]["shape"]["num_layers"] for name, title in titles.items() if figures[name]}
    shown = {title: f"{title} ({layers[title]} layers)" if title in layers else title for title in titles.values()}
    suffix = {OURS: "", INT8: ", int8"}
    for workload, ours, peer, must, aim in PEERS:
        figure = f"{shown[workload]}{suffix[ours]}: times as fast as {peer}"
        yield figure, must, aim, _format_speedup(compared[workload], ours, peer)
    for ours, peer in ((ours, peer) for ours in suffix for peer in (PADDED, VLLM)):
        must = _format_speedup(compared["bon8"], ours, peer)
        figure = f"{shown[OTHER_SHAPE]}{suffix[ours]}: times as fast as {peer}"
        yield figure, must, "", _format_speedup(compared[OTHER_SHAPE], ours, peer)
    for title, systems in compared.items():
        for ours, must, aim in SHARES:
            if ours == OURS or title.startswith(WITH_INT8):
                share = f"{systems[ours]['mfu']:.0%}" if ours in systems else MISSING
                yield f"{shown[title]}{suffix[ours]}: ideal time / time", must, aim, share
        most = systems[PADDED]["mfu"] if systems else None
        yield f"{shown[title]}: ideal time, times as fast as {PADDED}", "", "", f"{1 / most:.2f}x" if most else MISSING
    operations = {bench["name"]: bench for bench in figures[OPERATIONS].get("operations", [])}
    attention = next((bench for name, bench in operations.items() if name.startswith("tree_attention")), None)
    speed = f"{attention['gflops_per_s']:.0f}" if attention else MISSING
    yield "tree attention on bon8's tree, GFLOP/s", "450", "600", speed
    start = figures["startup"].get("median_s", {})
    yield "start to first score, seconds", "", "2.5", f"{start[OURS]:.2f}" if start else MISSING
    for peer, must in ((TRANSFORMERS, "1x"), (VLLM, "8x")):
        measured = f"{start[peer] / start[OURS]:.1f}x" if peer in start else MISSING
        yield f"start to first score: times as fast as {peer}", must, "", measured
    memory = figures["startup"].get("memory")
    if memory:
        limit = 1.15 * memory["weight_bytes"] + memory["activation_bytes"]
        grown = memory["peak_bytes"] - memory["after_import_torch_bytes"]
        yield "memory of weights and one budget, MB", f"{limit / 1e6:.0f}", "", f"{grown / 1e6:.0f}"
    speedup = figures["threads"].get("speedup", {}).get("2")
    yield "2 threads: times as fast as 1", "1.8x", "1.95x", f"{speedup:.2f}x" if speedup else MISSING
    for name, ratio in figures["fusions"].get("time_of_fused", {}).items():
        yield f"time without the fusion, {name}", "", "", f"{ratio:.3f}"
    for name, bench in operations.items():
        for peak in ("matmul", "copy"):
            if f"share_of_{peak}_peak" in bench:
                yield f"{name}: fraction of peak, {peak}", "", "", f"{bench[f'share_of_{peak}_peak']:.0%}"


def _choose_other(shape: str) -> str:
    return next(other for other in SHAPES if other != shape)


def _index_systems(compared: dict[str, Any]) -> dict[str, Any]:
    return {system["system"]: system for system in compared.get("systems", [])}


def _format_speedup(systems: dict[str, Any], ours: str, peer: str) -> str:
    return f"{systems[peer]['median_s'] / systems[ours]['median_s']:.2f}x" if {ours, peer} <= set(systems) else MISSING


if __name__ == "__main__":
    sys.exit(main())
