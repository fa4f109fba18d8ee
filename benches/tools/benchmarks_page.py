"""Writes docs/benchmarks.md and its pictures from benches/results/: `python benches benchmarks_page`.

A test fails if the page or a picture differs from what the results give. To change a figure, measure it again.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benches.speed.serving_table import Line, list_lines
from benches.tools import page_tables
from benches.tools.install_vllm import WHEEL
from benches.tools.page_gpu import write_gpus
from benches.tools.page_quality import write_quality
from benches.tools.page_ranking import write_ranking
from benches.tools.page_tables import describe_setting, format_percent, format_table, load_result, read_results
from benches.tools.page_verdicts import write_verdicts
from benches.tools.speed_picture import draw_serving, draw_speed

ROOT = Path(__file__).parents[2]
PAGE, PICTURE, SERVING_PICTURE = (ROOT / "docs" / name for name in ("benchmarks.md", "speed.svg", "serving.svg"))
SERVED_SHAPES = ("30m", "0.6b")
OURS, INT8 = "codescaler", "codescaler, int8"
PADDED, SORTED, VLLM = "transformers, one padded batch", "transformers, sorted, by fours", "vLLM"
WORKLOADS = {
    "bon8": "8 programs of 125 to 548 tokens for one problem of 512 tokens",
    "bon16": "16 programs of one problem",
    "pairs": "16 unrelated sequences",
}
_WORKLOAD_HEADER = (
    *("system", "seconds", "tokens computed", "speed", "of peak", "RMS to float32"),
    *("largest difference to codescaler", "correlation with codescaler"),
)
HEADER = """# Benchmarks

<!-- Made by `python benches benchmarks_page`. Do not edit this page: measure again, and run the command. -->

Every table comes from a JSON file in [benches/results](../benches/results). The heading of a table names its command.

- **ideal time**: the time that the matrix products of the distinct tokens take at the peak FLOP/s of the CPU.
  The same run measures that peak.
- **of peak**: the ideal time divided by the measured time.
- **speed**: how many times as fast a system is as the padded batch of transformers.
- **limit**: the speed that the ideal time would have. No system can exceed the limit by much.
- **[a, b]**: a 95% bootstrap interval over problems.

