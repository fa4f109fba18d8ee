"""Times whole forwards on one thread and on more: `python benches threads`.

One engine scores a workload on each number of threads in turn. Beside it stands how matrix multiply itself scales,
since cores that share power or caches give no more. Exit status 1 if a score has other bits on another number of
threads.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benches.harness.options import choose_shape, make_parser, parse_count, report_progress
from benches.harness.results import save
from codescaler.engine import Engine
from codescaler.io.tables import format_table
from codescaler.testing import WORKLOADS, measure_peak_flops, measure_seconds, write_random_rm

CPU = torch.device("cpu")


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    shape, dtype = choose_shape(arguments), getattr(torch, arguments.dtype)
    counts = sorted({1, *arguments.counts})
    with tempfile.TemporaryDirectory(prefix="codescaler-threads-") as folder:
        write_random_rm(Path(folder), shape)
        engine = Engine.from_pretrained(folder, device="cpu", dtype=arguments.dtype)
        workload = WORKLOADS[arguments.workload]
        seconds, peaks, differing = _take_turns(engine, workload, counts, arguments.rounds, dtype)
    speedups = {count: statistics.median(map(float.__truediv__, seconds[1], seconds[count])) for count in counts}
    products = {count: max(peaks[count]) / max(peaks[1]) for count in counts}
    print(f"{arguments.workload}, {shape.num_layers} layers, {arguments.dtype}; medians of {arguments.rounds} rounds")
    rows = [
        (str(n), f"{statistics.median(seconds[n]):.2f}", f"{speedups[n]:.2f}x", f"{products[n]:.2f}x") for n in counts
    ]
    print(format_table(("threads", "seconds", "forward", "matrix multiply"), rows))
    print(f"{'FAIL' if differing else 'PASS'}: bits that differ from those of one thread: {differing or 'none'}")
    if arguments.save:
        values = {
            "workload": arguments.workload,
            "seconds": seconds,
            "speedup": speedups,
            "matmul_peak_flops": peaks,
            "matmul_speedup": products,
            "numbers_of_threads_that_change_bits": differing,
        }
        save("threads", arguments, shape, CPU, values)
    return 1 if differing else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser("threads", "Times whole forwards on one thread and on more.")
    parser.add_argument("--workload", choices=WORKLOADS, default="bon8", help="named batch of token lists")
    parser.add_argument("--counts", type=parse_count, nargs="+", default=[1, 2], help="numbers of threads")
    return parser


def _take_turns(engine, workload, counts, rounds, dtype):
    """Seconds and peak FLOP/s of each round, by number of threads, and the numbers that change bits."""
    seconds, peaks = ({count: [] for count in counts} for _ in range(2))
    differing = set()
    before = torch.get_num_threads()
    for number in range(rounds + 1):
        sequences, scores = workload.draw_sequences(seed=number), {}
        for count in counts:
            torch.set_num_threads(count)
            engine.scheduler.num_threads = count
            peaks[count].append(measure_peak_flops(dtype, CPU))
            took = measure_seconds(lambda: scores.update({count: engine.score_tokens(sequences).tobytes()}), CPU)  # noqa: B023
            report_progress(f"round {number} of {rounds}: {count} threads: {took:.2f} s" + " (warm-up)" * (not number))
            seconds[count] += [took] if number else []
        differing |= {count for count in counts if scores[count] != scores[1]}
    torch.set_num_threads(before)
    return seconds, peaks, sorted(differing)


if __name__ == "__main__":
    sys.exit(main())