Weights are random where a table speaks of speed alone. The systems of one table ran in turns, with fresh tokens.
"""


def main(options: Sequence[str] | None = None) -> int:
    """Writes the files, or with --check says whether they are up to date."""
    parser = argparse.ArgumentParser(prog="benchmarks_page", description="Writes docs/benchmarks.md and its pictures.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is not up to date")
    arguments = parser.parse_args(options)
    made = {
        PAGE: build_page(),
        PICTURE: draw_speed(load_result("compare_bon8_0.6b_bfloat16")),
        SERVING_PICTURE: draw_serving([load_result(f"serving_{name}_bfloat16") for name in SERVED_SHAPES]),
    }
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is not up to date' if arguments.check else 'written'}")
        if not arguments.check:
            path.write_text(made[path], encoding="utf-8")
    return 1 if stale and arguments.check else 0


def build_page() -> str:
    """Returns the whole page; fails if a file of results stands in no section."""
    read_results.clear()
    sections = [HEADER, *_write_speed(), *write_quality(), *write_verdicts(), *write_ranking()]
    unused = {path.stem for path in page_tables.RESULTS.glob("*.json")} - read_results
    if unused:
        raise SystemExit(f"no section shows {', '.join(sorted(unused))}; add one, or remove the file")
    return "\n".join(sections)


def _write_speed() -> Iterator[str]:
    yield "## Scoring on a CPU with bfloat16\n"
    yield (
        f"`make bench-peers`, or `make bench-cpu OPTIONS='--layers 14'`. Times are medians of 3 rounds. vLLM is the "
        f"CPU build `{WHEEL}`, with prefix caching. `make compare` is a short run beside transformers.\n"
    )
    yield "![Seconds of codescaler, vLLM and transformers](speed.svg)\n"
    names = ("bon8_0.6b", "bon8_int8_0.6b", "bon16_0.6b", "pairs_0.6b", "bon8_int8_1.7b")
    compared = [load_result(f"compare_{name}_bfloat16") for name in names]
    yield _write_workload(compared[0])
    yield "The picture shows the table above. The runs below are others: a busy machine has a lower peak.\n"
    yield _summarize(compared[1:])
    yield (
        "int8 is here every linear layer with activations of 8 bits, because random weights do not mind. Its ideal "
        "time takes linear layers at the peak of 8-bit integers, and attention at the peak of bfloat16. "
        "What real weights allow is in [rankings in int8](#rankings-in-int8).\n"
    )
    yield from (_write_workload(result) for result in compared[1:])
    yield "## Scoring on a CPU without bfloat16\n"
    names = ("bon8", "bon8_int8", "bon16", "pairs")
    compared = [load_result(f"compare_{name}_0.6b_float32") for name in names]
    yield (
        "The int8 row comes from an earlier kernel, with activations of 16 bits. With few layers a share can be above "
        "100%, because the peak was measured at another moment.\n"
    )
    yield _summarize(compared)
    yield from (_write_workload(result) for result in compared)
    yield from _write_serving()
    for write in (_write_experts, _write_startup, _write_threads, _write_fusions, _write_scaling, _write_operations):
        yield from write()
    yield from _write_training_speed()
    yield from write_gpus()


def _get_systems(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {system["system"]: system for system in result["systems"]}


def _summarize(compared: Iterable[Mapping[str, Any]]) -> str:
    """One row for each workload and each of our systems, with the speed beside each peer."""
    rows = []
    for result in compared:
        systems = _get_systems(result)
        for name in (OURS, INT8):
            if name not in systems:
                continue
            ours = systems[name]
            limit = ours["speedup"] / ours["mfu"]
            faster = [
                f"{systems[peer]['median_s'] / ours['median_s']:.2f}x" if peer in systems else ""
                for peer in (SORTED, VLLM)
            ]
            title = f"`{result['workload']}`, {result['shape']['name']} shapes, {result['shape']['num_layers']} layers"
            kind = f"{title}, int8" if name == INT8 else title
            rows.append([kind, format_percent(ours["mfu"]), f"{ours['speedup']:.1f}x", f"{limit:.1f}x", *faster])
    return format_table(
        ["workload", "of peak", "speed", "limit", "beside transformers, sorted by fours", "beside vLLM"], rows
    )


def _write_workload(result: Mapping[str, Any]) -> str:
    shape, workload = result["shape"], result["workload"]
    rows = [
        [
            system["system"],
            f"{system['median_s']:.2f}",
            system["num_computed_tokens"] or "",
            f"{system['speedup']:.1f}x",
            format_percent(system["mfu"]),
            "" if system["float32_rms"] is None else f"{system['float32_rms']:.4f}",
            "" if system["max_difference"] is None else f"{system['max_difference']:.1g}",
            "" if system["correlation"] is None else f"{system['correlation']:.4f}",
        ]
        for system in result["systems"]
    ]
    int8 = ", int8" if INT8 in _get_systems(result) else ""
    options = f"--shape {shape['name']} --layers {shape['num_layers']}{' --quantization int8' if int8 else ''}"
    return "\n".join(
        [
            f"### {workload}{int8}, {shape['name']} shapes, {result['dtype']}, {shape['num_layers']} layers\n",
            f"`python benches compare {workload} {options}`: {WORKLOADS[workload]}. "
            f"The peak is {result['matmul_peak_flops'] / 1e9:.0f} GFLOP/s. {describe_setting(result)}\n",
            format_table(_WORKLOAD_HEADER, rows),
        ]
    )


def _write_experts() -> Iterator[str]:
    yield "## Scoring a mixture of experts on a CPU\n"
    result = load_result("compare_bon8_30b-a3b_bfloat16")
    yield (
        "Widths, experts and router are those of Qwen3-30B-A3B. transformers computes its experts by `grouped_mm`, the "
        "fastest of its ways here. A random router has near ties, and in bfloat16 it sends some tokens to other "
        "experts. So all systems are further from float32 than with dense layers.\n"
    )
    yield _write_workload(result)


def _write_serving() -> Iterator[str]:
    yield "## Serving\n"
    results = [load_result(f"serving_{name}_bfloat16") for name in SERVED_SHAPES]
    first = results[0]
    yield (
        f"`make bench-serving`: {first['num_rows']} rows, 8 programs a problem, shuffled. Each row is one POST on a "
        f"new connection, {first['num_connections']} at a time, with fresh texts in each round. OpenRLHF's server "
        f"gets an eighth of the rows, so its p50 and p99 are of a shorter queue. The systems take turns. "
        f"The models have 8 layers, of width 512 (30M) and of the width of 0.6B. {describe_setting(first)}\n"
    )
    yield "![Rows a second and memory of the servers](serving.svg)\n"
    tables = [list(list_lines(result)) for result in results]
    yield format_table(
        ["figure", "must reach", "aim", *(f"measured, {name.upper()}" for name in SERVED_SHAPES)],
        [
            (lines[0].figure, lines[0].must, lines[0].aim, *(_format_measured(line) for line in lines))
            for lines in zip(*tables, strict=True)
        ],
    )
    yield (
        "All systems compute with matrix products of oneDNN, and vLLM has a memory of prefixes too. On this slow "
        "CPU 71% of the time of a call is in these products. So a server without any other cost would be 1.4 times as "
        "fast, and not 1.5. The memory of codescaler serve grows with its rounds until the 256 MB for prefixes are "
        "full: two rounds at 30M, three at 0.6B.\n"
    )
    faults = load_result("serving_faults_30m_bfloat16")
    yield (
        "`python benches serving_faults --shape 30m`, 2 layers. A client of single rows waits "
        f"{faults['p99_ms_alone']:.0f} ms (p99) alone and {faults['p99_ms_beside_a_flood']:.0f} ms beside a client "
        f"that keeps 64 rows on their way: {faults['p99_ratio']:.1f} times as long, 3 is allowed. Of "
        f"{faults['connections']} connections in one moment, {faults['connections_without_a_score']} got no score. "
        f"After the first tenth of {faults['requests']} requests, memory grew by "
        f"{max(0, faults['memory_growth_bytes']) / 1e6:.0f} MB. Of {faults['rewards']} rewards that trainers asked for "
        f"while the server was killed, ended and started, {faults['rewards_lost']} were lost.\n"
    )


def _format_measured(line: Line) -> str:
    return line.measured or ("yes" if line.passes else "no")


def _write_startup() -> Iterator[str]:
    yield "## Start-up and memory\n"
    yield "`python benches startup`: from the start of the process to the first score, with all 28 layers.\n"
    results = [load_result(f"startup_0.6b_{dtype}") for dtype in ("bfloat16", "float32")]
    rows = []
    for result in results:
        memory, seconds = result["memory"], result["median_s"]
        grown = memory["peak_bytes"] - memory["after_import_torch_bytes"]
        times = [f"{seconds[name]:.1f}" for name in (OURS, "transformers", "vLLM")]
        rows.append([result["dtype"], *times, f"{grown / 1e9:.2f}", f"{memory['weight_bytes'] / 1e9:.2f}"])
    head = ["dtype", "codescaler, s", "transformers, s", "vLLM, s", "memory, GB", "weights, GB"]
    yield format_table(head, rows)
    yield "Memory is the peak beyond `import torch`, with a budget of 8192 tokens. The embedding stays in the file.\n"


def _write_threads() -> Iterator[str]:
    yield "## Threads\n"
    yield "`python benches threads`: `bon8` on one and two threads. The scores have the same bits.\n"
    results = [load_result(f"threads_0.6b_{dtype}") for dtype in ("bfloat16", "float32")]
    yield format_table(
        ["dtype", "speed of 2 threads", "speed of the matrix product", "numbers of threads that change bits"],
        [
            [
                result["dtype"],
                f"{result['speedup']['2']:.2f}x",
                f"{result['matmul_speedup']['2']:.2f}x",
                len(result["numbers_of_threads_that_change_bits"]),
            ]
            for result in results
        ],
    )


def _write_fusions() -> Iterator[str]:
    yield "## Fusions\n"
    yield "`python benches fusions`: the time of a forward with one fusion undone, over the time with all fusions.\n"
    results = [load_result(f"fusions_0.6b_{dtype}") for dtype in ("bfloat16", "float32")]
    names = [name for name in results[0]["time_of_fused"] if name != "fused"]
    head = ["undone", *(f"{result['dtype']}, {result['shape']['num_layers']} layers" for result in results)]
    yield format_table(head, [[name, *(f"{r['time_of_fused'][name]:.2f}x" for r in results)] for name in names])


def _write_scaling() -> Iterator[str]:
    yield "## Sharing a prefix\n"
    yield (
        "`python benches scaling`: N programs of R tokens for one problem of P tokens. "
        "The gain is the time of N single calls over the time of one call. The ideal gain is N(P+R)/(P+NR).\n"
    )
    for dtype in ("bfloat16", "float32"):
        result = load_result(f"scaling_0.6b_{dtype}")
        points = [point for curve in result["curves"].values() for point in curve]
        yield f"{dtype} ([plot](../benches/results/scaling_0.6b_{dtype}.png)):\n"
        yield format_table(
            ["N", "P", "R", "one call, s", "gain", "ideal gain"],
            [
                [p["N"], p["P"], p["R"], f"{p['together_s']:.2f}", f"{p['gain']:.1f}x", f"{p['ideal_gain']:.1f}x"]
                for p in points
            ],
        )


def _write_operations() -> Iterator[str]:
    yield "## Operations\n"
    yield "`make bench-cpu`, from [test_ops.py](../benches/speed/test_ops.py). Attention counts visible pairs only.\n"
    for dtype in ("bfloat16", "float32"):
        result = load_result(f"operations_0.6b_{dtype}")
        yield f"{describe_setting(result)}\n"
        rows = []
        for bench in result["operations"]:
            of_matmul, of_copy = bench.get("share_of_matmul_peak"), bench.get("share_of_copy_peak")
            speed = bench.get("gflops_per_s")
            rows.append(
                [
                    f"`{bench['name']}`",
                    f"{bench['median_s'] * 1e3:.2f}",
                    "" if speed is None else f"{speed:.0f}",
                    "" if of_matmul is None else format_percent(of_matmul),
                    "" if of_copy is None else format_percent(of_copy),
                ]
            )
        yield format_table(["operation", "ms", "GFLOP/s", "of peak FLOP/s", "of copy bandwidth"], rows)


def _write_training_speed() -> Iterator[str]:
    yield "## Training speed\n"
    for name in ("train_speed_smollm2_135m", "train_speed_smollm2_135m_bfloat16"):
        yield from _write_steps(load_result(name))
    memory = load_result("train_memory_smollm2_135m")
    ours, theirs = memory["ours_mib"] / 1024, memory["trl_mib"] / 1024
    yield (
        f"`{memory['command']}`: the peak memory of a step of 8 pairs is {ours:.1f} GiB, and {theirs:.1f} GiB with "
        f"TRL. The ratio is {ours / theirs:.2f}.\n"
    )


def _write_steps(result: Mapping[str, Any]) -> Iterator[str]:
    agreement = result["agreement"]
    yield (
        f"`{result['command']}`: a step on SmolLM2-135M beside `RewardTrainer` of TRL {result['versions']['trl']}. "
        f"Both train all weights, with products in {result['dtype']}. TRL runs without gradient checkpointing, with 8 "
        f"pairs a step. In float32 the losses differ by {agreement['loss_difference']:.0e}, and the gradients by "
        f"{agreement['gradient_difference']:.0e} of the largest value of a tensor. {describe_setting(result)}\n"
    )
    titles = {
        "pairs": "one correct and one incorrect program a problem",
        "groups": "up to 10 programs a problem, every pair of a correct and an incorrect one",
    }
    yield format_table(
        ["data", "pairs/s", "TRL, pairs/s", "speed", "tokens a pair", "TRL, tokens a pair", "of peak FLOP/s"],
        [
            [
                title,
                f"{figures['ours_pairs_per_second']:.2f}",
                f"{figures['trl_pairs_per_second']:.2f}",
                f"{figures['ratio']:.1f}x",
                f"{figures['ours_tokens_per_pair']:.0f}",
                f"{figures['trl_tokens_per_pair']:.0f}",
                format_percent(figures["ours_mfu"]),
            ]
            for title, figures in ((title, result[name]["median"]) for name, title in titles.items())
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
